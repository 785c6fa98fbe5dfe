//! Memory of sequences in a home: latent caches and hidden rows; and which sequence has which
//! place in it.
//!
//! A session has such memory alone, those of a [`crate::Batch`] share one, so that a step can read
//! the caches of all of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_device::{BufferId, DeviceInfo, PAGE};
use hadal_models::Config;

use crate::home::Home;
use crate::ledger::Reserved;
use crate::{Engine, EngineError, EngineOptions, Result};

/// Memory of one sequence or several.
pub(crate) struct Seat {
    pub home: Arc<Home>,
    /// Sequences that have a part of each cache, one after the other.
    pub sequences: u32,
    /// Latent caches, one a layer, next-token modules last.
    pub caches: Vec<BufferId>,
    /// Rows of the newest step of the main model, of whichever sequences.
    pub hidden: BufferId,
    /// Rows of the newest step of the next-token module.
    pub next_hidden: BufferId,
}

impl Seat {
    /// Memory for `layers` layers and `engine.context()` tokens of each sequence in `home`,
    /// allocated whole.
    fn new(engine: &Engine, home: &Arc<Home>, layers: u32, sequences: u32) -> Result<Seat> {
        let config = &engine.model().config;
        let cache_bytes = u64::from(sequences) * layer_cache_bytes(config, engine.context());
        let info = home.device.info();
        let limit = info.limits.max_binding_bytes;
        if cache_bytes > limit {
            return Err(EngineError::Option(format!(
                "{sequences} contexts of {} tokens need {cache_bytes} bytes a layer, and {} binds at most {limit}; choose a context of at most {}",
                engine.context(),
                info.id(),
                context_within(config, limit / u64::from(sequences)),
            )));
        }
        let hidden_bytes = hidden_bytes(config, engine.options());
        // Dropping it frees what there is; no buffer has these numbers.
        let mut seat = Seat {
            home: home.clone(),
            sequences,
            caches: Vec::new(),
            hidden: BufferId(u64::MAX),
            next_hidden: BufferId(u64::MAX),
        };
        for layer in 0..layers {
            let member = home.placement.members().of_layer(layer);
            let label = format!("latent cache of layer {layer}");
            let cache = home.alloc_on(Some(member), label, cache_bytes)?;
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

/// Bytes of the memory of `sequences` sequences of `context` tokens, on all members of the device of
/// `info` together.
pub(crate) fn seat_bytes(
    config: &Config,
    options: &EngineOptions,
    info: &DeviceInfo,
    context: u32,
    drafts: bool,
    sequences: u32,
) -> u64 {
    let caches = u64::from(config.num_hidden_layers) + u64::from(drafts);
    let caches = caches * u64::from(sequences);
    // Each member has rows of its own.
    let rows = 2 * info.memories().len() as u64 * hidden_bytes(config, options);
    caches * layer_cache_bytes(config, context) + rows
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

/// Memory of so many sequences, and who has which part of it.
pub(crate) struct Places {
    sequences: u32,
    layers: u32,
    held: Mutex<Held>,
    _room: Reserved,
}

#[derive(Default)]
struct Held {
    /// `None` while the memory is lost with its device.
    seat: Option<Arc<Seat>>,
    /// Places that a session has.
    taken: Vec<u32>,
}

impl Places {
    /// Places for `sequences` sequences, allocated by [`Places::seat`]; `drafts`: with the cache of
    /// a next-token module.
    ///
    /// # Errors
    /// [`EngineError::OverBudget`].
    pub fn new(engine: &Engine, sequences: u32, drafts: bool) -> Result<Arc<Places>> {
        let config = &engine.model().config;
        let (context, options) = (engine.context(), engine.options());
        let device = engine.device();
        let bytes = seat_bytes(config, options, device.info(), context, drafts, sequences);
        Ok(Arc::new(Places {
            sequences,
            layers: config.num_hidden_layers + u32::from(drafts),
            held: Mutex::default(),
            _room: engine.ledger.reserve(bytes, sequences)?,
        }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory in `home`, allocated unless there is some.
    pub fn seat(&self, engine: &Engine, home: &Arc<Home>) -> Result<Arc<Seat>> {
        let mut held = self.held();
        if let Some(seat) = &held.seat
            && Arc::ptr_eq(&seat.home, home)
        {
            return Ok(seat.clone());
        }
        held.seat = None;
        let seat = Arc::new(Seat::new(engine, home, self.layers, self.sequences)?);
        held.seat = Some(seat.clone());
        Ok(seat)
    }

    /// The first free place.
    pub fn take(self: &Arc<Places>) -> Option<Place> {
        let mut held = self.held();
        let index = (0..self.sequences).find(|index| !held.taken.contains(index))?;
        held.taken.push(index);
        Some(Place {
            of: self.clone(),
            index,
        })
    }

    /// Latent caches that a sequence has.
    pub fn layers(&self) -> u32 {
        self.layers
    }
}

/// A sequence's part of a memory, free again when it is dropped.
pub(crate) struct Place {
    pub of: Arc<Places>,
    pub index: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.of.held();
        held.taken.retain(|index| *index != self.index);
    }
}
