//! Which problems the C++ kernels can do beyond what `wgsl_fit` knows, and their grids.
//!
//! Threads a block and outputs a wave are those of the sources in `shaders/gpu`; a test
//! compares them.

use hadal_device::{DType, DeviceInfo, Launch, Problem, flags};

use crate::wgsl_fit::*;
use crate::wgsl_launch::spread;

/// Threads of blocks whose waves have outputs of their own (`DOT_THREADS`).
const DOT_THREADS: u32 = 128;

/// Threads of all other blocks.
pub const THREADS: u32 = 256;

/// Rows and outputs of a tile (`SIDE`).
const SIDE: u32 = 64;

/// Rows that share a reading of the weights (`ROWS`, `GROUPED_ROWS`).
const ROWS: u32 = 4;

/// Queries of a block of the tiled attention (`QUERIES`).
const QUERIES: u32 = 16;

/// Widths that the attention kernels have shared memory for (`MOST_WIDTH`, `MOST_LATENT`,
/// `MOST_WIDTH_OF_ONE`).
const MOST_WIDTH: u32 = 576;
const MOST_LATENT: u32 = 512;
const MOST_WIDTH_OF_ONE: u32 = 2048;

/// Whether tiles of rows pay and weights can be read four codes at a time.
pub fn tiles(problem: &Problem) -> Option<&'static str> {
    tile_fits(problem)
        .or_else(|| packs(problem))
        .or_else(|| blocks_fit(problem))
}

/// [`tiles`] whose outputs lie in one block of scales.
pub fn matrices(problem: &Problem) -> Option<&'static str> {
    let whole = problem.params.row_first.is_multiple_of(128);
    unless(whole, "needs shards of whole blocks").or_else(|| tiles(problem))
}

/// Rows of codes, and weights of the same, read sixteen at a time.
pub fn codes(problem: &Problem) -> Option<&'static str> {
    let coded = problem.params.flags & flags::CODED != 0;
    unless(coded, "takes activations as codes")
        .or_else(|| weight_is(problem, DType::F8E4M3))
        .or_else(|| {
            unless(
                problem.params.k.is_multiple_of(16),
                "needs rows of whole 16 bytes",
            )
        })
        .or_else(|| matrices(problem))
}

pub fn grouped_codes(problem: &Problem) -> Option<&'static str> {
    grouped_tile_fits(problem).or_else(|| codes(problem))
}

pub fn grouped_tiles(problem: &Problem) -> Option<&'static str> {
    grouped_tile_fits(problem).or_else(|| packs(problem))
}

/// A single row, and weights read sixteen bytes at a time.
pub fn one_row(problem: &Problem) -> Option<&'static str> {
    one(problem).or_else(|| is_wide(problem))
}

/// A single row.
pub fn one(problem: &Problem) -> Option<&'static str> {
    unless(problem.params.rows <= 1, "takes one row")
}

pub fn tile_holds(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let holds = p.latent <= MOST_LATENT && p.latent.saturating_add(p.rope) <= MOST_WIDTH;
    unless(
        holds,
        "takes latents of at most 512 values and 576 with the rotated ones",
    )
    .or_else(|| rows_fit(problem))
}

pub fn one_holds(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let holds = p.latent.saturating_add(p.rope) <= MOST_WIDTH_OF_ONE;
    unless(holds, "takes cache rows of at most 2048 values").or_else(|| rows_fit(problem))
}

pub fn launch(groups: [u32; 3], threads: u32) -> Launch {
    Launch {
        groups: groups.map(|count| count.max(1)),
        constants: vec![("THREADS", threads)],
    }
}

/// A thread a value of each row.
pub fn values(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    launch([p.n.div_ceil(THREADS), p.rows, 1], THREADS)
}

pub fn each_row(problem: &Problem) -> Launch {
    launch([problem.params.rows, 1, 1], THREADS)
}

