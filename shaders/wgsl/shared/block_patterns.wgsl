// Values of the patterns that block formats choose from (they follow the parameters). Eight
// values a pattern (EIGHTS): two bits each; four values: four bits.

fn pattern(index: u32) -> u32 {
    let word = p.patterns[index >> 3u][(index >> 1u) & 3u];
    return (word >> ((index & 1u) << 4u)) & 0xffffu;
}

#ifdef EIGHTS
// Half of a pattern of eight values: the first four or the last.
fn of_eight(index: u32, half: u32) -> vec4<u32> {
    return (vec4<u32>(pattern(index) >> (8u * half)) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u);
}
#else
fn of_four(index: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(pattern(index)) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u));
}
#endif

// The eighth sign of a code of seven makes their number even.
fn even_signs(code: u32) -> u32 {
    let seven = code & 127u;
    return seven | ((countOneBits(seven) & 1u) << 7u);
}

fn with_signs(values: vec4<f32>, signs: u32, q: u32) -> vec4<f32> {
    return select(values, -values, four_bits(signs, (q & 1u) << 2u) != vec4<u32>(0u));
}

// 8, 25, 43.
fn magnitudes(codes: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(codes * 17u + vec4<u32>(8u) + (codes >> vec4<u32>(1u)));
}
