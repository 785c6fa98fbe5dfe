// Parts of words as numbers, for block formats.

// Which format, for the definitions; a kernel's text has one.
override FORMAT: u32 = 0u;

// The bytes of a word, the lowest first, each masked.
fn bytes_of(word: u32, mask: u32) -> vec4<u32> {
    return vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(mask);
}

// The same of two codes of `bits` bits each, `high` the upper ones.
fn joined(low: vec4<u32>, high: vec4<u32>, bits: u32) -> vec4<u32> {
    return low | (high << vec4<u32>(bits));
}

fn signed_byte(byte: u32) -> i32 {
    return i32(byte << 24u) >> 24u;
}

fn signed_bytes(word: u32) -> vec4<i32> {
    return vec4<i32>(vec4<u32>(word << 24u, word << 16u, word << 8u, word)) >> vec4<u32>(24u);
}

// Bit `i` of `word`, and the next three.
fn four_bits(word: u32, i: u32) -> vec4<u32> {
    return (vec4<u32>(word >> i) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u);
}

// What the codes of iq4_nl and iq4_xs stand for.
const LEVELS: vec4<u32> = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);

fn level(code: u32) -> i32 {
    return signed_byte((LEVELS[code >> 2u] >> ((code & 3u) << 3u)) & 0xffu);
}

fn levels(codes: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(vec4<i32>(level(codes.x), level(codes.y), level(codes.z), level(codes.w)));
}
