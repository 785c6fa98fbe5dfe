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
        four_codes<N>(n, i, weights);
        UNROLL
        for (u32 j = 0; j < 4; j++) {
            values.value[j] *= weights[j];
        }
        return values;
    }
};

// Where a lane's codes lie among those that a wave takes at once, by fours: next to each other; codes
// of one byte a wave's fours apart, so that lanes read neighbouring values of the row, too. They
// would be 64 bytes apart otherwise, and four times as long on their way.
template <class W> struct Walk {
    static const u32 STEP = WAVE * W::CODES;
    DEVICE u32 place(u32 i) {
        return W::BYTES == 1 ? 4 * lane() + i * WAVE : W::CODES * lane() + i;
    }
};

// Sixteen bytes of each weight from value `at` on; of a last step that is not `WHOLE` what is there.
template <class W, bool WHOLE, int OUTPUTS>
DEVICE void load_quads(const u8* const (&w)[OUTPUTS], u32 at, u32 k, Quad (&quads)[OUTPUTS]) {
    UNROLL
    for (int o = 0; o < OUTPUTS; o++) {
        quads[o] = {};
        if (W::BYTES == 1) {
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                const u32 from = at + Walk<W>::place(4 * i);
                if (WHOLE || from < k) {
                    quads[o].word[i] = load_word_once((const u32*)(w[o] + from));
                }
            }
        } else {
            const u32 from = at + Walk<W>::place(0);
            if (WHOLE || from < k) {
                quads[o] = load_once((const Quad*)(w[o] + (u64)from * W::BYTES));
            }
        }
    }
}

// Adds their products with the rows' values.
template <class W, bool WHOLE, int OUTPUTS, int ROWS, class X>
DEVICE void add_products(const Quad (&quads)[OUTPUTS], const float* const (&s)[OUTPUTS],
                         const X (&x)[ROWS], u32 at, u32 k, float (&sum)[OUTPUTS][ROWS]) {
    float part[OUTPUTS][ROWS] = {};
    UNROLL
    for (u32 i = 0; i < W::CODES; i += 4) {
        const u32 from = at + Walk<W>::place(i);
        if (!WHOLE && from >= k) {
            continue;
        }
        float code[OUTPUTS][4];
        UNROLL
        for (int o = 0; o < OUTPUTS; o++) {
            W::some(quads[o], i, code[o]);
        }
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const Floats four = x[r].four(from);
            UNROLL
            for (int o = 0; o < OUTPUTS; o++) {
                float& to = part[o][r];
                to = W::SCALED ? 0.0f : to;
                UNROLL
                for (u32 j = 0; j < 4; j++) {
                    to = fma_(four.value[j], code[o][j], to);
                }
                sum[o][r] = W::SCALED ? fma_(to, s[o][from / BLOCK], sum[o][r]) : sum[o][r];
            }
        }
    }
    UNROLL
    for (int i = 0; i < OUTPUTS * ROWS && !W::SCALED; i++) {
        sum[i / ROWS][i % ROWS] += part[i / ROWS][i % ROWS];
    }
}

// Weights sixteen bytes at a time; rows of weights and of activations begin at as many. For
// one row two steps are loaded together, so that more bytes are on their way; with more rows
// the registers would not do.
template <class W, int OUTPUTS, int ROWS, class X>
DEVICE void wide_dots(const u8* const (&w)[OUTPUTS], const float* const (&s)[OUTPUTS],
                      const X (&x)[ROWS], u32 k, float (&sum)[OUTPUTS][ROWS]) {
    const u32 step = Walk<W>::STEP;
    u32 at = 0;
    for (; ROWS == 1 && at + 2 * step <= k; at += 2 * step) {
        Quad first[OUTPUTS], second[OUTPUTS];
        load_quads<W, true>(w, at, k, first);
        load_quads<W, true>(w, at + step, k, second);
        add_products<W, true>(first, s, x, at, k, sum);
        add_products<W, true>(second, s, x, at + step, k, sum);
    }
    for (; at + step <= k; at += step) {
        Quad whole[OUTPUTS];
        load_quads<W, true>(w, at, k, whole);
        add_products<W, true>(whole, s, x, at, k, sum);
    }
    if (at < k) {
        Quad last[OUTPUTS];
        load_quads<W, false>(w, at, k, last);
        add_products<W, false>(last, s, x, at, k, sum);
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

// Threads of a block whose waves have outputs of their own.
static const u32 DOT_THREADS = 128;
static const u32 DOT_WAVES = DOT_THREADS / WAVE;
