// The linear family on matrix units: y[r][row_first + i] = dot(x[r], W[i]), with RESIDUAL plus
// the residual, with SECOND silu(dot(x[r], W[i])) * dot(x[r], V[i]). GROUPED: W and V are the
// entries of expert tables, given as addresses; rows of entry e are offsets[e] .. offsets[e + 1].
//
// A workgroup computes ROWS x COLUMNS outputs, its first ROW_PARTS * COLUMN_PARTS subgroups a
// part each. Grid: x and y over outputs; z over blocks of rows, GROUPED over experts, whose
// rows are walked over.
//
// CODED: rows of x are E4M3 codes and scales, weights E4M3. BYTES: weights are Q8_0. BF16_UNITS,
// E4M3_UNITS, BYTES: the units multiply bf16, E4M3 or integers of eight bits and not f16.
//
// Nothing measurable is lost, though the units multiply f16. Activations are two f16 each,
// x = hi + lo, which is 22 bits; so are F32 weights (lo * lo is left out). E4M3 and F16 weights
// are f16 as they are, and BF16 ones after a power of two is taken out. Activations, BF16 and
// F32 weights are multiplied by the power of two that brings the largest of a tile's rows by 128
// inputs below 2^15: nothing overflows, and what lies 2^18 below the largest still has its 22 bits.
// (Rows of activations that differ by more lose bits: 2^29 below its neighbour a row is 0.)
// Activations are three bf16, and nothing is lost; codes are multiplied as they are. Sums are f32; a block of 128 inputs is summed by itself and multiplied by its scale in f32.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#ifdef BYTES
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#endif
#ifdef BF16_UNITS
#extension GL_EXT_bfloat16 : require
#endif
#ifdef E4M3_UNITS
#extension GL_EXT_float_e4m3 : require
#endif
#extension GL_EXT_control_flow_attributes : require

#include "shared/params.glsl"
#include "shared/decode.glsl"

layout(set = 0, binding = 2, std430) readonly buffer X {
#ifdef CODED
    uint x[];
#else
    vec4 x[];
#endif
};
#ifdef GROUPED
layout(set = 0, binding = 3, std430) readonly buffer Offsets {
    uint offsets[];
};
#define TABLES 4
#include "shared/table.glsl"
#else
#include "shared/weights.glsl"
#endif
#ifdef RESIDUAL
layout(set = 0, binding = AFTER_WEIGHTS, std430) readonly buffer Residual {
    float residual[];
};
#define Y (AFTER_WEIGHTS + 1)
#else
#define Y AFTER_WEIGHTS
#endif
layout(set = 0, binding = Y, std430) buffer Outputs {
    float y[];
};

#include "shared/tiles.glsl"

// Sums of a block, and of all blocks.
Products part[WEIGHTS * SUMS * KEPT];
Sums total[WEIGHTS * SUMS];

// Adds the products of the loaded inputs.
void multiply(uint row_at, uint column_at) {
    for (uint at = 0u; at < STEP; at += K) {
        Left left[X_PARTS * ROW_TILES];
        [[unroll]] for (uint t = 0u; t < X_PARTS * ROW_TILES; t += 1u) {
            uint row = row_at + t / X_PARTS * M + t % X_PARTS * ROWS;
            coopMatLoad(left[t], x_tile, (row * STRIDE + at) / 4u, STRIDE / 4u,
                gl_CooperativeMatrixLayoutRowMajor);
        }
        [[unroll]] for (uint c = 0u; c < WEIGHTS * COLUMN_TILES; c += 1u) {
            uint column = c / COLUMN_TILES * COLUMNS + column_at + c % COLUMN_TILES * N;
            Right right;
            coopMatLoad(right, w_tile, (column * STRIDE + at) / 4u, STRIDE / 4u,
                gl_CooperativeMatrixLayoutColumnMajor);
            [[unroll]] for (uint t = 0u; t < X_PARTS * ROW_TILES; t += 1u) {
                uint i = (c * ROW_TILES + t / X_PARTS) * KEPT + t % KEPT;
                part[i] = coopMatMulAdd(left[t], right, part[i]);
            }
            if (W_PARTS == 2u) {
                column += WEIGHTS * COLUMNS;
                coopMatLoad(right, w_tile, (column * STRIDE + at) / 4u, STRIDE / 4u,
                    gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint t = 0u; t < ROW_TILES; t += 1u) {
                    uint i = c * ROW_TILES + t;
                    part[i] = coopMatMulAdd(left[X_PARTS * t], right, part[i]);
                }
            }
        }
    }
}

