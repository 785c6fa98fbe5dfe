// Products with a weight for many rows on any GPU: a block computes 64 rows by 64 outputs,
// a thread four by four of them, from tiles of 32 values that the block shares.
// Grid: x and y over blocks of outputs, z over blocks of rows; grouped: z over experts.

#include "portable.h"
#include "params.h"
#include "weights.h"

static const u32 THREADS = 256, SIDE = 64, DEPTH = 32;
// A row of a tile in shared memory: padded, so that columns lie in different banks.
static const u32 PITCH = SIDE + 4;

// One operand of the block: where rows `0 .. count` of it begin.
template <class W> struct WeightTile {
    const u8* w;
    const float* s;
    u64 first;
    u32 scale_first, count, k;

    // Values `depth .. + DEPTH` of all rows to `tile[value][row]`, zeros for what is not there.
    DEVICE_METHOD void load(u32 depth, float* tile) const {
        UNROLL
        for (u32 step = 0; step < SIDE * DEPTH / 4 / THREADS; step++) {
            const u32 at = step * THREADS + thread_x();
            const u32 row = at / (DEPTH / 4), i = at % (DEPTH / 4) * 4;
            float codes[4] = {};
            if (row < count && depth + i < k) {
                four_codes<W>(w, (first + row) * k + depth + i, codes);
                const float scale =
                    W::SCALED ? scale_at(s, scale_first + row, depth + i, k) * W::UNIT : 1.0f;
                UNROLL
                for (u32 j = 0; j < 4; j++) {
                    codes[j] *= scale;
                }
            }
            UNROLL
            for (u32 j = 0; j < 4; j++) {
                tile[(i + j) * PITCH + row] = codes[j];
            }
        }
    }
};

DEVICE void load_rows(const Params& p, const float* x, u32 r0, u32 count, u32 depth, float* tile) {
    UNROLL
    for (u32 step = 0; step < SIDE * DEPTH / 4 / THREADS; step++) {
        const u32 at = step * THREADS + thread_x();
        const u32 row = at / (DEPTH / 4), i = at % (DEPTH / 4) * 4;
        Floats four = {};
        if (row < count && depth + i < p.k) {
            four = *(const Floats*)(x + x_row(p, r0 + row) + depth + i);
        }
        UNROLL
        for (u32 j = 0; j < 4; j++) {
            tile[(i + j) * PITCH + row] = four.value[j];
        }
    }
}

DEVICE void multiply(const float* rows, const float* columns, u32 r, u32 o, float (&sum)[4][4]) {
    UNROLL_BY_4
    for (u32 i = 0; i < DEPTH; i++) {
        const Floats a = *(const Floats*)(rows + i * PITCH + r);
        const Floats b = *(const Floats*)(columns + i * PITCH + o);
        UNROLL
        for (u32 m = 0; m < 4; m++) {
            UNROLL
            for (u32 n = 0; n < 4; n++) {
                sum[m][n] = fma_(a.value[m], b.value[n], sum[m][n]);
            }
        }
    }
}

// Rows `r0 .. end` (at most SIDE of them) by the outputs of `w`, and of `v` with `SECOND`,
// to columns from `column` on.
template <class W, bool SECOND>
DEVICE void tile(const Params& p, const float* x, u32 r0, u32 end, const WeightTile<W>& w,
                 const WeightTile<W>& v, u32 column, const float* residual, float* y) {
    SHARED(float, rows, DEPTH * PITCH);
    SHARED(float, gate, DEPTH * PITCH);
    SHARED(float, up, SECOND ? DEPTH * PITCH : 4);
    const u32 r = thread_x() / 16 * 4, o = thread_x() % 16 * 4;
    float sum[4][4] = {}, second[4][4] = {};
    for (u32 depth = 0; depth < p.k; depth += DEPTH) {
        barrier();
        load_rows(p, x, r0, min_(end - r0, SIDE), depth, rows);
        w.load(depth, gate);
        if (SECOND) {
            v.load(depth, up);
        }
        barrier();
        multiply(rows, gate, r, o, sum);
        if (SECOND) {
            multiply(rows, up, r, o, second);
        }
    }
    UNROLL
    for (u32 m = 0; m < 4 && r0 + r + m < end; m++) {
        UNROLL
        for (u32 n = 0; n < 4 && o + n < w.count; n++) {
            const u32 at = column + o + n;
            const float more = residual ? residual[b_row(p, r0 + r + m) + at] : 0.0f;
            y[y_row(p, r0 + r + m) + at] =
                SECOND ? silu(sum[m][n]) * second[m][n] : sum[m][n] + more;
        }
    }
}

