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
layout(set = 0, binding = 3, std430) readonly buffer Gate {
    uvec4 gate[];
};
#ifdef SECOND
layout(set = 0, binding = 3 + WEIGHTS_EACH, std430) readonly buffer Up {
    uvec4 up[];
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

// Sixteen bytes of a weight: 0 (gate) or 1 (up). There are no entries.
uvec4 quad_of(uint which, uint e, uint i) {
#ifdef SECOND
    if (which == 1u) {
        return up[i];
    }
#endif
    return gate[i];
}

// The scale of the block of 128 x 128 with bound row `i` and column `column`; 1 for other
// formats.
float scale_of(uint which, uint e, uint i, uint column) {
#ifdef FP8
    uint at = ((OUTPUT_FIRST + i) >> 7) * ((p.k + 127u) >> 7) + (column >> 7);
#ifdef SECOND
    if (which == 1u) {
        return up_scales[at];
    }
#endif
    return gate_scales[at];
#else
    return 1.0;
#endif
}
