// y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * W. Grid: x over rows, one workgroup each.

#import params
@group(0) @binding(auto) var<storage, read_write> x: array<f32>;
#import weight as w
@group(0) @binding(auto) var<storage, read_write> y: array<f32>;

#import reduce

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
#import lane_arguments
) {
    let r = group.x;
    if r >= real_rows() {
        return;
    }
    let x_at = p.x_offset + r * p.x_stride;
    var squares = 0.0;
    for (var i = local; i < p.n; i += WG) {
        squares += x[x_at + i] * x[x_at + i];
    }
#ifdef SUBGROUPS
    let sum = group_sum(squares, subgroup, subgroups);
#else
    let sum = group_sum(squares, local);
#endif
    let factor = 1.0 / sqrt(sum / f32(p.n) + p.eps);
    let y_at = p.y_offset + r * p.y_stride;
    for (var i = local; i < p.n; i += WG) {
        y[y_at + i] = x[x_at + i] * factor * w_code(i);
    }
}
