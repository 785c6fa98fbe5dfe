//! Loading and living beside others: budgets, low priority, loads that are watched and stopped,
//! failures by code, a device that is lost.
#![cfg(feature = "tiny")]

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use hadal::{
    Budget, Cancel, DeviceChoice, Engine, ErrorCode, Event, LoadOptions, Model, ModelBytes,
    Request, SessionOptions,
};

fn host() -> LoadOptions {
    LoadOptions::on("host").with_context(256).with_threads(2)
}

fn shipped() -> Model {
    Model::shipped().expect("the shipped model")
}

fn story(engine: &Engine) -> String {
    let session = engine.session(SessionOptions::default()).expect("room");
    let request = Request::text("Once upon a time")
        .greedy()
        .with_max_tokens(24);
    match session.stream(request).expect("a thread").last() {
        Some(Ok(Event::End(made))) => made.text,
        other => panic!("no end but {other:?}"),
    }
}

#[test]
fn a_budget_that_shrinks_refuses_new_sessions_and_leaves_old_ones_alone() {
    let engine = shipped().load(host()).unwrap();
    let before = engine.memory();
    assert_eq!((before.sessions, before.session_bytes), (0, 0));
    let session = engine.session(SessionOptions::default()).unwrap();
    let one = engine.memory();
    assert_eq!(one.sessions, 1);
    assert!(one.session_bytes > session.cache_bytes().unwrap());

    // Room for one and a half.
    let half = one.used_bytes() + one.session_bytes / 2;
    assert_eq!(engine.set_budget(Some(half)).unwrap().over_bytes(), 0);
    let refused = engine.session(SessionOptions::default()).err().unwrap();
    assert_eq!(refused.code(), ErrorCode::OutOfMemory);
    assert_eq!(engine.memory().sessions, 1);
    assert_eq!(session.fork().err().unwrap().code(), ErrorCode::OutOfMemory);

    // Less than there is: it says by how much, and what exists goes on.
    let memory = engine.set_budget(Some(one.used_bytes() - 1000)).unwrap();
    assert_eq!(memory.over_bytes(), 1000);
    let request = Request::text("Once").greedy().with_max_tokens(8);
    let made = session.generate(&request, &mut |_| ControlFlow::Continue(()));
    assert_eq!(made.unwrap().ids.len(), 8);
    engine.trim().unwrap();

    engine.set_budget(None).unwrap();
    let second = engine.session(SessionOptions::default()).unwrap();
    assert_eq!(engine.memory().session_bytes, 2 * one.session_bytes);
    drop((session, second));
    assert_eq!(engine.memory(), before);
}

#[test]
fn what_a_plan_says_is_what_a_budget_must_allow() {
    let plan = shipped().plan(&host()).unwrap();
    let needed = plan.tiers[0].needed_bytes();
    let with = |bytes| {
        host().with_budget(Budget {
            host: Some(bytes),
            device: None,
        })
    };
    let engine = shipped().load(with(needed)).unwrap();
    let session = engine.session(SessionOptions::default()).unwrap();
    assert_eq!(engine.memory().used_bytes(), needed);
    assert_eq!(engine.memory().over_bytes(), 0);
    assert!(engine.session(SessionOptions::default()).is_err());
    drop(session);
    let error = shipped().load(with(needed - 1)).err().unwrap();
    assert_eq!(error.code(), ErrorCode::WouldNotFit);
    let refused = error.plan().expect("the plan comes with it");
    assert!(!refused.fits && !refused.nearest.is_empty());
    assert!(!shipped().plan(&with(needed - 1)).unwrap().fits);
}

#[test]
fn low_priority_changes_how_long_it_takes_and_nothing_else() {
    let engine = shipped().load(host()).unwrap();
    let text = story(&engine);
    engine.set_low_priority(true);
    assert!(engine.is_low_priority());
    assert_eq!(story(&engine), text);
    engine.set_low_priority(false);
    assert_eq!(story(&engine), text);
}

