//! Makes the buffers of a [`Placement`] on a device and fills them.
//!
//! Decides the size of an upload step and what is undone when it stops. Must not decide
//! where anything lies: that is `place.rs`.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use hadal_device::{BufferDesc, BufferId, Device, Pages, Span};

use crate::in_place::Window;
use crate::place::{Content, Planned};
use crate::source::range;
use crate::{Placement, Result, Shard, Stored, TensorSource, WeightsError};

/// Bytes of one write: large enough to hide its cost, small enough that a staging copy does
/// not count and that a person who cancels is heard at once.
const STEP_BYTES: usize = 8 << 20;

/// Bytes that the disk reads ahead of what is being copied, and how many it is asked for at once.
const AHEAD_BYTES: u64 = 128 << 20;
const ASK_BYTES: u64 = 32 << 20;

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes uploaded or adopted.
    pub bytes_done: u64,
    /// Of so many.
    pub bytes_total: u64,
    /// Those of them that the device uses where they lie, without a copy.
    pub bytes_in_place: u64,
}

impl Placement {
    /// Makes the buffers on `device`, in the order that [`crate::Piece::buffer`] counts, and
    /// fills them from `source`. Block scales and vectors are looked at first
    /// ([`crate::Bound::check_values`]). `progress` may stop it. On any error, nothing stays
    /// allocated.
    pub fn load(
        &self,
        device: &dyn Device,
        source: &dyn TensorSource,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Vec<BufferId>> {
        self.bound.check_values(source)?;
        let total = self.buffers.iter().map(data_bytes).sum();
        let state = Progress {
            bytes_done: 0,
            bytes_total: total,
            bytes_in_place: 0,
        };
        let mut loading = Loading {
            device,
            buffers: Vec::new(),
            progress,
            state,
            asked: BTreeMap::new(),
        };
        loading.report(0)?;
        for (number, planned) in self.buffers.iter().enumerate() {
            match &planned.content {
                Content::Window(window) => loading.window(source, window)?,
                Content::Arena(copies) => {
                    let label = format!("weights {number}");
                    let buffer = loading.alloc(label, planned.bytes, planned.member)?;
                    for (offset, from) in copies {
                        loading.copy(source, buffer, *offset, from)?;
                    }
                }
            }
        }
        Ok(std::mem::take(&mut loading.buffers))
    }
}

fn data_bytes(planned: &Planned) -> u64 {
    match &planned.content {
        Content::Window(_) => planned.bytes,
        Content::Arena(copies) => copies.iter().map(|(_, from)| from.bytes).sum(),
    }
}

/// A load under way; frees what it made unless the buffers are taken out.
struct Loading<'l> {
    device: &'l dyn Device,
    buffers: Vec<BufferId>,
    progress: &'l mut dyn FnMut(Progress) -> ControlFlow<()>,
    state: Progress,
    /// Up to where the disk was asked, by shard.
    asked: BTreeMap<usize, u64>,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        for buffer in self.buffers.drain(..) {
            self.device.free(buffer);
        }
    }
}

