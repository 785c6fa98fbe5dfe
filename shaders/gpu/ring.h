// Products on the matrix units of compute capability 9.0: a tile is 128 or 256 rows by 128 outputs
// (or 64 of two weights). Two groups of four waves multiply, 64 rows each of every 128; a third, or
// one thread of it, brings what they read to block memory, a ring of stages, ahead of who
// multiplies and on into the next tile.
// Grid: as many blocks along x as there are processors, or fewer.
//
// A format `F` says how deep a stage is, how many 128 rows a tile can have (`HALVES`), and how a
// stage is brought and multiplied.

static const u32 THREADS = 3 * GROUP, ROWS = 2 * UNIT_ROWS, OUTPUTS = 128;
static const u32 TILE = 128 * LINE;

// The stages of the ring: first tiles, of which one is the weight's, then two barriers each.
// `full` ends a phase when a stage is there, `empty` when all who multiply have read it.
template <class F> struct Ring {
    static const u32 STAGE = (F::ROW_TILES + 1) * TILE;
    u32 tiles, stage, parity;

    DEVICE_METHOD Ring() : stage(0), parity(0) {
        tiles = (dynamic_memory() + ATOM - 1) / ATOM * ATOM;
    }
    DEVICE_METHOD u32 rows() const { return tiles + stage * STAGE; }
    DEVICE_METHOD u32 weight() const { return rows() + F::ROW_TILES * TILE; }
    DEVICE_METHOD u32 full() const { return tiles + F::STAGES * STAGE + stage * 16; }
    DEVICE_METHOD u32 empty() const { return full() + 8; }
    DEVICE_METHOD void next() {
        if (++stage == F::STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
    // This wave has read the stage.
    DEVICE_METHOD void leave() const {
        wave_barrier();
        if (lane() == 0) {
            phase_arrive(empty());
        }
    }
    // By one thread, before all others come.
    DEVICE_METHOD void init() const {
        Ring each = *this;
        for (u32 i = 0; i < F::STAGES; i++, each.next()) {
            phase_init(each.full(), F::ARRIVALS);
            phase_init(each.empty(), 2 * GROUP / WAVE);
        }
    }
};

// The map of a weight, and the scales of the block of 128 that its lines lie in.
struct Weight {
    const TensorMap* map;
    const float* scales;
};

// A tile: rows `begin .. end` by `count` outputs of each weight, from line `first` of it on, to
// columns from `column` on. Rows of codes have a map too.
struct Job {
    u32 begin, end, count, first, column;
    const TensorMap* rows;
    Weight gate, up;
};

// The one thread that begins the copies.
DEVICE bool is_leader() { return thread_x() == 2 * GROUP; }

// Begins the copies of a weight's tile, from this byte of its lines on: half of it a weight, or
// both halves of one.
template <bool SECOND>
DEVICE void bring_weight(const Job& job, u32 byte, u32 to, u32 full) {
    copy_box(to, job.gate.map, byte, job.first, full);
    copy_box(to + BOX, SECOND ? job.up.map : job.gate.map, byte,
             SECOND ? job.first : job.first + BOX_LINES, full);
}

// One weight for all rows, or each expert's for its own: then `offsets` says where the rows of the
// first begin and those of all behind it, and scales are lists of where each one's lie.
struct Product {
    const u32* offsets;
    u32 experts, rows, outputs, first_column;
    const TensorMap *x_map, *w, *v;
    const void *w_scales, *v_scales;

    DEVICE_METHOD u32 begin(u32 expert) const { return offsets ? offsets[expert] : 0; }
    DEVICE_METHOD u32 end(u32 expert) const { return offsets ? offsets[expert + 1] : rows; }
    // Of the block of scales that line `row` lies in.
    DEVICE_METHOD const float* scales(const void* all, u32 expert, u32 row, u32 k) const {
        const float* const own = offsets ? (const float*)((const u64*)all)[expert] : (const float*)all;
        return own + (u64)(row / BLOCK) * divide_up(k, BLOCK);
    }
};

// The tiles of a product, and which of them this block has next. Blocks take them in turn, bands
// of as many rows as `BAND` from one block of outputs to the next: what is under way at once shares
// rows and weights, and the second-level cache holds them.
template <class F, bool SECOND> struct Tiles {
    static const u32 WIDTH = SECOND ? OUTPUTS / 2 : OUTPUTS, BAND = 2048;
    // Blocks of outputs, rows of a tile; the next tile, its expert, and how many tiles the experts
    // before it have.
    u32 columns, height, next_tile, expert, before;

    DEVICE_METHOD explicit Tiles(const Product& product)
        : columns(divide_up(product.outputs, WIDTH)), height(ROWS), next_tile(group_x()), expert(0),
          before(0) {
        const u32 rows = product.end(product.experts - 1) - product.begin(0);
        // A tile of twice the rows takes half as long again, as its weight is read once.
        if (F::HALVES == 2 && 3 * rounds(rows, 2 * ROWS) <= 2 * rounds(rows, ROWS)) {
            height = 2 * ROWS;
        }
    }
    // How many tiles of so many rows the busiest block would have.
    DEVICE_METHOD u32 rounds(u32 rows, u32 high) const {
        return divide_up(divide_up(rows, high) * columns, groups_x());
    }
    DEVICE_METHOD bool next(const Params& p, const Product& product, Job& job) {
        for (; expert < product.experts; expert++) {
            const u32 begin = product.begin(expert), end = product.end(expert);
            const u32 lines = divide_up(end - begin, height), at = next_tile - before;
            if (at < lines * columns) {
                const u32 a_band = BAND / height, band = at / (a_band * columns);
                const u32 in_band = at % (a_band * columns);
                const u32 beside = min_(a_band, lines - band * a_band);
                job.begin = begin + (band * a_band + in_band % beside) * height;
                job.end = min_(end, job.begin + height);
                place(p, product, in_band / beside, job);
                next_tile += groups_x();
                return true;
            }
            before += lines * columns;
        }
        return false;
    }
    DEVICE_METHOD void place(const Params& p, const Product& product, u32 block, Job& job) const {
        job.first = block * WIDTH;
        job.count = min_(WIDTH, product.outputs - job.first);
        job.column = product.first_column + job.first;
        job.rows = product.x_map;
        job.gate = {product.w + expert, 0};
        job.up = {SECOND ? product.v + expert : 0, 0};
        if (F::CODED_ROWS) {
            job.gate.scales = product.scales(product.w_scales, expert, job.column, p.k);
        }
        if (F::CODED_ROWS && SECOND) {
            job.up.scales = product.scales(product.v_scales, expert, job.column, p.k);
        }
    }
};

template <class F, bool SECOND>
DEVICE void bring_tiles(const Params& p, const float* x, const Product& product, Ring<F> ring) {
    Tiles<F, SECOND> tiles(product);
    for (Job job; tiles.next(p, product, job);) {
        if (is_leader()) {
            fence_map(job.gate.map);
            if (SECOND) {
                fence_map(job.up.map);
            }
            if (F::CODED_ROWS) {
                fence_map(job.rows);
            }
        }
        for (u32 depth = 0; depth < p.k; depth += LINE / F::BYTES, ring.next()) {
            F::template bring<SECOND>(p, x, job, depth, ring);
        }
    }
}

// The rows of this group among each 128 of the block.
DEVICE u32 group_row() { return wave() / 4 * UNIT_ROWS; }

template <bool SECOND>
DEVICE void write_sums(const Params& p, const Job& job, u32 r0, const float (&sum)[UNIT_SUMS],
                       const float* residual, float* y) {
    UNROLL
    for (u32 i = 0; i < (SECOND ? UNIT_SUMS / 2 : UNIT_SUMS); i++) {
        const u32 r = r0 + unit_row(i), o = unit_column(i);
        if (r >= job.end || o >= job.count) {
            continue;
        }
        const float more = residual ? residual[b_row(p, r) + job.column + o] : 0.0f;
        y[y_row(p, r) + job.column + o] =
            SECOND ? silu(sum[i]) * sum[(i + UNIT_SUMS / 2) % UNIT_SUMS] : sum[i] + more;
    }
}

template <class F, bool SECOND>
DEVICE void multiply_tiles(const Params& p, const float* x, const Product& product, Ring<F> ring,
                           const float* residual, float* y) {
    Tiles<F, SECOND> tiles(product);
    for (Job job; tiles.next(p, product, job);) {
        const u32 first = job.begin + group_row();
        float sum[F::HALVES][UNIT_SUMS] = {}, part[UNIT_SUMS] = {};
        for (u32 depth = 0; depth < p.k; depth += LINE / F::BYTES, ring.next()) {
            phase_wait(ring.full(), ring.parity);
            // The second group has nothing to do where there are few rows.
            if (first < job.end) {
                F::template multiply<SECOND>(p, x, job, depth, ring, sum, part);
            } else {
                ring.leave();
            }
        }
        UNROLL
        for (u32 half = 0; half < F::HALVES; half++) {
            write_sums<SECOND>(p, job, first + half * ROWS, sum[half], residual, y);
        }
    }
}

template <class F, bool SECOND>
DEVICE void compute(const Params& p, const float* x, const Product& product, const float* residual,
                    float* y) {
    const Ring<F> ring;
    if (thread_x() == 0) {
        ring.init();
        fence_async();
    }
    barrier();
    if (thread_x() < 2 * GROUP) {
        F::take();
        multiply_tiles<F, SECOND>(p, x, product, ring, residual, y);
    } else {
        F::leave();
        if (!F::CODED_ROWS || is_leader()) {
            bring_tiles<F, SECOND>(p, x, product, ring);
        }
    }
}

template <class F, bool SECOND>
DEVICE void dense(const Params& p, const u32* inputs, const float* x, const TensorMap* x_map,
                  const TensorMap* w, const float* w_s, const TensorMap* v, const float* v_s,
                  const float* residual, float* y) {
    const u32 rows = real_rows(p, inputs);
    const Product product = {0, 1, rows, p.row_count, p.row_first, x_map, w, v, w_s, v_s};
    compute<F, SECOND>(p, x, product, residual, y);
}

template <class F, bool SECOND>
DEVICE void grouped(const Params& p, const float* x, const TensorMap* x_map, const u32* offsets,
                    const TensorMap* w, const u64* w_s, const TensorMap* v, const u64* v_s,
                    float* y) {
    const Product product = {offsets + p.expert_first, p.expert_count, 0, p.n, 0, x_map, w, v,
                             w_s, v_s};
    compute<F, SECOND>(p, x, product, 0, y);
}
