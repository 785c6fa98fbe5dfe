// The weights of one matrix, or of two (SECOND), and their block scales if they are FP8, from
// binding 3 on: the same as `table` for operands that are bound.

#ifdef FP8
#define WEIGHTS_EACH 2
layout(set = 0, binding = 4, std430) readonly buffer GateScales {
    float gate_scales[];
};
#else
#define WEIGHTS_EACH 1
#endif
#ifdef BYTES
#define Stored uint
#else
#define Stored uvec4
#endif
layout(set = 0, binding = 3, std430) readonly buffer Gate {
    Stored gate[];
};
#ifdef SECOND
layout(set = 0, binding = 3 + WEIGHTS_EACH, std430) readonly buffer Up {
    Stored up[];
};
#ifdef FP8
layout(set = 0, binding = 6, std430) readonly buffer UpScales {
    float up_scales[];
};
#endif
#define WEIGHTS 2u
#define AFTER_WEIGHTS (3 + 2 * WEIGHTS_EACH)
#else
#define WEIGHTS 1u
#define AFTER_WEIGHTS (3 + WEIGHTS_EACH)
#endif

// The first output of the bound rows.
#define OUTPUT_FIRST p.row_first

Stored stored(uint which, uint i) {
#ifdef SECOND
    if (which == 1u) {
        return up[i];
    }
#endif
    return gate[i];
}

#ifdef BYTES
// A block of Q8_0: a scale in f16, then 32 codes of eight bits; two bytes after a word's beginning
// every other one.
const uint BLOCK_BYTES = 34u;

// Codes `4 i ..` of a weight, in the first word: 0 (gate) or 1 (up). There are no entries.
uvec4 quad_of(uint which, uint e, uint i) {
    uint at = i / 8u * BLOCK_BYTES + 2u + i % 8u * 4u;
    uint word = stored(which, at / 4u);
    if (at % 4u != 0u) {
        word = word >> 16 | stored(which, at / 4u + 1u) << 16;
    }
    return uvec4(word, 0u, 0u, 0u);
}
#else
// Sixteen bytes of a weight: 0 (gate) or 1 (up). There are no entries.
uvec4 quad_of(uint which, uint e, uint i) {
    return stored(which, i);
}
#endif

// The scale of the block of 128 x 128, or of Q8_0, with bound row `i` and column `column`; 1 for
// other formats.
float scale_of(uint which, uint e, uint i, uint column) {
#ifdef FP8
    uint at = ((OUTPUT_FIRST + i) >> 7) * ((p.k + 127u) >> 7) + (column >> 7);
#ifdef SECOND
    if (which == 1u) {
        return up_scales[at];
    }
#endif
    return gate_scales[at];
#elif defined(BYTES)
    uint at = (i * p.k + column) / 32u * BLOCK_BYTES;
    return decode_f16(stored(which, at / 4u) >> at % 4u * 8u).x;
#else
    return 1.0;
#endif
}
