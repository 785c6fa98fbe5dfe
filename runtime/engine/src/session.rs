//! A session: one sequence with its latent caches. Feeds tokens, keeps the next-token
//! module's cache in step, and can take tokens back.
//!
//! The module's row `i` combines the hidden state of position `i` with token `i + 1`
//! (report, section 2.2), so the last row of a step waits until its next token is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hadal_device::{BufferDesc, BufferId, PAGE, Span};
use hadal_models::Outputs;

use crate::model::Kind;
use crate::step::{Done, SessionBuffers, Step};
use crate::{Engine, EngineError, Result};

/// Asks a running request to stop; may be shared between threads.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A request that runs on.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Stops the request before its next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the handle usable for another request.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(EngineError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// One sequence on an engine.
pub struct Session {
    engine: Arc<Engine>,
    caches: Vec<BufferId>,
    hidden: BufferId,
    next_hidden: BufferId,
    tokens: Vec<u32>,
    /// Rows of `hidden`, of the newest positions, that the next-token module has not read.
    waiting: usize,
    drafts: bool,
}

impl Session {
    /// An empty sequence. Its caches are allocated whole, for `engine.context()` tokens.
    /// `drafts`: keep the cache of the next-token module in step, if the model has one.
    pub fn new(engine: &Arc<Engine>, drafts: bool) -> Result<Session> {
        let config = &engine.model().config;
        let drafts = drafts && config.num_nextn_predict_layers > 0;
        let layers = config.num_hidden_layers + u32::from(drafts);
        let width = config.kv_lora_rank + config.qk_rope_head_dim;
        let cache_bytes = 4 * u64::from(engine.cache_rows()) * u64::from(width);
        let limit = engine.device().info().limits.max_binding_bytes;
        if cache_bytes > limit {
            return Err(EngineError::Option(format!(
                "a context of {} tokens needs {cache_bytes} bytes a layer, and {} binds at most {limit}; choose a context of at most {}",
                engine.context(),
                engine.device().info().id(),
                limit / (4 * u64::from(width)) / u64::from(PAGE) * u64::from(PAGE),
            )));
        }
        // A program is prepared for a bucket, so its hidden rows are too.
        let rows = engine.step_tokens().next_power_of_two();
        let hidden_bytes = 4 * u64::from(rows) * u64::from(config.hidden_size);
        let mut session = Session {
            engine: engine.clone(),
            caches: Vec::new(),
            hidden: BufferId(u64::MAX),
            next_hidden: BufferId(u64::MAX),
            tokens: Vec::new(),
            waiting: 0,
            drafts,
        };
        let alloc = |label: String, bytes| engine.device().alloc(&BufferDesc::new(label, bytes));
        for layer in 0..layers {
            let cache = alloc(format!("latent cache of layer {layer}"), cache_bytes)?;
            session.caches.push(cache);
        }
        session.hidden = alloc("hidden states".into(), hidden_bytes)?;
        session.next_hidden = alloc("next-token hidden states".into(), hidden_bytes)?;
        Ok(session)
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Tokens in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens in the cache, counted.
    pub fn position(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// True if the next-token module runs along.
    pub fn drafts(&self) -> bool {
        self.drafts
    }

    /// Bytes of cache it holds.
    pub fn cache_bytes(&self) -> u64 {
        let config = &self.engine.model().config;
        let width = config.kv_lora_rank + config.qk_rope_head_dim;
        4 * self.caches.len() as u64 * u64::from(self.engine.cache_rows()) * u64::from(width)
    }

    /// Checks ids and room before anything runs.
    pub(crate) fn check(&self, ids: &[u32]) -> Result<()> {
        let config = &self.engine.model().config;
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let unknown = ids.iter().position(|&id| id >= config.vocab_size);
        if let Some(position) = unknown {
            return Err(EngineError::UnknownToken {
                id: ids[position],
                vocab: config.vocab_size,
                position,
            });
        }
        self.engine.check_room(self.tokens.len() + ids.len())
    }

    /// Feeds a prompt in chunks and calls `last` with the finished last step, whose last
    /// row has logits. `progress` sees tokens done and in all.
    pub(crate) fn prefill<T>(
        &mut self,
        ids: &[u32],
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize, usize),
        last: impl FnOnce(&Done<'_>) -> Result<T>,
    ) -> Result<T> {
        self.check(ids)?;
        let chunk = self.engine.options().chunk as usize;
        let whole = (ids.len() - 1) / chunk * chunk;
        for start in (0..whole).step_by(chunk) {
            cancel.check()?;
            self.feed(&ids[start..start + chunk], &[], Outputs::Hidden)?;
            progress(start + chunk, ids.len());
        }
        cancel.check()?;
        let tail = &ids[whole..];
        let done = self.feed(tail, &[tail.len() as u32 - 1], Outputs::Hidden)?;
        let result = last(&done)?;
        drop(done);
        progress(ids.len(), ids.len());
        Ok(result)
    }

    /// Runs the main model over `ids` (at most a chunk) at the end of the sequence.
    pub(crate) fn feed(
        &mut self,
        ids: &[u32],
        logit_rows: &[u32],
        outputs: Outputs,
    ) -> Result<Done<'_>> {
        if self.drafts && self.waiting > 0 {
            self.run_next(ids[0], &[], Outputs::Hidden)?;
        }
        let step = Step {
            kind: Kind::Main,
            outputs,
            ids,
            position: self.tokens.len() as u32,
            logit_rows,
        };
        let buffers = SessionBuffers {
            caches: &self.caches,
            hidden_in: None,
            hidden_out: self.hidden,
        };
        let done = self.engine.step(&step, &buffers)?;
        self.tokens.extend_from_slice(ids);
        self.waiting = ids.len();
        Ok(done)
    }

    /// Runs the next-token module over the waiting rows; `next` is the token after the last
    /// of them.
    pub(crate) fn run_next(
        &mut self,
        next: u32,
        logit_rows: &[u32],
        outputs: Outputs,
    ) -> Result<Done<'_>> {
        let first = self.tokens.len() - self.waiting;
        let mut ids = self.tokens[first + 1..].to_vec();
        ids.push(next);
        let step = Step {
            kind: Kind::Next(0),
            outputs,
            ids: &ids,
            position: first as u32,
            logit_rows,
        };
        let buffers = SessionBuffers {
            caches: &self.caches,
            hidden_in: Some(self.hidden),
            hidden_out: self.next_hidden,
        };
        let done = self.engine.step(&step, &buffers)?;
        self.waiting = 0;
        Ok(done)
    }

