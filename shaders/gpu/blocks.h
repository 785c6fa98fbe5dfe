// Weights in the block formats of GGUF, sixteen values at a time: in every format these share a
// scale and a minimum. Blocks begin at even bytes. Needs `patterns.h`.

// Value `i` is `scale * code[i] - minimum`.
struct Sixteen {
    int code[16];
    float scale, minimum;
};

CONSTANT signed char LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

DEVICE u32 word_at(const u8* at) {
    const u16* const half = (const u16*)at;
    return half[0] | (u32)half[1] << 16;
}

DEVICE float half_at(const u8* at) { return half_to_float(*(const u16*)at); }

// Sixteen codes from the bits of as many bytes.
DEVICE void bits_of(const u8* at, u32 shift, u32 mask, int (&code)[16]) {
    UNROLL
    for (u32 q = 0; q < 4; q++) {
        const u32 word = word_at(at + 4 * q) >> shift;
        UNROLL
        for (u32 j = 0; j < 4; j++) {
            code[4 * q + j] = (int)(word >> 8 * j & mask);
        }
    }
}

// Adds `high` times what `bits_of` gives.
DEVICE void more_bits(const u8* at, u32 shift, u32 mask, int high, int (&code)[16]) {
    int more[16];
    bits_of(at, shift, mask, more);
    UNROLL
    for (u32 i = 0; i < 16; i++) {
        code[i] += high * more[i];
    }
}

DEVICE void shift_codes(int by, int (&code)[16]) {
    UNROLL
    for (u32 i = 0; i < 16; i++) {
        code[i] += by;
    }
}

DEVICE void fifth_bits(u32 bits, int (&code)[16]) {
    UNROLL
    for (u32 i = 0; i < 16; i++) {
        code[i] += (int)(bits >> i & 1) << 4;
    }
}

DEVICE void to_levels(int (&code)[16]) {
    UNROLL
    for (u32 i = 0; i < 16; i++) {
        code[i] = LEVELS[code[i]];
    }
}

// `high`: bytes of fifth bits, 0 or 4. `added`: whether a minimum follows the scale.
DEVICE void of_32(const u8* b, u32 g, u32 high, bool added, Sixteen& to) {
    const u8* const bits = b + (added ? 4 : 2);
    bits_of(bits + high, 4 * g, 15, to.code);
    if (high) {
        fifth_bits(word_at(bits) >> 16 * g, to.code);
    }
    to.scale = half_at(b);
    to.minimum = added ? -half_at(b + 2) : 0.0f;
}

DEVICE void eight_bits(const u8* b, u32 g, Sixteen& to) {
    bits_of(b + 2 + 16 * g, 0, 255, to.code);
    UNROLL
    for (u32 i = 0; i < 16; i++) {
        to.code[i] = (signed char)to.code[i];
    }
    to.scale = half_at(b);
}

// Two halves of 128 values, four times 32 in each.
DEVICE void two_bits(const u8* b, u32 g, Sixteen& to) {
    bits_of(b + 32 * (g / 8) + 16 * (g % 2), 2 * (g % 8 / 2), 3, to.code);
}

DEVICE void q2_k(const u8* b, u32 g, Sixteen& to) {
    two_bits(b + 16, g, to);
    to.scale = half_at(b + 80) * (float)(b[g] & 15);
    to.minimum = half_at(b + 82) * (float)(b[g] >> 4);
}

DEVICE void q3_k(const u8* b, u32 g, Sixteen& to) {
    two_bits(b + 32, g, to);
    more_bits(b + 16 * (g % 2), g / 2, 1, 4, to.code);
    shift_codes(-4, to.code);
    const u32 low = b[96 + g % 8] >> 4 * (g / 8) & 15, high = b[104 + g % 4] >> 2 * (g / 4) & 3;
    to.scale = half_at(b + 108) * (float)((int)(low | high << 4) - 32);
}

