// Products of E4M3 weights with activations that are codes themselves, on the matrix units of
// compute capability 9.0: a stage is 128 deep, and then the units' sums meet both scales in
// f32. DeepSeek-V3 report, section 3.3.2. What bounds it: `shaders/hopper.md`.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "hopper.h"
#include "ring.h"

struct Codes {
    static const u32 BYTES = 1, ROW_TILES = 1, STAGES = 6, ARRIVALS = GROUP;
    static const bool SCALED = true;

    template <bool SECOND>
    DEVICE_METHOD static void bring(const Params& p, const float* x, const Job& job, u32 r0,
                                    u32 depth, const Ring<Codes>& ring) {
        const u32 line = own_line(), at = depth + own_quad() * 16;
        const u32 place = swizzled(line, own_quad());
        const u8* const rows = (const u8*)(x + x_row(p, r0));
        phase_wait(ring.empty(), ring.parity ^ 1);
        UNROLL
        for (u32 i = 0; i < ROWS; i += LINES) {
            const bool there = r0 + line + i < job.end && at < p.k;
            const u64 from = (line + i) * 4 * (u64)p.x_stride + at;
            copy_async(ring.rows() + place + i * LINE, there ? rows + from : rows,
                       there ? 16 : 0);
        }
        bring_weight<Codes, SECOND>(p, job, at, ring.weight() + place);
        copies_arrive(ring.full());
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
        UNROLL
        for (u32 i = 0; i < UNIT_SUMS; i++) {
            sum[i] = fma_(part[i], factor[i / (UNIT_SUMS / 2)][i % 4 / 2], sum[i]);
        }
    }
};

#if (defined(HADAL_CUDA) && __CUDA_ARCH__ == 900) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
KERNEL(THREADS, linear_wgmma8, Params p, const u32* inputs, const float* x, const u8* w,
       const float* s, float* y) {
    dense<Codes, false>(p, inputs, x, w, s, 0, 0, 0, y);
}
KERNEL(THREADS, linear_residual_wgmma8, Params p, const u32* inputs, const float* x, const u8* w,
       const float* s, const float* residual, float* y) {
    dense<Codes, false>(p, inputs, x, w, s, 0, 0, residual, y);
}
KERNEL(THREADS, gate_up_wgmma8, Params p, const u32* inputs, const float* x, const u8* w,
       const float* w_s, const u8* v, const float* v_s, float* y) {
    dense<Codes, true>(p, inputs, x, w, w_s, v, v_s, 0, y);
}
KERNEL(THREADS, grouped_linear_wgmma8, Params p, const u32*, const float* x, const u32* offsets,
       const u64* w, const u64* s, float* y) {
    grouped<Codes, false>(p, x, offsets, w, s, 0, 0, y);
}
KERNEL(THREADS, grouped_gate_up_wgmma8, Params p, const u32*, const float* x, const u32* offsets,
       const u64* w, const u64* w_s, const u64* v, const u64* v_s, float* y) {
    grouped<Codes, true>(p, x, offsets, w, w_s, v, v_s, y);
}
#endif
