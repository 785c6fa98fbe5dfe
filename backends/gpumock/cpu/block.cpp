// A block of threads on fibers. Whoever can go on is chosen at random when a block begins and
// whenever a thread waits, so that a result that hangs on an order shows.
#include "runner.h"

namespace hadal_cpu {

// Said again, since it would be looked for by a call here alone.
thread_local Place place HADAL_CPU_NEAR;
static thread_local Worker* worker HADAL_CPU_NEAR;

static const size_t GUARD = 64, MARGIN = 256, SPACE = MAX_SHARED + 64 * MARGIN;
static const u8 GUARD_BYTE = 0xa5, POISON = 0xff;

void barrier() { worker->barrier(); }
void barrier_of(u32 count) { worker->barrier_of(count); }
u32 wave_exchange(u32 value, u32 lane) { return worker->exchange(value, lane); }
void wave_multiply(WaveUnit unit, float* sums, const u32* a, const u32* b, u32 times) {
    worker->multiply({unit, sums, a, b, times});
}
void* shared(int id, size_t bytes) { return worker->shared(id, bytes); }
u32 dynamic_address() { return worker->async.address(); }
void phase_init(u32 at, u32 count) { worker->async.init(at, count); }
void phase_arrive(u32 at) { worker->async.arrive(at); }
void phase_wait(u32 at, u32 parity) { worker->async.wait(at, parity); }
void phase_expect(u32 at, u32 bytes) { worker->async.expect(at, bytes); }
void fence_map(const void* map) { worker->async.fence_map(map); }
void copy_box(u32 to, const void* map, int x, int y, u32 at) {
    worker->async.copy_box(to, map, x, y, at);
}
void store_quad(u32 to, const void* from) { worker->async.store(to, from, 16); }
void store_word(u32 to, u32 word) { worker->async.store(to, &word, 4); }
void fence_proxy() { worker->async.fence(); }
void units_fence() { worker->units.fence(); }
void units_multiply(UnitFormat format, float* sums, u32 columns, u64 a, u64 b, bool add,
                    bool across) {
    worker->units.multiply(format, sums, columns, a, b, add, across);
}
void units_commit() { worker->units.commit(); }
void units_wait(u32 left) { worker->units.wait(left); }

Worker::Worker() : block_memory(SPACE + 256) {}

std::string Worker::run(const Work& launch, u64 index) {
    work = &launch;
    worker = this;
    random = Random(launch.seed ^ (index + 1) * 0x2545f4914f6cdd1du);
    for (u32 axis = 0; axis < 3; axis++) {
        place.group[axis] = (u32)(index % launch.grid[axis]);
        place.groups[axis] = launch.grid[axis];
        index /= launch.grid[axis];
    }
    threads = (u32)launch.kernel->threads;
    wave = (u32)launch.kernel->wave;
    wave_bits = wave == 32 ? 5 : 6;
    done = at_barrier = at_some = 0;
    failure.clear();
    regions.clear();
    block_used = 0;
    for (u32 t = 0; t < threads; t++) {
        state[t] = NEW;
        ready[t] = t;
        arrived[t] = 0;
        free_stacks[t] = MAX_THREADS - 1 - t;
    }
    ready_count = free_count = threads;
    async.begin();
    units.begin();
    run_fibers();
    units.end();
    check_shared();
    return failure;
}

void Worker::run_fibers() {
    const u32 first = pick();
    hadal_switch(&scheduler, resume(first));
    if (failure.empty() && done < threads) {
        find_deadlock();
    }
}

// A thread that can go on, which `place` then names. Copies under way end among them.
u32 Worker::pick() {
    while (failure.empty() && ready_count + async.under_way() > 0) {
        const u32 at = random.below(ready_count + async.under_way());
        if (at >= ready_count) {
            async.land(at - ready_count);
            continue;
        }
        const u32 thread = ready[at];
        ready[at] = ready[--ready_count];
        return place.thread = thread;
    }
    return NONE;
}

// Where to switch to for a thread that was picked.
void* Worker::resume(u32 thread) {
    if (thread == NONE) {
        return scheduler;
    }
    if (state[thread] != NEW) {
        return sp[thread];
    }
    state[thread] = READY;
    stack[thread] = free_stacks[--free_count];
    return stacks.enter(stack[thread], begin_fiber);
}

// Runs threads from begin to end on one stack for as long as none of them waits.
void Worker::begin_fiber() {
    Worker& w = *worker;
    u32 thread = place.thread;
    for (;;) {
        w.work->kernel->invoke(w.work->kernel->function, w.work->arguments);
        if (w.stacks.overflown(w.stack[thread])) {
            w.fail("a thread used up its stack");
        }
        w.state[thread] = DONE;
        w.done++;
        const u32 next = w.pick();
        if (next == NONE || w.state[next] != NEW) {
            w.free_stacks[w.free_count++] = w.stack[thread];
            void* ended;
            hadal_switch(&ended, w.resume(next));
        }
        w.state[next] = READY;
        w.stack[next] = w.stack[thread];
        thread = next;
    }
}

// Lets others run until this thread is ready and picked.
void Worker::wait() {
    const u32 thread = place.thread, next = pick();
    if (next != thread) {
        hadal_switch(&sp[thread], resume(next));
    }
}

void Worker::barrier() {
    state[place.thread] = AT_BARRIER;
    if (++at_barrier == threads) {
        at_barrier = 0;
        release_wave(0, threads);
    }
    wait();
}

void Worker::barrier_of(u32 count) {
    state[place.thread] = AT_SOME;
    if (++at_some == count) {
        at_some = 0;
        for (u32 t = 0; t < threads; t++) {
            if (state[t] == AT_SOME) {
                release_wave(t, 1);
            }
        }
    }
    wait();
}

u32 Worker::wave_first() const { return place.thread & ~(wave - 1); }

u32 Worker::wave_size(u32 first) const { return threads - first < wave ? threads - first : wave; }

// Whether the thread is the last of its wave.
bool Worker::arrive(State at) {
    const u32 first = wave_first(), size = wave_size(first);
    u32& count = arrived[first >> wave_bits];
    state[place.thread] = at;
    if (++count < size) {
        return false;
    }
    count = 0;
    bool is_elsewhere = false;
    for (u32 t = first; t < first + size; t++) {
        is_elsewhere |= state[t] != at;
    }
    if (is_elsewhere) {
        fail("threads of a wave came to different exchanges");
    }
    return !is_elsewhere;
}

void Worker::release_wave(u32 first, u32 count) {
    for (u32 t = first; t < first + count; t++) {
        state[t] = READY;
        ready[ready_count++] = t;
    }
}

u32 Worker::exchange(u32 given, u32 wanted) {
    const u32 thread = place.thread;
    value[thread] = given;
    lane[thread] = wanted;
    if (arrive(AT_EXCHANGE)) {
        const u32 first = wave_first(), size = wave_size(first);
        for (u32 t = first; t < first + size; t++) {
            result[t] = value[first + (size == wave ? lane[t] & (wave - 1) : lane[t] % size)];
        }
        release_wave(first, size);
    }
    wait();
    return result[thread];
}

void Worker::multiply(const Fragments& mine) {
    fragments[place.thread] = mine;
    if (arrive(AT_MULTIPLY)) {
        const u32 first = wave_first(), size = wave_size(first);
        if (const char* const wrong = hadal_cpu::multiply(fragments + first, size)) {
            fail(wrong);
        }
        release_wave(first, size);
    }
    wait();
}

void* Worker::shared(int id, size_t count) {
    for (const Region& region : regions) {
        if (region.id == id && region.bytes == count) {
            return region.at;
        }
    }
    const size_t rounded = (count + 127) & ~(size_t)127;
    // A launch may ask for more than a kernel has of its own, up to what there is for both.
    size_t used = count, own = id < 0 ? 0 : count;
    for (const Region& region : regions) {
        used += region.bytes;
        own += region.id < 0 ? 0 : region.bytes;
    }
    const bool is_own = own > STATIC_SHARED;
    const size_t limit = is_own ? STATIC_SHARED : MAX_SHARED;
    used = is_own ? own : used;
    if (used > limit || block_used + rounded + 2 * MARGIN > SPACE) {
        stop("a block asks for " + std::to_string(used) + " bytes of block memory, of " +
             std::to_string(limit));
    }
    // As the strictest type that is copied into it asks.
    const size_t base = 128 - (size_t)block_memory.data() % 128;
    u8* const at = block_memory.data() + base + block_used + MARGIN / 2;
    std::memset(at - GUARD, GUARD_BYTE, GUARD);
    std::memset(at, POISON, count);
    std::memset(at + count, GUARD_BYTE, GUARD);
    block_used += rounded + MARGIN;
    regions.push_back({id, count, at});
    return at;
}

void Worker::check_shared() {
    for (const Region& region : regions) {
        for (size_t i = 0; i < GUARD; i++) {
            if (region.at[-1 - (long)i] != GUARD_BYTE) {
                return fail("block memory was written before its begin");
            }
            if (region.at[region.bytes + i] != GUARD_BYTE) {
                return fail("block memory was written behind its end");
            }
        }
    }
}

void Worker::find_deadlock() {
    u32 barriers = 0, exchanges = 0, phases = 0;
    for (u32 t = 0; t < threads; t++) {
        barriers += state[t] == AT_BARRIER || state[t] == AT_SOME;
        exchanges += state[t] == AT_EXCHANGE || state[t] == AT_MULTIPLY || state[t] == AT_UNITS;
        phases += state[t] == AT_PHASE;
    }
    fail("deadlock of " + std::to_string(threads) + " threads: " + std::to_string(barriers) +
         " wait at a barrier, " + std::to_string(exchanges) + " at a wave's exchange, " +
         (phases > 0 ? std::to_string(phases) + " for the end of a phase, " : "") +
         std::to_string(done) + " have returned");
}

void Worker::stop(const std::string& what) {
    fail(what);
    // Nothing switches back to this thread.
    for (;;) {
        wait();
    }
}

void Worker::fail(const std::string& what) {
    if (failure.empty()) {
        failure = "kernel " + work->kernel->name + " (wave " + std::to_string(work->kernel->wave) +
                  "), block " + std::to_string(place.group[0]) + "," +
                  std::to_string(place.group[1]) + "," + std::to_string(place.group[2]) + ": " +
                  what;
    }
}

}  // namespace hadal_cpu
