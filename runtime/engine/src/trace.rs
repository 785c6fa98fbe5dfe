//! What each dispatch of a step takes: the step's program, a submit for each dispatch.
//!
//! Decides how time is taken; what it is compared with is the caller's.

use std::time::{Duration, Instant};

use hadal_device::{
    BufferId, DType, Dispatch, Executable, Inputs, KernelRow, OpKind, Params, Problem, Program,
    Stage, able, flags,
};
use hadal_graph::{Lowered, WorkLimit};
use hadal_models::Outputs;

use crate::home::Home;
use crate::model::Kind;
use crate::prepared::{Prepared, stage};
use crate::programs::ProgramKey;
use crate::seat::Seat;
use crate::session::seated;
use crate::step::{Rows, Step};
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
    /// Its activations are rows of E4M3 codes (`hadal_device::flags::CODED`): products with
    /// them may be faster than others of the same weight.
    pub coded: bool,
    /// The kernel row.
    pub row: &'static str,
    /// Multiply-adds for the rows there were; attention as far as each row looks back.
    pub macs: u64,
    /// Bytes of weights and cache, each read once.
    pub bytes: u64,
    /// By the device's clock; by this processor's, with submitting and waiting, where the
    /// device has none.
    pub time: Duration,
    /// The other kernels that could do it, and their times, where they were asked for: at the
    /// first of all dispatches of the same sizes.
    pub others: Vec<(&'static str, Duration)>,
}

impl Session {
    /// Runs `ids`, at most a chunk, at the end of the sequence, `runs` times, and takes the
    /// shortest time of each dispatch, in the order of the step; `others`: that of every other
    /// kernel that could do it, too. The sequence stays as it was.
    ///
    /// # Errors
    /// Those of a step; [`crate::EngineError::Option`] for more tokens than a step has.
    pub fn trace(&mut self, ids: &[u32], runs: u32, others: bool) -> Result<Vec<Traced>> {
        self.check(ids)?;
        let step = Step {
            kind: Kind::Main,
            outputs: Outputs::Hidden,
            ids,
            rows: Rows::From(self.next_at()),
            logit_rows: &[ids.len() as u32 - 1],
            cancel: None,
        };
        self.engine()
            .trace(&step, seated(&self.seat)?, runs, others)
    }
}

impl Engine {
    fn trace(&self, step: &Step<'_>, seat: &Seat, runs: u32, others: bool) -> Result<Vec<Traced>> {
        let key = ProgramKey {
            sequences: seat.sequences,
            ..self.explained_key(step.kind, step.ids.len() as u32)?
        };
        let mut state = self.state();
        let home = self.resting(&mut state, seat)?;
        let positions = step.end();
        let lowered = self.lower(&key, state.pace.limit(&key, positions))?;
        let scratch = self.scratch(&home, &mut state, lowered.scratch_bytes)?;
        let mut traced = untimed(&lowered, step);
        // So little that every dispatch is a submit.
        let limit = WorkLimit {
            units: 0,
            positions,
        };
        let layout = Inputs { bucket: key.bucket };
        let pages = self.pages(&key);
        let mut prepared = Prepared::new(&home, lowered, Some(limit), layout, pages)?;
        let mut measure = || -> Result<()> {
            for _ in 0..runs.max(1) {
                let times = prepared.submit_singly(step, seat, scratch)?;
                for (dispatch, time) in traced.iter_mut().zip(times) {
                    dispatch.time = dispatch.time.min(time);
                }
            }
            match others {
                true => prepared.time_others(step, seat, scratch, runs, &mut traced),
                false => Ok(()),
            }
        };
        let measured = measure();
        prepared.free(&home);
        measured.map(|()| traced)
    }
}

/// The dispatches of `lowered` and what they have to do for `step`.
fn untimed(lowered: &Lowered, step: &Step<'_>) -> Vec<Traced> {
    let count = step.ids.len() as u32;
    // A row attends to itself and what comes before it.
    let seen = step.end() - count / 2;
    let dispatches = lowered.program.steps.iter().filter_map(|step| match step {
        hadal_device::Step::Dispatch(dispatch) => Some(&dispatch.params),
        _ => None,
    });
    let explained = lowered.explained.iter().zip(dispatches);
    let traced = explained.map(|(dispatch, params)| {
        let share = |amount: u64| match real_rows(params, count) {
            0 => 0,
            real => (u128::from(amount) * u128::from(real) / u128::from(params.rows)) as u64,
        };
        // Only these read weights anew for each row.
        let by_row = matches!(dispatch.op, OpKind::ExpertLinear | OpKind::ExpertGateUp);
        let bytes = dispatch.work.bytes.at(step.end());
        Traced {
            scope: dispatch.scope.clone(),
            op: dispatch.op,
            weight: dispatch.weight,
            coded: params.flags & flags::CODED != 0,
            row: dispatch.row,
            macs: share(dispatch.work.macs.at(seen)),
            bytes: if by_row { share(bytes) } else { bytes },
            time: Duration::MAX,
            others: Vec::new(),
        }
    });
    traced.collect()
}

