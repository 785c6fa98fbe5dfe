// What the CPU build of the kernels stands on: each thread of a block is a fiber. Included
// before a kernel file, outside of namespaces; `portable.h` says what it is used for.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

namespace hadal_cpu {

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// The part of thread-local memory that needs no call to be found, where there is one.
#if defined(__ELF__)
#define HADAL_CPU_NEAR __attribute__((tls_model("initial-exec")))
#else
#define HADAL_CPU_NEAR
#endif

// Which thread of which block runs. Kernels ask for it in inner loops.
struct Place {
    u32 thread, group[3], groups[3];
};
extern thread_local Place place HADAL_CPU_NEAR;

inline u32 thread() { return place.thread; }
inline u32 group(int axis) { return place.group[axis]; }
inline u32 groups(int axis) { return place.groups[axis]; }

// All threads of the block.
void barrier();
// So many of them, whoever comes (PTX ISA, "bar.sync" of another barrier with a count).
void barrier_of(u32 count);
// All threads of the wave; the value that thread `lane` of it brought.
u32 wave_exchange(u32 value, u32 lane);
// Matrix units that multiply what the registers of a wave hold: `fragments.cpp`.
enum WaveUnit : u32 {
    MMA_BF16,
    MMA_E4M3,
    MFMA_BF16,
    MFMA_E4M3,
    MFMA_E4M3_FNUZ,
    WMMA_BF16,
    WMMA12_BF16,
    WMMA12_E4M3
};
// All threads of the wave: the instruction, `times` times with the same A and the next registers
// of B and of the sums.
void wave_multiply(WaveUnit unit, float* sums, const u32* a, const u32* b, u32 times);
// Memory of the block: the same for the same id and size, poisoned when the block begins.
void* shared(int id, size_t bytes);

// Barriers, copies and matrix units of compute capability 9.0: `async.h`.
enum UnitFormat : u32 { E4M3, BF16 };
u32 dynamic_address();
void phase_init(u32 at, u32 count);
void phase_arrive(u32 at);
void phase_wait(u32 at, u32 parity);
void phase_expect(u32 at, u32 bytes);
void fence_map(const void* map);
void copy_box(u32 to, const void* map, int x, int y, u32 at);
void store_quad(u32 to, const void* from);
void store_word(u32 to, u32 word);
void fence_proxy();
void units_fence();
// `across`: B's lines go along the depth, and not along its columns ("imm-trans-b").
void units_multiply(UnitFormat format, float* sums, u32 columns, u64 a, u64 b, bool add,
                    bool across);
void units_commit();
void units_wait(u32 left);

inline u32 atomic_add(u32* at, u32 value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

inline float half_to_float(u16 bits) {
    // What the instruction is called by itself: its header would take as long to compile as a kernel.
#if defined(__F16C__) && defined(__clang__)
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    return (float)half;
#elif defined(__F16C__)
    typedef short Halves __attribute__((vector_size(16)));
    return __builtin_ia32_vcvtph2ps(Halves{(short)bits})[0];
#else
    // The exponent moves by the difference of the biases; subnormals become normal by a
    // multiplication, infinities and what is not a number keep the largest exponent.
    const u32 sign = (u32)(bits & 0x8000) << 16, rest = bits & 0x7fff;
    u32 word = rest << 13;
    float value;
    if (rest >= 0x7c00) {
        word |= 0x7f800000u;
        std::memcpy(&value, &word, 4);
    } else {
        std::memcpy(&value, &word, 4);
        value *= 0x1p112f;
    }
    std::memcpy(&word, &value, 4);
    word |= sign;
    std::memcpy(&value, &word, 4);
    return value;
#endif
}

// The kernels' file that the entries after it come from.
struct File {
    explicit File(const char* name);
};

struct Argument {
    u32 bytes, align, is_pointer;
};

typedef void (*Function)();
typedef void (*Invoke)(Function kernel, const void* const* arguments);

template <class... Args> struct Call {
    template <size_t... I>
    static void spread(Function kernel, const void* const* arguments, std::index_sequence<I...>) {
        ((void (*)(Args...))kernel)(*(const Args*)arguments[I]...);
    }
    static void invoke(Function kernel, const void* const* arguments) {
        spread(kernel, arguments, std::index_sequence_for<Args...>());
    }
};

void add_entry(const char* name, int wave, int threads, Function kernel, Invoke invoke,
               const Argument* arguments, u32 count);

// A kernel; the objects exist to be made.
struct Entry {
    template <class... Args>
    Entry(const char* name, int wave, int threads, void (*kernel)(Args...)) {
        static const Argument arguments[] = {
            {(u32)sizeof(Args), (u32)alignof(Args), std::is_pointer<Args>::value}...};
        add_entry(name, wave, threads, (Function)kernel, &Call<Args...>::invoke, arguments,
                  sizeof...(Args));
    }
};

}  // namespace hadal_cpu
