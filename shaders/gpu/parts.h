// A value as a sum of bf16: three of them are all of an f32.

// The next part of `rest`, as bf16; `rest` loses it.
DEVICE u16 take_part(float& rest) {
    u32 bits = bits_of(rest);
    const u32 magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x7f800000u) {
        // Infinite or not a number: whole in its first part.
        bits = magnitude > 0x7f800000u ? 0x7fc00000u : bits;
        rest = 0.0f;
        return (u16)(bits >> 16);
    }
    rest -= float_of(bits & 0xffff0000u);
    return (u16)(bits >> 16);
}

// The parts of two neighbours, the first in the lower halves. Of values that are one bf16 there is
// one, and they need no look at what they are; nor do values that are known to be finite.
template <u32 COUNT, bool FINITE = COUNT == 1> DEVICE void take_pairs(float low, float high, u32 (&pair)[COUNT]) {
    // Zero times what is infinite or not a number is not zero.
    if (FINITE || fma_(low, 0.0f, high * 0.0f) == 0.0f) {
        UNROLL
        for (u32 part = 0; part < COUNT; part++) {
            const u32 first = bits_of(low), second = bits_of(high) & 0xffff0000u;
            pair[part] = first >> 16 | second;
            low -= float_of(first & 0xffff0000u);
            high -= float_of(second);
        }
        return;
    }
    UNROLL
    for (u32 part = 0; part < COUNT; part++) {
        const u32 first = take_part(low), second = take_part(high);
        pair[part] = first | second << 16;
    }
}
