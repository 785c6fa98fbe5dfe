//! The SPIR-V modules agree with their sources, with the table of rows, and with the contract.
//! No device is needed: the binaries are read word by word.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hadal_device::{
    Body, DType, DeviceInfo, DeviceKind, Features, KernelRow, Limits, MatrixSizes, OpKind, Params,
    Problem, flags, select,
};
use hadal_shaders::spirv::{CONSTANTS, HALF_SUBNORMALS, MODULES, Module, module};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spirv")
}

/// Rows with a SPIR-V body, with their modules.
fn spirv_rows() -> Vec<(&'static KernelRow, &'static Module)> {
    let rows = hadal_shaders::table().iter();
    rows.filter_map(|row| match row.body {
        Body::Spirv { file } => Some((row, module(file).expect("the module is there"))),
        _ => None,
    })
    .collect()
}

/// Numbers that `decoration` gives to ids of a module.
fn decorated(module: &Module, decoration: u32) -> BTreeSet<u32> {
    const DECORATE: u32 = 71;
    let words = module.words();
    let mut rest = &words[5..];
    let mut found = BTreeSet::new();
    while let [first, ..] = rest {
        match rest {
            [first, _, kind, number, ..] if first & 0xffff == DECORATE && *kind == decoration => {
                found.insert(*number);
            }
            _ => {}
        }
        rest = &rest[(first >> 16) as usize..];
    }
    found
}

/// All text of the folder.
fn sources() -> Vec<(String, String)> {
    let folders = [folder(), folder().join("shared")];
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).expect("the folder is part of the crate"));
    let files = files.map(|file| file.expect("readable").path());
    files
        .filter(|file| file.extension().is_some_and(|e| e == "comp" || e == "glsl"))
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("text");
            (file.display().to_string(), text)
        })
        .collect()
}

#[test]
fn modules_bind_what_their_binaries_do() {
    const BINDING: u32 = 33;
    for module in MODULES {
        let count = module.bindings.len() as u32;
        let numbers = decorated(module, BINDING);
        assert_eq!(numbers, (0..count).collect(), "{}", module.name);
        assert!(count <= 9, "{} takes {count} resources", module.name);
    }
}

#[test]
fn constants_have_the_numbers_of_the_sources() {
    let mut declared = BTreeMap::new();
    for (file, text) in sources() {
        for line in text.lines().filter(|line| line.contains("constant_id")) {
            let number = line.split(['=', ')']).nth(1).expect("a number").trim();
            let name = line.split(" uint ").nth(1).expect("a name");
            let name = name.split(' ').next().expect("a name").to_string();
            let number: u32 = number.parse().expect("a number");
            let before = declared.insert(name.clone(), number);
            assert!(
                before.is_none_or(|before| before == number),
                "{file}: {name}"
            );
        }
    }
    let known = CONSTANTS
        .iter()
        .map(|(name, number)| (name.to_string(), *number));
    assert_eq!(declared, known.collect());
}

#[test]
fn the_parameter_block_has_the_words_of_params_in_their_order() {
    let text = std::fs::read_to_string(folder().join("shared/params.glsl")).expect("text");
    let block = text.split("uniform Params {").nth(1).expect("a block");
    let block = block.split('}').next().expect("its end");
    let fields: Vec<&str> = block
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("uint ") || line.starts_with("float "))
        .filter_map(|line| line.split([' ', ';']).nth(1))
        .collect();
    assert_eq!(fields, Params::FIELDS);
}

#[test]
fn every_module_is_listed_and_used() {
    let list = std::fs::read_to_string(folder().join("kernels.txt")).expect("text");
    let listed: BTreeSet<&str> = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let known: BTreeSet<&str> = MODULES.iter().map(|module| module.name).collect();
    let used: BTreeSet<&str> = spirv_rows().iter().map(|(_, module)| module.name).collect();
    assert_eq!(listed, known);
    assert_eq!(used, known);
}

/// A device with these features; matrices and subgroups of these sizes.
fn info(features: Features, matrix: [u32; 3], subgroup: u32, invocations: u32) -> DeviceInfo {
    DeviceInfo {
        backend: "none",
        ordinal: 0,
        name: String::new(),
        driver: String::new(),
        kind: DeviceKind::DiscreteGpu,
        features,
        limits: Limits {
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            offset_align: 256,
            max_operands: 8,
            max_workgroup: invocations,
            max_grid: 65_535,
            shared_bytes: 32 << 10,
            subgroup: (subgroup, subgroup),
            matrix: Some(MatrixSizes {
                f16: Some(matrix),
                bf16: Some(matrix),
                e4m3: Some(matrix),
                int8: Some(matrix),
            }),
        },
        memory_bytes: None,
        expand_from_tokens: None,
        members: Vec::new(),
    }
}

