// The matrix units of compute capability 9.0.
#include "runner.h"

#include <algorithm>
#include <cmath>

namespace hadal_cpu {

static const u32 QUAD = 16, WAVES_TOGETHER = 4;

void Units::begin() { waves.clear(); }

void Units::end() {
    for (size_t w = 0; w < waves.size(); w++) {
        if (waves[w].trace != waves[w - w % WAVES_TOGETHER].trace) {
            return worker.fail("the four waves of a group gave the matrix units different work");
        }
        if (!waves[w].steps.empty()) {
            return worker.fail("nobody waited for the matrix units");
        }
    }
}

Units::Wave& Units::wave() { return waves[place.thread / LANES]; }

// What comes first in a block.
void Units::fence() {
    if (waves.empty()) {
        waves.resize(MAX_THREADS / LANES);
        orders.resize(MAX_THREADS);
        may_begin.assign(MAX_THREADS, 0);
        b.resize(DEPTH_BYTES * MOST_COLUMNS);
    }
    may_begin[place.thread] = 1;
}

void Units::multiply(UnitFormat format, float* sums, u32 columns, u64 a, u64 b, bool add,
                     bool across) {
    if (waves.empty() || !may_begin[place.thread]) {
        worker.stop("the matrix units begin without the fence before them");
    }
    orders[place.thread] = {format, sums, columns, a, b, add, across};
    if (worker.arrive(Worker::AT_UNITS)) {
        issue(worker.wave_first());
        worker.release_wave(worker.wave_first(), LANES);
    }
    worker.wait();
}

// The sums that the wave's registers are; from now on they are not numbers.
Units::Sums* Units::sums_of(u32 first) {
    Wave& of = wave();
    const Order& order = orders[first];
    for (const auto& sums : of.sums) {
        if (sums->registers[0] == order.sums) {
            return sums.get();
        }
    }
    of.sums.push_back(std::make_unique<Sums>());
    Sums& sums = *of.sums.back();
    sums.columns = order.columns;
    sums.orders = 0;
    for (u32 l = 0; l < LANES; l++) {
        sums.registers[l] = orders[first + l].sums;
    }
    // Register `i` of lane `l` (PTX ISA, figure of D for m64nN): lines in eights, columns in
    // pairs, eights and then the other eight lines.
    for (u32 l = 0; l < LANES; l++) {
        for (u32 i = 0; i < sums.columns / 2; i++) {
            const u32 line = l / 4 + (i >> 1 & 1) * 8, column = (i >> 2) * 8 + l % 4 * 2 + (i & 1);
            sums.values[line * sums.columns + column] = sums.registers[l][i];
            sums.registers[l][i] = NAN;
        }
    }
    return &sums;
}

void Units::issue(u32 first) {
    Wave& of = wave();
    const Order& order = orders[first];
    for (u32 l = 0; l < LANES; l++) {
        const Order& other = orders[first + l];
        if (other.a != order.a || other.b != order.b || other.add != order.add ||
            other.across != order.across || other.columns != order.columns ||
            other.format != order.format) {
            return worker.fail("lanes of a wave gave the matrix units different work");
        }
    }
    Sums* const sums = sums_of(first);
    sums->orders++;
    of.steps.push_back({order, sums, worker.async.now(), of.batch, false});
    for (const u64 word : {order.a, order.b, (u64)order.add, (u64)order.across, (u64)order.format}) {
        of.trace = (of.trace ^ word) * 0x9e3779b97f4a7c15u + 1;
    }
    // The units may be quick, or begin when somebody waits for them.
    if (worker.random.below(2)) {
        run_all(of, first / LANES);
    }
}

void Units::run_all(Wave& of, u32 number) {
    for (Step& step : of.steps) {
        if (!step.done) {
            run(step, number);
        }
    }
}

void Units::commit() {
    if (waves.empty()) {
        worker.stop("there is no work for the matrix units");
    }
    if (worker.arrive(Worker::AT_UNITS)) {
        wave().batch++;
        worker.release_wave(worker.wave_first(), LANES);
    }
    worker.wait();
}

void Units::wait(u32 left) {
    if (waves.empty()) {
        return;
    }
    may_begin[place.thread] = 0;
    if (worker.arrive(Worker::AT_UNITS)) {
        Wave& of = wave();
        const u32 number = place.thread / LANES;
        const auto is_over = [&](const Step& step) { return step.batch + left < of.batch; };
        for (Step& step : of.steps) {
            if (is_over(step)) {
                if (!step.done) {
                    run(step, number);
                }
                step.sums->orders--;
            }
        }
        of.steps.erase(std::remove_if(of.steps.begin(), of.steps.end(), is_over), of.steps.end());
        for (const auto& sums : of.sums) {
            if (sums->orders == 0) {
                give_back(*sums);
            }
        }
        const auto ended = [](const std::unique_ptr<Sums>& sums) { return sums->orders == 0; };
        of.sums.erase(std::remove_if(of.sums.begin(), of.sums.end(), ended), of.sums.end());
        worker.release_wave(worker.wave_first(), LANES);
    }
    worker.wait();
}

void Units::give_back(Sums& sums) {
    for (u32 l = 0; l < LANES; l++) {
        for (u32 i = 0; i < sums.columns / 2; i++) {
            const u32 line = l / 4 + (i >> 1 & 1) * 8, column = (i >> 2) * 8 + l % 4 * 2 + (i & 1);
            sums.registers[l][i] = sums.values[line * sums.columns + column];
        }
    }
}

// PTX ISA, "Matrix Descriptor Format" and the figures of K-major layouts; those of MN-major ones are
// the same with lines along the depth.
u32 Units::locate(u64 descriptor, u32 line, u32 byte) {
    const u32 start = (u32)(descriptor & 0x3fff) << 4;
    const u32 leading = (u32)(descriptor >> 16 & 0x3fff) << 4;
    const u32 stride = (u32)(descriptor >> 32 & 0x3fff) << 4;
    const u32 base = (u32)(descriptor >> 49 & 7), mode = (u32)(descriptor >> 62);
    const u32 at = start + line / 8 * stride;
    if (mode == 0) {
        return at + line % 8 * 16 + byte / 16 * leading + byte % 16;
    }
    const u32 width = 256 >> mode;
    if (base != 0 || start / width % 8 != 0 || start % width + DEPTH_BYTES > width) {
        worker.fail("a descriptor of a tile that does not begin where its swizzle does");
    }
    const u32 plain = at + line % 8 * width + byte;
    // Bits 4 and up are mixed with bits 7 and up of the same address.
    return plain ^ (plain >> 7 & (width / 16 - 1)) << 4;
}

// The values of 32 bytes of a line.
bool Units::load(u64 descriptor, UnitFormat format, u32 line, u32 byte, u32 begun, float* to) {
    const float* const codes = values_of_e4m3(false);
    u8 bytes[DEPTH_BYTES];
    bool is_seen = true;
    for (u32 i = 0; i < DEPTH_BYTES; i += QUAD) {
        is_seen &= worker.async.read(locate(descriptor, line, byte + i), begun, bytes + i);
    }
    for (u32 i = 0; i < DEPTH_BYTES && format == E4M3; i++) {
        to[i] = codes[bytes[i]];
    }
    for (u32 i = 0; i < DEPTH_BYTES && format == BF16; i += 2) {
        const u32 word = (u32)bytes[i] << 16 | (u32)bytes[i + 1] << 24;
        std::memcpy(to + i / 2, &word, 4);
    }
    return is_seen;
}

// The values of B, by depth.
bool Units::load_b(const Order& order, u32 depth, u32 begun) {
    bool is_seen = true;
    if (order.across) {
        // One line of a tile with swizzle; further columns would be in another one.
        const u32 mode = (u32)(order.b >> 62);
        if (order.format != BF16 || mode == 0 || order.columns * 2 > 256u >> mode) {
            worker.fail("B across is of bf16, and of as many columns as its swizzle has");
            return false;
        }
        for (u32 k = 0; k < depth; k++) {
            for (u32 c = 0; c < order.columns; c += DEPTH_BYTES / 2) {
                float* const to = b.data() + k * MOST_COLUMNS + c;
                is_seen &= load(order.b, order.format, k, c * 2, begun, to);
            }
        }
        return is_seen;
    }
    for (u32 c = 0; c < order.columns; c++) {
        float line[DEPTH_BYTES];
        is_seen &= load(order.b, order.format, c, 0, begun, line);
        for (u32 k = 0; k < depth; k++) {
            b[k * MOST_COLUMNS + c] = line[k];
        }
    }
    return is_seen;
}

// Units for codes bring the 32 products and the sum so far to the exponent of the largest of them, and
// keep thirteen bits behind it (DeepSeek-V3 report, section 3.5.2).
void Units::add_codes(const float* a, u32 columns, float* sums) {
    float largest[MOST_COLUMNS], exact[MOST_COLUMNS];
    int kept[MOST_COLUMNS];
    for (u32 c = 0; c < columns; c++) {
        largest[c] = std::fabs(sums[c]);
        exact[c] = sums[c];
    }
    for (u32 k = 0; k < DEPTH_BYTES; k++) {
        for (u32 c = 0; c < columns; c++) {
            const float product = a[k] * b[k * MOST_COLUMNS + c];
            largest[c] = std::max(largest[c], std::fabs(product));
            exact[c] += product;
        }
    }
    // One over the last place that is kept, from the exponent.
    float places[MOST_COLUMNS];
    for (u32 c = 0; c < columns; c++) {
        u32 bits;
        std::memcpy(&bits, &largest[c], 4);
        const u32 inverse = (127 * 2 + 13 - (bits >> 23)) << 23;
        std::memcpy(&places[c], &inverse, 4);
        places[c] = largest[c] > 0.0f ? places[c] : 1.0f;
        kept[c] = (int)(sums[c] * places[c]);
    }
    for (u32 k = 0; k < DEPTH_BYTES; k++) {
        for (u32 c = 0; c < columns; c++) {
            kept[c] += (int)(a[k] * b[k * MOST_COLUMNS + c] * places[c]);
        }
    }
    for (u32 c = 0; c < columns; c++) {
        sums[c] = std::isfinite(exact[c]) ? (float)kept[c] / places[c] : exact[c];
    }
}

void Units::run(Step& step, u32 number) {
    const Order& order = step.order;
    const u32 depth = order.format == E4M3 ? DEPTH_BYTES : DEPTH_BYTES / 2;
    float a[DEPTH_BYTES];
    bool is_seen = true;
    step.done = true;
    is_seen &= load_b(order, depth, step.begun);
    for (u32 l = 0; l < LINES; l++) {
        is_seen &= load(order.a, order.format, number % WAVES_TOGETHER * LINES + l, 0, step.begun, a);
        float* const sums = step.sums->values + l * order.columns;
        for (u32 c = 0; c < order.columns && !order.add; c++) {
            sums[c] = 0.0f;
        }
        if (order.format == E4M3) {
            add_codes(a, order.columns, sums);
            continue;
        }
        for (u32 k = 0; k < depth; k++) {
            for (u32 c = 0; c < order.columns; c++) {
                sums[c] += a[k] * b[k * MOST_COLUMNS + c];
            }
        }
    }
    if (!is_seen) {
        worker.fail("the matrix units read copies that no fence let them see");
    }
}

}  // namespace hadal_cpu
