//! WGSL rows, for wgpu and Vulkan: which file with which definitions does what. Which
//! problems a row fits is in `wgsl_fit`, how it is launched in `wgsl_launch`.

use hadal_device::{Body, DType, Features, KernelRow, OpKind, Problem, flags};

use crate::wgsl_blocks::launched;
use crate::wgsl_fit::*;
use crate::wgsl_launch::*;

/// One kernel. `$fits` sees the problem only after its flags and weight were checked.
macro_rules! row {
    ($op:ident $name:expr, $file:literal [$($define:literal)*], $fits:expr, $launch:expr) => {
        KernelRow {
            op: OpKind::$op,
            name: $name,
            needs: Features::WGSL,
            avoids: Features::NONE,
            takes_codes: false,
            fits: $fits,
            launch: $launch,
            body: Body::Wgsl { file: $file, defines: &[$($define),*] },
        }
    };
}

/// The row for devices with thousands of invocations at work; a processor in disguise has
/// nothing to hide its barriers behind.
fn for_gpus(row: KernelRow) -> KernelRow {
    KernelRow {
        avoids: Features::SOFTWARE,
        ..row
    }
}

/// A kernel for each weight format and each way of reading it, the widest first.
macro_rules! weighted {
    ($op:ident $name:literal, $file:literal $defines:tt, $fits:expr, $launch:expr) => {
        wide!($op $name, $file $defines, $fits, $launch)
        .into_iter()
        .chain(narrow!($op $name, $file $defines, $fits, $launch))
    };
    (wide $op:ident $name:literal $text:literal $dtype:ident $format:literal,
     $file:literal [$($define:literal)*], $fits:expr, $launch:expr) => {
        row!($op concat!("wgsl_", $name, "_", $text, "_wide"),
            $file ["WIDE" $format $($define)*],
            |problem| weight_is(problem, DType::$dtype)
                .or_else(|| is_wide(problem))
                .or_else(|| $fits(problem)),
            $launch)
    };
    (packed $op:ident $name:literal $text:literal $dtype:ident $format:literal,
     $file:literal [$($define:literal)*], $fits:expr, $launch:expr) => {
        row!($op concat!("wgsl_", $name, "_", $text, "_packed"),
            $file ["PACKED" $format $($define)*],
            |problem| weight_is(problem, DType::$dtype)
                .or_else(|| packs(problem))
                .or_else(|| $fits(problem)),
            $launch)
    };
    (single $op:ident $name:literal $text:literal $dtype:ident $format:literal,
     $file:literal [$($define:literal)*], $fits:expr, $launch:expr) => {
        row!($op concat!("wgsl_", $name, "_", $text), $file [$format $($define)*],
            |problem| weight_is(problem, DType::$dtype).or_else(|| $fits(problem)),
            $launch)
    };
}

/// The kernel that reads every block format, four values at a time.
macro_rules! blocks {
    ($op:ident $name:literal, $file:literal [$($define:literal)*], $fits:expr, $launch:expr) => {
        row!($op concat!("wgsl_", $name, "_blocks"), $file ["PACKED" "BLOCKS" $($define)*],
            |problem| is_blocks(problem).or_else(|| $fits(problem)),
            |problem, info| launched($launch, problem, info))
    };
}

/// The kernels of [`weighted`] that ask little of the shape: four codes at a time, then one.
macro_rules! narrow {
    ($op:ident $name:literal, $file:literal $defines:tt, $fits:expr, $launch:expr) => {
        [
            weighted!(packed $op $name "f32" F32 "F32", $file $defines, $fits, $launch),
            weighted!(packed $op $name "f16" F16 "F16", $file $defines, $fits, $launch),
            weighted!(packed $op $name "bf16" Bf16 "BF16", $file $defines, $fits, $launch),
            weighted!(packed $op $name "f8e4m3" F8E4M3 "FP8", $file $defines, $fits, $launch),
            weighted!(single $op $name "f32" F32 "F32", $file $defines, $fits, $launch),
            weighted!(single $op $name "f16" F16 "F16", $file $defines, $fits, $launch),
            weighted!(single $op $name "bf16" Bf16 "BF16", $file $defines, $fits, $launch),
            weighted!(single $op $name "f8e4m3" F8E4M3 "FP8", $file $defines, $fits, $launch),
            blocks!($op $name, $file $defines, $fits, $launch),
        ]
    };
}

