// Products with the weights of experts for few rows, a wave for each one or two outputs.
// Grouped: rows sorted by expert; grid z over experts. Direct: row by row, each with its own
// choice's expert; grid z over rows. Both: x and y over blocks of outputs.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "dots.h"

static const int GROUPED_ROWS = 4;

// Weights and scales of outputs `o` and `o + 1` of an entry of a table, or of output `o` of
// the entries of two tables.
struct Entries {
    const u8* w[2];
    const float* s[2];
};

template <class W>
DEVICE Entries neighbours(const Params& p, const u64* w, const u64* s, u32 entry, u32 o) {
    const u32 next = min_(o + 1, p.n - 1);
    const u8* const start = in_memory<u8>(w[entry]);
    const float* const scales = W::SCALED ? in_memory<float>(s[entry]) : 0;
    const u64 length = (u64)p.k * W::BYTES;
    return {{start + o * length, start + next * length},
            {scales_of<W>(scales, o, p.k), scales_of<W>(scales, next, p.k)}};
}

template <class W>
DEVICE Entries pair(const Params& p, const u64* w, const u64* w_s, const u64* v, const u64* v_s,
                    u32 entry, u32 o) {
    const u64 start = (u64)o * p.k * W::BYTES;
    return {{in_memory<u8>(w[entry]) + start, in_memory<u8>(v[entry]) + start},
            {scales_of<W>(W::SCALED ? in_memory<float>(w_s[entry]) : 0, o, p.k),
             scales_of<W>(W::SCALED ? in_memory<float>(v_s[entry]) : 0, o, p.k)}};
}

// The outputs of rows `at[r]`, of which the first `count` are there, to rows `to + r`.
template <class W, bool WIDE, bool SECOND, int ROWS>
DEVICE void expert_rows(const Params& p, const Entries& of, const Plain (&x)[ROWS], u32 o, u32 to,
                        u32 count, float* y) {
    float sum[2][ROWS];
    dots<W, WIDE>(of.w, of.s, x, p.k, sum);
    UNROLL
    for (u32 r = 0; r < ROWS; r++) {
        if (r >= count) {
            break;
        }
        float* const out = y + y_row(p, to + r) + o;
        if (SECOND) {
            if (lane() == r) {
                out[0] = silu(sum[0][r]) * sum[1][r];
            }
        } else if (lane() == 2 * r) {
            out[0] = sum[0][r];
        } else if (lane() == 2 * r + 1 && o + 1 < p.n) {
            out[1] = sum[1][r];
        }
    }
}

template <class W, bool WIDE, bool SECOND>
DEVICE void grouped(const Params& p, const float* x, const u32* offsets, const u64* w,
                    const u64* w_s, const u64* v, const u64* v_s, float* y) {
    const u32 entry = group_z(), expert = p.expert_first + entry;
    const u32 outputs = SECOND ? 1 : 2;
    const u64 at = spread_group() * (outputs * DOT_WAVES) + outputs * wave();
    const u32 end = offsets[expert + 1];
    if (at >= p.n || offsets[expert] >= end) {
        return;
    }
    const u32 o = (u32)at;
    const Entries of = SECOND ? pair<W>(p, w, w_s, v, v_s, entry, o)
                              : neighbours<W>(p, w, w_s, entry, o);
    u32 first = offsets[expert];
    for (; first + 1 < end; first += GROUPED_ROWS) {
        Plain readers[GROUPED_ROWS];
        UNROLL
        for (u32 r = 0; r < GROUPED_ROWS; r++) {
            readers[r].x = x + x_row(p, min_(first + r, end - 1));
        }
        expert_rows<W, WIDE, SECOND>(p, of, readers, o, first, end - first, y);
    }
    // An expert of few tokens has one row, or one is left.
    if (first < end) {
        Plain readers[1];
        readers[0].x = x + x_row(p, first);
        expert_rows<W, WIDE, SECOND>(p, of, readers, o, first, 1, y);
    }
}

