// Products with weights in the block formats of GGUF: a wave for an output, or for an output of
// each of two weights; its lanes walk along the row by sixteens. One kernel serves all formats:
// which it is, is the same for all threads.

#include "portable.h"
#include "params.h"
#include "patterns.h"
#include "blocks.h"
#include "formats.h"

static const u32 FORMAT_SHIFT = 24;
static const u32 DOT_THREADS = 128, DOT_WAVES = DOT_THREADS / WAVE, ROWS_AT_ONCE = 4;

// `sum[o][r] = dot(x[r], w[o])`, the same in all lanes.
template <int OUTPUTS, int ROWS>
DEVICE void block_dots(u32 format, const u8* const (&w)[OUTPUTS], const float* const (&x)[ROWS],
                       u32 k, float (&sum)[OUTPUTS][ROWS]) {
    UNROLL
    for (int o = 0; o < OUTPUTS; o++) {
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            sum[o][r] = 0.0f;
        }
    }
    for (u32 at = lane(); at < k / 16; at += WAVE) {
        for (int o = 0; o < OUTPUTS; o++) {
            Sixteen of;
            take_sixteen(format, o ? w[OUTPUTS - 1] : w[0], at, of);
            UNROLL
            for (int r = 0; r < ROWS; r++) {
                float part = 0.0f, total = 0.0f;
                UNROLL
                for (u32 i = 0; i < 16; i++) {
                    const float value = x[r][16 * at + i];
                    part = fma_(value, (float)of.code[i], part);
                    total += value;
                }
                const float added = fma_(part, of.scale, -total * of.minimum);
                if (o) {
                    sum[OUTPUTS - 1][r] += added;
                } else {
                    sum[0][r] += added;
                }
            }
        }
    }
    UNROLL
    for (int o = 0; o < OUTPUTS; o++) {
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            sum[o][r] = wave_sum(sum[o][r]);
        }
    }
}

// The product of a row, of both weights if there are two.
template <int OUTPUTS, int ROWS>
DEVICE float product(const float (&sum)[OUTPUTS][ROWS], int r) {
    return OUTPUTS == 2 ? silu(sum[0][r]) * sum[OUTPUTS - 1][r] : sum[0][r];
}

template <int OUTPUTS, int ROWS>
DEVICE void linear(const Params& p, const u32* inputs, const float* x, const u8* w, const u8* v,
                   const float* residual, float* y) {
    const u32 rows = real_rows(p, inputs), r0 = group_z() * ROWS;
    const u64 at = spread_group() * DOT_WAVES + wave();
    if (r0 >= rows || at >= p.row_count) {
        return;
    }
    const u32 o = (u32)at, format = p.flags >> FORMAT_SHIFT;
    const u64 start = o * row_bytes(format, p.k);
    const u8* weights[OUTPUTS];
    weights[0] = w + start;
    if (OUTPUTS == 2) {
        weights[OUTPUTS - 1] = v + start;
    }
    const float* starts[ROWS];
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        starts[r] = x + x_row(p, min_(r0 + r, rows - 1));
    }
    float sum[OUTPUTS][ROWS];
    block_dots<OUTPUTS, ROWS>(format, weights, starts, p.k, sum);
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        if (lane() == (u32)r && r0 + r < rows) {
            const u32 column = p.row_first + o;
            const float more = residual ? residual[b_row(p, r0 + r) + column] : 0.0f;
            y[y_row(p, r0 + r) + column] = product<OUTPUTS, ROWS>(sum, r) + more;
        }
    }
}

// The product of row `from` with output `o` of an expert, or of both its weights.
template <int OUTPUTS>
DEVICE void expert_row(const Params& p, const float* x, const u64* w, const u64* v, u32 entry,
                       u32 from, u32 to, float* y) {
    const u64 o = spread_group() * DOT_WAVES + wave();
    if (o >= p.n) {
        return;
    }
    const u32 format = p.flags >> FORMAT_SHIFT;
    const u64 start = o * row_bytes(format, p.k);
    const u8* weights[OUTPUTS];
    weights[0] = in_memory<u8>(w[entry]) + start;
    if (OUTPUTS == 2) {
        weights[OUTPUTS - 1] = in_memory<u8>(v[entry]) + start;
    }
    const float* const starts[1] = {x + x_row(p, from)};
    float sum[OUTPUTS][1];
    block_dots<OUTPUTS, 1>(format, weights, starts, p.k, sum);
    if (lane() == 0) {
        y[y_row(p, to) + o] = product<OUTPUTS, 1>(sum, 0);
    }
}

