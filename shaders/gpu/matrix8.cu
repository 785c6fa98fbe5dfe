// Products of E4M3 weights with activations that are codes themselves, for many rows: a block
// computes 64 rows by 64 outputs, 128 deep at a time, and the units' sums of these meet both
// scales in f32. DeepSeek-V3 report, section 3.3.2.
// Grid: x and y over blocks of outputs, z over blocks of rows; grouped: z over experts.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "units8.h"

static const u32 THREADS = 256, SIDE = 64, DEPTH = BLOCK;
// A line of a tile in shared memory: padded, so that lines begin in different banks.
static const u32 PITCH = DEPTH + 16;
static const u32 TILE = SIDE * PITCH;

// Lines of codes in memory: rows of an activation or of a weight. A thread brings sixteen codes at a
// time.
static const u32 STEPS = SIDE * DEPTH / 16 / THREADS;
struct Lines {
    const u8* codes;
    u64 stride;
    u32 count, k;

    // A thread's codes of columns `depth .. + DEPTH`, zeros for what is not there.
    DEVICE_METHOD void load(u32 depth, Quad (&quads)[STEPS]) const {
        UNROLL
        for (u32 step = 0; step < STEPS; step++) {
            const u32 at = step * THREADS + thread_x();
            const u32 line = at / (DEPTH / 16), column = depth + at % (DEPTH / 16) * 16;
            quads[step] = {};
            if (line < count && column < k) {
                const Quad loaded = *(const Quad*)(codes + line * stride + column);
                // Word by word: copied whole it would lie in memory, not in registers.
                UNROLL
                for (u32 j = 0; j < 4; j++) {
                    quads[step].word[j] = loaded.word[j];
                }
            }
        }
    }
    template <class U> DEVICE void store(const Quad (&quads)[STEPS], u8* tile) {
        UNROLL
        for (u32 step = 0; step < STEPS; step++) {
            const u32 at = step * THREADS + thread_x();
            Quad quad = quads[step];
            UNROLL
            for (u32 j = 0; j < 4; j++) {
                quad.word[j] = U::FNUZ ? to_fnuz(quad.word[j]) : quad.word[j];
            }
            *(Quad*)(tile + at / (DEPTH / 16) * PITCH + at % (DEPTH / 16) * 16) = quad;
        }
    }
};

// The waves of a block: their tiles of 16 by 16 cover it, two beside each other and as many
// below each other as there are too few waves.
static const u32 COLUMNS = 2, LINES = SIDE / 16 * (SIDE / 16) / COLUMNS / (THREADS / WAVE);
static const u32 WAVES_ACROSS = SIDE / 16 / COLUMNS;

// Adds the products of the tiles, of which `count` lines have rows.
template <class U>
DEVICE void multiply_tiles(const u8* rows, u32 count, const u8* weights,
                           float (&sum)[LINES][COLUMNS][U::SUMS]) {
    const u32 line = wave() / WAVES_ACROSS * LINES, column = wave() % WAVES_ACROSS * COLUMNS;
    if (line * 16 >= count) {
        return;
    }
    // Where halves stand in for these units (compute capability 9.0 and 10.0), a third of the
    // registers would go to what is converted ahead.
    NO_UNROLL
    for (u32 depth = 0; depth < DEPTH; depth += U::DEPTH) {
        u32 a[LINES][U::WORDS];
        UNROLL
        for (u32 m = 0; m < LINES; m++) {
            U::load_a(a[m], rows + (line + m) * 16 * PITCH + depth, PITCH);
        }
        UNROLL
        for (u32 n = 0; n < COLUMNS; n++) {
            u32 b[U::WORDS];
            U::load_b(b, weights + (column + n) * 16 * PITCH + depth, PITCH);
            UNROLL
            for (u32 m = 0; m < LINES; m++) {
                U::multiply(sum[m][n], a[m], b);
            }
        }
    }
}

// Adds `part` times the weight's scale and its row's to `sum`, and empties it.
template <class U>
DEVICE void promote(float (&sum)[LINES][COLUMNS][U::SUMS], float (&part)[LINES][COLUMNS][U::SUMS],
                    const float* row_scales, float scale) {
    const u32 line = wave() / WAVES_ACROSS * LINES;
    UNROLL
    for (u32 m = 0; m < LINES; m++) {
        UNROLL
        for (u32 n = 0; n < COLUMNS; n++) {
            UNROLL
            for (u32 i = 0; i < U::SUMS; i++) {
                const float factor = row_scales[(line + m) * 16 + U::row(i)] * scale;
                sum[m][n][i] = fma_(part[m][n][i], factor, sum[m][n][i]);
                part[m][n][i] = 0.0f;
            }
        }
    }
}

