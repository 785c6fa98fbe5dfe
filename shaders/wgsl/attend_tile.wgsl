// Latent attention of 32 queries over the cache, 32 positions at a time, with a running
// maximum (see attend.wgsl). The queries are HEADS heads of 32 / HEADS neighbouring rows. All
// of them read the same cache, so a cache row comes from memory once for the 32; rows of
// another sequence take a turn of their own. All widths and strides are multiples of four.
//
// Scores: an invocation has two queries by two positions, and the workgroup shares tiles of
// 32 values of queries and keys. Mean: eight queries by eight columns in registers.
// PART: of a part of the positions, unnormalised, with its maximum and sum (AttendPart).
// Grid: x over blocks of heads, y over blocks of rows; PART: z over parts.

#import params
@group(0) @binding(auto) var<storage, read_write> q: array<vec4<f32>>;
@group(0) @binding(auto) var<storage, read_write> cache: array<vec4<f32>>;
@group(0) @binding(auto) var<storage, read_write> y: array<vec4<f32>>;
#ifdef PART
@group(0) @binding(auto) var<storage, read_write> part_sums: array<f32>;

#import parts
#endif

// Of a cache row: quads that are mixed (at most 128), and all of them.
override LATENT: u32 = 128u;
override WIDTH: u32 = 144u;
// Heads of a block: a power of two, at most 32.
override HEADS: u32 = 32u;

const WG: u32 = 256u;
const QUERIES: u32 = 32u;
const TILE: u32 = 32u;
const LOWEST: f32 = -3.0e38;

var<workgroup> cells: array<f32, WG>;
// For each query: the factor of what was summed before, in the end its total.
var<workgroup> keeps: array<f32, QUERIES>;
var<workgroup> row_starts: array<u32, TILE>;

#import scores
#import outer

// First position and end of what is wanted of row `r`.
fn span(r: u32, part: u32) -> vec2<u32> {
    let positions = token_position(r) + 1u;
#ifdef PART
    let length = part_length(positions);
    return min(vec2<u32>(part * length, (part + 1u) * length), vec2<u32>(positions));
#else
    return vec2<u32>(0u, positions);
#endif
}

#ifdef PART
fn store_sums(group: vec3<u32>, m: u32, largest: f32, total: f32) {
    let a = group.x * HEADS + m % HEADS;
    let r = group.y * (QUERIES / HEADS) + m / HEADS;
    if a >= p.heads || r >= real_rows() || total == 0.0 {
        return;
    }
    let at = p.b_offset + r * p.b_stride + 2u * (a * p.n + p.row_first + group.z);
    part_sums[at] = largest;
    part_sums[at + 1u] = total;
}
#endif

