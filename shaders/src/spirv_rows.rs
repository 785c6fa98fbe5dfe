//! SPIR-V rows, for Vulkan: what WGSL cannot say. Matrix units, and expert tables by address.
//!
//! A device with `SPIRV` and `POINTER_TABLES` has a row here for every problem of the four
//! expert operations, because no WGSL row takes scattered entries. Where entries are not
//! scattered the WGSL rows go before them.

use hadal_device::{
    Body, DType, DeviceInfo, Features, KernelRow, Launch, MatrixSizes, OpKind, Problem, flags,
};

use crate::wgsl_fit::*;
use crate::wgsl_launch::{launch_expert, launch_grouped_block, spread};

/// Rows from which a tile of a matrix unit is worth filling.
const MATRIX_ROWS: u32 = 16;

/// Rows an expert has on average from which that holds for tables.
const MATRIX_ROWS_AN_EXPERT: u32 = 4;

/// Outputs of a workgroup on matrix units, along rows and columns: 128 sums an invocation for
/// a subgroup of 32, in registers.
const TILE: u32 = 64;

/// Subgroups of a workgroup on matrix units.
const SUBGROUPS: u32 = 4;

const POINTERS: Features = Features::SPIRV.with(Features::POINTER_TABLES);
const MATRIX: Features = Features::SPIRV.with(Features::COOPERATIVE_MATRIX);
const BF16_UNITS: Features = Features::SPIRV.with(Features::COOPERATIVE_BF16);
const INT8_UNITS: Features = Features::SPIRV.with(Features::COOPERATIVE_INT8);
const E4M3_UNITS: Features = Features::SPIRV.with(Features::COOPERATIVE_E4M3);

/// A row for each weight format: the FP8 module, and one for the others.
macro_rules! formats {
    ($op:ident $name:literal, $needs:expr, $module:literal, $fits:expr, $launch:expr) => {
        [
            formats!($op concat!($name, "_f32"), F32 $needs, $module, $fits, $launch),
            formats!($op concat!($name, "_f16"), F16 $needs, $module, $fits, $launch),
            formats!($op concat!($name, "_bf16"), Bf16 $needs, $module, $fits, $launch),
            formats!($op concat!($name, "_f8e4m3"), F8E4M3 $needs, concat!($module, "_f8e4m3"),
                $fits, $launch),
        ]
    };
    ($op:ident $name:expr, $dtype:ident $needs:expr, $module:expr, $fits:expr, $launch:expr) => {
        KernelRow {
            op: OpKind::$op,
            name: $name,
            needs: $needs,
            avoids: Features::NONE,
            takes_codes: false,
            fits: |problem| weight_is(problem, DType::$dtype).or_else(|| $fits(problem)),
            launch: $launch,
            body: Body::Spirv { file: $module },
        }
    };
}

/// The five rows on matrix units whose elements `$size` is for: endings of their names and their
/// modules, what they need, whether `x` are codes, what else must fit.
macro_rules! units {
    ($name:literal, $module:literal, $needs:expr, $codes:expr, $fits:expr, $size:expr) => {
        [
            units!(Linear "linear" $name $module, $needs, $codes,
                |problem| $fits(problem).or_else(|| linear_fits(problem))
                    .or_else(|| matrix_fits(problem)),
                |problem, info| one_matrix(problem, info, $size, TILE)),
            units!(Linear "linear_residual" $name $module, $needs, $codes,
                |problem| $fits(problem).or_else(|| linear_residual_fits(problem))
                    .or_else(|| matrix_fits(problem)),
                |problem, info| one_matrix(problem, info, $size, TILE)),
            // Two weights take twice the registers an output.
            units!(GateUp "gate_up" $name $module, $needs, $codes,
                |problem| $fits(problem).or_else(|| blocks_fit(problem))
                    .or_else(|| matrix_fits(problem)),
                |problem, info| one_matrix(problem, info, $size, TILE / 2)),
            units!(GroupedLinear "grouped_linear" $name $module, $needs.with(POINTERS), $codes,
                |problem| $fits(problem).or_else(|| grouped_matrix_fits(problem)),
                |problem, info| table_matrix(problem, info, $size, TILE)),
            units!(GroupedGateUp "grouped_gate_up" $name $module, $needs.with(POINTERS), $codes,
                |problem| $fits(problem).or_else(|| grouped_matrix_fits(problem)),
                |problem, info| table_matrix(problem, info, $size, TILE / 2)),
        ]
    };
    ($op:ident $row:literal $name:literal $module:literal, $needs:expr, $codes:expr, $fits:expr,
     $launch:expr) => {
        KernelRow {
            op: OpKind::$op,
            name: concat!("spirv_", $row, "_matrix", $name),
            needs: $needs,
            avoids: Features::NONE,
            takes_codes: $codes,
            fits: $fits,
            launch: $launch,
            body: Body::Spirv {
                file: concat!("matrix_", $row, $module),
            },
        }
    };
}

