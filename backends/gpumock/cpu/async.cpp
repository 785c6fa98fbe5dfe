// Barriers with phases, and copies that arrive at them.
#include "runner.h"

namespace hadal_cpu {

static const u32 QUAD = 16;

void Async::begin() {
    if (!memory) {
        // No block used it since.
        return;
    }
    memory = nullptr;
    clock = 0;
    barriers.clear();
    flights.clear();
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
        landed.assign(bytes / QUAD + 1, 0);
        open.assign(MAX_THREADS, {});
        fences.assign(MAX_THREADS, 0);
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
    barriers[at] = {count, count, 0, {}, {}};
}

Async::Phases* Async::find(u32 at, const char* what) {
    const auto found = barriers.find(at);
    if (found == barriers.end()) {
        worker.stop(std::string(what) + " at a barrier that is not there");
    }
    return &found->second;
}

// Ends the phase with its last arrival: copies are there now.
void Async::arrived(Phases& phases) {
    if (--phases.left > 0) {
        return;
    }
    phases.left = phases.count;
    phases.ended++;
    for (const Copy& copy : phases.arrived) {
        u8 quad[QUAD] = {};
        std::memcpy(quad, copy.from, copy.bytes);
        store(copy.to, quad);
    }
    phases.arrived.clear();
    std::vector<u32> waiting;
    waiting.swap(phases.waiting);
    for (const u32 thread : waiting) {
        worker.release_wave(thread, 1);
    }
}

void Async::arrive(u32 at) { arrived(*find(at, "an arrival")); }

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

// What a thread writes by itself; the units do not see it before a fence either.
void Async::store(u32 to, const void* from) {
    std::memcpy(bytes_at(to, QUAD), from, QUAD);
    landed[(to - first) / QUAD] = ++clock;
}

void Async::copy(u32 to, const void* from, u32 bytes) {
    if (bytes > QUAD || (size_t)from % QUAD != 0) {
        worker.stop("a copy of more than sixteen bytes, or from an address of less");
    }
    // Nobody may count on what was there, from now on.
    std::memset(bytes_at(to, QUAD), 0xff, QUAD);
    if (barriers.count(to) || barriers.count(to + 8)) {
        worker.stop("a copy over a barrier");
    }
    open[place.thread].push_back({to, from, bytes});
}

void Async::copies_arrive(u32 at) {
    find(at, "copies");
    flights.push_back({at, {}});
    flights.back().copies.swap(open[place.thread]);
}

void Async::land(u32 which) {
    Flight flight = std::move(flights[which]);
    flights[which] = std::move(flights.back());
    flights.pop_back();
    Phases& phases = *find(flight.barrier, "copies");
    phases.arrived.insert(phases.arrived.end(), flight.copies.begin(), flight.copies.end());
    arrived(phases);
}

void Async::fence() { fences[place.thread] = clock; }

bool Async::read(u32 at, u32 fence, u8* to) {
    std::memcpy(to, bytes_at(at, QUAD), QUAD);
    return landed[(at - first) / QUAD] <= fence;
}

}  // namespace hadal_cpu
