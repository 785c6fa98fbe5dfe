// The only file that knows what differs between CUDA, HIP and the CPU: threads, waves,
// barriers, and instructions without a spelling in C++. No vendor's header is included, so
// that any of their compilers takes these files without an installed toolkit.
//
// A *wave* is what runs in step: 32 threads (NVIDIA's warp, AMD's RDNA) or 64 (AMD's CDNA).
// Waves of a block are cut from its threads in order. Every kernel has a fixed number of
// threads a block. Wave and block operations sit where all threads of the wave or block
// come along.
//
// For the CPU (`HADAL_CPU`) the runner defines `HADAL_WAVE` and declares, before this file,
// what the namespace `hadal_cpu` is used for below.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(HADAL_CPU)

#define UNROLL
#define NO_UNROLL
#define UNROLL_BY_4
#define DEVICE static inline
#define DEVICE_METHOD inline
#define CONSTANT static const
#define KERNEL(THREADS, NAME, ...)                                                              \
    static void NAME(__VA_ARGS__);                                                             \
    static const hadal_cpu::Entry entry_of_##NAME(#NAME, HADAL_WAVE, THREADS, NAME);           \
    static void NAME(__VA_ARGS__)
// A block's memory is handed out anew for each block, poisoned and guarded.
#define SHARED(TYPE, NAME, COUNT)                                                              \
    TYPE* const NAME = (TYPE*)hadal_cpu::shared(__COUNTER__, sizeof(TYPE) * (COUNT))

static const int WAVE = HADAL_WAVE;

DEVICE u32 thread_x() { return hadal_cpu::thread(); }
DEVICE u32 group_x() { return hadal_cpu::group(0); }
DEVICE u32 group_y() { return hadal_cpu::group(1); }
DEVICE u32 group_z() { return hadal_cpu::group(2); }
DEVICE u32 groups_x() { return hadal_cpu::groups(0); }
DEVICE void barrier() { hadal_cpu::barrier(); }
DEVICE u32 shuffle_xor(u32 value, u32 mask) {
    return hadal_cpu::wave_exchange(value, (thread_x() & (WAVE - 1)) ^ mask);
}
DEVICE u32 shuffle(u32 value, u32 lane) { return hadal_cpu::wave_exchange(value, lane); }
DEVICE void wave_barrier() { hadal_cpu::wave_exchange(0, 0); }
DEVICE u32 atomic_add(u32* at, u32 value) { return hadal_cpu::atomic_add(at, value); }

DEVICE float fma_(float a, float b, float c) { return a * b + c; }
DEVICE float exp2_(float x) { return __builtin_exp2f(x); }
DEVICE float sqrt_(float x) { return __builtin_sqrtf(x); }
DEVICE float half_to_float(u16 bits) { return hadal_cpu::half_to_float(bits); }

#else

#if defined(__HIP__)
#define HADAL_HIP
#else
#define HADAL_CUDA
#endif

#if defined(__CUDACC_RTC__)
// A file uses some of what it includes.
#pragma nv_diag_suppress 177
#elif !defined(__global__)
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#endif

// Small arrays live in registers only where all their indices are constants.
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define UNROLL_BY_4 _Pragma("unroll 4")
#define DEVICE static inline __device__ __attribute__((always_inline))
#define DEVICE_METHOD inline __device__ __attribute__((always_inline))
// Tables that all threads read.
#define CONSTANT static __constant__ const
// One block a processor will do: assemblers spill for more of them otherwise.
#if defined(HADAL_HIP)
#define BOUNDS(THREADS) __attribute__((amdgpu_flat_work_group_size(THREADS, THREADS)))
#elif defined(__CUDACC_RTC__)
#define BOUNDS(THREADS) __launch_bounds__(THREADS, 1)
#else
#define BOUNDS(THREADS) __attribute__((launch_bounds(THREADS, 1)))
#endif
#define KERNEL(THREADS, NAME, ...) extern "C" __global__ void BOUNDS(THREADS) NAME(__VA_ARGS__)
// Read sixteen bytes at a time, whatever it is made of.
#define SHARED(TYPE, NAME, COUNT) __shared__ __attribute__((aligned(16))) TYPE NAME[COUNT]

#if defined(HADAL_CUDA)

static const int WAVE = 32;

#define SPECIAL(NAME, REGISTER)                                                                \
    DEVICE u32 NAME() {                                                                        \
        u32 value;                                                                             \
        asm("mov.u32 %0, %%" REGISTER ";" : "=r"(value));                                      \
        return value;                                                                          \
    }
SPECIAL(thread_x, "tid.x")
SPECIAL(group_x, "ctaid.x")
SPECIAL(group_y, "ctaid.y")
SPECIAL(group_z, "ctaid.z")
SPECIAL(groups_x, "nctaid.x")
#undef SPECIAL

