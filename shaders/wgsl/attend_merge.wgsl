// Puts the parts of split attention together: a mean of their means, each by what its
// probabilities weigh beside the largest score of all (attend_tile.wgsl, PART).
// Grid: x over heads, y over rows.

#import params
@group(0) @binding(auto) var<storage, read_write> x: array<f32>;
@group(0) @binding(auto) var<storage, read_write> part_sums: array<f32>;
@group(0) @binding(auto) var<storage, read_write> y: array<f32>;

#import parts

override WG: u32 = 64u;
override PARTS: u32 = 64u;

// What each part's mean counts.
var<workgroup> factors: array<f32, PARTS>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let a = group.x;
    let r = group.y;
    if r >= real_rows() {
        return;
    }
    let positions = token_position(r) + 1u;
    let length = part_length(positions);
    let parts = (positions + length - 1u) / length;
    let sums_at = p.b_offset + r * p.b_stride + 2u * a * p.n;
    var largest = part_sums[sums_at];
    for (var j = 1u; j < parts; j += 1u) {
        largest = max(largest, part_sums[sums_at + 2u * j]);
    }
    var total = 0.0;
    for (var j = 0u; j < parts; j += 1u) {
        total += exp(part_sums[sums_at + 2u * j] - largest) * part_sums[sums_at + 2u * j + 1u];
    }
    for (var j = local; j < parts; j += WG) {
        factors[j] = exp(part_sums[sums_at + 2u * j] - largest) / total;
    }
    workgroupBarrier();
    let x_at = p.x_offset + r * p.x_stride + a * p.x_head_stride;
    let y_at = p.y_offset + r * p.y_stride + a * p.y_head_stride;
    for (var c = local; c < p.latent; c += WG) {
        var sum = 0.0;
        for (var j = 0u; j < parts; j += 1u) {
            sum += factors[j] * x[x_at + j * p.latent + c];
        }
        y[y_at + c] = sum;
    }
}
