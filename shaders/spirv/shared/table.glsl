// Expert tables as lists of addresses: entry `e` of weight 0 (gate) or 1 (up), and its block
// scales if it is FP8. Needs TABLES, the first binding, and `decode`; SECOND: there is an up.
//
// An entry and its scales begin at multiples of sixteen bytes.

#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require

layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Quads {
    uvec4 quads[];
};
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Words {
    uint words[];
};
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Floats {
    float floats[];
};

#ifdef FP8
#define WEIGHTS_EACH 2
layout(set = 0, binding = TABLES + 1, std430) readonly buffer GateScales {
    uvec2 gate_scales[];
};
#else
#define WEIGHTS_EACH 1
#endif
layout(set = 0, binding = TABLES, std430) readonly buffer Gate {
    uvec2 gate[];
};
#ifdef SECOND
layout(set = 0, binding = TABLES + WEIGHTS_EACH, std430) readonly buffer Up {
    uvec2 up[];
};
#ifdef FP8
layout(set = 0, binding = TABLES + 3, std430) readonly buffer UpScales {
    uvec2 up_scales[];
};
#endif
#define WEIGHTS 2u
#define AFTER_WEIGHTS (TABLES + 2 * WEIGHTS_EACH)
#else
#define WEIGHTS 1u
#define AFTER_WEIGHTS (TABLES + WEIGHTS_EACH)
#endif

// Entries are whole matrices.
#define OUTPUT_FIRST 0u

uvec2 entry_of(uint which, uint e) {
#ifdef SECOND
    return which == 0u ? gate[e] : up[e];
#else
    return gate[e];
#endif
}

// Sixteen bytes of a weight.
uvec4 quad_of(uint which, uint e, uint i) {
    return Quads(entry_of(which, e)).quads[i];
}

// The scale of the block of 128 x 128 with row `i` and column `column`; 1 for other formats.
float scale_of(uint which, uint e, uint i, uint column) {
#ifdef FP8
#ifdef SECOND
    uvec2 scales = which == 0u ? gate_scales[e] : up_scales[e];
#else
    uvec2 scales = gate_scales[e];
#endif
    return Floats(scales).floats[(i >> 7) * ((p.k + 127u) >> 7) + (column >> 7)];
#else
    return 1.0;
#endif
}