pub fn heads_and_rows(problem: &Problem, threads: u32) -> Launch {
    launch([problem.params.heads, problem.params.rows, 1], threads)
}

/// Blocks for `outputs` of which each wave has `each`.
pub fn dot_blocks(outputs: u32, each: u32, z: u32, info: &DeviceInfo) -> Launch {
    let waves = DOT_THREADS / info.limits.subgroup.1.clamp(1, DOT_THREADS);
    let [x, y] = spread(outputs.div_ceil(each * waves), info);
    launch([x, y, z], DOT_THREADS)
}

/// Rows of a block, by the rows there are: kernels for one row are chosen for one only.
pub fn row_blocks(rows: u32) -> u32 {
    rows.div_ceil(if rows <= 1 { 1 } else { ROWS })
}

/// A wave has two outputs.
pub fn launch_linear(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    dot_blocks(p.row_count, 2, row_blocks(p.rows), info)
}

/// A wave has one output.
pub fn launch_single(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    dot_blocks(p.row_count, 1, row_blocks(p.rows), info)
}

pub fn launch_grouped(problem: &Problem, info: &DeviceInfo) -> Launch {
    dot_blocks(problem.params.n, 2, problem.params.expert_count, info)
}

pub fn launch_grouped_gate_up(problem: &Problem, info: &DeviceInfo) -> Launch {
    dot_blocks(problem.params.n, 1, problem.params.expert_count, info)
}

pub fn launch_expert(problem: &Problem, info: &DeviceInfo) -> Launch {
    dot_blocks(problem.params.n, 2, problem.params.rows, info)
}

pub fn launch_expert_gate_up(problem: &Problem, info: &DeviceInfo) -> Launch {
    dot_blocks(problem.params.n, 1, problem.params.rows, info)
}

pub fn launch_heads(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let waves = DOT_THREADS / info.limits.subgroup.1.clamp(1, DOT_THREADS);
    let groups = [p.n.div_ceil(2 * waves), p.heads, p.rows.div_ceil(ROWS)];
    launch(groups, DOT_THREADS)
}

/// A wave has one output.
pub fn launch_block_heads(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let waves = DOT_THREADS / info.limits.subgroup.1.clamp(1, DOT_THREADS);
    let groups = [p.n.div_ceil(waves), p.heads, p.rows.div_ceil(ROWS)];
    launch(groups, DOT_THREADS)
}

/// A thread has sixteen columns of a row and head.
pub fn launch_block_transposed(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    launch(
        [(p.n / 16).div_ceil(DOT_THREADS), p.heads, p.rows],
        DOT_THREADS,
    )
}

/// A thread has sixteen values of a row.
pub fn launch_sixteens(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    launch([(p.n / 16).div_ceil(DOT_THREADS), p.rows, 1], DOT_THREADS)
}

pub fn launch_transposed(problem: &Problem, columns: u32) -> Launch {
    let p = &problem.params;
    let groups = [p.n.div_ceil(64 * columns), p.heads, p.rows.div_ceil(ROWS)];
    launch(groups, THREADS)
}

pub fn launch_tile(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let [x, y] = spread(p.row_count.div_ceil(SIDE), info);
    launch([x, y, p.rows.div_ceil(SIDE)], THREADS)
}

pub fn launch_grouped_tile(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let [x, y] = spread(p.n.div_ceil(SIDE), info);
    launch([x, y, p.expert_count], THREADS)
}

pub fn launch_attend_tile(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let heads = p.heads.max(1).next_power_of_two().min(QUERIES);
    let groups = [p.heads.div_ceil(heads), p.rows.div_ceil(QUERIES / heads), 1];
    launch(groups, THREADS)
}

pub fn launch_attend_part(problem: &Problem, info: &DeviceInfo) -> Launch {
    let mut made = launch_attend_tile(problem, info);
    made.groups[2] = problem.params.row_count.max(1);
    made
}
