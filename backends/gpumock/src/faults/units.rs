//! Mistakes in kernels on matrix units whose matrices lie in registers: what a lane of one maker's
//! holds is not what a lane of another's does.

use super::{Fault, fault};

/// Devices whose units have a layout of their own, each at the one width of its waves.
const MMA: &[&str] = &["sm_90a"];
const MFMA: &[&str] = &["gfx942"];
const RDNA3: &[&str] = &["gfx1100"];
const RDNA4: &[&str] = &["gfx1201"];
/// The one whose codes have another bias, no minus zero and one NaN.
const FNUZ: &[&str] = &["gfx942"];

pub(super) const FAULTS: &[Fault] = &[
    fault(
        "least_part_of_values_left_out",
        "matrix",
        "if (part + other < X_PARTS) {",
        "if (part + other + 1 < X_PARTS) {",
        "op.linear",
        "rows",
    ),
    fault(
        "first_scale_of_a_row_for_all",
        "matrix",
        "whole ? w.scale(depth) : 0.0f",
        "whole ? w.scale(0) : 0.0f",
        "op.linear",
        "rows",
    ),
    fault(
        "barrier_before_the_units_removed",
        "matrix",
        "        barrier();
        // On their way",
        "        // On their way",
        "op.linear",
        "rows",
    ),
    fault(
        "tile_brought_twice",
        "matrix",
        "depth + DEPTH, w, v);",
        "depth, w, v);",
        "op.linear",
        "rows",
    ),
    fault(
        "last_lines_taken_for_empty",
        "matrix",
        "if (line * 16 >= count) {",
        "if (line * 16 + 16 >= count) {",
        "op.linear",
        "rows",
    ),
    fault(
        "barrier_before_the_units_of_codes_removed",
        "matrix8",
        "        barrier();
        // On their way",
        "        // On their way",
        "op.linear",
        "rows",
    ),
    fault(
        "tile_of_codes_brought_twice",
        "matrix8",
        "depth + DEPTH, w, v);",
        "depth, w, v);",
        "op.linear",
        "rows",
    ),
    fault(
        "last_lines_of_codes_taken_for_empty",
        "matrix8",
        "if (line * 16 >= count) {",
        "if (line * 16 + 16 >= count) {",
        "op.linear",
        "rows",
    ),
    fault(
        "scale_of_a_coded_row_forgotten",
        "matrix8",
        "row_scales[(line + m) * 16 + U::row(i)] * scale",
        "U::FACTOR * scale",
        "op.linear",
        "rows",
    ),
    fault(
        "earlier_maximum_forgotten_on_units",
        "attend_units",
        "mean[chunk][n][i] *= keep;",
        "mean[chunk][n][i] *= 1.0f;",
        "op.attend_latent",
        "mixed latents",
    ),
    fault(
        "no_number_reaches_who_does_not_see_it",
        "attend_units",
        "!= 0x7f800000u ? value : 0.0f",
        "!= 0x7f800000u ? value : value",
        "op.attend_latent",
        "mixed latents",
    ),
    fault(
        "barrier_before_values_take_the_place_of_scores_removed",
        "attend_units",
        "            barrier();
            const u32 latent",
        "            const u32 latent",
        "op.attend_latent",
        // At once, or the second time: that is the schedule's.
        "attend_latent",
    ),
    fault(
        "part_of_others_weighed",
        "attend_units",
        "score[i] = is_in ? exp_(score[i] - largest) : 0.0f;",
        "score[i] = exp_(score[i] - largest);",
        "op.attend_part",
        "parts",
    ),
    fault(
        "sums_of_columns_apart",
        "matrix",
        "i / 4 * 8 + lane() % 4 * 2 + i % 2",
        "i / 4 * 8 + lane() % 4 + i % 2 * 4",
        "op.linear",
        "rows",
    )
    .on(MMA),
    fault(
        "halves_of_the_depth_and_of_columns_swapped",
        "matrix8",
        "lane() / 4 + i / 2 * 8, lane() % 4 * 4 + i % 2 * 16",
        "lane() / 4 + i % 2 * 8, lane() % 4 * 4 + i / 2 * 16",
        "op.linear",
        "rows",
    )
    .on(MMA),
    fault(
        "sums_of_rows_apart",
        "matrix",
        "lane() / 16 * 4 + i;",
        "lane() / 16 + 4 * i;",
        "op.linear",
        "rows",
    )
    .on(MFMA),
    fault(
        "neighbours_along_the_depth_in_neighbouring_lanes",
        "matrix",
        "lane() % 16, lane() / 16 * 4 + 2 * i",
        "lane() / 4, lane() % 4 * 4 + 2 * i",
        "op.linear",
        "rows",
    )
    .on(MFMA),
    fault(
        "sums_of_codes_of_rows_apart",
        "matrix8",
        "lane() / 16 * 4 + i;",
        "lane() / 16 + 4 * i;",
        "op.linear",
        "rows",
    )
    .on(MFMA),
    fault(
        "minus_zero_kept",
        "matrix8",
        "(word & 0x80808080u & there)",
        "(word & 0x80808080u)",
        "op.linear",
        "rows",
    )
    .on(FNUZ),
    fault(
        "nan_code_decoded_as_240",
        "matrix8",
        ") & ~whole) | nan;",
        "));",
        "op.linear",
        "rows",
    )
    .on(FNUZ),
    fault(
        "doubled_scales_forgotten",
        "matrix8",
        "IS_FNUZ ? 4.0f : 1.0f",
        "1.0f",
        "op.linear",
        "rows",
    )
    .on(FNUZ),
    fault(
        "sums_as_in_rdna4",
        "matrix",
        "2 * i + lane() / 16;",
        "lane() / 16 * 8 + i;",
        "op.linear",
        "rows",
    )
    .on(RDNA3),
    fault(
        "halves_of_the_wave_with_halves_of_the_depth",
        "matrix",
        "lane() % 16, 2 * i)",
        "lane() % 16, (2 * i + lane() / 16 * 8) % 16)",
        "op.linear",
        "gpu_linear_wmma_f32: waiting: the device rocm:0 was lost",
    )
    .on(RDNA3),
    fault(
        "sums_as_in_rdna3",
        "matrix",
        "lane() / 16 * 8 + i;",
        "2 * i + lane() / 16;",
        "op.linear",
        "rows",
    )
    .on(RDNA4),
    fault(
        "sums_of_codes_as_in_rdna3",
        "matrix8",
        "return lane() / 16 * 8 + i;",
        "return 2 * i + lane() / 16;",
        "op.linear",
        "rows",
    )
    .on(RDNA4),
];
