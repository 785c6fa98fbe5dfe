// The parameter block (hadal-device, `Params`: same words, same order), the `inputs` buffer,
// which is operand 0 of every kernel, and the constants that every kernel has. Operands follow
// from binding 2 on.

layout(local_size_x_id = 0, local_size_y = 1, local_size_z = 1) in;

// Invocations of a workgroup.
layout(constant_id = 0) const uint WG = 64u;
// Weight format where the file leaves it open: one of the numbers below.
layout(constant_id = 1) const uint FORMAT = 0u;
// 1: `unpackHalf2x16` keeps subnormal halves on this device.
layout(constant_id = 2) const uint HALF_SUBNORMALS = 0u;

const uint F32 = 0u;
const uint F16 = 1u;
const uint BF16 = 2u;

layout(set = 0, binding = 0, std140) uniform Params {
    uint rows;
    uint count_word;
    uint count_scale;
    uint n;
    uint k;
    uint x_offset;
    uint x_stride;
    uint x_head_stride;
    uint y_offset;
    uint y_stride;
    uint y_head_stride;
    uint b_offset;
    uint b_stride;
    uint heads;
    uint nope;
    uint rope;
    uint value;
    uint latent;
    uint head_rows;
    uint head_first;
    uint experts;
    uint groups;
    uint kept_groups;
    uint top_k;
    uint expert_first;
    uint expert_count;
    uint row_first;
    uint row_count;
    uint flags;
    float eps;
    float scale;
    uint page_stride;
    // Of no meaning here: tables come as addresses.
    uvec4 table_strides;
} p;

layout(set = 0, binding = 1, std430) readonly buffer Inputs {
    uint inputs[];
};

const uint COUNT_ALL = 0xffffffffu;
const uint ROW_PER_TOKEN = 4u;

// Rows that exist in this step; kernels leave all others alone.
uint real_rows() {
    if (p.count_word == COUNT_ALL) {
        return p.rows;
    }
    return min(p.rows, inputs[p.count_word] * p.count_scale);
}

float silu(float z) {
    // Without an infinity on the way.
    float e = exp(-abs(z));
    return z * (z >= 0.0 ? 1.0 : e) / (1.0 + e);
}
