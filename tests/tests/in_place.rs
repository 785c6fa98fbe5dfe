//! Weights that a device reads from the mapped file: no copy, the same numbers.

use std::ops::ControlFlow;
use std::sync::Arc;

use hadal_device::{Backend, Features};
use hadal_engine::{Cancel, Engine, EngineOptions, ForwardOptions, Model, Tensor, forward};
use hadal_models::Config;
use hadal_vulkan::{VulkanBackend, VulkanOptions};
use hadal_weights::{Checkpoint, Progress};

/// The model that ships, once as part of this program and once as a mapped file.
fn models() -> (tempfile::TempDir, [Arc<Model>; 2]) {
    let config = || Config::from_json(hadal_tiny::CONFIG).expect("it is legal");
    let model = |source: Checkpoint| {
        let text = Err("not needed".to_string());
        Arc::new(Model::new(config(), Arc::new(source), text).expect("it binds"))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    std::fs::write(path, hadal_tiny::WEIGHTS).expect("the file");
    let part = Checkpoint::from_static(&[("model", hadal_tiny::WEIGHTS)]).expect("it opens");
    let mapped = Checkpoint::open(folder.path()).expect("it opens");
    (folder, [model(part), model(mapped)])
}

/// What loading did, and the numbers of some tokens. `None` without a device that could.
fn run(model: &Arc<Model>, adopt: bool) -> Option<(Progress, Vec<Tensor>)> {
    let backend = VulkanBackend::new(VulkanOptions {
        checked: true,
        adopt: Some(adopt),
        ..VulkanOptions::default()
    });
    let device = match backend.open(0) {
        Ok(device) if device.info().features.has(Features::IN_PLACE) => device,
        Ok(device) if !adopt => device,
        Ok(device) => {
            println!(
                "NOT RUN on {}: its driver imports no memory",
                device.info().name
            );
            return None;
        }
        Err(error) => {
            println!("NOT RUN on vulkan: {error}");
            return None;
        }
    };
    let mut last = None;
    let options = EngineOptions {
        context: Some(64),
        ..EngineOptions::default()
    };
    let engine = Engine::load(model.clone(), device, options, &mut |progress| {
        last = Some(progress);
        ControlFlow::Continue(())
    });
    let engine = Arc::new(engine.expect("it loads"));
    let options = ForwardOptions {
        all: false,
        greedy: 8,
    };
    let ids = [0, 17, 301, 5, 99];
    let found = forward(&engine, &ids, options, &Cancel::new(), &mut |_, _| {}).expect("it runs");
    assert_eq!(backend.complaints(), Vec::<String>::new());
    Some((last.expect("a report"), found))
}

#[test]
fn the_model_that_ships_is_read_in_place_with_the_same_numbers_as_a_copy() {
    let (_folder, models) = models();
    for (name, model) in ["part of the program", "mapped"].into_iter().zip(&models) {
        let Some((progress, in_place)) = run(model, true) else {
            return;
        };
        let copied = progress.bytes_total - progress.bytes_in_place;
        assert!(copied < progress.bytes_total / 500, "{name}: {progress:?}");
        let (progress, uploaded) = run(model, false).expect("it opened before");
        assert_eq!(progress.bytes_in_place, 0);
        assert_eq!(in_place.len(), uploaded.len());
        for (a, b) in in_place.iter().zip(&uploaded) {
            assert!(a == b, "{name}: {} differs", a.name);
        }
    }
}