// A weight of the block: its rows, and the row of the whole weight they begin at.
struct Weight {
    Lines lines;
    const float* s;
    u32 scale_first;
    DEVICE_METHOD float scale(u32 depth) const {
        return scale_at(s, scale_first, depth, lines.k);
    }
};

// What a thread brings of the tiles of a depth: rows and their scales, and one weight or two.
template <class U, bool SECOND> struct Brought {
    Quad rows[STEPS], gate[STEPS], up[STEPS];
    float row_scale;

    DEVICE_METHOD void load(const Params& p, const float* x, const Lines& lines, u32 depth,
                            const Weight& w, const Weight& v) {
        lines.load(depth, rows);
        w.lines.load(depth, gate);
        if (SECOND) {
            v.lines.load(depth, up);
        }
        row_scale = 0.0f;
        if (thread_x() < lines.count && depth < p.k) {
            const u64 scales = (u64)thread_x() * p.x_stride + coded_scales(p.k);
            row_scale = x[scales + depth / BLOCK] * U::FACTOR;
        }
    }
    DEVICE_METHOD void store(u8* row_tile, u8* gate_tile, u8* up_tile, float* row_scales) const {
        Lines::store<U>(rows, row_tile);
        Lines::store<U>(gate, gate_tile);
        if (SECOND) {
            Lines::store<U>(up, up_tile);
        }
        if (thread_x() < SIDE) {
            row_scales[thread_x()] = row_scale;
        }
    }
};

// Rows `r0 .. end` (at most SIDE of them) by the outputs of `w`, and of `v` with `SECOND`,
// to columns from `column` on.
template <class U, bool SECOND>
DEVICE void tile(const Params& p, const float* x, u32 r0, u32 end, const Weight& w,
                 const Weight& v, u32 column, const float* residual, float* y) {
    SHARED(Quad, row_quads, TILE / 16);
    SHARED(Quad, gate_quads, TILE / 16);
    SHARED(Quad, up_quads, SECOND ? TILE / 16 : 1);
    SHARED(float, row_scales, SIDE);
    u8* const row_tile = (u8*)row_quads;
    u8* const gate = (u8*)gate_quads;
    u8* const up = (u8*)up_quads;
    const float* const first = x + x_row(p, r0);
    const Lines rows = {(const u8*)first, 4 * (u64)p.x_stride, min_(end - r0, SIDE), p.k};
    float sum[LINES][COLUMNS][U::SUMS] = {}, part[LINES][COLUMNS][U::SUMS] = {};
    float second[LINES][COLUMNS][U::SUMS] = {}, second_part[LINES][COLUMNS][U::SUMS] = {};
    Brought<U, SECOND> brought;
    brought.load(p, first, rows, 0, w, v);
    for (u32 depth = 0; depth < p.k; depth += DEPTH) {
        barrier();
        brought.store(row_tile, gate, up, row_scales);
        barrier();
        // On their way while the units multiply.
        brought.load(p, first, rows, depth + DEPTH, w, v);
        const float scale = w.scale(depth), second_scale = SECOND ? v.scale(depth) : 0.0f;
        multiply_tiles<U>(row_tile, rows.count, gate, part);
        promote<U>(sum, part, row_scales, scale);
        if (SECOND) {
            multiply_tiles<U>(row_tile, rows.count, up, second_part);
            promote<U>(second, second_part, row_scales, second_scale);
        }
    }
    const u32 line = wave() / WAVES_ACROSS * LINES, tile_column = wave() % WAVES_ACROSS * COLUMNS;
    UNROLL
    for (u32 m = 0; m < LINES; m++) {
        UNROLL
        for (u32 n = 0; n < COLUMNS; n++) {
            UNROLL
            for (u32 i = 0; i < U::SUMS; i++) {
                const u32 r = r0 + (line + m) * 16 + U::row(i);
                const u32 o = (tile_column + n) * 16 + U::column(i);
                if (r >= end || o >= w.lines.count) {
                    continue;
                }
                const float more = residual ? residual[b_row(p, r) + column + o] : 0.0f;
                y[y_row(p, r) + column + o] = SECOND
                                                  ? silu(sum[m][n][i]) * second[m][n][i]
                                                  : sum[m][n][i] + more;
            }
        }
    }
}

