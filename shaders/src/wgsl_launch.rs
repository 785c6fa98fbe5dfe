//! How the WGSL kernels are launched: grids and constants.
//!
//! Workgroup sizes depend on one thing only: whether the device is a processor in
//! disguise. No result depends on a subgroup size: what a device tells of it decides how
//! many outputs a workgroup of subgroups is given, and kernels ask again.

use hadal_device::{DeviceInfo, Features, Launch, Problem};

/// Invocations of a workgroup on a GPU: one or two subgroups of most vendors.
pub const MAX_WORKGROUP: u32 = 64;
/// And on a processor in disguise, where a barrier between subgroups costs more than the
/// work it saves (measured on lavapipe, whose subgroups are 8 wide).
const SOFTWARE_WORKGROUP: u32 = 8;

/// Invocations of a workgroup whose subgroups work alone.
const SUBGROUPS_WORKGROUP: u32 = 128;

fn is_software(info: &DeviceInfo) -> bool {
    info.features.has(Features::SOFTWARE)
}

fn workgroup(info: &DeviceInfo) -> u32 {
    let wanted = if is_software(info) {
        SOFTWARE_WORKGROUP
    } else {
        MAX_WORKGROUP
    };
    wanted.min(info.limits.max_workgroup)
}

/// Invocations where a row or an expert has only one workgroup: all that any device has.
fn large_workgroup(info: &DeviceInfo) -> u32 {
    if is_software(info) {
        SOFTWARE_WORKGROUP
    } else {
        info.limits.max_workgroup.min(256)
    }
}

/// `count` workgroups over two axes.
pub fn spread(count: u32, info: &DeviceInfo) -> [u32; 2] {
    let x = count.clamp(1, info.limits.max_grid);
    [x, count.div_ceil(x).max(1)]
}

/// One invocation a value of `width` values, the other counts along y and z.
fn values(width: u32, y: u32, z: u32) -> Launch {
    Launch {
        groups: [width.div_ceil(MAX_WORKGROUP).max(1), y.max(1), z.max(1)],
        constants: vec![("WG", MAX_WORKGROUP)],
    }
}

pub fn launch_values(problem: &Problem, _: &DeviceInfo) -> Launch {
    values(problem.params.n, problem.params.rows, 1)
}

pub fn launch_heads(problem: &Problem, _: &DeviceInfo) -> Launch {
    values(problem.params.n, problem.params.rows, problem.params.heads)
}

pub fn launch_rope(problem: &Problem, _: &DeviceInfo) -> Launch {
    values(
        problem.params.rope / 2,
        problem.params.rows,
        problem.params.heads,
    )
}

/// One workgroup a row.
pub fn launch_rows(problem: &Problem, info: &DeviceInfo) -> Launch {
    Launch {
        groups: [problem.params.rows.max(1), 1, 1],
        constants: vec![("WG", large_workgroup(info))],
    }
}

pub fn launch_act_quant(problem: &Problem, info: &DeviceInfo) -> Launch {
    Launch {
        groups: [
            problem.params.n.div_ceil(128).max(1),
            problem.params.rows.max(1),
            1,
        ],
        constants: vec![("WG", workgroup(info))],
    }
}

/// Lanes for each output: enough to read a weight row together, few enough that each has
/// some sixteen values to work on between two barriers.
fn lanes(k: u32, info: &DeviceInfo) -> u32 {
    if is_software(info) {
        1
    } else {
        (k / 16)
            .next_power_of_two()
            .clamp(8, MAX_WORKGROUP)
            .min(workgroup(info))
    }
}

