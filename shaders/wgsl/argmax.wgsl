// Index of the largest of n values of each row, the lowest index among equals; a NaN is
// never the largest, and a row of nothing else gives NONE. Compared as integers, so that no driver's treatment of NaN or of
// subnormals matters. Grid: x over rows, one workgroup each.

#import params
@group(0) @binding(auto) var<storage, read_write> x: array<u32>;
@group(0) @binding(auto) var<storage, read_write> y: array<u32>;

override WG: u32 = 64u;

const NONE: u32 = 0xffffffffu;

// Best key and its index.
var<workgroup> best_cells: array<vec2<u32>, WG>;

// Grows with the value: NaN 0, then negative values, then positive ones; both zeros alike.
fn key(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return 0u;
    }
    return select(0x80000000u + magnitude, 0x80000000u - magnitude, bits > 0x80000000u);
}

fn better(one: vec2<u32>, other: vec2<u32>) -> vec2<u32> {
    let take = other.x > one.x || (other.x == one.x && other.y < one.y);
    return select(one, other, vec2<bool>(take));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let r = group.x;
    if r >= real_rows() {
        return;
    }
    let x_at = p.x_offset + r * p.x_stride;
    var best = vec2<u32>(0u, NONE);
    for (var i = local; i < p.n; i += WG) {
        best = better(best, vec2<u32>(key(x[x_at + i]), i));
    }
    best_cells[local] = best;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step >>= 1u) {
        if local < step {
            best_cells[local] = better(best_cells[local], best_cells[local + step]);
        }
        workgroupBarrier();
    }
    if local == 0u {
        y[p.y_offset + r * p.y_stride] = select(NONE, best_cells[0].y, best_cells[0].x > 0u);
    }
}
