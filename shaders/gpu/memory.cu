// Copies and fills of a program: as kernels, so that a graph has nodes of one kind. No
// parameter block. Grid: any; the blocks share the bytes.
// Then what stands before and behind a product by a library, whose lists of scales are laid out
// in another way, which knows no f32 with a weight of bf16, and no rows that are not there.

#include "portable.h"
#include "params.h"
#include "parts.h"

static const u32 THREADS = 256;

KERNEL(THREADS, fill_bytes, u8* to, u64 bytes, u32 value) {
    wait_for_kernels();
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
    wait_for_kernels();
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

// The scales of all rows of codes, those of a depth beside each other. Grid: x over rows, y over
// scales of a row.
KERNEL(THREADS, product_scales, Params p, const float* x, float* scales) {
    wait_for_kernels();
    const u32 r = group_x() * THREADS + thread_x(), depth = group_y();
    if (r < p.rows) {
        scales[(u64)depth * p.rows + r] = x[x_row(p, r) + coded_scales(p.k) + depth];
    }
}

// Values of rows as three bf16 each: all rows' first parts, then what these leave. Grid: x over
// values of a row, y over rows.
KERNEL(THREADS, product_parts, Params p, const float* x, u16* parts) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), r = group_y();
    if (i >= p.k) {
        return;
    }
    float rest = x[x_row(p, r) + i];
    UNROLL
    for (u32 part = 0; part < 3; part++) {
        parts[((u64)part * p.rows + r) * p.k + i] = take_part(rest);
    }
}

// Real rows of a product to their places, with a residual's added if there is one. Grid: x over
// outputs, y over rows.
KERNEL(THREADS, product_rows, Params p, const u32* inputs, const float* product,
       const float* residual, float* y) {
    wait_for_kernels();
    const u32 i = group_x() * THREADS + thread_x(), r = group_y();
    if (r >= real_rows(p, inputs) || i >= p.row_count) {
        return;
    }
    float sum = product[(u64)r * p.row_count + i];
    if (p.flags & RESIDUAL) {
        sum += residual[b_row(p, r) + p.row_first + i];
    }
    y[y_row(p, r) + p.row_first + i] = sum;
}
