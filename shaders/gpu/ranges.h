// Which queries a block of the tiled attention has, and which positions they see.

// Finite, so that the first tile's factor is exp(-large) = 0 and never not a number.
static const float LOWEST = -3.0e38f;

// Positions of a part: at most n parts, each a multiple of k long.
DEVICE u32 part_length(const Params& p, u32 positions) {
    return divide_up(positions, p.n * p.k) * p.k;
}

struct Range {
    u32 first, end;
};

// Positions wanted of row `r`.
template <bool PART> DEVICE Range wanted_of(const Params& p, const u32* inputs, u32 r, u32 part) {
    const u32 positions = position(inputs, r) + 1;
    if (!PART) {
        return {0, positions};
    }
    const u32 length = part_length(p, positions);
    return {min_(part * length, positions), min_((part + 1) * length, positions)};
}

// `QUERIES` queries: heads, to a power of two, of one or more neighbouring rows.
template <u32 QUERIES> struct Block {
    u32 heads, a0, r0, row_end;
    DEVICE_METHOD Block(const Params& p, u32 rows) : heads(1) {
        while (heads < QUERIES && heads < p.heads) {
            heads *= 2;
        }
        a0 = group_x() * heads;
        r0 = group_y() * (QUERIES / heads);
        row_end = min_(r0 + QUERIES / heads, rows);
    }
    DEVICE_METHOD u32 head(u32 query) const { return a0 + query % heads; }
    DEVICE_METHOD u32 row(u32 query) const { return r0 + query / heads; }
    DEVICE_METHOD bool has(const Params& p, u32 query) const {
        return head(query) < p.heads && row(query) < row_end;
    }
};

// All positions that the rows from `next` on want that are of one sequence; `next` is behind
// them then. Rows of another sequence take a turn of their own.
template <bool PART, u32 QUERIES>
DEVICE Range wanted_of_turn(const Params& p, const u32* inputs, const Block<QUERIES>& block,
                            u32 part, u32& next) {
    const u32 of = sequence(inputs, next);
    Range all = wanted_of<PART>(p, inputs, next, part);
    for (next++; next < block.row_end && sequence(inputs, next) == of; next++) {
        const Range more = wanted_of<PART>(p, inputs, next, part);
        all.first = min_(all.first, more.first);
        all.end = all.end > more.end ? all.end : more.end;
    }
    return all;
}

// What the merge has to know of a query's part.
template <u32 QUERIES>
DEVICE void write_part_sums(const Params& p, const Block<QUERIES>& block, u32 query, u32 part,
                            float largest, float total, float* part_sums) {
    float* const to =
        part_sums + b_row(p, block.row(query)) + 2 * ((u64)block.head(query) * p.n + part);
    to[0] = largest;
    to[1] = total;
}
