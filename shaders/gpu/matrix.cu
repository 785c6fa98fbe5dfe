// Products with a weight for many rows on matrix units of bf16: a block computes 64 rows by
// 64 outputs, 32 deep at a time. Nothing is rounded on the way in: an activation is the sum
// of three bf16, an E4M3 or BF16 weight is one, F16 two and F32 three; products of parts that
// would be lost in an f32 anyway are left out. E4M3's scales meet the sums of 128.
// Grid: x and y over blocks of outputs, z over blocks of rows; grouped: z over experts.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "parts.h"
#include "units.h"

static const u32 THREADS = 256, SIDE = 64, DEPTH = 32;
// A line of a tile in shared memory: padded, so that lines begin in different banks.
static const u32 PITCH = DEPTH + 8;
static const u32 TILE = SIDE * PITCH;
// Parts of an activation.
static const u32 X_PARTS = 3;

template <class W> struct Parts;
template <> struct Parts<F8> { static const u32 COUNT = 1; };
template <> struct Parts<Bf16> { static const u32 COUNT = 1; };
template <> struct Parts<F16> { static const u32 COUNT = 2; };
template <> struct Parts<F32> { static const u32 COUNT = 3; };

// Four neighbours along the depth to `tile`, and their parts to the tiles behind it.
template <u32 PARTS> DEVICE void store_parts(const float (&values)[4], u16* tile, u32 at) {
    u32 low[PARTS], high[PARTS];
    take_pairs(values[0], values[1], low);
    take_pairs(values[2], values[3], high);
    UNROLL
    for (u32 part = 0; part < PARTS; part++) {
        *(Pair*)(tile + part * TILE + at) = {{low[part], high[part]}};
    }
}

// A thread brings fours of neighbours along the depth: where the `step`th is in a tile.
static const u32 STEPS = SIDE * DEPTH / 4 / THREADS;
DEVICE u32 line_of(u32 step) { return (step * THREADS + thread_x()) / (DEPTH / 4); }
DEVICE u32 depth_of(u32 step) { return (step * THREADS + thread_x()) % (DEPTH / 4) * 4; }
DEVICE u32 place_of(u32 step) { return line_of(step) * PITCH + depth_of(step); }

// One weight of the block: where rows `0 .. count` of it begin.
template <class W> struct Weight {
    const u8* w;
    const float* s;
    u64 first;
    u32 scale_first, count, k;

    // A thread's codes of columns `depth .. + DEPTH`, zeros for what is not there.
    DEVICE_METHOD void load(u32 depth, Quad (&codes)[STEPS]) const {
        UNROLL
        for (u32 step = 0; step < STEPS; step++) {
            const u32 row = line_of(step), column = depth + depth_of(step);
            codes[step] = {};
            if (row < count && column < k) {
                codes[step] = bytes_of_four<W>(w, (first + row) * k + column);
            }
        }
    }
    DEVICE void store(const Quad (&codes)[STEPS], u16* tile) {
        UNROLL
        for (u32 step = 0; step < STEPS; step++) {
            float values[4];
            W::some(codes[step], 0, values);
            store_parts<Parts<W>::COUNT>(values, tile, place_of(step));
        }
    }
    // Of the columns around `depth`; the block's rows share one, as they lie in one block.
    DEVICE_METHOD float scale(u32 depth) const {
        return W::SCALED ? scale_at(s, scale_first, depth, k) * W::UNIT : 1.0f;
    }
};

// What a thread brings of the tiles of a depth: activations, and the codes of one weight or two.
template <class W, bool SECOND> struct Brought {
    Floats rows[STEPS];
    Quad gate[STEPS], up[STEPS];

    DEVICE_METHOD void load(const Params& p, const float* x, u32 r0, u32 count, u32 depth,
                            const Weight<W>& w, const Weight<W>& v) {
        UNROLL
        for (u32 step = 0; step < STEPS; step++) {
            const u32 row = line_of(step), column = depth + depth_of(step);
            rows[step] = {};
            if (row < count && column < p.k) {
                rows[step] = *(const Floats*)(x + x_row(p, r0 + row) + column);
            }
        }
        w.load(depth, gate);
        if (SECOND) {
            v.load(depth, up);
        }
    }
    DEVICE_METHOD void store(u16* row_tile, u16* gate_tile, u16* up_tile) const {
        UNROLL
        for (u32 step = 0; step < STEPS; step++) {
            store_parts<X_PARTS>(rows[step].value, row_tile, place_of(step));
        }
        Weight<W>::store(gate, gate_tile);
        if (SECOND) {
            Weight<W>::store(up, up_tile);
        }
    }
};

// The waves of a block: their tiles of 16 by 16 cover it, two beside each other and as many
// below each other as there are too few waves.
static const u32 COLUMNS = 2, LINES = SIDE / 16 * (SIDE / 16) / COLUMNS / (THREADS / WAVE);
static const u32 WAVES_ACROSS = SIDE / 16 / COLUMNS;

