//! Declared weights and the tensors that are there must agree, both ways.

mod common;

use common::{Tensor, checkpoint, scales, tensor};
use hadal_device::DType;
use hadal_weights::{Declared, Problem, WeightsError, bind};

const EXPERTS: &str = "model.layers.0.mlp.experts.{}.up_proj.weight";

/// A small model of each kind of weight.
fn declared() -> Vec<Declared> {
    vec![
        Declared::new("model.embed_tokens.weight", &[6, 4]),
        Declared::new("model.layers.0.input_layernorm.weight", &[4]),
        Declared::new("model.layers.0.self_attn.o_proj.weight", &[130, 129]),
        Declared::table(EXPERTS, 2, [3, 4]),
        Declared::alias(
            "model.layers.1.embed_tokens.weight",
            "model.embed_tokens.weight",
            &[6, 4],
        ),
    ]
}

fn tensors() -> Vec<Tensor> {
    vec![
        tensor("model.embed_tokens.weight", "BF16", &[6, 4], 1),
        tensor("model.layers.0.input_layernorm.weight", "F32", &[4], 2),
        tensor(
            "model.layers.0.self_attn.o_proj.weight",
            "F8_E4M3",
            &[130, 129],
            3,
        ),
        scales(
            "model.layers.0.self_attn.o_proj.weight_scale_inv",
            &[2, 2],
            &[1.0, 0.5, 0.0, 2.0],
        ),
        tensor(
            "model.layers.0.mlp.experts.0.up_proj.weight",
            "BF16",
            &[3, 4],
            4,
        ),
        tensor(
            "model.layers.0.mlp.experts.1.up_proj.weight",
            "BF16",
            &[3, 4],
            5,
        ),
    ]
}

/// The problems after a change to tensors or declarations.
fn problems(change: impl FnOnce(&mut Vec<Tensor>, &mut Vec<Declared>)) -> Vec<Problem> {
    let (mut tensors, mut declared) = (tensors(), declared());
    change(&mut tensors, &mut declared);
    match bind(&declared, &checkpoint(&tensors)) {
        Err(WeightsError::Mismatch { problems, .. }) => problems,
        other => panic!("no mismatch: {other:?}"),
    }
}

fn find<'t>(tensors: &'t mut [Tensor], ending: &str) -> &'t mut Tensor {
    tensors
        .iter_mut()
        .find(|tensor| tensor.0.ends_with(ending))
        .unwrap()
}

#[test]
fn everything_in_its_place_is_bound() {
    let bound = bind(&declared(), &checkpoint(&tensors())).unwrap();
    let names: Vec<&str> = bound
        .weights
        .iter()
        .map(|weight| weight.name.as_str())
        .collect();
    assert_eq!(
        names,
        declared()[..4]
            .iter()
            .map(|d| d.name.as_str())
            .collect::<Vec<_>>()
    );
    assert_eq!(bound.weights[2].dtype, DType::F8E4M3);
    assert_eq!(
        (bound.weights[2].data.len(), bound.weights[2].scales.len()),
        (1, 1)
    );
    assert_eq!(
        (bound.weights[3].data.len(), bound.weights[3].scales.len()),
        (2, 0)
    );
    bound.check_values(&checkpoint(&tensors())).unwrap();
}

#[test]
fn a_weight_and_its_scale_may_lie_in_different_files() {
    let all = tensors();
    let (front, back) = all.split_at(3);
    let files = [
        ("1.safetensors", common::safetensors(back)),
        ("2.safetensors", common::safetensors(front)),
    ];
    let bound = bind(&declared(), &common::open(&files).unwrap()).unwrap();
    assert_eq!(
        (
            bound.weights[2].data[0].shard,
            bound.weights[2].scales[0].shard
        ),
        (1, 0)
    );
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let found = problems(|tensors, _| drop(tensors.remove(1)));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].tensor, "model.layers.0.input_layernorm.weight");
    assert!(found[0].what.contains("missing") && found[0].what.contains("[4]"));
}

#[test]
fn missing_experts_are_one_line() {
    let found = problems(|tensors, _| tensors.truncate(4));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].tensor, EXPERTS);
    assert!(found[0].what.contains("2 of 2 experts"));
    let one = problems(|tensors, _| tensors.truncate(5));
    assert_eq!(one[0].tensor, "model.layers.0.mlp.experts.1.up_proj.weight");
}

#[test]
fn an_extra_tensor_is_named_with_its_file() {
    let found = problems(|tensors, _| tensors.push(tensor("model.layers.0.odd", "BF16", &[1], 0)));
    assert_eq!(found[0].tensor, "model.layers.0.odd");
    assert_eq!(found[0].file.as_deref(), Some("model.safetensors"));
    let scale = "model.embed_tokens.weight_scale_inv";
    let found = problems(|tensors, _| tensors.push(scales(scale, &[1, 1], &[1.0])));
    assert!(
        found[0].tensor == scale && found[0].what.contains("not fp8"),
        "{found:?}"
    );
}

