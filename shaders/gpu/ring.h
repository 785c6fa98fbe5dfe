// Products on the matrix units of compute capability 9.0: a block computes 128 rows by 128
// outputs (or 64 of two weights). Two groups of four waves multiply, 64 rows each; a third, or one
// thread of it, brings tiles to block memory, a ring of stages, ahead of who multiplies.
// Grid: x and y over blocks of outputs, z over blocks of rows; grouped: z over experts.
//
// A format `F` says how deep a stage is and how it is brought and multiplied.

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

// What a block computes: rows `begin .. end` by `count` outputs of each weight, from line `first`
// of it on, to columns from `column` on. Rows of codes have a map too.
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

template <class F, bool SECOND>
DEVICE void bring_tiles(const Params& p, const float* x, const Job& job, Ring<F> ring) {
    if (is_leader()) {
        fence_map(job.gate.map);
        if (SECOND) {
            fence_map(job.up.map);
        }
        if (F::CODED_ROWS) {
            fence_map(job.rows);
        }
    }
    for (u32 r0 = job.begin; r0 < job.end; r0 += ROWS) {
        for (u32 depth = 0; depth < p.k; depth += LINE / F::BYTES, ring.next()) {
            F::template bring<SECOND>(p, x, job, r0, depth, ring);
        }
    }
}

// The rows of this group among those of the block.
DEVICE u32 group_row() { return wave() / 4 * UNIT_ROWS; }

template <bool SECOND>
DEVICE void write_sums(const Params& p, const Job& job, u32 r0, const float (&sum)[UNIT_SUMS],
                       const float* residual, float* y) {
    UNROLL
    for (u32 i = 0; i < (SECOND ? UNIT_SUMS / 2 : UNIT_SUMS); i++) {
        const u32 r = r0 + group_row() + unit_row(i), o = unit_column(i);
        if (r >= job.end || o >= job.count) {
            continue;
        }
        const float more = residual ? residual[b_row(p, r) + job.column + o] : 0.0f;
        y[y_row(p, r) + job.column + o] =
            SECOND ? silu(sum[i]) * sum[(i + UNIT_SUMS / 2) % UNIT_SUMS] : sum[i] + more;
    }
}

template <class F, bool SECOND>
DEVICE void multiply_tiles(const Params& p, const float* x, const Job& job, Ring<F> ring,
                           const float* residual, float* y) {
    for (u32 r0 = job.begin; r0 < job.end; r0 += ROWS) {
        float sum[UNIT_SUMS] = {}, part[UNIT_SUMS] = {};
        for (u32 depth = 0; depth < p.k; depth += LINE / F::BYTES, ring.next()) {
            phase_wait(ring.full(), ring.parity);
            // The second group has nothing to do where there are few rows.
            if (r0 + group_row() < job.end) {
                F::template multiply<SECOND>(p, x, job, r0, depth, ring, sum, part);
            } else {
                ring.leave();
            }
        }
        write_sums<SECOND>(p, job, r0, sum, residual, y);
    }
}

template <class F, bool SECOND>
DEVICE void compute(const Params& p, const float* x, const Job& job, const float* residual,
                    float* y) {
    const Ring<F> ring;
    if (thread_x() == 0) {
        ring.init();
        fence_async();
    }
    barrier();
    if (thread_x() < 2 * GROUP) {
        multiply_tiles<F, SECOND>(p, x, job, ring, residual, y);
    } else if (!F::CODED_ROWS || is_leader()) {
        bring_tiles<F, SECOND>(p, x, job, ring);
    }
}

// The scales of row `row` of a weight.
template <class F> DEVICE const float* scales(const Params& p, const float* s, u32 row) {
    return F::CODED_ROWS ? s + (u64)(row / BLOCK) * divide_up(p.k, BLOCK) : s;
}

template <class F, bool SECOND>
DEVICE void dense(const Params& p, const u32* inputs, const float* x, const TensorMap* x_map,
                  const TensorMap* w, const float* w_s, const TensorMap* v, const float* v_s,
                  const float* residual, float* y) {
    const u32 outputs = SECOND ? OUTPUTS / 2 : OUTPUTS;
    const u32 rows = real_rows(p, inputs), r0 = group_z() * ROWS;
    const u64 at = spread_group() * outputs;
    if (r0 >= rows || at >= p.row_count) {
        return;
    }
    const u32 first = (u32)at, column = p.row_first + first;
    Job job = {r0, min_(rows, r0 + ROWS), min_(outputs, p.row_count - first), first, column,
               x_map, {w, scales<F>(p, w_s, column)}, {}};
    if (SECOND) {
        job.up = {v, scales<F>(p, v_s, column)};
    }
    compute<F, SECOND>(p, x, job, residual, y);
}

template <class F, bool SECOND>
DEVICE void grouped(const Params& p, const float* x, const TensorMap* x_map, const u32* offsets,
                    const TensorMap* w, const u64* w_s, const TensorMap* v, const u64* v_s,
                    float* y) {
    const u32 outputs = SECOND ? OUTPUTS / 2 : OUTPUTS;
    const u32 entry = group_z(), expert = p.expert_first + entry;
    const u64 at = spread_group() * outputs;
    const u32 begin = offsets[expert], end = offsets[expert + 1];
    if (at >= p.n || begin >= end) {
        return;
    }
    const u32 first = (u32)at;
    const float* const gate_scales = F::CODED_ROWS ? (const float*)w_s[entry] : 0;
    Job job = {begin, end, min_(outputs, p.n - first), first, first, x_map,
               {w + entry, scales<F>(p, gate_scales, first)}, {}};
    if (SECOND) {
        const float* const up_scales = F::CODED_ROWS ? (const float*)v_s[entry] : 0;
        job.up = {v + entry, scales<F>(p, up_scales, first)};
    }
    compute<F, SECOND>(p, x, job, 0, y);
}
