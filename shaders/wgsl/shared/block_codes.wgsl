// Codes 4 q to 4 q + 3 of the block at byte `at`, of the formats that count in even steps or
// in the levels of iq4.

#ifdef TWO_BITS
// Two bits each, from byte `at` on: two halves of 128 values, four times 32 in each.
fn $_two_bits(at: u32, q: u32) -> vec4<u32> {
    let word = $_u32(at + ((q >> 5u) << 5u) + ((q & 7u) << 2u));
    return bytes_of(word >> (((q >> 3u) & 3u) << 1u), 3u);
}
#endif

fn $_quad(at: u32, q: u32) -> vec4<f32> {
#ifdef NIBBLES
    // 32 values: the low nibbles of sixteen bytes, then the high ones.
    let nibbles = bytes_of($_u32(at + NIBBLES_AT + ((q & 3u) << 2u)) >> (q & 4u), 15u);
#endif
#ifdef Q4_0
    return vec4<f32>(nibbles) - vec4<f32>(8.0);
#endif
#ifdef Q4_1
    return vec4<f32>(nibbles);
#endif
#ifdef Q5_0
    return vec4<f32>(joined(nibbles, four_bits($_u32(at + 2u), 4u * q), 4u)) - vec4<f32>(16.0);
#endif
#ifdef Q5_1
    return vec4<f32>(joined(nibbles, four_bits($_u32(at + 4u), 4u * q), 4u));
#endif
#ifdef IQ4_NL
    return levels(nibbles);
#endif
#ifdef Q8_0
    return vec4<f32>(signed_bytes($_u32(at + 2u + 4u * q)));
#endif
#ifdef Q2_K
    return vec4<f32>($_two_bits(at + 16u, q));
#endif
#ifdef Q3_K
    let third = bytes_of($_u32(at + ((q & 7u) << 2u)) >> (q >> 3u), 1u);
    return vec4<f32>(joined($_two_bits(at + 32u, q), third, 2u)) - vec4<f32>(4.0);
#endif
#ifdef Q4_K
    let j = q >> 3u;
    let word = $_u32(at + 16u + ((j >> 1u) << 5u) + ((q & 7u) << 2u));
    return vec4<f32>(bytes_of(word >> ((j & 1u) << 2u), 15u));
#endif
#ifdef Q5_K
    let j = q >> 3u;
    let l = (q & 7u) << 2u;
    let low = bytes_of($_u32(at + 48u + ((j >> 1u) << 5u) + l) >> ((j & 1u) << 2u), 15u);
    return vec4<f32>(joined(low, bytes_of($_u32(at + 16u + l) >> j, 1u), 4u));
#endif
#ifdef Q6_K
    let n = q >> 5u;
    let k = (q >> 3u) & 3u;
    let l = (q & 7u) << 2u;
    let low = bytes_of($_u32(at + 64u * n + 32u * (k & 1u) + l) >> ((k >> 1u) << 2u), 15u);
    let high = bytes_of($_u32(at + 128u + 32u * n + l) >> (2u * k), 3u);
    return vec4<f32>(joined(low, high, 4u)) - vec4<f32>(32.0);
#endif
#ifdef IQ4_XS
    let word = $_u32(at + 8u + ((q >> 3u) << 4u) + ((q & 3u) << 2u));
    return levels(bytes_of(word >> (q & 4u), 15u));
#endif
#ifdef TQ2_0
    return vec4<f32>($_two_bits(at, q)) - vec4<f32>(1.0);
#endif
#ifdef TQ1_0
    // Five digits to the base three in a byte; `power` brings one of them to the top.
    var word = q & 7u;
    var power = q >> 3u;
    if q >= 60u {
        word = 12u;
        power = q - 60u;
    } else if q >= 40u {
        word = 8u + (q & 3u);
        power = (q - 40u) >> 2u;
    }
    var factor = 1u;
    for (var i = 0u; i < power; i += 1u) {
        factor *= 3u;
    }
    let moved = (bytes_of($_u32(at + 4u * word), 255u) * factor) & vec4<u32>(255u);
    return vec4<f32>((moved * 3u) >> vec4<u32>(8u)) - vec4<f32>(1.0);
#endif
}