// Adds the products of the tiles, 32 deep, of which `count` lines have rows.
template <class U, u32 PARTS>
DEVICE void multiply_tiles(const u16* rows, u32 count, const u16* weights,
                           float (&sum)[LINES][COLUMNS][U::SUMS]) {
    const u32 line = wave() / WAVES_ACROSS * LINES, column = wave() % WAVES_ACROSS * COLUMNS;
    if (line * 16 >= count) {
        return;
    }
    UNROLL
    for (u32 depth = 0; depth < DEPTH; depth += 16) {
        u32 a[LINES][X_PARTS][U::WORDS];
        UNROLL
        for (u32 m = 0; m < LINES; m++) {
            UNROLL
            for (u32 part = 0; part < X_PARTS; part++) {
                const u16* const from = rows + part * TILE + (line + m) * 16 * PITCH + depth;
                U::load_a(a[m][part], from, PITCH);
            }
        }
        UNROLL
        for (u32 n = 0; n < COLUMNS; n++) {
            UNROLL
            for (u32 part = 0; part < PARTS; part++) {
                u32 b[U::WORDS];
                const u16* const from = weights + part * TILE + (column + n) * 16 * PITCH + depth;
                U::load_b(b, from, PITCH);
                UNROLL
                for (u32 m = 0; m < LINES; m++) {
                    UNROLL
                    for (u32 other = 0; other < X_PARTS; other++) {
                        if (part + other < X_PARTS) {
                            U::multiply(sum[m][n], a[m][other], b);
                        }
                    }
                }
            }
        }
    }
}

// Adds `part` times `scale` to `sum`, and empties it.
template <u32 SUMS>
DEVICE void promote(float (&sum)[LINES][COLUMNS][SUMS], float (&part)[LINES][COLUMNS][SUMS],
                    float scale) {
    UNROLL
    for (u32 m = 0; m < LINES; m++) {
        UNROLL
        for (u32 n = 0; n < COLUMNS; n++) {
            UNROLL
            for (u32 i = 0; i < SUMS; i++) {
                sum[m][n][i] = fma_(part[m][n][i], scale, sum[m][n][i]);
                part[m][n][i] = 0.0f;
            }
        }
    }
}

