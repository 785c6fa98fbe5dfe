//! Where each weight lies on one device: which buffer, which bytes.
//!
//! Decides by arithmetic alone, without touching a device or any data, so that it also
//! answers "will it fit?". What a device can use as it lies in the shards stays there
//! (`in_place.rs`); the rest goes into arenas in which every piece respects the device's
//! limits. Must not know kernels. First test to break: `tests/placing.rs`.

use std::collections::HashMap;

use hadal_device::{DType, DeviceInfo, Features, SCALE_BLOCK};

use crate::in_place::{DATA_GRAIN, InPlace, SCALE_GRAIN, Window};
use crate::members::Members;
use crate::{Bound, BoundWeight, Declared, Result, Stored, TensorSource, WeightsError, bind};

/// Arenas are not made larger than this where single pieces allow it: allocations of many
/// gigabytes fail on fragmented memory.
const ARENA_BYTES: u64 = 1 << 30;

/// Least alignment of a piece, whatever the device asks for: one memory transaction of
/// current GPUs.
const MIN_ALIGN: u64 = 256;

/// Contiguous rows of a weight (or its scales) in one buffer. In an arena, `offset` is
/// aligned to 256 and to the device's `offset_align`, and the buffer goes on at least to the
/// next multiple of 4 bytes behind the piece; in a shard that is used in place it has the
/// alignment that the device needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index into the buffers that [`Placement::load`] returns.
    pub buffer: usize,
    /// First byte.
    pub offset: u64,
    /// Exact length in bytes.
    pub bytes: u64,
    /// First row of the weight.
    pub row_first: u32,
    /// Rows; a vector is one row.
    pub row_count: u32,
}

/// A placed weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// Number format.
    pub dtype: DType,
    /// `[out, in]` or `[n]`.
    pub shape: Vec<u32>,
    /// Its rows in order, cut at multiples of 128 where one binding cannot hold them all.
    pub pieces: Vec<Piece>,
    /// All block scales of an FP8 weight, in one piece.
    pub scale: Option<Piece>,
}

/// Some experts of a table. Where they are not scattered (`Features::scatters`) all entries lie
/// in one buffer at a constant stride, and first to last fit one binding; the same holds for the scales.
#[derive(Clone, Debug, PartialEq)]
pub struct TableChunk {
    /// First expert.
    pub expert_first: u32,
    /// One whole matrix for each expert from there on.
    pub entries: Vec<Piece>,
    /// Their block scales; empty unless FP8.
    pub scales: Vec<Piece>,
}

/// A placed table of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedTable {
    /// Number format.
    pub dtype: DType,
    /// `[experts, out, in]`.
    pub shape: [u32; 3],
    /// All experts in order. Tables of the same shape and format are cut alike.
    pub chunks: Vec<TableChunk>,
}

/// What goes into one buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// Part of a shard, as it lies there.
    Window(Window),
    /// Tensors' bytes at offsets of the buffer, in ascending order.
    Arena(Vec<(u64, Stored)>),
}

/// A buffer to be made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned {
    pub(crate) bytes: u64,
    pub(crate) content: Content,
    /// The member of the device that has it; `None`: each.
    pub(crate) member: Option<u16>,
}

/// Where the weights of a model lie on one device.
#[derive(Clone, Debug)]
pub struct Placement {
    pub(crate) buffers: Vec<Planned>,
    pub(crate) bound: Bound,
    members: Members,
    matrices: HashMap<String, Placed>,
    tables: HashMap<String, PlacedTable>,
}

impl Placement {
    /// Checks `declared` against `source` ([`bind`]) and decides where everything goes.
    /// Errors: what `bind` says; a weight that the device cannot hold in one piece.
    pub fn plan(
        declared: &[Declared],
        source: &dyn TensorSource,
        info: &DeviceInfo,
    ) -> Result<Placement> {
        Placement::of(bind(declared, source)?, source, info)
    }

    /// Decides where the weights of `bound`, which [`bind`] tied to `source`, go. Errors: a
    /// weight that the device cannot hold in one piece.
    pub fn of(bound: Bound, source: &dyn TensorSource, info: &DeviceInfo) -> Result<Placement> {
        let members = Members::of(&bound, info);
        let mut planner = Planner::new(&bound, source, info);
        let (mut matrices, mut tables) = (HashMap::new(), HashMap::new());
        for weight in &bound.weights {
            planner.member = members.of_name(&weight.name);
            match weight.experts {
                None => {
                    matrices.insert(weight.name.clone(), planner.matrix(weight)?);
                }
                Some(_) => {
                    tables.insert(weight.name.clone(), planner.table(weight)?);
                }
            }
        }
        Ok(Placement {
            buffers: planner.finish(),
            bound,
            members,
            matrices,
            tables,
        })
    }

