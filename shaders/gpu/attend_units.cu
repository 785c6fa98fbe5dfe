// Latent attention on matrix units of bf16: 64 queries (heads of one row, or of neighbouring
// rows) by 64 positions at a time. Nothing is rounded on the way in: queries, cached values and
// probabilities are sums of three bf16, and products of parts that would be lost in an f32
// anyway are left out. What runs over the positions is as in attend.cu.
// Grid: x over blocks of heads, y over blocks of rows; parts: z over parts.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "parts.h"
#include "ranges.h"
#include "units.h"

static const u32 THREADS = 256, QUERIES = 64, POSITIONS = 64, PARTS = 3;
// Scores are summed this deep at a time, means for this many columns.
static const u32 DEPTH = 32, COLUMNS = 32, MOST_LATENT = 512;
// Lines of tiles in shared memory: padded, so that lines begin in different banks.
static const u32 PITCH = DEPTH + 8, WIDE = POSITIONS + 8, SCORE_PITCH = POSITIONS + 1;
static const u32 DEEP_TILE = QUERIES * PITCH, WEIGHT_TILE = QUERIES * WIDE;
static const u32 VALUE_TILE = COLUMNS * WIDE;
// Shared memory, in halves of a word: queries and keys; then weights, and behind them scores
// or values.
static const u32 WEIGHTS = PARTS * WEIGHT_TILE, MEMORY = WEIGHTS + QUERIES * SCORE_PITCH * 2;
static_assert(2 * PARTS * DEEP_TILE <= MEMORY && PARTS * VALUE_TILE <= MEMORY - WEIGHTS,
              "tiles have room");
// A wave has sixteen queries all along; the waves of as many share the columns.
static const u32 LINES = QUERIES / 16, SHARING = THREADS / WAVE / LINES;
static const u32 SCORE_TILES = POSITIONS / 16 / SHARING, MEAN_TILES = COLUMNS / 16 / SHARING;

DEVICE u32 own_line() { return wave() % LINES; }
DEVICE u32 own_share() { return wave() / LINES; }

// Two finite values to a tile of first parts, and what they leave to the tiles behind it.
DEVICE void store_two(const float (&values)[2], u16* tile, u32 next_part) {
    u32 pair[PARTS];
    take_pairs<PARTS, true>(values[0], values[1], pair);
    UNROLL
    for (u32 part = 0; part < PARTS; part++) {
        *(u32*)(tile + part * next_part) = pair[part];
    }
}

// The same of four values, whatever they are.
DEVICE void store_four(const float* values, u16* tile, u32 next_part) {
    u32 low[PARTS], high[PARTS];
    take_pairs(values[0], values[1], low);
    take_pairs(values[2], values[3], high);
    UNROLL
    for (u32 part = 0; part < PARTS; part++) {
        *(Pair*)(tile + part * next_part) = {{low[part], high[part]}};
    }
}

// Adds the products of sixteen lines of A with those of `TILES` tiles of B, sixteen deep.
template <class U, u32 TILES>
DEVICE void multiply_parts(const u16* a_tile, u32 a_parts, const u16* b_tile, u32 b_parts,
                           u32 pitch, float (&sum)[TILES][U::SUMS]) {
    u32 a[PARTS][U::WORDS];
    UNROLL
    for (u32 part = 0; part < PARTS; part++) {
        U::load_a(a[part], a_tile + part * a_parts, pitch);
    }
    UNROLL
    for (u32 n = 0; n < TILES; n++) {
        UNROLL
        for (u32 part = 0; part < PARTS; part++) {
            u32 b[U::WORDS];
            U::load_b(b, b_tile + part * b_parts + n * 16 * pitch, pitch);
            UNROLL
            for (u32 other = 0; other + part < PARTS; other++) {
                U::multiply(sum[n], a[other], b);
            }
        }
    }
}

// What a thread brings of the queries and the keys of a depth.
static const u32 STEPS = QUERIES * DEPTH / 4 / THREADS;
struct Brought {
    Floats query[STEPS], key[STEPS];

