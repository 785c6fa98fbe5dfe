//! Every WGSL row is put together and validated by naga, on no device.

use std::collections::{BTreeMap, BTreeSet};

use hadal_device::{
    Body, DType, DeviceInfo, DeviceKind, Features, KernelRow, Limits, OpKind, Params, Problem,
};
use hadal_shaders::wgsl::{Assembled, Binding, PARAM_BYTES, Target, assemble, kernel_files};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// Rows with a WGSL body, with the file and the definitions.
fn wgsl_rows() -> Vec<(&'static KernelRow, &'static str, &'static [&'static str])> {
    let rows = hadal_shaders::table().iter();
    rows.filter_map(|row| match row.body {
        Body::Wgsl { file, defines } => Some((row, file, defines)),
        _ => None,
    })
    .collect()
}

/// Every text of a kernel with these definitions that a device may want.
fn targets(defines: &[&str]) -> Vec<Target> {
    let formats: Vec<Option<DType>> = match defines.contains(&"BLOCKS") {
        true => DType::BLOCKS.into_iter().map(Some).collect(),
        false => vec![None],
    };
    let target = |half_subnormals: bool, format: &Option<DType>| Target {
        half_subnormals,
        format: *format,
        ..Target::default()
    };
    let halves = [false, true].into_iter();
    halves
        .flat_map(|half| formats.iter().map(move |format| target(half, format)))
        .collect()
}

fn assembled(file: &str, defines: &[&str], target: Target) -> Assembled {
    assemble(file, defines, target).unwrap_or_else(|e| panic!("{file} {defines:?}: {e}"))
}

fn validated(name: &str, source: &str) -> naga::Module {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    Validator::new(
        ValidationFlags::all(),
        Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP,
    )
    .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
    .subgroup_operations(naga::valid::SubgroupOperationSet::all())
    .validate(&module)
    .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    module
}

#[test]
fn naga_accepts_every_row_for_every_target() {
    for (row, file, defines) in wgsl_rows() {
        for target in targets(defines) {
            let kernel = assembled(file, defines, target);
            let module = validated(row.name, &kernel.source);
            assert_eq!(module.entry_points.len(), 1, "{}", row.name);
            assert_eq!(module.entry_points[0].name, "main", "{}", row.name);
        }
    }
}

#[test]
fn bindings_are_numbered_in_the_order_of_operands_and_fit_eight_storage_buffers() {
    for (row, file, defines) in wgsl_rows() {
        let kernel = assembled(file, defines, targets(defines)[0]);
        let module = validated(row.name, &kernel.source);
        let numbers: BTreeSet<u32> = module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| variable.binding.as_ref())
            .map(|binding| binding.binding)
            .collect();
        let used = kernel
            .bindings
            .iter()
            .filter(|b| **b != Binding::Unused)
            .count();
        assert_eq!(numbers, (0..used as u32).collect(), "{}", row.name);
        assert!(used <= 9, "{} takes {used} resources", row.name);
        assert_eq!(
            kernel.bindings[..2],
            [Binding::Params, Binding::Read],
            "{}",
            row.name
        );
    }
}

#[test]
fn the_parameter_struct_has_the_words_of_params_in_their_order() {
    let kernel = assembled("norm", &["F32"], Target::default());
    let module = validated("norm", &kernel.source);
    let (_, block) = module
        .types
        .iter()
        .find(|(_, ty)| ty.name.as_deref() == Some("Params"))
        .expect("a struct Params");
    let naga::TypeInner::Struct { members, span } = &block.inner else {
        panic!("Params is not a struct");
    };
    assert_eq!(u64::from(*span), PARAM_BYTES);
    for (word, field) in Params::FIELDS.iter().enumerate() {
        assert_eq!(members[word].name.as_deref(), Some(*field));
        assert_eq!(members[word].offset as usize, 4 * word, "{field}");
    }
    assert_eq!(members[32].name.as_deref(), Some("table_strides"));
    assert_eq!(members[32].offset, 128);
    assert_eq!(members.len(), 33);
}

/// A device with the least limits that any has.
fn device(features: Features) -> DeviceInfo {
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
            max_workgroup: 256,
            max_grid: 65_535,
            shared_bytes: 16 << 10,
            subgroup: (0, 0),
            matrix: None,
        },
        memory_bytes: None,
        expand_from_tokens: None,
        members: Vec::new(),
    }
}

#[test]
fn constants_of_a_launch_are_overrides_of_its_kernel() {
    let params = Params {
        rows: 3,
        n: 20_000,
        k: 7168,
        row_count: 200_000,
        heads: 2,
        latent: 512,
        rope: 64,
        experts: 256,
        groups: 8,
        top_k: 8,
        expert_count: 4,
        ..Params::default()
    };
    for (row, file, defines) in wgsl_rows() {
        let module = validated(
            row.name,
            &assembled(file, defines, targets(defines)[0]).source,
        );
        let overrides: BTreeMap<&str, ()> = module
            .overrides
            .iter()
            .filter_map(|(_, o)| o.name.as_deref().map(|name| (name, ())))
            .collect();
        // Rows of a shard; of split attention, its parts.
        let row_count = match row.op {
            OpKind::AttendPart => 64,
            _ => params.row_count,
        };
        for features in [Features::WGSL, Features::WGSL.with(Features::SOFTWARE)] {
            let problem = Problem {
                op: row.op,
                weight: DType::F32,
                params: Params {
                    row_count,
                    ..params
                },
            };
            let launch = (row.launch)(&problem, &device(features));
            for (constant, _) in &launch.constants {
                assert!(
                    overrides.contains_key(constant),
                    "{} sets {constant}",
                    row.name
                );
            }
            assert!(
                launch.groups.iter().all(|g| (1..=65_535).contains(g)),
                "{}",
                row.name
            );
        }
    }
}

#[test]
fn every_required_operation_has_a_wgsl_row_and_names_are_unique() {
    let mut names = BTreeSet::new();
    for row in hadal_shaders::table() {
        assert!(names.insert(row.name), "two rows are called {}", row.name);
    }
    for (op, name) in OpKind::ALL.iter().filter(|(op, _)| !op.is_optional()) {
        assert!(
            wgsl_rows().iter().any(|(row, ..)| row.op == *op),
            "no row for {name}"
        );
    }
}

#[test]
fn every_file_is_used_and_short() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("wgsl");
    let mut kernels = BTreeSet::new();
    for (folder, is_kernel) in [(folder.clone(), true), (folder.join("shared"), false)] {
        for entry in std::fs::read_dir(folder).expect("the folder is part of the crate") {
            let path = entry.expect("readable").path();
            if path.extension().is_none_or(|e| e != "wgsl") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("readable");
            assert!(
                text.lines().count() <= 200,
                "{} is too long",
                path.display()
            );
            assert!(
                text.starts_with("//"),
                "{} opens without a comment",
                path.display()
            );
            if is_kernel {
                let stem = path.file_stem().expect("a name").to_string_lossy();
                kernels.insert(stem.into_owned());
            }
        }
    }
    let listed: BTreeSet<String> = kernel_files().map(str::to_string).collect();
    let in_rows: BTreeSet<String> = wgsl_rows()
        .iter()
        .map(|(_, file, _)| file.to_string())
        .collect();
    assert_eq!(listed, kernels);
    assert_eq!(listed, in_rows);
}
