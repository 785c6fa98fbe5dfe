//! A checkpoint that is cut short while it is used: an error of the step, and no crash.

#![cfg(unix)]

use std::ops::ControlFlow;
use std::sync::Arc;

use hadal_engine::{Cancel, Engine, EngineError, EngineOptions, ForwardOptions, Model, forward};
use hadal_host::HostBackend;
use hadal_weights::{WeightsError, survive_lost_pages};

fn run(engine: &Arc<Engine>) -> Result<(), EngineError> {
    let options = ForwardOptions {
        all: false,
        greedy: 4,
    };
    forward(engine, &[1, 2, 3], options, &Cancel::new(), &mut |_, _| {}).map(drop)
}

#[test]
fn a_file_that_shrinks_under_the_map_is_an_error_and_names_itself() {
    survive_lost_pages().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("model.safetensors");
    std::fs::write(folder.path().join("config.json"), hadal_tiny::CONFIG).unwrap();
    std::fs::write(&weights, hadal_tiny::WEIGHTS).unwrap();
    let load = || {
        let model = Arc::new(Model::open(folder.path()).unwrap());
        let device = hadal_device::Backend::open(&HostBackend::new(), 0).unwrap();
        let mut quiet = |_| ControlFlow::Continue(());
        Engine::load(model, device, EngineOptions::default(), &mut quiet).map(Arc::new)
    };
    let engine = load().unwrap();
    run(&engine).unwrap();

    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&weights)
        .unwrap();
    file.set_len(hadal_tiny::WEIGHTS.len() as u64 / 2).unwrap();
    for _ in 0..2 {
        let error = run(&engine).unwrap_err();
        assert!(
            matches!(error, EngineError::Weights(WeightsError::PagesLost { .. })),
            "{error}"
        );
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    // Another model is not spoiled by it, nor the same one when its file is whole again.
    drop(engine);
    std::fs::write(&weights, hadal_tiny::WEIGHTS).unwrap();
    run(&load().unwrap()).unwrap();
}