    DEVICE_METHOD void load(const Params& p, const Block<QUERIES>& block, const float* q,
                            const float* cache, const u64* row_starts, u32 depth) {
        const u32 width = p.latent + p.rope;
        UNROLL
        for (u32 step = 0; step < STEPS; step++) {
            const u32 at = step * THREADS + thread_x();
            const u32 line = at / (DEPTH / 4), c = depth + at % (DEPTH / 4) * 4;
            query[step] = key[step] = {};
            if (c < width && block.has(p, line)) {
                query[step] = *(const Floats*)(q + x_row(p, block.row(line)) +
                                               (u64)block.head(line) * p.x_head_stride + c);
            }
            if (c < width) {
                key[step] = *(const Floats*)(cache + row_starts[line] + c);
            }
        }
    }
    DEVICE_METHOD void store(u16* queries, u16* keys) const {
        UNROLL
        for (u32 step = 0; step < STEPS; step++) {
            const u32 at = step * THREADS + thread_x();
            const u32 to = at / (DEPTH / 4) * PITCH + at % (DEPTH / 4) * 4;
            store_four(query[step].value, queries + to, DEEP_TILE);
            store_four(key[step].value, keys + to, DEEP_TILE);
        }
    }
};

// Scores of the block's queries with the positions, unscaled, to `scores`.
template <class U>
DEVICE void score_tile(const Params& p, const Block<QUERIES>& block, const float* q,
                       const float* cache, const u64* row_starts, u16* memory, float* scores) {
    u16 *const queries = memory, *const keys = memory + PARTS * DEEP_TILE;
    const u32 width = p.latent + p.rope;
    float sum[SCORE_TILES][U::SUMS] = {};
    Brought brought;
    // Another thread wrote the rows' starts.
    barrier();
    if (U::AHEAD) {
        brought.load(p, block, q, cache, row_starts, 0);
    }
    for (u32 depth = 0; depth < width; depth += DEPTH) {
        if (!U::AHEAD) {
            brought.load(p, block, q, cache, row_starts, depth);
        }
        barrier();
        brought.store(queries, keys);
        barrier();
        // On their way while the units multiply.
        if (U::AHEAD) {
            brought.load(p, block, q, cache, row_starts, depth + DEPTH);
        }
        UNROLL
        for (u32 deep = 0; deep < DEPTH; deep += 16) {
            multiply_parts<U>(queries + own_line() * 16 * PITCH + deep, DEEP_TILE,
                              keys + own_share() * SCORE_TILES * 16 * PITCH + deep, DEEP_TILE,
                              PITCH, sum);
        }
    }
    barrier();
    UNROLL
    for (u32 n = 0; n < SCORE_TILES; n++) {
        UNROLL
        for (u32 i = 0; i < U::SUMS; i++) {
            const u32 at = (own_share() * SCORE_TILES + n) * 16 + U::column(i);
            scores[(own_line() * 16 + U::row(i)) * SCORE_PITCH + at] = sum[n][i];
        }
    }
    barrier();
}

// What a thread brings of the cached rows' columns, a column a line. Neighbouring threads have eight
// columns by four pairs of positions, which lie in different banks.
static const u32 PAIRS = COLUMNS * POSITIONS / 2 / THREADS;
struct Columns {
    float pair[PAIRS][2];

    DEVICE_METHOD static u32 column(u32 at) { return at % 8 + at / 32 % (COLUMNS / 8) * 8; }
    DEVICE_METHOD static u32 position(u32 at) {
        return (at / 8 % 4 + at / (4 * COLUMNS) * 4) * 2;
    }

    DEVICE_METHOD void load(const float* cache, const u64* row_starts) {
        UNROLL
        for (u32 i = 0; i < 2 * PAIRS; i++) {
            const u32 at = i / 2 * THREADS + thread_x();
            pair[i / 2][i % 2] = cache[row_starts[position(at) + i % 2] + column(at)];
        }
    }
    // A value that is no finite number is left out: whoever sees it has a weight that is not a number
    // by its score, and all others must not multiply it by their zeros.
    DEVICE_METHOD void store(u16* values) const {
        UNROLL
        for (u32 i = 0; i < PAIRS; i++) {
            const u32 at = i * THREADS + thread_x();
            float finite[2];
            UNROLL
            for (u32 j = 0; j < 2; j++) {
                const float value = pair[i][j];
                finite[j] = (bits_of(value) & 0x7f800000u) != 0x7f800000u ? value : 0.0f;
            }
            store_two(finite, values + column(at) * WIDE + position(at), VALUE_TILE);
        }
    }
};