template <class W, bool SECOND>
DEVICE void dense(const Params& p, const u32* inputs, const float* x, const u8* w,
                  const float* w_s, const u8* v, const float* v_s, const float* residual,
                  float* y) {
    const u32 rows = real_rows(p, inputs), r0 = group_z() * SIDE;
    const u64 at = spread_group() * SIDE;
    if (r0 >= rows || at >= p.row_count) {
        return;
    }
    const u32 first = (u32)at, count = min_(SIDE, p.row_count - first);
    const WeightTile<W> gate = {w, w_s, first, p.row_first + first, count, p.k};
    const WeightTile<W> up = {v, v_s, first, p.row_first + first, count, p.k};
    tile<W, SECOND>(p, x, r0, min_(rows, r0 + SIDE), gate, up, p.row_first + first, residual, y);
}

template <class W, bool SECOND>
DEVICE void grouped(const Params& p, const float* x, const u32* offsets, const u64* w,
                    const u64* w_s, const u64* v, const u64* v_s, float* y) {
    const u32 entry = group_z(), expert = p.expert_first + entry;
    const u64 at = spread_group() * SIDE;
    const u32 end = offsets[expert + 1];
    if (at >= p.n || offsets[expert] >= end) {
        return;
    }
    const u32 first = (u32)at, count = min_(SIDE, p.n - first);
    const WeightTile<W> gate = {in_memory<u8>(w[entry]), W::SCALED ? in_memory<float>(w_s[entry]) : 0,
                                first, first, count, p.k};
    const WeightTile<W> up = {SECOND ? in_memory<u8>(v[entry]) : 0,
                              SECOND && W::SCALED ? in_memory<float>(v_s[entry]) : 0,
                              first, first, count, p.k};
    for (u32 r0 = offsets[expert]; r0 < end; r0 += SIDE) {
        tile<W, SECOND>(p, x, r0, min_(end, r0 + SIDE), gate, up, first, (const float*)0, y);
    }
}

#define TILE(NAME, W)                                                                          \
    KERNEL(THREADS, linear_tile_##NAME, Params p, const u32* inputs, const float* x,           \
           const u8* w, float* y) {                                                            \
        wait_for_kernels();                                                                    \
        dense<W, false>(p, inputs, x, w, 0, 0, 0, 0, y);                                       \
    }                                                                                          \
    KERNEL(THREADS, linear_residual_tile_##NAME, Params p, const u32* inputs, const float* x,  \
           const u8* w, const float* residual, float* y) {                                     \
        wait_for_kernels();                                                                    \
        dense<W, false>(p, inputs, x, w, 0, 0, 0, residual, y);                                \
    }                                                                                          \
    KERNEL(THREADS, gate_up_tile_##NAME, Params p, const u32* inputs, const float* x,          \
           const u8* w, const u8* v, float* y) {                                               \
        wait_for_kernels();                                                                    \
        dense<W, true>(p, inputs, x, w, 0, v, 0, 0, y);                                        \
    }                                                                                          \
    KERNEL(THREADS, grouped_linear_tile_##NAME, Params p, const u32*, const float* x,          \
           const u32* offsets, const u64* w, float* y) {                                       \
        wait_for_kernels();                                                                    \
        grouped<W, false>(p, x, offsets, w, 0, 0, 0, y);                                       \
    }                                                                                          \
    KERNEL(THREADS, grouped_gate_up_tile_##NAME, Params p, const u32*, const float* x,         \
           const u32* offsets, const u64* w, const u64* v, float* y) {                         \
        wait_for_kernels();                                                                    \
        grouped<W, true>(p, x, offsets, w, 0, v, 0, y);                                        \
    }
FOR_UNSCALED(TILE)

KERNEL(THREADS, linear_tile_f8, Params p, const u32* inputs, const float* x, const u8* w,
       const float* s, float* y) {
    wait_for_kernels();
    dense<F8, false>(p, inputs, x, w, s, 0, 0, 0, y);
}
KERNEL(THREADS, linear_residual_tile_f8, Params p, const u32* inputs, const float* x, const u8* w,
       const float* s, const float* residual, float* y) {
    wait_for_kernels();
    dense<F8, false>(p, inputs, x, w, s, 0, 0, residual, y);
}
KERNEL(THREADS, gate_up_tile_f8, Params p, const u32* inputs, const float* x, const u8* w,
       const float* w_s, const u8* v, const float* v_s, float* y) {
    wait_for_kernels();
    dense<F8, true>(p, inputs, x, w, w_s, v, v_s, 0, y);
}
KERNEL(THREADS, grouped_linear_tile_f8, Params p, const u32*, const float* x, const u32* offsets,
       const u64* w, const u64* s, float* y) {
    wait_for_kernels();
    grouped<F8, false>(p, x, offsets, w, s, 0, 0, y);
}
KERNEL(THREADS, grouped_gate_up_tile_f8, Params p, const u32*, const float* x, const u32* offsets,
       const u64* w, const u64* w_s, const u64* v, const u64* v_s, float* y) {
    wait_for_kernels();
    grouped<F8, true>(p, x, offsets, w, w_s, v, v_s, y);
}
