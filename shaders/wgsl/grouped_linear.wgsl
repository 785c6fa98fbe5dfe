// For each expert e of the table, rows offsets[e] .. offsets[e + 1]: y[q][i] =
// dot(x[q], W[e][i]); with SECOND silu of that times dot(x[q], V[e][i]).
// A workgroup walks over all rows of its expert, so the grid needs no count of them.
// Grid: x and y over outputs, z over experts.

#import params
#import x
@group(0) @binding(auto) var<storage, read_write> offsets: array<u32>;
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

// First row of the expert and of the next one.
var<workgroup> bounds: vec2<u32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
#import lane_arguments
) {
    let first = (group.x + group.y * groups.x) * outputs_a_group();
    if first >= p.n {
        return;
    }
    let entry = group.z;
    if local == 0u {
        let e = p.expert_first + entry;
        // No value of `offsets` leads outside the rows there are.
        bounds = min(vec2<u32>(offsets[e], offsets[e + 1u]), vec2<u32>(p.rows));
    }
    let rows = workgroupUniformLoad(&bounds);
#import lane_layout
    for (var r0 = rows.x; r0 < rows.y; r0 += ROWS) {
        let r = min(vec4<u32>(r0, r0 + 1u, r0 + 2u, r0 + 3u), vec4<u32>(rows.y - 1u));
        let x_at = vec4<u32>(p.x_offset) + r * p.x_stride;
        for (var o = 0u; o < outputs_a_group(); o += at_once) {
            let i = first + o + own;
            // Lanes without an output repeat the last one: all must take part in the sums.
            let i_in = min(i, p.n - 1u);
            let w_at = w_entry(entry) + i_in * p.k;
            let w_share = w_dots(x_at, w_at, w_entry_scales(entry, i_in), lane, lanes);
            var sums = sum_lanes(w_share, local, lane);
#ifdef SECOND
            let v_at = v_entry(entry) + i_in * p.k;
            let v_share = v_dots(x_at, v_at, v_entry_scales(entry, i_in), lane, lanes);
            let ups = sum_lanes(v_share, local, lane);
            sums = vec4<f32>(silu(sums.x), silu(sums.y), silu(sums.z), silu(sums.w)) * ups;
#endif
            if lane == 0u && o + own < outputs_a_group() && i < p.n {
                for (var j = 0u; j < ROWS && r0 + j < rows.y; j += 1u) {
                    y[p.y_offset + (r0 + j) * p.y_stride + i] = sums[j];
                }
            }
        }
    }
}
