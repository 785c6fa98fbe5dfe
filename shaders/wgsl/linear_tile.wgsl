// The linear family for many rows on a GPU: a workgroup computes 64 outputs of 64 rows, an
// invocation four of four. Activations and weights come sixteen values at a time through
// workgroup memory, so that each is fetched once for 64 others and decoded once for 64 rows.
//
// y[r][row_first + i] = dot(x[r], W[i]), with RESIDUAL plus the residual, with SECOND
// silu(dot(x[r], W[i])) * dot(x[r], V[i]). GROUPED: W and V are the entries of expert
// tables and the rows of entry e are offsets[e] .. offsets[e + 1].
// Grid: x and y over 64 outputs; z over 64 rows, GROUPED over experts, whose rows are walked
// over.
//
// Ladder, as 16-byte loads for 16 multiply-adds: one output of four rows an invocation
// (linear.wgsl) 5 from memory or cache; four of four (linear_block.wgsl) 2; this 2 from
// workgroup memory and 1/8 from memory.

#import params
@group(0) @binding(auto) var<storage, read_write> x: array<vec4<f32>>;
#ifdef GROUPED
@group(0) @binding(auto) var<storage, read_write> offsets: array<u32>;
#endif
#import weight as w
#ifdef SECOND
#import weight as v
#endif
#ifdef RESIDUAL
@group(0) @binding(auto) var<storage, read_write> residual: array<f32>;
#endif
@group(0) @binding(auto) var<storage, read_write> y: array<f32>;

#ifdef SECOND
#import activate
#endif
#ifdef GROUPED
#import table as w
#ifdef SECOND
#import table as v
#endif

// First row of the expert and of the next one.
var<workgroup> bounds: vec2<u32>;
#endif

const WG: u32 = 256u;
const TILE: u32 = 64u;
// Quads of a row in a tile, and from one of them to the next: one more than there are rows,
// so that neighbours do not meet in a memory bank.
const QUADS: u32 = 4u;
const PITCH: u32 = 65u;

// Quad c of row (or output) i is at c * PITCH + i.
var<workgroup> x_tile: array<vec4<f32>, 260>;
var<workgroup> w_tile: array<vec4<f32>, 260>;
#ifdef SECOND
var<workgroup> v_tile: array<vec4<f32>, 260>;
#endif

// Writes the outputs i, i + 16, i + 32 and i + 48 of row r.
fn store(r: u32, end: u32, i: u32, outputs: u32, row_first: u32, sums: vec4<f32>, ups: vec4<f32>) {
    if r >= end {
        return;
    }
    for (var o = 0u; o < 4u && i + 16u * o < outputs; o += 1u) {
        let column = row_first + i + 16u * o;
        var value = sums[o];
#ifdef SECOND
        value = silu(value) * ups[o];
#endif
#ifdef RESIDUAL
        value += residual[p.b_offset + r * p.b_stride + column];
#endif
        y[p.y_offset + r * p.y_stride + column] = value;
    }
}

// The outputs from `i0` on of the rows from `r0` on; `end` is the first row that is not
// there. `entry` is the expert's place in the table.
fn compute(i0: u32, outputs: u32, r0: u32, end: u32, entry: u32, local: u32) {
    // What this invocation fetches: a quad of one row and of one output.
    let owner = local / QUADS;
    let quad = local % QUADS;
    let is_row = r0 + owner < end;
    let i_in = min(i0 + owner, outputs - 1u);
    let x_at = (p.x_offset + min(r0 + owner, end - 1u) * p.x_stride) >> 2u;
#ifdef GROUPED
    let row_first = 0u;
    let w_at = w_entry(entry) + i_in * p.k;
    let w_from = w_entry_scales(entry, i_in);
#else
    let row_first = p.row_first;
    let w_at = i_in * p.k;
    let w_from = w_scale_start(row_first + i_in, p.k);
#endif
#ifdef SECOND
#ifdef GROUPED
    let v_at = v_entry(entry) + i_in * p.k;
    let v_from = v_entry_scales(entry, i_in);
#else
    let v_at = w_at;
    let v_from = w_from;
#endif
#endif
    // What it computes: rows row + 16 j, outputs column + 16 o.
    let row = local / 16u;
    let column = local % 16u;
    let rows = end - r0;
    // Four outputs of a row in each column.
    var sums = mat4x4<f32>();
    var ups = mat4x4<f32>();
    for (var first = 0u; first < p.k; first += 4u * QUADS) {
        let at = first + 4u * quad;
        // Past the end there are zeros.
        var x_quad = vec4<f32>(0.0);
        var w_quad = vec4<f32>(0.0);
#ifdef SECOND
        var v_quad = vec4<f32>(0.0);
#endif
        if at < p.k {
            if is_row {
                x_quad = x[x_at + (at >> 2u)];
            }
            w_quad = w_codes(w_at + at) * w_scale(w_from, at);
#ifdef SECOND
            v_quad = v_codes(v_at + at) * v_scale(v_from, at);
#endif
        }
        x_tile[quad * PITCH + owner] = x_quad;
        w_tile[quad * PITCH + owner] = w_quad;
#ifdef SECOND
        v_tile[quad * PITCH + owner] = v_quad;
#endif
        workgroupBarrier();
        for (var c = 0u; c < QUADS; c += 1u) {
            let x_from = c * PITCH + row;
            let o = c * PITCH + column;
            // A row vector times a matrix: its dot product with each column.
            let ws = mat4x4<f32>(w_tile[o], w_tile[o + 16u], w_tile[o + 32u], w_tile[o + 48u]);
#ifdef SECOND
            let vs = mat4x4<f32>(v_tile[o], v_tile[o + 16u], v_tile[o + 32u], v_tile[o + 48u]);
#endif
            sums[0] += x_tile[x_from] * ws;
#ifdef SECOND
            ups[0] += x_tile[x_from] * vs;
#endif
            // An expert may have few rows.
            if rows > 16u {
                sums[1] += x_tile[x_from + 16u] * ws;
#ifdef SECOND
                ups[1] += x_tile[x_from + 16u] * vs;
#endif
            }
            if rows > 32u {
                sums[2] += x_tile[x_from + 32u] * ws;
                sums[3] += x_tile[x_from + 48u] * ws;
#ifdef SECOND
                ups[2] += x_tile[x_from + 32u] * vs;
                ups[3] += x_tile[x_from + 48u] * vs;
#endif
            }
        }
        workgroupBarrier();
    }
    let i = i0 + column;
    store(r0 + row, end, i, outputs, row_first, sums[0], ups[0]);
    store(r0 + row + 16u, end, i, outputs, row_first, sums[1], ups[1]);
    store(r0 + row + 32u, end, i, outputs, row_first, sums[2], ups[2]);
    store(r0 + row + 48u, end, i, outputs, row_first, sums[3], ups[3]);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i0 = (group.x + group.y * groups.x) * TILE;
#ifdef GROUPED
    if i0 >= p.n {
        return;
    }
    if local == 0u {
        let e = p.expert_first + group.z;
        // No value of `offsets` leads outside the rows there are.
        bounds = min(vec2<u32>(offsets[e], offsets[e + 1u]), vec2<u32>(p.rows));
    }
    let wanted = workgroupUniformLoad(&bounds);
    for (var r0 = wanted.x; r0 < wanted.y; r0 += TILE) {
        compute(i0, p.n, r0, wanted.y, group.z, local);
    }
#else
    let end = real_rows();
    let r0 = group.z * TILE;
    if i0 < p.row_count && r0 < end {
        compute(i0, p.row_count, r0, end, 0u, local);
    }
#endif
}