// A row of those sorted by expert. Its expert is looked up: a walk over the rows of an expert
// around the products would keep more constants than AMD's scalar registers hold.
template <int OUTPUTS>
DEVICE void grouped(const Params& p, const float* x, const u32* offsets, const u64* w,
                    const u64* v, float* y) {
    const u32 row = group_z();
    const u32* const first = offsets + p.expert_first;
    u32 entry = 0, end = p.expert_count;
    if (row < first[0] || row >= first[end]) {
        return;
    }
    // The row lies between the first of `entry` and that of `end`.
    while (end - entry > 1) {
        const u32 middle = entry + (end - entry) / 2;
        if (row < first[middle]) {
            end = middle;
        } else {
            entry = middle;
        }
    }
    expert_row<OUTPUTS>(p, x, w, v, entry, row, row, y);
}

template <int OUTPUTS>
DEVICE void direct(const Params& p, const u32* inputs, const float* x, const u32* idx,
                   const u64* w, const u64* v, float* y) {
    const u32 row = group_z();
    if (row >= real_rows(p, inputs)) {
        return;
    }
    const u32 entry = idx[row] - p.expert_first;
    if (entry < p.expert_count) {
        const u32 from = p.flags & ROW_PER_TOKEN ? row / p.top_k : row;
        expert_row<OUTPUTS>(p, x, w, v, entry, from, row, y);
    }
}

#define LINEAR(NAME, ROWS)                                                                     \
    KERNEL(DOT_THREADS, linear_##NAME, Params p, const u32* inputs, const float* x,            \
           const u8* w, float* y) {                                                            \
        wait_for_kernels();                                                                    \
        linear<1, ROWS>(p, inputs, x, w, 0, 0, y);                                             \
    }                                                                                          \
    KERNEL(DOT_THREADS, linear_residual_##NAME, Params p, const u32* inputs, const float* x,   \
           const u8* w, const float* residual, float* y) {                                     \
        wait_for_kernels();                                                                    \
        linear<1, ROWS>(p, inputs, x, w, 0, residual, y);                                      \
    }
LINEAR(blocks_1, 1)
LINEAR(blocks, 4)

// A row at a time: with two weights the registers of more would not do.
KERNEL(DOT_THREADS, gate_up_blocks, Params p, const u32* inputs, const float* x, const u8* w,
       const u8* v, float* y) {
    wait_for_kernels();
    linear<2, 1>(p, inputs, x, w, v, 0, y);
}

KERNEL(DOT_THREADS, grouped_linear_blocks, Params p, const u32*, const float* x,
       const u32* offsets, const u64* w, float* y) {
    wait_for_kernels();
    grouped<1>(p, x, offsets, w, 0, y);
}
KERNEL(DOT_THREADS, grouped_gate_up_blocks, Params p, const u32*, const float* x,
       const u32* offsets, const u64* w, const u64* v, float* y) {
    wait_for_kernels();
    grouped<2>(p, x, offsets, w, v, y);
}
KERNEL(DOT_THREADS, expert_linear_blocks, Params p, const u32* inputs, const float* x,
       const u32* idx, const u64* w, float* y) {
    wait_for_kernels();
    direct<1>(p, inputs, x, idx, w, 0, y);
}
KERNEL(DOT_THREADS, expert_gate_up_blocks, Params p, const u32* inputs, const float* x,
       const u32* idx, const u64* w, const u64* v, float* y) {
    wait_for_kernels();
    direct<2>(p, inputs, x, idx, w, v, y);
}