/// The kernels of [`weighted`] for shapes that allow reading sixteen bytes at a time.
macro_rules! wide {
    ($op:ident $name:literal, $file:literal $defines:tt, $fits:expr, $launch:expr) => {
        [
            weighted!(wide $op $name "f32" F32 "F32", $file $defines, $fits, $launch),
            weighted!(wide $op $name "f16" F16 "F16", $file $defines, $fits, $launch),
            weighted!(wide $op $name "bf16" Bf16 "BF16", $file $defines, $fits, $launch),
            weighted!(wide $op $name "f8e4m3" F8E4M3 "FP8", $file $defines, $fits, $launch),
        ]
    };
}

/// The row for GPUs with subgroup operations.
fn for_subgroups(row: KernelRow) -> KernelRow {
    KernelRow {
        needs: row.needs.with(Features::SUBGROUPS),
        ..for_gpus(row)
    }
}

/// The kernels of [`wide`] whose lanes are those of a subgroup.
macro_rules! by_subgroups {
    ($op:ident $name:literal, $file:literal $defines:tt, $fits:expr, $launch:expr) => {
        wide!($op $name, $file $defines,
            |problem| is_long(problem).or_else(|| $fits(problem)), $launch)
        .map(for_subgroups)
    };
}

/// The kernels of [`weighted`] that read four codes at a time, for GPUs.
macro_rules! packed_for_gpus {
    ($op:ident $name:literal, $file:literal $defines:tt, $fits:expr, $launch:expr) => {
        [
            weighted!(packed $op $name "f32" F32 "F32", $file $defines, $fits, $launch),
            weighted!(packed $op $name "f16" F16 "F16", $file $defines, $fits, $launch),
            weighted!(packed $op $name "bf16" Bf16 "BF16", $file $defines, $fits, $launch),
            weighted!(packed $op $name "f8e4m3" F8E4M3 "FP8", $file $defines, $fits, $launch),
            blocks!($op $name, $file $defines, $fits, $launch),
        ]
        .map(for_gpus)
    };
}

/// A kernel for each weight format it is defined for, read code by code.
macro_rules! elementwise_weight {
    ($op:ident $name:literal, $file:literal $defines:tt, $fits:expr, $launch:expr;
     $($text:literal $dtype:ident $format:literal),*) => {
        [$(weighted!(single $op $name $text $dtype $format, $file $defines, $fits, $launch)),*]
    };
}

/// All WGSL rows, faster ones above.
pub fn rows() -> Vec<KernelRow> {
    let mut rows = Vec::new();
    rows.extend(
        elementwise_weight!(Embed "embed", "embed" [], rows_fit, launch_values;
        "f32" F32 "F32", "f16" F16 "F16", "bf16" Bf16 "BF16", "f8e4m3" F8E4M3 "FP8"),
    );
    rows.push(blocks!(Embed "embed", "embed" [], rows_fit, launch_values));
    rows.extend(
        elementwise_weight!(Norm "norm_subgroups", "norm" ["SUBGROUPS"], fits_always, launch_rows;
        "f32" F32 "F32", "f16" F16 "F16", "bf16" Bf16 "BF16")
        .map(for_subgroups),
    );
    rows.extend(
        elementwise_weight!(Norm "norm", "norm" [], fits_always, launch_rows;
        "f32" F32 "F32", "f16" F16 "F16", "bf16" Bf16 "BF16"),
    );
    rows.extend(norm_linear_rows());
    rows.extend(block_rows());
    rows.extend(subgroup_rows());
    rows.extend(weighted!(Linear "linear", "linear" [], linear_fits, launch_linear));
    rows.extend(weighted!(Linear "linear_residual", "linear" ["RESIDUAL"], linear_residual_fits, launch_linear));
    rows.extend(weighted!(GateUp "gate_up", "linear" ["SECOND"], blocks_fit, launch_linear));
    rows.extend(
        weighted!(HeadLinear "head_linear", "head_linear" [], head_linear_fits, launch_head_linear),
    );
    rows.extend(
        narrow!(HeadLinear "head_linear_transposed", "head_linear_transposed" [],
        head_transposed_fits, launch_head_transposed),
    );
    rows.extend(
        weighted!(GroupedLinear "grouped_linear", "grouped_linear" [], fits_always, launch_grouped),
    );
    rows.extend(weighted!(GroupedGateUp "grouped_gate_up", "grouped_linear" ["SECOND"], fits_always, launch_grouped));
    rows.extend(
        weighted!(ExpertLinear "expert_linear", "expert_linear" [], rows_fit, launch_expert),
    );
    rows.extend(weighted!(ExpertGateUp "expert_gate_up", "expert_linear" ["SECOND"], rows_fit, launch_expert));
    rows.extend(attention_rows());
    rows.extend(routing_rows());
    rows.extend(value_rows());
    rows
}

