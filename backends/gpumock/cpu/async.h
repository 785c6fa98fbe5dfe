// What compute capability 9.0 has of its own, by NVIDIA's documentation (PTX ISA: "mbarrier",
// "Tensors", "cp.async.bulk.tensor", "Async proxy", "Asynchronous Warpgroup Level Matrix
// Instructions"): barriers with phases, copies of boxes whose bytes these wait for, and matrix
// units that read block memory by descriptors.
// As strict as the documentation allows: a copy is seen when the phase that it arrives at ends
// and not before, sums are seen after the wait for them, and until then both are not numbers.
#pragma once

#include "hadal_cpu.h"

#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

namespace hadal_cpu {

class Worker;

// A matrix as the mock's `cuTensorMapEncodeTiled` writes it (`src/tensor.rs`): the driver's own
// form is its secret.
struct TensorMap {
    u64 magic, address, lengths[2], stride, box[2], element, swizzle, unused[6], check;
};

// Memory that a launch gives a block, by address; barriers and copies.
class Async {
  public:
    explicit Async(Worker& of) : worker(of) {}
    // A block begins.
    void begin();
    // Where the memory begins: anywhere that sixteen divides.
    u32 address();
    void init(u32 at, u32 count);
    void arrive(u32 at);
    void wait(u32 at, u32 parity);
    void expect(u32 at, u32 bytes);
    void fence_map(const void* map);
    void copy_box(u32 to, const void* map, int x, int y, u32 at);
    void store(u32 to, const void* from, u32 bytes);
    void fence();
    // Copies under way; any of them may be the next to end.
    u32 under_way() const { return (u32)flights.size(); }
    void land(u32 which);
    // The time, which goes on when threads let the units see what they wrote.
    u32 now() const { return clock; }
    // Sixteen bytes for the units, and whether work that began at `time` may see them.
    bool read(u32 at, u32 time, u8* to);

  private:
    struct Copy {
        TensorMap map;
        u32 to;
        int x, y;
    };
    struct Flight {
        u32 barrier, phase;
        Copy copy;
    };
    // `maker` is the thread that made it, for as long as it has not let copies see it.
    struct Phases {
        u32 count, left, ended, maker;
        int bytes;
        std::vector<Copy> arrived;
        std::vector<u32> waiting;
    };

    Phases* find(u32 at, const char* what);
    const TensorMap& read_map(const void* at);
    void arrived(Phases& phases);
    void go_on(Phases& phases);
    void put(const Copy& copy);
    u8* bytes_at(u32 at, u32 count);

    Worker& worker;
    u8* memory = nullptr;
    u32 first = 0, clock = 0;
    std::map<u32, Phases> barriers;
    std::vector<Flight> flights;
    // Maps that a thread may use.
    std::set<std::pair<u32, const void*>> maps;
    // By word of memory: since when the units may see it, and who wrote it last; by thread: what it
    // wrote and let nobody see.
    std::vector<u32> seen, writer;
    std::vector<std::vector<u32>> unseen;
};

// The matrix units: waves in fours multiply, each its sixteen of the 64 lines.
class Units {
  public:
    explicit Units(Worker& of) : worker(of) {}
    void begin();
    // What the waves of a group did must have been the same.
    void end();
    void fence();
    void multiply(UnitFormat format, float* sums, u32 columns, u64 a, u64 b, bool add,
                  bool across);
    void commit();
    void wait(u32 left);

  private:
    static const u32 LINES = 16, DEPTH_BYTES = 32, MOST_COLUMNS = 256, LANES = 32;
    struct Order {
        UnitFormat format;
        float* sums;
        u32 columns;
        u64 a, b;
        bool add, across;
    };
    // Sums under way, and the registers that they go to.
    struct Sums {
        float* registers[LANES];
        u32 columns, orders;
        float values[LINES * MOST_COLUMNS];
    };
    struct Step {
        Order order;
        Sums* sums;
        u32 begun, batch;
        bool done;
    };
    struct Wave {
        std::vector<Step> steps;
        std::vector<std::unique_ptr<Sums>> sums;
        u32 batch;
        u64 trace;
    };

    Wave& wave();
    void issue(u32 first);
    Sums* sums_of(u32 first);
    void run(Step& step, u32 number);
    void run_all(Wave& of, u32 number);
    void give_back(Sums& sums);
    bool load(u64 descriptor, UnitFormat format, u32 line, u32 byte, u32 begun, float* to);
    void add_codes(const float* a, u32 columns, float* sums);
    bool load_b(const Order& order, u32 depth, u32 begun);
    u32 locate(u64 descriptor, u32 line, u32 byte);

    Worker& worker;
    std::vector<Wave> waves;
    std::vector<Order> orders;
    std::vector<u8> may_begin;
    std::vector<float> b;
};

}  // namespace hadal_cpu
