// Matrix units for E4M3 codes: a wave multiplies 16 rows by 16 columns, DEPTH deep, with sums
// of f32. As in units.h each unit says which lane holds what.
//
// A stays by rows, B by columns, `pitch` bytes from one to the next. A register has four
// codes. `FACTOR` is what the unit's sums lack: AMD's gfx942 reads the same bits as half the
// value, as its exponents are biased by one more.

DEVICE u32 codes_at(const u8* tile, u32 pitch, u32 line, u32 depth) {
    return *(const u32*)(tile + line * pitch + depth);
}

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
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
#if defined(HADAL_CPU)
        hadal_cpu::wave_multiply(hadal_cpu::MMA_E4M3, c, a, b, 2);
#else
        UNROLL
        for (u32 half = 0; half < 2; half++) {
            float* const d = c + 4 * half;
            asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * half]),
                           "r"(b[2 * half + 1]));
        }
#endif
    }
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
    DEVICE void load_a(u32 (&a)[WORDS], const u8* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = codes_at(tile, pitch, lane() % 16, lane() / 16 * 8 + 4 * i);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u8* tile, u32 pitch) { load_a(b, tile, pitch); }
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
#if defined(HADAL_CPU)
        hadal_cpu::wave_multiply(
            IS_FNUZ ? hadal_cpu::MFMA_E4M3_FNUZ : hadal_cpu::MFMA_E4M3, c, a, b, 1);
#else
        Sums4 d = {c[0], c[1], c[2], c[3]};
        d = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(
            __builtin_bit_cast(long, a), __builtin_bit_cast(long, b), d, 0, 0, 0);
        UNROLL
        for (u32 i = 0; i < SUMS; i++) {
            c[i] = d[i];
        }
#endif
    }
};
#endif

#if defined(__GFX12__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
#if defined(HADAL_HIP)
typedef int Words2 __attribute__((vector_size(8)));
typedef float Sums8 __attribute__((vector_size(32)));
#endif
// V_WMMA_F32_16X16X16_FP8_FP8 of RDNA 4: the halves of the wave hold the halves of the depth,
// and the upper and lower eight rows of sums.
struct Wmma8 {
    static const u32 WORDS = 2, SUMS = 8, DEPTH = 16;
    static const bool FNUZ = false;
    static constexpr float FACTOR = 1.0f;
    DEVICE u32 row(u32 i) { return lane() / 16 * 8 + i; }
    DEVICE u32 column(u32) { return lane() % 16; }
    DEVICE void load_a(u32 (&a)[WORDS], const u8* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = codes_at(tile, pitch, lane() % 16, lane() / 16 * 8 + 4 * i);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u8* tile, u32 pitch) { load_a(b, tile, pitch); }
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
#if defined(HADAL_CPU)
        hadal_cpu::wave_multiply(hadal_cpu::WMMA12_E4M3, c, a, b, 1);
#else
        Sums8 d = __builtin_bit_cast(Sums8, c);
        d = __builtin_amdgcn_wmma_f32_16x16x16_fp8_fp8_w32_gfx12(
            __builtin_bit_cast(Words2, a), __builtin_bit_cast(Words2, b), d);
        UNROLL
        for (u32 i = 0; i < SUMS; i++) {
            c[i] = d[i];
        }
#endif
    }
};
#endif
