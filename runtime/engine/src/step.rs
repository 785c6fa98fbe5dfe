//! One step as data: what goes into the `inputs` buffer before it and how its outputs are
//! read after it. Submitting is `engine.rs`'s.

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use hadal_device::{BufferId, DType, Inputs, Span};
use hadal_graph::{Dim, OutputPlace};
use hadal_models::Outputs;

use crate::engine::State;
use crate::home::Home;
use crate::model::Kind;
use crate::programs::ProgramKey;
use crate::seat::Seat;
use crate::{Cancel, EngineError, Result};

/// A token's sequence, as the place of its cache in a [`Seat`], and its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub sequence: u32,
    pub position: u32,
}

/// Where the tokens of a step stand.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// One after the other in a sequence, the first of them here.
    From(At),
    /// Each in a sequence of its own.
    Each(&'a [At]),
}

impl Rows<'_> {
    /// Where token `row` stands.
    fn at(&self, row: usize) -> At {
        match self {
            Rows::From(first) => At {
                position: first.position + row as u32,
                ..*first
            },
            Rows::Each(all) => all[row],
        }
    }
}

/// One step: consecutive tokens of one sequence, or one token of each of several.
pub(crate) struct Step<'a> {
    pub kind: Kind,
    pub outputs: Outputs,
    pub ids: &'a [u32],
    pub rows: Rows<'a>,
    /// Rows (indices into `ids`) whose logits are wanted.
    pub logit_rows: &'a [u32],
    /// Asked before each submit, where somebody may want the step no more.
    pub cancel: Option<&'a Cancel>,
}

impl Step<'_> {
    /// Positions in the longest cache after it.
    pub fn end(&self) -> u32 {
        let ends = (0..self.ids.len()).map(|row| self.rows.at(row).position + 1);
        ends.max().unwrap_or(0)
    }

    /// Rows that the program reads (`Op::Hidden`) and rows that it leaves for a next-token
    /// module.
    pub fn hidden(&self, seat: &Seat) -> (Option<BufferId>, BufferId) {
        match self.kind {
            Kind::Main => (None, seat.hidden),
            Kind::Next(_) => (Some(seat.hidden), seat.next_hidden),
        }
    }
}

/// A finished step whose outputs can be read until the next one starts.
pub(crate) struct Done<'e> {
    pub home: Arc<Home>,
    /// Values a row of logits.
    pub vocab: usize,
    pub state: MutexGuard<'e, State>,
    pub key: ProgramKey,
    pub tokens: u32,
    pub logit_rows: u32,
    pub hidden_out: BufferId,
}

impl Done<'_> {
    /// The place of an output, if the program has it.
    fn place(&self, name: &str) -> Option<&OutputPlace> {
        let prepared = self.state.programs.get(&self.key)?;
        prepared.lowered.outputs.iter().find(|o| o.name == name)
    }

    /// Names of all outputs, with their width and type.
    pub fn outputs(&self) -> Vec<OutputPlace> {
        let prepared = self.state.programs.get(&self.key);
        prepared.map_or(Vec::new(), |p| p.lowered.outputs.clone())
    }

    /// Where the rows of an output lie, `None` if it has none: from the first word of the first
    /// to the last of the last, a row each `row_stride` words.
    pub fn span(&self, name: &str) -> Result<Option<(Span, &OutputPlace)>> {
        let place = self.place(name).ok_or_else(|| {
            EngineError::Device(hadal_device::Error::Invalid(format!(
                "the program has no output {name}"
            )))
        })?;
        let rows = match place.rows {
            Dim::R => self.logit_rows,
            _ => self.tokens,
        };
        let Some(rows_before) = rows.checked_sub(1) else {
            return Ok(None);
        };
        let buffer = if place.slot.0 == 1 {
            self.state.scratch.map(|(buffer, _)| buffer)
        } else {
            Some(self.hidden_out)
        };
        let buffer = buffer.ok_or_else(|| hadal_device::Error::Invalid("no scratch".into()))?;
        let words = u64::from(rows_before) * u64::from(place.row_stride) + u64::from(place.width);
        let span = Span {
            buffer,
            offset: place.offset,
            bytes: 4 * words,
        };
        Ok(Some((span, place)))
    }

    /// Rows of an output as they lie in memory.
    pub fn words(&self, name: &str) -> Result<Vec<u32>> {
        let Some((span, place)) = self.span(name)? else {
            return Ok(Vec::new());
        };
        let (width, stride) = (place.width as usize, place.row_stride as usize);
        let mut words = vec![0u32; (span.bytes / 4) as usize];
        let device = &self.home.device;
        let waits = device.completed() < self.home.newest();
        device.read(span, bytemuck::cast_slice_mut(&mut words))?;
        // Zeros may have stood for weights.
        self.home.source.check_pages()?;
        if let Some((_, running)) = self.state.running.as_ref().filter(|_| waits) {
            running.ended.set(Some(Instant::now()));
        }
        if stride == width {
            return Ok(words);
        }
        let dense = words.chunks(stride).flat_map(|row| &row[..width]);
        Ok(dense.copied().collect())
    }

    /// Rows of an `f32` output, `[rows, width]`.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        debug_assert!(self.place(name).is_none_or(|p| p.dtype == DType::F32));
        Ok(self.words(name)?.into_iter().map(f32::from_bits).collect())
    }

    /// Rows of a `u32` output.
    pub fn u32(&self, name: &str) -> Result<Vec<u32>> {
        self.words(name)
    }
}

/// Header, lists (filled in by each step) and the page table of `pages` pages: each is the cache
/// page of its number, since caches of several sequences lie one after the other.
pub(crate) fn input_words(layout: Inputs, pages: u32) -> Vec<u32> {
    let mut words = vec![0u32; layout.pages() as usize];
    words[Inputs::BUCKET as usize] = layout.bucket;
    words.extend(0..pages);
    words
}

/// Writes what this step changes.
pub(crate) fn fill_inputs(words: &mut [u32], layout: Inputs, step: &Step<'_>) {
    words[Inputs::TOKENS as usize] = step.ids.len() as u32;
    words[Inputs::LOGIT_ROWS as usize] = step.logit_rows.len() as u32;
    for (row, &id) in step.ids.iter().enumerate() {
        words[layout.ids() as usize + row] = id;
        let At { sequence, position } = step.rows.at(row);
        words[layout.positions() as usize + row] = position;
        words[layout.sequences() as usize + row] = sequence;
    }
    for (index, &row) in step.logit_rows.iter().enumerate() {
        words[layout.logit_rows() as usize + index] = row;
    }
}
