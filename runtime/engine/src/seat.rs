//! A session's memory in a home: latent caches and hidden rows.

use std::sync::Arc;

use hadal_device::{BufferId, PAGE};
use hadal_models::Config;

use crate::home::Home;
use crate::{Engine, EngineError, EngineOptions, Result};

/// Memory of one sequence.
pub(crate) struct Seat {
    pub home: Arc<Home>,
    /// Latent caches, one a layer, next-token modules last.
    pub caches: Vec<BufferId>,
    /// Rows of the newest step of the main model.
    pub hidden: BufferId,
    /// Rows of the newest step of the next-token module.
    pub next_hidden: BufferId,
}

impl Seat {
    /// Memory for `layers` layers and `engine.context()` tokens in `home`, allocated whole.
    pub fn new(engine: &Engine, home: &Arc<Home>, layers: u32) -> Result<Seat> {
        let config = &engine.model().config;
        let cache_bytes = layer_cache_bytes(config, engine.context());
        let info = home.device.info();
        let limit = info.limits.max_binding_bytes;
        if cache_bytes > limit {
            return Err(EngineError::Option(format!(
                "a context of {} tokens needs {cache_bytes} bytes a layer, and {} binds at most {limit}; choose a context of at most {}",
                engine.context(),
                info.id(),
                context_within(config, limit),
            )));
        }
        let hidden_bytes = hidden_bytes(config, engine.options());
        // Dropping it frees what there is; no buffer has these numbers.
        let mut seat = Seat {
            home: home.clone(),
            caches: Vec::new(),
            hidden: BufferId(u64::MAX),
            next_hidden: BufferId(u64::MAX),
        };
        for layer in 0..layers {
            let cache = home.alloc(format!("latent cache of layer {layer}"), cache_bytes)?;
            seat.caches.push(cache);
        }
        seat.hidden = home.alloc("hidden states", hidden_bytes)?;
        seat.next_hidden = home.alloc("next-token hidden states", hidden_bytes)?;
        Ok(seat)
    }
}

/// Bytes of one token in the cache of one layer: its latent and its rotated key.
pub(crate) fn cache_row_bytes(config: &Config) -> u64 {
    4 * u64::from(config.kv_lora_rank + config.qk_rope_head_dim)
}

/// Bytes of the cache of one layer for `context` tokens: whole pages.
pub(crate) fn layer_cache_bytes(config: &Config, context: u32) -> u64 {
    u64::from(context).next_multiple_of(PAGE.into()) * cache_row_bytes(config)
}

/// Bytes of a session of `context` tokens.
pub(crate) fn session_bytes(
    config: &Config,
    options: &EngineOptions,
    context: u32,
    drafts: bool,
) -> u64 {
    let layers = u64::from(config.num_hidden_layers) + u64::from(drafts);
    layers * layer_cache_bytes(config, context) + 2 * hidden_bytes(config, options)
}

/// The longest context whose cache of one layer has at most `bytes` bytes.
pub(crate) fn context_within(config: &Config, bytes: u64) -> u64 {
    let pages = bytes / cache_row_bytes(config).max(1) / u64::from(PAGE);
    pages * u64::from(PAGE)
}

/// Bytes of the hidden rows of a step. A program is prepared for a bucket, so they are too.
pub(crate) fn hidden_bytes(config: &Config, options: &EngineOptions) -> u64 {
    let rows = options.step_tokens().next_power_of_two();
    4 * u64::from(rows) * u64::from(config.hidden_size)
}

impl Drop for Seat {
    fn drop(&mut self) {
        // An error means that the device is gone, and its memory with it.
        let _ = self.home.wait();
        for buffer in self.caches.iter().chain([&self.hidden, &self.next_hidden]) {
            self.home.free(*buffer);
        }
    }
}
