//! Which problems the C++ kernels can do beyond what `wgsl_fit` knows, and their grids.
//!
//! Threads a block and outputs a wave are those of the sources in `shaders/gpu`; a test
//! compares them.

use hadal_device::{DType, DeviceInfo, Launch, OpKind, Problem, flags};

use crate::wgsl_fit::*;
use crate::wgsl_launch::spread;

/// Threads of blocks whose waves have outputs of their own (`DOT_THREADS`).
pub const DOT_THREADS: u32 = 128;

/// Threads of all other blocks.
pub const THREADS: u32 = 256;

/// Rows and outputs of a tile (`SIDE`).
const SIDE: u32 = 64;

/// Rows and outputs of a tile on Hopper's units (`ring.h`: `ROWS`, `OUTPUTS`), and threads of a
/// block.
const HOPPER_SIDE: u32 = 128;
const HOPPER_THREADS: u32 = 384;

/// Memory of a ring: what aligning takes, tiles of 128 lines of 128 bytes, two barriers each.
const fn ring_bytes(stages: u32, tiles: u32) -> u32 {
    1024 + stages * (tiles * 128 * 128 + 16)
}

/// The rings of `hopper8.cu` and `hopper.cu`.
const CODES_RING: u32 = ring_bytes(4, 3);
const SPLIT_RING: u32 = ring_bytes(3, 4);

/// Memory of `hopper_attend.cu`: what aligning takes, tiles of nine panels (the queries and two
/// stages), a panel of weights, two barriers a stage.
const ATTENTION_RING: u32 = 1024 + 3 * 9 * 64 * 128 + 64 * 128 + 2 * 16;

/// Rows that share a reading of the weights (`ROWS`, `GROUPED_ROWS`).
const ROWS: u32 = 4;

/// Queries of a block of the tiled attention (`QUERIES` of `attend.cu`, `attend_units.cu`,
/// `hopper_attend.cu`).
const QUERIES: u32 = 16;
const UNIT_QUERIES: u32 = 64;

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

/// Blocks of 128 rows, of which half are there: codes lose a little in these units that they do not
/// lose in others, so that few rows are not worth it.
fn half_a_block(problem: &Problem) -> Option<&'static str> {
    unless(
        problem.params.rows >= HOPPER_SIDE / 2,
        "needs 64 rows or more",
    )
}

/// The same with a quarter for an expert of average popularity.
fn quarter_of_a_block(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    unless(
        p.rows / (HOPPER_SIDE / 4) >= p.experts,
        "needs 32 rows an expert",
    )
}

/// Few rows leave most of the units idle, but a ring has more of the weight on its way than other
/// kernels.
fn enough_rows(problem: &Problem) -> Option<&'static str> {
    unless(problem.params.rows >= 16, "needs 16 rows or more")
}

/// The same for an expert of average popularity.
fn enough_for_experts(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    unless(p.rows / 8 >= p.experts, "needs 8 rows an expert")
}

/// Lines of a weight are copied sixteen bytes at a time.
fn split(problem: &Problem) -> Option<&'static str> {
    weight_is(problem, DType::Bf16).or_else(|| {
        unless(
            problem.params.k.is_multiple_of(8),
            "needs rows of whole 16 bytes",
        )
    })
}

pub fn hopper_codes(problem: &Problem) -> Option<&'static str> {
    half_a_block(problem).or_else(|| codes(problem))
}

/// Shapes that cuBLASLt takes: its lists of scales have lines of four, and dimensions of codes
/// are whole 16 bytes.
pub fn native_codes(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let whole = p.k.is_multiple_of(512)
        && p.row_count.is_multiple_of(16)
        && p.rows.is_multiple_of(16)
        && p.x_stride.is_multiple_of(4)
        && p.x_offset.is_multiple_of(4);
    hopper_codes(problem).or_else(|| {
        unless(
            whole,
            "needs rows of 512 codes, and rows and outputs by sixteen",
        )
    })
}

/// Shapes of BF16 that libraries take, with whole 16 bytes.
fn native_values(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let whole = p.k.is_multiple_of(8) && p.row_count.is_multiple_of(8);
    unless(whole, "needs rows and outputs of whole 16 bytes")
}

pub fn native_split(problem: &Problem) -> Option<&'static str> {
    hopper_split(problem).or_else(|| native_values(problem))
}

pub fn native_tiles(problem: &Problem) -> Option<&'static str> {
    weight_is(problem, DType::Bf16)
        .or_else(|| matrices(problem))
        .or_else(|| native_values(problem))
}

pub fn grouped_hopper_codes(problem: &Problem) -> Option<&'static str> {
    quarter_of_a_block(problem).or_else(|| grouped_codes(problem))
}

pub fn hopper_split(problem: &Problem) -> Option<&'static str> {
    enough_rows(problem)
        .or_else(|| split(problem))
        .or_else(|| matrices(problem))
}

pub fn grouped_hopper_split(problem: &Problem) -> Option<&'static str> {
    enough_for_experts(problem)
        .or_else(|| split(problem))
        .or_else(|| grouped_tiles(problem))
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

/// [`tile_holds`], and a block's queries are there; means are of 32 columns (`COLUMNS`).
pub fn attends_on_units(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let heads = p.heads.max(1).next_power_of_two().min(UNIT_QUERIES);
    let whole = u64::from(heads) * u64::from(p.rows) >= UNIT_QUERIES.into();
    unless(whole, "needs 64 queries")
        .or_else(|| {
            unless(
                p.latent.is_multiple_of(32),
                "needs latents of a multiple of 32",
            )
        })
        .or_else(|| tile_holds(problem))
}