/// Rows on matrix units. Elements of bf16 stand last: they take three products where f16 takes
/// two, and no driver at hand had them to measure what is saved by looking for no powers of two.
pub fn matrix_rows() -> Vec<KernelRow> {
    let rows = [
        units!(
            "_coded_units",
            "_coded_e4m3",
            E4M3_UNITS,
            true,
            coded,
            |s| s.e4m3
        ),
        units!("_coded", "_coded", MATRIX, true, coded, |s| s.f16),
        units!(
            "_f32",
            "",
            MATRIX,
            false,
            |p| weight_is(p, DType::F32),
            |s| s.f16
        ),
        units!(
            "_f16",
            "",
            MATRIX,
            false,
            |p| weight_is(p, DType::F16),
            |s| s.f16
        ),
        units!(
            "_bf16",
            "",
            MATRIX,
            false,
            |p| weight_is(p, DType::Bf16),
            |s| s.f16
        ),
        units!(
            "_f8e4m3",
            "_f8e4m3",
            MATRIX,
            false,
            |p| weight_is(p, DType::F8E4M3),
            |s| s.f16
        ),
        units!(
            "_bf16_units",
            "_bf16",
            BF16_UNITS,
            false,
            |p| weight_is(p, DType::Bf16),
            |s| s.bf16
        ),
    ];
    let others = byte_rows().into_iter().chain([act_quant()]);
    rows.into_iter().flatten().chain(others).collect()
}

/// Rows for weights in Q8_0, whose codes are integers. Sums of each digit take registers too, so
/// tiles have half as many outputs.
fn byte_rows() -> [KernelRow; 3] {
    [
        units!(Linear "linear" "_q8_0" "_q8_0", INT8_UNITS, false,
            |problem| bytes_fit(problem).or_else(|| linear_fits(problem)),
            |problem, info| launch_bytes(problem, info, TILE / 2)),
        units!(Linear "linear_residual" "_q8_0" "_q8_0", INT8_UNITS, false,
            |problem| bytes_fit(problem).or_else(|| linear_residual_fits(problem)),
            |problem, info| launch_bytes(problem, info, TILE / 2)),
        units!(GateUp "gate_up" "_q8_0" "_q8_0", INT8_UNITS, false,
            |problem| bytes_fit(problem).or_else(|| blocks_fit(problem)),
            |problem, info| launch_bytes(problem, info, TILE / 4)),
    ]
}

fn bytes_fit(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    weight_is(problem, DType::Q8_0)
        .or_else(|| unless(p.rows >= MATRIX_ROWS, "needs 16 rows"))
        .or_else(|| {
            let aligned = p.x_offset.is_multiple_of(4) && p.x_stride.is_multiple_of(4);
            unless(aligned, "needs aligned activations")
        })
}

fn launch_bytes(problem: &Problem, info: &DeviceInfo, columns: u32) -> Launch {
    let mut launch = one_matrix(problem, info, |sizes| sizes.int8, columns);
    let rough = problem.params.flags & flags::ROUGH != 0;
    launch.constants.push(("DIGITS", if rough { 1 } else { 3 }));
    launch
}

/// Makes the rows of codes that products take.
fn act_quant() -> KernelRow {
    KernelRow {
        op: OpKind::ActQuant,
        name: "spirv_act_quant",
        needs: Features::SPIRV,
        avoids: Features::NONE,
        takes_codes: true,
        fits: |problem| {
            unless(is_coded(problem), "makes codes alone")
                .or_else(|| {
                    let whole = problem.params.n.is_multiple_of(4);
                    unless(whole, "needs rows of a multiple of four values")
                })
                .or_else(|| rows_fit(problem))
        },
        launch: |problem, _| Launch {
            groups: [problem.params.n.div_ceil(128), problem.params.rows, 1],
            constants: vec![("WG", 32), format(problem)],
        },
        body: Body::Spirv { file: "act_quant" },
    }
}

fn is_coded(problem: &Problem) -> bool {
    problem.params.flags & flags::CODED != 0
}

/// Rows of codes times weights of codes.
fn coded(problem: &Problem) -> Option<&'static str> {
    unless(is_coded(problem), "takes activations as codes")
        .or_else(|| weight_is(problem, DType::F8E4M3))
}

