// y[r][a][i] = dot(x[r][a], P[i]), P = W[a * head_rows + head_first ..], k = latent.
// Grid: x over outputs, y over heads, z over blocks of ROWS rows.

#import params
#import x
#import weight as w
@group(0) @binding(auto) var<storage, read_write> y: array<f32>;

#import lanes
#import dots as w

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
#import lane_arguments
) {
    let rows = real_rows();
    let r0 = group.z * ROWS;
    if r0 >= rows {
        return;
    }
#import lane_layout
    let a = group.y;
    let r = min(vec4<u32>(r0, r0 + 1u, r0 + 2u, r0 + 3u), vec4<u32>(rows - 1u));
    let x_at = vec4<u32>(p.x_offset + a * p.x_head_stride) + r * p.x_stride;
    for (var o = 0u; o < outputs_a_group(); o += at_once) {
        let i = group.x * outputs_a_group() + o + own;
        let w_row = a * p.head_rows + p.head_first + min(i, p.n - 1u);
        let share = w_dots(x_at, w_row * p.k, w_scale_start(w_row, p.k), lane, lanes);
        let sums = sum_lanes(share, local, lane);
        if lane == 0u && o + own < outputs_a_group() && i < p.n {
            for (var j = 0u; j < ROWS && r0 + j < rows; j += 1u) {
                y[p.y_offset + (r0 + j) * p.y_stride + a * p.y_head_stride + i] = sums[j];
            }
        }
    }
}
