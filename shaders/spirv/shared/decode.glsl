// From stored codes to f32: F16, BF16 and E4M3. Needs `params`.
//
// HALF_SUBNORMALS is the cheap way. The other way never forms a subnormal, so it is exact on
// every device.

#ifdef FP8
// Codes in sixteen bytes.
const uint CODES = 16u;

// The four e4m3 of a word, the lowest byte first; the codes 0x7f and 0xff give NaN.
vec4 decode_e4m3(uint word) {
    vec4 values;
    if (HALF_SUBNORMALS != 0u) {
        // A code is a half shifted by 7 with its exponent 8 too small. Bytes 0 and 2, 1 and 3
        // are two halves of a word each.
        vec2 even = unpackHalf2x16(((word & 0x00800080u) << 8) | ((word & 0x007f007fu) << 7));
        vec2 odd = unpackHalf2x16((word & 0x80008000u) | ((word & 0x7f007f00u) >> 1));
        values = vec4(even.x, odd.x, even.y, odd.y) * 256.0;
    } else {
        uvec4 code = uvec4(word, word >> 8, word >> 16, word >> 24);
        uvec4 bits = (code & 0x7fu) << 20;
        vec4 normal = uintBitsToFloat(bits + (120u << 23));
        // Subnormal: 2^-6 (1 + m/8) - 2^-6 = m 2^-9, exactly.
        vec4 tiny = uintBitsToFloat(bits + (121u << 23)) - 0.015625;
        vec4 magnitude = mix(normal, tiny, lessThan(bits, uvec4(1u << 23)));
        values = uintBitsToFloat(floatBitsToUint(magnitude) | ((code & 0x80u) << 24));
    }
    // A byte of seven ones carries into its top bit.
    uint nan = ((word & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
    if (nan != 0u) {
        uvec4 marks = uvec4(nan, nan >> 8, nan >> 16, nan >> 24) & 0x80u;
        values = mix(values, uintBitsToFloat(0x7fc00000u | marks), notEqual(marks, uvec4(0u)));
    }
    return values;
}

vec4 codes_of(uvec4 quad, uint four) {
    return decode_e4m3(quad[four]);
}
#else
#ifdef BYTES
// `quad_of` gives four codes at a time.
const uint CODES = 4u;
#else
const uint CODES = FORMAT == F32 ? 4u : 8u;
#endif

// The two f16 of a word, the lower one first.
vec2 decode_f16(uint word) {
    if (HALF_SUBNORMALS != 0u) {
        return unpackHalf2x16(word);
    }
    uvec2 code = uvec2(word & 0xffffu, word >> 16);
    uvec2 bits = (code & 0x7fffu) << 13;
    // Exponent 31 (infinity, NaN) becomes 255, others are moved from bias 15 to bias 127.
    uvec2 rebias = mix(uvec2(112u << 23), uvec2(224u << 23), greaterThanEqual(bits, uvec2(31u << 23)));
    // Subnormal: 2^-14 (1 + m/1024) - 2^-14 = m 2^-24, exactly.
    vec2 tiny = uintBitsToFloat(bits + (113u << 23)) - 6.103515625e-5;
    uvec2 magnitude = mix(bits + rebias, floatBitsToUint(tiny), lessThan(bits, uvec2(1u << 23)));
    return uintBitsToFloat(magnitude | ((code & 0x8000u) << 16));
}

// The two bf16 of a word, the lower one first.
vec2 decode_bf16(uint word) {
    return uintBitsToFloat(uvec2(word << 16, word & 0xffff0000u));
}

// Codes `4 four ..` of sixteen bytes.
vec4 codes_of(uvec4 quad, uint four) {
    if (FORMAT == F32) {
        return uintBitsToFloat(quad);
    }
    uvec2 words = four == 0u ? quad.xy : quad.zw;
    if (FORMAT == F16) {
        return vec4(decode_f16(words.x), decode_f16(words.y));
    }
    return vec4(decode_bf16(words.x), decode_bf16(words.y));
}
#endif
