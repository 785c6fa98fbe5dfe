//! The model that ships, for tests in which drafts must be worth something.

use std::sync::Arc;

use hadal_engine::Model;
use hadal_models::Config;
use hadal_tokens::TextModel;
use hadal_weights::Checkpoint;

/// The trained model, out of the program.
///
/// # Panics
/// Where it is damaged.
pub fn trained() -> Arc<Model> {
    let config = Config::from_json(hadal_tiny::CONFIG).expect("it is legal");
    let files = [("model", hadal_tiny::WEIGHTS)];
    let source = Checkpoint::from_static(&files).expect("it opens");
    let text = TextModel::from_bytes(
        hadal_tiny::TOKENIZER,
        Some(hadal_tiny::TOKENIZER_CONFIG),
        None,
    );
    let text = text.map_err(|error| error.to_string());
    Arc::new(Model::new(config, Arc::new(source), text).expect("it binds"))
}
