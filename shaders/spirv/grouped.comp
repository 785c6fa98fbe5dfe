// For each expert e of the tables, which are lists of addresses, rows offsets[e] ..
// offsets[e + 1]: y[q][i] = dot(x[q], W[e][i]); with SECOND silu of that times
// dot(x[q], V[e][i]). An invocation computes four outputs of four rows.
//
// A workgroup is COLUMNS by WG / COLUMNS invocations and walks over the rows of its expert.
// Grid: x and y over outputs (4 COLUMNS a workgroup); z over experts.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

#include "shared/params.glsl"
#include "shared/decode.glsl"

layout(set = 0, binding = 3, std430) readonly buffer Offsets {
    uint offsets[];
};
#define TABLES 4
#include "shared/table.glsl"
#include "shared/single.glsl"
layout(set = 0, binding = AFTER_WEIGHTS, std430) buffer Outputs {
    float y[];
};

layout(constant_id = 7) const uint COLUMNS = 16u;

// [o][j]: the dot product of weight row i[o] with row r[j].
mat4 block_of(uint which, uint e, uvec4 i, uvec4 r) {
    mat4 sums = mat4(0.0);
    uvec4 x_at = p.x_offset + r * p.x_stride;
    const uint each = WIDE != 0u ? CODES : 4u;
    for (uint at = 0u; at < p.k; at += each) {
        uint left = p.k - at;
        mat4 part = mat4(0.0);
        uvec4 quads[4];
        if (WIDE != 0u) {
            [[unroll]] for (uint o = 0u; o < 4u; o += 1u) {
                quads[o] = quad_of(which, e, (i[o] * p.k + at) / CODES);
            }
        }
        [[unroll]] for (uint four = 0u; four < each / 4u; four += 1u) {
            uvec4 from = x_at + at + 4u * four;
            // A row vector times a matrix: its dot product with each column.
            mat4 xs = mat4(four_of_x(from.x, left), four_of_x(from.y, left),
                four_of_x(from.z, left), four_of_x(from.w, left));
            [[unroll]] for (uint o = 0u; o < 4u; o += 1u) {
                vec4 codes = WIDE != 0u ? codes_of(quads[o], four)
                    : four_codes(which, e, i[o] * p.k + at, left);
                part[o] += codes * xs;
            }
        }
        // A block of 128 is a multiple of what was read.
        [[unroll]] for (uint o = 0u; o < 4u; o += 1u) {
            sums[o] += part[o] * scale_of(which, e, i[o], at);
        }
    }
    return sums;
}

void main() {
    uint local = gl_LocalInvocationIndex;
    uint workgroup = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
    uint i = (workgroup * COLUMNS + local % COLUMNS) * 4u;
    if (i >= p.n) {
        return;
    }
    const uvec4 STEPS = uvec4(0u, 1u, 2u, 3u);
    // Outputs and rows past the last one do it again.
    uvec4 i_in = min(i + STEPS, uvec4(p.n - 1u));
    uint e = p.expert_first + gl_WorkGroupID.z;
    // No value of `offsets` leads outside the rows there are.
    uint end = min(offsets[e + 1u], p.rows);
    for (uint row = offsets[e] + local / COLUMNS * 4u; row < end; row += WG / COLUMNS * 4u) {
        uvec4 r_in = min(row + STEPS, uvec4(end - 1u));
        mat4 sums = block_of(0u, gl_WorkGroupID.z, i_in, r_in);
#ifdef SECOND
        mat4 ups = block_of(1u, gl_WorkGroupID.z, i_in, r_in);
#endif
        for (uint o = 0u; o < 4u && i + o < p.n; o += 1u) {
            for (uint j = 0u; j < 4u && row + j < end; j += 1u) {
                float value = sums[o][j];
#ifdef SECOND
                value = silu(value) * ups[o][j];
#endif
                y[p.y_offset + (row + j) * p.y_stride + i + o] = value;
            }
        }
    }
}
