// The parameter block (hadal-device, `Params`: same words, same order), the strides of expert
// tables, and the `inputs` buffer, which is operand 0 of every kernel.
//
// `@binding(auto)` is numbered by the assembler in the order of declaration, which is the
// order of operands.

struct Params {
    rows: u32,
    count_word: u32,
    count_scale: u32,
    n: u32,
    k: u32,
    x_offset: u32,
    x_stride: u32,
    x_head_stride: u32,
    y_offset: u32,
    y_stride: u32,
    y_head_stride: u32,
    b_offset: u32,
    b_stride: u32,
    heads: u32,
    nope: u32,
    rope: u32,
    value: u32,
    latent: u32,
    head_rows: u32,
    head_first: u32,
    experts: u32,
    groups: u32,
    kept_groups: u32,
    top_k: u32,
    expert_first: u32,
    expert_count: u32,
    row_first: u32,
    row_count: u32,
    flags: u32,
    eps: f32,
    scale: f32,
    page_stride: u32,
    // Bytes from one entry to the next, for each table operand in order.
    table_strides: vec4<u32>,
#ifdef GRIDS
    // What some block formats choose from, eight in a quad.
    patterns: array<vec4<u32>, PATTERN_QUADS>,
#endif
}

@group(0) @binding(auto) var<uniform> p: Params;
@group(0) @binding(auto) var<storage, read> inputs: array<u32>;

const COUNT_ALL: u32 = 0xffffffffu;
const ROW_PER_TOKEN: u32 = 4u;
const SOFTMAX: u32 = 16u;
const GROUP_MAX: u32 = 64u;
const NORMALISE: u32 = 128u;
const UE8M0: u32 = 256u;

const HEADER: u32 = 8u;
const PAGE: u32 = 64u;

// Rows that exist in this step; kernels leave all others alone.
fn real_rows() -> u32 {
    if p.count_word == COUNT_ALL {
        return p.rows;
    }
    return min(p.rows, inputs[p.count_word] * p.count_scale);
}

fn token_id(r: u32) -> u32 {
    return inputs[HEADER + r];
}

fn token_position(r: u32) -> u32 {
    return inputs[HEADER + inputs[2] + r];
}

fn token_sequence(r: u32) -> u32 {
    return inputs[HEADER + 2u * inputs[2] + r];
}

fn logit_row(i: u32) -> u32 {
    return inputs[HEADER + 3u * inputs[2] + i];
}

// Row of the cache that holds `position` of `sequence`.
fn cache_row(sequence: u32, position: u32) -> u32 {
    let page = inputs[HEADER + 4u * inputs[2] + sequence * p.page_stride + position / PAGE];
    return page * PAGE + position % PAGE;
}
