//! A session: one sequence with its latent caches. Feeds tokens, keeps the next-token
//! module's cache in step, and can take tokens back.
//!
//! The module's row `i` combines the hidden state of position `i` with token `i + 1`
//! (report, section 2.2), so the last row of a step waits until its next token is known.

use std::sync::Arc;

use hadal_device::Span;
use hadal_models::Outputs;

use crate::model::Kind;
use crate::seat::{Place, Places, Seat, hidden_bytes, layer_cache_bytes};
use crate::step::{At, Done, Rows, Step};
use crate::{Cancel, Engine, EngineError, Result};

/// One sequence on an engine.
pub struct Session {
    engine: Arc<Engine>,
    /// `None` while the memory is lost with its device.
    pub(crate) seat: Option<Arc<Seat>>,
    pub(crate) place: Place,
    pub(crate) tokens: Vec<u32>,
    /// Rows of `hidden`, of the newest positions, that the next-token module has not read.
    pub(crate) waiting: usize,
    /// Where no row waits: the token that the module read with the newest position.
    pub(crate) beyond: Option<u32>,
    /// Stops the step under way between two submits: of [`Session::surviving`].
    pub(crate) cancel: Option<Cancel>,
    drafts: bool,
}

impl Session {
    /// An empty sequence. Its caches are allocated whole, for `engine.context()` tokens;
    /// [`EngineError::OverBudget`] where the engine's budget has no room for them.
    /// `drafts`: keep the cache of the next-token module in step, if the model has one.
    pub fn new(engine: &Arc<Engine>, drafts: bool) -> Result<Session> {
        let config = &engine.model().config;
        let drafts = drafts && config.num_nextn_predict_layers > 0;
        let places = Places::new(engine, 1, drafts)?;
        let place = places.take().ok_or_else(unseated)?;
        Session::in_place(engine, place, drafts)
    }

    /// An empty sequence in `place`.
    pub(crate) fn in_place(engine: &Arc<Engine>, place: Place, drafts: bool) -> Result<Session> {
        let mut session = Session {
            engine: engine.clone(),
            seat: None,
            place,
            tokens: Vec::new(),
            waiting: 0,
            beyond: None,
            cancel: None,
            drafts,
        };
        session.surviving(None, |_| Ok(()))?;
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

    /// Where the next token will stand.
    pub(crate) fn next_at(&self) -> At {
        self.at(self.position())
    }

    fn at(&self, position: u32) -> At {
        At {
            sequence: self.place.index,
            position,
        }
    }

    /// True if the next-token module runs along.
    pub fn drafts(&self) -> bool {
        self.drafts
    }

    /// Bytes of cache it holds.
    pub fn cache_bytes(&self) -> u64 {
        let config = &self.engine.model().config;
        u64::from(self.place.of.layers()) * layer_cache_bytes(config, self.engine.context())
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

    /// The tokens from `fed` on that the next step takes, where all of them are to give logits.
    pub(crate) fn next_piece<'i>(&mut self, ids: &'i [u32], fed: usize) -> Result<&'i [u32]> {
        let chunk = self.surviving(None, |session| session.engine.next_chunk())?;
        let chunk = chunk.min(self.engine.logit_chunk());
        Ok(&ids[fed..ids.len().min(fed + chunk)])
    }

    /// Feeds a prompt in chunks and calls `last` with the finished last step, whose last
    /// row has logits; again where the device was lost before it was done. `progress` sees tokens
    /// done and in all.
    pub(crate) fn prefill<T>(
        &mut self,
        ids: &[u32],
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize, usize),
        mut last: impl FnMut(&Done<'_>) -> Result<T>,
    ) -> Result<T> {
        self.check(ids)?;
        let mut tail = ids;
        loop {
            self.engine.gate.pass(cancel)?;
            let chunk = self.surviving(Some(cancel), |session| session.engine.next_chunk())?;
            if tail.len() <= chunk {
                break;
            }
            let (piece, rest) = tail.split_at(chunk);
            self.surviving(Some(cancel), |session| {
                session.feed(piece, &[], Outputs::Hidden).map(drop)
            })?;
            tail = rest;
            progress(ids.len() - tail.len(), ids.len());
        }
        let row = tail.len() as u32 - 1;
        let result = self.surviving(Some(cancel), |session| {
            last(&session.feed(tail, &[row], Outputs::Hidden)?)
        })?;
        progress(ids.len(), ids.len());
        Ok(result)
    }

