// Tiles of inputs in workgroup memory for `matrix`, as f16. Needs `params`, `decode`, the
// weights and `x`.

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

// Inputs loaded at once; a multiple of K and of CODES, a divisor of 128.
const uint STEP = 32u;
// From one row of a tile to the next, in f16: not a power of two, for the sake of banks, but a
// multiple of sixteen bytes, as loads of matrices want it.
const uint STRIDE = STEP + 8u;
// Products of a subgroup along rows and columns, and both multiplied.
const uint ROW_TILES = ROWS / (ROW_PARTS * M);
const uint COLUMN_TILES = COLUMNS / (COLUMN_PARTS * N);
const uint SUMS = ROW_TILES * COLUMN_TILES;
#ifdef FP8
const bool SCALED = false;
const uint W_PARTS = 1u;
#else
// Whether a power of two is taken out of the weights.
const bool SCALED = FORMAT != F16;
// How many f16 a weight is.
const uint W_PARTS = FORMAT == F32 ? 2u : 1u;
#endif

#define Left coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define Right coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>
#define Sums coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>

// Rows of high parts, then rows of low parts.
shared f16vec4 x_tile[2u * ROWS * STRIDE / 4u];
// High parts of all weights, then low parts of all weights.
shared f16vec4 w_tile[W_PARTS * WEIGHTS * COLUMNS * STRIDE / 4u];
// A tile of sums for each subgroup on their way out.
shared float stage[SUBGROUPS * M * N];
// Bits of the largest absolute values of a block, infinities and NaN left out.
shared uint x_top;
shared uint w_top[WEIGHTS];

// The power of two that brings values up to `top` below 2^15, and its inverse.
float raised(uint top) {
    return uintBitsToFloat((268u - clamp(top >> 23, 15u, 254u)) << 23);
}
float lowered(uint top) {
    return uintBitsToFloat((clamp(top >> 23, 15u, 254u) - 14u) << 23);
}

const uvec4 INFINITE = uvec4(0x7f800000u);

uint top_of(vec4 values) {
    uvec4 bits = floatBitsToUint(values) & 0x7fffffffu;
    bits = mix(bits, uvec4(0u), greaterThanEqual(bits, INFINITE));
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// The values rounded to the eleven bits of an f16, and what that leaves of them; nothing of an
// infinity or a NaN. By integers, because compilers take f32 -> f16 -> f32 for nothing.
void split(vec4 values, out f16vec4 high, out f16vec4 low) {
    uvec4 bits = floatBitsToUint(values);
    bvec4 infinite = equal(bits & INFINITE, INFINITE);
    vec4 rounded = mix(uintBitsToFloat((bits + 0x1000u) & ~0x1fffu), values, infinite);
    high = f16vec4(rounded);
    low = f16vec4(mix(values - rounded, vec4(0.0), infinite));
}

// Four activations of a row; zero behind the last input and the last row.
vec4 x_four(uint r, uint end, uint column) {
    if (r < end && column < p.k) {
        return x[(p.x_offset + r * p.x_stride + column) >> 2];
    }
    return vec4(0.0);
}

// Sixteen bytes of weight row `i`; zero behind the last input and the last row.
uvec4 w_quad(uint which, uint e, uint i, uint outputs, uint column) {
    if (i < outputs && column < p.k) {
        return quad_of(which, e, (i * p.k + column) / CODES);
    }
    return uvec4(0u);
}

// Leaves in `x_top` and `w_top` the largest values of the block of 128 inputs from `block` on.
void find_tops(uint first, uint outputs, uint row, uint end, uint e, uint block) {
    uint local = gl_LocalInvocationIndex;
    if (local == 0u) {
        x_top = 0u;
        w_top[0] = 0u;
        w_top[WEIGHTS - 1u] = 0u;
    }
    barrier();
    uint top = 0u;
    for (uint i = local; i < ROWS * 32u; i += WG) {
        top = max(top, top_of(x_four(row + i / 32u, end, block + i % 32u * 4u)));
    }
    atomicMax(x_top, top);
    if (SCALED) {
        const uint each = 128u / CODES;
        for (uint which = 0u; which < WEIGHTS; which += 1u) {
            top = 0u;
            for (uint i = local; i < COLUMNS * each; i += WG) {
                uvec4 quad = w_quad(which, e, first + i / each, outputs, block + i % each * CODES);
                for (uint four = 0u; four < CODES / 4u; four += 1u) {
                    top = max(top, top_of(codes_of(quad, four)));
                }
            }
            atomicMax(w_top[which], top);
        }
    }
    barrier();
}

// The tile of activations from input `at` on, multiplied by `power`.
void load_x(uint row, uint end, uint at, float power) {
    for (uint i = gl_LocalInvocationIndex; i < ROWS * (STEP / 4u); i += WG) {
        uint r = i / (STEP / 4u);
        uint four = i % (STEP / 4u);
        vec4 values = x_four(row + r, end, at + 4u * four) * power;
        uint to = r * (STRIDE / 4u) + four;
        split(values, x_tile[to], x_tile[ROWS * (STRIDE / 4u) + to]);
    }
}

// The tile of a weight from output `first` and input `at` on, multiplied by `power` if SCALED.
void load_w(uint which, uint first, uint outputs, uint e, uint at, float power) {
    const uint each = STEP / CODES;
    for (uint i = gl_LocalInvocationIndex; i < COLUMNS * each; i += WG) {
        uint o = i / each;
        uint column = i % each * CODES;
        uvec4 quad = w_quad(which, e, first + o, outputs, at + column);
        uint to = (which * COLUMNS + o) * (STRIDE / 4u) + column / 4u;
        [[unroll]] for (uint four = 0u; four < CODES / 4u; four += 1u) {
            vec4 values = codes_of(quad, four);
            if (SCALED) {
                values *= power;
            }
            if (W_PARTS == 2u) {
                uint low = WEIGHTS * COLUMNS * (STRIDE / 4u) + to;
                split(values, w_tile[to + four], w_tile[low + four]);
            } else {
                w_tile[to + four] = f16vec4(values);
            }
        }
    }
}
