//! What must stay the same however the work is cut: chunks, forms of attention, forms of
//! MoE, drafts, pieces of weights. On every device, on small models of every kind, against
//! the `f64` evaluator.

use std::ops::ControlFlow;
use std::sync::Arc;

use hadal_engine::{
    Cancel, Decoder, Engine, EngineOptions, Form, ForwardOptions, Model, MoeForm, SamplingOptions,
    Session, Tensor, forward,
};
use hadal_tests::checkpoint::Family;
use hadal_tests::devices::{self, Named};
use hadal_tests::golden::{find, values, worst};
use hadal_tests::shipped::trained;
use hadal_tests::small::model;
use hadal_tests::{Random, compare, oracle};

const TOLERANCE: f64 = 2e-3;
const SEED: u64 = 7;

fn engine(model: &Arc<Model>, named: &Named, options: EngineOptions) -> Arc<Engine> {
    let mut quiet = |_| ControlFlow::Continue(());
    let options = named.fit(options);
    let engine = Engine::load(model.clone(), named.device.clone(), options, &mut quiet);
    Arc::new(engine.unwrap_or_else(|e| panic!("{}: {e}", named.name)))
}

fn small(chunk: u32) -> EngineOptions {
    EngineOptions {
        context: Some(128),
        chunk,
        ..EngineOptions::default()
    }
}

fn prompt(family: Family, count: usize) -> Vec<u32> {
    let mut random = Random::new(SEED, "prompt");
    let vocab = family.config().vocab_size as usize;
    (0..count).map(|_| random.below(vocab as u32)).collect()
}

fn run(engine: &Arc<Engine>, ids: &[u32], all: bool, greedy: usize) -> Vec<Tensor> {
    let options = ForwardOptions { all, greedy };
    forward(engine, ids, options, &Cancel::new(), &mut |_, _| {}).expect("it runs")
}

#[test]
fn every_kind_of_model_agrees_with_the_evaluator_on_every_device() {
    for family in Family::ALL {
        let model = model(family);
        let ids = prompt(family, 21);
        let expected = oracle::forward(&model, &ids).expect("a legal model");
        for named in devices::all() {
            let label = format!("{family:?} on {}", named.name);
            let found = run(&engine(&model, &named, small(64)), &ids, true, 0);
            let compared = compare(&found, &expected, TOLERANCE);
            let compared = compared.unwrap_or_else(|why| panic!("{label}: {why}"));
            let tensors = compared.tensors;
            assert!(tensors > 3 * 6, "{label}: only {tensors} tensors compared");
        }
    }
}

#[test]
fn chunks_forms_and_routes_change_nothing() {
    for family in [Family::V3Fp8, Family::Moonlight] {
        let model = model(family);
        let ids = prompt(family, 19);
        for named in devices::all() {
            let base = run(&engine(&model, &named, small(64)), &ids, false, 6);
            let mut variants: Vec<(String, EngineOptions)> = [1, 3, 4, 13]
                .map(|chunk| (format!("chunk {chunk}"), small(chunk)))
                .to_vec();
            for form in [Form::Absorbed, Form::Expanded] {
                for moe in [MoeForm::Direct, MoeForm::Grouped] {
                    let options = EngineOptions {
                        form: Some(form),
                        moe,
                        ..small(16)
                    };
                    variants.push((format!("{form:?} {moe:?}"), options));
                }
            }
            for (what, options) in variants {
                let found = run(&engine(&model, &named, options), &ids, false, 6);
                let label = format!("{family:?} on {}, {what}", named.name);
                for name in ["logits", "greedy_logits"] {
                    let difference = worst(&values(find(&found, name)), &values(find(&base, name)));
                    assert!(
                        difference < TOLERANCE,
                        "{label}: {name} off by {difference}"
                    );
                }
                assert_eq!(
                    find(&found, "greedy_ids"),
                    find(&base, "greedy_ids"),
                    "{label}"
                );
            }
        }
    }
}

