//! C++ rows, for CUDA and ROCm: which kernel of which file does what. What they ask of a
//! problem, and how they are launched, is in `gpu_launch`.

use hadal_device::{Body, DType, DeviceInfo, Features, KernelRow, Launch, OpKind, Problem, flags};

use crate::gpu_launch::*;
use crate::gpu_native;
use crate::wgsl_fit::*;

pub(crate) const fn row(
    op: OpKind,
    [name, file, entry, operands]: [&'static str; 4],
    fits: fn(&Problem) -> Option<&'static str>,
    launch: fn(&Problem, &DeviceInfo) -> Launch,
) -> KernelRow {
    KernelRow {
        op,
        name,
        needs: Features::GPU_CPP,
        avoids: Features::NONE,
        takes_codes: false,
        fits,
        launch,
        body: Body::Gpu {
            file,
            entry,
            operands,
        },
    }
}

/// A row for each weight format; the operands of a weight without scales and with.
macro_rules! formats {
    ($op:ident $file:literal $name:literal $end:literal, $operands:literal, $scaled:literal,
     $fits:expr, $launch:expr) => {
        [
            formats!($op F32 $file $name "_f32" $end, $operands, $fits, $launch),
            formats!($op F16 $file $name "_f16" $end, $operands, $fits, $launch),
            formats!($op Bf16 $file $name "_bf16" $end, $operands, $fits, $launch),
            formats!($op F8E4M3 $file $name "_f8" $end, $scaled, $fits, $launch),
        ]
    };
    ($op:ident $dtype:ident $file:literal $name:literal $format:literal $end:literal,
     $operands:literal, $fits:expr, $launch:expr) => {
        row(
            OpKind::$op,
            [
                concat!("gpu_", $name, $format, $end),
                $file,
                concat!($name, $format, $end),
                $operands,
            ],
            |problem| weight_is(problem, DType::$dtype).or_else(|| $fits(problem)),
            $launch,
        )
    };
}

/// [`formats`] of a weight that is a vector, which FP8 never is.
macro_rules! vectors {
    ($op:ident $file:literal $name:literal, $operands:literal, $fits:expr, $launch:expr) => {
        [
            formats!($op F32 $file $name "_f32" "", $operands, $fits, $launch),
            formats!($op F16 $file $name "_f16" "", $operands, $fits, $launch),
            formats!($op Bf16 $file $name "_bf16" "", $operands, $fits, $launch),
        ]
    };
}

macro_rules! plain {
    ($op:ident $file:literal $name:literal, $operands:literal, $fits:expr, $launch:expr) => {
        row(
            OpKind::$op,
            [concat!("gpu_", $name), $file, $name, $operands],
            $fits,
            $launch,
        )
    };
}

/// The rows of `matrix.cu` for the matrix units of a feature.
macro_rules! units {
    ($feature:ident $linear:literal $residual:literal $gate_up:literal $grouped:literal
     $grouped_gate_up:literal) => {
        [
            formats!(Linear "matrix" $linear "", "rrrw", "rrrrw",
                |problem| linear_fits(problem).or_else(|| matrices(problem)), launch_tile),
            formats!(Linear "matrix" $residual "", "rrrrw", "rrrrrw",
                |problem| linear_residual_fits(problem).or_else(|| matrices(problem)),
                launch_tile),
            formats!(GateUp "matrix" $gate_up "", "rrrrw", "rrrrrrw", matrices, launch_tile),
            formats!(GroupedLinear "matrix" $grouped "", "rrrtw", "rrrttw",
                grouped_tiles, launch_grouped_tile),
            formats!(GroupedGateUp "matrix" $grouped_gate_up "", "rrrttw", "rrrttttw",
                grouped_tiles, launch_grouped_tile),
        ]
        .into_iter()
        .flatten()
        .map(|row| KernelRow {
            needs: row.needs.with(Features::$feature),
            ..row
        })
    };
}

/// The rows of `matrix8.cu` for the FP8 units of a feature.
macro_rules! fp8_units {
    ($feature:ident $($name:literal $op:ident $operands:literal $fits:expr, $launch:ident;)*) => {
        [$(row(
            OpKind::$op,
            [concat!("gpu_", $name), "matrix8", $name, $operands],
            $fits,
            $launch,
        )),*]
        .map(|row| KernelRow {
            needs: row.needs.with(Features::$feature),
            takes_codes: true,
            ..row
        })
    };
    ($feature:ident $linear:literal $residual:literal $gate_up:literal $grouped:literal
     $grouped_gate_up:literal) => {
        fp8_units!($feature
            $linear Linear "rrrrw" |problem| linear_fits(problem).or_else(|| codes(problem)),
                launch_tile;
            $residual Linear "rrrrrw"
                |problem| linear_residual_fits(problem).or_else(|| codes(problem)), launch_tile;
            $gate_up GateUp "rrrrrrw" codes, launch_tile;
            $grouped GroupedLinear "rrrttw" grouped_codes, launch_grouped_tile;
            $grouped_gate_up GroupedGateUp "rrrttttw" grouped_codes, launch_grouped_tile;
        )
    };
}

/// All C++ rows, faster ones above.
pub fn rows() -> Vec<KernelRow> {
    let mut rows = Vec::new();
    rows.extend(hopper_rows());
    rows.extend(fp8_rows());
    rows.extend(gpu_native::tiles());
    rows.extend(matrix_rows());
    rows.extend(tile_rows());
    rows.extend(dot_rows());
    rows.extend(head_rows());
    rows.extend(block_rows());
    rows.extend(attention_rows());
    rows.extend(routing_rows());
    rows.extend(value_rows());
    rows
}

/// For more rows, of codes and of values, and for attention: units of four waves, fed by copies or by
/// other waves that run ahead.
fn hopper_rows() -> Vec<KernelRow> {
    let codes = [
        plain!(Linear "hopper8" "linear_wgmma8", "rxmrw",
            |problem| linear_fits(problem).or_else(|| hopper_codes(problem)), launch_codes_ring),
        plain!(Linear "hopper8" "linear_residual_wgmma8", "rxmrrw",
            |problem| linear_residual_fits(problem).or_else(|| hopper_codes(problem)),
            launch_codes_ring),
        plain!(GateUp "hopper8" "gate_up_wgmma8", "rxmrmrw", hopper_codes, launch_codes_ring),
        plain!(GroupedLinear "hopper8" "grouped_linear_wgmma8", "rxrMtw",
            grouped_hopper_codes, launch_codes_ring),
        plain!(GroupedGateUp "hopper8" "grouped_gate_up_wgmma8", "rxrMtMtw",
            grouped_hopper_codes, launch_codes_ring),
    ];
    let values = [
        plain!(Linear "hopper" "linear_wgmma_bf16", "rrmw",
            |problem| linear_fits(problem).or_else(|| hopper_split(problem)), launch_split_ring),
        plain!(Linear "hopper" "linear_residual_wgmma_bf16", "rrmrw",
            |problem| linear_residual_fits(problem).or_else(|| hopper_split(problem)),
            launch_split_ring),
        plain!(GateUp "hopper" "gate_up_wgmma_bf16", "rrmmw", hopper_split, launch_split_ring),
        plain!(GroupedLinear "hopper" "grouped_linear_wgmma_bf16", "rrrMw",
            grouped_hopper_split, launch_split_ring),
        plain!(GroupedGateUp "hopper" "grouped_gate_up_wgmma_bf16", "rrrMMw",
            grouped_hopper_split, launch_split_ring),
    ];
    let codes = gpu_native::codes().chain(codes).map(|row| KernelRow {
        needs: row.needs.with(Features::FP8_MMA),
        takes_codes: true,
        ..row
    });
    let rows = codes.chain(gpu_native::split()).chain(values);
    let attention = [
        plain!(AttendPart "hopper_attend" "attend_part_bf16", "rrrww",
            |problem| attend_part_fits(problem).or_else(|| attends_rounded(problem)),
            launch_attend_rounded_part),
        plain!(AttendLatent "hopper_attend" "attend_latent_bf16", "rrrw", attends_rounded,
            launch_attend_rounded),
    ];
    rows.chain(attention)
        .map(|row| KernelRow {
            needs: row.needs.with(Features::HOPPER),
            ..row
        })
        .collect()
}

/// For many rows of codes: a tile of rows and outputs a block, on units for E4M3.
fn fp8_rows() -> Vec<KernelRow> {
    [
        fp8_units!(FP8_MMA "linear_mma8" "linear_residual_mma8" "gate_up_mma8"
            "grouped_linear_mma8" "grouped_gate_up_mma8"),
        fp8_units!(FP8_MFMA "linear_mfma8" "linear_residual_mfma8" "gate_up_mfma8"
            "grouped_linear_mfma8" "grouped_gate_up_mfma8"),
        fp8_units!(FP8_MFMA_FNUZ "linear_mfma8_fnuz" "linear_residual_mfma8_fnuz"
            "gate_up_mfma8_fnuz" "grouped_linear_mfma8_fnuz" "grouped_gate_up_mfma8_fnuz"),
        fp8_units!(FP8_WMMA "linear_wmma8" "linear_residual_wmma8" "gate_up_wmma8"
            "grouped_linear_wmma8" "grouped_gate_up_wmma8"),
    ]
    .concat()
}

/// For many rows: a tile of rows and outputs a block, on matrix units.
fn matrix_rows() -> Vec<KernelRow> {
    let mut rows = Vec::new();
    rows.extend(
        units!(MMA_SYNC "linear_mma" "linear_residual_mma" "gate_up_mma"
        "grouped_linear_mma" "grouped_gate_up_mma"),
    );
    rows.extend(
        units!(MFMA "linear_mfma" "linear_residual_mfma" "gate_up_mfma"
        "grouped_linear_mfma" "grouped_gate_up_mfma"),
    );
    rows.extend(
        units!(WMMA "linear_wmma" "linear_residual_wmma" "gate_up_wmma"
        "grouped_linear_wmma" "grouped_gate_up_wmma"),
    );
    rows.extend(
        units!(WMMA_12 "linear_wmma12" "linear_residual_wmma12" "gate_up_wmma12"
        "grouped_linear_wmma12" "grouped_gate_up_wmma12"),
    );
    rows
}

/// The same on any GPU.
fn tile_rows() -> Vec<KernelRow> {
    [
        formats!(Linear "tile" "linear_tile" "", "rrrw", "rrrrw",
            |problem| linear_fits(problem).or_else(|| tiles(problem)), launch_tile),
        formats!(Linear "tile" "linear_residual_tile" "", "rrrrw", "rrrrrw",
            |problem| linear_residual_fits(problem).or_else(|| tiles(problem)), launch_tile),
        formats!(GateUp "tile" "gate_up_tile" "", "rrrrw", "rrrrrrw", tiles, launch_tile),
        formats!(GroupedLinear "tile" "grouped_linear_tile" "", "rrrtw", "rrrttw",
            grouped_tiles, launch_grouped_tile),
        formats!(GroupedGateUp "tile" "grouped_gate_up_tile" "", "rrrttw", "rrrttttw",
            grouped_tiles, launch_grouped_tile),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// For few rows: a wave for each one to four outputs.
fn dot_rows() -> Vec<KernelRow> {
    [
        formats!(NormLinear "linear" "norm_linear" "_1", "rrrrw", "rrrrrw",
            |problem| norm_f32_fits(problem).or_else(|| one_row(problem)), launch_linear),
        formats!(NormLinear "linear" "norm_linear" "_4", "rrrrw", "rrrrrw",
            |problem| norm_f32_fits(problem).or_else(|| is_wide(problem)), launch_single),
        formats!(NormLinear "linear" "norm_bf16_linear" "_1", "rrrrw", "rrrrrw",
            |problem| norm_bf16_fits(problem).or_else(|| one_row(problem)), launch_linear),
        formats!(NormLinear "linear" "norm_bf16_linear" "_4", "rrrrw", "rrrrrw",
            |problem| norm_bf16_fits(problem).or_else(|| is_wide(problem)), launch_single),
        formats!(Linear "linear" "linear" "_wide_1", "rrrw", "rrrrw",
            |problem| linear_fits(problem).or_else(|| one_row(problem)), launch_linear),
        formats!(Linear "linear" "linear" "_wide_4", "rrrw", "rrrrw",
            |problem| linear_fits(problem).or_else(|| is_wide(problem)), launch_four),
        formats!(Linear "linear" "linear" "", "rrrw", "rrrrw", linear_fits, launch_linear),
        formats!(Linear "linear" "linear_residual" "_wide_1", "rrrrw", "rrrrrw",
            |problem| linear_residual_fits(problem).or_else(|| one_row(problem)), launch_linear),
        formats!(Linear "linear" "linear_residual" "_wide_4", "rrrrw", "rrrrrw",
            |problem| linear_residual_fits(problem).or_else(|| is_wide(problem)), launch_four),
        formats!(Linear "linear" "linear_residual" "", "rrrrw", "rrrrrw",
            linear_residual_fits, launch_linear),
        formats!(GateUp "linear" "gate_up" "_wide_1", "rrrrw", "rrrrrrw", one_row, launch_single),
        formats!(GateUp "linear" "gate_up" "_wide_4", "rrrrw", "rrrrrrw",
            |problem| blocks_fit(problem).or_else(|| is_wide(problem)), launch_two_pairs),
        formats!(GateUp "linear" "gate_up" "", "rrrrw", "rrrrrrw", blocks_fit, launch_single),
        formats!(GroupedLinear "experts" "grouped_linear" "_wide", "rrrtw", "rrrttw",
            is_wide, launch_grouped),
        formats!(GroupedLinear "experts" "grouped_linear" "", "rrrtw", "rrrttw",
            fits_always, launch_grouped),
        formats!(GroupedGateUp "experts" "grouped_gate_up" "_wide", "rrrttw", "rrrttttw",
            is_wide, launch_grouped_gate_up),
        formats!(GroupedGateUp "experts" "grouped_gate_up" "", "rrrttw", "rrrttttw",
            fits_always, launch_grouped_gate_up),
        formats!(ExpertLinear "experts" "expert_linear" "_wide", "rrrtw", "rrrttw",
            |problem| rows_fit(problem).or_else(|| is_wide(problem)), launch_expert),
        formats!(ExpertLinear "experts" "expert_linear" "", "rrrtw", "rrrttw",
            rows_fit, launch_expert),
        formats!(ExpertGateUp "experts" "expert_gate_up" "_wide", "rrrttw", "rrrttttw",
            |problem| rows_fit(problem).or_else(|| is_wide(problem)), launch_expert_gate_up),
        formats!(ExpertGateUp "experts" "expert_gate_up" "", "rrrttw", "rrrttttw",
            rows_fit, launch_expert_gate_up),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A kernel for all block formats of GGUF.
macro_rules! blocks {
    ($($op:ident $name:literal $operands:literal $fits:expr, $launch:expr;)*) => {
        vec![$(row(
            OpKind::$op,
            [concat!("gpu_", $name), "blocks", $name, $operands],
            |problem| is_blocks(problem).or_else(|| $fits(problem)),
            $launch,
        )),*]
    };
}

/// Weights in block formats: a wave an output, whatever the number of rows.
fn block_rows() -> Vec<KernelRow> {
    blocks! {
        Linear "linear_blocks_1" "rrrw"
            |problem| linear_fits(problem).or_else(|| one(problem)), launch_single;
        Linear "linear_blocks" "rrrw" linear_fits, launch_single;
        Linear "linear_residual_blocks_1" "rrrrw"
            |problem| linear_residual_fits(problem).or_else(|| one(problem)), launch_single;
        Linear "linear_residual_blocks" "rrrrw" linear_residual_fits, launch_single;
        GateUp "gate_up_blocks" "rrrrw" blocks_fit, launch_each;
        HeadLinear "head_linear_blocks" "rrrw" head_linear_fits, launch_block_heads;
        HeadLinear "head_linear_transposed_blocks" "rrrw" head_transposed_fits,
            launch_block_transposed;
        GroupedLinear "grouped_linear_blocks" "rrrtw" rows_fit, launch_expert_gate_up;
        GroupedGateUp "grouped_gate_up_blocks" "rrrttw" rows_fit, launch_expert_gate_up;
        ExpertLinear "expert_linear_blocks" "rrrtw" rows_fit, launch_expert_gate_up;
        ExpertGateUp "expert_gate_up_blocks" "rrrttw" rows_fit, launch_expert_gate_up;
        UnpackHeads "unpack_heads_blocks" "rrw" rows_fit,
            |problem, _| launch_unpacking(problem, 16, DOT_THREADS);
        Embed "embed_blocks" "rrw" rows_fit, launch_sixteens;
    }
}

fn head_rows() -> Vec<KernelRow> {
    [
        formats!(HeadLinear "head_linear" "head_linear" "_wide", "rrrw", "rrrrw",
            |problem| head_linear_fits(problem).or_else(|| is_wide(problem)), launch_heads),
        formats!(HeadLinear "head_linear" "head_linear" "", "rrrw", "rrrrw",
            head_linear_fits, launch_heads),
        formats!(HeadLinear "head_linear" "head_linear_transposed" "_packed", "rrrw", "rrrrw",
            |problem| head_transposed_fits(problem).or_else(|| packs(problem)),
            |problem, _| launch_transposed(problem, 4)),
        formats!(HeadLinear "head_linear" "head_linear_transposed" "", "rrrw", "rrrrw",
            head_transposed_fits, |problem, _| launch_transposed(problem, 1)),
        formats!(UnpackHeads "head_linear" "unpack_heads" "", "rrw", "rrrw",
            rows_fit, |problem, _| launch_unpacking(problem, 1, THREADS)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Attention on the matrix units of a feature.
macro_rules! attention_units {
    ($feature:ident $latent:literal $part:literal) => {
        [
            plain!(AttendPart "attend_units" $part, "rrrww",
                |problem| attend_part_fits(problem).or_else(|| attends_on_units(problem)),
                launch_attend_units_part),
            plain!(AttendLatent "attend_units" $latent, "rrrw",
                |problem| attends_quads(problem).or_else(|| attends_on_units(problem)),
                launch_attend_units),
        ]
        .map(|row| KernelRow {
            needs: row.needs.with(Features::$feature),
            ..row
        })
    };
}

fn attention_rows() -> Vec<KernelRow> {
    let mut rows = [
        attention_units!(MMA_SYNC "attend_latent_mma" "attend_part_mma"),
        attention_units!(MFMA "attend_latent_mfma" "attend_part_mfma"),
        attention_units!(WMMA "attend_latent_wmma" "attend_part_wmma"),
        attention_units!(WMMA_12 "attend_latent_wmma12" "attend_part_wmma12"),
    ]
    .concat();
    rows.extend([
        plain!(AttendPart "attend" "attend_part", "rrrww",
            |problem| attend_part_fits(problem).or_else(|| tile_holds(problem)),
            launch_attend_part),
        plain!(AttendMerge "attend" "attend_merge", "rrrw", attend_merge_fits, |problem, _| {
            heads_and_rows(problem, 128)
        }),
        plain!(AttendLatent "attend" "attend_latent_quads", "rrrw",
            |problem| attends_quads(problem).or_else(|| tile_holds(problem)),
            launch_attend_tile),
        plain!(AttendLatent "attend" "attend_latent_tile", "rrrw", tile_holds,
            launch_attend_tile),
        plain!(AttendLatent "attend" "attend_latent", "rrrw", one_holds,
            |problem, _| heads_and_rows(problem, THREADS)),
    ]);
    rows.extend(
        formats!(AttendExpanded "attend" "attend_expanded" "", "rrrrw", "rrrrrw", one_holds,
        |problem, _| heads_and_rows(problem, THREADS)),
    );
    rows
}

fn routing_rows() -> Vec<KernelRow> {
    let mut rows = vec![
        plain!(Route "route" "route", "rrww", |problem| unless(
            problem.params.flags & flags::BIAS == 0,
            "has no bias"
        ).or_else(|| route_fits(problem)), |problem, _| each_row(problem)),
        plain!(ExpertOffsets "route" "expert_offsets", "rrwww", experts_fit,
            |problem, _| launch([problem.params.experts, 1, 1], THREADS)),
        plain!(Permute "route" "permute", "rrrw", rows_fit, values),
        plain!(Combine "route" "combine", "rrrrrw", rows_fit, values),
    ];
    rows.extend(
        vectors!(Route "route" "route_bias", "rrrww", |problem: &Problem| unless(
            problem.params.flags & flags::BIAS != 0,
            "needs a bias"
        ).or_else(|| route_fits(problem)), |problem, _| each_row(problem)),
    );
    rows
}

fn value_rows() -> Vec<KernelRow> {
    let mut rows = vec![
        plain!(Rope "values" "rope", "rrrw", rows_fit, |problem, _| {
            let p = &problem.params;
            launch([(p.rope / 2).div_ceil(THREADS), p.rows, p.heads], THREADS)
        }),
        plain!(CacheAppend "values" "cache_append", "rrw", rows_fit, values),
        plain!(SwiGlu "values" "swiglu", "rrrw", rows_fit, values),
        plain!(Add "values" "add", "rrrw", rows_fit, values),
        plain!(Copy "values" "copy", "rrw", rows_fit, |problem, _| {
            let p = &problem.params;
            launch([p.n.div_ceil(THREADS), p.rows, p.heads], THREADS)
        }),
        plain!(Gather "values" "gather", "rrw", rows_fit, values),
        plain!(Argmax "values" "argmax", "rrw", fits_always, |problem, _| each_row(problem)),
        KernelRow {
            takes_codes: true,
            ..plain!(ActQuant "values" "act_quant", "rrw", rows_fit, |problem, _| {
                let p = &problem.params;
                launch([p.n.div_ceil(128), p.rows, 1], 128)
            })
        },
    ];
    rows.extend(formats!(Embed "values" "embed" "", "rrw", "rrrw", rows_fit, values));
    rows.extend(
        vectors!(Norm "values" "norm", "rrrw", fits_always, |problem, _| each_row(problem)),
    );
    rows.extend(
        vectors!(NormQuant "values" "norm_quant", "rrrw", fits_always, |problem, _| {
            each_row(problem)
        })
        .map(|row| KernelRow {
            takes_codes: true,
            ..row
        }),
    );
    rows.extend(
        vectors!(LatentAppend "values" "latent_append", "rrrrw", fits_always,
        |problem, _| each_row(problem)),
    );
    rows
}