// What four neighbouring threads know of their query.
struct Running {
    float largest, total;
};

// Weights of a tile's positions from their scores; what is left of the means is in `keeps`.
DEVICE void weigh(const Params& p, const float* scores, u32 first, Range wanted, u16* weights,
                  float* keeps, Running& running) {
    const u32 m = thread_x() / 4, s = thread_x() % 4 * (POSITIONS / 4);
    float score[POSITIONS / 4];
    float largest = running.largest;
    UNROLL
    for (u32 i = 0; i < POSITIONS / 4; i++) {
        const bool is_in = first + s + i >= wanted.first && first + s + i < wanted.end;
        score[i] = is_in ? scores[m * SCORE_PITCH + s + i] * p.scale : LOWEST;
        largest = max_(largest, score[i]);
    }
    largest = max_(largest, float_of(shuffle_xor(bits_of(largest), 1)));
    largest = max_(largest, float_of(shuffle_xor(bits_of(largest), 2)));
    const float keep = exp_(running.largest - largest);
    running.largest = largest;
    running.total *= keep;
    UNROLL
    for (u32 i = 0; i < POSITIONS / 4; i++) {
        const bool is_in = first + s + i >= wanted.first && first + s + i < wanted.end;
        score[i] = is_in ? exp_(score[i] - largest) : 0.0f;
        running.total += score[i];
    }
    UNROLL
    for (u32 i = 0; i < POSITIONS / 4; i += 4) {
        store_four(score + i, weights + m * WIDE + s + i, WEIGHT_TILE);
    }
    if (s == 0) {
        keeps[m] = keep;
    }
}

// The means of this lane's queries, of which `totals` has the sums of weights.
template <class U, bool PART>
DEVICE void write_means(const Params& p, const Block<QUERIES>& block, u32 part,
                        const float* totals,
                        const float (&mean)[MOST_LATENT / COLUMNS][MEAN_TILES][U::SUMS],
                        float* y) {
    UNROLL
    for (u32 i = 0; i < U::SUMS; i++) {
        const u32 query = own_line() * 16 + U::row(i);
        if (!block.has(p, query) || totals[query] == 0.0f) {
            continue;
        }
        float* const to = y + y_row(p, block.row(query)) +
                          (u64)block.head(query) * p.y_head_stride +
                          (PART ? (u64)part * p.latent : 0);
        const float divisor = PART ? 1.0f : totals[query];
        UNROLL
        for (u32 chunk = 0; chunk < MOST_LATENT / COLUMNS; chunk++) {
            if (chunk * COLUMNS >= p.latent) {
                continue;
            }
            UNROLL
            for (u32 n = 0; n < MEAN_TILES; n++) {
                const u32 tile = own_share() * MEAN_TILES + n;
                to[chunk * COLUMNS + tile * 16 + U::column(i)] = mean[chunk][n][i] / divisor;
            }
        }
    }
}

