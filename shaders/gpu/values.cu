// Everything that is neither a product, an attention nor a choice of experts.

#include "portable.h"
#include "params.h"
#include "weights.h"
#include "reduce.h"

static const u32 THREADS = 256;

// Grid: x over values, y over rows.
template <class W>
DEVICE void embed(const Params& p, const u32* inputs, const u8* w, const float* s, float* y) {
    const u32 i = group_x() * THREADS + thread_x(), r = group_y();
    if (r >= real_rows(p, inputs) || i >= p.n) {
        return;
    }
    const u32 id = token_id(inputs, r), row = id - p.row_first;
    if (id < p.row_first || row >= p.row_count) {
        return;
    }
    const float scale = W::SCALED ? scale_at(s, id, i, p.n) * W::UNIT : 1.0f;
    y[y_row(p, r) + i] = W::one(w, (u64)row * p.n + i) * scale;
}

// The factor of a norm over `width` values, the same for all threads of the block.
DEVICE float norm_factor(const Params& p, const float* row, u32 width) {
    float squares = 0.0f;
    for (u32 i = thread_x(); i < width; i += THREADS) {
        squares = fma_(row[i], row[i], squares);
    }
    return 1.0f / sqrt_(block_sum<THREADS>(squares) / (float)width + p.eps);
}

// Grid: x over rows.
template <class W>
DEVICE void norm(const Params& p, const u32* inputs, const float* x, const u8* w, float* y) {
    const u32 r = group_x();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    const float* const row = x + x_row(p, r);
    const float factor = norm_factor(p, row, p.n);
    for (u32 i = thread_x(); i < p.n; i += THREADS) {
        y[y_row(p, r) + i] = row[i] * factor * W::one(w, i);
    }
}

// The cache row of a token in one go: the norm of its latent and its rotated key, straight
// from their projection. Grid: x over rows.
template <class W>
DEVICE void latent_append(const Params& p, const u32* inputs, const float* x, const u8* w,
                          const float* angles, float* cache) {
    const u32 r = group_x();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    const float* const row = x + x_row(p, r);
    const u32 at = position(inputs, r);
    float* const to =
        cache + cache_row(pages(p, inputs, sequence(inputs, r)), at) * (p.latent + p.rope);
    const float* const angle = angles + (u64)at * p.rope;
    for (u32 i = 2 * thread_x(); i < p.rope; i += 2 * THREADS) {
        const float even = row[p.latent + i], odd = row[p.latent + i + 1];
        to[p.latent + i] = even * angle[i] - odd * angle[i + 1];
        to[p.latent + i + 1] = odd * angle[i] + even * angle[i + 1];
    }
    const float factor = norm_factor(p, row, p.latent);
    for (u32 i = thread_x(); i < p.latent; i += THREADS) {
        to[i] = row[i] * factor * W::one(w, i);
    }
}

#define WEIGHTED(NAME, W)                                                                      \
    KERNEL(THREADS, embed_##NAME, Params p, const u32* inputs, const u8* w, float* y) {        \
        wait_for_kernels();                                                                    \
        embed<W>(p, inputs, w, 0, y);                                                          \
    }                                                                                          \
    KERNEL(THREADS, norm_##NAME, Params p, const u32* inputs, const float* x, const u8* w,     \
           float* y) {                                                                         \
        wait_for_kernels();                                                                    \
        norm<W>(p, inputs, x, w, y);                                                           \
    }                                                                                          \
    KERNEL(THREADS, latent_append_##NAME, Params p, const u32* inputs, const float* x,         \
           const u8* w, const float* angles, float* cache) {                                   \
        wait_for_kernels();                                                                    \
        latent_append<W>(p, inputs, x, w, angles, cache);                                      \
    }
FOR_UNSCALED(WEIGHTED)

KERNEL(THREADS, embed_f8, Params p, const u32* inputs, const u8* w, const float* s, float* y) {
    wait_for_kernels();
    embed<F8>(p, inputs, w, s, y);
}

