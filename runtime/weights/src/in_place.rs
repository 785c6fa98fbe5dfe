//! Which parts of the shards a device uses where they lie.
//!
//! Decides by offsets alone. A device takes whole pages of a shard as a buffer (a *window*),
//! so windows begin at multiples of any system's page and end with a tensor; within one, a
//! tensor keeps the alignment it has in the file. What is not aligned as the device wants,
//! or too long for a window, is copied into arenas like everything else.

use hadal_device::{DType, DeviceInfo, Features};

use crate::{Bound, BoundWeight, Stored, TensorSource};

/// Windows begin at multiples of this: the largest page of any system.
const PAGE: u64 = 64 << 10;

/// A window goes on over bytes that are not used in place if they are not more than these:
/// devices keep all pages of a window in memory.
const GAP: u64 = 1 << 20;

/// Strides of weights are multiples of this, since kernels read four words at a time.
pub(crate) const DATA_GRAIN: u64 = 16;

/// Strides of scales, which are read word by word.
pub(crate) const SCALE_GRAIN: u64 = 4;

/// What a tensor must be like to be used in place.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Offsets of operands are multiples of this.
    align: u64,
    /// Longest operand.
    max_piece: u64,
    /// Longest window.
    max_window: u64,
    /// What the device can do: where entries of a table may be scattered they only need to
    /// begin where kernels read.
    features: Features,
}

/// Bytes `start .. end` of a shard as a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) shard: usize,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// The windows, in order; their index is that of their buffer.
#[derive(Clone, Debug)]
pub(crate) struct InPlace {
    rule: Rule,
    pub(crate) windows: Vec<Window>,
}

impl InPlace {
    /// What a device with `info` uses of the shards of `source`. `cut` says how many experts of a table
    /// stay together.
    pub(crate) fn plan(
        bound: &Bound,
        source: &dyn TensorSource,
        info: &DeviceInfo,
        cut: impl Fn(&BoundWeight) -> usize,
    ) -> InPlace {
        let whole = |shard| Window {
            shard,
            start: 0,
            end: source.extent(shard).bytes,
        };
        let mut made = InPlace {
            rule: Rule {
                align: info.limits.offset_align.max(1),
                max_piece: info.limits.max_binding_bytes,
                max_window: info.limits.max_buffer_bytes,
                features: info.features,
            },
            windows: Vec::new(),
        };
        if info
            .features
            .has(Features::HOST.with(Features::POINTER_TABLES))
        {
            // Addresses are all it needs.
            made.rule = Rule {
                align: 1,
                max_piece: u64::MAX,
                max_window: u64::MAX,
                features: info.features,
            };
            made.windows = (0..source.shards().len()).map(whole).collect();
        } else if info.features.has(Features::IN_PLACE) {
            let mut parts = made.rule.parts(bound, cut);
            // Memory that does not begin a page is none that a device can take.
            parts.retain(|part| source.extent(part.shard).begins_page);
            made.windows = made.rule.windows(parts);
        }
        made
    }

    /// Buffer and offset of `from`, if it is used in place as an operand of its own.
    pub(crate) fn piece(&self, from: &Stored) -> Option<(usize, u64)> {
        let found = self.rule.is_piece(from).then(|| self.find(from))?;
        found.filter(|_| from.bytes <= self.rule.max_piece)
    }

    /// Buffers and offsets of entries of a table of `dtype`, if all are used in place.
    pub(crate) fn run(
        &self,
        dtype: DType,
        entries: &[Stored],
        grain: u64,
    ) -> Option<Vec<(usize, u64)>> {
        if !self.rule.is_run(dtype, entries, grain) {
            return None;
        }
        let places: Option<Vec<_>> = entries.iter().map(|entry| self.find(entry)).collect();
        let is_one = |places: &Vec<(usize, u64)>| places.windows(2).all(|two| two[0].0 == two[1].0);
        places.filter(|places| self.rule.features.scatters(dtype) || is_one(places))
    }

    fn find(&self, from: &Stored) -> Option<(usize, u64)> {
        let end = from.offset + from.bytes;
        // Windows are in the order of shards, of which a model may have hundreds.
        let first = self.windows.partition_point(|w| w.shard < from.shard);
        let own = self.windows[first..].iter();
        let mut own = own.take_while(|w| w.shard == from.shard);
        let holds = |w: &Window| w.start <= from.offset && end <= w.end;
        let number = first + own.position(holds)?;
        Some((number, from.offset - self.windows[number].start))
    }
}

impl Rule {
    fn is_piece(&self, from: &Stored) -> bool {
        from.offset.is_multiple_of(self.align)
    }

    /// Whether the entries can be a table: anywhere with pointers, otherwise in one shard at
    /// one stride, which is a multiple of `grain`, and within one operand.
    fn is_run(&self, dtype: DType, entries: &[Stored], grain: u64) -> bool {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return false;
        };
        if self.features.scatters(dtype) {
            let align = self.align.min(grain);
            return entries.iter().all(|e| e.offset.is_multiple_of(align));
        }
        let stride = match entries {
            [first, second, ..] => second.offset.wrapping_sub(first.offset),
            _ => 0,
        };
        let is_at = |(number, entry): (u64, &Stored)| {
            entry.shard == first.shard
                && stride
                    .checked_mul(number)
                    .and_then(|n| first.offset.checked_add(n))
                    == Some(entry.offset)
        };
        self.is_piece(first)
            && stride.is_multiple_of(grain)
            && (0..).zip(entries).all(is_at)
            && last.offset + last.bytes - first.offset <= self.max_piece
    }

    /// Everything that could be used in place.
    fn parts(&self, bound: &Bound, cut: impl Fn(&BoundWeight) -> usize) -> Vec<Window> {
        let mut parts = Vec::new();
        let one = |from: &Stored| Window {
            shard: from.shard,
            start: from.offset,
            end: from.offset + from.bytes,
        };
        for weight in &bound.weights {
            if weight.experts.is_none() {
                let all = weight.data.iter().chain(&weight.scales);
                parts.extend(all.filter(|from| self.is_piece(from)).map(one));
                continue;
            }
            for (tensors, grain) in [(&weight.data, DATA_GRAIN), (&weight.scales, SCALE_GRAIN)] {
                for entries in tensors.chunks(cut(weight).max(1)) {
                    if !self.is_run(weight.dtype, entries, grain) {
                        continue;
                    }
                    match entries {
                        [first, .., last] if !self.features.scatters(weight.dtype) => {
                            parts.push(Window {
                                end: last.offset + last.bytes,
                                ..one(first)
                            })
                        }
                        _ => parts.extend(entries.iter().map(one)),
                    }
                }
            }
        }
        parts
    }

    /// Windows over `parts`, each as long as the device allows and its gaps do.
    fn windows(&self, mut parts: Vec<Window>) -> Vec<Window> {
        parts.sort_by_key(|part| (part.shard, part.start, part.end));
        let mut windows: Vec<Window> = Vec::new();
        for part in parts {
            if let Some(last) = windows.last_mut()
                && last.shard == part.shard
                && part.start <= last.end + GAP
                && part.end.max(last.end) - last.start <= self.max_window
            {
                last.end = last.end.max(part.end);
                continue;
            }
            let start = part.start / PAGE * PAGE;
            if part.end - start <= self.max_window {
                windows.push(Window { start, ..part });
            }
        }
        windows
    }
}