// Writes the tile of sums `i`, whose first output is (row, column) of the rows before `end`, if
// the subgroup is busy. Called by all subgroups: lavapipe takes a subgroup's barrier for one of
// the workgroup, and ends all of it when the first subgroup ends.
void write(bool busy, uint i, uint row, uint end, uint column, uint outputs) {
    Sums sums = total[i];
#ifdef SECOND
    for (uint e = 0u; e < sums.length(); e += 1u) {
        sums[e] = silu(sums[e]) * total[SUMS + i][e];
    }
#endif
    uint stage_at = gl_SubgroupID * M * N;
    if (busy) {
        coopMatStore(sums, stage, stage_at, N, gl_CooperativeMatrixLayoutRowMajor);
    }
    subgroupBarrier();
    for (uint e = gl_SubgroupInvocationID; busy && e < M * N; e += gl_SubgroupSize) {
        uint r = row + e / N;
        uint o = column + e % N;
        if (r < end && o < outputs) {
            float value = stage[stage_at + e];
            uint at = OUTPUT_FIRST + o;
#ifdef RESIDUAL
            value += residual[p.b_offset + r * p.b_stride + at];
#endif
            y[p.y_offset + r * p.y_stride + at] = value;
        }
    }
    subgroupBarrier();
}

// The outputs from `first` on of the rows from `row` on; `end` is the first row that is not
// there. `e` is the expert's place in the table. Called by all invocations.
void compute(uint first, uint outputs, uint row, uint end, uint e) {
    bool busy = gl_SubgroupID < ROW_PARTS * COLUMN_PARTS;
    uint row_at = gl_SubgroupID / COLUMN_PARTS * ROW_TILES * M;
    uint column_at = gl_SubgroupID % COLUMN_PARTS * COLUMN_TILES * N;
    [[unroll]] for (uint i = 0u; i < WEIGHTS * SUMS; i += 1u) {
        total[i] = Sums(0.0);
    }
    for (uint block = 0u; block < p.k; block += BLOCK) {
        begin_block(first, outputs, row, end, e, block);
        [[unroll]] for (uint i = 0u; i < WEIGHTS * SUMS * KEPT; i += 1u) {
            part[i] = Products(0);
        }
        for (uint at = block; at < min(block + BLOCK, p.k); at += STEP) {
            load_x(row, end, at);
            for (uint which = 0u; which < WEIGHTS; which += 1u) {
                load_w(which, first, outputs, e, at);
            }
            barrier();
            if (busy) {
                multiply(row_at, column_at);
            }
            barrier();
        }
        [[unroll]] for (uint i = 0u; i < WEIGHTS * SUMS; i += 1u) {
            uint which = i / SUMS;
            // Each invocation asks for an output of its own, though all get the same scale:
            // lavapipe reads through an address that is the same for all even where none is
            // active, and the address is then 0.
            uint output_of_mine = first + gl_SubgroupInvocationID % COLUMNS;
            Sums sums = Sums(part[i * KEPT]);
            [[unroll]] for (uint digit = 1u; digit < KEPT; digit += 1u) {
                sums = sums * RADIX + Sums(part[i * KEPT + digit]);
            }
            total[i] += unscaled(sums, which, e, output_of_mine, block,
                row_at + i % ROW_TILES * M, column_at + i % SUMS / ROW_TILES * N);
        }
    }
    [[unroll]] for (uint i = 0u; i < SUMS; i += 1u) {
        uint r = row + row_at + i % ROW_TILES * M;
        write(busy, i, r, end, first + column_at + i / ROW_TILES * N, outputs);
    }
}

void main() {
    uint first = (gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x) * COLUMNS;
    uint block = gl_WorkGroupID.z;
#ifdef GROUPED
    if (first < p.n) {
        uint e = p.expert_first + block;
        // No value of `offsets` leads outside the rows there are.
        uint end = min(offsets[e + 1u], p.rows);
        for (uint row = offsets[e]; row < end; row += ROWS) {
            compute(first, p.n, row, end, block);
        }
    }
#else
    uint end = real_rows();
    if (first < p.row_count && block * ROWS < end) {
        compute(first, p.row_count, block * ROWS, end, 0u);
    }
#endif
}
