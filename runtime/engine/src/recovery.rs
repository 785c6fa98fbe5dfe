//! Going on after the device was lost: another device, the weights again from their map.
//!
//! Decides when a loss is final, and how a session has its cache back: by computing it again
//! from its tokens.

use std::ops::ControlFlow;
use std::sync::Arc;

use hadal_device::{Device, DeviceInfo, Error};
use hadal_models::Outputs;
use hadal_weights::{Placement, Progress};

use crate::engine::State;
use crate::home::Home;
use crate::{Cancel, Engine, EngineError, Result, Session};

/// Losses in one step after which it is given up: what makes a driver reset its device
/// three times would do so again.
const MAX_LOSSES: u32 = 3;

/// How an engine goes on when its device is lost. A closure that opens a device is one.
///
/// All methods are called from the thread whose step met the loss, while no other step of
/// the engine runs.
pub trait Recovery: Send + Sync {
    /// Opens the device again, or another one; `lost` is the [`Error::Lost`] that ended the
    /// old one. A driver may need a moment after a reset: waiting for it is up to this.
    fn reopen(&self, lost: &Error) -> Result<Arc<dyn Device>>;

    /// Sees the weights being uploaded again and may stop that, which ends the request with
    /// [`hadal_weights::WeightsError::Cancelled`].
    fn progress(&self, _progress: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// The weights are in place on `device`; sessions go on there.
    fn resumed(&self, _lost: &Error, _device: &DeviceInfo) {}
}

impl<F> Recovery for F
where
    F: Fn(&Error) -> Result<Arc<dyn Device>> + Send + Sync,
{
    fn reopen(&self, lost: &Error) -> Result<Arc<dyn Device>> {
        self(lost)
    }
}

impl Engine {
    /// The engine, able to go on when its device is lost: the device is opened again, the
    /// weights are uploaded again from their map, and each session computes its cache again
    /// before its next step, with the same tokens. Without this a loss ends the request with
    /// [`Error::Lost`].
    pub fn with_recovery(mut self, recovery: impl Recovery + 'static) -> Engine {
        self.recovery = Some(Box::new(recovery));
        self
    }

    /// Does `work` in the engine's home; where its device is lost meanwhile, again in another.
    pub(crate) fn at_last<T>(&self, mut work: impl FnMut(&Arc<Home>) -> Result<T>) -> Result<T> {
        let mut losses = 0;
        loop {
            let home = self.home();
            let lost = match work(&home) {
                Err(error) => error.into_lost()?,
                done => return done,
            };
            self.recover(&home, lost, &mut losses)?;
        }
    }

    /// Leaves `home`, whose device answered `lost` after `losses` others in one step. Nothing
    /// is to be done where another session was faster.
    fn recover(&self, home: &Arc<Home>, lost: Error, losses: &mut u32) -> Result<()> {
        let Some(recovery) = &self.recovery else {
            return Err(lost.into());
        };
        count(losses, &lost)?;
        let mut state = self.state();
        if !Arc::ptr_eq(home, &self.home()) {
            return Ok(());
        }
        // Nothing runs any more. Both would not fit side by side.
        let _ = home.wait();
        let low = self.is_low_priority();
        *state = State::on(home, self.options(), low);
        home.leave();
        let mut lost = lost;
        let opened = loop {
            let device = recovery
                .reopen(&lost)
                .map_err(|error| EngineError::NotReopened {
                    lost: lost.clone(),
                    error: Box::new(error),
                })?;
            let mut progress = |progress| recovery.progress(progress);
            let (bound, source) = (self.model.bound.clone(), self.model.source.as_ref());
            let placement = Placement::of(bound, source, device.info())?;
            let context = self.context;
            match Home::open(&self.model, device, placement, context, &mut progress) {
                Ok(opened) => break self.move_to(opened),
                // While the weights went there.
                Err(error) => lost = error.into_lost()?,
            }
            count(losses, &lost)?;
        };
        *state = State::on(&opened, self.options(), low);
        recovery.resumed(&lost, opened.device.info());
        Ok(())
    }
}

/// Counts a loss; `Err` if it is one too many.
fn count(losses: &mut u32, lost: &Error) -> Result<()> {
    *losses += 1;
    match *losses >= MAX_LOSSES {
        true => Err(EngineError::LostAgain {
            losses: *losses,
            lost: lost.clone(),
        }),
        false => Ok(()),
    }
}

impl Session {
    /// Does `work`, whose steps `cancel` stops; where the device is lost meanwhile, again from the
    /// same state on another one. `work` must change nothing but the session before its last word
    /// from the device.
    pub(crate) fn surviving<T>(
        &mut self,
        cancel: Option<&Cancel>,
        work: impl FnMut(&mut Session) -> Result<T>,
    ) -> Result<T> {
        self.cancel = cancel.cloned();
        let done = self.done_at_last(work);
        self.cancel = None;
        done
    }

    fn done_at_last<T>(&mut self, mut work: impl FnMut(&mut Session) -> Result<T>) -> Result<T> {
        let engine = self.engine().clone();
        let before = (self.tokens.len(), self.waiting, self.beyond);
        engine.at_last(|home| {
            let done = self.settle(home).and_then(|()| work(self));
            if done.as_ref().is_err_and(EngineError::is_lost) {
                self.tokens.truncate(before.0);
                (self.waiting, self.beyond) = (before.1, before.2);
            }
            done
        })
    }

    /// Takes a seat in `home`, with the cache as it was, unless it has one.
    pub(crate) fn settle(&mut self, home: &Arc<Home>) -> Result<()> {
        if let Some(seat) = &self.seat
            && Arc::ptr_eq(&seat.home, home)
        {
            return Ok(());
        }
        self.seat = None;
        self.seat = Some(self.place.of.seat(self.engine(), home)?);
        let (waiting, beyond) = (self.waiting, self.beyond);
        let tokens = std::mem::take(&mut self.tokens);
        let replayed = self.replay(&tokens, waiting, beyond);
        self.tokens = tokens;
        (self.waiting, self.beyond) = (waiting, beyond);
        // Half a cache is none.
        replayed.inspect_err(|_| self.seat = None)
    }

    /// Feeds `tokens` to empty caches so that `waiting` rows wait for the next-token module,
    /// and if none do, its newest row has read `beyond`.
    fn replay(&mut self, tokens: &[u32], waiting: usize, beyond: Option<u32>) -> Result<()> {
        self.waiting = 0;
        let (mut read, unread) = tokens.split_at(tokens.len() - waiting);
        while !read.is_empty() {
            let chunk = self.engine().next_chunk()?.min(read.len());
            let (piece, rest) = read.split_at(chunk);
            drop(self.feed(piece, &[], Outputs::Hidden)?);
            read = rest;
        }
        if !unread.is_empty() {
            // At once, as many as waited before: they were one step.
            drop(self.feed(unread, &[], Outputs::Hidden)?);
        }
        match beyond {
            Some(next) if self.drafts() && waiting == 0 && !tokens.is_empty() => {
                self.run_next(next, &[], Outputs::Hidden).map(drop)
            }
            _ => Ok(()),
        }
    }
}
