// Elements of bf16 for `tiles`: BF16 weights as they are, activations as numbers. No power of two
// is looked for, since bf16 reaches as far as f32.

#define Element bfloat16_t
// Two bf16 in a word, the lower one first.
#define Four uvec2

// How many bf16 an activation is: eight bits each. And a weight.
const uint X_PARTS = 3u;
const uint W_PARTS = 1u;

void begin_block(uint first, uint outputs, uint row, uint end, uint e, uint block) {}

// Four activations of a row, the first part first: the values cut to eight bits, what that leaves
// of them likewise, and the rest, which then has eight bits. Nothing is left of an infinity or a
// NaN.
void activations_of(uint row, uint r, uint end, uint column, out Four parts[X_PARTS]) {
    vec4 values = x_four(row + r, end, column);
    [[unroll]] for (uint part = 0u; part < X_PARTS; part += 1u) {
        uvec4 bits = floatBitsToUint(values);
        bvec4 infinite = equal(bits & INFINITE, INFINITE);
        // What makes a NaN one may lie in the lower half.
        bvec4 nan = greaterThan(bits & 0x7fffffffu, INFINITE);
        bits = mix(bits, bits | 0x400000u, nan) & 0xffff0000u;
        parts[part] = uvec2(bits.x >> 16 | bits.y, bits.z >> 16 | bits.w);
        values = mix(values - uintBitsToFloat(bits), vec4(0.0), infinite);
    }
}

// Weights `4 four ..` of sixteen bytes.
void weights_of(uint which, uvec4 quad, uint four, out Four parts[X_PARTS]) {
    parts[0] = four == 0u ? quad.xy : quad.zw;
}

// What sums of the block's products stand for.
Sums unscaled(Sums sums, uint which, uint e, uint mine, uint block, uint row, uint column) {
    return sums;
}