    /// Where a single weight lies.
    pub fn matrix(&self, name: &str) -> Option<&Placed> {
        self.matrices.get(name)
    }

    /// Where a table of experts lies; `name` is the declared one, with `{}`.
    pub fn table(&self, name: &str) -> Option<&PlacedTable> {
        self.tables.get(name)
    }

    /// Which layers lie on which member of the device.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The member that has buffer `number` of [`Placement::load`]; `None`: each, or none has.
    pub fn member_of(&self, number: usize) -> Option<u16> {
        self.buffers.get(number)?.member
    }

    /// Bytes of all buffers.
    pub fn total_bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.bytes).sum()
    }

    /// Size of each buffer that [`Placement::load`] makes, in its order.
    pub fn buffer_bytes(&self) -> Vec<u64> {
        self.buffers.iter().map(|buffer| buffer.bytes).collect()
    }
}

/// Buffers being filled.
struct Planner {
    buffers: Vec<Planned>,
    in_place: InPlace,
    /// Where arenas of the next weight lie.
    member: u16,
    align: u64,
    max_piece: u64,
    max_buffer: u64,
    features: Features,
}

impl Planner {
    fn new(bound: &Bound, source: &dyn TensorSource, info: &DeviceInfo) -> Planner {
        let limits = &info.limits;
        let align = limits.offset_align.max(MIN_ALIGN).next_power_of_two();
        let max_buffer = limits.max_buffer_bytes / align * align;
        let max_piece = limits.max_binding_bytes.min(max_buffer);
        let cut = |weight: &BoundWeight| {
            let longest = longest_table(info.features, weight.dtype, max_piece, max_buffer);
            together(weight, align, longest)
        };
        let in_place = InPlace::plan(bound, source, info, cut);
        let planned = |window: &Window| Planned {
            bytes: window.end - window.start,
            content: Content::Window(*window),
            member: None,
        };
        Planner {
            buffers: in_place.windows.iter().map(planned).collect(),
            in_place,
            member: 0,
            align,
            max_piece,
            max_buffer,
            features: info.features,
        }
    }

    fn finish(self) -> Vec<Planned> {
        self.buffers
    }

    /// Room for `bytes` bytes: the first arena that has it, or a new one.
    fn room(&mut self, bytes: u64) -> (usize, u64) {
        let size = bytes.max(1).next_multiple_of(self.align);
        let cap = self.max_buffer.min(ARENA_BYTES);
        let fits = |buffer: &Planned| {
            matches!(buffer.content, Content::Arena(_))
                && buffer.member == Some(self.member)
                && buffer.bytes + size <= cap
        };
        let number = match self.buffers.iter().position(fits) {
            Some(number) => number,
            None => {
                self.buffers.push(Planned {
                    bytes: 0,
                    content: Content::Arena(Vec::new()),
                    member: Some(self.member),
                });
                self.buffers.len() - 1
            }
        };
        let offset = self.buffers[number].bytes;
        self.buffers[number].bytes += size;
        (number, offset)
    }

    /// Puts part of a tensor at a place within a buffer.
    fn put(&mut self, (buffer, offset): (usize, u64), from: Stored, rows: (u32, u32)) -> Piece {
        if let Content::Arena(copies) = &mut self.buffers[buffer].content {
            copies.push((offset, from));
        }
        Piece {
            buffer,
            offset,
            bytes: from.bytes,
            row_first: rows.0,
            row_count: rows.1,
        }
    }

    /// A place of its own for part of a tensor.
    fn piece(&mut self, name: &str, from: Stored, rows: (u32, u32)) -> Result<Piece> {
        if let Some(place) = self.in_place.piece(&from) {
            return Ok(self.put(place, from, rows));
        }
        self.check_size(name, from.bytes)?;
        let place = self.room(from.bytes);
        Ok(self.put(place, from, rows))
    }

    fn check_size(&self, name: &str, bytes: u64) -> Result<()> {
        if bytes <= self.max_piece {
            return Ok(());
        }
        Err(WeightsError::TooLarge {
            tensor: name.to_string(),
            bytes,
            limit: self.max_piece,
        })
    }

