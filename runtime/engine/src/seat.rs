//! A session's memory in a home: latent caches and hidden rows.

use std::sync::Arc;

use hadal_device::{BufferId, PAGE};

use crate::home::Home;
use crate::{Engine, EngineError, Result};

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
        let width = config.kv_lora_rank + config.qk_rope_head_dim;
        let cache_bytes = 4 * u64::from(engine.cache_rows()) * u64::from(width);
        let info = home.device.info();
        let limit = info.limits.max_binding_bytes;
        if cache_bytes > limit {
            return Err(EngineError::Option(format!(
                "a context of {} tokens needs {cache_bytes} bytes a layer, and {} binds at most {limit}; choose a context of at most {}",
                engine.context(),
                info.id(),
                limit / (4 * u64::from(width)) / u64::from(PAGE) * u64::from(PAGE),
            )));
        }
        // A program is prepared for a bucket, so its hidden rows are too.
        let rows = engine.step_tokens().next_power_of_two();
        let hidden_bytes = 4 * u64::from(rows) * u64::from(config.hidden_size);
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

impl Drop for Seat {
    fn drop(&mut self) {
        // An error means that the device is gone, and its memory with it.
        let _ = self.home.wait();
        for buffer in self.caches.iter().chain([&self.hidden, &self.next_hidden]) {
            self.home.free(*buffer);
        }
    }
}
