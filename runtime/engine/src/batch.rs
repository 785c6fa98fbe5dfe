//! Sequences that decode together: a step takes a token of each, so that weights are read once
//! for all of them.
//!
//! Decides which sequences share a step and what becomes of each row; a sequence is a
//! [`Session`] like any other, whose cache lies beside those of the others.

use std::sync::Arc;

use hadal_models::Outputs;

use crate::decode::SharedRow;
use crate::home::Home;
use crate::model::Kind;
use crate::observe::{Chosen, routes};
use crate::seat::Places;
use crate::step::{At, Rows, Step};
use crate::{Cancel, Decoder, Engine, EngineError, Result, Session};

/// Places for sessions that decode together, as many as [`crate::EngineOptions::batch`] says.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use hadal_engine::{Batch, Cancel, Decoder, Engine, SamplingOptions};
/// # fn both(engine: &Arc<Engine>) -> hadal_engine::Result<()> {
/// let (batch, cancel) = (Batch::new(engine)?, Cancel::new());
/// let (mut one, mut other) = (batch.session()?, batch.session()?);
/// let greedy = SamplingOptions::greedy();
/// let mut one = Decoder::start(&mut one, &[1, 2], greedy.clone(), &cancel, &mut |_, _| {})?;
/// let mut other = Decoder::start(&mut other, &[3], greedy, &cancel, &mut |_, _| {})?;
/// for token in batch.advance(&mut [&mut one, &mut other], &cancel)? {
///     println!("{:?}", token?.map(|token| token.id));
/// }
/// # Ok(())
/// # }
/// ```
pub struct Batch {
    engine: Arc<Engine>,
    places: Arc<Places>,
}

impl Batch {
    /// Places for the sessions, all empty. Their caches are allocated whole, for
    /// `engine.context()` tokens each, and freed with the last of batch and sessions.
    ///
    /// # Errors
    /// [`EngineError::OverBudget`] where the engine's budget has no room for them;
    /// [`EngineError::Option`] where the device cannot bind the caches of a layer at once.
    pub fn new(engine: &Arc<Engine>) -> Result<Batch> {
        let places = Places::new(engine, engine.options().batch, false)?;
        engine.at_last(|home| places.seat(engine, home).map(drop))?;
        Ok(Batch {
            engine: engine.clone(),
            places,
        })
    }

    /// An empty session in a free place, without drafts. Dropping it makes the place free.
    ///
    /// # Errors
    /// [`EngineError::BatchFull`].
    pub fn session(&self) -> Result<Session> {
        let full = || EngineError::BatchFull {
            sequences: self.engine.options().batch,
        };
        let place = self.places.take().ok_or_else(full)?;
        Session::in_place(&self.engine, place, false)
    }

    /// Feeds the newest token of each decoder, all in one step, and gives the next token of
    /// each, in their order; `None` where its context is full. The tokens are those that each
    /// would choose alone. Whoever is finished is left out of the next call.
    ///
    /// # Errors
    /// [`EngineError::Option`] for a decoder whose session is of another batch; those of the
    /// device; [`EngineError::Cancelled`] by `cancel`, which is heard between submits: no
    /// decoder has changed then, and all can go on. Among the tokens: where a row has no token to
    /// choose.
    pub fn advance(
        &self,
        decoders: &mut [&mut Decoder<'_>],
        cancel: &Cancel,
    ) -> Result<Vec<Result<Option<Chosen>>>> {
        for decoder in &mut *decoders {
            if !Arc::ptr_eq(&decoder.session().place.of, &self.places) {
                let text = "a decoder whose session is of another batch, or of none";
                return Err(EngineError::Option(text.to_string()));
            }
        }
        self.engine.gate.pass(cancel)?;
        let has_room = |index: &usize| decoders[*index].room() > 0;
        let fed: Vec<usize> = (0..decoders.len()).filter(has_room).collect();
        let rows = self.engine.at_last(|home| {
            // All of them before any step: a loss may have moved some.
            for &index in &fed {
                settle(decoders[index].session(), home, cancel)?;
            }
            let mut rows = Vec::with_capacity(fed.len());
            for piece in fed.chunks(self.engine.logit_chunk()) {
                rows.extend(self.step(home, decoders, piece, cancel)?);
            }
            Ok(rows)
        })?;
        let mut chosen: Vec<_> = decoders.iter().map(|_| Ok(None)).collect();
        for (index, row) in fed.into_iter().zip(rows) {
            chosen[index] = decoders[index].take(row).map(Some);
        }
        Ok(chosen)
    }

    /// Feeds the newest tokens of the decoders `piece`: their rows, of which nothing is decided.
    fn step(
        &self,
        home: &Arc<Home>,
        decoders: &mut [&mut Decoder<'_>],
        piece: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<SharedRow>> {
        let mut fed: Vec<(u32, u32)> = Vec::with_capacity(piece.len());
        let mut places: Vec<At> = Vec::with_capacity(piece.len());
        for &index in piece {
            let decoder = &mut decoders[index];
            let at = decoder.session().next_at();
            fed.push((decoder.newest(), at.position));
            places.push(at);
        }
        let ids: Vec<u32> = fed.iter().map(|(id, _)| *id).collect();
        let logit_rows: Vec<u32> = (0..piece.len() as u32).collect();
        let observed = piece.iter().map(|&index| decoders[index].observe());
        let watched = observed.map(|observe| observe.outputs());
        let step = Step {
            kind: Kind::Main,
            outputs: watched.max().unwrap_or(Outputs::Hidden),
            ids: &ids,
            rows: Rows::Each(&places),
            logit_rows: &logit_rows,
            cancel: Some(cancel),
        };
        let seat = self.places.seat(&self.engine, home)?;
        let done = self.engine.step(&step, &seat)?;
        let chosen = done.u32("ids")?;
        let logits = match piece.iter().any(|&index| decoders[index].reads_logits()) {
            true => done.f32("logits")?,
            false => Vec::new(),
        };
        let routes = routes(&done, &fed)?;
        let rows = piece.iter().zip(chosen).zip(routes).enumerate();
        let rows = rows.map(|(row, ((&index, id), routes))| SharedRow {
            id,
            logits: match decoders[index].reads_logits() {
                true => logits[row * done.vocab..][..done.vocab].to_vec(),
                false => Vec::new(),
            },
            routes: match decoders[index].observe().routes {
                true => routes,
                false => Vec::new(),
            },
        });
        Ok(rows.collect())
    }
}

/// Gives `session` its memory in `home`, unless it has it; steps for that stop at `cancel`.
fn settle(session: &mut Session, home: &Arc<Home>, cancel: &Cancel) -> Result<()> {
    session.cancel = Some(cancel.clone());
    let settled = session.settle(home);
    session.cancel = None;
    settled
}