/// How many elements an activation is for a row on matrix units, an element's bytes, and how many
/// of them a tile's rows stand apart beyond 32.
fn elements(row: &KernelRow) -> Option<(u32, u32, u32)> {
    match row.needs {
        needs if needs.has(Features::COOPERATIVE_E4M3) => Some((1, 1, 16)),
        needs if needs.has(Features::COOPERATIVE_INT8) => Some((3, 1, 16)),
        needs if needs.has(Features::COOPERATIVE_BF16) => Some((3, 2, 8)),
        needs if needs.has(Features::COOPERATIVE_MATRIX) && row.takes_codes => Some((1, 2, 8)),
        needs if needs.has(Features::COOPERATIVE_MATRIX) => Some((2, 2, 8)),
        _ => None,
    }
}

/// lavapipe; NVIDIA and AMD; AMD with wide subgroups; Intel; one subgroup a workgroup.
const DEVICES: [([u32; 3], u32, u32); 6] = [
    ([8, 8, 8], 8, 1024),
    ([16, 16, 16], 32, 1024),
    ([16, 16, 16], 64, 256),
    ([8, 16, 16], 16, 512),
    ([16, 8, 16], 32, 1024),
    ([16, 16, 32], 64, 64),
];

fn problem(op: OpKind, weight: DType, rows: u32) -> Problem {
    let params = Params {
        rows,
        n: 7168,
        k: 2048,
        row_count: 7168,
        x_stride: 2048,
        experts: 4,
        expert_count: 4,
        top_k: 2,
        ..Params::default()
    };
    Problem { op, weight, params }
}

const FORMATS: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3];

#[test]
fn launches_set_constants_that_the_module_has() {
    const SPEC_ID: u32 = 1;
    for (row, module) in spirv_rows() {
        let present = decorated(module, SPEC_ID);
        let mut set = BTreeSet::new();
        for (matrix, subgroup, invocations) in DEVICES {
            let info = info(row.needs, matrix, subgroup, invocations);
            for rows in [16, 100, 4096] {
                let launch = (row.launch)(&problem(row.op, DType::F32, rows), &info);
                for (name, _) in launch.constants {
                    let (_, number) = CONSTANTS.iter().find(|(n, _)| *n == name).expect(name);
                    // A constant that a format has no use for is left out of its module.
                    assert!(
                        present.contains(number) || name == "FORMAT",
                        "{}: {name}",
                        row.name
                    );
                    set.insert(*number);
                }
                let grid = launch.groups.iter();
                assert!(
                    grid.clone().all(|g| (1..=65_535).contains(g)),
                    "{}",
                    row.name
                );
            }
        }
        let half = CONSTANTS.iter().find(|(name, _)| *name == HALF_SUBNORMALS);
        set.extend(half.map(|(_, number)| *number));
        assert!(present.is_subset(&set), "{}: {present:?} {set:?}", row.name);
    }
}

#[test]
fn tiles_of_matrices_fit_workgroup_memory_and_are_shared_out_evenly() {
    for (row, _) in spirv_rows() {
        let Some((parts, element_bytes, padding)) = elements(row) else {
            continue;
        };
        let weights = match row.op {
            OpKind::GateUp | OpKind::GroupedGateUp => 2,
            _ => 1,
        };
        for (matrix, subgroup, invocations) in DEVICES {
            let info = info(row.needs, matrix, subgroup, invocations);
            for (rows, weight) in [16, 17, 60, 4096]
                .into_iter()
                .flat_map(|r| FORMATS.map(|f| (r, f)))
            {
                let launch = (row.launch)(&problem(row.op, weight, rows), &info);
                let get = |name| {
                    launch
                        .constants
                        .iter()
                        .find(|(n, _)| *n == name)
                        .expect(name)
                        .1
                };
                let place = format!("{} on {matrix:?} with {rows} rows", row.name);
                let [m, n, k] = [get("M"), get("N"), get("K")];
                let (row_parts, column_parts) = (get("ROW_PARTS"), get("COLUMN_PARTS"));
                assert_eq!([m, n, k], matrix, "{place}");
                assert!(get("WG") <= invocations, "{place}");
                // Kernels load 32 inputs at a time.
                assert!(32 % k == 0, "{place}");
                assert_eq!(get("ROWS") % (m * row_parts), 0, "{place}");
                assert_eq!(get("COLUMNS") % (n * column_parts), 0, "{place}");
                assert!(row_parts * column_parts * subgroup <= get("WG"), "{place}");
                assert_eq!(get("SUBGROUPS"), row_parts * column_parts, "{place}");
                // A tile of outputs lies in one block of scales.
                assert_eq!(128 % get("COLUMNS"), 0, "{place}");
                let w_parts = match (weight, parts) {
                    (DType::F32, 2) => 2,
                    _ => 1,
                };
                let values = parts * get("ROWS") + w_parts * weights * get("COLUMNS");
                let scales = match row.needs.has(Features::COOPERATIVE_INT8) {
                    true => 4 * (get("ROWS") * (n + 1) + weights * get("COLUMNS") * m),
                    false if row.takes_codes => 4 * get("ROWS") * n,
                    false => 16,
                };
                let bytes =
                    element_bytes * (32 + padding) * values + 4 * get("SUBGROUPS") * m * n + scales;
                assert!(bytes <= 32 << 10, "{place}: {bytes} bytes");
            }
        }
    }
}

