// One product on the matrix units of compute capability 9.0, and mistakes around it that must
// show. Tiles are made here without the headers' swizzle, by the formulas of the documentation.

#include "portable.h"
#include "hopper.h"

#if HADAL_WAVE == 32

static const u32 A = 1024, B = A + UNIT_ROWS * LINE, FULL = B + 128 * LINE;
enum Mistake : u32 { NONE, NO_WAIT, NO_FENCE, NO_UNITS_WAIT, NO_UNITS_FENCE, NO_COMMIT, OTHER_LANES,
                     OTHER_WAVES, NO_ARRIVAL, NO_INIT, EARLY_STORE, WRONG_BEGIN };

// Sixteen bytes of a line of 32 to a tile: core matrices of eight lines (swizzle 0), or lines of
// 32, 64 and 128 bytes (swizzles 3, 2 and 1) whose quads change places.
DEVICE u32 place_of(u32 swizzle, u32 line, u32 quad) {
    if (swizzle == 0) {
        return line / 8 * 256 + quad * 128 + line % 8 * 16;
    }
    const u32 width = 256 >> swizzle, repeats = 128 / width;
    return line * width + (quad ^ line / repeats % (width / 16)) * 16;
}

DEVICE u64 tile_of(u32 swizzle, u32 at) {
    const u64 stride = swizzle == 0 ? 256 : 8 * (256 >> swizzle);
    return (u64)(at >> 4) | (u64)8 << 16 | stride >> 4 << 32 | (u64)swizzle << 62;
}

// `out` gets 64 by 128 products of lines of 32 codes, `a` and `b`.
KERNEL(128, test_units, const u8* a, const u8* b, u32 swizzle, u32 mistake, float* out) {
    const u32 base = (dynamic_memory() + 1023) / 1024 * 1024, t = thread_x();
    if (t == 0 && mistake != NO_INIT) {
        phase_init(base + FULL, 256);
    }
    barrier();
    const u32 at = base + (mistake == WRONG_BEGIN ? 128 : 0);
    for (u32 i = t; i < UNIT_ROWS * 2; i += GROUP) {
        copy_async(at + A + place_of(swizzle, i / 2, i % 2), a + i * 16, 16);
    }
    copies_arrive(base + FULL);
    for (u32 i = t; i < 128 * 2; i += GROUP) {
        copy_async(at + B + place_of(swizzle, i / 2, i % 2), b + i * 16, 16);
    }
    if (mistake != NO_ARRIVAL) {
        copies_arrive(base + FULL);
    }
    if (mistake != NO_WAIT) {
        phase_wait(base + FULL, 0);
    }
    if (mistake != NO_FENCE) {
        fence_units_memory();
    }
    float sum[UNIT_SUMS] = {};
    if (mistake != NO_UNITS_FENCE) {
        units_fence(sum);
    }
    const u32 other = mistake == OTHER_LANES ? t % 2 : mistake == OTHER_WAVES ? wave() % 2 : 0;
    units_multiply8(sum, tile_of(swizzle, at + A), tile_of(swizzle, at + B), other == 0);
    if (mistake != NO_COMMIT) {
        units_commit();
    }
    if (mistake == EARLY_STORE) {
        store_quad(at + B, {});
    }
    if (mistake != NO_UNITS_WAIT) {
        units_wait(sum);
    }
    for (u32 i = 0; i < UNIT_SUMS; i++) {
        out[unit_row(i) * 128 + unit_column(i)] = sum[i];
    }
}

#else

KERNEL(64, test_no_units, u32* out) { out[thread_x()] = 0; }

#endif