template <class W, bool WIDE, bool SECOND>
DEVICE void direct(const Params& p, const u32* inputs, const float* x, const u32* idx,
                   const u64* w, const u64* w_s, const u64* v, const u64* v_s, float* y) {
    const u32 row = group_z(), outputs = SECOND ? 1 : 2;
    const u64 at = spread_group() * (outputs * DOT_WAVES) + outputs * wave();
    if (row >= real_rows(p, inputs) || at >= p.n) {
        return;
    }
    const u32 entry = idx[row] - p.expert_first;
    if (entry >= p.expert_count) {
        return;
    }
    const u32 o = (u32)at;
    const Entries of = SECOND ? pair<W>(p, w, w_s, v, v_s, entry, o)
                              : neighbours<W>(p, w, w_s, entry, o);
    Plain readers[1];
    readers[0].x = x + x_row(p, p.flags & ROW_PER_TOKEN ? row / p.top_k : row);
    expert_rows<W, WIDE, SECOND>(p, of, readers, o, row, 1, y);
}

#define EXPERTS(NAME, W, WIDE)                                                                 \
    KERNEL(DOT_THREADS, grouped_linear_##NAME, Params p, const u32*, const float* x,           \
           const u32* offsets, const u64* w, float* y) {                                       \
        wait_for_kernels();                                                                    \
        grouped<W, WIDE, false>(p, x, offsets, w, 0, 0, 0, y);                                 \
    }                                                                                          \
    KERNEL(DOT_THREADS, grouped_gate_up_##NAME, Params p, const u32*, const float* x,          \
           const u32* offsets, const u64* w, const u64* v, float* y) {                         \
        wait_for_kernels();                                                                    \
        grouped<W, WIDE, true>(p, x, offsets, w, 0, v, 0, y);                                  \
    }                                                                                          \
    KERNEL(DOT_THREADS, expert_linear_##NAME, Params p, const u32* inputs, const float* x,     \
           const u32* idx, const u64* w, float* y) {                                           \
        wait_for_kernels();                                                                    \
        direct<W, WIDE, false>(p, inputs, x, idx, w, 0, 0, 0, y);                              \
    }                                                                                          \
    KERNEL(DOT_THREADS, expert_gate_up_##NAME, Params p, const u32* inputs, const float* x,    \
           const u32* idx, const u64* w, const u64* v, float* y) {                             \
        wait_for_kernels();                                                                    \
        direct<W, WIDE, true>(p, inputs, x, idx, w, 0, v, 0, y);                               \
    }
#define SCALED_EXPERTS(NAME, WIDE)                                                             \
    KERNEL(DOT_THREADS, grouped_linear_##NAME, Params p, const u32*, const float* x,           \
           const u32* offsets, const u64* w, const u64* s, float* y) {                         \
        wait_for_kernels();                                                                    \
        grouped<F8, WIDE, false>(p, x, offsets, w, s, 0, 0, y);                                \
    }                                                                                          \
    KERNEL(DOT_THREADS, grouped_gate_up_##NAME, Params p, const u32*, const float* x,          \
           const u32* offsets, const u64* w, const u64* w_s, const u64* v, const u64* v_s,     \
           float* y) {                                                                         \
        wait_for_kernels();                                                                    \
        grouped<F8, WIDE, true>(p, x, offsets, w, w_s, v, v_s, y);                             \
    }                                                                                          \
    KERNEL(DOT_THREADS, expert_linear_##NAME, Params p, const u32* inputs, const float* x,     \
           const u32* idx, const u64* w, const u64* s, float* y) {                             \
        wait_for_kernels();                                                                    \
        direct<F8, WIDE, false>(p, inputs, x, idx, w, s, 0, 0, y);                             \
    }                                                                                          \
    KERNEL(DOT_THREADS, expert_gate_up_##NAME, Params p, const u32* inputs, const float* x,    \
           const u32* idx, const u64* w, const u64* w_s, const u64* v, const u64* v_s,         \
           float* y) {                                                                         \
        wait_for_kernels();                                                                    \
        direct<F8, WIDE, true>(p, inputs, x, idx, w, w_s, v, v_s, y);                          \
    }
#define ALL_EXPERTS(NAME, W) EXPERTS(NAME##_wide, W, true) EXPERTS(NAME, W, false)
FOR_UNSCALED(ALL_EXPERTS)
SCALED_EXPERTS(f8_wide, true)
SCALED_EXPERTS(f8, false)
