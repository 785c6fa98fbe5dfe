//! The published model's numbers: every golden case on every device.
//!
//! Needs the folder of golden cases (HADAL_GOLDEN); each test says so when it is missing.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hadal_engine::{Cancel, Engine, EngineOptions, Form, ForwardOptions, Model, Tensor, forward};
use hadal_tests::devices::{self, Named};
use hadal_tests::golden;

/// Largest difference of a logit in `f32` arithmetic (golden README, tolerances).
const F32_LOGITS: f64 = 2e-3;

fn run(
    dir: &Path,
    named: &Named,
    options: EngineOptions,
    greedy: usize,
    ids: &[u32],
) -> Vec<Tensor> {
    let model = Arc::new(Model::open(dir).expect("the case opens"));
    let device = named.device.clone();
    let mut quiet = |_| ControlFlow::Continue(());
    let engine = Engine::load(model, device, options, &mut quiet).expect("the case loads");
    let options = ForwardOptions { all: true, greedy };
    forward(
        &Arc::new(engine),
        ids,
        options,
        &Cancel::new(),
        &mut |_, _| {},
    )
    .expect("it runs")
}

fn case(test: &str, name: &str, make: impl Fn() -> EngineOptions, logits: &str, tolerance: f64) {
    let Some(folder) = golden::folder(test) else {
        return;
    };
    let dir = folder.join(name);
    let expected = golden::read(&dir.join("golden.safetensors"));
    let ids: Vec<u32> = expected["input_ids"]
        .values
        .iter()
        .map(|&x| x as u32)
        .collect();
    let greedy = expected["greedy_ids"].values.len();
    for named in devices::of_golden_cases() {
        let found = run(&dir, &named, named.fit(make()), greedy, &ids);
        let label = format!("{name} on {}", named.name);
        let worst = if logits == "logits_f64" {
            golden::compare(&label, &found, &expected, logits, tolerance)
        } else {
            let got = golden::values(golden::find(&found, "logits"));
            golden::worst(&got, &expected[logits].values)
        };
        println!("{label}: largest difference of a logit {worst:.2e}");
        assert!(worst <= tolerance, "{label}: logits off by {worst}");
    }
}

#[test]
fn v3_with_groups_agrees() {
    let test = "v3_with_groups_agrees";
    case(
        test,
        "p01_v3_groups",
        EngineOptions::default,
        "logits_f64",
        F32_LOGITS,
    );
}

#[test]
fn ragged_fp8_with_a_next_token_module_agrees() {
    let test = "ragged_fp8_with_a_next_token_module_agrees";
    case(
        test,
        "p02_fp8_ragged_mtp",
        EngineOptions::default,
        "logits_f64",
        F32_LOGITS,
    );
}

#[test]
fn moonlight_agrees() {
    let test = "moonlight_agrees";
    case(
        test,
        "p03_moonlight",
        EngineOptions::default,
        "logits_f64",
        F32_LOGITS,
    );
}

#[test]
fn activations_quantised_to_fp8_agree() {
    let options = || EngineOptions {
        quantise_activations: true,
        ..EngineOptions::default()
    };
    let test = "activations_quantised_to_fp8_agree";
    case(
        test,
        "p02_fp8_ragged_mtp",
        options,
        "logits_w8a8_f64",
        F32_LOGITS,
    );
}

#[test]
fn gguf_blocks_with_split_latent_projections_agree() {
    let test = "gguf_blocks_with_split_latent_projections_agree";
    for form in [Form::Absorbed, Form::Expanded] {
        let options = || EngineOptions {
            form: Some(form),
            ..EngineOptions::default()
        };
        case(test, "p04_gguf_mla", options, "logits_f64", F32_LOGITS);
    }
}
