// Row q = r * top_k + j uses expert idx[q]: y[q][i] = dot(x[q or r], W[idx[q]][i]); with
// SECOND silu of that times dot(.., V[idx[q]][i]). Rows whose expert is not in the tables,
// which are lists of addresses, are left alone. LANES invocations share a dot product.
// Grid: x and y over outputs (WG / LANES a workgroup), z over choices.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

#include "shared/params.glsl"
#include "shared/decode.glsl"

layout(set = 0, binding = 3, std430) readonly buffer Chosen {
    uint idx[];
};
#define TABLES 4
#include "shared/table.glsl"
#include "shared/single.glsl"
layout(set = 0, binding = AFTER_WEIGHTS, std430) buffer Outputs {
    float y[];
};

layout(constant_id = 11) const uint LANES = 16u;

shared vec2 lane_sums[WG];

// The sum of `value` over the lanes of an output, for lane 0 of them. Called by all.
vec2 sum_lanes(vec2 value, uint lane) {
    if (LANES == 1u) {
        return value;
    }
    uint local = gl_LocalInvocationIndex;
    lane_sums[local] = value;
    barrier();
    for (uint step = LANES / 2u; step > 0u; step >>= 1) {
        if (lane < step) {
            lane_sums[local] += lane_sums[local + step];
        }
        barrier();
    }
    return lane_sums[local];
}

// One lane's share of the dot product of weight row `i` with the row of `x` at `x_at`.
float share_of(uint which, uint e, uint i, uint x_at, uint lane) {
    float sum = 0.0;
    if (WIDE != 0u) {
        for (uint at = lane * CODES; at < p.k; at += LANES * CODES) {
            uvec4 quad = quad_of(which, e, (i * p.k + at) / CODES);
            float part = 0.0;
            [[unroll]] for (uint four = 0u; four < CODES / 4u; four += 1u) {
                part += dot(codes_of(quad, four), x_quads[((x_at + at) >> 2) + four]);
            }
            // A block of 128 is a multiple of what was read.
            sum += part * scale_of(which, e, i, at);
        }
    } else {
        for (uint at = lane * 4u; at < p.k; at += LANES * 4u) {
            vec4 codes = four_codes(which, e, i * p.k + at, p.k - at);
            sum += dot(codes, four_of_x(x_at + at, p.k - at)) * scale_of(which, e, i, at);
        }
    }
    return sum;
}

void main() {
    uint q = gl_WorkGroupID.z;
    uint first = (gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x) * (WG / LANES);
    if (q >= real_rows() || first >= p.n) {
        return;
    }
    // Unsigned: an expert before the table becomes huge.
    uint e = idx[q] - p.expert_first;
    if (e >= p.expert_count) {
        return;
    }
    uint lane = gl_LocalInvocationIndex % LANES;
    uint i = first + gl_LocalInvocationIndex / LANES;
    uint i_in = min(i, p.n - 1u);
    uint row = (p.flags & ROW_PER_TOKEN) != 0u ? q / p.top_k : q;
    uint x_at = p.x_offset + row * p.x_stride;
    vec2 share = vec2(share_of(0u, e, i_in, x_at, lane), 0.0);
#ifdef SECOND
    share.y = share_of(1u, e, i_in, x_at, lane);
#endif
    vec2 sums = sum_lanes(share, lane);
    if (lane == 0u && i < p.n) {
#ifdef SECOND
        sums.x = silu(sums.x) * sums.y;
#endif
        y[p.y_offset + q * p.y_stride + i] = sums.x;
    }
}
