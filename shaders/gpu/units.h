// Matrix units: a wave multiplies 16 rows by 16 columns, 16 deep, of bf16 with sums of f32.
// Each unit says which lane holds what, as its maker documents it. On the CPU the lanes bring
// what they hold to units that go by tables of their own, written from the documentation, so
// that kernels for absent hardware are tested too.
//
// A is stored by rows, B by columns (both `pitch` values from one to the next, along the
// depth). `row` and `column` say what sum `i` of this lane is. A register has two values.
// Which of them meet along the depth hangs on A and B alike: an order that both have in
// common is as good as the documented one.
// `AHEAD`: beside its registers there are some for values that are on their way.

// Two neighbours along the depth.
DEVICE u32 word_at(const u16* tile, u32 pitch, u32 line, u32 depth) {
    return *(const u32*)(tile + line * pitch + depth);
}

#if (defined(HADAL_CUDA) && __CUDA_ARCH__ >= 800) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
// mma.sync.m16n8k16, twice (PTX ISA, "Matrix Fragments for mma.m16n8k16").
struct Mma {
    static const u32 WORDS = 4, SUMS = 8;
    static const bool AHEAD = true;
    DEVICE u32 row(u32 i) { return lane() / 4 + (i % 4) / 2 * 8; }
    DEVICE u32 column(u32 i) { return i / 4 * 8 + lane() % 4 * 2 + i % 2; }
    DEVICE void load_a(u32 (&a)[WORDS], const u16* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = word_at(tile, pitch, lane() / 4 + i % 2 * 8, lane() % 4 * 2 + i / 2 * 8);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u16* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            b[i] = word_at(tile, pitch, lane() / 4 + i / 2 * 8, lane() % 4 * 2 + i % 2 * 8);
        }
    }
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
#if defined(HADAL_CPU)
        hadal_cpu::wave_multiply(hadal_cpu::MMA_BF16, c, a, b, 2);
#else
        UNROLL
        for (u32 half = 0; half < 2; half++) {
            float* const d = c + 4 * half;
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * half]),
                           "r"(b[2 * half + 1]));
        }
#endif
    }
};
#endif

#if defined(HADAL_HIP)
typedef short Shorts4 __attribute__((vector_size(8)));
typedef short Shorts8 __attribute__((vector_size(16)));
typedef short Shorts16 __attribute__((vector_size(32)));
typedef float Floats4 __attribute__((vector_size(16)));
typedef float Floats8 __attribute__((vector_size(32)));
#endif

#if defined(__GFX9__) || (defined(HADAL_CPU) && HADAL_WAVE == 64)
// V_MFMA_F32_16X16X16_BF16 (AMD Instinct MI200 and MI300 instruction set, "matrix
// arithmetic"): a lane has four values along the depth of one row or column, and four
// neighbouring rows of a column of sums.
struct Mfma {
    static const u32 WORDS = 2, SUMS = 4;
    static const bool AHEAD = true;
    DEVICE u32 row(u32 i) { return lane() / 16 * 4 + i; }
    DEVICE u32 column(u32) { return lane() % 16; }
    DEVICE void load_a(u32 (&a)[WORDS], const u16* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = word_at(tile, pitch, lane() % 16, lane() / 16 * 4 + 2 * i);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u16* tile, u32 pitch) { load_a(b, tile, pitch); }
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
#if defined(HADAL_CPU)
        hadal_cpu::wave_multiply(hadal_cpu::MFMA_BF16, c, a, b, 1);
#else
        Floats4 d = {c[0], c[1], c[2], c[3]};
        d = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(
            __builtin_bit_cast(Shorts4, a), __builtin_bit_cast(Shorts4, b), d, 0, 0, 0);
        UNROLL
        for (u32 i = 0; i < SUMS; i++) {
            c[i] = d[i];
        }
#endif
    }
};
#endif

#if defined(__GFX11__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
// V_WMMA_F32_16X16X16_BF16 of RDNA 3 (its instruction set guide, "Wave matrix multiply
// accumulate"): both halves of the wave hold the same whole rows and columns; even rows of
// sums lie in the lower half, odd ones in the upper.
struct Wmma {
    static const u32 WORDS = 8, SUMS = 8;
    static const bool AHEAD = false;
    DEVICE u32 row(u32 i) { return 2 * i + lane() / 16; }
    DEVICE u32 column(u32) { return lane() % 16; }
    DEVICE void load_a(u32 (&a)[WORDS], const u16* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = word_at(tile, pitch, lane() % 16, 2 * i);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u16* tile, u32 pitch) { load_a(b, tile, pitch); }
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
#if defined(HADAL_CPU)
        hadal_cpu::wave_multiply(hadal_cpu::WMMA_BF16, c, a, b, 1);
#else
        Floats8 d = __builtin_bit_cast(Floats8, c);
        d = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(__builtin_bit_cast(Shorts16, a),
                                                        __builtin_bit_cast(Shorts16, b), d);
        UNROLL
        for (u32 i = 0; i < SUMS; i++) {
            c[i] = d[i];
        }
#endif
    }
};
#endif

#if defined(__GFX12__) || (defined(HADAL_CPU) && HADAL_WAVE == 32)
// V_WMMA_F32_16X16X16_BF16 of RDNA 4: the halves of the wave hold eight values along the depth
// each, and the upper and lower eight rows of sums. Documented is that each half has every
// other four values; here it has its eight neighbours, of A and of B.
struct Wmma12 {
    static const u32 WORDS = 4, SUMS = 8;
    static const bool AHEAD = true;
    DEVICE u32 row(u32 i) { return lane() / 16 * 8 + i; }
    DEVICE u32 column(u32) { return lane() % 16; }
    DEVICE void load_a(u32 (&a)[WORDS], const u16* tile, u32 pitch) {
        UNROLL
        for (u32 i = 0; i < WORDS; i++) {
            a[i] = word_at(tile, pitch, lane() % 16, lane() / 16 * 8 + 2 * i);
        }
    }
    DEVICE void load_b(u32 (&b)[WORDS], const u16* tile, u32 pitch) { load_a(b, tile, pitch); }
    DEVICE void multiply(float (&c)[SUMS], const u32 (&a)[WORDS], const u32 (&b)[WORDS]) {
#if defined(HADAL_CPU)
        hadal_cpu::wave_multiply(hadal_cpu::WMMA12_BF16, c, a, b, 1);
#else
        Floats8 d = __builtin_bit_cast(Floats8, c);
        d = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(
            __builtin_bit_cast(Shorts8, a), __builtin_bit_cast(Shorts8, b), d);
        UNROLL
        for (u32 i = 0; i < SUMS; i++) {
            c[i] = d[i];
        }
#endif
    }
};
#endif