template <class U, bool SECOND>
DEVICE void dense(const Params& p, const u32* inputs, const float* x, const u8* w,
                  const float* w_s, const u8* v, const float* v_s, const float* residual,
                  float* y) {
    const u32 rows = real_rows(p, inputs), r0 = group_z() * SIDE;
    const u64 at = spread_group() * SIDE;
    if (r0 >= rows || at >= p.row_count) {
        return;
    }
    const u32 first = (u32)at, count = min_(SIDE, p.row_count - first);
    const Weight gate = {{w + at * p.k, p.k, count, p.k}, w_s, p.row_first + first};
    const Weight up = {{v + at * p.k, p.k, count, p.k}, v_s, p.row_first + first};
    tile<U, SECOND>(p, x, r0, min_(rows, r0 + SIDE), gate, up, p.row_first + first, residual, y);
}

template <class U, bool SECOND>
DEVICE void grouped(const Params& p, const float* x, const u32* offsets, const u64* w,
                    const u64* w_s, const u64* v, const u64* v_s, float* y) {
    const u32 entry = group_z(), expert = p.expert_first + entry;
    const u64 at = spread_group() * SIDE;
    const u32 end = offsets[expert + 1];
    if (at >= p.n || offsets[expert] >= end) {
        return;
    }
    const u32 first = (u32)at, count = min_(SIDE, p.n - first);
    const Weight gate = {{in_memory<u8>(w[entry]) + at * p.k, p.k, count, p.k},
                         in_memory<float>(w_s[entry]), first};
    const Weight up = {{SECOND ? in_memory<u8>(v[entry]) + at * p.k : 0, p.k, count, p.k},
                       SECOND ? in_memory<float>(v_s[entry]) : 0, first};
    for (u32 r0 = offsets[expert]; r0 < end; r0 += SIDE) {
        tile<U, SECOND>(p, x, r0, min_(end, r0 + SIDE), gate, up, first, (const float*)0, y);
    }
}

#define MATRIX8(NAME, ...)                                                                     \
    KERNEL(THREADS, linear_##NAME, Params p, const u32* inputs, const float* x, const u8* w,   \
           const float* s, float* y) {                                                         \
        wait_for_kernels();                                                                    \
        dense<__VA_ARGS__, false>(p, inputs, x, w, s, 0, 0, 0, y);                             \
    }                                                                                          \
    KERNEL(THREADS, linear_residual_##NAME, Params p, const u32* inputs, const float* x,       \
           const u8* w, const float* s, const float* residual, float* y) {                     \
        wait_for_kernels();                                                                    \
        dense<__VA_ARGS__, false>(p, inputs, x, w, s, 0, 0, residual, y);                      \
    }                                                                                          \
    KERNEL(THREADS, gate_up_##NAME, Params p, const u32* inputs, const float* x, const u8* w,  \
           const float* w_s, const u8* v, const float* v_s, float* y) {                        \
        wait_for_kernels();                                                                    \
        dense<__VA_ARGS__, true>(p, inputs, x, w, w_s, v, v_s, 0, y);                          \
    }                                                                                          \
    KERNEL(THREADS, grouped_linear_##NAME, Params p, const u32*, const float* x,               \
           const u32* offsets, const u64* w, const u64* s, float* y) {                         \
        wait_for_kernels();                                                                    \
        grouped<__VA_ARGS__, false>(p, x, offsets, w, s, 0, 0, y);                             \
    }                                                                                          \
    KERNEL(THREADS, grouped_gate_up_##NAME, Params p, const u32*, const float* x,              \
           const u32* offsets, const u64* w, const u64* w_s, const u64* v, const u64* v_s,     \
           float* y) {                                                                         \
        wait_for_kernels();                                                                    \
        grouped<__VA_ARGS__, true>(p, x, offsets, w, w_s, v, v_s, y);                          \
    }

// Compute capability 8.9 has the instructions; images of 8.0 leave them out.
#if (defined(HADAL_CUDA) && __CUDA_ARCH__ >= 890) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
MATRIX8(mma8, Mma8)
#endif
#if defined(__gfx950__) || (defined(HADAL_CPU) && HADAL_WAVE == 64)
MATRIX8(mfma8, Mfma8<false>)
#endif
#if defined(__gfx942__) || (defined(HADAL_CPU) && HADAL_WAVE == 64)
MATRIX8(mfma8_fnuz, Mfma8<true>)
#endif
#if defined(__GFX12__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
MATRIX8(wmma8, Wmma8)
#endif
