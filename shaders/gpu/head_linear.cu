// Products of each head's values with its slice of a weight. Plain: a wave for two outputs,
// grid x over blocks of outputs, y over heads, z over blocks of four rows. Transposed: a
// thread for four columns (packed) or one, four waves or two sharing the sum; grid x over
// blocks of 64 threads' columns, y over heads, z over blocks of four rows. Unpacking: a thread a
// value; grid x over blocks of threads, y over heads.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "dots.h"

static const int ROWS = 4;

template <class W, bool WIDE>
DEVICE void plain(const Params& p, const u32* inputs, const float* x, const u8* w, const float* s,
                  float* y) {
    const u32 rows = real_rows(p, inputs), r0 = group_z() * ROWS, a = group_y();
    const u32 o = group_x() * (2 * DOT_WAVES) + 2 * wave();
    if (r0 >= rows || o >= p.n) {
        return;
    }
    const u64 row = (u64)a * p.head_rows + p.head_first + o;
    const u64 next = row + (o + 1 < p.n ? 1 : 0);
    const u64 length = (u64)p.k * W::BYTES;
    const u8* const weights[2] = {w + row * length, w + next * length};
    const float* const scales[2] = {scales_of<W>(s, row, p.k), scales_of<W>(s, next, p.k)};
    Plain readers[ROWS];
    UNROLL
    for (u32 r = 0; r < ROWS; r++) {
        readers[r].x = x + x_row(p, min_(r0 + r, rows - 1)) + (u64)a * p.x_head_stride;
    }
    float sum[2][ROWS];
    dots<W, WIDE>(weights, scales, readers, p.k, sum);
    UNROLL
    for (u32 i = 0; i < 2; i++) {
        UNROLL
        for (u32 r = 0; r < ROWS; r++) {
            if (lane() == i * ROWS + r && r0 + r < rows && o + i < p.n) {
                y[y_row(p, r0 + r) + (u64)a * p.y_head_stride + o + i] = sum[i][r];
            }
        }
    }
}

// Threads, columns' threads of them, and parts of the sum.
static const u32 THREADS = 256, COLUMN_THREADS = 64, PARTS = THREADS / COLUMN_THREADS;

template <class W, int COLUMNS>
DEVICE void transposed(const Params& p, const u32* inputs, const float* x, const u8* w,
                       const float* s, float* y) {
    SHARED(float, parts, PARTS * COLUMN_THREADS * COLUMNS);
    const u32 rows = real_rows(p, inputs), r0 = group_z() * ROWS, a = group_y();
    const u32 column_thread = thread_x() % COLUMN_THREADS, part = thread_x() / COLUMN_THREADS;
    const u32 c = (group_x() * COLUMN_THREADS + column_thread) * COLUMNS;
    if (r0 >= rows) {
        return;
    }
    const float* heads[ROWS];
    UNROLL
    for (u32 r = 0; r < ROWS; r++) {
        heads[r] = x + x_row(p, min_(r0 + r, rows - 1)) + (u64)a * p.x_head_stride;
    }
    float sum[ROWS][COLUMNS] = {};
    const u64 first = (u64)a * p.head_rows + p.head_first;
    for (u32 i = part; i < p.k && c < p.n; i += PARTS) {
        const u64 at = (first + i) * p.n + c;
        float codes[4];
        if (COLUMNS == 4) {
            four_codes<W>(w, at, codes);
        } else {
            codes[0] = W::one(w, at);
        }
        const float scale = W::SCALED ? scale_at(s, first + i, c, p.n) * W::UNIT : 1.0f;
        UNROLL
        for (u32 r = 0; r < ROWS; r++) {
            const float value = heads[r][i] * scale;
            UNROLL
            for (u32 j = 0; j < COLUMNS; j++) {
                sum[r][j] = fma_(value, codes[j], sum[r][j]);
            }
        }
    }
    UNROLL
    for (u32 r = 0; r < ROWS && r0 + r < rows; r++) {
        UNROLL
        for (u32 j = 0; j < COLUMNS; j++) {
            parts[thread_x() * COLUMNS + j] = sum[r][j];
        }
        barrier();
        if (part == 0 && c < p.n) {
            float* const out = y + y_row(p, r0 + r) + (u64)a * p.y_head_stride + c;
            UNROLL
            for (u32 j = 0; j < COLUMNS; j++) {
                float total = 0.0f;
                UNROLL
                for (u32 i = 0; i < PARTS; i++) {
                    total += parts[(i * COLUMN_THREADS + column_thread) * COLUMNS + j];
                }
                out[j] = total;
            }
        }
        barrier();
    }
}

