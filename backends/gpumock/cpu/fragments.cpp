// Matrix units whose matrices lie in the registers of a wave: which element is where, from the
// documentation of each instruction and not from the kernels that use it. A lane's elements are
// numbered from the lowest bits of its first register on.
#include "runner.h"

#include <cmath>
#include <vector>

namespace hadal_cpu {

// A's row and depth, B's depth and column, or a sum's row and column.
struct Element {
    u32 line, at;
};

// PTX ISA, "Matrix Fragments for mma.m16n8k16" with .bf16: `group` and `in_group` are its
// groupID and threadID_in_group.
struct MmaBf16 {
    static constexpr u32 LANES = 32, COLUMNS = 8, DEPTH = 16, COPIES = 1, BITS = 16;
    static constexpr bool IS_FNUZ = false;
    static constexpr Element a(u32 lane, u32 i) {
        const u32 group = lane >> 2, in_group = lane % 4;
        return {i < 2 || (4 <= i && i < 6) ? group : group + 8,
                in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)};
    }
    static constexpr Element b(u32 lane, u32 i) {
        const u32 group = lane >> 2, in_group = lane % 4;
        return {in_group * 2 + (i & 1) + (i < 2 ? 0 : 8), group};
    }
    static constexpr Element sum(u32 lane, u32 i) {
        const u32 group = lane >> 2, in_group = lane % 4;
        return {i < 2 ? group : group + 8, in_group * 2 + (i & 1)};
    }
};

// PTX ISA, "Matrix Fragments for mma.m16n8k32" with .e4m3.
struct MmaE4m3 : MmaBf16 {
    static constexpr u32 DEPTH = 32, BITS = 8;
    static constexpr Element a(u32 lane, u32 i) {
        const u32 group = lane >> 2, in_group = lane % 4;
        return {i < 4 || (8 <= i && i < 12) ? group : group + 8,
                in_group * 4 + (i & 3) + (i < 8 ? 0 : 16)};
    }
    static constexpr Element b(u32 lane, u32 i) {
        const u32 group = lane >> 2, in_group = lane % 4;
        return {in_group * 4 + (i & 3) + (i < 4 ? 0 : 16), group};
    }
};

// AMD's matrix instruction calculator, "register to matrix element mapping", for
// V_MFMA_F32_16X16X16BF16_1K: `gpr` is its GPR_num, and the bits are those of the element in it.
struct MfmaBf16 {
    static constexpr u32 LANES = 64, COLUMNS = 16, DEPTH = 16, COPIES = 1, BITS = 16;
    static constexpr bool IS_FNUZ = false;
    static constexpr Element a(u32 lane, u32 i) {
        const u32 gpr = i / 2;
        return {lane % 16, 4 * (lane / 16) + 2 * gpr + i % 2};
    }
    static constexpr Element b(u32 lane, u32 i) {
        const u32 gpr = i / 2;
        return {4 * (lane / 16) + 2 * gpr + i % 2, lane % 16};
    }
    static constexpr Element sum(u32 lane, u32 gpr) { return {4 * (lane / 16) + gpr, lane % 16}; }
};

// The same for V_MFMA_F32_16X16X32_FP8_FP8: of gfx950, and of gfx942 with its own codes.
template <bool FNUZ> struct MfmaE4m3 : MfmaBf16 {
    static constexpr u32 DEPTH = 32, BITS = 8;
    static constexpr bool IS_FNUZ = FNUZ;
    static constexpr Element a(u32 lane, u32 i) {
        const u32 gpr = i / 4;
        return {lane % 16, 8 * (lane / 16) + 4 * gpr + i % 4};
    }
    static constexpr Element b(u32 lane, u32 i) {
        const u32 gpr = i / 4;
        return {8 * (lane / 16) + 4 * gpr + i % 4, lane % 16};
    }
};

// The same for V_WMMA_F32_16X16X16_BF16 of RDNA 3 in waves of 32: the upper lanes must hold
// copies of what the lower ones do.
struct WmmaBf16 {
    static constexpr u32 LANES = 32, COLUMNS = 16, DEPTH = 16, COPIES = 2, BITS = 16;
    static constexpr bool IS_FNUZ = false;
    static constexpr Element a(u32 lane, u32 i) {
        const u32 gpr = i / 2;
        return {lane % 16, 2 * gpr + i % 2};
    }
    static constexpr Element b(u32 lane, u32 i) {
        const u32 gpr = i / 2;
        return {2 * gpr + i % 2, lane % 16};
    }
    static constexpr Element sum(u32 lane, u32 gpr) { return {2 * gpr + lane / 16, lane % 16}; }
};

