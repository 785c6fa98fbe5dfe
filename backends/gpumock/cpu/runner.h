// Between the files of the runner: stacks, blocks and the table of kernels.
#pragma once

#include "async.h"
#include "hadal_cpu.h"

#include <string>
#include <vector>

namespace hadal_cpu {

// Threads of a block at most, and bytes of block memory that are not asked for at launch.
static const u32 MAX_THREADS = 1024, STATIC_SHARED = 48 << 10, MAX_SHARED = 227 << 10;

struct Kernel {
    std::string name, file;
    int wave, threads;
    Function function;
    Invoke invoke;
    std::vector<Argument> arguments;
};

const std::vector<Kernel>& table();

// A launch, as a block sees it.
struct Work {
    const Kernel* kernel;
    const void* const* arguments;
    u32 grid[3];
    u32 shared;
    u64 seed;
};

struct Random {
    u64 state;
    explicit Random(u64 seed) : state(seed) {}
    u64 next() {
        u64 z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    u32 below(u32 end) { return (u32)((next() >> 32) * end >> 32); }
};

// What a thread brings to a product of its wave, and how often.
struct Fragments {
    WaveUnit unit;
    float* sums;
    const u32 *a, *b;
    u32 times;
};

// The product, in the registers of all lanes; what is wrong with them, or nothing.
const char* multiply(const Fragments* lanes, u32 count);

// The values of all codes of E4M3: as published, or those of AMD's gfx942.
const float* values_of_e4m3(bool is_fnuz);

// Saves the running stack in `*from` and goes on with `to`.
extern "C" void hadal_switch(void** from, void* to) __asm__("hadal_switch");

// Stacks of fibers, taken as threads begin and used again when they end.
class Stacks {
  public:
    Stacks();
    ~Stacks();
    // A stack from which `hadal_switch` enters `begin`.
    void* enter(u32 stack, void (*begin)());
    // Whether a thread used more than there is.
    bool overflown(u32 stack) const;

  private:
    u8* memory;
};

// What a thread of the operating system runs blocks with.
class Worker {
  public:
    Worker();
    // Runs block `index`; what went wrong, or nothing.
    std::string run(const Work& work, u64 index);

    // For the running fiber.
    void barrier();
    void barrier_of(u32 count);
    u32 exchange(u32 value, u32 lane);
    void multiply(const Fragments& mine);
    void* shared(int id, size_t bytes);

    Async async{*this};
    Units units{*this};

  private:
    friend class Async;
    friend class Units;
    enum State : u8 {
        NEW, READY, AT_BARRIER, AT_SOME, AT_EXCHANGE, AT_MULTIPLY, AT_PHASE, AT_UNITS, DONE
    };
    struct Region {
        int id;
        size_t bytes;
        u8* at;
    };
    static const u32 NONE = ~0u;

    static void begin_fiber();
    void run_fibers();
    u32 pick();
    void* resume(u32 thread);
    void wait();
    bool arrive(State state);
    void release_wave(u32 first, u32 count);
    void fail(const std::string& what);
    // The same in a thread that cannot go on.
    [[noreturn]] void stop(const std::string& what);
    void find_deadlock();
    void check_shared();
    u32 wave_first() const;
    u32 wave_size(u32 first) const;

    Stacks stacks;
    std::vector<u8> block_memory;
    std::vector<Region> regions;
    size_t block_used = 0;
    const Work* work = nullptr;
    // Of the kernel: lanes of a wave, a power of two, and which one.
    u32 wave = 0, wave_bits = 0;
    u32 threads = 0, done = 0, at_barrier = 0, at_some = 0, ready_count = 0, free_count = 0;
    Random random{0};
    void* scheduler = nullptr;
    std::string failure;

    // By thread of the block; arrays of one field each, since a wave reads them in a row.
    State state[MAX_THREADS];
    void* sp[MAX_THREADS];
    u32 stack[MAX_THREADS], value[MAX_THREADS], lane[MAX_THREADS], result[MAX_THREADS];
    Fragments fragments[MAX_THREADS];
    u32 arrived[MAX_THREADS];  // by wave
    u32 ready[MAX_THREADS], free_stacks[MAX_THREADS];
};

}  // namespace hadal_cpu
