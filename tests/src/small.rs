//! Models of small seeded checkpoints.

use std::sync::Arc;

use hadal_conformance::models::checkpoint::Family;
use hadal_engine::Model;
use hadal_weights::Checkpoint;

/// Seed of the weights.
const SEED: u64 = 7;

/// A small model of the kind.
///
/// # Panics
/// Where the checkpoint is none.
pub fn model(family: Family) -> Arc<Model> {
    let file = ("m".to_string(), Arc::new(family.safetensors(SEED)) as _);
    let source = Checkpoint::from_pages(vec![file]).expect("the small checkpoint opens");
    let text = Err("a small checkpoint has no tokenizer".to_string());
    Arc::new(Model::new(family.config(), Arc::new(source), text).expect("it binds"))
}
