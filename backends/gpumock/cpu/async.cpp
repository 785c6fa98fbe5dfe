// Barriers with phases, and copies that arrive at them.
#include "runner.h"

#include <algorithm>

namespace hadal_cpu {

static const u32 QUAD = 16, WORD = 4, NOBODY = ~0u;
static const u64 MAGIC = 0x6861646c20626f78;
// Bytes that a phase may wait for (PTX ISA, "Size of the tx-count").
static const int MOST_BYTES = (1 << 20) - 1;

void Async::begin() {
    if (!memory) {
        // No block used it since.
        return;
    }
    memory = nullptr;
    clock = 0;
    barriers.clear();
    flights.clear();
    maps.clear();
}

u32 Async::address() {
    if (!memory) {
        const u32 bytes = worker.work->shared;
        if (bytes == 0) {
            worker.stop("a kernel uses memory that its launch did not ask for");
        }
        memory = (u8*)worker.shared(-1, bytes);
        // Tiles have to be aligned by whoever needs that.
        first = 1024 + QUAD * worker.random.below(64);
        seen.assign(bytes / WORD + 1, 0);
        writer.assign(bytes / WORD + 1, NOBODY);
        unseen.assign(MAX_THREADS, {});
    }
    return first;
}

u8* Async::bytes_at(u32 at, u32 count) {
    if (!memory || at < first || at + count > first + worker.work->shared || at % count != 0) {
        worker.stop("block memory has no " + std::to_string(count) + " bytes at address " +
                    std::to_string(at));
    }
    return memory + (at - first);
}

void Async::init(u32 at, u32 count) {
    bytes_at(at, 8);
    barriers[at] = {count, count, 0, place.thread, 0, {}, {}};
}

Async::Phases* Async::find(u32 at, const char* what) {
    const auto found = barriers.find(at);
    if (found == barriers.end()) {
        worker.stop(std::string(what) + " at a barrier that is not there");
    }
    return &found->second;
}

void Async::arrived(Phases& phases) {
    if (phases.left == 0) {
        worker.stop("more arrivals in a phase than its barrier counts");
    }
    phases.left--;
    go_on(phases);
}

// Ends the phase with its last arrival and its last byte: copies are there now.
void Async::go_on(Phases& phases) {
    if (phases.left > 0 || phases.bytes != 0) {
        return;
    }
    phases.left = phases.count;
    phases.ended++;
    for (const Copy& copy : phases.arrived) {
        put(copy);
    }
    phases.arrived.clear();
    std::vector<u32> waiting;
    waiting.swap(phases.waiting);
    for (const u32 thread : waiting) {
        worker.release_wave(thread, 1);
    }
}

void Async::arrive(u32 at) { arrived(*find(at, "an arrival")); }

void Async::expect(u32 at, u32 bytes) {
    Phases& phases = *find(at, "an arrival");
    if (bytes > (u32)MOST_BYTES || phases.bytes + (int)bytes > MOST_BYTES) {
        worker.stop("more bytes expected than a phase can wait for");
    }
    phases.bytes += (int)bytes;
    arrived(phases);
}

// The phase that goes on has the parity of how many ended; the one before has the other.
void Async::wait(u32 at, u32 parity) {
    Phases& phases = *find(at, "a wait");
    if (parity > 1) {
        worker.stop("a wait for a parity that is neither 0 nor 1");
    }
    if (phases.ended % 2 == parity) {
        phases.waiting.push_back(place.thread);
        worker.state[place.thread] = Worker::AT_PHASE;
        worker.wait();
    }
}

// What a thread writes by itself: the units see it after a fence of this thread, before which whoever
// gives them work must not begin.
void Async::store(u32 to, const void* from, u32 bytes) {
    std::memcpy(bytes_at(to, bytes), from, bytes);
    for (u32 word = (to - first) / WORD; word < (to - first + bytes) / WORD; word++) {
        seen[word] = NOBODY;
        writer[word] = place.thread;
        unseen[place.thread].push_back(word);
    }
}

void Async::fence_map(const void* map) { maps.insert({place.thread, map}); }

// What the host wrote at this address, if it was a map.
const TensorMap& Async::read_map(const void* at) {
    if ((size_t)at % 64 != 0) {
        worker.stop("a tensor map at an address that 64 does not divide");
    }
    const TensorMap& map = *(const TensorMap*)at;
    u64 check = 0;
    for (const u64* word = (const u64*)at; word < &map.check; word++) {
        check = (check ^ *word) * 0x9e3779b97f4a7c15u + 1;
    }
    if (map.magic != MAGIC || map.check != check) {
        worker.stop("a copy by what is no tensor map");
    }
    return map;
}

void Async::copy_box(u32 to, const void* at, int x, int y, u32 barrier) {
    if (maps.count({place.thread, at}) == 0) {
        worker.stop("a copy by a tensor map that no fence let its thread use");
    }
    const TensorMap& map = read_map(at);
    const u32 bytes = (u32)(map.box[0] * map.element * map.box[1]);
    if (to % 128 != 0) {
        worker.stop("a copy of a box to an address that 128 does not divide");
    }
    for (u32 i = 0; i < bytes; i += QUAD) {
        // Nobody may count on what was there, from now on.
        std::memset(bytes_at(to + i, QUAD), 0xff, QUAD);
    }
    const auto over = barriers.lower_bound(to);
    if (over != barriers.end() && over->first < to + bytes) {
        worker.stop("a copy over a barrier");
    }
    Phases& phases = *find(barrier, "a copy");
    if (phases.maker != NOBODY) {
        worker.stop("a copy arrives at a barrier that no fence let it see");
    }
    flights.push_back({barrier, phases.ended, {map, to, x, y}});
}

void Async::land(u32 which) {
    const Flight flight = flights[which];
    flights[which] = flights.back();
    flights.pop_back();
    Phases& phases = *find(flight.barrier, "a copy");
    if (worker.done == worker.threads) {
        return worker.fail("a block ended before its copies");
    }
    if (phases.ended != flight.phase) {
        return worker.fail("a copy came after its phase: fewer bytes were expected");
    }
    const TensorMap& map = flight.copy.map;
    phases.bytes -= (int)(map.box[0] * map.element * map.box[1]);
    phases.arrived.push_back(flight.copy);
    go_on(phases);
}

// A box's lines one after another, zeros for what lies outside of the matrix; sixteen bytes
// change places by the bits of their address (PTX ISA, "Swizzling modes").
void Async::put(const Copy& copy) {
    const TensorMap& map = copy.map;
    const u32 element = (u32)map.element, line = (u32)map.box[0] * element;
    const u32 mixed = (1u << map.swizzle) - 1;
    for (u32 i = 0; i < line * map.box[1]; i += QUAD) {
        u8 quad[QUAD] = {};
        for (u32 byte = 0; byte < QUAD; byte += element) {
            const long long x = copy.x + (long long)((i % line + byte) / element);
            const long long y = copy.y + (long long)(i / line);
            if (x >= 0 && y >= 0 && (u64)x < map.lengths[0] && (u64)y < map.lengths[1]) {
                const u64 from = map.address + (u64)y * map.stride + (u64)x * element;
                std::memcpy(quad + byte, (const void*)from, element);
            }
        }
        const u32 to = copy.to + i, place = to ^ (to >> 7 & mixed) << 4;
        std::memcpy(bytes_at(place, QUAD), quad, QUAD);
        // Copies and units go the same way to block memory.
        std::fill_n(seen.begin() + (place - first) / WORD, QUAD / WORD, 0);
    }
}

void Async::fence() {
    clock++;
    for (const u32 word : unseen[place.thread]) {
        seen[word] = writer[word] == place.thread ? clock : seen[word];
    }
    unseen[place.thread].clear();
    for (auto& barrier : barriers) {
        Phases& phases = barrier.second;
        phases.maker = phases.maker == place.thread ? NOBODY : phases.maker;
    }
}

bool Async::read(u32 at, u32 time, u8* to) {
    std::memcpy(to, bytes_at(at, QUAD), QUAD);
    const auto begin = seen.begin() + (at - first) / WORD;
    return *std::max_element(begin, begin + QUAD / WORD) <= time;
}

}  // namespace hadal_cpu
