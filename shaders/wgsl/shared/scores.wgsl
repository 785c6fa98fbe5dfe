// Scores of a tile of attention: 32 queries by 32 positions by 256 invocations, each two by
// two, over tiles of 32 values that the workgroup shares. Needs `q`, `cache`, WIDTH, QUERIES
// and `row_starts` of the kernel.

// Quads of a query or key that are shared at a time, and from one of them to the next: one
// more than there are, so that neighbours do not meet in a memory bank.
const QUADS: u32 = 8u;
const PITCH: u32 = 33u;

var<workgroup> queries: array<vec4<f32>, 264>;
var<workgroup> keys: array<vec4<f32>, 264>;
// Scores, then probabilities: position s of the tile and query m at s * QUERIES + m.
var<workgroup> weights: array<f32, 1024>;

// Fills `weights` with scores. `q_at` is the query that this invocation fetches for all.
fn score(q_at: u32, count: u32, local: u32) {
    let owner = local / QUADS;
    let quad = local % QUADS;
    let key_at = row_starts[min(owner, count - 1u)];
    let m = local % 16u;
    let s = local / 16u;
    var sums = vec4<f32>(0.0);
    for (var first = 0u; first < WIDTH; first += QUADS) {
        let c = first + quad;
        let c_in = min(c, WIDTH - 1u);
        queries[quad * PITCH + owner] = select(vec4<f32>(0.0), q[q_at + c_in], c < WIDTH);
        keys[quad * PITCH + owner] = select(vec4<f32>(0.0), cache[key_at + c_in], c < WIDTH);
        workgroupBarrier();
        for (var i = 0u; i < QUADS; i += 1u) {
            let q0 = queries[i * PITCH + m];
            let q1 = queries[i * PITCH + m + 16u];
            let k0 = keys[i * PITCH + s];
            let k1 = keys[i * PITCH + s + 16u];
            sums += vec4<f32>(dot(q0, k0), dot(q1, k0), dot(q0, k1), dot(q1, k1));
        }
        workgroupBarrier();
    }
    sums *= p.scale;
    weights[s * QUERIES + m] = sums.x;
    weights[s * QUERIES + m + 16u] = sums.y;
    weights[(s + 16u) * QUERIES + m] = sums.z;
    weights[(s + 16u) * QUERIES + m + 16u] = sums.w;
}
