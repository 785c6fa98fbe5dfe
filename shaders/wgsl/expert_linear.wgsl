// Row q = r * top_k + j uses expert idx[q]: y[q][i] = dot(x[q or r], W[idx[q]][i]); with
// SECOND silu of that times dot(.., V[idx[q]][i]). Rows whose expert is not in the table
// are left alone. Grid: x and y over outputs, z over choices.

#import params
#import x
@group(0) @binding(auto) var<storage, read_write> idx: array<u32>;
#import weight as w
#ifdef SECOND
#import weight as v
#endif
@group(0) @binding(auto) var<storage, read_write> y: array<f32>;

#import lanes
#import dots as w
#import table as w
#ifdef SECOND
#import dots as v
#import table as v
#import activate
#endif

var<workgroup> chosen: u32;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
#import lane_arguments
) {
    let q = group.z;
    let first = (group.x + group.y * groups.x) * outputs_a_group();
    if q >= real_rows() || first >= p.n {
        return;
    }
    if local == 0u {
        chosen = idx[q];
    }
    // Unsigned: an expert before the table becomes huge.
    let entry = workgroupUniformLoad(&chosen) - p.expert_first;
    if entry >= p.expert_count {
        return;
    }
#import lane_layout
    let row = select(q, q / p.top_k, (p.flags & ROW_PER_TOKEN) != 0u);
    let x_at = vec4<u32>(p.x_offset + row * p.x_stride);
    for (var o = 0u; o < outputs_a_group(); o += at_once) {
        let i = first + o + own;
        // Lanes without an output repeat the last one, since all must take part in the sums.
        let i_in = min(i, p.n - 1u);
        let w_at = w_entry(entry) + i_in * p.k;
        let w_share = w_dots(x_at, w_at, w_entry_scales(entry, i_in), lane, lanes);
        var sum = sum_lanes(w_share, local, lane).x;
#ifdef SECOND
        let v_at = v_entry(entry) + i_in * p.k;
        let v_share = v_dots(x_at, v_at, v_entry_scales(entry, i_in), lane, lanes);
        sum = silu(sum) * sum_lanes(v_share, local, lane).x;
#endif
        if lane == 0u && o + own < outputs_a_group() && i < p.n {
            y[p.y_offset + q * p.y_stride + i] = sum;
        }
    }
}
