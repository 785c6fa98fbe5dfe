//! Which problems the WGSL kernels can do: each function says what is missing, or `None`.
//!
//! Knows only the problem; what the device must have is the row's `needs`, and the limits
//! assumed here are those that every device has.

use hadal_device::{DType, OpKind, Problem, flags};

use crate::wgsl_launch::{BLOCK_ROWS, MAX_WORKGROUP, TILE_ROWS};

/// The smallest limits on a grid axis and on workgroup memory that any device has.
const MIN_GRID: u32 = 65_535;
const MIN_SHARED_BYTES: u32 = 16 * 1024;

pub fn unless(holds: bool, why: &'static str) -> Option<&'static str> {
    (!holds).then_some(why)
}

pub fn weight_is(problem: &Problem, dtype: DType) -> Option<&'static str> {
    unless(problem.weight == dtype, crate::OTHER_FORMAT)
}

pub fn fits_always(_: &Problem) -> Option<&'static str> {
    None
}

pub fn rows_fit(problem: &Problem) -> Option<&'static str> {
    unless(problem.params.rows <= MIN_GRID, "takes at most 65535 rows")
}

pub fn blocks_fit(problem: &Problem) -> Option<&'static str> {
    unless(
        problem.params.rows <= MIN_GRID * 4,
        "takes at most 262140 rows",
    )
}

/// Enough rows that a block of them is not mostly empty.
pub fn many_rows(problem: &Problem) -> Option<&'static str> {
    unless(problem.params.rows > BLOCK_ROWS, "needs more than 4 rows")
}

/// Enough rows for the tiles of 64 rows and outputs, whose invocations skip what is not
/// there by 16 rows; activations in quads.
pub fn tile_fits(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let starts = [p.x_offset, p.x_stride];
    unless(p.rows >= TILE_ROWS / 4, "needs 16 rows or more").or_else(|| {
        unless(
            starts.iter().all(|s| s.is_multiple_of(4)),
            "needs activations aligned to four values",
        )
    })
}

/// As [`tile_fits`], with rows for an expert of average popularity to fill a quarter of what
/// a tile computes at least.
pub fn grouped_tile_fits(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    unless(p.rows >= 4 * p.experts, "needs four rows an expert").or_else(|| tile_fits(problem))
}

/// Weight rows are a multiple of sixteen bytes, rows of `x` begin at multiples of four
/// values.
pub fn is_wide(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let row_bytes = problem.weight.row_bytes(p.k.into());
    let starts = [p.x_offset, p.x_stride, p.x_head_stride];
    let aligned = row_bytes.is_multiple_of(16) && starts.iter().all(|s| s.is_multiple_of(4));
    unless(
        aligned,
        "needs weight rows of a multiple of 16 bytes and aligned activations",
    )
}

/// Weights in a block format of GGUF.
pub fn is_blocks(problem: &Problem) -> Option<&'static str> {
    unless(problem.weight.is_blocks(), crate::OTHER_FORMAT)
}

/// Weight rows long enough to give each lane of a subgroup sixteen bytes or nearly so.
pub fn is_long(problem: &Problem) -> Option<&'static str> {
    let row_bytes = problem.weight.row_bytes(problem.params.k.into());
    unless(row_bytes >= 256, "needs weight rows of 256 bytes or more")
}

/// Weight rows are a multiple of four codes long.
pub fn packs(problem: &Problem) -> Option<&'static str> {
    let transposed =
        problem.op == OpKind::HeadLinear && problem.params.flags & flags::TRANSPOSED != 0;
    let width = if transposed {
        problem.params.n
    } else {
        problem.params.k
    };
    unless(
        width % 4 == 0,
        "needs weight rows of a multiple of four values",
    )
}

pub fn linear_fits(problem: &Problem) -> Option<&'static str> {
    unless(
        problem.params.flags & flags::RESIDUAL == 0,
        "adds no residual",
    )
    .or_else(|| blocks_fit(problem))
}

