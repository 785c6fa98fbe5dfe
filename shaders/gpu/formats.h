// The rest of the block formats, and the choice among all of them. Needs `blocks.h`.

DEVICE void iq3_xxs(const u8* b, u32 g, Sixteen& to) {
    const u32 rest = word_at(b + 66 + 4 * (g / 2));
    UNROLL
    for (u32 q = 0; q < 4; q++) {
        const u32 pattern = IQ3XXS[b[2 + 4 * g + q]];
        const u32 signs = even_signs(rest >> 7 * (g % 2 * 2 + q / 2)) >> 4 * (q % 2);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            // 4, 12, 20, .. 52, 62: the last step is ten wide.
            const u32 code = pattern >> 4 * i & 15;
            const int value = (int)(4 + 8 * code + (code == 7 ? 2 : 0));
            to.code[4 * q + i] = signs >> i & 1 ? -value : value;
        }
    }
    to.scale = half_at(b) * (0.5f + (float)(rest >> 28)) * 0.5f;
}

DEVICE void iq3_s(const u8* b, u32 g, Sixteen& to) {
    UNROLL
    for (u32 q = 0; q < 4; q++) {
        const u32 j = 4 * g + q, high = b[66 + j / 8] >> j % 8 & 1;
        const u32 pattern = IQ3S[b[2 + j] | high << 8];
        const u32 signs = b[74 + 2 * g + q / 2] >> 4 * (q % 2);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            const int value = (int)(2 * (pattern >> 4 * i & 15) + 1);
            to.code[4 * q + i] = signs >> i & 1 ? -value : value;
        }
    }
    to.scale = half_at(b) * (float)(1 + 2 * (b[106 + g / 4] >> 4 * (g / 2 % 2) & 15));
}

// Eighths: a pattern of -1, 0, 1 moved up or down by one.
DEVICE void moved_eight(u32 pattern, bool down, u32 first, Sixteen& to) {
    UNROLL
    for (u32 i = 0; i < 8; i++) {
        to.code[first + i] = 8 * ((int)(pattern >> 2 * i & 3) - 1) + (down ? -1 : 1);
    }
}

DEVICE void iq1_s(const u8* b, u32 g, Sixteen& to) {
    const u32 word = *(const u16*)(b + 34 + 2 * (g / 2));
    UNROLL
    for (u32 h = 0; h < 2; h++) {
        const u32 j = 2 * g + h, high = word >> 3 * (j % 4) & 7;
        moved_eight(IQ1S[b[2 + j] | high << 8], word & 0x8000, 8 * h, to);
    }
    to.scale = half_at(b) * 0.125f * (float)(2 * (word >> 12 & 7) + 1);
}

DEVICE void iq1_m(const u8* b, u32 g, Sixteen& to) {
    UNROLL
    for (u32 h = 0; h < 2; h++) {
        const u32 j = 2 * g + h, bits = b[32 + j / 2] >> 4 * (j % 2) & 15;
        moved_eight(IQ1S[b[j] | (bits & 7) << 8], bits & 8, 8 * h, to);
    }
    // The scale of all lies in the top four bits of four words.
    u32 bits = 0;
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        bits |= (u32)(b[49 + 2 * i] >> 4) << 4 * i;
    }
    const u32 three = *(const u16*)(b + 48 + 2 * (g / 4)) >> 3 * (g % 4) & 7;
    to.scale = half_to_float((u16)bits) * 0.125f * (float)(2 * three + 1);
}

// Five digits to the base three in a byte: times `factor`, one of them is on top.
DEVICE void digits(const u8* at, u32 factor, u32 first, u32 count, Sixteen& to) {
    UNROLL
    for (u32 i = 0; i < 16; i++) {
        if (i >= first && i < first + count) {
            to.code[i] = (int)((at[i - first] * factor & 255) * 3 >> 8) - 1;
        }
    }
}

DEVICE u32 power_of_three(u32 n) { return n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81; }

DEVICE void tq1_0(const u8* b, u32 g, Sixteen& to) {
    if (g < 10) {
        digits(b + 16 * (g % 2), power_of_three(g / 2), 0, 16, to);
    } else if (g < 15) {
        digits(b + 32, power_of_three(g - 10), 0, 16, to);
    } else {
        UNROLL
        for (u32 n = 0; n < 4; n++) {
            digits(b + 48, power_of_three(n), 4 * n, 4, to);
        }
    }
    to.scale = half_at(b + 52);
}

DEVICE void tq2_0(const u8* b, u32 g, Sixteen& to) {
    two_bits(b, g, to);
    shift_codes(-1, to.code);
    to.scale = half_at(b + 64);
}

// Sixteens and bytes of a block, and what takes one apart, by the number that the upper bits of
// `flags` hold (hadal-device, `flags::FORMAT_SHIFT`).
#define FOR_FORMATS(CASE)                                                                      \
    CASE(1, 2, 18, (of_32(b, g, 0, false, to), shift_codes(-8, to.code)))                      \
    CASE(2, 2, 20, of_32(b, g, 0, true, to))                                                   \
    CASE(3, 2, 22, (of_32(b, g, 4, false, to), shift_codes(-16, to.code)))                     \
    CASE(4, 2, 24, of_32(b, g, 4, true, to))                                                   \
    CASE(5, 2, 34, eight_bits(b, g, to))                                                       \
    CASE(6, 16, 84, q2_k(b, g, to))                                                            \
    CASE(7, 16, 110, q3_k(b, g, to))                                                           \
    CASE(8, 16, 144, q45_k(b, g, 0, to))                                                       \
    CASE(9, 16, 176, q45_k(b, g, 32, to))                                                      \
    CASE(10, 16, 210, q6_k(b, g, to))                                                          \
    CASE(11, 16, 66, iq2_xxs(b, g, to))                                                        \
    CASE(12, 16, 74, iq2_xs(b, g, to))                                                         \
    CASE(13, 16, 98, iq3_xxs(b, g, to))                                                        \
    CASE(14, 16, 50, iq1_s(b, g, to))                                                          \
    CASE(15, 2, 18, (of_32(b, g, 0, false, to), to_levels(to.code)))                           \
    CASE(16, 16, 110, iq3_s(b, g, to))                                                         \
    CASE(17, 16, 82, iq2_s(b, g, to))                                                          \
    CASE(18, 16, 136, iq4_xs(b, g, to))                                                        \
    CASE(19, 16, 56, iq1_m(b, g, to))                                                          \
    CASE(20, 16, 54, tq1_0(b, g, to))                                                          \
    CASE(21, 16, 66, tq2_0(b, g, to))

// Sixteen number `at` of a row of blocks.
DEVICE void take_sixteen(u32 format, const u8* row, u32 at, Sixteen& to) {
    to.minimum = 0.0f;
    switch (format) {
#define TAKE(NUMBER, EACH, BYTES, DO)                                                          \
    case NUMBER: {                                                                             \
        const u8* const b = row + (u64)(at / EACH) * BYTES;                                    \
        const u32 g = at % EACH;                                                               \
        DO;                                                                                    \
        break;                                                                                 \
    }
        FOR_FORMATS(TAKE)
    }
}

// Bytes of a row of `k` values.
DEVICE u64 row_bytes(u32 format, u32 k) {
    switch (format) {
#define LENGTH(NUMBER, EACH, BYTES, DO)                                                        \
    case NUMBER:                                                                               \
        return (u64)(k / (16 * EACH)) * BYTES;
        FOR_FORMATS(LENGTH)
    }
    return 0;
}
