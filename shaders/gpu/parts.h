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
