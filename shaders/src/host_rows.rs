//! Host rows: Rust functions of `backends/host`, named here.
//!
//! A launch divides the outputs of a row and the rows among groups, and tells the function
//! the sizes of these blocks as the constants `outputs` and `rows`. Blocks are small enough
//! that one token still feeds all threads.

use hadal_device::{Body, DType, DeviceInfo, Features, KernelRow, Launch, OpKind, Problem};

/// Outputs a group computes: the rows of a weight that are decoded together.
const OUTPUTS: u32 = 32;
/// Rows of activations up to which a group's work is the reading of its weights.
const FEW: u32 = 4;
/// Bytes of weights that are worth the start of a group of few rows.
const READ: u64 = 128 << 10;
/// Groups that an operation of few rows is divided among at least, for many threads to share.
const SHARES: u32 = 32;
/// Rows of activations a group computes: decoding a weight is shared by these.
const ROWS: u32 = 128;
/// Outputs of a group of tiles at most.
const TILE_OUTPUTS: u32 = 256;
/// Bytes that activations as tiles may take of each thread: six for each, or 2.
const TILE_BYTES: u32 = 16 << 20;
const PIECES_BYTES: u32 = 6;
/// Rows that share the expansion of a cache page: as many as a step may have.
const EXPANDED_ROWS: u32 = 512;
/// Heads that share the reading of a cache page; as tiles; and heads whose parts a group puts
/// together.
const HEADS: u32 = 16;
const TILE_HEADS: u32 = 128;
const MERGED_HEADS: u32 = 4;
/// Values below which another group of rows is not worth its start.
const VALUES: u32 = 16384;

fn launch(groups: [u32; 3], outputs: u32, rows: u32) -> Launch {
    Launch {
        groups: groups.map(|n| n.max(1)),
        constants: vec![("outputs", outputs), ("rows", rows)],
    }
}

fn one(_: &Problem, _: &DeviceInfo) -> Launch {
    launch([1, 1, 1], 1, 1)
}

/// Whole rows, `n` values each.
fn by_rows(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let width = p.n.max(p.rope).saturating_mul(p.heads.max(1));
    let rows = (VALUES / width.max(1)).clamp(1, p.rows.max(1));
    launch([1, p.rows.div_ceil(rows), 1], 1, rows)
}

/// The router: a row is many comparisons.
fn by_row(problem: &Problem, _: &DeviceInfo) -> Launch {
    launch([1, problem.params.rows.div_ceil(4), 1], 1, 4)
}

/// Outputs that a group computes of `n` for `rows` rows: more where rows of the weight are
/// short. `times` operations (choices, heads) share the threads.
fn outputs(problem: &Problem, n: u32, rows: u32, times: u32) -> u32 {
    if rows > FEW {
        return OUTPUTS;
    }
    let row_bytes = problem.weight.row_bytes(problem.params.k.into()).max(1);
    let worth = (READ / row_bytes).min(n.into()) as u32;
    let share = n.saturating_mul(times) / SHARES;
    worth.min(share).next_multiple_of(OUTPUTS).max(OUTPUTS)
}

fn by_outputs(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let outputs = outputs(problem, p.row_count, p.rows, 1);
    let groups = [p.row_count.div_ceil(outputs), p.rows.div_ceil(ROWS), 1];
    launch(groups, outputs, ROWS)
}

/// Outputs that a group of tiles computes: more than a few share the activations in a cache.
fn tile_outputs(n: u32) -> u32 {
    (n / SHARES)
        .next_multiple_of(OUTPUTS)
        .clamp(OUTPUTS, TILE_OUTPUTS)
}

/// Rows of activations that a group of tiles computes, whose weights are taken apart once.
fn tile_rows(k: u32) -> u32 {
    let row_bytes = k.max(1).saturating_mul(PIECES_BYTES);
    (TILE_BYTES / row_bytes / 32 * 32).clamp(64, EXPANDED_ROWS)
}

fn by_tiles(problem: &Problem, device: &DeviceInfo) -> Launch {
    let p = &problem.params;
    if p.rows <= FEW {
        return by_outputs(problem, device);
    }
    let (outputs, rows) = (tile_outputs(p.row_count), tile_rows(p.k));
    let groups = [p.row_count.div_ceil(outputs), p.rows.div_ceil(rows), 1];
    launch(groups, outputs, rows)
}

fn by_expert_tiles(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let outputs =
        tile_outputs(p.n.saturating_mul(p.expert_count)).min(p.n.next_multiple_of(OUTPUTS));
    launch(
        [p.n.div_ceil(outputs), p.expert_count, 1],
        outputs,
        tile_rows(p.k),
    )
}

fn by_heads(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let outputs = if p.flags & hadal_device::flags::TRANSPOSED != 0 {
        p.n.max(1)
    } else {
        outputs(problem, p.n, p.rows, p.heads)
    };
    let groups = [p.n.div_ceil(outputs), p.rows.div_ceil(ROWS), p.heads];
    launch(groups, outputs, ROWS)
}

