//! SPIR-V rows, for Vulkan: what WGSL cannot say. Matrix units, and expert tables by address.
//!
//! A device with `SPIRV` and `POINTER_TABLES` has a row here for every problem of the four
//! expert operations, because no WGSL row takes scattered entries. Where entries are not
//! scattered the WGSL rows go before them.

use hadal_device::{Body, DType, DeviceInfo, Features, KernelRow, Launch, OpKind, Problem};

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
            fits: |problem| weight_is(problem, DType::$dtype).or_else(|| $fits(problem)),
            launch: $launch,
            body: Body::Spirv { file: $module },
        }
    };
}

/// Rows on matrix units.
pub fn matrix_rows() -> Vec<KernelRow> {
    let tables = MATRIX.with(POINTERS);
    [
        formats!(Linear "spirv_linear_matrix", MATRIX, "matrix_linear",
            |problem| linear_fits(problem).or_else(|| matrix_fits(problem)), launch_matrix),
        formats!(Linear "spirv_linear_residual_matrix", MATRIX, "matrix_linear_residual",
            |problem| linear_residual_fits(problem).or_else(|| matrix_fits(problem)), launch_matrix),
        formats!(GateUp "spirv_gate_up_matrix", MATRIX, "matrix_gate_up",
            |problem| blocks_fit(problem).or_else(|| matrix_fits(problem)), launch_matrix_pair),
        formats!(GroupedLinear "spirv_grouped_linear_matrix", tables, "matrix_grouped_linear",
            grouped_matrix_fits, launch_grouped_matrix),
        formats!(GroupedGateUp "spirv_grouped_gate_up_matrix", tables, "matrix_grouped_gate_up",
            grouped_matrix_fits, launch_grouped_matrix_pair),
    ]
    .into_iter()
    .flatten()
    .collect()
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

/// Constants for tiles of `rows` rows, if there are so many, and `columns` outputs; and the
/// tile's true size.
fn tiles(
    problem: &Problem,
    info: &DeviceInfo,
    rows: u32,
    columns: u32,
) -> (Vec<(&'static str, u32)>, u32, u32) {
    // Only rows that need matrix units come here, so there is a size.
    let [m, n, k] = info.limits.matrix.unwrap_or([16; 3]);
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

fn one_matrix(problem: &Problem, info: &DeviceInfo, columns: u32) -> Launch {
    let p = &problem.params;
    let (constants, rows, columns) = tiles(problem, info, p.rows, columns);
    let [x, y] = spread(p.row_count.div_ceil(columns), info);
    Launch {
        groups: [x, y, p.rows.div_ceil(rows).max(1)],
        constants,
    }
}

fn launch_matrix(problem: &Problem, info: &DeviceInfo) -> Launch {
    one_matrix(problem, info, TILE)
}

/// Two weights take twice the registers an output.
fn launch_matrix_pair(problem: &Problem, info: &DeviceInfo) -> Launch {
    one_matrix(problem, info, TILE / 2)
}

fn table_matrix(problem: &Problem, info: &DeviceInfo, columns: u32) -> Launch {
    let p = &problem.params;
    let (constants, _, columns) = tiles(problem, info, p.rows / p.experts.max(1), columns);
    let [x, y] = spread(p.n.div_ceil(columns), info);
    Launch {
        groups: [x, y, p.expert_count.max(1)],
        constants,
    }
}

fn launch_grouped_matrix(problem: &Problem, info: &DeviceInfo) -> Launch {
    table_matrix(problem, info, TILE)
}

fn launch_grouped_matrix_pair(problem: &Problem, info: &DeviceInfo) -> Launch {
    table_matrix(problem, info, TILE / 2)
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
