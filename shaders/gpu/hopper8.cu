// Products of E4M3 weights with activations that are codes themselves, on the matrix units of
// compute capability 9.0: a stage is 128 deep, and then the units' sums meet both scales in
// f32. DeepSeek-V3 report, section 3.3.2. What bounds it: `shaders/hopper.md`.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "hopper.h"
#include "ring.h"

struct Codes {
    static const u32 ROW_TILES = 1, STAGES = 6, BYTES = 1, ARRIVALS = 1;
    static const bool CODED_ROWS = true;

    // Rows of another expert may come along: what they give is not written.
    template <bool SECOND>
    DEVICE_METHOD static void bring(const Params&, const float*, const Job& job, u32 r0,
                                    u32 depth, const Ring<Codes>& ring) {
        const bool both = r0 + UNIT_ROWS < job.end;
        phase_wait(ring.empty(), ring.parity ^ 1);
        phase_expect(ring.full(), (both ? 4 : 3) * BOX);
        copy_box(ring.rows(), job.rows, depth, r0, ring.full());
        if (both) {
            copy_box(ring.rows() + BOX, job.rows, depth, r0 + BOX_LINES, ring.full());
        }
        bring_weight<SECOND>(job, depth, ring.weight(), ring.full());
    }

    // Adds the products of a stage to `sum`.
    template <bool SECOND>
    DEVICE_METHOD static void multiply(const Params& p, const float* x, const Job& job, u32 r0,
                                       u32 depth, const Ring<Codes>& ring,
                                       float (&sum)[UNIT_SUMS], float (&part)[UNIT_SUMS]) {
        const u64 a = described(ring.rows() + group_row() * LINE), b = described(ring.weight());
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
            const u32 r = r0 + group_row() + unit_row(2 * i);
            const u64 at = x_row(p, r) + coded_scales(p.k) + depth / BLOCK;
            const float scale = r < job.end ? x[at] : 0.0f;
            factor[0][i] = scale * job.gate.scales[depth / BLOCK];
            factor[1][i] = SECOND ? scale * job.up.scales[depth / BLOCK] : factor[0][i];
        }
        units_wait(part);
        ring.leave();
        UNROLL
        for (u32 i = 0; i < UNIT_SUMS; i++) {
            sum[i] = fma_(part[i], factor[i / (UNIT_SUMS / 2)][i % 4 / 2], sum[i]);
        }
    }
};

#if (defined(HADAL_CUDA) && __CUDA_ARCH__ == 900) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
KERNEL(THREADS, linear_wgmma8, Params p, const u32* inputs, const float* x,
       const TensorMap* x_map, const TensorMap* w, const float* s, float* y) {
    dense<Codes, false>(p, inputs, x, x_map, w, s, 0, 0, 0, y);
}
KERNEL(THREADS, linear_residual_wgmma8, Params p, const u32* inputs, const float* x,
       const TensorMap* x_map, const TensorMap* w, const float* s, const float* residual,
       float* y) {
    dense<Codes, false>(p, inputs, x, x_map, w, s, 0, 0, residual, y);
}
KERNEL(THREADS, gate_up_wgmma8, Params p, const u32* inputs, const float* x,
       const TensorMap* x_map, const TensorMap* w, const float* w_s, const TensorMap* v,
       const float* v_s, float* y) {
    dense<Codes, true>(p, inputs, x, x_map, w, w_s, v, v_s, 0, y);
}
KERNEL(THREADS, grouped_linear_wgmma8, Params p, const u32*, const float* x,
       const TensorMap* x_map, const u32* offsets, const TensorMap* w, const u64* s, float* y) {
    grouped<Codes, false>(p, x, x_map, offsets, w, s, 0, 0, y);
}
KERNEL(THREADS, grouped_gate_up_wgmma8, Params p, const u32*, const float* x,
       const TensorMap* x_map, const u32* offsets, const TensorMap* w, const u64* w_s,
       const TensorMap* v, const u64* v_s, float* y) {
    grouped<Codes, true>(p, x, x_map, offsets, w, w_s, v, v_s, y);
}
#endif
