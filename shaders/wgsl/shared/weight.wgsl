// A weight operand and, if it is FP8, its scales; imported under a name (`as w`), which
// replaces the dollar signs. One of F32, F16, BF16, FP8
// is defined, or BLOCKS.
//
// Values are read by element index from 32-bit words, so that any row length works. WIDE:
// only by sixteen bytes at a time, which rows are a multiple of.

#ifdef BLOCKS
#import blocks as $
#else
#import decode
#import formats

#ifdef WIDE
@group(0) @binding(auto) var<storage, read> $_quads: array<vec4<u32>>;
#else
@group(0) @binding(auto) var<storage, read> $_words: array<u32>;
#endif
#ifdef FP8
// One scale for each block of 128 x 128 values.
@group(0) @binding(auto) var<storage, read> $_scales: array<f32>;
#endif

#ifdef WIDE
#else
// The code at element `i`, without its scale.
fn $_code(i: u32) -> f32 {
#ifdef F32
    return bitcast<f32>($_words[i]);
#endif
#ifdef BF16
    return decode_bf16($_words[i >> 1u] >> ((i & 1u) << 4u)).x;
#endif
#ifdef F16
    return decode_f16($_words[i >> 1u] >> ((i & 1u) << 4u)).x;
#endif
#ifdef FP8
    return decode_e4m3(($_words[i >> 2u] >> ((i & 3u) << 3u)) & 0xffu).x;
#endif
}

// The codes at elements `i .. i + 4`; `i` is a multiple of 4.
fn $_codes(i: u32) -> vec4<f32> {
#ifdef F32
    return bitcast<vec4<f32>>(vec4<u32>($_words[i], $_words[i + 1u], $_words[i + 2u], $_words[i + 3u]));
#endif
#ifdef BF16
    return vec4<f32>(decode_bf16($_words[i >> 1u]), decode_bf16($_words[(i >> 1u) + 1u]));
#endif
#ifdef F16
    return vec4<f32>(decode_f16($_words[i >> 1u]), decode_f16($_words[(i >> 1u) + 1u]));
#endif
#ifdef FP8
    return decode_e4m3($_words[i >> 2u]);
#endif
}
#endif

// First scale of weight row `row` of a tensor `width` values wide.
fn $_scale_start(row: u32, width: u32) -> u32 {
    return (row >> 7u) * ((width + 127u) >> 7u);
}

// The scale of `column` in a row whose scales start at `start`; 1 for unscaled formats.
fn $_scale(start: u32, column: u32) -> f32 {
#ifdef FP8
    return $_scales[start + (column >> 7u)];
#else
    return 1.0;
#endif
}
#endif
