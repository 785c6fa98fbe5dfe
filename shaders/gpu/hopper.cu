// Products of BF16 weights for many rows on the matrix units of compute capability 9.0. As in
// matrix.cu nothing is rounded on the way in: an activation is the sum of three bf16. A stage
// is 64 deep: three tiles of the rows' parts, which threads make, and one of the weight, which
// is copied beside.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "parts.h"
#include "hopper.h"
#include "ring.h"

// Lines whose parts a group makes at once, a thread a quad.
static const u32 LINES = GROUP / (LINE / 16);
DEVICE u32 own_line() { return thread_x() % GROUP / (LINE / 16); }
DEVICE u32 own_quad() { return thread_x() % (LINE / 16); }

struct Split {
    static const u32 ROW_TILES = 3, STAGES = 3, BYTES = 2, ARRIVALS = GROUP + 1, HALVES = 1;
    static const bool CODED_ROWS = false;

    // All do with what they have.
    DEVICE void take() {}
    DEVICE void leave() {}

    // A quad of each part of eight values, to their tiles.
    DEVICE_METHOD static void store_parts(const Floats (&values)[2], u32 to) {
        u32 pair[4][ROW_TILES];
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            const Floats& from = values[i / 2];
            take_pairs(from.value[i % 2 * 2], from.value[i % 2 * 2 + 1], pair[i]);
        }
        UNROLL
        for (u32 part = 0; part < ROW_TILES; part++) {
            store_quad(to + part * TILE,
                       {{pair[0][part], pair[1][part], pair[2][part], pair[3][part]}});
        }
    }

    template <bool SECOND>
    DEVICE_METHOD static void bring(const Params& p, const float* x, const Job& job, u32 depth,
                                    const Ring<Split>& ring) {
        const u32 line = own_line(), at = depth + own_quad() * 8;
        const u32 place = swizzled(line, own_quad());
        // Asked for before there is room for them.
        Floats values[ROWS / LINES][2];
        UNROLL
        for (u32 i = 0; i < ROWS / LINES; i++) {
            const u32 r = job.begin + line + i * LINES;
            values[i][0] = values[i][1] = {};
            if (r < job.end && at < p.k) {
                const Floats* const from = (const Floats*)(x + x_row(p, r) + at);
                values[i][0] = from[0];
                values[i][1] = from[1];
            }
        }
        phase_wait(ring.empty(), ring.parity ^ 1);
        if (is_leader()) {
            phase_expect(ring.full(), TILE);
            bring_weight<SECOND>(job, depth * BYTES, ring.weight(), ring.full());
        }
        UNROLL
        for (u32 i = 0; i < ROWS / LINES; i++) {
            store_parts(values[i], ring.rows() + place + i * LINES * LINE);
        }
        fence_async();
        phase_arrive(ring.full());
    }

    // Adds the products of a stage to `sum`: what the units add up loses a little with every sum.
    template <bool SECOND>
    DEVICE_METHOD static void multiply(const Params&, const float*, const Job&, u32,
                                       const Ring<Split>& ring, float (&sum)[HALVES][UNIT_SUMS],
                                       float (&stage)[UNIT_SUMS]) {
        const u64 a = described(ring.rows() + group_row() * LINE), b = described(ring.weight());
        units_fence(stage);
        UNROLL
        for (u32 i = 0; i < LINE / UNIT_BYTES; i++) {
            const u32 on = i * UNIT_BYTES >> 4;
            UNROLL
            for (u32 part = 0; part < ROW_TILES; part++) {
                units_multiply16(stage, a + (part * TILE >> 4) + on, b + on, i + part > 0);
            }
        }
        units_commit();
        units_wait(stage);
        ring.leave();
        UNROLL
        for (u32 i = 0; i < UNIT_SUMS; i++) {
            sum[0][i] += stage[i];
        }
    }
};

#if (defined(HADAL_CUDA) && __CUDA_ARCH__ == 900) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
KERNEL(THREADS, linear_wgmma_bf16, Params p, const u32* inputs, const float* x,
       const TensorMap* w, float* y) {
    wait_for_kernels();
    dense<Split, false>(p, inputs, x, 0, w, 0, 0, 0, 0, y);
}
KERNEL(THREADS, linear_residual_wgmma_bf16, Params p, const u32* inputs, const float* x,
       const TensorMap* w, const float* residual, float* y) {
    wait_for_kernels();
    dense<Split, false>(p, inputs, x, 0, w, 0, 0, 0, residual, y);
}
KERNEL(THREADS, gate_up_wgmma_bf16, Params p, const u32* inputs, const float* x,
       const TensorMap* w, const TensorMap* v, float* y) {
    wait_for_kernels();
    dense<Split, true>(p, inputs, x, 0, w, 0, v, 0, 0, y);
}
KERNEL(THREADS, grouped_linear_wgmma_bf16, Params p, const u32*, const float* x,
       const u32* offsets, const TensorMap* w, float* y) {
    wait_for_kernels();
    grouped<Split, false>(p, x, 0, offsets, w, 0, 0, 0, y);
}
KERNEL(THREADS, grouped_gate_up_wgmma_bf16, Params p, const u32*, const float* x,
       const u32* offsets, const TensorMap* w, const TensorMap* v, float* y) {
    wait_for_kernels();
    grouped<Split, true>(p, x, 0, offsets, w, 0, v, 0, y);
}
#endif
