// Products with a weight for few rows: `linear`, `linear_residual`, `gate_up`, `norm_linear`.
// A wave has one to four outputs, which share what it reads of the rows.
// Grid: x and y over blocks of outputs, z over blocks of rows.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "dots.h"

// Lines of weights that a wave reads side by side.
template <bool WIDE, int ROWS> struct Lines {
    static const int COUNT = WIDE && ROWS > 1 ? 4 : 2;
};

// Row `r0 + r`, or the last one.
template <int ROWS>
DEVICE void rows_of(const Params& p, const float* x, u32 r0, u32 rows, const float* (&out)[ROWS]) {
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        out[r] = x + x_row(p, min_(r0 + r, rows - 1));
    }
}

// Output `o` of row `r0 + r`, written by a lane of its own.
template <int OUTPUTS, int ROWS>
DEVICE void store_dots(const Params& p, const float (&sum)[OUTPUTS][ROWS], u32 o, u32 r0,
                       u32 rows, const float* residual, float* y) {
    UNROLL
    for (int i = 0; i < OUTPUTS; i++) {
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            if (lane() != (u32)(i * ROWS + r) || r0 + r >= rows || o + i >= p.row_count) {
                continue;
            }
            const u32 column = p.row_first + o + i;
            const float more = residual ? residual[b_row(p, r0 + r) + column] : 0.0f;
            y[y_row(p, r0 + r) + column] = sum[i][r] + more;
        }
    }
}

template <class W, bool WIDE, int ROWS>
DEVICE void linear(const Params& p, const u32* inputs, const float* x, const u8* w, const float* s,
                   const float* residual, float* y) {
    const int OUTPUTS = Lines<WIDE, ROWS>::COUNT;
    const u32 rows = real_rows(p, inputs), r0 = group_z() * ROWS;
    const u64 first = spread_group() * (OUTPUTS * DOT_WAVES) + OUTPUTS * wave();
    if (r0 >= rows || first >= p.row_count) {
        return;
    }
    const u32 o = (u32)first;
    const u8* weights[OUTPUTS];
    const float* scales[OUTPUTS];
    UNROLL
    for (int i = 0; i < OUTPUTS; i++) {
        const u32 each = min_(o + i, p.row_count - 1);
        weights[i] = w + (u64)each * p.k * W::BYTES;
        scales[i] = scales_of<W>(s, p.row_first + each, p.k);
    }
    const float* starts[ROWS];
    rows_of(p, x, r0, rows, starts);
    Plain readers[ROWS];
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        readers[r].x = starts[r];
    }
    float sum[OUTPUTS][ROWS];
    dots<W, WIDE, OUTPUTS, ROWS>(weights, scales, readers, p.k, sum);
    store_dots(p, sum, o, r0, rows, residual, y);
}

template <class W, bool WIDE, int ROWS>
DEVICE void gate_up(const Params& p, const u32* inputs, const float* x, const u8* w,
                    const float* w_s, const u8* v, const float* v_s, float* y) {
    const int OUTPUTS = Lines<WIDE, ROWS>::COUNT / 2;
    const u32 rows = real_rows(p, inputs), r0 = group_z() * ROWS;
    const u64 first = spread_group() * (OUTPUTS * DOT_WAVES) + OUTPUTS * wave();
    if (r0 >= rows || first >= p.row_count) {
        return;
    }
    const u32 o = (u32)first;
    // The gates and then as many of the others.
    const u8* weights[2 * OUTPUTS];
    const float* scales[2 * OUTPUTS];
    UNROLL
    for (int i = 0; i < OUTPUTS; i++) {
        const u32 each = min_(o + i, p.row_count - 1);
        const u64 start = (u64)each * p.k * W::BYTES;
        weights[i] = w + start;
        weights[OUTPUTS + i] = v + start;
        scales[i] = scales_of<W>(w_s, p.row_first + each, p.k);
        scales[OUTPUTS + i] = scales_of<W>(v_s, p.row_first + each, p.k);
    }
    const float* starts[ROWS];
    rows_of(p, x, r0, rows, starts);
    Plain readers[ROWS];
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        readers[r].x = starts[r];
    }
    float sum[2 * OUTPUTS][ROWS], out[OUTPUTS][ROWS];
    dots<W, WIDE, 2 * OUTPUTS, ROWS>(weights, scales, readers, p.k, sum);
    UNROLL
    for (int i = 0; i < OUTPUTS * ROWS; i++) {
        const int o = i / ROWS, r = i % ROWS;
        out[o][r] = silu(sum[o][r]) * sum[OUTPUTS + o][r];
    }
    store_dots(p, out, o, r0, rows, (const float*)0, y);
}