// The same for V_WMMA_F32_16X16X16_BF16 of RDNA 4 in waves of 32.
struct Wmma12Bf16 {
    static constexpr u32 LANES = 32, COLUMNS = 16, DEPTH = 16, COPIES = 1, BITS = 16;
    static constexpr bool IS_FNUZ = false;
    static constexpr Element a(u32 lane, u32 i) {
        const u32 gpr = i / 2;
        return {lane % 16, 8 * (gpr / 2) + 4 * (lane / 16) + 2 * (gpr % 2) + i % 2};
    }
    static constexpr Element b(u32 lane, u32 i) {
        const u32 gpr = i / 2;
        return {8 * (gpr / 2) + 4 * (lane / 16) + 2 * (gpr % 2) + i % 2, lane % 16};
    }
    static constexpr Element sum(u32 lane, u32 gpr) { return {8 * (lane / 16) + gpr, lane % 16}; }
};

// The same for V_WMMA_F32_16X16X16_FP8_FP8 of RDNA 4 in waves of 32.
struct Wmma12E4m3 : Wmma12Bf16 {
    static constexpr u32 BITS = 8;
    static constexpr Element a(u32 lane, u32 i) {
        const u32 gpr = i / 4;
        return {lane % 16, 8 * (lane / 16) + 4 * gpr + i % 4};
    }
    static constexpr Element b(u32 lane, u32 i) {
        const u32 gpr = i / 4;
        return {8 * (lane / 16) + 4 * gpr + i % 4, lane % 16};
    }
};

static const u32 ROWS = 16, MOST_LANES = 64;

// Where a wave's elements are in matrices that lie row by row; A has `U::COPIES` of each.
template <class U> struct Layout {
    static constexpr u32 A = ROWS * U::DEPTH * U::COPIES / U::LANES;
    static constexpr u32 B = U::DEPTH * U::COLUMNS * U::COPIES / U::LANES;
    static constexpr u32 SUMS = ROWS * U::COLUMNS / U::LANES;
    static constexpr u32 PER_WORD = 32 / U::BITS;
    u16 a[U::LANES][A] = {}, b[U::LANES][B] = {}, sum[U::LANES][SUMS] = {};

    constexpr Layout() {
        for (u32 l = 0; l < U::LANES; l++) {
            for (u32 i = 0; i < A; i++) {
                a[l][i] = (u16)(U::a(l, i).line * U::DEPTH + U::a(l, i).at);
            }
            for (u32 i = 0; i < B; i++) {
                b[l][i] = (u16)(U::b(l, i).line * U::COLUMNS + U::b(l, i).at);
            }
            for (u32 i = 0; i < SUMS; i++) {
                sum[l][i] = (u16)(U::sum(l, i).line * U::COLUMNS + U::sum(l, i).at);
            }
        }
    }
};

// Whether each of `SIZE` elements is in as many places.
template <u32 SIZE, u32 LANES, u32 COUNT>
constexpr bool has_each(const u16 (&at)[LANES][COUNT], u32 times) {
    u32 seen[SIZE] = {};
    for (u32 l = 0; l < LANES; l++) {
        for (u32 i = 0; i < COUNT; i++) {
            if (at[l][i] >= SIZE || ++seen[at[l][i]] > times) {
                return false;
            }
        }
    }
    return LANES * COUNT == SIZE * times;
}

const float* values_of_e4m3(bool is_fnuz) {
    static const auto table = [](bool fnuz) {
        std::vector<float> all;
        for (u32 code = 0; code < 256; code++) {
            const u32 exponent = code >> 3 & 15, fraction = code & 7, bias = fnuz ? 8 : 7;
            const bool is_nan = fnuz ? code == 0x80 : (code & 0x7f) == 0x7f;
            const float size =
                exponent == 0 ? std::ldexp((float)fraction, -2 - (int)bias)
                              : std::ldexp((float)(8 + fraction), (int)exponent - 3 - (int)bias);
            all.push_back(is_nan ? NAN : code & 0x80 ? -size : size);
        }
        return all;
    };
    static const std::vector<float> published = table(false), fnuz = table(true);
    return (is_fnuz ? fnuz : published).data();
}