    /// Runs the next-token module on its own answer (`hidden`, one row) and draft `id`, at
    /// `position`: a chained draft.
    pub(crate) fn run_chained(
        &mut self,
        hidden: &[f32],
        id: u32,
        position: u32,
    ) -> Result<Done<'_>> {
        let span = Span {
            buffer: self.hidden,
            offset: 0,
            bytes: 4 * hidden.len() as u64,
        };
        let device = self.engine.device();
        device.write(span, bytemuck::cast_slice(hidden))?;
        let step = Step {
            kind: Kind::Next(0),
            outputs: Outputs::Hidden,
            ids: &[id],
            position,
            logit_rows: &[0],
        };
        let buffers = SessionBuffers {
            caches: &self.caches,
            hidden_in: Some(self.hidden),
            hidden_out: self.next_hidden,
        };
        self.engine.step(&step, &buffers)
    }

    /// Row of the next-token module's next step that drafts: the newest one. `None` if the
    /// module has read all rows, as after a step that failed.
    pub(crate) fn draft_row(&self) -> Option<u32> {
        (self.waiting as u32).checked_sub(1)
    }

    /// Forgets everything; the memory stays.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.waiting = 0;
    }

    /// Keeps only the first `count` tokens: the shared beginning of a new prompt, or a step
    /// without its wrong draft. The next-token module goes on with what its cache holds.
    pub fn keep(&mut self, count: usize) {
        let dropped = self.tokens.len().saturating_sub(count);
        self.tokens.truncate(count);
        self.waiting = self.waiting.saturating_sub(dropped);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.finish();
        let device = self.engine.device();
        for buffer in self.caches.iter().chain([&self.hidden, &self.next_hidden]) {
            device.free(*buffer);
        }
    }
}
