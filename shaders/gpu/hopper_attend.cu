// Latent attention on the matrix units of compute capability 9.0, for problems that may be rounded
// (`ROUGH`): queries, cached values and probabilities are one bf16 each. A block has 64 queries. A
// cached row is read once: 64 positions lie in block memory at a time, and are the keys of scores
// and then the values of means. One group of four waves brings them ahead; two multiply, each half
// of the positions for the scores, and then half of the columns for the means.
// What runs over the positions is as in attend.cu.
// Grid: x over blocks of heads, y over blocks of rows; parts: z over parts.

#include "portable.h"
#include "params.h"
#include "ranges.h"
#include "hopper.h"

static const u32 THREADS = 3 * GROUP, QUERIES = UNIT_ROWS, POSITIONS = 64, STAGES = 2;
static const u32 MOST_WIDTH = 576, MOST_LATENT = 512;
// A tile is panels of 64 lines, each of 64 columns.
static const u32 COLUMNS = LINE / 2, PANEL = 64 * LINE, PANELS = MOST_WIDTH / COLUMNS;
static const u32 TILE = PANELS * PANEL;
// Scores of a thread, and its means: as many columns of a panel as it has sums of the units.
static const u32 SCORES = POSITIONS / 4, PANEL_MEANS = COLUMNS / 2;
static const u32 GROUP_PANELS = MOST_LATENT / COLUMNS / 2, MEANS = GROUP_PANELS * PANEL_MEANS;
// A thread brings eight columns of each panel, of every sixteenth line.
static const u32 QUADS = LINE / 16, LINES = GROUP / QUADS;
static const float LOG2_E = 1.44269502f;

// Where tiles lie in block memory: the queries, the ring of positions, the weights of these; then
// two barriers for each stage of the ring.
struct Memory {
    u32 queries;
    DEVICE_METHOD Memory() : queries((dynamic_memory() + ATOM - 1) / ATOM * ATOM) {}
    DEVICE_METHOD u32 tile(u32 stage) const { return queries + (1 + stage) * TILE; }
    DEVICE_METHOD u32 weights() const { return tile(STAGES); }
    DEVICE_METHOD u32 full(u32 stage) const { return weights() + PANEL + stage * 16; }
    DEVICE_METHOD u32 empty(u32 stage) const { return full(stage) + 8; }
    // By one thread, before all others come.
    DEVICE_METHOD void init() const {
        for (u32 stage = 0; stage < STAGES; stage++) {
            phase_init(full(stage), GROUP);
            phase_init(empty(stage), 2 * GROUP / WAVE);
        }
    }
};

// The tiles of a block: positions of one turn after another, and the stages that they go to.
template <bool PART> struct Tiles {
    u32 turn, next, first, stage, parity;
    Range all;
    // Whether the tile is the first of its turn.
    bool begins;

    DEVICE_METHOD Tiles(const Block<QUERIES>& block)
        : turn(block.r0), next(block.r0), first(0), stage(STAGES - 1), parity(1), all({0, 0}) {}

    // Goes on to the next, if there is one.
    DEVICE_METHOD bool step(const Params& p, const u32* inputs, const Block<QUERIES>& block,
                            u32 part) {
        first += POSITIONS;
        begins = false;
        while (first >= all.end) {
            if (next >= block.row_end) {
                return false;
            }
            turn = next;
            all = wanted_of_turn<PART>(p, inputs, block, part, next);
            first = all.first;
            begins = true;
        }
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
        return true;
    }
};

// Eight values of each panel of a row, zeros where the row has ended.
struct Values {
    Floats of[PANELS][2];

    DEVICE_METHOD void load(const float* row, u32 quad, u32 width) {
        const u32 left = forgotten(width - min_(width, quad * 8));
        const float* const from = row + quad * 8;
        UNROLL
        for (u32 panel = 0; panel < PANELS; panel++) {
            UNROLL
            for (u32 i = 0; i < 2; i++) {
                const u32 c = panel * COLUMNS + i * 4;
                of[panel][i] = {};
                if (c < left) {
                    of[panel][i] = *(const Floats*)(from + c);
                }
            }
        }
    }

