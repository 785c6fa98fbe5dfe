// Tiles of inputs in workgroup memory for `matrix`. Needs `params`, `decode`, the weights and `x`.
//
// Elements of the matrices are f16 (`halves`), with BF16_UNITS bf16 (`brains`), with BYTES integers
// of eight bits (`bytes`), with CODED what rows of codes are multiplied as (`codes`). Each of these
// files says how many elements an activation and a weight are, how they are loaded, and what sums
// then stand for.

// What a product of the device takes: M x K times K x N.
layout(constant_id = 3) const uint M = 16u;
layout(constant_id = 4) const uint N = 16u;
layout(constant_id = 5) const uint K = 16u;
// Outputs of a workgroup, and among how many subgroups they are divided.
layout(constant_id = 6) const uint ROWS = 64u;
layout(constant_id = 7) const uint COLUMNS = 64u;
layout(constant_id = 8) const uint ROW_PARTS = 2u;
layout(constant_id = 9) const uint COLUMN_PARTS = 2u;
// Subgroups of a workgroup at most.
layout(constant_id = 10) const uint SUBGROUPS = 4u;

// Elements in sixteen bytes.
#if defined(E4M3_UNITS) || defined(BYTES)
const uint PADDING = 16u;
#else
const uint PADDING = 8u;
#endif
// Inputs loaded at once; a multiple of K and of CODES, a divisor of 128.
const uint STEP = 32u;
// From one row of a tile to the next, in elements: not a power of two, for the sake of banks, but
// a multiple of sixteen bytes, as loads of matrices want it.
const uint STRIDE = STEP + PADDING;
// Products of a subgroup along rows and columns, and both multiplied.
const uint ROW_TILES = ROWS / (ROW_PARTS * M);
const uint COLUMN_TILES = COLUMNS / (COLUMN_PARTS * N);
const uint SUMS = ROW_TILES * COLUMN_TILES;

#define Sums coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>

// Sixteen bytes of weight row `i`; zero behind the last input and the last row.
uvec4 w_quad(uint which, uint e, uint i, uint outputs, uint column) {
    if (i < outputs && column < p.k) {
        return quad_of(which, e, (i * p.k + column) / CODES);
    }
    return uvec4(0u);
}

#ifdef CODED
#include "shared/codes.glsl"
#else
const uvec4 INFINITE = uvec4(0x7f800000u);

// Four activations of a row; zero behind the last input and the last row.
vec4 x_four(uint r, uint end, uint column) {
    if (r < end && column < p.k) {
        return x[(p.x_offset + r * p.x_stride + column) >> 2];
    }
    return vec4(0.0);
}

#ifdef BF16_UNITS
#include "shared/brains.glsl"
#elif defined(BYTES)
#include "shared/bytes.glsl"
#else
#include "shared/halves.glsl"
#endif
#endif

#ifndef BYTES
// Sums of products are numbers, of all parts of an activation together, and blocks with one scale
// have 128 inputs.
#define Products Sums
const uint KEPT = 1u;
const float RADIX = 1.0;
const uint BLOCK = 128u;
#endif

#define Left coopmat<Element, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define Right coopmat<Element, gl_ScopeSubgroup, K, N, gl_MatrixUseB>

// Rows of first parts, then rows of the next; four elements each.
shared Four x_tile[X_PARTS * ROWS * STRIDE / 4u];
// First parts of all weights, then second parts of all weights.
shared Four w_tile[W_PARTS * WEIGHTS * COLUMNS * STRIDE / 4u];
// A tile of sums for each subgroup on their way out.
shared float stage[SUBGROUPS * M * N];

// The tile of activations from input `at` on.
void load_x(uint row, uint end, uint at) {
    for (uint i = gl_LocalInvocationIndex; i < ROWS * (STEP / 4u); i += WG) {
        uint r = i / (STEP / 4u);
        uint four = i % (STEP / 4u);
        Four parts[X_PARTS];
        activations_of(row, r, end, at + 4u * four, parts);
        [[unroll]] for (uint part = 0u; part < X_PARTS; part += 1u) {
            x_tile[(part * ROWS + r) * (STRIDE / 4u) + four] = parts[part];
        }
    }
}

// The tile of a weight from output `first` and input `at` on.
void load_w(uint which, uint first, uint outputs, uint e, uint at) {
    const uint each = STEP / CODES;
    for (uint i = gl_LocalInvocationIndex; i < COLUMNS * each; i += WG) {
        uint o = i / each;
        uint column = i % each * CODES;
        uvec4 quad = w_quad(which, e, first + o, outputs, at + column);
        uint to = (which * COLUMNS + o) * (STRIDE / 4u) + column / 4u;
        [[unroll]] for (uint four = 0u; four < CODES / 4u; four += 1u) {
            Four parts[X_PARTS];
            weights_of(which, quad, four, parts);
            [[unroll]] for (uint part = 0u; part < W_PARTS; part += 1u) {
                w_tile[part * WEIGHTS * COLUMNS * (STRIDE / 4u) + to + four] = parts[part];
            }
        }
    }
}