/// Rows that a step of `count` tokens has, of those that the program was made for.
fn real_rows(params: &Params, count: u32) -> u32 {
    match params.count_word {
        Inputs::TOKENS => params.rows.min(count.saturating_mul(params.count_scale)),
        _ => params.rows,
    }
}

impl Prepared {
    /// Runs it for a session and waits after each submit: the time of each.
    fn submit_singly(
        &mut self,
        step: &Step<'_>,
        seat: &Seat,
        scratch: BufferId,
    ) -> Result<Vec<Duration>> {
        let home = &seat.home;
        let table = self.begin(step, seat, scratch)?;
        let executables = self.executables();
        executables
            .map(|executable| timed(home, executable.as_mut(), &table))
            .collect()
    }

    /// Takes the times of all kernels that were not chosen, where the step has come to their
    /// dispatch.
    fn time_others(
        &mut self,
        step: &Step<'_>,
        seat: &Seat,
        scratch: BufferId,
        runs: u32,
        traced: &mut [Traced],
    ) -> Result<()> {
        let (home, table) = (&seat.home, self.begin(step, seat, scratch)?);
        let program = self.lowered.program.clone();
        let dispatches = program.steps.iter().filter_map(|step| match step {
            hadal_device::Step::Dispatch(dispatch) => Some(dispatch),
            _ => None,
        });
        let mut seen = Vec::new();
        let stages: Vec<Stage> = (0..program.steps.len())
            .map(|step| stage(home, &self.lowered, step..step + 1))
            .collect();
        let chosen = self.executables().zip(stages);
        for (((chosen, stage), dispatch), traced) in chosen.zip(dispatches).zip(traced) {
            let problem = Problem {
                op: traced.op,
                weight: traced.weight,
                params: *dispatch.params,
            };
            let same = sizes(&problem);
            if !seen.contains(&same) {
                seen.push(same);
                let rows = able(hadal_shaders::table(), home.device.info(), &problem);
                for row in rows.filter(|row| row.name != traced.row) {
                    let mut alone = alone(home, row, &problem, (dispatch, &stage), program.slots)?;
                    let mut least = Duration::MAX;
                    for _ in 0..runs.max(1) {
                        least = least.min(timed(home, alone.as_mut(), &table)?);
                    }
                    traced.others.push((row.name, least));
                }
            }
            timed(home, chosen.as_mut(), &table)?;
        }
        Ok(())
    }
}

/// The dispatch of a program with so many slots, by another kernel at the same place.
fn alone(
    home: &Home,
    row: &KernelRow,
    problem: &Problem,
    (dispatch, stage): (&Dispatch, &Stage),
    slots: u16,
) -> Result<Box<dyn Executable>> {
    let launch = (row.launch)(problem, home.device.info());
    let constants = &launch.constants;
    let dispatch = Dispatch {
        pipeline: home.device.pipeline(row.name, &row.body, constants)?,
        groups: launch.groups,
        ..dispatch.clone()
    };
    let steps = vec![hadal_device::Step::Dispatch(dispatch)];
    let program = Program { slots, steps };
    Ok(home.device.prepare_stage(&program, stage)?)
}

/// What makes two dispatches the same work, wherever their operands lie.
fn sizes(problem: &Problem) -> Problem {
    Problem {
        params: Params {
            x_offset: 0,
            y_offset: 0,
            b_offset: 0,
            ..problem.params
        },
        ..*problem
    }
}

/// Submits and waits: what it took.
fn timed(home: &Home, executable: &mut dyn Executable, table: &[BufferId]) -> Result<Duration> {
    let started = Instant::now();
    let ticket = executable.submit(table)?;
    home.started(ticket);
    home.device.wait(ticket)?;
    let waited = started.elapsed();
    Ok(home.device.gpu_time(ticket).unwrap_or(waited))
}

#[cfg(test)]
mod tests {
    use hadal_device::COUNT_ALL;

    use super::*;

    #[test]
    fn rows_beyond_the_tokens_of_a_step_are_no_work() {
        let params = |count_word, count_scale| Params {
            rows: 16,
            count_word,
            count_scale,
            ..Params::default()
        };
        assert_eq!(real_rows(&params(Inputs::TOKENS, 1), 5), 5);
        assert_eq!(real_rows(&params(Inputs::TOKENS, 2), 5), 10);
        assert_eq!(real_rows(&params(Inputs::TOKENS, 4), 5), 16);
        assert_eq!(real_rows(&params(COUNT_ALL, 1), 5), 16);
    }
}