fn decode(
    engine: &Arc<Engine>,
    ids: &[u32],
    count: usize,
    drafts: bool,
    sampling: SamplingOptions,
) -> Vec<u32> {
    let mut session = Session::new(engine, drafts).expect("a session");
    let cancel = Cancel::new();
    let mut decoder =
        Decoder::start(&mut session, ids, sampling, &cancel, &mut |_, _| {}).expect("a prompt");
    let mut out = vec![decoder.newest()];
    while out.len() < count {
        out.extend(decoder.advance().expect("a step"));
    }
    out.truncate(count);
    out
}

#[test]
fn greedy_output_is_the_same_with_and_without_drafts() {
    for family in [Family::V3, Family::V3Fp8, Family::Glm] {
        let model = model(family);
        for named in devices::all() {
            let engine = engine(&model, &named, small(16));
            for start in 0..3 {
                let ids = prompt(family, 5 + start);
                let greedy = SamplingOptions::greedy();
                let with = decode(&engine, &ids, 24, true, greedy.clone());
                let without = decode(&engine, &ids, 24, false, greedy);
                assert_eq!(with, without, "{family:?} on {}", named.name);
            }
        }
    }
}

#[test]
fn penalties_count_at_temperature_0_with_and_without_drafts() {
    let model = model(Family::V3);
    let engine = engine(&model, &devices::host(), small(16));
    let penalised = SamplingOptions {
        presence_penalty: 0.7,
        frequency_penalty: 0.4,
        ..SamplingOptions::greedy()
    };
    let mut changed = false;
    for count in 4..12 {
        let ids = prompt(Family::V3, count);
        let plain = decode(&engine, &ids, 40, false, SamplingOptions::greedy());
        let without = decode(&engine, &ids, 40, false, penalised.clone());
        let with = decode(&engine, &ids, 40, true, penalised.clone());
        assert_eq!(with, without, "prompt of {count}");
        changed |= plain != without;
    }
    assert!(changed, "penalties changed nothing");
}

#[test]
fn drafts_at_the_end_of_the_context_stay_inside_it() {
    let model = model(Family::V3);
    let ids = prompt(Family::V3, 64);
    let options = EngineOptions {
        context: Some(64),
        ..small(16)
    };
    for named in devices::all() {
        let engine = engine(&model, &named, options.clone());
        let found = run(&engine, &ids, true, 1);
        let chain = find(&found, "mtp_chain_ids");
        assert_eq!(chain.shape, [1], "{}", named.name);
        let beyond = ForwardOptions {
            all: false,
            greedy: usize::MAX,
        };
        let refused = forward(&engine, &ids, beyond, &Cancel::new(), &mut |_, _| {});
        let full = matches!(refused, Err(hadal_engine::EngineError::ContextFull { .. }));
        assert!(full, "{}", named.name);
    }
}

#[test]
fn keeping_all_tokens_of_a_session_keeps_its_drafts() {
    let engine = engine(&trained(), &devices::host(), small(16));
    let greedy = SamplingOptions::greedy();
    let ids = decode(&engine, &[0], 60, false, greedy.clone());
    let (first, rest) = ids.split_at(44);
    let counts = |keep: bool| {
        let cancel = Cancel::new();
        let mut session = Session::new(&engine, true).expect("a session");
        let read = |session: &mut Session, part: &[u32], steps: usize| {
            let decoder = Decoder::start(session, part, greedy.clone(), &cancel, &mut |_, _| {});
            let mut decoder = decoder.expect("a prompt");
            for _ in 0..steps {
                decoder.advance().expect("a step");
            }
            decoder.draft_counts()
        };
        read(&mut session, first, 0);
        if keep {
            session.keep(session.tokens().len());
        }
        read(&mut session, rest, 24)
    };
    assert!(counts(false).accepted > 4, "{:?}", counts(false));
    assert_eq!(counts(true), counts(false));
}