#[test]
fn scattered_tables_go_to_rows_with_addresses_whatever_the_shape() {
    let all = Features::WGSL
        .with(Features::SPIRV)
        .with(Features::POINTER_TABLES);
    let grouped = [OpKind::GroupedLinear, OpKind::GroupedGateUp];
    let direct = [OpKind::ExpertLinear, OpKind::ExpertGateUp];
    for features in [
        all,
        all.with(Features::SOFTWARE),
        all.with(Features::COOPERATIVE_MATRIX),
    ] {
        let info = info(features, [16; 3], 32, 256);
        for op in grouped.into_iter().chain(direct) {
            for weight in FORMATS {
                for (rows, k) in [(1, 33), (8, 2048), (4096, 2048), (4096, 30)] {
                    let mut problem = problem(op, weight, rows);
                    (problem.params.k, problem.params.x_stride) = (k, k);
                    let choose = |problem: &Problem, info| {
                        select(hadal_shaders::table(), info, problem).map(|choice| choice.row)
                    };
                    let plain = choose(&problem, &info).expect("a row fits");
                    problem.params.flags |= flags::SCATTERED;
                    let row = choose(&problem, &info).expect("a row fits");
                    assert!(row.takes_scattered(), "{}", row.name);
                    // In one range others are as good, but for matrix units.
                    let matrix = plain.needs.has(Features::COOPERATIVE_MATRIX);
                    assert!(matrix || !plain.takes_scattered(), "{}", plain.name);
                    let mut without = info.clone();
                    without.features = Features::WGSL;
                    assert!(choose(&problem, &without).is_err(), "{}", op.name());
                }
            }
        }
    }
}

#[test]
fn matrix_units_are_for_many_rows() {
    let features = Features::WGSL
        .with(Features::SPIRV)
        .with(Features::POINTER_TABLES);
    let features = features.with(Features::COOPERATIVE_MATRIX);
    let info = info(features, [16; 3], 32, 1024);
    for op in [
        OpKind::Linear,
        OpKind::GateUp,
        OpKind::GroupedLinear,
        OpKind::GroupedGateUp,
    ] {
        for weight in FORMATS {
            for (rows, matrix) in [(15, false), (16, true), (512, true)] {
                let problem = problem(op, weight, rows);
                let choice = select(hadal_shaders::table(), &info, &problem);
                let row = choice.map(|choice| choice.row).expect("a row fits");
                let is = row.needs.has(Features::COOPERATIVE_MATRIX);
                assert_eq!(is, matrix, "{} for {rows} rows", row.name);
            }
        }
    }
}

#[test]
fn codes_go_to_units_for_them_and_else_to_f16() {
    let f16 = Features::SPIRV
        .with(Features::POINTER_TABLES)
        .with(Features::COOPERATIVE_MATRIX);
    for (features, ending) in [
        (f16, "_coded"),
        (f16.with(Features::COOPERATIVE_E4M3), "_coded_units"),
    ] {
        let info = info(features, [16; 3], 32, 1024);
        for op in [
            OpKind::Linear,
            OpKind::GateUp,
            OpKind::GroupedLinear,
            OpKind::GroupedGateUp,
        ] {
            let mut problem = problem(op, DType::F8E4M3, 64);
            problem.params.flags |= flags::CODED;
            let choice = select(hadal_shaders::table(), &info, &problem);
            let row = choice.map(|choice| choice.row).expect("a row fits");
            assert!(row.name.ends_with(ending), "{}", row.name);
            problem.weight = DType::Bf16;
            assert!(select(hadal_shaders::table(), &info, &problem).is_err());
        }
        let mut problem = problem(OpKind::ActQuant, DType::F32, 64);
        problem.params.flags |= flags::CODED;
        let choice = select(hadal_shaders::table(), &info, &problem);
        let row = choice.map(|choice| choice.row).expect("a row fits");
        assert_eq!(row.name, "spirv_act_quant");
    }
}

#[test]
fn every_type_of_element_has_rows_of_its_own() {
    for (feature, weight, name) in [
        (
            Features::COOPERATIVE_BF16,
            DType::Bf16,
            "spirv_linear_matrix_bf16_units",
        ),
        (
            Features::COOPERATIVE_INT8,
            DType::Q8_0,
            "spirv_linear_matrix_q8_0",
        ),
    ] {
        let info = info(Features::SPIRV.with(feature), [16; 3], 32, 1024);
        let problem = problem(OpKind::Linear, weight, 64);
        let choice = select(hadal_shaders::table(), &info, &problem);
        let row = choice.map(|choice| choice.row).expect("a row fits");
        assert_eq!(row.name, name);
    }
}