// Plain: a wave for an output of a head; grid x over blocks of outputs, y over heads, z over
// blocks of four rows.
KERNEL(DOT_THREADS, head_linear_blocks, Params p, const u32* inputs, const float* x, const u8* w,
       float* y) {
    wait_for_kernels();
    const u32 rows = real_rows(p, inputs), r0 = group_z() * ROWS_AT_ONCE, a = group_y();
    const u32 o = group_x() * DOT_WAVES + wave(), format = p.flags >> FORMAT_SHIFT;
    if (r0 >= rows || o >= p.n) {
        return;
    }
    const u64 row = (u64)a * p.head_rows + p.head_first + o;
    const u8* const weights[1] = {w + row * row_bytes(format, p.k)};
    const float* starts[ROWS_AT_ONCE];
    UNROLL
    for (u32 r = 0; r < ROWS_AT_ONCE; r++) {
        starts[r] = x + x_row(p, min_(r0 + r, rows - 1)) + (u64)a * p.x_head_stride;
    }
    float sum[1][ROWS_AT_ONCE];
    block_dots<1, (int)ROWS_AT_ONCE>(format, weights, starts, p.k, sum);
    UNROLL
    for (u32 r = 0; r < ROWS_AT_ONCE; r++) {
        if (lane() == r && r0 + r < rows) {
            y[y_row(p, r0 + r) + (u64)a * p.y_head_stride + o] = sum[0][r];
        }
    }
}

// Transposed: a thread for sixteen columns of a head and row; grid x over blocks of threads, y
// over heads, z over rows.
KERNEL(DOT_THREADS, head_linear_transposed_blocks, Params p, const u32* inputs, const float* x,
       const u8* w, float* y) {
    wait_for_kernels();
    const u32 r = group_z(), a = group_y(), at = group_x() * DOT_THREADS + thread_x();
    if (r >= real_rows(p, inputs) || at >= p.n / 16) {
        return;
    }
    const u32 format = p.flags >> FORMAT_SHIFT;
    const u64 length = row_bytes(format, p.n), first = (u64)a * p.head_rows + p.head_first;
    const float* const row = x + x_row(p, r) + (u64)a * p.x_head_stride;
    float sum[16] = {};
    for (u32 i = 0; i < p.k; i++) {
        Sixteen of;
        take_sixteen(format, w + (first + i) * length, at, of);
        UNROLL
        for (u32 j = 0; j < 16; j++) {
            const float weight = fma_(of.scale, (float)of.code[j], -of.minimum);
            sum[j] = fma_(row[i], weight, sum[j]);
        }
    }
    float* const out = y + y_row(p, r) + (u64)a * p.y_head_stride + 16 * at;
    UNROLL
    for (u32 j = 0; j < 16; j++) {
        out[j] = sum[j];
    }
}

// The numbers of a weight's rows, a head at a time; transposed: with rows and columns exchanged.
// Grid: x over blocks of threads with sixteen values of a row each, y over heads.
KERNEL(DOT_THREADS, unpack_heads_blocks, Params p, const u32* inputs, const u8* w, float* y) {
    wait_for_kernels();
    const u32 a = group_y(), at = group_x() * DOT_THREADS + thread_x(), sixteens = p.k / 16;
    const u32 i = at / sixteens, c = at % sixteens;
    if (a >= real_rows(p, inputs) || i >= p.head_rows) {
        return;
    }
    const u32 format = p.flags >> FORMAT_SHIFT;
    const u64 row = (u64)a * p.head_rows + i;
    const bool turned = p.flags & TRANSPOSED;
    Sixteen of;
    take_sixteen(format, w + row * row_bytes(format, p.k), c, of);
    UNROLL
    for (u32 j = 0; j < 16; j++) {
        const u64 vector = turned ? 16 * c + j : i;
        y[y_row(p, a) + vector * p.y_head_stride + (turned ? i : 16 * c + j)] =
            fma_(of.scale, (float)of.code[j], -of.minimum);
    }
}

// Grid: x over blocks of threads with sixteen values each, y over rows.
KERNEL(DOT_THREADS, embed_blocks, Params p, const u32* inputs, const u8* w, float* y) {
    wait_for_kernels();
    const u32 at = group_x() * DOT_THREADS + thread_x(), r = group_y();
    if (r >= real_rows(p, inputs) || at >= p.n / 16) {
        return;
    }
    const u32 id = token_id(inputs, r), format = p.flags >> FORMAT_SHIFT;
    if (id < p.row_first || id - p.row_first >= p.row_count) {
        return;
    }
    Sixteen of;
    take_sixteen(format, w + (id - p.row_first) * row_bytes(format, p.n), at, of);
    UNROLL
    for (u32 j = 0; j < 16; j++) {
        y[y_row(p, r) + 16 * at + j] = fma_(of.scale, (float)of.code[j], -of.minimum);
    }
}
