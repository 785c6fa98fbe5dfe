//! Programs as text: a change in lowering shows as a diff of `tests/golden/*.txt`. Written
//! anew on purpose with `HADAL_BLESS=1`.

use std::path::Path;
use std::sync::Arc;

use hadal_device::{
    Backend, DeviceInfo, DeviceKind, Dispatch, Features, KernelRow, Limits, PipelineId, Problem,
    Step, flags, select,
};
use hadal_graph::{
    ActScale, Dtypes, Form, Lowered, MoeForm, Request, Target, WorkLimit, lower, optimise,
};
use hadal_models::Outputs;
use hadal_tests::checkpoint::Family;
use hadal_weights::{Checkpoint, Declared, Placement};

/// A GPU with bindings so small that tables and matrices are cut.
fn gpu() -> DeviceInfo {
    DeviceInfo {
        backend: "wgpu",
        ordinal: 0,
        name: "a GPU".to_string(),
        driver: String::new(),
        kind: DeviceKind::DiscreteGpu,
        features: Features::WGSL,
        limits: Limits {
            max_binding_bytes: 20 << 10,
            max_buffer_bytes: 1 << 20,
            offset_align: 256,
            max_operands: 8,
            max_workgroup: 256,
            max_grid: 65535,
            shared_bytes: 16 << 10,
            subgroup: (0, 0),
            matrix: None,
        },
        memory_bytes: None,
        expand_from_tokens: None,
        members: Vec::new(),
    }
}

/// A GPU with subgroup operations and room.
fn large_gpu() -> DeviceInfo {
    let small = gpu();
    DeviceInfo {
        features: small.features.with(Features::SUBGROUPS),
        limits: Limits {
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            subgroup: (32, 32),
            ..small.limits
        },
        ..small
    }
}

fn plain_host() -> DeviceInfo {
    let backend = hadal_host::HostBackend::new().with_isa(hadal_host::Isa::Scalar);
    let info = backend
        .devices()
        .expect("the host is always there")
        .remove(0);
    DeviceInfo {
        name: String::new(),
        ..info
    }
}

/// Every weight of the whole model: those of the layers that were cut off stay in the file.
fn declared(family: Family, dtypes: &Dtypes<'_>) -> Vec<Declared> {
    let config = family.config();
    let whole = hadal_models::build(&config, dtypes, Outputs::Hidden).expect("legal");
    let modules = (0..config.num_nextn_predict_layers).map(|module| {
        hadal_models::build_mtp(&config, module, dtypes, Outputs::Hidden).expect("legal")
    });
    let graphs: Vec<_> = std::iter::once(whole).chain(modules).collect();
    let mut declared: Vec<Declared> = Vec::new();
    for weight in graphs.iter().flat_map(|graph| graph.weights()) {
        if declared.iter().all(|known| known.name != weight.name) {
            declared.push(Declared {
                experts: weight.experts,
                ..Declared::new(weight.name, &weight.shape)
            });
        }
    }
    let copies = hadal_models::manifest::mtp_copies(&config);
    declared.extend(
        copies
            .into_iter()
            .map(|c| Declared::alias(c.name, c.of, &c.shape)),
    );
    declared
}

fn program(info: &DeviceInfo, family: Family, bucket: u32, form: Form) -> String {
    special(info, family, bucket, form, (None, None))
}

/// With rounded activations, or a limit of a dispatch's work.
fn special(
    info: &DeviceInfo,
    family: Family,
    bucket: u32,
    form: Form,
    (quantise, limit): (Option<ActScale>, Option<WorkLimit>),
) -> String {
    let lowered = lowered(info, family, (bucket, form), (quantise, limit), false);
    let slots: Vec<String> = lowered
        .slots
        .iter()
        .map(|slot| format!("{slot:?}"))
        .collect();
    format!(
        "{}slots {}\nscratch {} bytes\n",
        lowered.program,
        slots.join(" "),
        lowered.scratch_bytes
    )
}