    fn matrix(&mut self, weight: &BoundWeight) -> Result<Placed> {
        let (rows, row_bytes) = extent(weight);
        let from = weight.data[0];
        let mut pieces = Vec::new();
        // Cuts at multiples of the scale block, so that no block is on two sides.
        let step = if from.bytes <= self.max_piece {
            rows
        } else {
            let fitting = self.max_piece / row_bytes.max(1) / u64::from(SCALE_BLOCK);
            let blocks = u32::try_from(fitting)
                .unwrap_or(u32::MAX / SCALE_BLOCK)
                .max(1);
            blocks * SCALE_BLOCK
        };
        let mut row = 0;
        while row < rows {
            let count = step.min(rows - row);
            let part = Stored {
                shard: from.shard,
                offset: from.offset + u64::from(row) * row_bytes,
                bytes: u64::from(count) * row_bytes,
            };
            pieces.push(self.piece(&weight.name, part, (row, count))?);
            row += count;
        }
        let scale = weight
            .scales
            .first()
            .map(|scale| self.piece(&weight.name, *scale, (0, rows.div_ceil(SCALE_BLOCK))));
        Ok(Placed {
            dtype: weight.dtype,
            shape: weight.shape.clone(),
            pieces,
            scale: scale.transpose()?,
        })
    }

    fn table(&mut self, weight: &BoundWeight) -> Result<PlacedTable> {
        let experts = weight.data.len();
        let &[out, input] = weight.shape.as_slice() else {
            return Err(hadal_device::Error::Invalid(format!(
                "{} is not a table of matrices",
                weight.name
            ))
            .into());
        };
        let bytes = weight.data.first().map_or(0, |data| data.bytes);
        self.check_size(&weight.name, bytes)?;
        let longest = longest_table(self.features, weight.dtype, self.max_piece, self.max_buffer);
        let count = together(weight, self.align, longest);
        let mut chunks = Vec::new();
        for first in (0..experts).step_by(count) {
            let end = (first + count).min(experts);
            let data = &weight.data[first..end];
            let entries = self.run(weight.dtype, data, out, DATA_GRAIN);
            let scales = match weight.scales.get(first..end) {
                Some(scales) => {
                    self.run(weight.dtype, scales, out.div_ceil(SCALE_BLOCK), SCALE_GRAIN)
                }
                None => Vec::new(),
            };
            chunks.push(TableChunk {
                expert_first: first as u32,
                entries,
                scales,
            });
        }
        Ok(PlacedTable {
            dtype: weight.dtype,
            shape: [experts as u32, out, input],
            chunks,
        })
    }

    /// Tensors of equal size: where they lie, or side by side at a constant stride.
    fn run(&mut self, dtype: DType, tensors: &[Stored], rows: u32, grain: u64) -> Vec<Piece> {
        if let Some(places) = self.in_place.run(dtype, tensors, grain) {
            let entries = places.into_iter().zip(tensors);
            return entries
                .map(|(place, from)| self.put(place, *from, (0, rows)))
                .collect();
        }
        let stride = tensors[0].bytes.max(1).next_multiple_of(self.align);
        let (buffer, start) = self.room(stride * tensors.len() as u64);
        let entries = tensors.iter().zip(0u64..);
        entries
            .map(|(from, number)| self.put((buffer, start + number * stride), *from, (0, rows)))
            .collect()
    }
}

/// The longest chunk of a table: entries with pointers are bound one by one.
fn longest_table(features: Features, dtype: DType, max_piece: u64, max_buffer: u64) -> u64 {
    match features.scatters(dtype) {
        true => max_buffer,
        false => max_piece,
    }
}

/// Experts of a table that make one chunk. Of `count` entries in an arena the last one ends
/// at `(count - 1) * stride + bytes`.
fn together(weight: &BoundWeight, align: u64, longest: u64) -> usize {
    let experts = weight.data.len().max(1);
    let bytes = weight.data.first().map_or(0, |data| data.bytes);
    let stride = bytes.max(1).next_multiple_of(align);
    let count = (longest.saturating_sub(bytes) / stride).saturating_add(1);
    usize::try_from(count).unwrap_or(experts).clamp(1, experts)
}

/// Rows of a weight and the bytes of one; a vector is one row.
fn extent(weight: &BoundWeight) -> (u32, u64) {
    let (rows, columns) = match *weight.shape.as_slice() {
        [out, input] => (out, input),
        _ => (1, weight.shape.iter().product()),
    };
    (rows, weight.dtype.row_bytes(columns.into()))
}
