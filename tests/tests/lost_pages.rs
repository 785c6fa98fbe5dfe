//! A checkpoint that is cut short while it is used: an error of the step, and no crash.

#![cfg(unix)]

use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hadal_device::{Backend, Device};
use hadal_engine::{Cancel, Engine, EngineError, EngineOptions, ForwardOptions, Model, forward};
use hadal_host::HostBackend;
use hadal_vulkan::{VulkanBackend, VulkanOptions};
use hadal_weights::{WeightsError, survive_lost_pages};

fn shrink(weights: &Path) {
    let file = OpenOptions::new().write(true).open(weights).unwrap();
    file.set_len(hadal_tiny::WEIGHTS.len() as u64 / 2).unwrap();
}

fn run(engine: &Arc<Engine>) -> Result<(), EngineError> {
    let options = ForwardOptions {
        all: false,
        greedy: 4,
    };
    forward(engine, &[1, 2, 3], options, &Cancel::new(), &mut |_, _| {}).map(drop)
}

fn load(folder: &Path, device: Arc<dyn Device>) -> Result<Arc<Engine>, EngineError> {
    let model = Arc::new(Model::open(folder).unwrap());
    let mut quiet = |_| ControlFlow::Continue(());
    let options = EngineOptions {
        context: Some(64),
        ..EngineOptions::default()
    };
    Engine::load(model, device, options, &mut quiet).map(Arc::new)
}

#[test]
fn a_file_that_shrinks_under_the_map_is_an_error_and_names_itself() {
    survive_lost_pages().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("model.safetensors");
    std::fs::write(folder.path().join("config.json"), hadal_tiny::CONFIG).unwrap();
    std::fs::write(&weights, hadal_tiny::WEIGHTS).unwrap();
    let load = || load(folder.path(), HostBackend::new().open(0).unwrap());
    let engine = load().unwrap();
    run(&engine).unwrap();

    shrink(&weights);
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

/// The threads of a software driver block the signal that says of a page that it is gone.
#[test]
fn a_software_driver_of_vulkan_never_meets_a_page_that_is_gone() {
    survive_lost_pages().unwrap();
    let device = match VulkanBackend::new(VulkanOptions::default()).open(0) {
        Ok(device) => device,
        Err(error) => return println!("NOT RUN on vulkan: {error}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("model.safetensors");
    std::fs::write(folder.path().join("config.json"), hadal_tiny::CONFIG).unwrap();
    std::fs::write(&weights, hadal_tiny::WEIGHTS).unwrap();
    let engine = load(folder.path(), device).unwrap();
    shrink(&weights);
    match run(&engine) {
        Ok(()) | Err(EngineError::Weights(WeightsError::PagesLost { .. })) => {}
        Err(error) => panic!("{error}"),
    }
}
