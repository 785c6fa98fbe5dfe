//! A plan is what happens: every byte that loading and running a model allocates or adopts is
//! counted and compared with the plan made before; what does not fit is refused before
//! anything is allocated.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_device::Device;
use hadal_engine::plan::{Ask, Memory, Nearest, PartKind};
use hadal_engine::{
    Batch, Budget, Cancel, Decoder, Described, Engine, EngineError, EngineOptions, Model, Observe,
    Plan, SamplingOptions, Session, describe,
};
use hadal_models::Config;
use hadal_models::counts::Counts;
use hadal_tests::checkpoint::Family;
use hadal_tests::counting::Counting;
use hadal_tests::small::model;
use hadal_tests::{devices, headers};

fn load(model: &Arc<Model>, device: Arc<dyn Device>, options: &EngineOptions) -> Engine {
    let mut quiet = |_| ControlFlow::Continue(());
    Engine::load(model.clone(), device, options.clone(), &mut quiet).expect("it loads")
}

#[test]
fn what_is_allocated_is_what_was_planned() {
    let model = model(Family::V3);
    for named in devices::all() {
        let options = named.fit(EngineOptions {
            chunk: 64,
            ..EngineOptions::default()
        });
        let plan = Plan::of(&model, named.device.info(), &options, &Ask::default());
        let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", named.name));
        assert!(plan.fits && plan.drafts, "{}: {plan:?}", named.name);
        let counting = Counting::new(named.device.clone());
        let engine = Arc::new(load(&model, counting.clone(), &options));
        assert_eq!(engine.context(), plan.context, "{}", named.name);
        let rope = |label: &str| label == "rope table";
        let weights = counting.bytes(|label| !rope(label));
        assert_eq!(weights, plan.weight_bytes(), "{}", named.name);
        assert_eq!(counting.bytes(rope), plan.part(PartKind::RotaryTable));

        let mut session = Session::new(&engine, true).expect("there is room");
        let cache = counting.bytes(|label| label.starts_with("latent cache"));
        assert_eq!(cache, plan.part(PartKind::Cache), "{}", named.name);
        assert_eq!(cache, session.cache_bytes());
        let ids: Vec<u32> = (0..40).map(|id| id % 100).collect();
        run(&mut session, &ids);
        let scratch = counting.bytes(|label| label == "scratch");
        let planned = plan.part(PartKind::Scratch);
        assert!(
            scratch > 0 && scratch <= planned,
            "{}: {scratch} of {planned}",
            named.name
        );
        let all = counting.bytes(|_| true);
        let tier = &plan.tiers[0];
        assert!(
            all <= tier.bytes(),
            "{}: {all} of {}",
            named.name,
            tier.bytes()
        );
        println!(
            "{}: weights {weights}, cache {cache}, scratch {scratch} of {planned}, all {all} of {}",
            named.name,
            tier.bytes()
        );
    }
}

#[test]
fn what_a_batch_allocates_is_what_was_planned() {
    let model = model(Family::V3);
    for named in devices::all() {
        let options = named.fit(EngineOptions {
            chunk: 8,
            context: Some(100),
            ..batch_of(6)
        });
        let plan = Plan::of(&model, named.device.info(), &options, &Ask::default());
        let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", named.name));
        assert!(plan.fits && !plan.drafts, "{}: {plan:?}", named.name);
        let counting = Counting::new(named.device.clone());
        let engine = Arc::new(load(&model, counting.clone(), &options));
        let batch = Batch::new(&engine).expect("there is room");
        let cache = counting.bytes(|label| label.starts_with("latent cache"));
        assert_eq!(cache, plan.part(PartKind::Cache), "{}", named.name);
        let tier = &plan.tiers[0];
        let held = engine.memory();
        assert_eq!(held.used_bytes(), tier.needed_bytes(), "{}", named.name);
        assert_eq!(held.sessions, options.batch);

        let cancel = Cancel::new();
        let start = |count: u32| {
            let (greedy, observe) = (SamplingOptions::greedy(), Observe::default());
            let (session, ids) = (batch.session().expect("a place"), (0..count));
            let ids: Vec<u32> = ids.collect();
            let quiet = &mut |_, _| {};
            Decoder::owning(session, &ids, greedy, observe, &cancel, quiet).expect("a prompt")
        };
        let mut decoders: Vec<Decoder<'_>> = (1..=options.batch).map(start).collect();
        for count in 1..=decoders.len() {
            let mut some: Vec<_> = decoders.iter_mut().take(count).collect();
            batch.advance(&mut some, &cancel).expect("a step");
        }
        let scratch = counting.bytes(|label| label == "scratch");
        let planned = plan.part(PartKind::Scratch);
        assert!(scratch <= planned, "{}: {scratch} > {planned}", named.name);
        let (all, bytes) = (counting.bytes(|_| true), tier.bytes());
        assert!(all <= bytes, "{}: {all} > {bytes}", named.name);
    }
}

