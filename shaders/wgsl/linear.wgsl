// y[r][row_first + i] = dot(x[r], W[i]), with RESIDUAL plus the residual; with SECOND
// silu(dot(x[r], W[i])) * dot(x[r], V[i]).
// Grid: x and y over outputs, z over blocks of ROWS rows.

#import params
#import x
#import weight as w
#ifdef SECOND
#import weight as v
#endif
#ifdef RESIDUAL
@group(0) @binding(auto) var<storage, read_write> residual: array<f32>;
#endif
@group(0) @binding(auto) var<storage, read_write> y: array<f32>;

#import lanes
#import dots as w
#ifdef SECOND
#import dots as v
#import activate
#endif

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
#import lane_arguments
) {
    let rows = real_rows();
    let r0 = group.z * ROWS;
    let first = (group.x + group.y * groups.x) * outputs_a_group();
    if r0 >= rows || first >= p.row_count {
        return;
    }
#import lane_layout
    // Rows past the last one repeat it.
    let r = min(vec4<u32>(r0, r0 + 1u, r0 + 2u, r0 + 3u), vec4<u32>(rows - 1u));
    let x_at = vec4<u32>(p.x_offset) + r * p.x_stride;
    for (var o = 0u; o < outputs_a_group(); o += at_once) {
        let i = first + o + own;
        // So do lanes without an output, since all must take part in the sums.
        let i_in = min(i, p.row_count - 1u);
        let s_at = w_scale_start(p.row_first + i_in, p.k);
        var sums = sum_lanes(w_dots(x_at, i_in * p.k, s_at, lane, lanes), local, lane);
#ifdef SECOND
        let ups = sum_lanes(v_dots(x_at, i_in * p.k, s_at, lane, lanes), local, lane);
        sums = vec4<f32>(silu(sums.x), silu(sums.y), silu(sums.z), silu(sums.w)) * ups;
#endif
        if lane == 0u && o + own < outputs_a_group() && i < p.row_count {
            for (var j = 0u; j < ROWS && r0 + j < rows; j += 1u) {
                let column = p.row_first + i;
#ifdef RESIDUAL
                sums[j] += residual[p.b_offset + (r0 + j) * p.b_stride + column];
#endif
                y[p.y_offset + (r0 + j) * p.y_stride + column] = sums[j];
            }
        }
    }
}
