// What compute capability 9.0 has of its own: matrix units of four waves that read block memory
// by themselves, copies of whole boxes of a matrix, and barriers that wait for their bytes. Block
// memory is named by its 32-bit addresses, as these instructions take them.
//
// A *group* is four waves that follow each other, 128 threads; it multiplies 64 lines of A by
// 128 lines of B (or 32, or 64 columns of lines across), 32 bytes of A's depth at a time. The CPU's side of this file
// is the mock's, written from the documentation of the instructions and not from the kernels.

static const u32 GROUP = 128;

// Bytes of a line of a tile, and of the eight lines that the swizzle repeats after.
static const u32 LINE = 128, ATOM = 8 * LINE;
static const u32 UNIT_BYTES = 32, UNIT_ROWS = 64, UNIT_SUMS = 64;

// A matrix as copies of boxes know it, written by the driver in a form of its own.
struct alignas(128) TensorMap {
    u64 opaque[16];
};
// A box: so many bytes of so many lines, which the copy swizzles (`lists.rs` of backends/gpucpp).
static const u32 BOX_LINES = 64, BOX = BOX_LINES * LINE;

// Where sixteen bytes lie in a tile: their number in the line is mixed with the line's own, so
// that eight lines' are in different banks (PTX ISA, "128B swizzling", by depth).
DEVICE u32 swizzled(u32 line, u32 quad) { return line * LINE + (quad ^ line % 8) * 16; }

// How the units find a tile that begins an atom, or some units' bytes into its lines (PTX ISA,
// "Matrix Descriptor Format"): its address, a word that swizzled tiles have no use for, the
// distance of atoms, and the swizzle.
DEVICE u64 described(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(ATOM >> 4) << 32 | (u64)1 << 62;
}

// Of the 64 lines and 128 columns of a group: what sum `i` of this thread is (PTX ISA, "Register
// Fragments for wgmma.mma_async.m64nNk16" and "m64nNk32", D).
DEVICE u32 unit_row(u32 i) { return wave() % 4 * 16 + lane() / 4 + i % 4 / 2 * 8; }
DEVICE u32 unit_column(u32 i) { return i / 4 * 8 + lane() % 4 * 2 + i % 2; }

#if defined(HADAL_CPU)

// Memory that the launch gave the block.
DEVICE u32 dynamic_memory() { return hadal_cpu::dynamic_address(); }

DEVICE void phase_init(u32 at, u32 count) { hadal_cpu::phase_init(at, count); }
DEVICE void phase_arrive(u32 at) { hadal_cpu::phase_arrive(at); }
DEVICE void phase_wait(u32 at, u32 parity) { hadal_cpu::phase_wait(at, parity); }

DEVICE void phase_expect(u32 at, u32 bytes) { hadal_cpu::phase_expect(at, bytes); }
DEVICE void fence_map(const TensorMap* map) { hadal_cpu::fence_map(map); }
DEVICE void copy_box(u32 to, const TensorMap* map, u32 byte, u32 line, u32 at) {
    hadal_cpu::copy_box(to, map, (int)byte, (int)line, at);
}
DEVICE void store_quad(u32 to, const Quad& quad) { hadal_cpu::store_quad(to, &quad); }
DEVICE void fence_async() { hadal_cpu::fence_proxy(); }

DEVICE void store_word(u32 to, u32 word) { hadal_cpu::store_word(to, word); }
DEVICE u32 round_one(float value) {
    const u32 bits = bits_of(value);
    const bool is_number = (bits & 0x7fffffffu) <= 0x7f800000u;
    return is_number ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}
DEVICE u32 round_pair(float low, float high) { return round_one(low) | round_one(high) << 16; }
DEVICE void barrier_of(u32 threads) { hadal_cpu::barrier_of(threads); }
// The CPU has registers for all.
template <u32 COUNT> DEVICE void take_registers() {}
template <u32 COUNT> DEVICE void leave_registers() {}

template <u32 COUNT> DEVICE void units_fence(float (&)[COUNT]) { hadal_cpu::units_fence(); }
DEVICE void units_multiply8(float (&sum)[UNIT_SUMS], u64 a, u64 b, bool add) {
    hadal_cpu::units_multiply(hadal_cpu::E4M3, sum, 2 * UNIT_SUMS, a, b, add, false);
}
DEVICE void units_multiply16(float (&sum)[UNIT_SUMS], u64 a, u64 b, bool add) {
    hadal_cpu::units_multiply(hadal_cpu::BF16, sum, 2 * UNIT_SUMS, a, b, add, false);
}
DEVICE void units_multiply_keys(float (&sum)[16], u64 a, u64 b) {
    hadal_cpu::units_multiply(hadal_cpu::BF16, sum, 32, a, b, true, false);
}
template <u32 FIRST, u32 COUNT>
DEVICE void units_multiply_values(float (&sum)[COUNT], u64 a, u64 b) {
    hadal_cpu::units_multiply(hadal_cpu::BF16, sum + FIRST, 64, a, b, true, true);
}
DEVICE void units_commit() { hadal_cpu::units_commit(); }
template <u32 COUNT> DEVICE void units_wait(float (&)[COUNT]) { hadal_cpu::units_wait(0); }

#else

extern __shared__ Quad hadal_dynamic_memory[];