template <class U, bool PART>
DEVICE void attend_units(const Params& p, const u32* inputs, const float* q, const float* cache,
                         float* y, float* part_sums) {
    SHARED(Quad, quads, MEMORY / 8);
    SHARED(float, keeps, QUERIES);
    SHARED(u64, row_starts, POSITIONS);
    u16 *const weights = (u16*)quads, *const values = weights + WEIGHTS;
    float* const scores = (float*)values;
    const u32 rows = real_rows(p, inputs), t = thread_x(), m = t / 4;
    const Block<QUERIES> block(p, rows);
    const u32 part = PART ? p.row_first + group_z() : 0;
    if (block.r0 >= rows) {
        return;
    }
    Running running = {LOWEST, 0.0f};
    float mean[MOST_LATENT / COLUMNS][MEAN_TILES][U::SUMS] = {};
    for (u32 next = block.r0; next < block.row_end;) {
        const u32 turn = next;
        const Range all = wanted_of_turn<PART>(p, inputs, block, part, next);
        Range wanted = {0, 0};
        if (block.row(m) >= turn && block.row(m) < next) {
            wanted = wanted_of<PART>(p, inputs, block.row(m), part);
        }
        const u32* const table = pages(p, inputs, sequence(inputs, turn));
        for (u32 first = all.first; first < all.end; first += POSITIONS) {
            barrier();
            if (t < POSITIONS) {
                // Behind the last position stands the last: nobody wants it twice.
                const u32 at = min_(first + t, all.end - 1);
                row_starts[t] = cache_row(table, at) * (p.latent + p.rope);
            }
            score_tile<U>(p, block, q, cache, row_starts, (u16*)quads, scores);
            Columns columns;
            if (U::AHEAD) {
                columns.load(cache, row_starts);
            }
            weigh(p, scores, first, wanted, weights, keeps, running);
            barrier();
            const u32 latent = forgotten(p.latent);
            UNROLL
            for (u32 chunk = 0; chunk < MOST_LATENT / COLUMNS; chunk++) {
                if (chunk * COLUMNS >= latent) {
                    continue;
                }
                if (!U::AHEAD) {
                    columns.load(cache + chunk * COLUMNS, row_starts);
                }
                columns.store(values);
                barrier();
                if (U::AHEAD && (chunk + 1) * COLUMNS < latent) {
                    columns.load(cache + (chunk + 1) * COLUMNS, row_starts);
                }
                UNROLL
                for (u32 i = 0; i < U::SUMS; i++) {
                    const float keep = keeps[own_line() * 16 + U::row(i)];
                    UNROLL
                    for (u32 n = 0; n < MEAN_TILES; n++) {
                        mean[chunk][n][i] *= keep;
                    }
                }
                NO_UNROLL
                for (u32 deep = 0; deep < POSITIONS; deep += 16) {
                    multiply_parts<U>(weights + own_line() * 16 * WIDE + deep, WEIGHT_TILE,
                                      values + own_share() * MEAN_TILES * 16 * WIDE + deep,
                                      VALUE_TILE, WIDE, mean[chunk]);
                }
                barrier();
            }
        }
    }
    // A query's sum is spread over its four threads.
    float total = running.total + float_of(shuffle_xor(bits_of(running.total), 1));
    total += float_of(shuffle_xor(bits_of(total), 2));
    if (t % 4 == 0) {
        keeps[m] = total;
        if (PART && total != 0.0f && block.has(p, m)) {
            write_part_sums(p, block, m, part, running.largest, total, part_sums);
        }
    }
    barrier();
    write_means<U, PART>(p, block, part, keeps, mean, y);
}

#define ATTEND_UNITS(NAME, U)                                                                  \
    KERNEL(THREADS, attend_latent_##NAME, Params p, const u32* inputs, const float* q,         \
           const float* cache, float* y) {                                                     \
        wait_for_kernels();                                                                    \
        attend_units<U, false>(p, inputs, q, cache, y, 0);                                     \
    }                                                                                          \
    KERNEL(THREADS, attend_part_##NAME, Params p, const u32* inputs, const float* q,           \
           const float* cache, float* mix, float* sums) {                                      \
        wait_for_kernels();                                                                    \
        attend_units<U, true>(p, inputs, q, cache, mix, sums);                                 \
    }

#if (defined(HADAL_CUDA) && __CUDA_ARCH__ >= 800) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
ATTEND_UNITS(mma, Mma)
#endif
#if defined(__GFX9__) || (defined(HADAL_CPU) && HADAL_WAVE == 64)
ATTEND_UNITS(mfma, Mfma)
#endif
#if defined(__GFX11__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
ATTEND_UNITS(wmma, Wmma)
#endif
#if defined(__GFX12__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
ATTEND_UNITS(wmma12, Wmma12)
#endif
