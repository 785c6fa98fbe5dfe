// Products of registers that are not as the matrix units want them.

#include "portable.h"

// Registers of a lane: `copies` lanes hold the same, the first one a one and the others zeros.
KERNEL(64, test_fragments, u32 unit, u32 last_unit, u32 copies, float* sums) {
    const u32 one = 0x3f80, l = lane();
    u32 a[8] = {l % copies == 0 ? one : 0}, b[8] = {l % copies == 0 ? one : 0};
    float sum[8] = {};
    const u32 given = l + 1 == WAVE ? last_unit : unit;
    hadal_cpu::wave_multiply((hadal_cpu::WaveUnit)given, sum, a, b, 1);
    sums[thread_x()] = sum[0];
}
