// Scale and minimum of group `group` of sixteen values, of the block at byte `at`.

#ifdef SIX_BITS
// Scale and minimum `j` of eight: six bits each in twelve bytes.
fn $_six_bits(at: u32, j: u32) -> vec2<f32> {
    if j < 4u {
        return vec2<f32>(vec2<u32>($_u8(at + j), $_u8(at + j + 4u)) & vec2<u32>(63u));
    }
    let both = $_u8(at + j + 4u);
    let scale = (both & 15u) | ($_u8(at + j - 4u) >> 6u << 4u);
    let minimum = (both >> 4u) | ($_u8(at + j) >> 6u << 4u);
    return vec2<f32>(vec2<u32>(scale, minimum));
}
#endif
#ifdef FOURTHS
// The four bits of a group, from byte `at` on.
fn $_four(at: u32, group: u32) -> f32 {
    return f32(($_u8(at + (group >> 1u)) >> ((group & 1u) << 2u)) & 15u);
}
#endif

fn $_scales(at: u32, group: u32) -> vec2<f32> {
#ifdef ONE_SCALE
    return vec2<f32>($_half(at), 0.0);
#endif
#ifdef MINIMUM
    return vec2<f32>($_half(at), -$_half(at + 2u));
#endif
#ifdef Q2_K
    let both = $_u8(at + group);
    return vec2<f32>($_half(at + 80u), $_half(at + 82u)) * vec2<f32>(vec2<u32>(both & 15u, both >> 4u));
#endif
#ifdef Q3_K
    let low = ($_u8(at + 96u + (group & 7u)) >> ((group >> 3u) << 2u)) & 15u;
    let high = ($_u8(at + 104u + (group & 3u)) >> ((group >> 2u) << 1u)) & 3u;
    return vec2<f32>($_half(at + 108u) * f32(i32(low | (high << 4u)) - 32), 0.0);
#endif
#ifdef SIX_BITS
    return vec2<f32>($_half(at), $_half(at + 2u)) * $_six_bits(at + 4u, group >> 1u);
#endif
#ifdef Q6_K
    return vec2<f32>($_half(at + 208u) * f32(signed_byte($_u8(at + 192u + group))), 0.0);
#endif
#ifdef IQ4_XS
    let b = group >> 1u;
    let low = ($_u8(at + 4u + (b >> 1u)) >> ((b & 1u) << 2u)) & 15u;
    let high = ($_u16(at + 2u) >> (2u * b)) & 3u;
    return vec2<f32>($_half(at) * f32(i32(low | (high << 4u)) - 32), 0.0);
#endif
#ifdef IQ2_XXS
    let rest = $_u32(at + 6u + 8u * (group >> 1u));
    return vec2<f32>($_half(at) * (0.5 + f32(rest >> 28u)) * 0.25, 0.0);
#endif
#ifdef IQ2_XS
    return vec2<f32>($_half(at) * (0.5 + $_four(at + 66u, group)) * 0.25, 0.0);
#endif
#ifdef IQ2_S
    return vec2<f32>($_half(at) * (0.5 + $_four(at + 74u, group)) * 0.25, 0.0);
#endif
#ifdef IQ3_XXS
    let rest = $_u32(at + 66u + 4u * (group >> 1u));
    return vec2<f32>($_half(at) * (0.5 + f32(rest >> 28u)) * 0.5, 0.0);
#endif
#ifdef IQ3_S
    return vec2<f32>($_half(at) * (1.0 + 2.0 * $_four(at + 106u, group >> 1u)), 0.0);
#endif
#ifdef IQ1_S
    let three = ($_u16(at + 34u + 2u * (group >> 1u)) >> 12u) & 7u;
    return vec2<f32>($_half(at) * 0.125 * f32(2u * three + 1u), 0.0);
#endif
#ifdef IQ1_M
    // The scale of all lies in the top four bits of four words.
    let tops = vec4<u32>($_u16(at + 48u), $_u16(at + 50u), $_u16(at + 52u), $_u16(at + 54u)) >> vec4<u32>(12u);
    let bits = tops.x | (tops.y << 4u) | (tops.z << 8u) | (tops.w << 12u);
    let three = ($_u16(at + 48u + 2u * (group >> 2u)) >> (3u * (group & 3u))) & 7u;
    return vec2<f32>(decode_f16(bits).x * 0.125 * f32(2u * three + 1u), 0.0);
#endif
#ifdef TQ1_0
    return vec2<f32>($_half(at + 52u), 0.0);
#endif
#ifdef TQ2_0
    return vec2<f32>($_half(at + 64u), 0.0);
#endif
}