    // Puts zeros in place of what is no finite number; whether there was any. What is within half a
    // unit of f32's largest becomes infinite by rounding; no model has such a value.
    DEVICE_METHOD u32 spare() {
        float zero = 0.0f;
        UNROLL
        for (u32 i = 0; i < PANELS * 8; i++) {
            zero = fma_(of[i / 8][i / 4 % 2].value[i % 4], 0.0f, zero);
        }
        if (zero == 0.0f) {
            return 0;
        }
        UNROLL
        for (u32 i = 0; i < PANELS * 8; i++) {
            float& value = of[i / 8][i / 4 % 2].value[i % 4];
            value = (bits_of(value) & 0x7f800000u) == 0x7f800000u ? 0.0f : value;
        }
        return 1;
    }

    // To line `line` of a tile.
    DEVICE_METHOD void store(u32 tile, u32 line, u32 quad) const {
        UNROLL
        for (u32 panel = 0; panel < PANELS; panel++) {
            Quad rounded;
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                const Floats& from = of[panel][i / 2];
                rounded.word[i] = round_pair(from.value[i % 2 * 2], from.value[i % 2 * 2 + 1]);
            }
            store_quad(tile + panel * PANEL + swizzled(line, quad), rounded);
        }
    }
};

// The block's queries, by the groups that multiply.
DEVICE void load_queries(const Params& p, const Block<QUERIES>& block, const float* q,
                         const Memory& memory) {
    const u32 quad = thread_x() % QUADS;
    NO_UNROLL
    for (u32 line = thread_x() / QUADS; line < QUERIES; line += 2 * LINES) {
        const u32 width = block.has(p, line) ? p.latent + p.rope : 0;
        Values values;
        values.load(q + x_row(p, block.row(line)) + (u64)block.head(line) * p.x_head_stride, quad,
                    width);
        values.store(memory.queries, line, quad);
    }
}

// Brings the cached rows. Those with a value that is no finite number are marked: whoever sees one
// has no number, and all others must not multiply that value by their zeros.
template <bool PART>
DEVICE void bring_tiles(const Params& p, const u32* inputs, const Block<QUERIES>& block, u32 part,
                        const float* cache, const Memory& memory, u32* spoiled) {
    const u32 quad = thread_x() % QUADS, width = p.latent + p.rope;
    Tiles<PART> tiles(block);
    while (tiles.step(p, inputs, block, part)) {
        const u32* const table = pages(p, inputs, sequence(inputs, tiles.turn));
        u32 line = thread_x() % GROUP / QUADS;
        // Behind the last position stands the last: nobody wants it twice.
        u64 row = cache_row(table, min_(tiles.first + line, tiles.all.end - 1));
        NO_UNROLL
        for (u32 i = 0; i < POSITIONS / LINES; i++, line += LINES) {
            Values values;
            values.load(cache + row * width, quad, width);
            // Asked for with this row's values.
            row = cache_row(table, min_(tiles.first + line + LINES, tiles.all.end - 1));
            if (i == 0) {
                phase_wait(memory.empty(tiles.stage), tiles.parity ^ 1);
            }
            u32 is_spoiled = values.spare();
            values.store(memory.tile(tiles.stage), line, quad);
            UNROLL
            for (u32 mask = 1; mask < QUADS; mask *= 2) {
                is_spoiled |= shuffle_xor(is_spoiled, mask);
            }
            if (quad == 0) {
                spoiled[tiles.stage * POSITIONS + line] = is_spoiled;
            }
        }
        fence_async();
        phase_arrive(memory.full(tiles.stage));
    }
}

// The two groups that multiply, and which one this thread is of.
DEVICE void both_groups() { barrier_of(2 * GROUP); }
DEVICE u32 own_group() { return wave() / 4; }

// Unscaled scores of all queries with this group's half of the positions.
DEVICE void score_tile(const Memory& memory, u32 tile, float (&score)[SCORES]) {
    const u64 queries = described(forgotten(memory.queries));
    const u64 keys = described(tile + own_group() * (POSITIONS / 2) * LINE);
    units_fence(score);
    UNROLL
    for (u32 panel = 0; panel < PANELS; panel++) {
        UNROLL
        for (u32 i = 0; i < LINE / UNIT_BYTES; i++) {
            const u32 on = (panel * PANEL + i * UNIT_BYTES) >> 4;
            units_multiply_keys(score, queries + on, keys + on);
        }
    }
    units_commit();
    units_wait(score);
}