#[test]
fn rotary_tables_of_old_exports_and_copies_are_accepted() {
    let mut tensors = tensors();
    tensors.push(tensor(
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "F32",
        &[2],
        0,
    ));
    tensors.push(tensor(
        "model.layers.1.embed_tokens.weight",
        "BF16",
        &[6, 4],
        1,
    ));
    let bound = bind(&declared(), &checkpoint(&tensors)).unwrap();
    assert_eq!(bound.weights.len(), 4);
    find(&mut tensors, "layers.1.embed_tokens.weight").2 = vec![4, 6];
    let error = bind(&declared(), &checkpoint(&tensors)).unwrap_err();
    assert!(
        error.to_string().contains("layers.1.embed_tokens.weight"),
        "{error}"
    );
}

#[test]
fn layers_beyond_the_last_name_the_key_of_the_configuration() {
    let found = problems(|tensors, _| {
        for name in ["eh_proj.weight", "enorm.weight", "hnorm.weight"] {
            tensors.push(tensor(&format!("model.layers.7.{name}"), "BF16", &[1], 0));
        }
    });
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].tensor, "model.layers.7.*");
    assert!(
        found[0].what.contains("3 tensors") && found[0].what.contains("num_nextn_predict_layers")
    );
}

#[test]
fn a_wrong_shape_or_format_is_named() {
    let shape = problems(|tensors, _| find(tensors, "o_proj.weight").2 = vec![129, 130]);
    assert!(
        shape[0].what.contains("[129, 130]") && shape[0].what.contains("[130, 129]"),
        "{shape:?}"
    );
    let integer = problems(|tensors, _| {
        *find(tensors, "embed_tokens.weight") =
            tensor("model.embed_tokens.weight", "I64", &[6, 4], 0);
    });
    assert!(
        integer[0].what.contains("I64 is not supported"),
        "{integer:?}"
    );
    let vector = problems(|tensors, _| {
        let name = "model.layers.0.input_layernorm.weight";
        *find(tensors, "layernorm.weight") = tensor(name, "F8_E4M3", &[4], 0);
    });
    assert!(
        vector[0].what.contains("f8e4m3 is not supported"),
        "{vector:?}"
    );
    let mixed = problems(|tensors, _| {
        let name = "model.layers.0.mlp.experts.1.up_proj.weight";
        *find(tensors, "experts.1.up_proj.weight") = tensor(name, "F16", &[3, 4], 0);
    });
    assert!(mixed[0].what.contains("expert 0 is bf16"), "{mixed:?}");
}

#[test]
fn integers_that_nobody_needs_are_still_extra_and_not_a_failure_to_open() {
    let found = problems(|tensors, _| tensors.push(tensor("step", "I64", &[1], 0)));
    assert_eq!(found[0].tensor, "step");
}

#[test]
fn missing_or_misshapen_scales_are_named() {
    let missing = problems(|tensors, _| drop(tensors.remove(3)));
    assert!(missing[0].tensor.ends_with("weight_scale_inv") && missing[0].what.contains("[2, 2]"));
    let shape = problems(|tensors, _| find(tensors, "_scale_inv").2 = vec![4, 1]);
    assert!(shape[0].tensor.ends_with("weight_scale_inv") && shape[0].what.contains("[4, 1]"));
    let format = problems(|tensors, _| {
        let name = "model.layers.0.self_attn.o_proj.weight_scale_inv";
        *find(tensors, "_scale_inv") = tensor(name, "BF16", &[2, 2], 0);
    });
    assert!(format[0].what.contains("scales are f32"), "{format:?}");
}

#[test]
fn twenty_problems_are_told_and_the_rest_counted() {
    let declared: Vec<Declared> = (0..50)
        .map(|i| Declared::new(format!("w{i}"), &[1]))
        .collect();
    let error = bind(&declared, &checkpoint(&[])).unwrap_err();
    let WeightsError::Mismatch { problems, more } = &error else {
        panic!("{error}")
    };
    assert_eq!((problems.len(), *more), (20, 30));
    let text = error.to_string();
    assert!(
        text.contains("w0 in model.safetensors: ")
            && text.contains("and 30 more")
            && text.contains("same release")
    );
}

#[test]
fn scales_that_are_no_numbers_are_named_with_their_place() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
        let mut tensors = tensors();
        let name = "model.layers.0.self_attn.o_proj.weight_scale_inv";
        *find(&mut tensors, "_scale_inv") = scales(name, &[2, 2], &[1.0, 1.0, 1.0, bad]);
        let source = checkpoint(&tensors);
        let error = bind(&declared(), &source)
            .unwrap()
            .check_values(&source)
            .unwrap_err()
            .to_string();
        assert!(error.contains(name) && error.contains("[1, 1]"), "{error}");
        assert!(
            error.contains("model.safetensors") && error.contains("again"),
            "{error}"
        );
    }
}

#[test]
fn a_norm_that_is_not_finite_is_named_with_its_place() {
    for (dtype, code) in [
        ("BF16", [0x80, 0x7F]),
        ("BF16", [0xC0, 0xFF]),
        ("F16", [0, 0x7C]),
        ("F16", [1, 0xFC]),
    ] {
        let mut tensors = tensors();
        let name = "model.layers.0.input_layernorm.weight";
        *find(&mut tensors, "layernorm.weight") = tensor(name, dtype, &[4], 0);
        find(&mut tensors, "layernorm.weight").3[4..6].copy_from_slice(&code);
        let source = checkpoint(&tensors);
        let error = bind(&declared(), &source)
            .unwrap()
            .check_values(&source)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(name) && error.contains("[2]"),
            "{dtype}: {error}"
        );
    }
}