// Writes two columns of query `m` of the block, if it is there and saw a position.
fn store(group: vec3<u32>, m: u32, c: u32, near: vec4<f32>, far: vec4<f32>) {
    let total = keeps[m];
    let a = group.x * HEADS + m % HEADS;
    let r = group.y * (QUERIES / HEADS) + m / HEADS;
    if a >= p.heads || r >= real_rows() || total == 0.0 {
        return;
    }
    var at = (p.y_offset + r * p.y_stride + a * p.y_head_stride) / 4u;
#ifdef PART
    at += (p.row_first + group.z) * LATENT;
    let divisor = 1.0;
#else
    let divisor = total;
#endif
    if c < LATENT {
        y[at + c] = near / divisor;
    }
    if c + 64u < LATENT {
        y[at + c + 64u] = far / divisor;
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let r0 = group.y * (QUERIES / HEADS);
    let row_end = min(r0 + QUERIES / HEADS, real_rows());
    if r0 >= row_end {
        return;
    }
    let part = p.row_first + group.z;
    let fetched = local / QUADS;
    // Queries that are not there repeat the last one.
    let fetched_row = min(r0 + fetched / HEADS, row_end - 1u);
    let fetched_head = min(group.x * HEADS + fetched % HEADS, p.heads - 1u);
    let q_at = (p.x_offset + fetched_row * p.x_stride + fetched_head * p.x_head_stride) / 4u;
    // The query and four positions whose probabilities are found here; eight queries and two
    // columns that are summed here.
    let m = local % QUERIES;
    let s0 = local / QUERIES * 4u;
    let m8 = local / 64u * 8u;
    let c = local % 64u;
    // Finite, so that the first tile's factor is exp(-large) = 0 and never a NaN.
    var largest = LOWEST;
    var total = 0.0;
    var near0 = mat4x4<f32>();
    var near1 = mat4x4<f32>();
    var far0 = mat4x4<f32>();
    var far1 = mat4x4<f32>();
    for (var next = r0; next < row_end;) {
        let turn = next;
        let sequence = token_sequence(turn);
        var bounds = span(turn, part);
        var seen_by_all = bounds; // What all rows of the block see, if there are no others.
        for (next += 1u; next < row_end && token_sequence(next) == sequence; next += 1u) {
            let more = span(next, part);
            bounds = vec2<u32>(min(bounds.x, more.x), max(bounds.y, more.y));
            seen_by_all = vec2<u32>(max(seen_by_all.x, more.x), min(seen_by_all.y, more.y));
        }
        seen_by_all.y = select(0u, seen_by_all.y, turn == r0 && next == row_end);
        let r = min(r0 + m / HEADS, row_end - 1u);
        let wanted = select(vec2<u32>(0u), span(r, part), r >= turn && r < next);
        for (var first = bounds.x; first < bounds.y; first += TILE) {
            let count = min(TILE, bounds.y - first);
            let whole = first >= seen_by_all.x && first + count <= seen_by_all.y;
            if local < count {
                row_starts[local] = cache_row(sequence, first + local) * WIDTH;
            }
            workgroupBarrier();
            score(q_at, count, local);
            workgroupBarrier();
            var best = LOWEST;
            for (var s = s0; s < s0 + 4u; s += 1u) {
                let is_in = first + s >= wanted.x && first + s < wanted.y;
                best = max(best, select(LOWEST, weights[s * QUERIES + m], is_in));
            }
            cells[local] = best;
            workgroupBarrier();
            let before = largest;
            for (var i = m; i < WG; i += QUERIES) {
                largest = max(largest, cells[i]);
            }
            let keep = exp(before - largest);
            total *= keep;
            for (var s = s0; s < s0 + 4u; s += 1u) {
                let is_in = first + s >= wanted.x && first + s < wanted.y;
                let weight = select(0.0, exp(weights[s * QUERIES + m] - largest), is_in);
                weights[s * QUERIES + m] = weight;
                total += weight;
            }
            if local < QUERIES { keeps[local] = keep; }
            workgroupBarrier();
            let keep0 = vec4<f32>(keeps[m8], keeps[m8 + 1u], keeps[m8 + 2u], keeps[m8 + 3u]);
            let keep1 = vec4<f32>(keeps[m8 + 4u], keeps[m8 + 5u], keeps[m8 + 6u], keeps[m8 + 7u]);
            near0 = scaled(near0, keep0);
            near1 = scaled(near1, keep1);
            far0 = scaled(far0, keep0);
            far1 = scaled(far1, keep1);
            for (var s = 0u; s < count; s += 1u) {
                let at = row_starts[s];
                let near = cache[at + min(c, LATENT - 1u)];
                let w0 = four_weights(s * QUERIES + m8);
                let w1 = four_weights(s * QUERIES + m8 + 4u);
                near0 += mixed(near, w0, whole);
                near1 += mixed(near, w1, whole);
                if LATENT > 64u {
                    let far = cache[at + min(c + 64u, LATENT - 1u)];
                    far0 += mixed(far, w0, whole);
                    far1 += mixed(far, w1, whole);
                }
            }
            workgroupBarrier();
        }
    }
    cells[local] = total;
    workgroupBarrier();
    if local < QUERIES {
        var sum = 0.0;
        for (var i = local; i < WG; i += QUERIES) {
            sum += cells[i];
        }
        keeps[local] = sum;
#ifdef PART
        store_sums(group, local, largest, sum);
#endif
    }
    workgroupBarrier();
    store(group, m8, c, near0[0], far0[0]);
    store(group, m8 + 1u, c, near0[1], far0[1]);
    store(group, m8 + 2u, c, near0[2], far0[2]);
    store(group, m8 + 3u, c, near0[3], far0[3]);
    store(group, m8 + 4u, c, near1[0], far1[0]);
    store(group, m8 + 5u, c, near1[1], far1[1]);
    store(group, m8 + 6u, c, near1[2], far1[2]);
    store(group, m8 + 7u, c, near1[3], far1[3]);
}