// First of all in every kernel: until those before it in a program have ended and what they wrote is
// there. Blocks may be on the device before that, from when all of the kernel before are (PTX ISA,
// `griddepcontrol`); a launch that does not ask for it begins after them anyway.
DEVICE void wait_for_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait; griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DEVICE void barrier() { asm volatile("bar.sync 0;" ::: "memory"); }
DEVICE void wave_barrier() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }
DEVICE u32 shuffle_xor(u32 value, u32 mask) {
    u32 other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;"
                 : "=r"(other)
                 : "r"(value), "r"(mask));
    return other;
}
DEVICE u32 shuffle(u32 value, u32 lane) {
    u32 other;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;"
                 : "=r"(other)
                 : "r"(value), "r"(lane));
    return other;
}
DEVICE u32 atomic_add(u32* at, u32 value) {
    u32 before;
    asm volatile("atom.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(at), "r"(value) : "memory");
    return before;
}

DEVICE float fma_(float a, float b, float c) {
    float y;
    asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(a), "f"(b), "f"(c));
    return y;
}
DEVICE u32 bits_of(float value) {
    u32 bits;
    asm("mov.b32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}
DEVICE float float_of(u32 bits) {
    float value;
    asm("mov.b32 %0, %1;" : "=f"(value) : "r"(bits));
    return value;
}
DEVICE float exp2_(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float sqrt_(float x) {
    float y;
    asm("sqrt.rn.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float half_to_float(u16 bits) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
    return y;
}

#else

#if defined(__GFX9__)
static const int WAVE = 64;
#else
static const int WAVE = 32;
#endif

DEVICE u32 thread_x() { return __builtin_amdgcn_workitem_id_x(); }
DEVICE u32 group_x() { return __builtin_amdgcn_workgroup_id_x(); }
DEVICE u32 group_y() { return __builtin_amdgcn_workgroup_id_y(); }
DEVICE u32 group_z() { return __builtin_amdgcn_workgroup_id_z(); }
// The runtime's hidden arguments begin with the block counts (code object version 5).
DEVICE u32 groups_x() { return ((const u32*)__builtin_amdgcn_implicitarg_ptr())[0]; }

DEVICE void barrier() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
DEVICE u32 shuffle(u32 value, u32 lane) {
    return __builtin_amdgcn_ds_bpermute((int)(lane << 2), (int)value);
}
DEVICE u32 shuffle_xor(u32 value, u32 mask) {
    return shuffle(value, (thread_x() & (WAVE - 1)) ^ mask);
}
DEVICE u32 atomic_add(u32* at, u32 value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

DEVICE float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE float exp2_(float x) { return __builtin_amdgcn_exp2f(x); }
DEVICE float sqrt_(float x) { return __builtin_sqrtf(x); }
DEVICE float half_to_float(u16 bits) { return (float)__builtin_bit_cast(_Float16, bits); }

#endif
#endif

#if !defined(HADAL_CUDA)
// A kernel begins when those before it have ended.
DEVICE void wait_for_kernels() {}
DEVICE u32 bits_of(float value) {
    u32 bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}
DEVICE float float_of(u32 bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
#endif

// The same number, of which the compiler knows no more: tests of it in a loop are made there,
// and not kept from before it in registers.
DEVICE u32 forgotten(u32 number) {
#if defined(HADAL_HIP)
    asm volatile("" : "+s"(number));
#elif defined(HADAL_CUDA)
    asm volatile("" : "+r"(number));
#endif
    return number;
}

DEVICE u32 lane() { return thread_x() & (WAVE - 1); }
DEVICE u32 wave() { return thread_x() / WAVE; }
DEVICE u32 min_(u32 a, u32 b) { return a < b ? a : b; }
DEVICE u32 divide_up(u32 a, u32 b) { return (a + b - 1) / b; }
// Of a number and a NaN, the number.
DEVICE float max_(float a, float b) { return a > b || b != b ? a : b; }

// e^x to two units in the last place; the processor's power of two alone loses |x| of them.
DEVICE float exp_(float x) {
    x = x < -150.0f ? -150.0f : x > 150.0f ? 150.0f : x;
    const float high = x * 1.44269502f;
    const float low = fma_(x, 1.44269502f, -high) + x * 1.92596303e-8f;
    return exp2_(high) * fma_(low, 0.693147182f, 1.0f);
}

// To the nearest whole number, ties to even; for 0 <= x < 2^22. The sum has no room for a
// fraction.
DEVICE float round_even(float x) { return (x + 8388608.0f) - 8388608.0f; }

DEVICE float silu(float x) { return x / (1.0f + exp_(-x)); }

// The same in all lanes of the wave.
DEVICE float wave_sum(float value) {
    for (u32 mask = WAVE / 2; mask > 0; mask /= 2) {
        value += float_of(shuffle_xor(bits_of(value), mask));
    }
    return value;
}
DEVICE float wave_max(float value) {
    for (u32 mask = WAVE / 2; mask > 0; mask /= 2) {
        value = max_(value, float_of(shuffle_xor(bits_of(value), mask)));
    }
    return value;
}

// Sixteen bytes at an address of as many.
struct alignas(16) Quad {
    u32 word[4];
};
struct alignas(16) Floats {
    float value[4];
};

// An address from a table. AMD's compilers take it for one of any memory otherwise, and wait for
// block memory with every load.
template <class T> DEVICE const T* in_memory(u64 address) {
#if defined(HADAL_HIP)
    return (const T*)(const __attribute__((address_space(1))) T*)address;
#else
    return (const T*)address;
#endif
}

// What is read once in a launch, past the first-level cache, and no kernel of a program writes: it may
// be read before `wait_for_kernels`.
DEVICE Quad load_once(const Quad* at) {
#if defined(HADAL_CUDA)
    Quad quad;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(quad.word[0]), "=r"(quad.word[1]), "=r"(quad.word[2]), "=r"(quad.word[3])
        : "l"(at));
    return quad;
#else
    return *at;
#endif
}
DEVICE u32 load_word_once(const u32* at) {
#if defined(HADAL_CUDA)
    u32 word;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(word) : "l"(at));
    return word;
#else
    return *at;
#endif
}
