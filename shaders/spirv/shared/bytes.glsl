// Elements of eight bits for `tiles`: weights in Q8_0 as they are, activations as digits with a
// scale for each row of a block. Sums are integers, and exact.

#define Element int8_t
// The lowest byte first.
#define Four uint
#define Products coopmat<int, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>

// Digits of an activation: three for 23 bits of the largest of its block, one for eight.
layout(constant_id = 13) const uint DIGITS = 3u;
const uint X_PARTS = DIGITS;
const uint W_PARTS = 1u;
// Products of each digit are summed for themselves; a digit counts so much more than the next.
const uint KEPT = DIGITS;
const float RADIX = 256.0;
// Inputs of a block of weights.
const uint BLOCK = 32u;
// The largest activation in digits.
const float MOST = DIGITS == 1u ? 127.0 : 127.0 * 65536.0;
// Below it divisions would not be finite.
const float LEAST_TOP = 1.0e-30;

// Bits of the largest absolute value of each row's block.
shared uint x_tops[ROWS];
// Scales of the rows, each as often as a matrix of sums has columns.
shared float x_scales[ROWS * N];
// Scales of the outputs, each as often as a matrix of sums has rows.
shared float w_scales[M * WEIGHTS * COLUMNS];

// The largest value of row `r` of the tile; NaN if one is not finite.
float top_of_row(uint r) {
    uint top = x_tops[r];
    return top < INFINITE.x ? max(uintBitsToFloat(top), LEAST_TOP) : uintBitsToFloat(0x7fc00000u);
}

// Finds the scales of the block of inputs from `block` on. Called by all invocations.
void begin_block(uint first, uint outputs, uint row, uint end, uint e, uint block) {
    uint local = gl_LocalInvocationIndex;
    // Those of the block before are multiplied.
    barrier();
    for (uint i = local; i < ROWS; i += WG) {
        x_tops[i] = 0u;
    }
    for (uint i = local; i < M * WEIGHTS * COLUMNS; i += WG) {
        uint which = i / COLUMNS % WEIGHTS;
        uint o = first + i % COLUMNS;
        w_scales[i] = o < outputs ? scale_of(which, e, o, block) : 0.0;
    }
    barrier();
    for (uint i = local; i < ROWS * (BLOCK / 4u); i += WG) {
        uint r = i / (BLOCK / 4u);
        vec4 values = x_four(row + r, end, block + i % (BLOCK / 4u) * 4u);
        uvec4 bits = floatBitsToUint(values) & 0x7fffffffu;
        atomicMax(x_tops[r], max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
    barrier();
    for (uint i = local; i < ROWS * N; i += WG) {
        x_scales[i] = top_of_row(i / N) / MOST;
    }
}

// Four activations of row `r` of the tile, the highest digit first.
void activations_of(uint row, uint r, uint end, uint column, out Four parts[X_PARTS]) {
    vec4 values = x_four(row + r, end, column) * (MOST / top_of_row(r));
    ivec4 whole = ivec4(roundEven(values));
    [[unroll]] for (uint part = X_PARTS; part > 0u; part -= 1u) {
        // The lowest digit, from -128 to 127, and what is left without it.
        ivec4 digit = bitfieldExtract(whole, 0, 8);
        uvec4 bytes = uvec4(digit) & 0xffu;
        parts[part - 1u] = bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
        whole = (whole - digit) >> 8;
    }
}

// Four weights.
void weights_of(uint which, uvec4 quad, uint four, out Four parts[X_PARTS]) {
    parts[0] = quad.x;
}

// What sums of the block's products stand for, in the part of the tile from (row, column) on.
Sums unscaled(Sums sums, uint which, uint e, uint mine, uint block, uint row, uint column) {
    Sums rows, columns;
    // Subgroups that have no part of the tile come here too.
    coopMatLoad(rows, x_scales, row % ROWS * N, N, gl_CooperativeMatrixLayoutRowMajor);
    coopMatLoad(columns, w_scales, which * COLUMNS + column % COLUMNS, WEIGHTS * COLUMNS,
        gl_CooperativeMatrixLayoutRowMajor);
    return sums * rows * columns;
}