// Of a thread's two queries: the largest score, this thread's share of the weights' sum, and what
// the last tile left of both and of the means.
struct Running {
    float largest[2], total[2], keep[2];
};

// Weights of the tile's positions from their scores, as bf16 to the units' tile.
DEVICE void weigh(const Params& p, u32 first, const u32* spoiled, const Range (&wanted)[2],
                  const Memory& memory, float (&score)[SCORES], float* exchange,
                  Running& running) {
    const u32 begin = own_group() * (POSITIONS / 2);
    float largest[2] = {running.largest[0], running.largest[1]};
    UNROLL
    for (u32 i = 0; i < SCORES; i++) {
        const u32 half = i % 4 / 2, s = begin + unit_column(i), at = first + s;
        const bool is_in = at >= wanted[half].first && at < wanted[half].end;
        const float seen = spoiled[s] ? float_of(0x7fc00000u) : score[i] * p.scale;
        score[i] = is_in ? seen : LOWEST;
        largest[half] = max_(largest[half], score[i]);
    }
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        float& most = largest[half];
        most = max_(most, float_of(shuffle_xor(bits_of(most), 1)));
        most = max_(most, float_of(shuffle_xor(bits_of(most), 2)));
        if (lane() % 4 == 0) {
            exchange[own_group() * QUERIES + unit_row(2 * half)] = most;
        }
    }
    both_groups();
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        const u32 other = (1 - own_group()) * QUERIES + unit_row(2 * half);
        largest[half] = max_(largest[half], exchange[other]);
        running.keep[half] = exp2_((running.largest[half] - largest[half]) * LOG2_E);
        running.largest[half] = largest[half];
        running.total[half] *= running.keep[half];
    }
    UNROLL
    for (u32 i = 0; i < SCORES; i += 2) {
        const u32 half = i % 4 / 2, s = begin + unit_column(i);
        float weight[2];
        UNROLL
        for (u32 j = 0; j < 2; j++) {
            const u32 at = first + s + j;
            const bool is_in = at >= wanted[half].first && at < wanted[half].end;
            weight[j] = is_in ? exp2_((score[i + j] - largest[half]) * LOG2_E) : 0.0f;
            running.total[half] += weight[j];
        }
        store_word(memory.weights() + swizzled(unit_row(i), s / 8) + s % 8 * 2,
                   round_pair(weight[0], weight[1]));
    }
}

// Adds the weighted values of this group's half of the columns to what is left of the means: of all
// its panels, since who multiplies must not hang on what a thread knows alone.
template <u32 PANEL_OF_GROUP> DEVICE void mean_panels(u64 weights, u32 tile, float (&mean)[MEANS]) {
    const u32 panel = own_group() * GROUP_PANELS + PANEL_OF_GROUP;
    UNROLL
    for (u32 i = 0; i < POSITIONS / 16; i++) {
        units_multiply_values<PANEL_OF_GROUP * PANEL_MEANS>(
            mean, weights + (i * UNIT_BYTES >> 4), described(tile + panel * PANEL + i * 16 * LINE));
    }
    if constexpr (PANEL_OF_GROUP + 1 < GROUP_PANELS) {
        mean_panels<PANEL_OF_GROUP + 1>(weights, tile, mean);
    }
}

DEVICE void mean_tile(const Memory& memory, u32 tile, const Running& running,
                      float (&mean)[MEANS]) {
    UNROLL
    for (u32 i = 0; i < MEANS; i++) {
        mean[i] *= running.keep[i % 4 / 2];
    }
    units_fence(mean);
    mean_panels<0>(described(memory.weights()), tile, mean);
    units_commit();
    units_wait(mean);
}

// Sums of weights over the threads that share a query.
DEVICE void sum_totals(float* exchange, Running& running) {
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        float& total = running.total[half];
        total += float_of(shuffle_xor(bits_of(total), 1));
        total += float_of(shuffle_xor(bits_of(total), 2));
        if (lane() % 4 == 0) {
            exchange[own_group() * QUERIES + unit_row(2 * half)] = total;
        }
    }
    both_groups();
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        running.total[half] += exchange[(1 - own_group()) * QUERIES + unit_row(2 * half)];
    }
}