struct Dots {
    outputs_a_group: u32,
    constants: Vec<(&'static str, u32)>,
}

fn dots(k: u32, rows: u32, info: &DeviceInfo) -> Dots {
    let (group, lanes) = (workgroup(info), lanes(k, info));
    Dots {
        outputs_a_group: group / lanes,
        constants: vec![("WG", group), ("LANES", lanes), ("ROWS", rows)],
    }
}

/// Rows a lane works on at once.
fn row_block(rows: u32) -> u32 {
    match rows {
        0 | 1 => 1,
        2 => 2,
        _ => 4,
    }
}

/// The kernels' own sums over subgroups, in place of `dots`: an output for each subgroup
/// where these have the smallest size the device tells of, and several in turn where they
/// are larger. Any number is right; this one leaves none idle.
fn subgroup_dots(_: u32, rows: u32, info: &DeviceInfo) -> Dots {
    let group = SUBGROUPS_WORKGROUP.min(info.limits.max_workgroup);
    let outputs = group / info.limits.subgroup.0.clamp(4, 64);
    Dots {
        outputs_a_group: outputs,
        constants: vec![("WG", group), ("OUTPUTS", outputs), ("ROWS", rows)],
    }
}

/// How the lanes of a kernel are shared out among outputs, given `k` and rows a lane.
type Layout = fn(u32, u32, &DeviceInfo) -> Dots;

pub fn launch_linear(problem: &Problem, info: &DeviceInfo) -> Launch {
    linear(problem, info, dots)
}

pub fn launch_linear_subgroups(problem: &Problem, info: &DeviceInfo) -> Launch {
    linear(problem, info, subgroup_dots)
}

fn linear(problem: &Problem, info: &DeviceInfo, layout: Layout) -> Launch {
    let p = &problem.params;
    let block = row_block(p.rows);
    let dots = layout(p.k, block, info);
    let [x, y] = spread(p.row_count.div_ceil(dots.outputs_a_group), info);
    Launch {
        groups: [x, y, p.rows.div_ceil(block).max(1)],
        constants: dots.constants,
    }
}

pub fn launch_head_linear(problem: &Problem, info: &DeviceInfo) -> Launch {
    head_linear(problem, info, dots)
}

pub fn launch_head_linear_subgroups(problem: &Problem, info: &DeviceInfo) -> Launch {
    head_linear(problem, info, subgroup_dots)
}

fn head_linear(problem: &Problem, info: &DeviceInfo, layout: Layout) -> Launch {
    let p = &problem.params;
    let block = row_block(p.rows);
    let dots = layout(p.k, block, info);
    Launch {
        groups: [
            p.n.div_ceil(dots.outputs_a_group).max(1),
            p.heads.max(1),
            p.rows.div_ceil(block).max(1),
        ],
        constants: dots.constants,
    }
}

pub fn launch_head_transposed(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    // The packed kernel needs a quarter of these along x; the others leave at once.
    values(p.n, p.heads, p.rows.div_ceil(4))
}

pub fn launch_grouped(problem: &Problem, info: &DeviceInfo) -> Launch {
    grouped(problem, info, dots)
}

pub fn launch_grouped_subgroups(problem: &Problem, info: &DeviceInfo) -> Launch {
    grouped(problem, info, subgroup_dots)
}

fn grouped(problem: &Problem, info: &DeviceInfo, layout: Layout) -> Launch {
    let p = &problem.params;
    let dots = layout(p.k, row_block(p.rows), info);
    let [x, y] = spread(p.n.div_ceil(dots.outputs_a_group), info);
    Launch {
        groups: [x, y, p.expert_count.max(1)],
        constants: dots.constants,
    }
}

pub fn launch_expert(problem: &Problem, info: &DeviceInfo) -> Launch {
    expert(problem, info, dots)
}

pub fn launch_expert_subgroups(problem: &Problem, info: &DeviceInfo) -> Launch {
    expert(problem, info, subgroup_dots)
}

fn expert(problem: &Problem, info: &DeviceInfo, layout: Layout) -> Launch {
    let p = &problem.params;
    let dots = layout(p.k, 1, info);
    let [x, y] = spread(p.n.div_ceil(dots.outputs_a_group), info);
    Launch {
        groups: [x, y, p.rows.max(1)],
        constants: dots.constants,
    }
}

pub fn launch_attend(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    Launch {
        groups: [p.heads.max(1), p.rows.max(1), 1],
        constants: vec![
            ("WG", workgroup(info)),
            ("LATENT", p.latent),
            ("WIDTH", p.latent + p.rope),
        ],
    }
}

/// The same with widths counted in quads.
pub fn launch_attend_quads(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    Launch {
        constants: vec![
            ("WG", workgroup(info)),
            ("LATENT", p.latent / 4),
            ("WIDTH", (p.latent + p.rope) / 4),
        ],
        ..launch_attend(problem, info)
    }
}

/// Four heads a workgroup.
pub fn launch_attend_block(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let (group, width) = (workgroup(info), (p.latent + p.rope) / 4);
    Launch {
        groups: [p.heads.div_ceil(4).max(1), p.rows.max(1), 1],
        constants: vec![
            ("WG", group),
            ("LATENT", p.latent / 4),
            ("WIDTH", width),
            ("QUERY", 4 * width),
            ("BLOCK", 4 * group),
        ],
    }
}

/// Queries of a block of the tiled kernel.
const TILE_QUERIES: u32 = 32;

/// Blocks of 32 queries: as many heads as there are, then rows.
pub fn launch_attend_tile(problem: &Problem, _: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let heads = p.heads.max(1).next_power_of_two().min(TILE_QUERIES);
    Launch {
        groups: [
            p.heads.div_ceil(heads).max(1),
            p.rows.div_ceil(TILE_QUERIES / heads).max(1),
            1,
        ],
        constants: vec![
            ("LATENT", p.latent / 4),
            ("WIDTH", (p.latent + p.rope) / 4),
            ("HEADS", heads),
        ],
    }
}

pub fn launch_attend_part(problem: &Problem, info: &DeviceInfo) -> Launch {
    let Launch { groups, constants } = launch_attend_tile(problem, info);
    Launch {
        groups: [groups[0], groups[1], problem.params.row_count.max(1)],
        constants,
    }
}

pub fn launch_attend_merge(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    Launch {
        groups: [p.heads.max(1), p.rows.max(1), 1],
        constants: vec![("WG", workgroup(info)), ("PARTS", p.n.max(1))],
    }
}

pub fn launch_route(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    Launch {
        groups: [p.rows.max(1), 1, 1],
        constants: vec![
            ("WG", large_workgroup(info)),
            ("EXPERTS", p.experts),
            ("GROUPS", p.groups.max(1)),
            ("TOP_K", p.top_k),
        ],
    }
}

pub fn launch_expert_offsets(problem: &Problem, info: &DeviceInfo) -> Launch {
    Launch {
        groups: [problem.params.experts.max(1), 1, 1],
        constants: vec![("WG", large_workgroup(info))],
    }
}

/// Rows and outputs of an invocation of the block kernel.
pub const BLOCK_ROWS: u32 = 4;

/// Constants of the block kernel, and rows and outputs of its workgroup. On a GPU
/// neighbours share activations and weights through the first-level cache; software
/// adapters have nothing to share them with.
fn block(info: &DeviceInfo) -> (Vec<(&'static str, u32)>, u32, u32) {
    let group = workgroup(info);
    let columns = if is_software(info) { group } else { group / 4 };
    (
        vec![("WG", group), ("COLUMNS", columns)],
        group / columns * BLOCK_ROWS,
        columns * BLOCK_ROWS,
    )
}

pub fn launch_block(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let (constants, rows, outputs) = block(info);
    let [x, y] = spread(p.row_count.div_ceil(outputs), info);
    Launch {
        groups: [x, y, p.rows.div_ceil(rows).max(1)],
        constants,
    }
}

pub fn launch_grouped_block(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let (constants, _, outputs) = block(info);
    let [x, y] = spread(p.n.div_ceil(outputs), info);
    Launch {
        groups: [x, y, p.expert_count.max(1)],
        constants,
    }
}

/// Rows and outputs of a workgroup of the tiled kernel.
pub const TILE_ROWS: u32 = 64;

pub fn launch_tile(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let [x, y] = spread(p.row_count.div_ceil(TILE_ROWS), info);
    Launch {
        groups: [x, y, p.rows.div_ceil(TILE_ROWS).max(1)],
        constants: Vec::new(),
    }
}

pub fn launch_grouped_tile(problem: &Problem, info: &DeviceInfo) -> Launch {
    let p = &problem.params;
    let [x, y] = spread(p.n.div_ceil(TILE_ROWS), info);
    Launch {
        groups: [x, y, p.expert_count.max(1)],
        constants: Vec::new(),
    }
}