/// For many rows: an invocation computes four outputs of four rows, on GPUs over tiles that
/// the workgroup shares.
fn block_rows() -> Vec<KernelRow> {
    let mut rows = Vec::new();
    rows.extend(packed_for_gpus!(Linear "linear_tile", "linear_tile" [],
        |problem| tile_fits(problem).or_else(|| linear_fits(problem)), launch_tile));
    rows.extend(
        packed_for_gpus!(Linear "linear_residual_tile", "linear_tile" ["RESIDUAL"],
        |problem| tile_fits(problem).or_else(|| linear_residual_fits(problem)), launch_tile),
    );
    rows.extend(
        packed_for_gpus!(GateUp "gate_up_tile", "linear_tile" ["SECOND"],
        |problem| tile_fits(problem).or_else(|| blocks_fit(problem)), launch_tile),
    );
    rows.extend(
        packed_for_gpus!(GroupedLinear "grouped_linear_tile", "linear_tile" ["GROUPED"],
        grouped_tile_fits, launch_grouped_tile),
    );
    rows.extend(
        packed_for_gpus!(GroupedGateUp "grouped_gate_up_tile", "linear_tile" ["GROUPED" "SECOND"],
        grouped_tile_fits, launch_grouped_tile),
    );
    rows.extend(wide!(Linear "linear_block", "linear_block" [],
        |problem| many_rows(problem).or_else(|| linear_fits(problem)), launch_block));
    rows.extend(
        wide!(Linear "linear_residual_block", "linear_block" ["RESIDUAL"],
        |problem| many_rows(problem).or_else(|| linear_residual_fits(problem)), launch_block),
    );
    rows.extend(wide!(GateUp "gate_up_block", "linear_block" ["SECOND"],
        |problem| many_rows(problem).or_else(|| blocks_fit(problem)), launch_block));
    rows.extend(
        wide!(GroupedLinear "grouped_linear_block", "linear_block" ["GROUPED"],
        many_rows, launch_grouped_block),
    );
    rows.extend(
        wide!(GroupedGateUp "grouped_gate_up_block", "linear_block" ["GROUPED" "SECOND"],
        many_rows, launch_grouped_block),
    );
    rows
}

/// A norm and a linear in one: with lanes of subgroups, else of workgroup memory.
fn norm_linear_rows() -> Vec<KernelRow> {
    let mut rows = Vec::new();
    rows.extend(
        by_subgroups!(NormLinear "norm_linear_subgroups", "norm_linear" ["SUBGROUPS"],
        norm_f32_fits, launch_linear_subgroups),
    );
    rows.extend(by_subgroups!(NormLinear "norm_bf16_linear_subgroups",
        "norm_linear" ["SUBGROUPS" "NORM_BF16"], norm_bf16_fits, launch_linear_subgroups));
    rows.extend(
        wide!(NormLinear "norm_linear", "norm_linear" [], norm_f32_fits, launch_linear)
            .map(for_gpus),
    );
    rows.extend(
        wide!(NormLinear "norm_bf16_linear", "norm_linear" ["NORM_BF16"],
        norm_bf16_fits, launch_linear)
        .map(for_gpus),
    );
    rows
}

/// For few rows: a subgroup an output, without workgroup memory or barriers.
fn subgroup_rows() -> Vec<KernelRow> {
    let mut rows = Vec::new();
    rows.extend(
        by_subgroups!(Linear "linear_subgroups", "linear" ["SUBGROUPS"],
        linear_fits, launch_linear_subgroups),
    );
    rows.extend(
        by_subgroups!(Linear "linear_residual_subgroups", "linear" ["SUBGROUPS" "RESIDUAL"],
        linear_residual_fits, launch_linear_subgroups),
    );
    rows.extend(
        by_subgroups!(GateUp "gate_up_subgroups", "linear" ["SUBGROUPS" "SECOND"],
        blocks_fit, launch_linear_subgroups),
    );
    rows.extend(
        by_subgroups!(HeadLinear "head_linear_subgroups", "head_linear" ["SUBGROUPS"],
        head_linear_fits, launch_head_linear_subgroups),
    );
    rows.extend(
        by_subgroups!(GroupedLinear "grouped_linear_subgroups", "grouped_linear" ["SUBGROUPS"],
        fits_always, launch_grouped_subgroups),
    );
    rows.extend(by_subgroups!(GroupedGateUp "grouped_gate_up_subgroups",
        "grouped_linear" ["SUBGROUPS" "SECOND"], fits_always, launch_grouped_subgroups));
    rows.extend(
        by_subgroups!(ExpertLinear "expert_linear_subgroups", "expert_linear" ["SUBGROUPS"],
        rows_fit, launch_expert_subgroups),
    );
    rows.extend(by_subgroups!(ExpertGateUp "expert_gate_up_subgroups",
        "expert_linear" ["SUBGROUPS" "SECOND"], rows_fit, launch_expert_subgroups));
    rows
}