pub fn linear_residual_fits(problem: &Problem) -> Option<&'static str> {
    unless(
        problem.params.flags & flags::RESIDUAL != 0,
        "needs a residual",
    )
    .or_else(|| blocks_fit(problem))
}

pub fn norm_f32_fits(problem: &Problem) -> Option<&'static str> {
    unless(
        problem.params.flags & flags::NORM_BF16 == 0,
        "reads the norm's weights in f32",
    )
    .or_else(|| blocks_fit(problem))
}

pub fn norm_bf16_fits(problem: &Problem) -> Option<&'static str> {
    unless(
        problem.params.flags & flags::NORM_BF16 != 0,
        "reads the norm's weights in bf16",
    )
    .or_else(|| blocks_fit(problem))
}

pub fn head_linear_fits(problem: &Problem) -> Option<&'static str> {
    unless(
        problem.params.flags & flags::TRANSPOSED == 0,
        "does not transpose",
    )
    .or_else(|| blocks_fit(problem))
}

pub fn head_transposed_fits(problem: &Problem) -> Option<&'static str> {
    unless(
        problem.params.flags & flags::TRANSPOSED != 0,
        "only transposes",
    )
    .or_else(|| blocks_fit(problem))
}

pub fn attend_fits(problem: &Problem) -> Option<&'static str> {
    let words = 2 * problem.params.latent + problem.params.rope + 3 * MAX_WORKGROUP;
    unless(
        4 * words <= MIN_SHARED_BYTES,
        "needs a latent that fits workgroup memory twice",
    )
    .or_else(|| rows_fit(problem))
}

/// All widths and strides of latent attention are multiples of four values.
pub fn attends_quads(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let [x, y] = [
        [p.x_offset, p.x_stride, p.x_head_stride],
        [p.y_offset, p.y_stride, p.y_head_stride],
    ];
    let mut all = x.into_iter().chain(y).chain([p.latent, p.rope]);
    unless(
        all.all(|size| size.is_multiple_of(4)),
        "needs widths and strides of a multiple of four",
    )
}

/// Latents whose columns are held in registers, two quads an invocation.
pub fn attend_tile_fits(problem: &Problem) -> Option<&'static str> {
    unless(
        (4..=512).contains(&problem.params.latent),
        "takes latents of 4 to 512 values",
    )
    .or_else(|| attends_quads(problem))
}

/// The parts of split attention: at least two of them, and rows few.
pub fn attend_part_fits(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    unless(p.n >= 2 && p.k > 0, "needs at least two parts")
        .or_else(|| unless(p.row_count <= MIN_GRID, "takes at most 65535 parts"))
        .or_else(|| attend_tile_fits(problem))
}

pub fn attend_merge_fits(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    unless(
        p.k > 0 && (1..=MIN_SHARED_BYTES / 4).contains(&p.n),
        "takes 1 to 4096 parts",
    )
    .or_else(|| rows_fit(problem))
}

pub fn attend_block_fits(problem: &Problem) -> Option<&'static str> {
    let width = problem.params.latent + problem.params.rope;
    // Four queries; for each invocation four probabilities for each head, four positions,
    // one cell for reductions.
    let bytes = 16 * width + MAX_WORKGROUP * (4 * 16 + 4 * 4 + 16);
    unless(
        bytes <= MIN_SHARED_BYTES,
        "needs four queries in workgroup memory",
    )
    .or_else(|| attends_quads(problem))
    .or_else(|| rows_fit(problem))
}

pub fn experts_fit(problem: &Problem) -> Option<&'static str> {
    unless(
        (1..=1024).contains(&problem.params.experts),
        "takes 1 to 1024 experts",
    )
}

pub fn route_fits(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let groups = p.groups.max(1);
    experts_fit(problem)
        .or_else(|| unless(p.experts.is_multiple_of(groups), "needs groups of one size"))
        .or_else(|| {
            unless(
                (1..=64).contains(&p.top_k) && p.top_k <= p.experts,
                "takes 1 to 64 experts a token",
            )
        })
}