template <class U> static float value_of(const u32* words, u32 i, const float* codes) {
    const u32 per_word = 32 / U::BITS, bits = words[i / per_word] >> i % per_word * U::BITS;
    if (U::BITS == 8) {
        return codes[bits & 0xff];
    }
    const u32 word = bits << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

typedef float Eight __attribute__((vector_size(32)));

template <class U> static const char* multiply_with(const Fragments* lanes, u32 count) {
    static constexpr Layout<U> layout;
    typedef Layout<U> L;
    static_assert(has_each<ROWS * U::DEPTH>(layout.a, U::COPIES), "all of A");
    static_assert(has_each<U::DEPTH * U::COLUMNS>(layout.b, U::COPIES), "all of B");
    static_assert(has_each<ROWS * U::COLUMNS>(layout.sum, 1), "all sums");
    if (count != U::LANES) {
        return "matrix units for another number of lanes than the wave has";
    }
    static const u32 DISTINCT = U::LANES / U::COPIES, A_WORDS = L::A / L::PER_WORD;
    static const u32 B_WORDS = L::B / L::PER_WORD, EIGHTS = U::COLUMNS / 8;
    for (u32 l = DISTINCT; l < U::LANES; l++) {
        const Fragments &copy = lanes[l], &first = lanes[l % DISTINCT];
        if (std::memcmp(copy.a, first.a, A_WORDS * 4) != 0 ||
            std::memcmp(copy.b, first.b, B_WORDS * copy.times * 4) != 0) {
            return "the halves of the wave bring different values to the matrix units";
        }
    }
    const float* const codes = values_of_e4m3(U::IS_FNUZ);
    float a[ROWS * U::DEPTH];
    Eight b[U::DEPTH * EIGHTS], sums[ROWS * EIGHTS];
    for (u32 l = 0; l < DISTINCT; l++) {
        for (u32 i = 0; i < L::A; i++) {
            a[layout.a[l][i]] = value_of<U>(lanes[l].a, i, codes);
        }
    }
    for (u32 turn = 0; turn < lanes[0].times; turn++) {
        for (u32 l = 0; l < DISTINCT; l++) {
            for (u32 i = 0; i < L::B; i++) {
                ((float*)b)[layout.b[l][i]] =
                    value_of<U>(lanes[l].b + turn * B_WORDS, i, codes);
            }
        }
        for (u32 l = 0; l < U::LANES; l++) {
            for (u32 i = 0; i < L::SUMS; i++) {
                ((float*)sums)[layout.sum[l][i]] = lanes[l].sums[turn * L::SUMS + i];
            }
        }
        for (u32 row = 0; row < ROWS; row++) {
            for (u32 e = 0; e < EIGHTS; e++) {
                Eight sum = sums[row * EIGHTS + e];
                for (u32 k = 0; k < U::DEPTH; k++) {
                    sum += a[row * U::DEPTH + k] * b[k * EIGHTS + e];
                }
                sums[row * EIGHTS + e] = sum;
            }
        }
        for (u32 l = 0; l < U::LANES; l++) {
            for (u32 i = 0; i < L::SUMS; i++) {
                lanes[l].sums[turn * L::SUMS + i] = ((float*)sums)[layout.sum[l][i]];
            }
        }
    }
    return nullptr;
}

const char* multiply(const Fragments* lanes, u32 count) {
    for (u32 l = 1; l < count; l++) {
        if (lanes[l].unit != lanes[0].unit || lanes[l].times != lanes[0].times) {
            return "lanes of a wave gave the matrix units different work";
        }
    }
    switch (lanes[0].unit) {
        case MMA_BF16: return multiply_with<MmaBf16>(lanes, count);
        case MMA_E4M3: return multiply_with<MmaE4m3>(lanes, count);
        case MFMA_BF16: return multiply_with<MfmaBf16>(lanes, count);
        case MFMA_E4M3: return multiply_with<MfmaE4m3<false>>(lanes, count);
        case MFMA_E4M3_FNUZ: return multiply_with<MfmaE4m3<true>>(lanes, count);
        case WMMA_BF16: return multiply_with<WmmaBf16>(lanes, count);
        case WMMA12_BF16: return multiply_with<Wmma12Bf16>(lanes, count);
        case WMMA12_E4M3: return multiply_with<Wmma12E4m3>(lanes, count);
    }
    return "unknown matrix units";
}

}  // namespace hadal_cpu
