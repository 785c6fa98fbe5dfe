// Sums over a block of THREADS threads, the same in all of them.

static const u32 REDUCE_WAVES = 1024 / 32;

template <u32 THREADS> DEVICE float block_sum(float value) {
    SHARED(float, cells, REDUCE_WAVES);
    value = wave_sum(value);
    barrier();
    if (lane() == 0) {
        cells[wave()] = value;
    }
    barrier();
    float sum = 0.0f;
    UNROLL
    for (u32 i = 0; i < THREADS / WAVE; i++) {
        sum += cells[i];
    }
    return sum;
}

template <u32 THREADS> DEVICE float block_max(float value) {
    SHARED(float, cells, REDUCE_WAVES);
    value = wave_max(value);
    barrier();
    if (lane() == 0) {
        cells[wave()] = value;
    }
    barrier();
    float largest = cells[0];
    for (u32 i = 1; i < THREADS / WAVE; i++) {
        largest = max_(largest, cells[i]);
    }
    return largest;
}