template <bool PART>
DEVICE void write_means(const Params& p, const Block<QUERIES>& block, u32 part,
                        const Running& running, const float (&mean)[MEANS], float* y,
                        float* part_sums) {
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        const u32 query = unit_row(2 * half);
        const float total = running.total[half];
        if (!block.has(p, query) || total == 0.0f) {
            continue;
        }
        if (PART && own_group() == 0 && lane() % 4 == 0) {
            write_part_sums(p, block, query, part, running.largest[half], total, part_sums);
        }
        float* const to = y + y_row(p, block.row(query)) +
                          (u64)block.head(query) * p.y_head_stride +
                          (PART ? (u64)part * p.latent : 0);
        UNROLL
        for (u32 i = 0; i < MEANS; i++) {
            const u32 panel = own_group() * GROUP_PANELS + i / PANEL_MEANS;
            const u32 column = panel * COLUMNS + unit_column(i % PANEL_MEANS);
            if (i % 4 / 2 == half && column < p.latent) {
                to[column] = PART ? mean[i] : mean[i] / total;
            }
        }
    }
}

template <bool PART>
DEVICE void multiply_tiles(const Params& p, const u32* inputs, const Block<QUERIES>& block,
                           u32 part, const Memory& memory, const u32* spoiled, float* exchange,
                           float* y, float* part_sums) {
    Running running = {{LOWEST, LOWEST}, {0.0f, 0.0f}, {1.0f, 1.0f}};
    float mean[MEANS] = {};
    Range wanted[2] = {};
    Tiles<PART> tiles(block);
    while (tiles.step(p, inputs, block, part)) {
        UNROLL
        for (u32 half = 0; half < 2 && tiles.begins; half++) {
            const u32 row = block.row(unit_row(2 * half));
            wanted[half] = {0, 0};
            if (row >= tiles.turn && row < tiles.next) {
                wanted[half] = wanted_of<PART>(p, inputs, row, part);
            }
        }
        const u32 tile = memory.tile(tiles.stage);
        float score[SCORES] = {};
        phase_wait(memory.full(tiles.stage), tiles.parity);
        score_tile(memory, tile, score);
        weigh(p, tiles.first, spoiled + tiles.stage * POSITIONS, wanted, memory, score, exchange,
              running);
        fence_async();
        both_groups();
        mean_tile(memory, tile, running, mean);
        wave_barrier();
        if (lane() == 0) {
            phase_arrive(memory.empty(tiles.stage));
        }
    }
    sum_totals(exchange, running);
    write_means<PART>(p, block, part, running, mean, y, part_sums);
}

template <bool PART>
DEVICE void attend_bf16(const Params& p, const u32* inputs, const float* q, const float* cache,
                        float* y, float* part_sums) {
    SHARED(float, exchange, 2 * QUERIES);
    SHARED(u32, spoiled, STAGES * POSITIONS);
    const u32 rows = real_rows(p, inputs);
    const Block<QUERIES> block(p, rows);
    const u32 part = PART ? p.row_first + group_z() : 0;
    if (block.r0 >= rows) {
        return;
    }
    const Memory memory;
    if (thread_x() == 0) {
        memory.init();
    }
    if (thread_x() < 2 * GROUP) {
        load_queries(p, block, q, memory);
    }
    fence_async();
    barrier();
    if (thread_x() < 2 * GROUP) {
        take_registers<200>();
        multiply_tiles<PART>(p, inputs, block, part, memory, spoiled, exchange, y, part_sums);
    } else {
        leave_registers<104>();
        bring_tiles<PART>(p, inputs, block, part, cache, memory, spoiled);
    }
}

#if (defined(HADAL_CUDA) && __CUDA_ARCH__ == 900) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
KERNEL(THREADS, attend_latent_bf16, Params p, const u32* inputs, const float* q,
       const float* cache, float* y) {
    wait_for_kernels();
    attend_bf16<false>(p, inputs, q, cache, y, 0);
}
KERNEL(THREADS, attend_part_bf16, Params p, const u32* inputs, const float* q,
       const float* cache, float* mix, float* sums) {
    wait_for_kernels();
    attend_bf16<true>(p, inputs, q, cache, mix, sums);
}
#endif
