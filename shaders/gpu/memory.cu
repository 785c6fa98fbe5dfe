// Copies and fills of a program: as kernels, so that a graph has nodes of one kind. No
// parameter block. Grid: any; the blocks share the bytes.

#include "portable.h"

static const u32 THREADS = 256;

KERNEL(THREADS, fill_bytes, u8* to, u64 bytes, u32 value) {
    const u64 step = (u64)groups_x() * THREADS;
    u64 at = (u64)group_x() * THREADS + thread_x();
    // Words where the range begins and ends with one.
    if ((((u64)to | bytes) & 3) == 0) {
        for (; at < bytes / 4; at += step) {
            ((u32*)to)[at] = value * 0x01010101u;
        }
        return;
    }
    for (; at < bytes; at += step) {
        to[at] = (u8)value;
    }
}

KERNEL(THREADS, copy_bytes, u8* to, const u8* from, u64 bytes) {
    const u64 step = (u64)groups_x() * THREADS;
    u64 at = (u64)group_x() * THREADS + thread_x();
    if ((((u64)to | (u64)from | bytes) & 15) == 0) {
        for (; at < bytes / 16; at += step) {
            ((Quad*)to)[at] = ((const Quad*)from)[at];
        }
        return;
    }
    for (; at < bytes; at += step) {
        to[at] = from[at];
    }
}
