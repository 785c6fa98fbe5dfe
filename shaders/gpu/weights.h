// How the bytes of a weight become numbers. A format has `BYTES` a code, `one` (a code by its
// index) and `some` (four of the codes of sixteen bytes); `UNIT` is a factor that is left out of
// them, for whoever sums to multiply with once.

// An instruction for codes of E4M3, which NVRTC knows from 12.1 on.
#if defined(HADAL_CUDA) && __CUDA_ARCH__ >= 890
#if !defined(__CUDACC_RTC__) || __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1201
#define HADAL_DECODES_E4M3
#endif
#endif

struct alignas(8) Pair {
    u32 word[2];
};

struct F32 {
    static const u32 BYTES = 4, CODES = 4;
    static const bool SCALED = false;
    static constexpr float UNIT = 1.0f;
    DEVICE float one(const void* codes, u64 at) { return ((const float*)codes)[at]; }
    DEVICE void some(const Quad& quad, u32, float* out) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            out[i] = float_of(quad.word[i]);
        }
    }
};

struct F16 {
    static const u32 BYTES = 2, CODES = 8;
    static const bool SCALED = false;
    static constexpr float UNIT = 1.0f;
    DEVICE float one(const void* codes, u64 at) {
        return half_to_float(((const u16*)codes)[at]);
    }
    DEVICE void some(const Quad& quad, u32 i, float* out) {
        two(quad.word[i / 2], out);
        two(quad.word[i / 2 + 1], out + 2);
    }
    DEVICE void two(u32 word, float* out) {
        out[0] = half_to_float((u16)word);
        out[1] = half_to_float((u16)(word >> 16));
    }
};

struct Bf16 {
    static const u32 BYTES = 2, CODES = 8;
    static const bool SCALED = false;
    static constexpr float UNIT = 1.0f;
    DEVICE float one(const void* codes, u64 at) {
        return float_of((u32)((const u16*)codes)[at] << 16);
    }
    DEVICE void some(const Quad& quad, u32 i, float* out) {
        two(quad.word[i / 2], out);
        two(quad.word[i / 2 + 1], out + 2);
    }
    DEVICE void two(u32 word, float* out) {
        out[0] = float_of(word << 16);
        out[1] = float_of(word & 0xffff0000u);
    }
};

// E4M3 as published: bias 7, largest 448, no infinities, 0x7f and 0xff not a number. Where there is
// no instruction for it, it is shifted into a half, where it keeps its value, subnormals too, but
// for the 8 that the biases differ by.
struct F8 {
    static const u32 BYTES = 1, CODES = 16;
    static const bool SCALED = true;
#if defined(HADAL_DECODES_E4M3)
    static constexpr float UNIT = 1.0f;
#else
    static constexpr float UNIT = 256.0f;
#endif
    DEVICE float one(const void* codes, u64 at) {
        const u32 code = ((const u8*)codes)[at];
        if ((code & 0x7f) == 0x7f) {
            return float_of(0x7fc00000u);
        }
        return half_to_float((u16)((code & 0x80) << 8 | (code & 0x7f) << 7)) * (256.0f / UNIT);
    }
    DEVICE void some(const Quad& quad, u32 i, float* out) { decode(quad.word[i / 4], out); }
    DEVICE void decode(u32 word, float* out) {
#if defined(HADAL_DECODES_E4M3)
        u32 low, high;
        asm("{ .reg .b16 lower, upper; mov.b32 {lower, upper}, %2; "
            "cvt.rn.f16x2.e4m3x2 %0, lower; cvt.rn.f16x2.e4m3x2 %1, upper; }"
            : "=r"(low), "=r"(high)
            : "r"(word));
        out[0] = half_to_float((u16)low);
        out[1] = half_to_float((u16)(low >> 16));
        out[2] = half_to_float((u16)high);
        out[3] = half_to_float((u16)(high >> 16));
#else
        // Codes 0 and 2, and codes 1 and 3, each in the upper byte of a half.
        const u32 even = word << 8;
        const u32 a = (even & 0x80008000u) | (even & 0x7f007f00u) >> 1;
        const u32 b = (word & 0x80008000u) | (word & 0x7f007f00u) >> 1;
        out[0] = half_to_float((u16)a);
        out[1] = half_to_float((u16)b);
        out[2] = half_to_float((u16)(a >> 16));
        out[3] = half_to_float((u16)(b >> 16));
        // Codes that are not a number are rare: one test for four.
        if (((word & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) {
            UNROLL
            for (u32 j = 0; j < 4; j++) {
                if ((word >> 8 * j & 0x7f) == 0x7f) {
                    out[j] = float_of(0x7fc00000u);
                }
            }
        }
#endif
    }
};

// The bytes of four codes from an index on that is a multiple of four, as `some` reads the first.
template <class W> DEVICE Quad bytes_of_four(const void* codes, u64 at) {
    const u8* const from = (const u8*)codes + at * W::BYTES;
    Quad quad = {};
    if (W::BYTES == 4) {
        quad = *(const Quad*)from;
    } else if (W::BYTES == 2) {
        const Pair pair = *(const Pair*)from;
        quad.word[0] = pair.word[0];
        quad.word[1] = pair.word[1];
    } else {
        quad.word[0] = *(const u32*)from;
    }
    return quad;
}

template <class W> DEVICE void four_codes(const void* codes, u64 at, float* out) {
    W::some(bytes_of_four<W>(codes, at), 0, out);
}

// Rows and columns of a block that shares one scale.
static const u32 BLOCK = 128;

// The scales of a weight's row, one for each 128 columns; nothing for formats without.
template <class W> DEVICE const float* scales_of(const float* s, u64 row, u32 k) {
    return W::SCALED ? s + row / BLOCK * divide_up(k, BLOCK) : s;
}

DEVICE float scale_at(const float* s, u64 row, u32 column, u32 width) {
    return s[row / BLOCK * divide_up(width, BLOCK) + column / BLOCK];
}

// A kernel for each format. The two lists of arguments are those of a weight without scales
// and with.
#define FOR_UNSCALED(MAKE) MAKE(f32, F32) MAKE(f16, F16) MAKE(bf16, Bf16)