fn attention_rows() -> Vec<KernelRow> {
    let mut rows = vec![
        row!(Rope "wgsl_rope", "rope" [], rows_fit, launch_rope),
        row!(CacheAppend "wgsl_cache_append", "cache_append" [], rows_fit, launch_values),
        for_gpus(row!(AttendPart "wgsl_attend_part", "attend_tile" ["PART"],
            attend_part_fits, launch_attend_part)),
        row!(AttendMerge "wgsl_attend_merge", "attend_merge" [],
            attend_merge_fits, launch_attend_merge),
        for_gpus(
            row!(AttendLatent "wgsl_attend_latent_tile", "attend_tile" [],
            |problem| attend_tile_fits(problem).or_else(|| rows_fit(problem)),
            launch_attend_tile),
        ),
        row!(AttendLatent "wgsl_attend_latent_block", "attend_block" [],
            attend_block_fits, launch_attend_block),
        row!(AttendLatent "wgsl_attend_latent_quads", "attend" ["QUADS"],
            |problem| attends_quads(problem).or_else(|| attend_fits(problem)), launch_attend_quads),
        row!(AttendLatent "wgsl_attend_latent", "attend" [], attend_fits, launch_attend),
    ];
    rows.extend(
        elementwise_weight!(LatentAppend "latent_append_subgroups", "latent_append" ["SUBGROUPS"],
        fits_always, launch_rows; "f32" F32 "F32", "f16" F16 "F16", "bf16" Bf16 "BF16")
        .map(for_subgroups),
    );
    rows.extend(
        elementwise_weight!(LatentAppend "latent_append", "latent_append" [], fits_always, launch_rows;
        "f32" F32 "F32", "f16" F16 "F16", "bf16" Bf16 "BF16"),
    );
    rows.extend(
        elementwise_weight!(AttendExpanded "attend_expanded", "attend" ["EXPANDED"],
        attend_fits, launch_attend;
        "f32" F32 "F32", "f16" F16 "F16", "bf16" Bf16 "BF16", "f8e4m3" F8E4M3 "FP8"),
    );
    rows
}

fn routing_rows() -> Vec<KernelRow> {
    let mut rows = vec![row!(Route "wgsl_route", "route" [], |problem| {
        unless(problem.params.flags & flags::BIAS == 0, "has no bias").or_else(|| route_fits(problem))
    }, launch_route)];
    rows.extend(elementwise_weight!(Route "route_bias", "route" ["BIAS"], |problem: &Problem| {
            unless(problem.params.flags & flags::BIAS != 0, "needs a bias").or_else(|| route_fits(problem))
        }, launch_route;
        "f32" F32 "F32", "f16" F16 "F16", "bf16" Bf16 "BF16"));
    rows.extend([
        row!(ExpertOffsets "wgsl_expert_offsets", "expert_offsets" [], experts_fit, launch_expert_offsets),
        row!(Permute "wgsl_permute", "permute" [], rows_fit, launch_values),
        row!(Combine "wgsl_combine_placed", "combine" ["PLACED"], |problem| {
            unless(problem.params.flags & flags::PLACED != 0, "needs rows sorted by expert")
                .or_else(|| rows_fit(problem))
        }, launch_values),
        row!(Combine "wgsl_combine", "combine" [], |problem| {
            unless(problem.params.flags & flags::PLACED == 0, "needs rows in the order of choices")
                .or_else(|| rows_fit(problem))
        }, launch_values),
    ]);
    rows
}

fn value_rows() -> Vec<KernelRow> {
    vec![
        row!(SwiGlu "wgsl_swiglu", "pairwise" ["SWIGLU"], rows_fit, launch_values),
        row!(Add "wgsl_add", "pairwise" [], rows_fit, launch_values),
        row!(Copy "wgsl_copy", "copy" [], rows_fit, launch_heads),
        row!(Gather "wgsl_gather", "copy" ["GATHER"], rows_fit, launch_values),
        row!(Argmax "wgsl_argmax", "argmax" [], fits_always, launch_rows),
        row!(ActQuant "wgsl_act_quant", "act_quant" [], rows_fit, launch_act_quant),
    ]
}
