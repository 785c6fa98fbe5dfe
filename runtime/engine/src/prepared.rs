//! A program ready to submit, in segments so that no submit is too long, with its own inputs.
//!
//! Decides where a program is cut into submits; what a limit is worth is `pace.rs`'s.

use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant};

use hadal_device::{
    Access, Bind, BufferId, DeviceKind, Executable, Inputs, Program, Slot, Span, Stage, Ticket,
};
use hadal_graph::{Lowered, SlotUse, Work, WorkLimit};

use crate::Result;
use crate::home::Home;
use crate::seat::Seat;
use crate::step::{Step, fill_inputs, input_words};

/// Some steps of a program that are submitted together.
struct Segment {
    executable: Box<dyn Executable>,
    work: Work,
}

/// A program of an engine.
pub(crate) struct Prepared {
    segments: Vec<Segment>,
    pub lowered: Lowered,
    /// What it was cut to, where anything is limited.
    pub limit: Option<WorkLimit>,
    layout: Inputs,
    inputs: BufferId,
    words: Vec<u32>,
}

/// A step under way or done, and when.
pub(crate) struct Running {
    /// Each submit with its units of work.
    submits: Vec<(Ticket, u64)>,
    started: Instant,
    /// When somebody who had to wait for it saw its end.
    pub ended: Cell<Option<Instant>>,
}

impl Prepared {
    /// Prepares `lowered`, for sequences of `pages` pages together.
    pub fn new(
        home: &Home,
        lowered: Lowered,
        limit: Option<WorkLimit>,
        layout: Inputs,
        pages: u32,
    ) -> Result<Prepared> {
        let segments = segments(home, &lowered, limit, layout.bucket)?;
        let bytes = layout.bytes(1, pages);
        let inputs = home.alloc("inputs", bytes)?;
        let words = input_words(layout, pages);
        let span = Span {
            buffer: inputs,
            offset: 0,
            bytes,
        };
        let written = home.device.write(span, bytemuck::cast_slice(&words));
        written.inspect_err(|_| home.free(inputs))?;
        Ok(Prepared {
            segments,
            lowered,
            limit,
            layout,
            inputs,
            words,
        })
    }

    /// The same program cut otherwise. The caller waited for its last submit.
    pub fn cut_anew(&mut self, home: &Home, lowered: Lowered, limit: WorkLimit) -> Result<()> {
        self.segments = segments(home, &lowered, Some(limit), self.layout.bucket)?;
        self.lowered = lowered;
        self.limit = Some(limit);
        Ok(())
    }

    /// Units of the longest dispatch, and of the longest submit.
    pub fn longest(&self, positions: u32) -> (u64, u64) {
        let dispatches = self.lowered.explained.iter();
        let dispatch = dispatches.map(|step| step.work.at(positions)).max();
        let submits = self.segments.iter();
        let submit = submits.map(|segment| segment.work.at(positions)).max();
        (dispatch.unwrap_or(0), submit.unwrap_or(0))
    }

    /// Frees its inputs. The caller waited for its last submit.
    pub fn free(self, home: &Home) {
        home.free(self.inputs);
    }

    /// What is submitted, in order.
    pub fn executables(&mut self) -> impl Iterator<Item = &mut Box<dyn Executable>> {
        self.segments
            .iter_mut()
            .map(|segment| &mut segment.executable)
    }

    /// Writes the inputs of `step`: the buffers of the slots.
    pub fn begin(
        &mut self,
        step: &Step<'_>,
        seat: &Seat,
        scratch: BufferId,
    ) -> Result<Vec<BufferId>> {
        fill_inputs(&mut self.words, self.layout, step);
        let lists = &self.words[..self.layout.pages() as usize];
        let span = Span {
            buffer: self.inputs,
            offset: 0,
            bytes: 4 * lists.len() as u64,
        };
        seat.home.device.write(span, bytemuck::cast_slice(lists))?;
        self.table(step, seat, scratch)
    }

    /// Runs it for a session. `rests`: after each submit the device has as long for others.
    ///
    /// # Errors
    /// Those of the device; cancelled before a submit, of which those before it run to their end.
    pub fn submit(
        &mut self,
        step: &Step<'_>,
        seat: &Seat,
        scratch: BufferId,
        rests: bool,
    ) -> Result<Running> {
        let table = self.begin(step, seat, scratch)?;
        let home = &seat.home;
        let positions = step.end();
        let started = Instant::now();
        let mut submits = Vec::with_capacity(self.segments.len());
        for segment in &mut self.segments {
            if let Some(cancel) = step.cancel {
                // Two are enough to keep the device busy; what is queued cannot be taken back.
                if let [.., (before_last, _), _] = submits[..] {
                    home.device.wait(before_last)?;
                }
                cancel.check()?;
            }
            let ticket = segment.executable.submit(&table)?;
            home.started(ticket);
            submits.push((ticket, segment.work.at(positions)));
            if rests && segment_rests(home) {
                let begun = Instant::now();
                home.device.wait(ticket)?;
                let rest = begun.elapsed().min(LONGEST_REST);
                match step.cancel {
                    Some(cancel) => cancel.rest(rest)?,
                    None => std::thread::sleep(rest),
                }
            }
        }
        Ok(Running {
            submits,
            started,
            ended: Cell::new(None),
        })
    }