// Rows `r0 .. end` (at most SIDE of them) by the outputs of `w`, and of `v` with `SECOND`,
// to columns from `column` on.
template <class U, class W, bool SECOND>
DEVICE void tile(const Params& p, const float* x, u32 r0, u32 end, const Weight<W>& w,
                 const Weight<W>& v, u32 column, const float* residual, float* y) {
    const u32 PARTS = Parts<W>::COUNT;
    SHARED(u16, rows, X_PARTS * TILE);
    SHARED(u16, gate, PARTS * TILE);
    SHARED(u16, up, SECOND ? PARTS * TILE : 8);
    float sum[LINES][COLUMNS][U::SUMS] = {}, part[LINES][COLUMNS][U::SUMS] = {};
    float second[LINES][COLUMNS][U::SUMS] = {}, second_part[LINES][COLUMNS][U::SUMS] = {};
    const u32 count = min_(end - r0, SIDE);
    Brought<W, SECOND> brought;
    brought.load(p, x, r0, count, 0, w, v);
    for (u32 depth = 0; depth < p.k; depth += DEPTH) {
        barrier();
        brought.store(rows, gate, up);
        barrier();
        // On their way while the units multiply.
        brought.load(p, x, r0, count, depth + DEPTH, w, v);
        const bool whole = depth % BLOCK == BLOCK - DEPTH || depth + DEPTH >= p.k;
        const float scale = whole ? w.scale(depth) : 0.0f;
        const float second_scale = SECOND && whole ? v.scale(depth) : 0.0f;
        multiply_tiles<U, PARTS>(rows, count, gate, part);
        if (SECOND) {
            multiply_tiles<U, PARTS>(rows, count, up, second_part);
        }
        if (whole) {
            promote(sum, part, scale);
            if (SECOND) {
                promote(second, second_part, second_scale);
            }
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
                if (r >= end || o >= w.count) {
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

template <class U, class W, bool SECOND>
DEVICE void dense(const Params& p, const u32* inputs, const float* x, const u8* w,
                  const float* w_s, const u8* v, const float* v_s, const float* residual,
                  float* y) {
    const u32 rows = real_rows(p, inputs), r0 = group_z() * SIDE;
    const u64 at = spread_group() * SIDE;
    if (r0 >= rows || at >= p.row_count) {
        return;
    }
    const u32 first = (u32)at, count = min_(SIDE, p.row_count - first);
    const Weight<W> gate = {w, w_s, first, p.row_first + first, count, p.k};
    const Weight<W> up = {v, v_s, first, p.row_first + first, count, p.k};
    tile<U, W, SECOND>(p, x, r0, min_(rows, r0 + SIDE), gate, up, p.row_first + first, residual,
                       y);
}

template <class U, class W, bool SECOND>
DEVICE void grouped(const Params& p, const float* x, const u32* offsets, const u64* w,
                    const u64* w_s, const u64* v, const u64* v_s, float* y) {
    const u32 entry = group_z(), expert = p.expert_first + entry;
    const u64 at = spread_group() * SIDE;
    const u32 end = offsets[expert + 1];
    if (at >= p.n || offsets[expert] >= end) {
        return;
    }
    const u32 first = (u32)at, count = min_(SIDE, p.n - first);
    const Weight<W> gate = {in_memory<u8>(w[entry]), W::SCALED ? in_memory<float>(w_s[entry]) : 0,
                            first, first, count, p.k};
    const Weight<W> up = {SECOND ? in_memory<u8>(v[entry]) : 0,
                          SECOND && W::SCALED ? in_memory<float>(v_s[entry]) : 0,
                          first, first, count, p.k};
    for (u32 r0 = offsets[expert]; r0 < end; r0 += SIDE) {
        tile<U, W, SECOND>(p, x, r0, min_(end, r0 + SIDE), gate, up, first, (const float*)0, y);
    }
}

#define MATRIX(NAME, U, W)                                                                     \
    KERNEL(THREADS, linear_##NAME, Params p, const u32* inputs, const float* x, const u8* w,   \
           float* y) {                                                                         \
        wait_for_kernels();                                                                    \
        dense<U, W, false>(p, inputs, x, w, 0, 0, 0, 0, y);                                    \
    }                                                                                          \
    KERNEL(THREADS, linear_residual_##NAME, Params p, const u32* inputs, const float* x,       \
           const u8* w, const float* residual, float* y) {                                     \
        wait_for_kernels();                                                                    \
        dense<U, W, false>(p, inputs, x, w, 0, 0, 0, residual, y);                             \
    }                                                                                          \
    KERNEL(THREADS, gate_up_##NAME, Params p, const u32* inputs, const float* x, const u8* w,  \
           const u8* v, float* y) {                                                            \
        wait_for_kernels();                                                                    \
        dense<U, W, true>(p, inputs, x, w, 0, v, 0, 0, y);                                     \
    }                                                                                          \
    KERNEL(THREADS, grouped_linear_##NAME, Params p, const u32*, const float* x,               \
           const u32* offsets, const u64* w, float* y) {                                       \
        wait_for_kernels();                                                                    \
        grouped<U, W, false>(p, x, offsets, w, 0, 0, 0, y);                                    \
    }                                                                                          \
    KERNEL(THREADS, grouped_gate_up_##NAME, Params p, const u32*, const float* x,              \
           const u32* offsets, const u64* w, const u64* v, float* y) {                         \
        wait_for_kernels();                                                                    \
        grouped<U, W, true>(p, x, offsets, w, 0, v, 0, y);                                     \
    }
#define SCALED_MATRIX(NAME, U)                                                                 \
    KERNEL(THREADS, linear_##NAME, Params p, const u32* inputs, const float* x, const u8* w,   \
           const float* s, float* y) {                                                         \
        wait_for_kernels();                                                                    \
        dense<U, F8, false>(p, inputs, x, w, s, 0, 0, 0, y);                                   \
    }                                                                                          \
    KERNEL(THREADS, linear_residual_##NAME, Params p, const u32* inputs, const float* x,       \
           const u8* w, const float* s, const float* residual, float* y) {                     \
        wait_for_kernels();                                                                    \
        dense<U, F8, false>(p, inputs, x, w, s, 0, 0, residual, y);                            \
    }                                                                                          \
    KERNEL(THREADS, gate_up_##NAME, Params p, const u32* inputs, const float* x, const u8* w,  \
           const float* w_s, const u8* v, const float* v_s, float* y) {                        \
        wait_for_kernels();                                                                    \
        dense<U, F8, true>(p, inputs, x, w, w_s, v, v_s, 0, y);                                \
    }                                                                                          \
    KERNEL(THREADS, grouped_linear_##NAME, Params p, const u32*, const float* x,               \
           const u32* offsets, const u64* w, const u64* s, float* y) {                         \
        wait_for_kernels();                                                                    \
        grouped<U, F8, false>(p, x, offsets, w, s, 0, 0, y);                                   \
    }                                                                                          \
    KERNEL(THREADS, grouped_gate_up_##NAME, Params p, const u32*, const float* x,              \
           const u32* offsets, const u64* w, const u64* w_s, const u64* v, const u64* v_s,     \
           float* y) {                                                                         \
        wait_for_kernels();                                                                    \
        grouped<U, F8, true>(p, x, offsets, w, w_s, v, v_s, y);                                \
    }
#define UNIT_KERNELS(NAME, U)                                                                  \
    MATRIX(NAME##_f32, U, F32)                                                                 \
    MATRIX(NAME##_f16, U, F16)                                                                 \
    MATRIX(NAME##_bf16, U, Bf16)                                                               \
    SCALED_MATRIX(NAME##_f8, U)

#if (defined(HADAL_CUDA) && __CUDA_ARCH__ >= 800) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
UNIT_KERNELS(mma, Mma)
#endif
#if defined(__GFX9__) || (defined(HADAL_CPU) && HADAL_WAVE == 64)
UNIT_KERNELS(mfma, Mfma)
#endif
#if defined(__GFX11__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
UNIT_KERNELS(wmma, Wmma)
#endif
#if defined(__GFX12__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
UNIT_KERNELS(wmma12, Wmma12)
#endif
