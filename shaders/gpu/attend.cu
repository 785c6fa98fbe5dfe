// Latent attention over the cache with a running maximum (Milakov and Gimelshein, "Online
// normalizer calculation for softmax"): memory does not grow with the context.

#include "portable.h"
#include "params.h"
#include "ranges.h"
#include "weights.h"
#include "reduce.h"

// --- Sixteen queries together: heads of one row, or of neighbouring rows. They all read the
// same cache, so that a cache row comes from memory once for the sixteen; rows of another
// sequence take a turn of their own. A thread has one query by one position of a tile of
// sixteen scores, then two columns of all queries' means.
// Grid: x over blocks of heads, y over blocks of rows; parts: z over parts.

static const u32 TILE_THREADS = 256, QUERIES = 16, POSITIONS = TILE_THREADS / QUERIES;
static const u32 MOST_LATENT = 512, MOST_WIDTH = 576;
// A query in shared memory: padded, so that the queries of neighbours lie in other banks.
static const u32 QUERY_PITCH = MOST_WIDTH + 4;

template <bool QUADS> DEVICE float product(const float* query, const float* key, u32 width) {
    float sum = 0.0f;
    if (QUADS) {
        for (u32 c = 0; c < width; c += 4) {
            const Floats a = *(const Floats*)(query + c), b = *(const Floats*)(key + c);
            UNROLL
            for (u32 j = 0; j < 4; j++) {
                sum = fma_(a.value[j], b.value[j], sum);
            }
        }
    } else {
        for (u32 c = 0; c < width; c++) {
            sum = fma_(query[c], key[c], sum);
        }
    }
    return sum;
}

template <bool PART, bool QUADS>
DEVICE void attend_tile(const Params& p, const u32* inputs, const float* q, const float* cache,
                        float* y, float* part_sums) {
    SHARED(Floats, query_quads, QUERIES * QUERY_PITCH / 4);
    SHARED(float, weights, POSITIONS * QUERIES);
    SHARED(float, keeps, QUERIES);
    SHARED(u64, row_starts, POSITIONS);
    float* const queries = (float*)query_quads;
    const u32 rows = real_rows(p, inputs), width = p.latent + p.rope, t = thread_x();
    const Block<QUERIES> block(p, rows);
    const u32 part = PART ? p.row_first + group_z() : 0;
    if (block.r0 >= rows) {
        return;
    }
    for (u32 i = t; i < QUERIES * width; i += TILE_THREADS) {
        const u32 m = i / width, c = i % width;
        queries[m * QUERY_PITCH + c] =
            block.has(p, m) ? q[x_row(p, block.row(m)) + (u64)block.head(m) * p.x_head_stride + c]
                            : 0.0f;
    }
    // This thread's query and position of a tile; its query's running maximum and share of
    // the sum; two columns of the means.
    const u32 m = t % QUERIES, s = t / QUERIES;
    float largest = LOWEST, total = 0.0f, mean[2][QUERIES] = {};
    for (u32 next = block.r0; next < block.row_end;) {
        const u32 turn = next;
        const Range all = wanted_of_turn<PART>(p, inputs, block, part, next);
        Range wanted = {0, 0};
        if (block.row(m) >= turn && block.row(m) < next) {
            wanted = wanted_of<PART>(p, inputs, block.row(m), part);
        }
        const u32* const table = pages(p, inputs, sequence(inputs, turn));
        for (u32 first = all.first; first < all.end; first += POSITIONS) {
            const u32 count = min_(POSITIONS, all.end - first);
            barrier();
            if (t < count) {
                row_starts[t] = cache_row(table, first + t) * width;
            }
            barrier();
            const bool is_in = first + s >= wanted.first && first + s < wanted.end;
            float score = LOWEST;
            if (is_in) {
                score = product<QUADS>(queries + m * QUERY_PITCH, cache + row_starts[s], width) *
                        p.scale;
            }
            weights[s * QUERIES + m] = score;
            barrier();
            const float before = largest;
            for (u32 i = 0; i < POSITIONS; i++) {
                largest = max_(largest, weights[i * QUERIES + m]);
            }
            barrier();
            const float keep = exp_(before - largest);
            const float weight = is_in ? exp_(score - largest) : 0.0f;
            total = total * keep + weight;
            weights[s * QUERIES + m] = weight;
            if (s == 0) {
                keeps[m] = keep;
            }
            barrier();
            UNROLL
            for (u32 half = 0; half < 2; half++) {
                const u32 c = half * TILE_THREADS + t;
                if (c >= p.latent) {
                    continue;
                }
                UNROLL
                for (u32 i = 0; i < QUERIES; i++) {
                    mean[half][i] *= keeps[i];
                }
                for (u32 at = 0; at < count; at++) {
                    const float value = cache[row_starts[at] + c];
                    UNROLL
                    for (u32 i = 0; i < QUERIES; i++) {
                        // What a query does not see may be anything, also not a number.
                        const float weight = weights[at * QUERIES + i];
                        mean[half][i] = weight != 0.0f ? fma_(weight, value, mean[half][i])
                                                       : mean[half][i];
                    }
                }
            }
        }
    }
    // Each query's sum is spread over the threads of its positions.
    barrier();
    weights[s * QUERIES + m] = total;
    barrier();
    if (t < QUERIES) {
        float sum = 0.0f;
        for (u32 i = 0; i < POSITIONS; i++) {
            sum += weights[i * QUERIES + t];
        }
        keeps[t] = sum;
        if (PART && sum != 0.0f && block.has(p, t)) {
            write_part_sums(p, block, t, part, largest, sum, part_sums);
        }
    }
    barrier();
    UNROLL
    for (u32 i = 0; i < QUERIES; i++) {
        if (!block.has(p, i) || keeps[i] == 0.0f) {
            continue;
        }
        float* const to = y + y_row(p, block.row(i)) + (u64)block.head(i) * p.y_head_stride +
                          (PART ? (u64)part * p.latent : 0);
        const float divisor = PART ? 1.0f : keeps[i];
        UNROLL
        for (u32 half = 0; half < 2; half++) {
            const u32 c = half * TILE_THREADS + t;
            if (c < p.latent) {
                to[c] = mean[half][i] / divisor;
            }
        }
    }
}