#[test]
fn two_engines_live_side_by_side() {
    let engines = [host(), host()].map(|options| shipped().load(options).unwrap());
    let texts = std::thread::scope(|scope| {
        let threads = engines
            .each_ref()
            .map(|engine| scope.spawn(|| story(engine)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn a_load_is_watched_and_stopped() {
    let mut told = Vec::new();
    let stopped = shipped().load_with(host(), &Cancel::new(), &mut |progress| {
        told.push(progress.bytes_done);
        ControlFlow::Break(())
    });
    assert_eq!(stopped.err().unwrap().code(), ErrorCode::Cancelled);
    assert_eq!(told.len(), 1);
    let cancel = Cancel::new();
    cancel.cancel();
    let mut go_on = |_| ControlFlow::Continue(());
    let stopped = shipped().load_with(host(), &cancel, &mut go_on);
    assert_eq!(stopped.err().unwrap().code(), ErrorCode::Cancelled);

    let loading = shipped().load_in_background(host()).unwrap();
    let (sender, woken) = mpsc::channel();
    loading.when_finished(move || sender.send(()).unwrap());
    woken
        .recv_timeout(Duration::from_secs(20))
        .expect("it is told");
    assert!(loading.is_finished());
    assert_eq!(loading.fraction(), 1.0);
    assert!(!story(&loading.join().unwrap()).is_empty());

    let loading = shipped().load_in_background(host()).unwrap();
    loading.cancel();
    assert_eq!(loading.join().err().unwrap().code(), ErrorCode::Cancelled);
}

#[test]
fn a_model_in_memory_is_the_model() {
    let files = |weights: &'static [u8]| ModelBytes::Safetensors {
        config: hadal_tiny::CONFIG.to_string(),
        weights: vec![("weights".to_string(), std::sync::Arc::new(weights))],
        tokenizer: None,
        tokenizer_config: None,
        generation_config: None,
    };
    let model = Model::from_bytes("mine", files(hadal_tiny::WEIGHTS)).unwrap();
    assert_eq!(model.name(), "mine");
    let engine = model.load(host()).unwrap();
    let session = engine.session(SessionOptions::default()).unwrap();
    let mut quiet = |_| ControlFlow::Continue(());
    let ids = Request::ids([0, 300, 17]).greedy().with_max_tokens(4);
    assert_eq!(session.generate(&ids, &mut quiet).unwrap().ids.len(), 4);
    let text = session.generate(&Request::text("Once"), &mut quiet);
    assert_eq!(text.unwrap_err().code(), ErrorCode::NoText);
    let cut = &hadal_tiny::WEIGHTS[..hadal_tiny::WEIGHTS.len() - 1];
    let damaged = Model::from_bytes("mine", files(cut)).err().unwrap();
    assert_eq!(damaged.code(), ErrorCode::DamagedModel);
    let gguf = ModelBytes::Gguf(vec![("a".into(), std::sync::Arc::new(&b"GGUF"[..]))]);
    let damaged = Model::from_bytes("mine", gguf).err().unwrap();
    assert_eq!(damaged.code(), ErrorCode::DamagedModel);
}

#[test]
fn failures_have_codes_and_cures() {
    let code = |options: LoadOptions| shipped().load(options).err().unwrap().code();
    assert_eq!(code(host().with_threads(0)), ErrorCode::InvalidArgument);
    assert_eq!(code(host().with_context(0)), ErrorCode::InvalidArgument);
    assert_eq!(code(host().with_chunk(0)), ErrorCode::InvalidArgument);
    assert_eq!(code(LoadOptions::on("abacus")), ErrorCode::NoDevice);
    assert_eq!(code(LoadOptions::on("host:7")), ErrorCode::NoDevice);
    let missing = Model::open("/there/is/nothing").err().unwrap();
    assert_eq!(missing.code(), ErrorCode::File);
    assert!(!missing.cure().is_empty());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let other = Model::open(folder.path()).err().unwrap();
    assert_eq!(other.code(), ErrorCode::UnsupportedModel);
}

#[test]
fn a_gpu_is_shared_politely_and_opened_again_when_lost() {
    let on = |lose_after_submits| {
        let mut options = LoadOptions::on("wgpu").with_context(256);
        options.device_options.lose_after_submits = lose_after_submits;
        options
    };
    let engine = match shipped().load(on(None)) {
        Ok(engine) => engine,
        Err(error) => {
            println!("NOT RUN: a_gpu_is_shared_politely_and_opened_again_when_lost, {error}");
            return;
        }
    };
    let text = story(&engine);
    // Submits of a few milliseconds with rests between them give the same text, also after the
    // programs were cut anew.
    engine.set_low_priority(true);
    for _ in 0..3 {
        assert_eq!(story(&engine), text);
    }
    engine.set_low_priority(false);
    assert_eq!(story(&engine), text);
    let losing = shipped().load(on(Some(12))).unwrap();
    assert_eq!(story(&losing), text);
    assert_eq!(losing.losses(), 1);

    // A device that the program opened is the program's to open again.
    let device = losing.inner().device();
    let given = shipped().load(LoadOptions {
        device: DeviceChoice::Open(device),
        ..on(None)
    });
    assert_eq!(story(&given.unwrap()), text);
}