// Pairs (2j, 2j + 1) of each head by the angle of the row's position; x and y may be the same
// place. DeepSeek-V3 report, equations 3 and 8. Grid: x over pairs, y over rows, z over heads.
KERNEL(THREADS, rope, Params p, const u32* inputs, const float* x, const float* angles,
       float* y) {
    wait_for_kernels();
    const u32 i = 2 * (group_x() * THREADS + thread_x()), r = group_y(), a = group_z();
    if (r >= real_rows(p, inputs) || i + 1 >= p.rope) {
        return;
    }
    const float* const from = x + x_row(p, r) + (u64)a * p.x_head_stride + i;
    const float* const angle = angles + (u64)position(inputs, r) * p.rope + i;
    float* const to = y + y_row(p, r) + (u64)a * p.y_head_stride + i;
    const float even = from[0], odd = from[1];
    to[0] = even * angle[0] - odd * angle[1];
    to[1] = odd * angle[0] + even * angle[1];
}

// Grid of the rest, unless said otherwise: x over values, y over rows.
KERNEL(THREADS, cache_append, Params p, const u32* inputs, const float* x, float* cache) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), r = group_y();
    if (r >= real_rows(p, inputs) || i >= p.n) {
        return;
    }
    const u32* const table = pages(p, inputs, sequence(inputs, r));
    cache[cache_row(table, position(inputs, r)) * p.n + i] = x[x_row(p, r) + i];
}

KERNEL(THREADS, swiglu, Params p, const u32* inputs, const float* a, const float* b, float* y) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), r = group_y();
    if (r < real_rows(p, inputs) && i < p.n) {
        y[y_row(p, r) + i] = silu(a[x_row(p, r) + i]) * b[b_row(p, r) + i];
    }
}

KERNEL(THREADS, add, Params p, const u32* inputs, const float* a, const float* b, float* y) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), r = group_y();
    if (r < real_rows(p, inputs) && i < p.n) {
        y[y_row(p, r) + i] = a[x_row(p, r) + i] + b[b_row(p, r) + i];
    }
}

// Grid: z over heads. Values are moved as bits.
KERNEL(THREADS, copy, Params p, const u32* inputs, const u32* x, u32* y) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), r = group_y(), a = group_z();
    if (r < real_rows(p, inputs) && i < p.n) {
        y[y_row(p, r) + (u64)a * p.y_head_stride + i] =
            x[x_row(p, r) + (u64)a * p.x_head_stride + i];
    }
}

KERNEL(THREADS, gather, Params p, const u32* inputs, const u32* x, u32* y) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), r = group_y();
    if (r < real_rows(p, inputs) && i < p.n) {
        y[y_row(p, r) + i] = x[x_row(p, logit_row(inputs, r)) + i];
    }
}

// Grows with the value: 0 for what is not a number, then negative values, then positive
// ones; both zeros alike.
DEVICE u32 key(u32 bits) {
    const u32 magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0;
    }
    return bits > 0x80000000u ? 0x80000000u - magnitude : 0x80000000u + magnitude;
}

// Grid: x over rows.
KERNEL(THREADS, argmax, Params p, const u32* inputs, const u32* x, u32* y) {
    wait_for_kernels();
    SHARED(u32, keys, THREADS);
    SHARED(u32, places, THREADS);
    const u32 r = group_x(), t = thread_x();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    u32 best = 0, at = 0xffffffffu;
    for (u32 i = t; i < p.n; i += THREADS) {
        const u32 own = key(x[x_row(p, r) + i]);
        if (own > best) {
            best = own;
            at = i;
        }
    }
    keys[t] = best;
    places[t] = at;
    barrier();
    for (u32 step = THREADS / 2; step > 0; step /= 2) {
        const u32 other = t + step;
        if (t < step && (keys[other] > keys[t] ||
                         (keys[other] == keys[t] && places[other] < places[t]))) {
            keys[t] = keys[other];
            places[t] = places[other];
        }
        barrier();
    }
    if (t == 0) {
        y[y_row(p, r)] = places[0];
    }
}

// The smallest power of two s with 448 s >= amax (448 = 1.75 * 2^8), for 2^-14 < amax.
DEVICE float power_of_two_above(float amax) {
    const u32 bits = bits_of(amax);
    return float_of(((bits >> 23) - 8 + ((bits & 0x7fffff) > 0x600000)) << 23);
}

