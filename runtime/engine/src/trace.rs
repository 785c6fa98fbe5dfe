//! What each dispatch of a step takes: the step's program, a submit for each dispatch.
//!
//! Decides how time is taken; what it is compared with is the caller's.

use std::time::{Duration, Instant};

use hadal_device::{DType, Inputs, OpKind, PAGE};
use hadal_graph::WorkLimit;
use hadal_models::Outputs;

use crate::model::Kind;
use crate::prepared::Prepared;
use crate::seat::Seat;
use crate::session::seated;
use crate::step::Step;
use crate::{Engine, Result, Session};

/// A dispatch and its time.
#[derive(Clone, Debug)]
pub struct Traced {
    /// Place in the model: `model.layers.3.mlp.experts`.
    pub scope: String,
    /// The operation.
    pub op: OpKind,
    /// Format of its weight; `F32` where it has none.
    pub weight: DType,
    /// The kernel row.
    pub row: &'static str,
    /// Multiply-adds.
    pub macs: u64,
    /// Bytes of weights and cache, each read once.
    pub bytes: u64,
    /// By the device's clock; by this processor's, with submitting and waiting, where the
    /// device has none.
    pub time: Duration,
}

impl Session {
    /// Runs `ids`, at most a chunk, at the end of the sequence, `runs` times, and takes the
    /// shortest time of each dispatch. The sequence stays as it was.
    ///
    /// # Errors
    /// Those of a step; [`crate::EngineError::Option`] for more tokens than a step has.
    pub fn trace(&mut self, ids: &[u32], runs: u32) -> Result<Vec<Traced>> {
        self.check(ids)?;
        let step = Step {
            kind: Kind::Main,
            outputs: Outputs::Hidden,
            ids,
            position: self.position(),
            logit_rows: &[ids.len() as u32 - 1],
        };
        self.engine().trace(&step, seated(&self.seat)?, runs)
    }
}

impl Engine {
    fn trace(&self, step: &Step<'_>, seat: &Seat, runs: u32) -> Result<Vec<Traced>> {
        let key = self.explained_key(step.kind, step.ids.len() as u32)?;
        let mut state = self.state();
        let home = self.resting(&mut state, seat)?;
        let positions = step.end();
        let lowered = self.lower(&key, state.pace.limit(&key, positions))?;
        let scratch = self.scratch(&home, &mut state, lowered.scratch_bytes)?;
        let mut traced: Vec<Traced> = lowered
            .explained
            .iter()
            .map(|dispatch| Traced {
                scope: dispatch.scope.clone(),
                op: dispatch.op,
                weight: dispatch.weight,
                row: dispatch.row,
                macs: dispatch.work.macs.at(positions),
                bytes: dispatch.work.bytes.at(positions),
                time: Duration::MAX,
            })
            .collect();
        // So little that every dispatch is a submit.
        let limit = WorkLimit {
            units: 0,
            positions,
        };
        let layout = Inputs { bucket: key.bucket };
        let pages = self.cache_rows() / PAGE;
        let mut prepared = Prepared::new(&home, lowered, Some(limit), layout, pages)?;
        let mut measure = || -> Result<()> {
            for _ in 0..runs.max(1) {
                let times = prepared.submit_singly(step, seat, scratch)?;
                for (dispatch, time) in traced.iter_mut().zip(times) {
                    dispatch.time = dispatch.time.min(time);
                }
            }
            Ok(())
        };
        let measured = measure();
        prepared.free(&home);
        measured.map(|()| traced)
    }
}

impl Prepared {
    /// Runs it for a session and waits after each submit: the time of each.
    fn submit_singly(
        &mut self,
        step: &Step<'_>,
        seat: &Seat,
        scratch: hadal_device::BufferId,
    ) -> Result<Vec<Duration>> {
        let home = &seat.home;
        let table = self.begin(step, seat, scratch)?;
        let mut times = Vec::new();
        for executable in self.executables() {
            let started = Instant::now();
            let ticket = executable.submit(&table)?;
            home.started(ticket);
            home.device.wait(ticket)?;
            let waited = started.elapsed();
            times.push(home.device.gpu_time(ticket).unwrap_or(waited));
        }
        Ok(times)
    }
}
