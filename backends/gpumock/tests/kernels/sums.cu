// Kernels of this crate's own tests. With PLANTED_FAULT each has one mistake.

#include "portable.h"

static const u32 THREADS = 256;

// The sum of each block's part of `x`, `n` values together.
KERNEL(THREADS, test_block_sum, const float* x, u32 n, float* sums) {
    SHARED(float, parts, THREADS);
    float sum = 0.0f;
    for (u32 i = group_x() * THREADS + thread_x(); i < n; i += groups_x() * THREADS) {
        sum += x[i];
    }
    parts[thread_x()] = sum;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
#if !defined(PLANTED_FAULT)
        barrier();
#endif
        if (thread_x() < half) {
            parts[thread_x()] += parts[thread_x() + half];
        }
    }
    if (thread_x() == 0) {
        sums[group_x()] = parts[0];
    }
}

// The same, first among the waves.
KERNEL(THREADS, test_wave_sum, const float* x, u32 n, float* sums) {
    SHARED(float, parts, THREADS / WAVE);
    const u32 i = group_x() * THREADS + thread_x();
    const float sum = wave_sum(i < n ? x[i] : 0.0f);
    if (lane() == 0) {
        parts[wave()] = sum;
    }
#if !defined(PLANTED_FAULT)
    barrier();
#endif
    if (thread_x() == 0) {
        float total = 0.0f;
        for (u32 w = 0; w < THREADS / WAVE; w++) {
            total += parts[w];
        }
        sums[group_x()] = total;
    }
}

// `y = a * x + y`, and nothing that waits.
KERNEL(THREADS, test_axpy, float a, const float* x, float* y, u32 n) {
    const u32 i = group_x() * THREADS + thread_x();
    if (i < n) {
        y[i] = fma_(a, x[i], y[i]);
    }
}

// Adds two to the power of its place in a chain to a number, and counts.
KERNEL(32, test_step, u32* value, u32 factor, u32 term) {
    if (thread_x() == 0) {
        *value = *value * factor + term;
    }
}

KERNEL(THREADS, test_count, u32* counter) { atomic_add(counter, 1); }

// Mistakes that a launch must report.
KERNEL(64, test_returns_early, u32* out) {
    if (thread_x() == 5) {
        return;
    }
    barrier();
    out[thread_x()] = 1;
}

KERNEL(128, test_deadlock, u32* out) {
    if (thread_x() < 32) {
        barrier();
    }
    out[thread_x()] = shuffle(thread_x(), 0);
    barrier();
}

KERNEL(64, test_writes_behind, u32* out) {
    SHARED(u32, words, 64);
    words[thread_x() + 1] = thread_x();
    out[thread_x()] = words[thread_x()];
}

KERNEL(64, test_poison, u32* out) {
    SHARED(u32, words, 64);
    out[thread_x()] = words[thread_x()];
    words[thread_x()] = 7;
}

// Writes one word behind `n` words.
KERNEL(32, test_out_of_range, u32* out, u32 n) {
    if (thread_x() == 0) {
        out[n] = 7;
    }
}

KERNEL(64, test_big_stack, u32* out) {
    volatile u8 bytes[70000];
    for (u32 i = 0; i < 70000; i += 64) {
        bytes[i] = (u8)i;
    }
    out[thread_x()] = bytes[thread_x() * 64];
}
