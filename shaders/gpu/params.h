// The parameter block of every kernel (`Params` of runtime/device, word by word), and what is
// read from the `inputs` buffer.

struct Params {
    u32 rows, count_word, count_scale, n, k;
    u32 x_offset, x_stride, x_head_stride;
    u32 y_offset, y_stride, y_head_stride;
    u32 b_offset, b_stride;
    u32 heads, nope, rope, value, latent, head_rows, head_first;
    u32 experts, groups, kept_groups, top_k, expert_first, expert_count;
    u32 row_first, row_count, flags;
    float eps, scale;
    u32 page_stride;
};

static const u32 RESIDUAL = 1, TRANSPOSED = 2, ROW_PER_TOKEN = 4, PLACED = 8, SOFTMAX = 16, BIAS = 32,
                 GROUP_MAX = 64, NORMALISE = 128, UE8M0 = 256, NORM_BF16 = 512, CODED = 2048;
static const u32 COUNT_ALL = 0xffffffffu;
static const u32 PAGE = 64;
// Words of `inputs` before its lists, and the one that says how long each is.
static const u32 HEADER = 8, BUCKET = 2;

// Rows that are there in this step.
DEVICE u32 real_rows(const Params& p, const u32* inputs) {
    if (p.count_word == COUNT_ALL) {
        return p.rows;
    }
    const u64 counted = (u64)inputs[p.count_word] * p.count_scale;
    return counted < p.rows ? (u32)counted : p.rows;
}

DEVICE u32 token_id(const u32* inputs, u32 row) { return inputs[HEADER + row]; }
DEVICE u32 position(const u32* inputs, u32 row) { return inputs[HEADER + inputs[BUCKET] + row]; }
DEVICE u32 sequence(const u32* inputs, u32 row) {
    return inputs[HEADER + 2 * inputs[BUCKET] + row];
}
DEVICE u32 logit_row(const u32* inputs, u32 row) {
    return inputs[HEADER + 3 * inputs[BUCKET] + row];
}
// The pages of a sequence.
DEVICE const u32* pages(const Params& p, const u32* inputs, u32 sequence) {
    return inputs + HEADER + 4 * inputs[BUCKET] + (u64)sequence * p.page_stride;
}
DEVICE u64 cache_row(const u32* pages, u32 position) {
    return (u64)pages[position / PAGE] * PAGE + position % PAGE;
}

// Row `r` of an activation.
DEVICE u64 x_row(const Params& p, u32 r) { return p.x_offset + (u64)r * p.x_stride; }
DEVICE u64 y_row(const Params& p, u32 r) { return p.y_offset + (u64)r * p.y_stride; }
DEVICE u64 b_row(const Params& p, u32 r) { return p.b_offset + (u64)r * p.b_stride; }

// A row of `n` values as E4M3 codes: they come first, then from this word on their scales, one
// for each 128.
DEVICE u32 coded_scales(u32 n) { return 4 * divide_up(n, 16); }

// Blocks along x and y together, where one axis is too short.
DEVICE u64 spread_group() { return (u64)group_y() * groups_x() + group_x(); }