/// One head and a block of its weight rows.
fn by_head_rows(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let groups = [p.head_rows.div_ceil(OUTPUTS), p.rows, 1];
    launch(groups, OUTPUTS, 1)
}

fn by_experts(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    launch([p.n.div_ceil(OUTPUTS), p.expert_count, 1], OUTPUTS, ROWS)
}

/// One group for each choice, which is one row, and block of outputs.
fn by_choices(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let outputs = outputs(problem, p.n, 1, p.rows);
    launch([p.n.div_ceil(outputs), p.rows, 1], outputs, 1)
}

/// Heads that share the reading of a page.
fn by_queries(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    launch([p.heads.div_ceil(HEADS), p.rows, 1], HEADS, 1)
}

/// As many as there are, which share a page that was taken apart into tiles.
fn by_tile_queries(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    launch([p.heads.div_ceil(TILE_HEADS), p.rows, 1], TILE_HEADS, 1)
}

/// The same in parts of the positions.
fn by_parts(problem: &Problem, device: &DeviceInfo) -> Launch {
    parts(problem, by_queries(problem, device))
}

fn by_tile_parts(problem: &Problem, device: &DeviceInfo) -> Launch {
    parts(problem, by_tile_queries(problem, device))
}

fn parts(problem: &Problem, launch: Launch) -> Launch {
    let [heads, rows, _] = launch.groups;
    Launch {
        groups: [heads, rows, problem.params.row_count.max(1)],
        ..launch
    }
}

fn by_merged_heads(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    launch([p.heads.div_ceil(MERGED_HEADS), p.rows, 1], MERGED_HEADS, 1)
}

fn by_expanded_heads(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let groups = [p.heads, p.rows.div_ceil(EXPANDED_ROWS), 1];
    launch(groups, 1, EXPANDED_ROWS)
}

fn any(_: &Problem) -> Option<&'static str> {
    None
}

fn f32(problem: &Problem) -> Option<&'static str> {
    (problem.weight != DType::F32).then_some("reads f32 weights")
}

fn f16(problem: &Problem) -> Option<&'static str> {
    (problem.weight != DType::F16).then_some("reads f16 weights")
}

fn bf16(problem: &Problem) -> Option<&'static str> {
    (problem.weight != DType::Bf16).then_some("reads bf16 weights")
}

fn f8(problem: &Problem) -> Option<&'static str> {
    (problem.weight != DType::F8E4M3).then_some("reads f8e4m3 weights")
}

fn blocks(problem: &Problem) -> Option<&'static str> {
    (!problem.weight.is_blocks()).then_some("reads weights in a block format of GGUF")
}

const fn row(
    op: OpKind,
    name: &'static str,
    isa: Features,
    fits: fn(&Problem) -> Option<&'static str>,
    launch: fn(&Problem, &DeviceInfo) -> Launch,
) -> KernelRow {
    KernelRow {
        op,
        name,
        needs: Features::HOST.with(isa),
        avoids: Features::NONE,
        takes_codes: false,
        fits,
        launch,
        body: Body::Host(name),
    }
}

/// A row for each format of the weight.
macro_rules! formats {
    ($(($op:ident, $name:literal, $suffix:literal, $isa:ident, $launch:ident),)*) => {
        [$(
            row(OpKind::$op, concat!("host_", $name, "_f32", $suffix), Features::$isa, f32, $launch),
            row(OpKind::$op, concat!("host_", $name, "_f16", $suffix), Features::$isa, f16, $launch),
            row(OpKind::$op, concat!("host_", $name, "_bf16", $suffix), Features::$isa, bf16, $launch),
            row(OpKind::$op, concat!("host_", $name, "_f8", $suffix), Features::$isa, f8, $launch),
            row(OpKind::$op, concat!("host_", $name, "_blocks", $suffix), Features::$isa, blocks, $launch),
        )*]
    };
}

/// A row for each format of a weight that is a vector.
macro_rules! vectors {
    ($op:ident, $name:literal, $suffix:literal, $isa:ident, $launch:ident) => {
        &[
            row(
                OpKind::$op,
                concat!("host_", $name, "_f32", $suffix),
                Features::$isa,
                f32,
                $launch,
            ),
            row(
                OpKind::$op,
                concat!("host_", $name, "_f16", $suffix),
                Features::$isa,
                f16,
                $launch,
            ),
            row(
                OpKind::$op,
                concat!("host_", $name, "_bf16", $suffix),
                Features::$isa,
                bf16,
                $launch,
            ),
        ]
    };
}

/// Rows of the operations that time goes into, for one instruction set.
macro_rules! dense {
    ($suffix:literal, $isa:ident) => {
        &formats![
            (Linear, "linear", $suffix, $isa, by_outputs),
            (GateUp, "gate_up", $suffix, $isa, by_outputs),
            (HeadLinear, "head_linear", $suffix, $isa, by_heads),
            (GroupedLinear, "grouped_linear", $suffix, $isa, by_experts),
            (GroupedGateUp, "grouped_gate_up", $suffix, $isa, by_experts),
            (ExpertLinear, "expert_linear", $suffix, $isa, by_choices),
            (ExpertGateUp, "expert_gate_up", $suffix, $isa, by_choices),
            (
                AttendExpanded,
                "attend_expanded",
                $suffix,
                $isa,
                by_expanded_heads
            ),
        ]
    };
}