    fn table(&self, step: &Step<'_>, seat: &Seat, scratch: BufferId) -> Result<Vec<BufferId>> {
        let home = &seat.home;
        let (hidden_in, hidden_out) = step.hidden(seat);
        let missing = || hadal_device::Error::Invalid("a slot has no buffer".to_string());
        let slots = self.lowered.slots.iter();
        let table = slots.map(|slot| match *slot {
            SlotUse::Inputs => Some(self.inputs),
            SlotUse::Scratch => Some(scratch),
            SlotUse::RopeTable => Some(home.rope_table),
            SlotUse::HiddenIn => hidden_in,
            SlotUse::HiddenOut => Some(hidden_out),
            SlotUse::Cache(layer) => seat.caches.get(layer as usize).copied(),
            SlotUse::Weights(index) => home.weights.get(index as usize).copied(),
        });
        Ok(table.collect::<Option<_>>().ok_or_else(missing)?)
    }
}

impl Running {
    /// Units of work and the time they took, once done: by the device's own clock, or else by
    /// how long somebody waited.
    pub fn measured(&self, home: &Home) -> Option<(u64, Duration)> {
        let timed = self.submits.iter().filter_map(|&(ticket, units)| {
            let time = home.device.gpu_time(ticket)?;
            Some((units, time))
        });
        let sum = timed.reduce(|a, b| (a.0 + b.0, a.1 + b.1));
        let waited = || {
            let units = self.submits.iter().map(|(_, units)| units).sum();
            Some((units, self.ended.get()? - self.started))
        };
        sum.or_else(waited)
    }
}

/// The slot of the temporaries, in every program.
const SCRATCH: Slot = Slot(1);

/// The longest pause between two submits.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// Whether others want the device of `home` between submits: the host's scheduler sees to
/// that by itself.
fn segment_rests(home: &Home) -> bool {
    home.device.info().kind != DeviceKind::Cpu
}

/// Tokens from which a step on the host takes so long that a cancel is heard within it.
const LONG_STEP: u32 = 32;

/// Operations of a submit then.
const OPERATIONS: usize = 4;

/// Most steps of a submit. The host runs a submit while it is made, and works at one as long as it
/// takes, whatever its budget.
fn most_steps(home: &Home, bucket: u32) -> usize {
    let is_host = home.device.info().kind == DeviceKind::Cpu;
    match is_host && bucket >= LONG_STEP {
        true => OPERATIONS,
        false => usize::MAX,
    }
}

/// The program of `lowered`, for `bucket` tokens, in pieces of at most `limit`, and at least one
/// step, each on one member of the device.
fn segments(
    home: &Home,
    lowered: &Lowered,
    limit: Option<WorkLimit>,
    bucket: u32,
) -> Result<Vec<Segment>> {
    let whole = &lowered.program;
    let most_steps = most_steps(home, bucket);
    let (most, positions) = limit.map_or((u64::MAX, 0), |l| (l.units, l.positions));
    let mut segments = Vec::new();
    let (mut first, mut work) = (0, Work::default());
    for (step, explained) in lowered.explained.iter().enumerate() {
        let with = work.and(explained.work);
        let is_full = with.at(positions) > most || step - first >= most_steps;
        let is_elsewhere = member(home, lowered, step) != member(home, lowered, first);
        if step > first && (is_full || is_elsewhere) {
            segments.push((first..step, work));
            (first, work) = (step, explained.work);
        } else {
            work = with;
        }
    }
    segments.push((first..whole.steps.len(), work));
    let prepare = |(range, work): (Range<usize>, Work)| {
        let stage = stage(home, lowered, range.clone());
        let program = Program {
            slots: whole.slots,
            steps: whole.steps[range].to_vec(),
        };
        let executable = home.device.prepare_stage(&program, &stage)?;
        Ok(Segment { executable, work })
    };
    segments.into_iter().map(prepare).collect()
}

/// The member of the device that does a step: the one that has its weights, or else its place in
/// the model.
fn member(home: &Home, lowered: &Lowered, step: usize) -> u16 {
    let members = home.placement.members();
    let binds = lowered.program.steps.get(step).map(|step| step.binds());
    let owner = |bind: Bind| match lowered.slots.get(usize::from(bind.slot.0))? {
        SlotUse::Weights(index) => home.placement.member_of(*index as usize),
        SlotUse::Cache(layer) => Some(members.of_layer(*layer)),
        _ => None,
    };
    let scope = lowered.explained.get(step).map_or("", |it| &it.scope);
    let owned = binds.into_iter().flatten().find_map(owner);
    owned.unwrap_or_else(|| members.of_name(scope))
}

/// Where the steps of `range` run, all on one member, and what they need of what others wrote: every
/// temporary that was written before and is touched later, and rows for a next-token module.
pub(crate) fn stage(home: &Home, lowered: &Lowered, range: Range<usize>) -> Stage {
    let first = range.start;
    let own = member(home, lowered, first);
    let mut carried = Vec::new();
    if first > 0 && member(home, lowered, first - 1) != own {
        let temporaries = lowered.temporaries.iter();
        let living = temporaries.filter(|it| it.first < first && it.last >= first);
        carried.extend(living.map(|it| Bind {
            slot: SCRATCH,
            offset: it.offset,
            bytes: it.bytes,
            access: Access::Write,
        }));
    }
    let steps = lowered.program.steps.get(range).unwrap_or_default();
    let binds = steps.iter().flat_map(|step| step.binds());
    carried.extend(binds.filter(|bind| {
        let slot = lowered.slots.get(usize::from(bind.slot.0));
        let is_hidden = matches!(slot, Some(SlotUse::HiddenIn | SlotUse::HiddenOut));
        is_hidden && bind.access == Access::Read
    }));
    Stage {
        member: own,
        carried,
    }
}