/// Rows that take any table.
pub fn pointer_rows() -> Vec<KernelRow> {
    [
        formats!(GroupedLinear "spirv_grouped_linear", POINTERS, "grouped_linear",
            fits_always, launch_grouped),
        formats!(GroupedGateUp "spirv_grouped_gate_up", POINTERS, "grouped_gate_up",
            fits_always, launch_grouped),
        formats!(ExpertLinear "spirv_expert_linear", POINTERS, "expert_linear",
            rows_fit, launch_experts),
        formats!(ExpertGateUp "spirv_expert_gate_up", POINTERS, "expert_gate_up",
            rows_fit, launch_experts),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn matrix_fits(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    unless(p.rows >= MATRIX_ROWS, "needs 16 rows")
        // A tile of outputs then lies in one block of scales.
        .or_else(|| {
            unless(
                p.row_first.is_multiple_of(128),
                "needs shards of whole blocks",
            )
        })
        .or_else(|| is_wide(problem))
}

fn grouped_matrix_fits(problem: &Problem) -> Option<&'static str> {
    let p = &problem.params;
    let enough = p.experts.saturating_mul(MATRIX_ROWS_AN_EXPERT);
    unless(p.rows >= enough.max(MATRIX_ROWS), "needs 4 rows an expert").or_else(|| is_wide(problem))
}

/// The number of a format in the modules' `FORMAT`; FP8 has modules of its own.
fn format(problem: &Problem) -> (&'static str, u32) {
    let number = match problem.weight {
        DType::F16 => 1,
        DType::Bf16 => 2,
        _ => 0,
    };
    ("FORMAT", number)
}

/// The size of products that a row uses.
type Size = fn(MatrixSizes) -> Option<[u32; 3]>;

/// Constants for tiles of `rows` rows, if there are so many, and `columns` outputs; and the
/// tile's true size.
fn tiles(
    problem: &Problem,
    info: &DeviceInfo,
    size: Size,
    rows: u32,
    columns: u32,
) -> (Vec<(&'static str, u32)>, u32, u32) {
    // Only rows that need matrix units come here, so there is a size.
    let [m, n, k] = info.limits.matrix.and_then(size).unwrap_or([16; 3]);
    let lanes = info.limits.subgroup.1.max(1);
    let subgroups = (info.limits.max_workgroup / lanes).clamp(1, SUBGROUPS);
    let rows = rows.next_power_of_two().clamp(m, TILE.max(m));
    let columns = columns.max(n);
    let row_parts = (rows / m).min(if subgroups >= 4 { 2 } else { 1 });
    let column_parts = (columns / n).min(subgroups / row_parts);
    let constants = vec![
        ("WG", subgroups * lanes),
        format(problem),
        ("M", m),
        ("N", n),
        ("K", k),
        ("ROWS", rows),
        ("COLUMNS", columns),
        ("ROW_PARTS", row_parts),
        ("COLUMN_PARTS", column_parts),
        // Where subgroups come out smaller than the largest there are more of them, but only
        // as many as there are parts store anything.
        ("SUBGROUPS", row_parts * column_parts),
    ];
    (constants, rows, columns)
}

fn one_matrix(problem: &Problem, info: &DeviceInfo, size: Size, columns: u32) -> Launch {
    let p = &problem.params;
    let (constants, rows, columns) = tiles(problem, info, size, p.rows, columns);
    let [x, y] = spread(p.row_count.div_ceil(columns), info);
    Launch {
        groups: [x, y, p.rows.div_ceil(rows).max(1)],
        constants,
    }
}

fn table_matrix(problem: &Problem, info: &DeviceInfo, size: Size, columns: u32) -> Launch {
    let p = &problem.params;
    let each = p.rows / p.experts.max(1);
    let (constants, _, columns) = tiles(problem, info, size, each, columns);
    let [x, y] = spread(p.n.div_ceil(columns), info);
    Launch {
        groups: [x, y, p.expert_count.max(1)],
        constants,
    }
}

/// The constants of kernels that take any shape: those of the WGSL kernel alike, the format,
/// and whether sixteen bytes can be read at a time.
fn with_format(launch: Launch, problem: &Problem) -> Launch {
    let wide = u32::from(is_wide(problem).is_none());
    // Where a lane works on several rows at once their number is fixed here.
    let kept = launch
        .constants
        .into_iter()
        .filter(|(name, _)| *name != "ROWS");
    Launch {
        constants: kept.chain([format(problem), ("WIDE", wide)]).collect(),
        ..launch
    }
}

fn launch_grouped(problem: &Problem, info: &DeviceInfo) -> Launch {
    with_format(launch_grouped_block(problem, info), problem)
}

fn launch_experts(problem: &Problem, info: &DeviceInfo) -> Launch {
    with_format(launch_expert(problem, info), problem)
}
