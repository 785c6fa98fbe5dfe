// Weights of a table and activations one by one, and whether they are read sixteen bytes at a
// time. Needs `table`.

// 1: weight rows are a multiple of sixteen bytes, rows of `x` begin at multiples of four.
layout(constant_id = 12) const uint WIDE = 0u;

layout(set = 0, binding = 2, std430) readonly buffer XQuads {
    vec4 x_quads[];
};
layout(set = 0, binding = 2, std430) readonly buffer X {
    float x[];
};

// The code at element `i` of an entry, without its scale.
float code_of(uint which, uint e, uint i) {
    Words entry = Words(entry_of(which, e));
#ifdef FP8
    return decode_e4m3((entry.words[i >> 2] >> ((i & 3u) << 3)) & 0xffu).x;
#else
    if (FORMAT == F32) {
        return uintBitsToFloat(entry.words[i]);
    }
    uint word = entry.words[i >> 1] >> ((i & 1u) << 4);
    return FORMAT == F16 ? decode_f16(word).x : decode_bf16(word).x;
#endif
}

// The four codes from element `i` on of a weight row that goes on for `left` of them; zero
// behind its end. No loop: llvmpipe stops all loops of an invocation after 65,535 rounds.
vec4 four_codes(uint which, uint e, uint i, uint left) {
    vec4 codes = vec4(0.0);
    [[unroll]] for (uint c = 0u; c < 4u; c += 1u) {
        if (c < left) {
            codes[c] = code_of(which, e, i + c);
        }
    }
    return codes;
}

// The same of `x`.
vec4 four_of_x(uint i, uint left) {
    if (WIDE != 0u) {
        return x_quads[i >> 2];
    }
    vec4 values = vec4(0.0);
    [[unroll]] for (uint c = 0u; c < 4u; c += 1u) {
        if (c < left) {
            values[c] = x[i + c];
        }
    }
    return values;
}