KERNEL(TILE_THREADS, attend_latent_quads, Params p, const u32* inputs, const float* q,
       const float* cache, float* y) {
    wait_for_kernels();
    attend_tile<false, true>(p, inputs, q, cache, y, 0);
}
KERNEL(TILE_THREADS, attend_latent_tile, Params p, const u32* inputs, const float* q,
       const float* cache, float* y) {
    wait_for_kernels();
    attend_tile<false, false>(p, inputs, q, cache, y, 0);
}
KERNEL(TILE_THREADS, attend_part, Params p, const u32* inputs, const float* q,
       const float* cache, float* mix, float* sums) {
    wait_for_kernels();
    attend_tile<true, true>(p, inputs, q, cache, mix, sums);
}

// --- The parts put together: a mean of their means, each by what its probabilities weigh
// beside the largest score of all. Grid: x over heads, y over rows.

static const u32 MERGE_THREADS = 128, MOST_PARTS = 4096;

KERNEL(MERGE_THREADS, attend_merge, Params p, const u32* inputs, const float* x,
       const float* part_sums, float* y) {
    wait_for_kernels();
    SHARED(float, factors, MOST_PARTS);
    const u32 a = group_x(), r = group_y();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    const u32 positions = position(inputs, r) + 1;
    const u32 parts = divide_up(positions, part_length(p, positions));
    const float* const sums = part_sums + b_row(p, r) + 2 * (u64)a * p.n;
    float largest = LOWEST, total = 0.0f;
    for (u32 j = 0; j < parts; j++) {
        largest = max_(largest, sums[2 * j]);
    }
    for (u32 j = 0; j < parts; j++) {
        total += exp_(sums[2 * j] - largest) * sums[2 * j + 1];
    }
    for (u32 j = thread_x(); j < parts; j += MERGE_THREADS) {
        factors[j] = exp_(sums[2 * j] - largest) / total;
    }
    barrier();
    const float* const mix = x + x_row(p, r) + (u64)a * p.x_head_stride;
    float* const to = y + y_row(p, r) + (u64)a * p.y_head_stride;
    for (u32 c = thread_x(); c < p.latent; c += MERGE_THREADS) {
        float sum = 0.0f;
        for (u32 j = 0; j < parts; j++) {
            sum = fma_(factors[j], mix[(u64)j * p.latent + c], sum);
        }
        to[c] = sum;
    }
}

// --- One row and head: for widths that the tiles do not hold, and for expanded keys and
// values. There the key matrix K is moved onto the query and the value matrix V onto the
// mean, which is the same sum in another order: dot(q, K c) = dot(q K, c), sum p (V c) =
// V sum p c. Grid: x over heads, y over rows.

static const u32 ONE_THREADS = 256, MOST_WIDTH_OF_ONE = 2048;

