// Elements of f16 for `tiles`: any weights, activations as numbers.

#define Element float16_t
#define Four f16vec4

// How many f16 an activation is, and a weight.
const uint X_PARTS = 2u;
#ifdef FP8
const bool SCALED = false;
const uint W_PARTS = 1u;
#else
// Whether a power of two is taken out of the weights.
const bool SCALED = FORMAT != F16;
const uint W_PARTS = FORMAT == F32 ? 2u : 1u;
#endif

// Bits of the largest absolute values of a block, infinities and NaN left out.
shared uint x_top;
shared uint w_top[WEIGHTS];
// The same of the block that is multiplied.
uint x_power;
uint w_power[WEIGHTS];

// The power of two that brings values up to `top` below 2^15, and its inverse.
float raised(uint top) {
    return uintBitsToFloat((268u - clamp(top >> 23, 15u, 254u)) << 23);
}
float lowered(uint top) {
    return uintBitsToFloat((clamp(top >> 23, 15u, 254u) - 14u) << 23);
}

uint top_of(vec4 values) {
    uvec4 bits = floatBitsToUint(values) & 0x7fffffffu;
    bits = mix(bits, uvec4(0u), greaterThanEqual(bits, INFINITE));
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// Finds the powers of two of the block of 128 inputs from `block` on. Called by all invocations.
void begin_block(uint first, uint outputs, uint row, uint end, uint e, uint block) {
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
    x_power = x_top;
    w_power = w_top;
}

// The values rounded to the eleven bits of an f16, and what that leaves of them; nothing of an
// infinity or a NaN. By integers, because compilers take f32 -> f16 -> f32 for nothing.
void split(vec4 values, out Four parts[X_PARTS]) {
    uvec4 bits = floatBitsToUint(values);
    bvec4 infinite = equal(bits & INFINITE, INFINITE);
    vec4 rounded = mix(uintBitsToFloat((bits + 0x1000u) & ~0x1fffu), values, infinite);
    parts[0] = f16vec4(rounded);
    parts[1] = f16vec4(mix(values - rounded, vec4(0.0), infinite));
}

// Four activations of a row, the first part first.
void activations_of(uint row, uint r, uint end, uint column, out Four parts[X_PARTS]) {
    split(x_four(row + r, end, column) * raised(x_power), parts);
}

// Weights `4 four ..` of sixteen bytes; the first W_PARTS parts.
void weights_of(uint which, uvec4 quad, uint four, out Four parts[X_PARTS]) {
    vec4 values = codes_of(quad, four);
    if (SCALED) {
        values *= raised(w_power[which]);
    }
    if (W_PARTS == 2u) {
        split(values, parts);
    } else {
        parts[0] = f16vec4(values);
    }
}

// What sums of the block's products stand for, in the part of the tile from (row, column) on; the
// output `mine` has the same scale.
Sums unscaled(Sums sums, uint which, uint e, uint mine, uint block, uint row, uint column) {
    float scale = SCALED ? lowered(w_power[which]) : scale_of(which, e, mine, block);
    // One after the other: both together may be too small for f32.
    return sums * lowered(x_power) * scale;
}