template <class W>
DEVICE void unpack(const Params& p, const u32* inputs, const u8* w, const float* s, float* y) {
    const u32 a = group_y(), at = group_x() * THREADS + thread_x();
    const u32 i = at / p.k, c = at % p.k;
    if (a >= real_rows(p, inputs) || i >= p.head_rows) {
        return;
    }
    const u32 row = a * p.head_rows + i;
    const float scale = W::SCALED ? scale_at(s, row, c, p.k) * W::UNIT : 1.0f;
    const bool turned = p.flags & TRANSPOSED;
    const u64 vector = turned ? c : i;
    y[y_row(p, a) + vector * p.y_head_stride + (turned ? i : c)] =
        W::one(w, (u64)row * p.k + c) * scale;
}

#define HEAD_LINEAR(NAME, W)                                                                   \
    KERNEL(DOT_THREADS, head_linear_##NAME##_wide, Params p, const u32* inputs,                \
           const float* x, const u8* w, float* y) {                                            \
        wait_for_kernels();                                                                    \
        plain<W, true>(p, inputs, x, w, 0, y);                                                 \
    }                                                                                          \
    KERNEL(DOT_THREADS, head_linear_##NAME, Params p, const u32* inputs, const float* x,       \
           const u8* w, float* y) {                                                            \
        wait_for_kernels();                                                                    \
        plain<W, false>(p, inputs, x, w, 0, y);                                                \
    }                                                                                          \
    KERNEL(THREADS, head_linear_transposed_##NAME##_packed, Params p, const u32* inputs,       \
           const float* x, const u8* w, float* y) {                                            \
        wait_for_kernels();                                                                    \
        transposed<W, 4>(p, inputs, x, w, 0, y);                                               \
    }                                                                                          \
    KERNEL(THREADS, head_linear_transposed_##NAME, Params p, const u32* inputs,                \
           const float* x, const u8* w, float* y) {                                            \
        wait_for_kernels();                                                                    \
        transposed<W, 1>(p, inputs, x, w, 0, y);                                               \
    }                                                                                          \
    KERNEL(THREADS, unpack_heads_##NAME, Params p, const u32* inputs, const u8* w, float* y) { \
        wait_for_kernels();                                                                    \
        unpack<W>(p, inputs, w, 0, y);                                                         \
    }
FOR_UNSCALED(HEAD_LINEAR)

KERNEL(DOT_THREADS, head_linear_f8_wide, Params p, const u32* inputs, const float* x, const u8* w,
       const float* s, float* y) {
    wait_for_kernels();
    plain<F8, true>(p, inputs, x, w, s, y);
}
KERNEL(DOT_THREADS, head_linear_f8, Params p, const u32* inputs, const float* x, const u8* w,
       const float* s, float* y) {
    wait_for_kernels();
    plain<F8, false>(p, inputs, x, w, s, y);
}
KERNEL(THREADS, head_linear_transposed_f8_packed, Params p, const u32* inputs, const float* x,
       const u8* w, const float* s, float* y) {
    wait_for_kernels();
    transposed<F8, 4>(p, inputs, x, w, s, y);
}
KERNEL(THREADS, head_linear_transposed_f8, Params p, const u32* inputs, const float* x,
       const u8* w, const float* s, float* y) {
    wait_for_kernels();
    transposed<F8, 1>(p, inputs, x, w, s, y);
}
KERNEL(THREADS, unpack_heads_f8, Params p, const u32* inputs, const u8* w, const float* s,
       float* y) {
    wait_for_kernels();
    unpack<F8>(p, inputs, w, s, y);
}
