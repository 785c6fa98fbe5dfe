// Matrix units for E4M3 codes: a wave multiplies 16 rows by 16 columns, DEPTH deep, with sums
// of f32. As in units.h each unit says which lane holds what, and the CPU goes by that.
//
// A stays by rows, B by columns, `pitch` bytes from one to the next. A register has four
// codes. `FACTOR` is what the unit's sums lack: AMD's gfx942 reads the same bits as half the
// value, as its exponents are biased by one more.

// Where a code lies: in which lane, and as which of its codes.
struct Place8 {
    u32 lane, code;
};

DEVICE u32 codes_at(const u8* tile, u32 pitch, u32 line, u32 depth) {
    return *(const u32*)(tile + line * pitch + depth);
}

#if defined(HADAL_CPU)
// E4M3 as published, or as gfx942 has it: bias 8, 0x80 the only NaN.
DEVICE float code_value(u32 code, bool fnuz) {
    if (fnuz ? code == 0x80 : (code & 0x7f) == 0x7f) {
        return float_of(0x7fc00000u);
    }
    const float value = half_to_float((u16)((code & 0x80) << 8 | (code & 0x7f) << 7));
    return value * (fnuz ? 128.0f : 256.0f);
}

template <class UNIT>
DEVICE void emulate8(float (&c)[UNIT::SUMS], const u32 (&a)[UNIT::WORDS],
                     const u32 (&b)[UNIT::WORDS]) {
    u32 all[2][WAVE][UNIT::WORDS];
    hadal_cpu::wave_share(a, sizeof(a), all[0]);
    hadal_cpu::wave_share(b, sizeof(b), all[1]);
    for (u32 i = 0; i < UNIT::SUMS; i++) {
        for (u32 k = 0; k < UNIT::DEPTH; k++) {
            float values[2];
            for (u32 side = 0; side < 2; side++) {
                const Place8 at = side == 0 ? UNIT::place_a(UNIT::row(i), k)
                                            : UNIT::place_b(UNIT::column(i), k);
                const u32 word = all[side][at.lane][at.code / 4];
                values[side] = code_value(word >> 8 * (at.code % 4) & 0xff, UNIT::FNUZ);
            }
            c[i] += values[0] * values[1];
        }
    }
}
#define EMULATED8(UNIT)                                                                        \
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {     \
        emulate8<UNIT>(c, a, b);                                                               \
    }
#endif

// The code of the same bits' double for gfx942: minus zero becomes zero, what is not a number
// its own code for that.
DEVICE u32 to_fnuz(u32 word) {
    const u32 magnitudes = word & 0x7f7f7f7fu;
    // The highest bit of each byte: whether its magnitude is not zero, and whether it is 0x7f.
    const u32 there = (magnitudes + 0x7f7f7f7fu) & 0x80808080u;
    const u32 nan = (magnitudes + 0x01010101u) & 0x80808080u;
    // All bits of the bytes that are not a number.
    const u32 whole = (nan >> 7) * 0xff;
    return (((word & 0x80808080u & there) | magnitudes) & ~whole) | nan;
}

#if defined(HADAL_CUDA) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
// mma.sync.m16n8k32, twice (PTX ISA, "Matrix Fragments for mma.m16n8k32").
struct Mma8 {
    static const u32 WORDS = 4, SUMS = 8, DEPTH = 32;
    static const bool FNUZ = false;
    static constexpr float FACTOR = 1.0f;
    DEVICE u32 row(u32 i) { return lane() / 4 + (i % 4) / 2 * 8; }
    DEVICE u32 column(u32 i) { return i / 4 * 8 + lane() % 4 * 2 + i % 2; }
    DEVICE Place8 place_a(u32 row, u32 k) {
        return {row % 8 * 4 + k % 16 / 4, k % 4 + row / 8 * 4 + k / 16 * 8};
    }
    DEVICE Place8 place_b(u32 column, u32 k) {
        return {column % 8 * 4 + k % 16 / 4, k % 4 + k / 16 * 4 + column / 8 * 8};
    }
    DEVICE void load_a(u32 (&a)[WORDS], const u8* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = codes_at(tile, pitch, lane() / 4 + i % 2 * 8, lane() % 4 * 4 + i / 2 * 16);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u8* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            b[i] = codes_at(tile, pitch, lane() / 4 + i / 2 * 8, lane() % 4 * 4 + i % 2 * 16);
        }
    }