// Attention of `query` to `mean`, both in shared memory; gives the sum of the probabilities.
DEVICE float attend_one(const Params& p, const u32* inputs, const float* cache, u32 r,
                        const float* query, float* mean) {
    SHARED(float, weights, ONE_THREADS);
    SHARED(u64, row_starts, ONE_THREADS);
    const u32 t = thread_x(), width = p.latent + p.rope, positions = position(inputs, r) + 1;
    const u32* const table = pages(p, inputs, sequence(inputs, r));
    for (u32 c = t; c < p.latent; c += ONE_THREADS) {
        mean[c] = 0.0f;
    }
    float largest = LOWEST, total = 0.0f;
    for (u32 first = 0; first < positions; first += ONE_THREADS) {
        const u32 count = min_(ONE_THREADS, positions - first);
        float score = LOWEST;
        if (t < count) {
            const u64 start = cache_row(table, first + t) * width;
            row_starts[t] = start;
            score = product<false>(query, cache + start, width) * p.scale;
        }
        const float before = largest;
        largest = max_(largest, block_max<ONE_THREADS>(score));
        const float keep = exp_(before - largest);
        const float weight = t < count ? exp_(score - largest) : 0.0f;
        weights[t] = weight;
        // The barriers of the sum also show the weights to all.
        total = total * keep + block_sum<ONE_THREADS>(weight);
        for (u32 c = t; c < p.latent; c += ONE_THREADS) {
            float sum = mean[c] * keep;
            for (u32 i = 0; i < count; i++) {
                sum = fma_(weights[i], cache[row_starts[i] + c], sum);
            }
            mean[c] = sum;
        }
        barrier();
    }
    return total;
}

KERNEL(ONE_THREADS, attend_latent, Params p, const u32* inputs, const float* q,
       const float* cache, float* y) {
    wait_for_kernels();
    SHARED(float, query, MOST_WIDTH_OF_ONE);
    SHARED(float, mean, MOST_WIDTH_OF_ONE);
    const u32 a = group_x(), r = group_y();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    const float* const from = q + x_row(p, r) + (u64)a * p.x_head_stride;
    for (u32 c = thread_x(); c < p.latent + p.rope; c += ONE_THREADS) {
        query[c] = from[c];
    }
    barrier();
    const float total = attend_one(p, inputs, cache, r, query, mean);
    float* const to = y + y_row(p, r) + (u64)a * p.y_head_stride;
    for (u32 c = thread_x(); c < p.latent; c += ONE_THREADS) {
        to[c] = mean[c] / total;
    }
}

template <class W>
DEVICE void attend_expanded(const Params& p, const u32* inputs, const float* q,
                            const float* cache, const u8* w, const float* s, float* y) {
    SHARED(float, query, MOST_WIDTH_OF_ONE);
    SHARED(float, mean, MOST_WIDTH_OF_ONE);
    const u32 a = group_x(), r = group_y();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    const float* const from = q + x_row(p, r) + (u64)a * p.x_head_stride;
    const u64 keys = (u64)a * (p.nope + p.value), values = keys + p.nope;
    for (u32 c = thread_x(); c < p.latent + p.rope; c += ONE_THREADS) {
        float sum = 0.0f;
        for (u32 i = 0; i < p.nope && c < p.latent; i++) {
            const float scale =
                W::SCALED ? scale_at(s, keys + i, c, p.latent) * W::UNIT : 1.0f;
            sum = fma_(from[i] * scale, W::one(w, (keys + i) * p.latent + c), sum);
        }
        query[c] = c < p.latent ? sum : from[p.nope + c - p.latent];
    }
    barrier();
    const float total = attend_one(p, inputs, cache, r, query, mean);
    barrier();
    float* const to = y + y_row(p, r) + (u64)a * p.y_head_stride;
    for (u32 i = thread_x(); i < p.value; i += ONE_THREADS) {
        float sum = 0.0f;
        for (u32 c = 0; c < p.latent; c++) {
            const float scale =
                W::SCALED ? scale_at(s, values + i, c, p.latent) * W::UNIT : 1.0f;
            sum = fma_(mean[c] * scale, W::one(w, (values + i) * p.latent + c), sum);
        }
        to[i] = sum / total;
    }
}

#define EXPANDED(NAME, W)                                                                      \
    KERNEL(ONE_THREADS, attend_expanded_##NAME, Params p, const u32* inputs, const float* q,   \
           const float* cache, const u8* w, float* y) {                                        \
        wait_for_kernels();                                                                    \
        attend_expanded<W>(p, inputs, q, cache, w, 0, y);                                      \
    }
FOR_UNSCALED(EXPANDED)

KERNEL(ONE_THREADS, attend_expanded_f8, Params p, const u32* inputs, const float* q,
       const float* cache, const u8* w, const float* s, float* y) {
    wait_for_kernels();
    attend_expanded<F8>(p, inputs, q, cache, w, s, y);
}
