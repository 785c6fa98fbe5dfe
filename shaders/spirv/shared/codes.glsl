// Elements for rows of E4M3 codes with scales and E4M3 weights, for `tiles`: the codes themselves
// (E4M3_UNITS), else f16, which holds every one of them. DeepSeek-V3 report, section 3.3.2.

#ifdef E4M3_UNITS
#define Element floate4m3_t
// The lowest byte first.
#define Four uint
#else
#define Element float16_t
#define Four f16vec4
#endif

// How many elements an activation is, and a weight.
const uint X_PARTS = 1u;
const uint W_PARTS = 1u;

// Scales of a block of 128 inputs, each as often as a matrix of sums has columns.
shared float x_scales[ROWS * N];

// Loads the scales of the block of 128 inputs from `block` on. Called by all invocations.
void begin_block(uint first, uint outputs, uint row, uint end, uint e, uint block) {
    // Those of the block before are multiplied.
    barrier();
    uint at = 4u * ((p.k + 15u) / 16u) + block / 128u;
    for (uint i = gl_LocalInvocationIndex; i < ROWS * N; i += WG) {
        uint r = row + i / N;
        x_scales[i] = r < end ? uintBitsToFloat(x[p.x_offset + r * p.x_stride + at]) : 0.0;
    }
}

// Four activations of a row; zero behind the last input and the last row.
void activations_of(uint row, uint r, uint end, uint column, out Four parts[X_PARTS]) {
    uint word = 0u;
    if (row + r < end && column < p.k) {
        word = x[p.x_offset + (row + r) * p.x_stride + column / 4u];
    }
#ifdef E4M3_UNITS
    parts[0] = word;
#else
    parts[0] = f16vec4(decode_e4m3(word));
#endif
}

// Weights `4 four ..` of sixteen bytes.
void weights_of(uint which, uvec4 quad, uint four, out Four parts[X_PARTS]) {
#ifdef E4M3_UNITS
    parts[0] = quad[four];
#else
    parts[0] = f16vec4(decode_e4m3(quad[four]));
#endif
}

// What sums of the block's products stand for, in the part of the tile from (row, column) on; the
// output `mine` has the same scale.
Sums unscaled(Sums sums, uint which, uint e, uint mine, uint block, uint row, uint column) {
    Sums scales;
    // Subgroups that have no part of the tile come here too.
    coopMatLoad(scales, x_scales, row % ROWS * N, N, gl_CooperativeMatrixLayoutRowMajor);
    return sums * scales * scale_of(which, e, mine, block);
}