DEVICE u32 dynamic_memory() {
    u32 address;
    asm("{ .reg .u64 shared; cvta.to.shared.u64 shared, %1; cvt.u32.u64 %0, shared; }"
        : "=r"(address)
        : "l"(hadal_dynamic_memory));
    return address;
}

// A barrier of `count` arrivals a phase, and of all bytes that these arrivals expect.
DEVICE void phase_init(u32 at, u32 count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
DEVICE void phase_arrive(u32 at) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(at)
                 : "memory");
}
// Until the phase of this parity has ended; before the first one, that of parity 1 has.
DEVICE void phase_wait(u32 at, u32 parity) {
    u32 ended;
    do {
        asm volatile("{ .reg .pred ended; mbarrier.try_wait.parity.shared.b64 ended, [%1], %2; "
                     "selp.u32 %0, 1, 0, ended; }"
                     : "=r"(ended)
                     : "r"(at), "r"(parity)
                     : "memory");
    } while (!ended);
}

// An arrival, and that copies will bring so many bytes.
DEVICE void phase_expect(u32 at, u32 bytes) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1; }" ::"r"(
                     at),
                 "r"(bytes)
                 : "memory");
}
// Before this thread's copies by a map in device memory: it was written by the host, and copies
// have their own way to it.
DEVICE void fence_map(const TensorMap* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");
}
// Begins the copy of a box from this byte of this line on to a whole multiple of 128 bytes;
// zeros for what lies outside of the matrix. Its bytes arrive at a barrier, those too.
DEVICE void copy_box(u32 to, const TensorMap* map, u32 byte, u32 line, u32 at) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(byte), "r"(line), "r"(at)
                 : "memory");
}
DEVICE void store_quad(u32 to, const Quad& quad) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(quad.word[0]),
                 "r"(quad.word[1]), "r"(quad.word[2]), "r"(quad.word[3])
                 : "memory");
}
DEVICE void store_word(u32 to, u32 word) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}
// Two values as bf16, to the nearest.
DEVICE u32 round_pair(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
// Those who come, so many threads of the block: whole waves.
DEVICE void barrier_of(u32 threads) { asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory"); }
// A thread of this group has so many registers from now on; others must have left them.
template <u32 COUNT> DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <u32 COUNT> DEVICE void leave_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
// What threads wrote to block memory is there for the units and for copies of boxes, which have
// their own way to it.
DEVICE void fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define SUMS_4(I) "+f"(sum[I]), "+f"(sum[I + 1]), "+f"(sum[I + 2]), "+f"(sum[I + 3])
#define SUMS_16(I) SUMS_4(I), SUMS_4(I + 4), SUMS_4(I + 8), SUMS_4(I + 12)
#define ALL_SUMS SUMS_16(0), SUMS_16(16), SUMS_16(32), SUMS_16(48)
#define NAMES_OF_16 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_OF_SUMS                                                                          \
    NAMES_OF_16 ", "                                                                           \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "         \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "         \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// Named where the units may touch the sums only after, and where the thread may only after: a
// compiler does not know that the units write them later.
template <u32 COUNT> DEVICE void hold(float (&sum)[COUNT]) {
    UNROLL
    for (u32 i = 0; i < COUNT; i += 16) {
        asm volatile("" : SUMS_16(i)::"memory");
    }
}
template <u32 COUNT> DEVICE void units_fence(float (&sum)[COUNT]) {
    hold(sum);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Adds to the sums, or begins them anew, what 32 codes of the lines give.
DEVICE void units_multiply8(float (&sum)[UNIT_SUMS], u64 a, u64 b, bool add) {
    asm volatile("{ .reg .pred add; setp.ne.u32 add, %66, 0; "
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " NAMES_OF_SUMS
                 ", %64, %65, add, 1, 1; }"
                 : ALL_SUMS
                 : "l"(a), "l"(b), "r"((u32)add));
}
// The same of sixteen bf16.
DEVICE void units_multiply16(float (&sum)[UNIT_SUMS], u64 a, u64 b, bool add) {
    asm volatile("{ .reg .pred add; setp.ne.u32 add, %66, 0; "
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NAMES_OF_SUMS
                 ", %64, %65, add, 1, 1, 0, 0; }"
                 : ALL_SUMS
                 : "l"(a), "l"(b), "r"((u32)add));
}
// Adds to the sums what 32 lines of B give, which are keys.
DEVICE void units_multiply_keys(float (&sum)[16], u64 a, u64 b) {
    asm volatile("{ .reg .pred add; setp.eq.u32 add, 0, 0; "
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " NAMES_OF_16
                 "}, %16, %17, add, 1, 1, 0, 0; }"
                 : SUMS_16(0)
                 : "l"(a), "l"(b));
}
// The same with sixteen lines of B across: 64 values of each, for the sums from `FIRST` on.
template <u32 FIRST, u32 COUNT>
DEVICE void units_multiply_values(float (&sum)[COUNT], u64 a, u64 b) {
    asm volatile("{ .reg .pred add; setp.eq.u32 add, 0, 0; "
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NAMES_OF_16 ", "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, add, 1, 1, 0, 1; }"
                 : SUMS_16(FIRST), SUMS_16(FIRST + 16)
                 : "l"(a), "l"(b));
}
DEVICE void units_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until all that was committed is done.
template <u32 COUNT> DEVICE void units_wait(float (&sum)[COUNT]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(sum);
}

#endif
