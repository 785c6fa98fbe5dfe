// One product on the matrix units of compute capability 9.0, and mistakes around it that must
// show. The lines of A are stored by threads, without the headers' swizzle, by the formulas of the
// documentation; those of B come in boxes.

#include "portable.h"
#include "hopper.h"

#if HADAL_WAVE == 32

static const u32 A = 1024, B = A + UNIT_ROWS * LINE, FULL = B + 129 * LINE;
enum Mistake : u32 { NONE, NO_WAIT, NO_FENCE, NO_UNITS_WAIT, NO_UNITS_FENCE, NO_COMMIT, OTHER_LANES,
                     OTHER_WAVES, NO_ARRIVAL, NO_INIT, EARLY_STORE, WRONG_BEGIN, NOTHING_EXPECTED,
                     TOO_FEW_EXPECTED, TOO_MANY_EXPECTED, NO_FENCE_OF_MAP, NO_FENCE_OF_BARRIER, NO_MAP,
                     OTHER_LINE, WRONG_PLACE, NOBODY_WAITS, OVER_A_BARRIER,
                     TWO_ARRIVALS, NO_SUCH_COUNT };

// Sixteen bytes of a line of 32 to a tile: core matrices of eight lines (swizzle 0), or lines of
// 32, 64 and 128 bytes (swizzles 3, 2 and 1) whose quads change places.
DEVICE u32 place_of(u32 swizzle, u32 line, u32 quad) {
    if (swizzle == 0) {
        return line / 8 * 256 + quad * 128 + line % 8 * 16;
    }
    const u32 width = 256 >> swizzle, repeats = 128 / width;
    return line * width + (quad ^ line / repeats % (width / 16)) * 16;
}

DEVICE u64 tile_of(u32 swizzle, u32 at, u32 leading, u32 stride) {
    return (u64)(at >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 |
           (u64)swizzle << 62;
}

// The box, or both halves of one without swizzle, each sixteen bytes wide.
DEVICE void bring(u32 to, const TensorMap* map, u32 swizzle, u32 line, u32 full) {
    copy_box(to, map, 0, line, full);
    if (swizzle == 0) {
        copy_box(to + 128 * 16, map, 16, line, full);
    }
}

// `out` gets 64 by 128 products of lines of 32 codes, `a` and those that `b` maps.
KERNEL(128, test_units, const u8* a, const TensorMap* b, u32 swizzle, u32 mistake, float* out) {
    const u32 base = (dynamic_memory() + 1023) / 1024 * 1024, t = thread_x();
    const u32 width = swizzle == 0 ? 32 : 256 >> swizzle, full = base + FULL;
    if (t == 0 && mistake != NO_INIT) {
        phase_init(full, mistake == NOTHING_EXPECTED ? 127 : 128);
        if (mistake != NO_FENCE_OF_BARRIER) {
            fence_async();
        }
    }
    barrier();
    const u32 at = base + (mistake == WRONG_BEGIN ? 128 : 0);
    // A quad a thread. The first one's only fence is that of the barrier: the last has its quad.
    const u32 last = t == GROUP - 1 ? 2 : 1;
    for (u32 i = 0; i < last && t > 0; i++) {
        const u32 quad = i == 0 ? t : 0;
        store_quad(at + A + place_of(swizzle, quad / 2, quad % 2), ((const Quad*)a)[quad]);
    }
    if (t > 0 && mistake != NO_FENCE) {
        fence_async();
    }
    if (t == 0) {
        const u32 bytes = 128 * width;
        if (mistake != NO_FENCE_OF_MAP) {
            fence_map(b);
        }
        const u64 lines = ((u64)a + 127) / 128 * 128;
        const TensorMap* const map = mistake == NO_MAP ? (const TensorMap*)lines : b;
        if (mistake == NO_MAP) {
            fence_map(map);
        }
        if (mistake != NOTHING_EXPECTED) {
            phase_expect(full, mistake == TOO_FEW_EXPECTED    ? 0
                               : mistake == TOO_MANY_EXPECTED ? bytes + 16
                               : mistake == NO_SUCH_COUNT     ? 1 << 20
                                                              : bytes);
        }
        const u32 to = mistake == WRONG_PLACE ? 64 : mistake == OVER_A_BARRIER ? FULL - B : 0;
        bring(at + B + to, map, swizzle, mistake == OTHER_LINE ? 1 : 0, full);
    } else if (mistake != NO_ARRIVAL) {
        phase_arrive(full);
        if (mistake == TWO_ARRIVALS && t == 1) {
            phase_arrive(full);
        }
    }
    if (mistake == NOBODY_WAITS) {
        return;
    }
    if (mistake != NO_WAIT) {
        phase_wait(full, 0);
    }
    float sum[UNIT_SUMS] = {};
    if (mistake != NO_UNITS_FENCE) {
        units_fence(sum);
    }
    const u32 other = mistake == OTHER_LANES ? t % 2 : mistake == OTHER_WAVES ? wave() % 2 : 0;
    const u32 stride = 8 * width;
    units_multiply8(sum, tile_of(swizzle, at + A, 128, stride),
                    swizzle == 0 ? tile_of(0, at + B, 128 * 16, 128)
                                 : tile_of(swizzle, at + B, 128, stride),
                    other == 0);
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