/// Of these, the ones without weights.
macro_rules! weightless {
    ($suffix:literal, $isa:ident) => {
        &[
            row(
                OpKind::AttendLatent,
                concat!("host_attend_latent", $suffix),
                Features::$isa,
                any,
                by_queries,
            ),
            row(
                OpKind::AttendPart,
                concat!("host_attend_part", $suffix),
                Features::$isa,
                any,
                by_parts,
            ),
            row(
                OpKind::AttendMerge,
                concat!("host_attend_merge", $suffix),
                Features::$isa,
                any,
                by_merged_heads,
            ),
            row(
                OpKind::SwiGlu,
                concat!("host_swiglu", $suffix),
                Features::$isa,
                any,
                by_rows,
            ),
        ]
    };
}

/// Rows that multiply tiles, BF16 in pairs, look FP8 weights up and multiply blocks as integers.
macro_rules! special_products {
    ($(($op:ident, $name:literal, $launch:ident, $tiles:ident),)*) => {
        &[$(
            row(OpKind::$op, concat!("host_", $name, "_bf16_amx"), Features::AMX, bf16, $tiles),
            row(OpKind::$op, concat!("host_", $name, "_f8_amx"), Features::AMX, f8, $tiles),
            row(OpKind::$op, concat!("host_", $name, "_blocks_amx"), Features::AMX, blocks, $tiles),
            row(OpKind::$op, concat!("host_", $name, "_bf16_avx512bf16"), Features::AVX512_BF16, bf16, $launch),
            row(OpKind::$op, concat!("host_", $name, "_f8_avx512vbmi"), Features::AVX512_VBMI, f8, $launch),
            row(OpKind::$op, concat!("host_", $name, "_blocks_avx512vnni"), Features::AVX512_VNNI, blocks, $launch),
        )*]
    };
}

const fn scalar(
    op: OpKind,
    name: &'static str,
    launch: fn(&Problem, &DeviceInfo) -> Launch,
) -> KernelRow {
    row(op, name, Features::NONE, any, launch)
}

/// Host rows, faster ones above.
pub fn rows() -> Vec<KernelRow> {
    BY_ISA.concat()
}

const BY_ISA: &[&[KernelRow]] = &[
    special_products![
        (Linear, "linear", by_outputs, by_tiles),
        (GateUp, "gate_up", by_outputs, by_tiles),
        (HeadLinear, "head_linear", by_heads, by_heads),
        (GroupedLinear, "grouped_linear", by_experts, by_expert_tiles),
        (
            GroupedGateUp,
            "grouped_gate_up",
            by_experts,
            by_expert_tiles
        ),
        (ExpertLinear, "expert_linear", by_choices, by_choices),
        (ExpertGateUp, "expert_gate_up", by_choices, by_choices),
    ],
    &formats![(
        AttendExpanded,
        "attend_expanded",
        "_amx",
        AMX,
        by_expanded_heads
    ),],
    &[
        row(
            OpKind::AttendLatent,
            "host_attend_latent_amx",
            Features::AMX,
            any,
            by_tile_queries,
        ),
        row(
            OpKind::AttendPart,
            "host_attend_part_amx",
            Features::AMX,
            any,
            by_tile_parts,
        ),
    ],
    &formats![(
        AttendExpanded,
        "attend_expanded",
        "_avx512vnni",
        AVX512_VNNI,
        by_expanded_heads
    ),],
    dense!("_avx512", AVX512),
    weightless!("_avx512", AVX512),
    vectors!(Norm, "norm", "_avx512", AVX512, by_rows),
    dense!("_avx2", AVX2),
    weightless!("_avx2", AVX2),
    vectors!(Norm, "norm", "_avx2", AVX2, by_rows),
    dense!("_neon", NEON),
    weightless!("_neon", NEON),
    vectors!(Norm, "norm", "_neon", NEON, by_rows),
    dense!("", NONE),
    weightless!("", NONE),
    vectors!(Norm, "norm", "", NONE, by_rows),
    &formats![
        (Embed, "embed", "", NONE, by_rows),
        (UnpackHeads, "unpack_heads", "", NONE, by_head_rows),
    ],
    vectors!(Route, "route", "", NONE, by_row),
    &[
        scalar(OpKind::Rope, "host_rope", by_rows),
        scalar(OpKind::CacheAppend, "host_cache_append", by_rows),
        scalar(OpKind::ExpertOffsets, "host_expert_offsets", one),
        scalar(OpKind::Permute, "host_permute", by_rows),
        scalar(OpKind::Combine, "host_combine", by_rows),
        scalar(OpKind::Add, "host_add", by_rows),
        scalar(OpKind::Copy, "host_copy", by_rows),
        scalar(OpKind::Gather, "host_gather", by_rows),
        scalar(OpKind::Argmax, "host_argmax", by_row),
        scalar(OpKind::ActQuant, "host_act_quant", by_rows),
    ],
];