#[test]
fn sampled_output_is_distributed_the_same_with_and_without_drafts() {
    const RUNS: u64 = 1500;
    const BINS: usize = 12;
    let model = model(Family::V3);
    let engine = engine(&model, &devices::host(), small(16));
    let ids = prompt(Family::V3, 6);
    // The second and third token: the draft's own place, and the one after it.
    let histogram = |drafts: bool, offset: u64| {
        let mut counts = vec![0f64; BINS];
        for seed in 0..RUNS {
            let sampling = SamplingOptions {
                temperature: 0.8,
                seed: seed + offset,
                ..SamplingOptions::default()
            };
            let out = decode(&engine, &ids, 3, drafts, sampling);
            counts[(out[1] * 7 + out[2]) as usize % BINS] += 1.0;
        }
        counts
    };
    let (with, without) = (histogram(true, 0), histogram(false, 1 << 32));
    let chi_squared: f64 = with
        .iter()
        .zip(&without)
        .filter(|(a, b)| **a + **b > 0.0)
        .map(|(a, b)| (a - b).powi(2) / (a + b))
        .sum();
    // 11 degrees of freedom: 31.3 is exceeded once in a thousand.
    assert!(chi_squared < 31.3, "chi squared {chi_squared}");
}

#[test]
fn a_warm_decode_loop_sets_nothing_up() {
    for family in [Family::V3Fp8, Family::Moonlight] {
        let model = model(family);
        for named in devices::all() {
            // On a machine with other work a budget cuts programs anew at any time.
            let options = EngineOptions {
                dispatch_budget: None,
                ..small(16)
            };
            let engine = engine(&model, &named, options);
            let mut session = Session::new(&engine, true).expect("a session");
            let cancel = Cancel::new();
            let ids = prompt(family, 9);
            let greedy = SamplingOptions::greedy();
            let mut decoder = Decoder::start(&mut session, &ids, greedy, &cancel, &mut |_, _| {})
                .expect("a prompt");
            for _ in 0..8 {
                decoder.advance().expect("a step");
            }
            let before = named.device.setup_counts();
            for _ in 0..16 {
                decoder.advance().expect("a step");
            }
            assert_eq!(
                named.device.setup_counts(),
                before,
                "{family:?} on {}",
                named.name
            );
        }
    }
}

#[test]
fn a_cancelled_request_leaves_a_usable_session() {
    let model = model(Family::V3);
    let engine = engine(&model, &devices::scalar(), small(4));
    let ids = prompt(Family::V3, 17);
    let mut session = Session::new(&engine, true).expect("a session");
    let cancel = Cancel::new();
    let stop_early = cancel.clone();
    let mut progress = |done, _| {
        if done >= 8 {
            stop_early.cancel();
        }
    };
    let greedy = SamplingOptions::greedy();
    let ended = Decoder::start(&mut session, &ids, greedy.clone(), &cancel, &mut progress).err();
    assert!(matches!(ended, Some(hadal_engine::EngineError::Cancelled)));
    cancel.reset();
    let rest = ids[session.tokens().len()..].to_vec();
    let decoder = Decoder::start(&mut session, &rest, greedy, &cancel, &mut |_, _| {});
    let resumed = decoder.expect("it goes on").newest();
    assert_eq!(
        resumed,
        decode(&engine, &ids, 1, false, SamplingOptions::greedy())[0]
    );
}

#[test]
fn bad_requests_are_typed_errors() {
    let model = model(Family::V3);
    let engine = engine(&model, &devices::scalar(), small(16));
    let ended = |ids: &[u32]| {
        let options = ForwardOptions::default();
        forward(&engine, ids, options, &Cancel::new(), &mut |_, _| {}).expect_err("refused")
    };
    assert!(matches!(ended(&[]), hadal_engine::EngineError::EmptyPrompt));
    let unknown = ended(&[1, 152]);
    assert!(matches!(
        unknown,
        hadal_engine::EngineError::UnknownToken {
            id: 152,
            position: 1,
            ..
        }
    ));
    assert!(matches!(
        ended(&[1; 129]),
        hadal_engine::EngineError::ContextFull {
            wanted: 129,
            context: 128,
            ..
        }
    ));
}
