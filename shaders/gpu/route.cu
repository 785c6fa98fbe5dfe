// The router and the order of its choices, all on the device.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "reduce.h"

static const u32 THREADS = 256, MOST_EXPERTS = 1024, MOST_CHOICES = 64;
static const float LOWEST = -3.4e38f;

// The order of experts must be total, or a choice would stay unwritten: what is not a number
// counts as the worst score.
DEVICE float ranked(float score) { return score != score ? LOWEST : score; }

// The members of all groups but the best `kept_groups` leave the choice.
DEVICE void mask_groups(const Params& p, float* selection, float* group_scores) {
    const u32 size = p.experts / p.groups;
    for (u32 g = thread_x(); g < p.groups; g += THREADS) {
        float best = LOWEST, second = LOWEST;
        for (u32 e = g * size; e < (g + 1) * size; e++) {
            const float b = selection[e];
            second = max_(second, b < best ? b : best);
            best = max_(best, b);
        }
        group_scores[g] = p.flags & GROUP_MAX ? best : best + second;
    }
    barrier();
    for (u32 e = thread_x(); e < p.experts; e += THREADS) {
        const u32 g = e / size;
        u32 rank = 0;
        for (u32 other = 0; other < p.groups; other++) {
            const float score = group_scores[other];
            rank += score > group_scores[g] || (score == group_scores[g] && other < g);
        }
        if (rank >= p.kept_groups) {
            selection[e] = LOWEST;
        }
    }
    barrier();
}

// Chooses top_k experts a token. DeepSeek-V3 report, section 2.1.2, equations 13 to 16.
// Every group and every expert finds its own rank by counting those before it in the order
// (score descending, index ascending), so that no order of execution can change the choice.
// Grid: x over rows.
template <class B>
DEVICE void route_rows(const Params& p, const u32* inputs, const float* logits, const u8* bias,
                  u32* idx, float* weight) {
    SHARED(float, scores, MOST_EXPERTS);
    SHARED(float, selection, MOST_EXPERTS);
    SHARED(float, group_scores, MOST_EXPERTS);
    SHARED(float, chosen, MOST_CHOICES);
    const u32 r = group_x();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    const float* const row = logits + x_row(p, r);
    const bool softmax = p.flags & SOFTMAX;
    float shift = 0.0f, total = 1.0f;
    if (softmax) {
        float largest = LOWEST, sum = 0.0f;
        for (u32 e = thread_x(); e < p.experts; e += THREADS) {
            largest = max_(largest, row[e]);
        }
        shift = block_max<THREADS>(largest);
        for (u32 e = thread_x(); e < p.experts; e += THREADS) {
            sum += exp_(row[e] - shift);
        }
        total = block_sum<THREADS>(sum);
    }
    for (u32 e = thread_x(); e < p.experts; e += THREADS) {
        const float score =
            softmax ? exp_(row[e] - shift) / total : 1.0f / (1.0f + exp_(-row[e]));
        scores[e] = score;
        selection[e] = ranked(bias ? score + B::one(bias, e) : score);
    }
    barrier();
    if (p.groups > 1) {
        mask_groups(p, selection, group_scores);
    }
    for (u32 e = thread_x(); e < p.experts; e += THREADS) {
        const float own = selection[e];
        u32 rank = 0;
        for (u32 other = 0; other < p.experts; other++) {
            const float b = selection[other];
            rank += b > own || (b == own && other < e);
        }
        if (rank < p.top_k) {
            idx[r * p.top_k + rank] = e;
            chosen[rank] = scores[e];
        }
    }
    barrier();
    float sum = 1.0f;
    if (p.flags & NORMALISE) {
        sum = 1.0e-20f;
        for (u32 j = 0; j < p.top_k; j++) {
            sum += chosen[j];
        }
    }
    for (u32 j = thread_x(); j < p.top_k; j += THREADS) {
        weight[r * p.top_k + j] = chosen[j] / sum * p.scale;
    }
}

KERNEL(THREADS, route, Params p, const u32* inputs, const float* logits, u32* idx,
       float* weight) {
    wait_for_kernels();
    route_rows<F32>(p, inputs, logits, 0, idx, weight);
}
#define ROUTE(NAME, B)                                                                         \
    KERNEL(THREADS, route_bias_##NAME, Params p, const u32* inputs, const float* logits,       \
           const u8* bias, u32* idx, float* weight) {                                          \
        wait_for_kernels();                                                                    \
        route_rows<B>(p, inputs, logits, bias, idx, weight);                                        \
    }
FOR_UNSCALED(ROUTE)

// A stable counting sort of the real choices by expert. Threads own neighbouring ranges of
// the choices, count in theirs what comes before the expert and what is its own, and after a
// prefix sum each writes its own ones, so that the order is that of the choices without any
// atomics. A choice that names no expert gets no place. Grid: x over experts.
KERNEL(THREADS, expert_offsets, Params p, const u32* inputs, const u32* idx, u32* offsets,
       u32* order, u32* place) {
    wait_for_kernels();
    SHARED(u32, lower, THREADS);
    SHARED(u32, own, THREADS);
    const u32 e = group_x(), t = thread_x(), choices = real_rows(p, inputs) * p.top_k;
    const u32 share = divide_up(choices, THREADS);
    const u32 first = min_(t * share, choices), end = min_(first + share, choices);
    u32 before = 0, count = 0;
    for (u32 c = first; c < end; c++) {
        before += idx[c] < e;
        count += idx[c] == e;
    }
    lower[t] = before;
    own[t] = count;
    barrier();
    u32 start = 0, next = 0, all = 0;
    for (u32 i = 0; i < THREADS; i++) {
        start += lower[i];
        next += i < t ? own[i] : 0;
        all += own[i];
    }
    if (t == 0) {
        offsets[e] = start;
        if (e + 1 == p.experts) {
            offsets[e + 1] = start + all;
        }
    }
    next += start;
    for (u32 c = first; c < end; c++) {
        if (idx[c] == e) {
            order[next] = c;
            place[c] = next++;
        }
    }
}

// Grid: x over values, y over choices.
KERNEL(THREADS, permute, Params p, const u32* inputs, const float* x, const u32* order,
       float* y) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), q = group_y();
    if (q < real_rows(p, inputs) && i < p.n) {
        y[y_row(p, q) + i] = x[x_row(p, order[q] / p.top_k) + i];
    }
}

// The sum over a token's choices, in their order. Grid: x over values, y over rows.
KERNEL(THREADS, combine, Params p, const u32* inputs, const float* x, const float* weight,
       const u32* place, const float* base, float* y) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), r = group_y();
    if (r >= real_rows(p, inputs) || i >= p.n) {
        return;
    }
    float sum = base[b_row(p, r) + i];
    for (u32 c = r * p.top_k; c < (r + 1) * p.top_k; c++) {
        const u32 row = p.flags & PLACED ? place[c] : c;
        sum = fma_(weight[c], x[x_row(p, row) + i], sum);
    }
    y[y_row(p, r) + i] = sum;
}