/// A prompt and some tokens, with drafts.
fn run(session: &mut Session, ids: &[u32]) {
    let greedy = SamplingOptions::greedy();
    let cancel = Cancel::new();
    let mut decoder =
        Decoder::start(session, ids, greedy, &cancel, &mut |_, _| {}).expect("starts");
    for _ in 0..6 {
        decoder.advance().expect("it goes on");
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_anything_is_allocated() {
    let model = model(Family::V3);
    let counting = Counting::new(devices::host().device);
    let tight = |bytes: u64| EngineOptions {
        budget: Budget {
            device: None,
            host: Some(bytes),
        },
        ..EngineOptions::default()
    };
    let mut quiet = |_| ControlFlow::Continue(());
    let engine = Engine::load(model.clone(), counting.clone(), tight(1000), &mut quiet);
    let Err(EngineError::WouldNotFit { plan }) = engine else {
        panic!("it must not fit in 1000 bytes");
    };
    assert!(!plan.fits && plan.longest_context == 0);
    assert_eq!(counting.setup_counts().buffers, 0);
    assert!(
        plan.verdict().contains("does not fit host"),
        "{}",
        plan.verdict()
    );
    let budget = plan.nearest.iter().find_map(|nearest| match nearest {
        Nearest::Budget {
            memory: Memory::Host,
            bytes,
        } => Some(*bytes),
        _ => None,
    });
    let bytes = budget.expect("a budget that would do is named");

    // The budget that it names does, and one byte less gives a shorter context.
    let ask = Ask::default();
    let info = counting.info();
    let enough = Plan::of(&model, info, &tight(bytes), &ask).expect("it is planned");
    assert!(enough.fits && enough.context == plan.context);
    let less = Plan::of(&model, info, &tight(bytes - 1), &ask).expect("it is planned");
    assert!(less.fits && less.context < plan.context, "{}", less.context);
    let asked = EngineOptions {
        context: Some(plan.context),
        ..tight(bytes - 1)
    };
    let refused = Plan::of(&model, info, &asked, &ask).expect("it is planned");
    assert!(!refused.fits);
    let tokens = less.context;
    assert!(
        refused.nearest.contains(&Nearest::Context { tokens }),
        "{:?}",
        refused.nearest
    );
    let engine = load(&model, counting.clone(), &tight(bytes - 1));
    assert_eq!(engine.context(), less.context);
}

fn batch_of(sequences: u32) -> EngineOptions {
    EngineOptions {
        batch: sequences,
        ..EngineOptions::default()
    }
}

#[test]
fn a_plan_survives_json() {
    let model = model(Family::V3);
    let host = devices::host().device;
    let ask = Ask {
        bandwidth: Some(hadal_engine::bandwidth::Measured::given(1e10)),
        ..Ask::default()
    };
    let plan = Plan::of(&model, host.info(), &batch_of(3), &ask);
    let plan = plan.expect("it is planned");
    assert_eq!(plan.decoding.len(), 3);
    assert!(plan.decoding[0].tokens_per_second > plan.decoding[1].tokens_per_second);
    let text = serde_json::to_string(&plan).expect("it is data");
    let again: Plan = serde_json::from_str(&text).expect("it is the same data");
    assert_eq!(again, plan);
}

#[test]
fn the_largest_models_are_planned_from_headers_alone() {
    let host = devices::host().device;
    for (name, tensors) in [
        ("deepseek_v3", Some(91_991)),
        ("kimi_k2", None),
        ("moonlight_16b", None),
    ] {
        let folder = tempfile::tempdir().expect("there is room");
        let text = headers::config(name);
        std::fs::write(folder.path().join("config.json"), &text).expect("there is room");
        let count = headers::write(folder.path(), &Config::from_json(&text).unwrap(), 600);
        assert!(tensors.is_none_or(|tensors| tensors == count), "{count}");
        let plan = |wanted: Described| {
            let started = Instant::now();
            let (model, described) = describe(folder.path()).expect("it is described");
            assert_eq!(described, wanted);
            let options = EngineOptions::default();
            let plan = Plan::of(&model, host.info(), &options, &Ask::default());
            let took = started.elapsed();
            println!("{name}, {count} tensors, {described:?}: {took:?}");
            // A second where it counts; builds for tests are slower, and so are busy machines.
            assert!(took < Duration::from_secs(120), "{name}: {took:?}");
            plan.expect("it is planned")
        };
        let whole = plan(Described::Headers);
        std::fs::remove_file(folder.path().join("model-00001.safetensors")).expect("it is there");
        let indexed = plan(Described::Index);
        std::fs::remove_file(folder.path().join("model.safetensors.index.json"))
            .expect("it is there");
        let alone = plan(Described::Config);
        for other in [&indexed, &alone] {
            // All the same but for the headers of the files.
            for kind in whole.tiers[0]
                .parts
                .keys()
                .filter(|kind| **kind != PartKind::Unused)
            {
                assert_eq!(other.part(*kind), whole.part(*kind), "{name}, {kind:?}");
            }
        }
        let counts = Counts::of(&Config::from_json(&text).unwrap());
        let weights = whole.weight_bytes() - whole.part(PartKind::Unused);
        assert_eq!(weights, counts.bytes(), "{name}");
    }
}

#[test]
fn a_forecast_reads_the_bytes_of_the_published_roofline() {
    // 8 of 256 experts in 58 layers and everything else but the embedding: 37.67 GB; twice
    // the tokens touch 15.75 experts and read 57.5 GB.
    let host = devices::host().device;
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("config.json");
    std::fs::write(&file, headers::config("deepseek_v3")).expect("there is room");
    let (model, _) = describe(&file).expect("it is described");
    let ask = Ask {
        bandwidth: Some(hadal_engine::bandwidth::Measured::given(1e12)),
        ..Ask::default()
    };
    let plan = Plan::of(&model, host.info(), &batch_of(2), &ask);
    let plan = plan.expect("it is planned");
    let [empty, full, both] = plan.decoding.as_slice() else {
        panic!("three forecasts are made: {:?}", plan.decoding);
    };
    let is = |bytes: u64, gigabytes: f64| (bytes as f64 / 1e9 - gigabytes).abs() < 0.05;
    assert!(is(empty.weight_bytes, 37.67), "{}", empty.weight_bytes);
    assert!(is(both.weight_bytes, 57.5), "{}", both.weight_bytes);
    assert!((both.experts - 15.75).abs() < 1e-9);
    // 576 numbers of 4 bytes in each of 61 layers.
    assert_eq!(full.cache_bytes, 140_544 * u64::from(plan.context));
    let needed: Vec<_> = plan
        .nearest
        .iter()
        .filter(|n| matches!(n, Nearest::Budget { .. }))
        .collect();
    assert_eq!(needed.len(), 1);
}
