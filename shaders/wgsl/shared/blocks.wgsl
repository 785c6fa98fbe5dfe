// A weight operand in a block format of GGUF; imported under a name (`as w`), which replaces
// the dollar signs. The format's name is defined, and BLOCK_VALUES and BLOCK_BYTES.
//
// Values are found by element index: rows are whole blocks. Value 16 g + i of a block is its
// code times the scale of group g less the group's minimum. Two snippets have the formats:
// where scales lie (`$_scales`), and codes four at a time (`$_quad`).

#import decode
#import block_bits
@group(0) @binding(auto) var<storage, read> $_words: array<u32>;

// First byte of the expert in use; 0 of a single weight.
var<private> $_base: u32 = 0u;

fn $_u8(at: u32) -> u32 {
    return ($_words[at >> 2u] >> ((at & 3u) << 3u)) & 0xffu;
}

// Blocks begin at even bytes.
fn $_u16(at: u32) -> u32 {
    return ($_words[at >> 2u] >> ((at & 2u) << 3u)) & 0xffffu;
}

fn $_u32(at: u32) -> u32 {
    let low = $_words[at >> 2u];
    if (at & 2u) == 0u {
        return low;
    }
    return (low >> 16u) | ($_words[(at >> 2u) + 1u] << 16u);
}

fn $_half(at: u32) -> f32 {
    return decode_f16($_u16(at)).x;
}

#import block_scales as $
#ifdef GRIDS
#import block_grids as $
#else
#import block_codes as $
#endif

// Where the block of element `i` begins.
fn $_block(i: u32) -> u32 {
    return $_base + i / BLOCK_VALUES * BLOCK_BYTES;
}

// The values at elements `i .. i + 4`; `i` is a multiple of 4.
fn $_codes(i: u32) -> vec4<f32> {
    let at = $_block(i);
    let place = i % BLOCK_VALUES;
    let scale = $_scales(at, place >> 4u);
    return scale.x * $_quad(at, place >> 2u) - vec4<f32>(scale.y);
}

// The value at element `i`.
fn $_code(i: u32) -> f32 {
    let four = $_codes(i & 0xfffffffcu);
    return four[i & 3u];
}

// Scales lie in the blocks.
fn $_scale_start(row: u32, width: u32) -> u32 {
    return 0u;
}

fn $_scale(start: u32, column: u32) -> f32 {
    return 1.0;
}
