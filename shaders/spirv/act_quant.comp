// Each group of 128 values of a row becomes the E4M3 codes nearest to them, four a word, with a
// scale behind the row's codes. DeepSeek-V3 report, section 3.3.2. Grid: x over groups, y over
// rows, one workgroup each, an invocation for each word.
#version 460
#extension GL_GOOGLE_include_directive : require

#include "shared/params.glsl"

layout(set = 0, binding = 2, std430) readonly buffer X {
    float x[];
};
layout(set = 0, binding = 3, std430) buffer Outputs {
    uint y[];
};

const uint GROUP = 128u;
const uint UE8M0 = 256u;

// Bits of the largest absolute value of each invocation, NaN left out.
shared uint tops[GROUP / 4u];

// The smallest power of two s with 448 s >= amax (448 = 1.75 * 2^8), for 2^-14 < amax.
float power_of_two_above(float amax) {
    uint bits = floatBitsToUint(amax);
    uint exponent = (bits >> 23) - 8u + ((bits & 0x7fffffu) > 0x600000u ? 1u : 0u);
    return uintBitsToFloat(exponent << 23);
}

// The code nearest to a value of at most about 448, ties to even. A NaN stays one.
uint nearest_e4m3(float value) {
    uint bits = floatBitsToUint(value);
    uint sign = bits >> 31 << 7;
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return sign | 0x7fu;
    }
    float magnitude = min(abs(value), 448.0);
    // Codes are 2^(e - 3) apart around 2^e, and 2^-9 below 2^-6; exponents biased by 127.
    uint exponent = max(floatBitsToUint(magnitude) >> 23, 121u);
    uint steps = uint(roundEven(magnitude * uintBitsToFloat((257u - exponent) << 23)));
    // Eight steps make a power of two, and sixteen are the next.
    return sign | (((exponent - 120u) << 3) + steps - 8u);
}

void main() {
    uint r = gl_WorkGroupID.y;
    if (r >= real_rows()) {
        return;
    }
    uint local = gl_LocalInvocationIndex;
    uint first = gl_WorkGroupID.x * GROUP + 4u * local;
    float values[4];
    uint top = floatBitsToUint(1.0e-4);
    for (uint i = 0u; i < 4u; i += 1u) {
        values[i] = first + i < p.n ? x[p.x_offset + r * p.x_stride + first + i] : 0.0;
        uint bits = floatBitsToUint(values[i]) & 0x7fffffffu;
        top = max(top, bits > 0x7f800000u ? 0u : bits);
    }
    tops[local] = top;
    barrier();
    for (uint i = 0u; i < GROUP / 4u; i += 1u) {
        top = max(top, tops[i]);
    }
    float amax = uintBitsToFloat(top);
    float scale = (p.flags & UE8M0) != 0u ? power_of_two_above(amax) : amax / 448.0;
    uint row = p.y_offset + r * p.y_stride;
    if (local == 0u) {
        y[row + 4u * ((p.n + 15u) / 16u) + gl_WorkGroupID.x] = floatBitsToUint(scale);
    }
    if (first < p.n) {
        uint word = 0u;
        for (uint i = 0u; i < 4u; i += 1u) {
            word |= nearest_e4m3(values[i] / scale) << (8u * i);
        }
        y[row + first / 4u] = word;
    }
}
