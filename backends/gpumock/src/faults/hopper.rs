//! Mistakes in kernels for Hopper, which have waves of 32 alone.

use super::{Fault, HOPPER, fault};

pub(super) const FAULTS: &[Fault] = &[
    fault(
        "wait_for_copies_removed",
        "hopper8",
        "            phase_wait(ring.full(), ring.parity);",
        "",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "fence_of_barriers_removed",
        "hopper8",
        "        fence_async();",
        "",
        "op.linear",
        "wgmma8: waiting: the device cuda:0 was lost",
    )
    .on(HOPPER),
    fault(
        "stage_taken_before_it_is_empty",
        "hopper8",
        "phase_wait(ring.empty(), ring.parity ^ 1);",
        "",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "stage_given_back_before_it_is_read",
        "hopper8",
        "        units_wait(part);",
        "        if (lane() == 0) { phase_arrive(ring.empty()); }
        units_wait(part);",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "stage_never_given_back",
        "hopper8",
        "            phase_arrive(empty());",
        "",
        "op.linear",
        "wgmma8: waiting: the device cuda:0 was lost",
    )
    .on(HOPPER),
    fault(
        "parity_of_the_ring_kept",
        "hopper8",
        "parity ^= 1;",
        "",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "sums_taken_before_the_units_end",
        "hopper8",
        "        units_wait(part);",
        "",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "swizzle_of_four_lines",
        "hopper",
        "quad ^ line % 8",
        "quad ^ line % 4",
        "op.linear",
        "wgmma_bf16: rows",
    )
    .on(HOPPER),
    fault(
        "atoms_of_half_a_line_described",
        "hopper8",
        "(u64)1 << 62",
        "(u64)2 << 62",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "scale_of_another_row",
        "hopper8",
        "[i % 4 / 2], sum[i]",
        "[0], sum[i]",
        "op.linear",
        "wgmma8: rows",
    )
    .on(HOPPER),
    fault(
        "scale_of_the_gate_for_both",
        "hopper8",
        "factor[i / (UNIT_SUMS / 2)]",
        "factor[0]",
        "op.gate_up",
        "wgmma8: rows",
    )
    .on(HOPPER),
    fault(
        "first_scale_of_an_expert_for_all",
        "hopper8",
        "scale * job.gate.scales[depth / BLOCK]",
        "scale * job.gate.scales[0]",
        "op.grouped_linear",
        "wgmma8: rows",
    )
    .on(HOPPER),
    fault(
        "fence_of_stores_removed",
        "hopper",
        "fence_async();\n        phase_arrive",
        "phase_arrive",
        "op.linear",
        "wgmma_bf16: waiting: the device cuda:0 was lost",
    )
    .on(HOPPER),
    fault(
        "bytes_of_a_box_not_expected",
        "hopper8",
        "(boxes + 2) * BOX",
        "3 * BOX",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "first_map_of_an_expert_for_all",
        "hopper8",
        "{product.w + expert, ",
        "{product.w, ",
        "op.grouped_linear",
        "wgmma8: rows",
    )
    .on(HOPPER),
    fault(
        "sums_of_earlier_stages_forgotten",
        "hopper",
        "sum[0][i] += stage[i];",
        "sum[0][i] = stage[i];",
        "op.linear",
        "wgmma_bf16: rows",
    )
    .on(HOPPER),
    fault(
        "sums_of_codes_begun_once",
        "hopper8",
        "units_multiply8(part, a + on, b + on, i > 0);",
        "units_multiply8(part, a + on, b + on, depth + i > 0);",
        "op.linear",
        "wgmma8: rows",
    )
    .on(HOPPER),
    fault(
        "stage_left_before_its_second_half_is_read",
        "hopper8",
        "half + 1 == HALVES || next >= job.end",
        "true",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "second_half_not_multiplied",
        "hopper8",
        "if (job.begin + line < job.end) {",
        "if (half == 0) {",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "tile_left_out",
        "hopper8",
        "next_tile += groups_x();",
        "next_tile += groups_x() + 1;",
        "op.linear",
        "wgmma8: rows",
    )
    .on(HOPPER),
    fault(
        "tiles_of_earlier_experts_not_counted",
        "hopper8",
        "before += lines * columns;",
        "before += lines;",
        "op.grouped_linear",
        "wgmma8: rows",
    )
    .on(HOPPER),
    fault(
        "last_band_as_high_as_the_others",
        "hopper8",
        "min_(a_band, lines - band * a_band)",
        "a_band",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "rows_behind_a_tile_written",
        "hopper8",
        "job.end = min_(end, job.begin + height);",
        "job.end = end;",
        "op.linear",
        "wgmma8",
    )
    .on(HOPPER),
    fault(
        "fence_of_queries_removed",
        "hopper_attend",
        "    fence_async();
    barrier();",
        "    barrier();",
        "op.attend_latent",
        "attend_latent_bf16: waiting: the device cuda:0 was lost",
    )
    .on(HOPPER),
    fault(
        "fence_of_positions_removed",
        "hopper_attend",
        "        fence_async();
        phase_arrive(memory.full",
        "        phase_arrive(memory.full",
        "op.attend_latent",
        "attend_latent_bf16: waiting: the device cuda:0 was lost",
    )
    .on(HOPPER),
    fault(
        "fence_of_weights_removed",
        "hopper_attend",
        "        fence_async();
        both_groups();",
        "        both_groups();",
        "op.attend_latent",
        "attend_latent_bf16: waiting: the device cuda:0 was lost",
    )
    .on(HOPPER),
    fault(
        "means_taken_before_all_weights_are_there",
        "hopper_attend",
        "        both_groups();
        mean_tile",
        "        mean_tile",
        "op.attend_latent",
        "attend_latent_bf16",
    )
    .on(HOPPER),
    fault(
        "largest_score_of_one_group",
        "hopper_attend",
        "largest[half] = max_(largest[half], exchange[other]);",
        "",
        "op.attend_latent",
        "attend_latent_bf16: mixed latents",
    )
    .on(HOPPER),
    fault(
        "means_of_earlier_tiles_kept_whole",
        "hopper_attend",
        "mean[i] *= running.keep[i % 4 / 2];",
        "",
        "op.attend_latent",
        "attend_latent_bf16: mixed latents",
    )
    .on(HOPPER),
    fault(
        "rows_that_are_no_numbers_not_marked",
        "hopper_attend",
        "spoiled[tiles.stage * POSITIONS + line] = is_spoiled;",
        "spoiled[tiles.stage * POSITIONS + line] = 0;",
        "op.attend_latent",
        "attend_latent_bf16: mixed latents",
    )
    .on(HOPPER),
    fault(
        "tile_given_back_before_it_is_read",
        "hopper_attend",
        "        const u32 tile = memory.tile(tiles.stage);",
        "        const u32 tile = memory.tile(tiles.stage);
        if (lane() == 0) { phase_arrive(memory.empty(tiles.stage)); }",
        "op.attend_part",
        "attend_part_bf16",
    )
    .on(HOPPER),
];
