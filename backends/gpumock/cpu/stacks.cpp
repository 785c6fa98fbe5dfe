// Switching stacks: what a call must preserve is saved on the old stack and taken from the
// new one.
#include "runner.h"

#include <cstdlib>
#include <new>
#include <sys/mman.h>

#if defined(__ELF__)
asm(".globl hadal_switch\n.hidden hadal_switch\n.type hadal_switch, %function");
#else
asm(".globl hadal_switch\n.private_extern hadal_switch");
#endif
#if defined(__x86_64__)
asm(R"(
    .text
    .p2align 4
hadal_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .p2align 4
hadal_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
#else
#error "fibers need a stack switch for this processor"
#endif

namespace hadal_cpu {

// Not a power of two: the frames of all threads would share few lines of the caches.
static const size_t STACK = (64 << 10) + 320;
static const u64 CANARY = 0x5afe5afe5afe5afe;

Stacks::Stacks() {
    memory = (u8*)mmap(nullptr, STACK * MAX_THREADS, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        abort();
    }
}

Stacks::~Stacks() { munmap(memory, STACK * MAX_THREADS); }

void* Stacks::enter(u32 stack, void (*begin)()) {
    u8* const low = memory + stack * STACK;
    for (u32 i = 0; i < 8; i++) {
        std::memcpy(low + 8 * i, &CANARY, 8);
    }
    u8* const high = low + STACK - 64;
#if defined(__x86_64__)
    // Six registers, the address to return to, and the place of a caller's own.
    void** const frame = (void**)(high - 64);
    std::memset(frame, 0, 64);
    frame[6] = (void*)begin;
#else
    void** const frame = (void**)(high - 160);
    std::memset(frame, 0, 160);
    frame[11] = (void*)begin;
#endif
    return frame;
}

bool Stacks::overflown(u32 stack) const {
    const u8* const low = memory + stack * STACK;
    for (u32 i = 0; i < 8; i++) {
        if (std::memcmp(low + 8 * i, &CANARY, 8) != 0) {
            return true;
        }
    }
    return false;
}

}  // namespace hadal_cpu
