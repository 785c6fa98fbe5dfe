// The cache row of a token in one go: the norm of its latent and its rotated key, straight
// from their projection. Grid: x over rows, one workgroup each.

#import params
@group(0) @binding(auto) var<storage, read_write> x: array<f32>;
#import weight as w
// cos and sin of each pair, `rope` values a position
@group(0) @binding(auto) var<storage, read> angles: array<f32>;
@group(0) @binding(auto) var<storage, read_write> cache: array<f32>;

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
    let position = token_position(r);
    let cache_at = cache_row(token_sequence(r), position) * (p.latent + p.rope);
    for (var i = 2u * local; i < p.rope; i += 2u * WG) {
        let even = x[x_at + p.latent + i];
        let odd = x[x_at + p.latent + i + 1u];
        let cosine = angles[position * p.rope + i];
        let sine = angles[position * p.rope + i + 1u];
        cache[cache_at + p.latent + i] = even * cosine - odd * sine;
        cache[cache_at + p.latent + i + 1u] = odd * cosine + even * sine;
    }
    var squares = 0.0;
    for (var i = local; i < p.latent; i += WG) {
        squares += x[x_at + i] * x[x_at + i];
    }
#ifdef SUBGROUPS
    let sum = group_sum(squares, subgroup, subgroups);
#else
    let sum = group_sum(squares, local);
#endif
    let factor = 1.0 / sqrt(sum / f32(p.latent) + p.eps);
    for (var i = local; i < p.latent; i += WG) {
        cache[cache_at + i] = x[x_at + i] * factor * w_code(i);
    }
}