#if defined(HADAL_CPU)
    EMULATED8(Mma8)
#else
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
        UNROLL
        for (u32 half = 0; half < 2; half++) {
            float* const d = c + 4 * half;
            asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * half]),
                           "r"(b[2 * half + 1]));
        }
    }
#endif
};
#endif

#if defined(__gfx942__) || defined(__gfx950__) || (defined(HADAL_CPU) && HADAL_WAVE == 64)
#if defined(HADAL_HIP)
typedef float Sums4 __attribute__((vector_size(16)));
#endif
// V_MFMA_F32_16X16X32_FP8_FP8 (AMD Instinct MI300 instruction set): a lane has eight codes
// along the depth of one row or column, and four neighbouring rows of a column of sums.
template <bool IS_FNUZ> struct Mfma8 {
    static const u32 WORDS = 2, SUMS = 4, DEPTH = 32;
    static const bool FNUZ = IS_FNUZ;
    static constexpr float FACTOR = IS_FNUZ ? 4.0f : 1.0f;
    DEVICE u32 row(u32 i) { return lane() / 16 * 4 + i; }
    DEVICE u32 column(u32) { return lane() % 16; }
    DEVICE Place8 place_a(u32 row, u32 k) { return {row + k / 8 * 16, k % 8}; }
    DEVICE Place8 place_b(u32 column, u32 k) { return place_a(column, k); }
    DEVICE void load_a(u32 (&a)[WORDS], const u8* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = codes_at(tile, pitch, lane() % 16, lane() / 16 * 8 + 4 * i);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u8* tile, u32 pitch) { load_a(b, tile, pitch); }
#if defined(HADAL_CPU)
    EMULATED8(Mfma8)
#else
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
        Sums4 d = {c[0], c[1], c[2], c[3]};
        d = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(
            __builtin_bit_cast(long, a), __builtin_bit_cast(long, b), d, 0, 0, 0);
        UNROLL
        for (u32 i = 0; i < SUMS; i++) {
            c[i] = d[i];
        }
    }
#endif
};
#endif

#if defined(__GFX12__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
#if defined(HADAL_HIP)
typedef int Words2 __attribute__((vector_size(8)));
typedef float Sums8 __attribute__((vector_size(32)));
#endif
// V_WMMA_F32_16X16X16_FP8_FP8 of RDNA 4: as with bf16 the halves of the wave hold the halves
// of the depth, and the upper and lower eight rows of sums.
struct Wmma8 {
    static const u32 WORDS = 2, SUMS = 8, DEPTH = 16;
    static const bool FNUZ = false;
    static constexpr float FACTOR = 1.0f;
    DEVICE u32 row(u32 i) { return lane() / 16 * 8 + i; }
    DEVICE u32 column(u32) { return lane() % 16; }
    DEVICE Place8 place_a(u32 row, u32 k) { return {row + k / 8 * 16, k % 8}; }
    DEVICE Place8 place_b(u32 column, u32 k) { return place_a(column, k); }
    DEVICE void load_a(u32 (&a)[WORDS], const u8* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = codes_at(tile, pitch, lane() % 16, lane() / 16 * 8 + 4 * i);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u8* tile, u32 pitch) { load_a(b, tile, pitch); }
#if defined(HADAL_CPU)
    EMULATED8(Wmma8)
#else
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
        Sums8 d = __builtin_bit_cast(Sums8, c);
        d = __builtin_amdgcn_wmma_f32_16x16x16_fp8_fp8_w32_gfx12(
            __builtin_bit_cast(Words2, a), __builtin_bit_cast(Words2, b), d);
        UNROLL
        for (u32 i = 0; i < SUMS; i++) {
            c[i] = d[i];
        }
    }
#endif
};
#endif
