// Dot products of a wave: its lanes walk along the weights' rows side by side. What they are
// multiplied with comes from a reader: `at` gives a value of its row, `four` the next four.

struct Plain {
    const float* x;
    DEVICE_METHOD float at(u32 i) const { return x[i]; }
    DEVICE_METHOD Floats four(u32 i) const { return *(const Floats*)(x + i); }
};

// A row times a norm's weights.
template <class N> struct Normed {
    const float* x;
    const u8* n;
    DEVICE_METHOD float at(u32 i) const { return x[i] * N::one(n, i); }
    DEVICE_METHOD Floats four(u32 i) const {
        Floats values = *(const Floats*)(x + i);
        float weights[4];
        N::four(n, i, weights);
        UNROLL
        for (u32 j = 0; j < 4; j++) {
            values.value[j] *= weights[j];
        }
        return values;
    }
};

// Adds the products of the sixteen bytes of each weight from value `at` on.
template <class W, int OUTPUTS, int ROWS, class X>
DEVICE void add_products(const Quad (&quads)[OUTPUTS], const float* const (&s)[OUTPUTS],
                         const X (&x)[ROWS], u32 at, float (&sum)[OUTPUTS][ROWS]) {
    float code[OUTPUTS][W::CODES];
    UNROLL
    for (int o = 0; o < OUTPUTS; o++) {
        W::many(quads[o], code[o]);
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        float part[OUTPUTS] = {};
        UNROLL
        for (u32 i = 0; i < W::CODES; i += 4) {
            const Floats four = x[r].four(at + i);
            UNROLL
            for (int o = 0; o < OUTPUTS; o++) {
                UNROLL
                for (u32 j = 0; j < 4; j++) {
                    part[o] = fma_(four.value[j], code[o][i + j], part[o]);
                }
            }
        }
        UNROLL
        for (int o = 0; o < OUTPUTS; o++) {
            sum[o][r] = W::SCALED ? fma_(part[o], s[o][at / BLOCK], sum[o][r])
                                  : sum[o][r] + part[o];
        }
    }
}

template <class W, int OUTPUTS>
DEVICE void load_quads(const u8* const (&w)[OUTPUTS], u32 at, Quad (&quads)[OUTPUTS]) {
    UNROLL
    for (int o = 0; o < OUTPUTS; o++) {
        quads[o] = load_once((const Quad*)(w[o] + (u64)at * W::BYTES));
    }
}

// Weights sixteen bytes at a time; rows of weights and of activations begin at as many. For
// one row two steps are loaded together, so that more bytes are on their way; with more rows
// the registers would not do.
template <class W, int OUTPUTS, int ROWS, class X>
DEVICE void wide_dots(const u8* const (&w)[OUTPUTS], const float* const (&s)[OUTPUTS],
                      const X (&x)[ROWS], u32 k, float (&sum)[OUTPUTS][ROWS]) {
    const u32 step = WAVE * W::CODES;
    u32 at = lane() * W::CODES;
    for (; ROWS == 1 && at + step < k; at += 2 * step) {
        Quad first[OUTPUTS], second[OUTPUTS];
        load_quads<W>(w, at, first);
        load_quads<W>(w, at + step, second);
        add_products<W>(first, s, x, at, sum);
        add_products<W>(second, s, x, at + step, sum);
    }
    for (; at < k; at += step) {
        Quad last[OUTPUTS];
        load_quads<W>(w, at, last);
        add_products<W>(last, s, x, at, sum);
    }
}

// Weights code by code.
template <class W, int OUTPUTS, int ROWS, class X>
DEVICE void narrow_dots(const u8* const (&w)[OUTPUTS], const float* const (&s)[OUTPUTS],
                        const X (&x)[ROWS], u32 k, float (&sum)[OUTPUTS][ROWS]) {
    for (u32 at = lane(); at < k; at += WAVE) {
        UNROLL
        for (int o = 0; o < OUTPUTS; o++) {
            const float code = W::one(w[o], at) * (W::SCALED ? s[o][at / BLOCK] : 1.0f);
            UNROLL
            for (int r = 0; r < ROWS; r++) {
                sum[o][r] = fma_(x[r].at(at), code, sum[o][r]);
            }
        }
    }
}

// `sum[o][r] = dot(x[r], w[o])`, the same in all lanes.
template <class W, bool WIDE, int OUTPUTS, int ROWS, class X>
DEVICE void dots(const u8* const (&w)[OUTPUTS], const float* const (&s)[OUTPUTS],
                 const X (&x)[ROWS], u32 k, float (&sum)[OUTPUTS][ROWS]) {
    UNROLL
    for (int o = 0; o < OUTPUTS; o++) {
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            sum[o][r] = 0.0f;
        }
    }
    if (WIDE) {
        wide_dots<W>(w, s, x, k, sum);
    } else {
        narrow_dots<W>(w, s, x, k, sum);
    }
    UNROLL
    for (int o = 0; o < OUTPUTS; o++) {
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            sum[o][r] = wave_sum(sum[o][r]) * W::UNIT;
        }
    }
}

// Threads of a block whose waves have outputs of their own, and outputs of a wave: two that
// share the activations, or one of each of two weights.
static const u32 DOT_THREADS = 128;
static const u32 DOT_WAVES = DOT_THREADS / WAVE;
