// Products of E4M3 weights with activations that are codes themselves, on the matrix units of
// compute capability 9.0: a stage is 128 deep, and then the units' sums meet both scales in
// f32. DeepSeek-V3 report, section 3.3.2. What bounds it: `shaders/hopper.md`.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "hopper.h"
#include "ring.h"

struct Codes {
    static const u32 ROW_TILES = 2, STAGES = 4, BYTES = 1, ARRIVALS = 1, HALVES = 2;
    static const bool CODED_ROWS = true;

    // Two halves' sums and the parts of one; who begins copies needs few registers.
    DEVICE void take() { take_registers<232>(); }
    DEVICE void leave() { leave_registers<40>(); }

    // Rows of another expert may come along: what they give is not written.
    template <bool SECOND>
    DEVICE_METHOD static void bring(const Params&, const float*, const Job& job, u32 depth,
                                    const Ring<Codes>& ring) {
        const u32 boxes = divide_up(job.end - job.begin, BOX_LINES);
        phase_wait(ring.empty(), ring.parity ^ 1);
        phase_expect(ring.full(), (boxes + 2) * BOX);
        for (u32 i = 0; i < boxes; i++) {
            copy_box(ring.rows() + i * BOX, job.rows, depth, job.begin + i * BOX_LINES, ring.full());
        }
        bring_weight<SECOND>(job, depth, ring.weight(), ring.full());
    }

    // Adds the products of a stage to `sum`, those of each half to its own.
    template <bool SECOND>
    DEVICE_METHOD static void multiply(const Params& p, const float* x, const Job& job, u32 depth,
                                       const Ring<Codes>& ring, float (&sum)[HALVES][UNIT_SUMS],
                                       float (&part)[UNIT_SUMS]) {
        UNROLL
        for (u32 half = 0; half < HALVES; half++) {
            const u32 line = half * ROWS + group_row(), next = job.begin + line + ROWS;
            if (job.begin + line < job.end) {
                multiply_half<SECOND>(p, x, job, line, depth, ring, sum[half], part,
                                      half + 1 == HALVES || next >= job.end);
            }
        }
    }

    // The rows from `line` of the tile on; the stage is left by who reads it `last`.
    template <bool SECOND>
    DEVICE_METHOD static void multiply_half(const Params& p, const float* x, const Job& job,
                                            u32 line, u32 depth, const Ring<Codes>& ring,
                                            float (&sum)[UNIT_SUMS], float (&part)[UNIT_SUMS],
                                            bool last) {
        const u64 a = described(ring.rows() + line * LINE), b = described(ring.weight());
        units_fence(part);
        UNROLL
        for (u32 i = 0; i < LINE / UNIT_BYTES; i++) {
            const u32 on = i * UNIT_BYTES >> 4;
            units_multiply8(part, a + on, b + on, i > 0);
        }
        units_commit();
        // Meanwhile the scales, of the two rows and two weights that this thread has sums of.
        float factor[2][2];
        UNROLL
        for (u32 i = 0; i < 2; i++) {
            const u32 r = job.begin + line + unit_row(2 * i);
            const u64 at = x_row(p, r) + coded_scales(p.k) + depth / BLOCK;
            const float scale = r < job.end ? x[at] : 0.0f;
            factor[0][i] = scale * job.gate.scales[depth / BLOCK];
            factor[1][i] = SECOND ? scale * job.up.scales[depth / BLOCK] : factor[0][i];
        }
        units_wait(part);
        if (last) {
            ring.leave();
        }
        UNROLL
        for (u32 i = 0; i < UNIT_SUMS; i++) {
            sum[i] = fma_(part[i], factor[i / (UNIT_SUMS / 2)][i % 4 / 2], sum[i]);
        }
    }
};

#if (defined(HADAL_CUDA) && __CUDA_ARCH__ == 900) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
KERNEL(THREADS, linear_wgmma8, Params p, const u32* inputs, const float* x,
       const TensorMap* x_map, const TensorMap* w, const float* s, float* y) {
    wait_for_kernels();
    dense<Codes, false>(p, inputs, x, x_map, w, s, 0, 0, 0, y);
}
KERNEL(THREADS, linear_residual_wgmma8, Params p, const u32* inputs, const float* x,
       const TensorMap* x_map, const TensorMap* w, const float* s, const float* residual,
       float* y) {
    wait_for_kernels();
    dense<Codes, false>(p, inputs, x, x_map, w, s, 0, 0, residual, y);
}
KERNEL(THREADS, gate_up_wgmma8, Params p, const u32* inputs, const float* x,
       const TensorMap* x_map, const TensorMap* w, const float* w_s, const TensorMap* v,
       const float* v_s, float* y) {
    wait_for_kernels();
    dense<Codes, true>(p, inputs, x, x_map, w, w_s, v, v_s, 0, y);
}
KERNEL(THREADS, grouped_linear_wgmma8, Params p, const u32*, const float* x,
       const TensorMap* x_map, const u32* offsets, const TensorMap* w, const u64* s, float* y) {
    wait_for_kernels();
    grouped<Codes, false>(p, x, x_map, offsets, w, s, 0, 0, y);
}
KERNEL(THREADS, grouped_gate_up_wgmma8, Params p, const u32*, const float* x,
       const TensorMap* x_map, const u32* offsets, const TensorMap* w, const u64* w_s,
       const TensorMap* v, const u64* v_s, float* y) {
    wait_for_kernels();
    grouped<Codes, true>(p, x, x_map, offsets, w, w_s, v, v_s, y);
}
#endif