/// [`attends_on_units`], and what it multiplies may be rounded.
pub fn attends_rounded(problem: &Problem) -> Option<&'static str> {
    let may_round = problem.params.flags & flags::ROUGH != 0;
    unless(may_round, "rounds activations")
        .or_else(|| attends_quads(problem))
        .or_else(|| attends_on_units(problem))
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

/// The same with four for several rows.
pub fn launch_four(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    dot_blocks(p.row_count, 4, p.rows.div_ceil(ROWS), info)
}

/// Two of the four are of each weight.
pub fn launch_two_pairs(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    dot_blocks(p.row_count, 2, p.rows.div_ceil(ROWS), info)
}

/// A wave has one output.
pub fn launch_single(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    dot_blocks(p.row_count, 1, row_blocks(p.rows), info)
}

/// A wave has one output of one row.
pub fn launch_each(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    dot_blocks(p.row_count, 1, p.rows, info)
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

/// A thread has `values` of a row of a head's.
pub fn launch_unpacking(problem: &Problem, values: u32, threads: u32) -> Launch {
    let p = &problem.params;
    let pieces = p.head_rows * (p.k / values);
    launch([pieces.div_ceil(threads), p.rows, 1], threads)
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

/// A ring for `codes` or for values. Two weights share a block's outputs. A block for each tile
/// that there may be, but no more than stay on the device.
fn launch_ring(problem: &Problem, info: &DeviceInfo, codes: bool) -> Launch {
    let p = &problem.params;
    let weights = match problem.op {
        OpKind::GateUp | OpKind::GroupedGateUp => 2,
        _ => 1,
    };
    let blocks = p.rows.div_ceil(HOPPER_SIDE);
    let (outputs, lines) = match problem.op {
        // Each expert's last rows are a tile of their own.
        OpKind::GroupedLinear | OpKind::GroupedGateUp => {
            (p.n, p.rows.min(blocks.saturating_add(p.expert_count)))
        }
        _ => (p.row_count, blocks),
    };
    let columns = outputs.div_ceil(HOPPER_SIDE / weights);
    let most = columns.saturating_mul(lines).min(info.limits.max_grid);
    let mut made = launch([most, 1, 1], HOPPER_THREADS);
    let bytes = if codes { CODES_RING } else { SPLIT_RING };
    made.constants.extend([("SHARED", bytes), ("STAYS", 1)]);
    made
}

pub fn launch_codes_ring(problem: &Problem, info: &DeviceInfo) -> Launch {
    launch_ring(problem, info, true)
}

pub fn launch_split_ring(problem: &Problem, info: &DeviceInfo) -> Launch {
    launch_ring(problem, info, false)
}

fn launch_attend_ring(problem: &Problem, parts: u32) -> Launch {
    let mut made = launch_attend(problem, UNIT_QUERIES, parts);
    made.constants = vec![("THREADS", HOPPER_THREADS), ("SHARED", ATTENTION_RING)];
    made
}

pub fn launch_attend_rounded(problem: &Problem, _: &DeviceInfo) -> Launch {
    launch_attend_ring(problem, 1)
}

pub fn launch_attend_rounded_part(problem: &Problem, _: &DeviceInfo) -> Launch {
    launch_attend_ring(problem, problem.params.row_count)
}

/// A block of the tiled attention has `queries`: heads, to a power of two, of as many rows.
fn launch_attend(problem: &Problem, queries: u32, parts: u32) -> Launch {
    let p = &problem.params;
    let heads = p.heads.max(1).next_power_of_two().min(queries);
    let groups = [p.heads.div_ceil(heads), p.rows.div_ceil(queries / heads)];
    launch([groups[0], groups[1], parts], THREADS)
}

pub fn launch_attend_tile(problem: &Problem, _: &DeviceInfo) -> Launch {
    launch_attend(problem, QUERIES, 1)
}

pub fn launch_attend_part(problem: &Problem, _: &DeviceInfo) -> Launch {
    launch_attend(problem, QUERIES, problem.params.row_count)
}

pub fn launch_attend_units(problem: &Problem, _: &DeviceInfo) -> Launch {
    launch_attend(problem, UNIT_QUERIES, 1)
}

pub fn launch_attend_units_part(problem: &Problem, _: &DeviceInfo) -> Launch {
    launch_attend(problem, UNIT_QUERIES, problem.params.row_count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::source;

    /// The memory that a block of compute capability 9.0 can have.
    const MOST: u32 = 227 << 10;

    /// A number of kernel file `file`.
    fn number(file: &str, name: &str) -> u32 {
        let text = source(file).expect("a file");
        let (_, rest) = text
            .split_once(&format!("{name} = "))
            .unwrap_or_else(|| panic!("{file} has no {name}"));
        let end = rest.find([',', ';']).expect("an end");
        rest[..end].parse().expect("a number")
    }

    #[test]
    fn rings_are_those_of_their_kernels_and_fit_into_a_block() {
        for (file, ring) in [("hopper8", CODES_RING), ("hopper", SPLIT_RING)] {
            let tiles = number(file, "ROW_TILES") + 1;
            assert_eq!(ring, ring_bytes(number(file, "STAGES"), tiles), "{file}");
            assert!(ring <= MOST, "{file}: {ring} bytes of {MOST}");
        }
        let of = |name| number("hopper_attend", name);
        let panel = 64 * of("LINE");
        let tile = of("MOST_WIDTH") / 64 * panel;
        let ring = 1024 + (1 + of("STAGES")) * tile + panel + of("STAGES") * 16;
        // Of each query two words, and of each position of a stage one.
        let own = 4 * (2 * of("UNIT_ROWS") + of("STAGES") * of("POSITIONS"));
        assert_eq!(ring, ATTENTION_RING);
        assert!(ring + own <= MOST, "{ring} and {own} bytes of {MOST}");
    }
}