// Each wave finds the row's length itself: the row is small, and stays in the caches. One row
// leaves the registers for two outputs.
template <class W, class N, int ROWS>
DEVICE void norm_linear(const Params& p, const u32* inputs, const float* x, const u8* n,
                        const u8* w, const float* s, float* y) {
    const int OUTPUTS = ROWS == 1 ? 2 : 1;
    const u32 rows = real_rows(p, inputs), r0 = group_z() * ROWS;
    const u64 first = spread_group() * (OUTPUTS * DOT_WAVES) + OUTPUTS * wave();
    if (r0 >= rows || first >= p.row_count) {
        return;
    }
    const u64 length = (u64)p.k * W::BYTES;
    const u8* weights[OUTPUTS];
    const float* scales[OUTPUTS];
    UNROLL
    for (int i = 0; i < OUTPUTS; i++) {
        const u32 o = min_((u32)first + i, p.row_count - 1);
        weights[i] = w + o * length;
        scales[i] = scales_of<W>(s, p.row_first + o, p.k);
    }
    const float* starts[ROWS];
    rows_of(p, x, r0, rows, starts);
    Normed<N> readers[ROWS];
    float sum[OUTPUTS][ROWS];
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        readers[r].x = starts[r];
        readers[r].n = n;
    }
    dots<W, true, OUTPUTS, ROWS>(weights, scales, readers, p.k, sum);
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        float squares = 0.0f;
        for (u32 i = 4 * lane(); i < p.k; i += 4 * WAVE) {
            const Floats four = *(const Floats*)(starts[r] + i);
            UNROLL
            for (u32 j = 0; j < 4; j++) {
                squares = fma_(four.value[j], four.value[j], squares);
            }
        }
        const float factor = 1.0f / sqrt_(wave_sum(squares) / (float)p.k + p.eps);
        UNROLL
        for (int i = 0; i < OUTPUTS; i++) {
            sum[i][r] *= factor;
        }
    }
    store_dots(p, sum, (u32)first, r0, rows, (const float*)0, y);
}

#define LINEAR(NAME, W, WIDE, ROWS)                                                            \
    KERNEL(DOT_THREADS, linear_##NAME, Params p, const u32* inputs, const float* x,            \
           const u8* w, float* y) {                                                            \
        wait_for_kernels();                                                                    \
        linear<W, WIDE, ROWS>(p, inputs, x, w, 0, 0, y);                                       \
    }                                                                                          \
    KERNEL(DOT_THREADS, linear_residual_##NAME, Params p, const u32* inputs, const float* x,   \
           const u8* w, const float* residual, float* y) {                                     \
        wait_for_kernels();                                                                    \
        linear<W, WIDE, ROWS>(p, inputs, x, w, 0, residual, y);                                \
    }                                                                                          \
    KERNEL(DOT_THREADS, gate_up_##NAME, Params p, const u32* inputs, const float* x,           \
           const u8* w, const u8* v, float* y) {                                               \
        wait_for_kernels();                                                                    \
        gate_up<W, WIDE, ROWS>(p, inputs, x, w, 0, v, 0, y);                                   \
    }
#define SCALED_LINEAR(NAME, WIDE, ROWS)                                                        \
    KERNEL(DOT_THREADS, linear_##NAME, Params p, const u32* inputs, const float* x,            \
           const u8* w, const float* s, float* y) {                                            \
        wait_for_kernels();                                                                    \
        linear<F8, WIDE, ROWS>(p, inputs, x, w, s, 0, y);                                      \
    }                                                                                          \
    KERNEL(DOT_THREADS, linear_residual_##NAME, Params p, const u32* inputs, const float* x,   \
           const u8* w, const float* s, const float* residual, float* y) {                     \
        wait_for_kernels();                                                                    \
        linear<F8, WIDE, ROWS>(p, inputs, x, w, s, residual, y);                               \
    }                                                                                          \
    KERNEL(DOT_THREADS, gate_up_##NAME, Params p, const u32* inputs, const float* x,           \
           const u8* w, const float* w_s, const u8* v, const float* v_s, float* y) {           \
        wait_for_kernels();                                                                    \
        gate_up<F8, WIDE, ROWS>(p, inputs, x, w, w_s, v, v_s, y);                              \
    }
#define LINEARS(NAME, W)                                                                       \
    LINEAR(NAME##_wide_1, W, true, 1)                                                          \
    LINEAR(NAME##_wide_4, W, true, 4)                                                          \
    LINEAR(NAME, W, false, 4)
FOR_UNSCALED(LINEARS)
SCALED_LINEAR(f8_wide_1, true, 1)
SCALED_LINEAR(f8_wide_4, true, 4)
SCALED_LINEAR(f8, false, 4)

#define NORM_LINEAR(NAME, W, N, ROWS)                                                          \
    KERNEL(DOT_THREADS, NAME, Params p, const u32* inputs, const float* x, const u8* n,        \
           const u8* w, float* y) {                                                            \
        wait_for_kernels();                                                                    \
        norm_linear<W, N, ROWS>(p, inputs, x, n, w, 0, y);                                     \
    }
#define SCALED_NORM_LINEAR(NAME, N, ROWS)                                                      \
    KERNEL(DOT_THREADS, NAME, Params p, const u32* inputs, const float* x, const u8* n,        \
           const u8* w, const float* s, float* y) {                                            \
        wait_for_kernels();                                                                    \
        norm_linear<F8, N, ROWS>(p, inputs, x, n, w, s, y);                                    \
    }
#define NORM_LINEARS(NAME, W)                                                                  \
    NORM_LINEAR(norm_linear_##NAME##_1, W, F32, 1)                                             \
    NORM_LINEAR(norm_linear_##NAME##_4, W, F32, 4)                                             \
    NORM_LINEAR(norm_bf16_linear_##NAME##_1, W, Bf16, 1)                                       \
    NORM_LINEAR(norm_bf16_linear_##NAME##_4, W, Bf16, 4)
FOR_UNSCALED(NORM_LINEARS)
SCALED_NORM_LINEAR(norm_linear_f8_1, F32, 1)
SCALED_NORM_LINEAR(norm_linear_f8_4, F32, 4)
SCALED_NORM_LINEAR(norm_bf16_linear_f8_1, Bf16, 1)
SCALED_NORM_LINEAR(norm_bf16_linear_f8_4, Bf16, 4)