    /// Feeds `ids` and shows where the last token's logits lie on the device, as `vocab_size`
    /// values of `f32`, without reading them: for a program that goes on there, on a device
    /// it shares. What it submits within `show` comes before whatever overwrites them, which is
    /// the engine's next step, of any session; `show` must not call the engine.
    /// `hadal_wgpu::WgpuDevice::buffer` has wgpu's handle. `show` is called again where the
    /// device was lost.
    pub fn logits_on_device<T>(
        &mut self,
        ids: &[u32],
        cancel: &Cancel,
        mut show: impl FnMut(Span) -> T,
    ) -> Result<T> {
        let missing = || hadal_device::Error::Invalid("a step without logits".into());
        self.prefill(ids, cancel, &mut |_, _| {}, |done| {
            let (span, _) = done.span("logits")?.ok_or_else(missing)?;
            Ok(show(span))
        })
    }

    /// Runs the main model over `ids` (at most a chunk) at the end of the sequence, of which they
    /// are no part if the step was cancelled between its submits.
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
            rows: Rows::From(self.next_at()),
            logit_rows,
            cancel: self.cancel.as_ref(),
        };
        let done = self.engine.step(&step, seated(&self.seat)?)?;
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
            rows: Rows::From(self.at(first as u32)),
            logit_rows,
            cancel: self.cancel.as_ref(),
        };
        let done = self.engine.step(&step, seated(&self.seat)?)?;
        self.waiting = 0;
        self.beyond = Some(next);
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
        let seat = seated(&self.seat)?;
        let span = Span {
            buffer: seat.hidden,
            offset: 0,
            bytes: 4 * hidden.len() as u64,
        };
        let device = &seat.home.device;
        device.write(span, bytemuck::cast_slice(hidden))?;
        let step = Step {
            kind: Kind::Next(0),
            outputs: Outputs::Hidden,
            ids: &[id],
            rows: Rows::From(self.at(position)),
            logit_rows: &[0],
            cancel: self.cancel.as_ref(),
        };
        self.engine.step(&step, seat)
    }

    /// Row of the next-token module's next step that drafts: the newest one. `None` if the
    /// module has read all rows, as after a step that failed.
    pub(crate) fn draft_row(&self) -> Option<u32> {
        (self.waiting as u32).checked_sub(1)
    }

    /// Another session with the same tokens, in no batch: its caches are copied on the device.
    ///
    /// # Errors
    /// Those of [`Session::new`], and of the device.
    pub fn fork(&mut self) -> Result<Session> {
        let mut fork = Session::new(&self.engine, self.drafts)?;
        let bytes = layer_cache_bytes(&self.engine.model().config, self.engine.context());
        let hidden = hidden_bytes(&self.engine.model().config, self.engine.options());
        let copied = self.surviving(None, |session| {
            // A loss may have moved one of them.
            fork.surviving(None, |_| Ok(()))?;
            let (from, to) = (seated(&session.seat)?, seated(&fork.seat)?);
            let span = |buffer, offset, bytes| Span {
                buffer,
                offset,
                bytes,
            };
            let first = u64::from(session.place.index) * bytes;
            let layers = from.caches.iter().zip(&to.caches);
            let caches = layers.map(|(from, to)| (span(*from, first, bytes), *to));
            let rows = [
                (span(from.hidden, 0, hidden), to.hidden),
                (span(from.next_hidden, 0, hidden), to.next_hidden),
            ];
            session
                .engine
                .copy(from, &caches.chain(rows).collect::<Vec<_>>())
        });
        copied?;
        fork.tokens.clone_from(&self.tokens);
        (fork.waiting, fork.beyond) = (self.waiting, self.beyond);
        Ok(fork)
    }

    /// Forgets everything; the memory stays.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.waiting = 0;
        self.beyond = None;
    }

    /// Keeps only the first `count` tokens: the shared beginning of a new prompt, or a step
    /// without its wrong draft. The next-token module goes on with what its cache holds.
    pub fn keep(&mut self, count: usize) {
        let dropped = self.tokens.len().saturating_sub(count);
        if dropped > 0 && dropped >= self.waiting {
            // The module read the newest row that is left with the first token that goes.
            self.beyond = Some(self.tokens[count]);
        }
        self.tokens.truncate(count);
        self.waiting = self.waiting.saturating_sub(dropped);
    }
}

/// The memory of a session; there is some whenever [`Session::surviving`] runs.
pub(crate) fn seated(seat: &Option<Arc<Seat>>) -> Result<&Seat> {
    seat.as_deref().ok_or_else(unseated)
}

fn unseated() -> EngineError {
    hadal_device::Error::Invalid("a step of a session without memory".into()).into()
}