impl Loading<'_> {
    fn report(&mut self, bytes: u64) -> Result<()> {
        self.state.bytes_done += bytes;
        match (self.progress)(self.state) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(WeightsError::Cancelled),
        }
    }

    fn alloc(&mut self, label: String, bytes: u64, member: Option<u16>) -> Result<BufferId> {
        // Whole words, so that the last write has room.
        let desc = BufferDesc::new(label, bytes.max(1).next_multiple_of(4)).on(member);
        let buffer = self.device.alloc(&desc)?;
        self.buffers.push(buffer);
        Ok(buffer)
    }

    /// Part of a shard: its own pages where the device can, otherwise a copy of the same
    /// layout.
    fn window(&mut self, source: &dyn TensorSource, window: &Window) -> Result<()> {
        let number = window.shard;
        let shard = source.shards().get(number).ok_or_else(|| moved(number))?;
        let bytes = window.end - window.start;
        let from = Stored {
            shard: number,
            offset: window.start,
            bytes,
        };
        range(shard, from.offset, from.bytes).ok_or_else(|| moved(number))?;
        let pages = Part {
            pages: Arc::clone(&shard.pages),
            range: window.start as usize..window.end as usize,
        };
        if let Some(buffer) = self.device.adopt(Arc::new(pages)) {
            self.buffers.push(buffer);
            self.state.bytes_in_place += bytes;
            return self.report(bytes);
        }
        let buffer = self.alloc(shard.name.clone(), bytes, None)?;
        self.copy(source, buffer, 0, &from)
    }

    /// Writes `from` at `offset`, step by step.
    fn copy(
        &mut self,
        source: &dyn TensorSource,
        buffer: BufferId,
        offset: u64,
        from: &Stored,
    ) -> Result<()> {
        let shard = source
            .shards()
            .get(from.shard)
            .ok_or_else(|| moved(from.shard))?;
        let data = range(shard, from.offset, from.bytes).ok_or_else(|| moved(from.shard))?;
        let mut at = offset;
        for step in data.chunks(STEP_BYTES) {
            self.read_ahead(from.shard, shard, from.offset + (at - offset));
            let (whole, rest) = step.split_at(step.len() / 4 * 4);
            self.write(buffer, at, whole)?;
            if !rest.is_empty() {
                // Writes are of whole words; what follows a piece is padding.
                let mut word = [0u8; 4];
                word[..rest.len()].copy_from_slice(rest);
                self.write(buffer, at + whole.len() as u64, &word)?;
            }
            at += step.len() as u64;
            self.report(step.len() as u64)?;
        }
        Ok(())
    }

    /// Keeps the disk busy while a device copies.
    fn read_ahead(&mut self, number: usize, shard: &Shard, at: u64) {
        let asked = self.asked.entry(number).or_default();
        if let Some(file) = &shard.file
            && let Some(next) = ahead(*asked, at)
        {
            file.read_ahead(next.start as usize, ASK_BYTES as usize);
            *asked = next.end;
        }
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.device.write(
            Span {
                buffer,
                offset,
                bytes: bytes.len() as u64,
            },
            bytes,
        )?;
        Ok(())
    }
}

/// What to ask the disk for next when byte `at` is copied and it was asked up to `asked`. Nothing is
/// asked for twice: copies go over a layer once for each kind of its weights.
fn ahead(asked: u64, at: u64) -> Option<Range<u64>> {
    let from = asked.max(at);
    (from + ASK_BYTES <= at + AHEAD_BYTES).then_some(from..from + ASK_BYTES)
}

/// Part of a shard as pages of its own.
struct Part {
    pages: Pages,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        let all: &[u8] = (*self.pages).as_ref();
        all.get(self.range.clone()).unwrap_or_default()
    }
}

/// The source is not the one the placement was planned for.
fn moved(shard: usize) -> WeightsError {
    hadal_device::Error::Invalid(format!(
        "shard {shard} is not as it was when the weights were placed"
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_asked_ahead_and_for_nothing_twice() {
        let mut asked = 0;
        let mut at = 0;
        let mut asks = Vec::new();
        while at < 1 << 30 {
            if let Some(next) = ahead(asked, at) {
                assert_eq!(next.start, asked.max(at));
                assert!(next.end <= at + AHEAD_BYTES);
                asked = next.end;
                asks.push(next);
            }
            assert!(asked > at, "{at} comes before it was asked for");
            at += STEP_BYTES as u64;
        }
        assert!(asks.windows(2).all(|two| two[0].end == two[1].start));
        // Back to the beginning of a layer; far ahead, where the next one begins.
        assert_eq!(ahead(asked, 0), None);
        assert_eq!(ahead(asked, 5 << 30), Some(5 << 30..(5 << 30) + ASK_BYTES));
    }
}