// `high`: bytes of fifth bits, 0 or 32.
DEVICE void q45_k(const u8* b, u32 g, u32 high, Sixteen& to) {
    const u32 j = g / 2;
    const u8* const s = b + 4;
    const u32 scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    const u32 minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
    bits_of(b + 16 + high + 32 * (j / 2) + 16 * (g % 2), 4 * (j % 2), 15, to.code);
    if (high) {
        more_bits(b + 16 + 16 * (g % 2), j, 1, 16, to.code);
    }
    to.scale = half_at(b) * (float)scale;
    to.minimum = half_at(b + 2) * (float)minimum;
}

DEVICE void q6_k(const u8* b, u32 g, Sixteen& to) {
    const u32 n = g / 8, k = g % 8 / 2, l = 16 * (g % 2);
    bits_of(b + 64 * n + 32 * (k % 2) + l, 4 * (k / 2), 15, to.code);
    more_bits(b + 128 + 32 * n + l, 2 * k, 3, 16, to.code);
    shift_codes(-32, to.code);
    to.scale = half_at(b + 208) * (float)(signed char)b[192 + g];
}

DEVICE void iq4_xs(const u8* b, u32 g, Sixteen& to) {
    const u32 j = g / 2;
    bits_of(b + 8 + 16 * j, 4 * (g % 2), 15, to.code);
    to_levels(to.code);
    const u32 low = b[4 + j / 2] >> 4 * (j % 2) & 15, high = *(const u16*)(b + 2) >> 2 * j & 3;
    to.scale = half_at(b) * (float)((int)(low | high << 4) - 32);
}

// The eighth sign of a code of seven makes their number even.
DEVICE u32 even_signs(u32 code) {
    u32 odd = code & 127;
    odd ^= odd >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return (code & 127) | (odd & 1) << 7;
}

// Eight values of 8, 25, 43, with signs, as the codes from `first` on.
DEVICE void signed_eight(u32 pattern, u32 signs, u32 first, Sixteen& to) {
    UNROLL
    for (u32 i = 0; i < 8; i++) {
        const u32 code = pattern >> 2 * i & 3;
        const int value = (int)(17 * code + 8 + (code >> 1));
        to.code[first + i] = signs >> i & 1 ? -value : value;
    }
}

// `fourth` bits 0 to 15 as a scale.
DEVICE float quarters(const u8* b, u32 fourth) {
    return half_at(b) * (0.5f + (float)fourth) * 0.25f;
}

DEVICE void iq2_xxs(const u8* b, u32 g, Sixteen& to) {
    const u8* const at = b + 2 + 8 * (g / 2);
    const u32 rest = word_at(at + 4);
    UNROLL
    for (u32 h = 0; h < 2; h++) {
        const u32 j = 2 * (g % 2) + h;
        signed_eight(IQ2XXS[at[j]], even_signs(rest >> 7 * j), 8 * h, to);
    }
    to.scale = quarters(b, rest >> 28);
}

DEVICE void iq2_xs(const u8* b, u32 g, Sixteen& to) {
    UNROLL
    for (u32 h = 0; h < 2; h++) {
        const u32 code = *(const u16*)(b + 2 + 2 * (2 * g + h));
        signed_eight(IQ2XS[code & 511], even_signs(code >> 9), 8 * h, to);
    }
    to.scale = quarters(b, b[66 + g / 2] >> 4 * (g % 2) & 15);
}

DEVICE void iq2_s(const u8* b, u32 g, Sixteen& to) {
    UNROLL
    for (u32 h = 0; h < 2; h++) {
        const u32 j = 2 * g + h, high = b[66 + j / 4] >> 2 * (j % 4) & 3;
        signed_eight(IQ2S[b[2 + j] | high << 8], b[34 + j], 8 * h, to);
    }
    to.scale = quarters(b, b[74 + g / 2] >> 4 * (g % 2) & 15);
}
