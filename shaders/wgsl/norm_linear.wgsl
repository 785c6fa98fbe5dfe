// y[r][row_first + i] = dot(norm(x[r]), W[i]), norm(v) = v / sqrt(mean(v^2) + eps) * N. For
// few rows: the sum of squares comes along with each dot product, whose values it reads
// anyway, and divides it in the end. Weights are read by sixteen bytes (WIDE).
// Grid: x and y over outputs, z over blocks of ROWS rows.

#import params
#import x
// The weights of the norm: NORM_BF16 or f32.
#ifdef NORM_BF16
@group(0) @binding(auto) var<storage, read> norm: array<vec2<u32>>;
#else
@group(0) @binding(auto) var<storage, read> norm: array<vec4<f32>>;
#endif
#import weight as w
@group(0) @binding(auto) var<storage, read_write> y: array<f32>;

#import lanes

fn norm_codes(quad: u32) -> vec4<f32> {
#ifdef NORM_BF16
    return vec4<f32>(decode_bf16(norm[quad].x), decode_bf16(norm[quad].y));
#else
    return norm[quad];
#endif
}

// A lane's shares of the dot products and of the sums of squares, for up to four rows.
struct Shares {
    dots: vec4<f32>,
    squares: vec4<f32>,
}

fn shares(x_at: vec4<u32>, w_at: u32, s_at: u32, lane: u32, lanes: u32) -> Shares {
    var out = Shares();
    let w_quad = w_at / CODES;
    let x_quad = x_at >> vec4<u32>(2u);
    for (var i = lane; i < p.k / CODES; i += lanes) {
        let words = w_quads[w_quad + i];
        let first = i * (CODES / 4u);
        var part = vec4<f32>(0.0);
        for (var four = 0u; four < CODES / 4u; four += 1u) {
            let w = codes_of(words, four) * norm_codes(first + four);
            let at = x_quad + vec4<u32>(first + four);
            let x0 = x[at.x];
            part.x += dot(w, x0);
            out.squares.x += dot(x0, x0);
            if ROWS > 1u {
                let x1 = x[at.y];
                part.y += dot(w, x1);
                out.squares.y += dot(x1, x1);
            }
            if ROWS > 2u {
                let x2 = x[at.z];
                let x3 = x[at.w];
                part.z += dot(w, x2);
                part.w += dot(w, x3);
                out.squares.z += dot(x2, x2);
                out.squares.w += dot(x3, x3);
            }
        }
        // A block of 128 is a multiple of what was read.
        out.dots += part * w_scale(s_at, i * CODES);
    }
    return out;
}

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
        let share = shares(x_at, i_in * p.k, s_at, lane, lanes);
        let dots = sum_lanes(share.dots, local, lane);
        let squares = sum_lanes(share.squares, local, lane);
        let values = dots / sqrt(squares / f32(p.k) + vec4<f32>(p.eps));
        if lane == 0u && o + own < outputs_a_group() && i < p.row_count {
            for (var j = 0u; j < ROWS && r0 + j < rows; j += 1u) {
                y[p.y_offset + (r0 + j) * p.y_stride + p.row_first + i] = values[j];
            }
        }
    }
}