fn lowered(
    info: &DeviceInfo,
    family: Family,
    (bucket, form): (u32, Form),
    (quantise, limit): (Option<ActScale>, Option<WorkLimit>),
    rough: bool,
) -> Lowered {
    let file = ("m".to_string(), Arc::new(family.safetensors(7)) as _);
    let source = Checkpoint::from_pages(vec![file]).expect("the small checkpoint opens");
    let dtypes = |name: &str| {
        use hadal_weights::TensorSource;
        match source.get(&name.replace("{}", "0"))?.dtype {
            hadal_weights::FileType::Weight(dtype) => Some(dtype),
            hadal_weights::FileType::Other(_) => None,
        }
    };
    let config = family
        .config()
        .cut(Some(2), None)
        .expect("two layers are a model");
    let graph = hadal_models::build(&config, &dtypes, Outputs::Logits).expect("a legal model");
    let declared = declared(family, &dtypes);
    let placement = Placement::plan(&declared, &source, info).expect("it fits");
    let table = hadal_shaders::table();
    let runs = |problem: &Problem| select(table, info, problem).is_ok();
    let target = Target {
        form,
        quantise,
        rows: bucket,
        runs: &runs,
    };
    let graph = optimise(graph, &target).expect("the passes keep the graph legal");
    let request = Request {
        bucket,
        logit_rows: 1,
        sequences: 1,
        page_stride: 1,
        cache_rows: 64,
        context: 128,
        moe: MoeForm::Auto,
        rough,
        quantised: quantise.is_some(),
        limit,
    };
    let mut next = 0;
    let mut pipelines = |_: &KernelRow, _: &[(&'static str, u32)]| {
        next += 1;
        Ok(PipelineId(next))
    };
    lower(&graph, request, table, info, &placement, &mut pipelines).expect("it lowers")
}

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    if std::env::var_os("HADAL_BLESS").is_some() {
        std::fs::write(&path, text).expect("the golden folder is writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{name} differs; if that is meant, run again with HADAL_BLESS=1 and read the diff\n{text}"
    );
}

#[test]
fn a_decode_step_on_the_host_reads_as_expected() {
    check(
        "host_decode.txt",
        &program(&plain_host(), Family::V3Fp8, 1, Form::Absorbed),
    );
}

#[test]
fn a_prefill_step_on_the_host_sorts_by_expert_and_expands() {
    check(
        "host_prefill.txt",
        &program(&plain_host(), Family::V3, 32, Form::Expanded),
    );
}

#[test]
fn a_decode_step_on_a_gpu_splits_attention_and_makes_cache_rows_at_once() {
    check(
        "gpu_decode_v3.txt",
        &program(&large_gpu(), Family::V3Fp8, 1, Form::Absorbed),
    );
}

#[test]
fn a_prefill_step_on_a_gpu_takes_tiles() {
    check(
        "gpu_prefill.txt",
        &program(&large_gpu(), Family::V3, 128, Form::Absorbed),
    );
}

#[test]
fn a_decode_step_on_a_gpu_with_small_bindings_is_cut() {
    check(
        "gpu_decode.txt",
        &program(&gpu(), Family::Moonlight, 1, Form::Absorbed),
    );
}

#[test]
fn a_long_step_on_a_gpu_is_cut_along_rows_heads_and_experts() {
    let limit = WorkLimit {
        units: 20_000,
        positions: 128,
    };
    let wide = DeviceInfo {
        limits: Limits {
            max_binding_bytes: 1 << 20,
            ..gpu().limits
        },
        ..gpu()
    };
    check(
        "gpu_cut.txt",
        &special(&wide, Family::V3Fp8, 8, Form::Absorbed, (None, Some(limit))),
    );
}

#[test]
fn a_step_of_codes_quantises_with_the_norm() {
    let features = Features::GPU_CPP.with(Features::MMA_SYNC);
    let features = features.with(Features::POINTER_TABLES);
    let coded = DeviceInfo {
        backend: "cuda",
        features: features.with(Features::FP8_MMA),
        ..large_gpu()
    };
    let quantise = Some(ActScale::F32);
    check(
        "cuda_codes.txt",
        &special(&coded, Family::V3Fp8, 32, Form::Absorbed, (quantise, None)),
    );
}

/// The dispatches of a program, and whether their activations may be rounded.
fn dispatches(lowered: &Lowered) -> impl Iterator<Item = (&Dispatch, bool)> {
    lowered.program.steps.iter().filter_map(|step| match step {
        Step::Dispatch(dispatch) => Some((dispatch, dispatch.params.flags & flags::ROUGH != 0)),
        _ => None,
    })
}

#[test]
fn where_activations_may_be_rounded_routers_still_see_them_exactly() {
    let lowered = lowered(
        &plain_host(),
        Family::V3,
        (8, Form::Absorbed),
        (None, None),
        true,
    );
    let (mut rounded, mut routers) = (0, 0);
    for (dispatch, rough) in dispatches(&lowered) {
        rounded += u32::from(rough);
        if dispatch.label.ends_with("mlp.gate") {
            routers += 1;
            assert!(!rough, "{}", dispatch.label);
        }
    }
    assert!(rounded > 10, "{rounded} products may be rounded");
    assert_eq!(routers, 1);
}

#[test]
fn what_is_rounded_to_fp8_is_not_rounded_again() {
    let lowered = lowered(
        &plain_host(),
        Family::V3Fp8,
        (8, Form::Absorbed),
        (Some(ActScale::F32), None),
        true,
    );
    let (mut attended, mut coded) = (0, 0);
    for (dispatch, rough) in dispatches(&lowered) {
        let row = dispatch.label.split(' ').next().unwrap_or_default();
        attended += u32::from(rough && row.contains("attend"));
        if row.ends_with("_f8") {
            coded += 1;
            assert!(!rough, "{}", dispatch.label);
        }
    }
    assert!(attended > 0, "attention may be rounded");
    assert!(coded > 4, "{coded} products of FP8 weights");
}
