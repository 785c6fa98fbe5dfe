// Codes 4 q to 4 q + 3 of the block at byte `at`, of the formats that choose among patterns.

#import block_patterns

fn $_quad(at: u32, q: u32) -> vec4<f32> {
    let j = q >> 1u;
#ifdef IQ2_XXS
    let start = at + 2u + ((q >> 3u) << 3u);
    let signs = even_signs($_u32(start + 4u) >> (7u * (j & 3u)));
    return with_signs(magnitudes(of_eight($_u8(start + (j & 3u)), q & 1u)), signs, q);
#endif
#ifdef IQ2_XS
    let code = $_u16(at + 2u + 2u * j);
    return with_signs(magnitudes(of_eight(code & 511u, q & 1u)), even_signs(code >> 9u), q);
#endif
#ifdef IQ2_S
    let high = ($_u8(at + 66u + (j >> 2u)) >> ((j & 3u) << 1u)) & 3u;
    let index = $_u8(at + 2u + j) | (high << 8u);
    return with_signs(magnitudes(of_eight(index, q & 1u)), $_u8(at + 34u + j), q);
#endif
#ifdef IQ3_XXS
    let rest = $_u32(at + 66u + ((q >> 3u) << 2u));
    let codes = of_four($_u8(at + 2u + q));
    // 4, 12, 20, .. 52, 62: the last step is ten wide.
    let values = 8.0 * codes + select(vec4<f32>(4.0), vec4<f32>(6.0), codes == vec4<f32>(7.0));
    return with_signs(values, even_signs(rest >> (7u * (j & 3u))), q);
#endif
#ifdef IQ3_S
    let high = ($_u8(at + 66u + (q >> 3u)) >> (q & 7u)) & 1u;
    let values = 2.0 * of_four($_u8(at + 2u + q) | (high << 8u)) + vec4<f32>(1.0);
    return with_signs(values, $_u8(at + 74u + j), q);
#endif
#ifdef IQ1_S
    let word = $_u16(at + 34u + ((q >> 3u) << 1u));
    let index = $_u8(at + 2u + j) | (((word >> (3u * (j & 3u))) & 7u) << 8u);
    let down = (word & 0x8000u) != 0u;
#endif
#ifdef IQ1_M
    let bits = ($_u8(at + 32u + (j >> 1u)) >> ((j & 1u) << 2u)) & 15u;
    let index = $_u8(at + j) | ((bits & 7u) << 8u);
    let down = (bits & 8u) != 0u;
#endif
#ifdef ONES
    // Eighths: the pattern of -1, 0, 1 moved up or down by one.
    let values = 8.0 * (vec4<f32>(of_eight(index, q & 1u)) - vec4<f32>(1.0));
    return values + vec4<f32>(select(1.0, -1.0, down));
#endif
}