// The nearest E4M3 code and its value, ties to even; |value| is at most about 448.
struct Code {
    u32 code;
    float value;
};

DEVICE Code nearest_e4m3(float value) {
    if (value != value) {
        return {0x7f, value};
    }
    const float magnitude = value < 0.0f ? -value : value;
    const float limited = magnitude < 448.0f ? magnitude : 448.0f;
    // Codes are 2^(e - 3) apart around 2^e, and 2^-9 below 2^-6; exponents biased by 127.
    const u32 biased = bits_of(limited) >> 23, exponent = biased > 121 ? biased : 121;
    const float spacing = float_of((exponent - 3) << 23);
    const float inverse = float_of((257 - exponent) << 23);
    // In steps of the spacing: 8 to 16 with a leading one, less for the smallest exponent. A
    // carry into the next exponent is one in the code too.
    const float steps = round_even(limited * inverse);
    const u32 code = (exponent - 121) * 8 + (u32)steps;
    const u32 sign = value < 0.0f ? 0x80 : 0;
    return {sign | code, value < 0.0f ? -(steps * spacing) : steps * spacing};
}

static const u32 GROUP = 128;

// The scale of a group of values up to `largest`. DeepSeek-V3 report, section 3.3.2.
DEVICE float group_scale(const Params& p, float largest) {
    const float amax = max_(1.0e-4f, largest);
    return p.flags & UE8M0 ? power_of_two_above(amax) : amax / 448.0f;
}

// Writes value `i` of a row as its code, or as what the code stands for.
DEVICE void put_quantised(const Params& p, float* row, u32 i, float value, float scale) {
    const Code nearest = nearest_e4m3(value / scale);
    if (p.flags & CODED) {
        ((u8*)row)[i] = (u8)nearest.code;
        if (i % GROUP == 0) {
            row[coded_scales(p.n) + i / GROUP] = scale;
        }
    } else {
        row[i] = nearest.value * scale;
    }
}

// Grid: x over groups of 128 values, y over rows; a thread a value.
KERNEL(GROUP, act_quant, Params p, const u32* inputs, const float* x, float* y) {
    wait_for_kernels();
    const u32 r = group_y(), i = group_x() * GROUP + thread_x();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    const float value = i < p.n ? x[x_row(p, r) + i] : 0.0f;
    const float scale = group_scale(p, block_max<GROUP>(value < 0.0f ? -value : value));
    if (i < p.n) {
        put_quantised(p, y + y_row(p, r), i, value, scale);
    }
}

// Grid: x over rows. A wave has a group of the row, then another, and needs no other wave.
template <class W>
DEVICE void norm_quant(const Params& p, const u32* inputs, const float* x, const u8* w,
                       float* y) {
    const u32 r = group_x();
    if (r >= real_rows(p, inputs)) {
        return;
    }
    const float* const row = x + x_row(p, r);
    const float factor = norm_factor(p, row, p.n);
    for (u32 first = wave() * GROUP; first < p.n; first += THREADS / WAVE * GROUP) {
        float values[GROUP / WAVE], largest = 0.0f;
        UNROLL
        for (u32 j = 0; j < GROUP / WAVE; j++) {
            const u32 i = first + j * WAVE + lane();
            values[j] = i < p.n ? row[i] * factor * W::one(w, i) : 0.0f;
            largest = max_(largest, values[j] < 0.0f ? -values[j] : values[j]);
        }
        const float scale = group_scale(p, wave_max(largest));
        UNROLL
        for (u32 j = 0; j < GROUP / WAVE; j++) {
            const u32 i = first + j * WAVE + lane();
            if (i < p.n) {
                put_quantised(p, y + y_row(p, r), i, values[j], scale);
            }
        }
    }
}

#define NORM_QUANT(NAME, W)                                                                    \
    KERNEL(THREADS, norm_quant_##NAME, Params p, const u32* inputs, const float* x,            \
           const u8* w, float* y) {                                                            \
        wait_for_kernels();                                                                    \
        norm_quant<W>(p, inputs, x, w, y);                                                     \
    }
FOR_UNSCALED(NORM_QUANT)
