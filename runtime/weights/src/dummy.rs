//! Made-up weights for measuring shapes without files: seeded, finite, and of a size that
//! keeps activations near one.
//!
//! Decides the distribution only. Values repeat on every machine and do not depend on the
//! number of threads. Must not know models: the caller lists the tensors. Anonymous memory,
//! one allocation a layer, filled at memory speed once all of it is known to fit.

use std::collections::BTreeMap;
use std::sync::Arc;

use hadal_device::DType;
use memmap2::MmapMut;

use crate::bind::SCALE_SUFFIX;
use crate::source::layer_of;
use crate::{FileType, Result, Shard, TensorInfo, TensorSource, WeightsError, memory};

/// A tensor to make up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DummyTensor {
    /// Name, as in published files.
    pub name: String,
    /// Shape; matrices are `[out, in]`.
    pub shape: Vec<u64>,
    /// Number format.
    pub dtype: DType,
}

/// Tensors begin at multiples of this, so that rows share no cache line with others.
const ALIGN: u64 = 256;

/// Bytes a thread fills at a time; each block has its own seed.
const BLOCK_BYTES: usize = 1 << 20;

/// A checkpoint of made-up weights.
#[derive(Debug)]
pub struct DummySource {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl DummySource {
    /// Makes up `tensors`. The same seed gives the same numbers. Errors: a name that comes
    /// twice, a shape that is not possible, or more bytes than the machine has left; then no
    /// memory was taken.
    pub fn new(tensors: impl IntoIterator<Item = DummyTensor>, seed: u64) -> Result<DummySource> {
        DummySource::within(memory::available(), tensors, seed)
    }

    /// As [`DummySource::new`] with so many bytes of memory left, where that is known.
    fn within(
        available: Option<u64>,
        tensors: impl IntoIterator<Item = DummyTensor>,
        seed: u64,
    ) -> Result<DummySource> {
        let mut layers: BTreeMap<Option<u32>, Vec<DummyTensor>> = BTreeMap::new();
        for tensor in tensors {
            layers
                .entry(layer_of(&tensor.name))
                .or_default()
                .push(tensor);
        }
        let mut source = DummySource {
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let mut plans = Vec::new();
        for (shard, (layer, tensors)) in layers.into_iter().enumerate() {
            let name = match layer {
                Some(layer) => format!("made-up layer {layer}"),
                None => "made-up embedding and head".to_string(),
            };
            plans.push(source.plan(shard, name, &tensors, seed)?);
        }
        // All of it is counted before any of it is filled: memory that is short would be
        // found out by the system, which ends some process to get it back.
        let bytes = plans
            .iter()
            .fold(0u64, |sum, plan| sum.saturating_add(plan.bytes));
        if let Some(available) = available.filter(|available| bytes > *available) {
            return Err(WeightsError::NoMemory { bytes, available });
        }
        for plan in plans {
            source.shards.push(plan.fill()?);
        }
        Ok(source)
    }

    /// Gives every tensor of a shard its place.
    fn plan(
        &mut self,
        shard: usize,
        name: String,
        tensors: &[DummyTensor],
        seed: u64,
    ) -> Result<Plan> {
        let mut plan = Plan {
            name,
            bytes: 0,
            places: Vec::new(),
        };
        for tensor in tensors {
            let refuse = |why: &str| WeightsError::Tensor {
                file: plan.name.clone(),
                tensor: tensor.name.clone(),
                why: why.to_string(),
            };
            let offset = plan.bytes;
            let elements = tensor
                .shape
                .iter()
                .try_fold(1u64, |n, edge| n.checked_mul(*edge));
            if tensor.dtype.is_blocks() {
                return Err(refuse("block formats are not made up"));
            }
            let bytes = elements.and_then(|n| n.checked_mul(tensor.dtype.block_bytes()));
            let next =
                bytes.and_then(|bytes| offset.checked_add(bytes)?.checked_next_multiple_of(ALIGN));
            let (Some(bytes), Some(next)) = (bytes, next) else {
                return Err(refuse("its shape is not possible"));
            };
            let info = TensorInfo {
                dtype: FileType::Weight(tensor.dtype),
                shape: tensor.shape.clone(),
                shard,
                offset,
                bytes,
            };
            if self.tensors.insert(tensor.name.clone(), info).is_some() {
                return Err(refuse("its name comes twice"));
            }
            let seed = name_seed(&tensor.name, seed);
            plan.places.push((next - offset, Pattern::of(tensor), seed));
            plan.bytes = next;
        }
        Ok(plan)
    }
}

/// A shard to be filled.
struct Plan {
    name: String,
    bytes: u64,
    /// Length, distribution and seed of tensor behind tensor.
    places: Vec<(u64, Pattern, u64)>,
}

impl Plan {
    fn fill(self) -> Result<Shard> {
        let mut memory = allocate(&self.name, self.bytes)?;
        fill(&mut memory, &self.places);
        Ok(Shard {
            name: self.name,
            path: None,
            pages: Arc::new(memory),
            file: None,
        })
    }
}

impl TensorSource for DummySource {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

/// Memory that the system zeroes when it is touched, or the error a person understands.
fn allocate(what: &str, bytes: u64) -> Result<MmapMut> {
    let full = || hadal_device::Error::OutOfMemory {
        what: what.to_string(),
        memory: "host".to_string(),
        wanted_bytes: bytes,
    };
    let length = usize::try_from(bytes.max(ALIGN)).map_err(|_| full())?;
    let memory = MmapMut::map_anon(length).map_err(|_| full())?;
    // As files come to lie (`into_memory.rs`); a wish.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    Ok(memory)
}

/// How random words become numbers: bits kept, bits set, and for every word alike.
#[derive(Clone, Copy)]
struct Pattern {
    keep: u64,
    set: u64,
}

impl Pattern {
    fn of(tensor: &DummyTensor) -> Pattern {
        let fan_in = tensor.shape.last().copied().unwrap_or(1).max(1) as f32;
        let vector = tensor.shape.len() < 2;
        // Random signs and a root mean square of `size`; norms lie just above one, and
        // biases of the router, which only rank experts, are small.
        let bias = tensor.name.ends_with("_bias");
        let size = if bias { 0.01 } else { fan_in.sqrt().recip() };
        match tensor.dtype {
            // Without the top exponent bit a code is below 2 and never a NaN.
            DType::F8E4M3 => Pattern {
                keep: 0xBFBF_BFBF_BFBF_BFBF,
                set: 0,
            },
            DType::F32 if tensor.name.ends_with(SCALE_SUFFIX) => {
                // Codes below have a root mean square of about 0.6 (measured by a test). The
                // scale of a block does not know its row length; 4096 is typical.
                repeat32(0x0000_FFFF, (1.0f32 / 0.6 / 64.0).to_bits() & 0xFFFF_0000)
            }
            DType::F32 if vector && !bias => repeat32(0x000F_FFFF, 1f32.to_bits()),
            DType::F32 => repeat32(0x807F_FFFF, size.to_bits() & 0x7F80_0000),
            DType::Bf16 if vector && !bias => repeat16(0x000F, 0x3F80),
            DType::Bf16 => repeat16(0x807F, (size.to_bits() >> 16) as u16 & 0x7F80),
            DType::F16 if vector && !bias => repeat16(0x007F, 0x3C00),
            DType::F16 => repeat16(0x83FF, half_exponent(size)),
            // Integers; block formats are refused before.
            _ => repeat32(0, 0),
        }
    }
}

fn repeat32(keep: u32, set: u32) -> Pattern {
    let twice = |word: u32| u64::from(word) << 32 | u64::from(word);
    Pattern {
        keep: twice(keep),
        set: twice(set),
    }
}

fn repeat16(keep: u16, set: u16) -> Pattern {
    let twice = |word: u16| u32::from(word) << 16 | u32::from(word);
    repeat32(twice(keep), twice(set))
}

/// Exponent field of the IEEE half at or below `size`.
fn half_exponent(size: f32) -> u16 {
    let exponent = (size.to_bits() >> 23) as i32 - 127;
    ((exponent + 15).clamp(1, 30) as u16) << 10
}

/// Fills tensor behind tensor, each so many bytes, all processors at work.
fn fill(memory: &mut [u8], places: &[(u64, Pattern, u64)]) {
    let mut jobs: Vec<(&mut [u8], Pattern, u64)> = Vec::new();
    let mut rest = memory;
    for &(bytes, pattern, seed) in places {
        let (own, behind) = rest.split_at_mut(bytes as usize);
        rest = behind;
        let blocks = own.chunks_mut(BLOCK_BYTES).zip(1u64..);
        jobs.extend(blocks.map(|(block, number)| (block, pattern, mix(seed ^ mix(number)))));
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = jobs.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for mine in jobs.chunks_mut(share) {
            scope.spawn(move || {
                for (block, pattern, seed) in mine {
                    fill_block(block, *pattern, *seed);
                }
            });
        }
    });
}

fn fill_block(block: &mut [u8], pattern: Pattern, seed: u64) {
    // xorshift64*, whose upper bits are good; four lanes, since each waits for its own past.
    // Blocks are whole lines: `ALIGN` is a multiple of 32.
    let mut lanes = [1u64, 2, 3, 4].map(|lane| mix(seed ^ lane) | 1);
    let (lines, _) = block.as_chunks_mut::<32>();
    for line in lines {
        let (words, _) = line.as_chunks_mut::<8>();
        for (word, lane) in words.iter_mut().zip(&mut lanes) {
            *lane ^= *lane << 13;
            *lane ^= *lane >> 7;
            *lane ^= *lane << 17;
            let random = lane.wrapping_mul(0x2545_F491_4F6C_DD1D);
            *word = (random & pattern.keep | pattern.set).to_le_bytes();
        }
    }
}

/// A bijection that spreads close numbers (splitmix64).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// A seed for one tensor, independent of the others in the list.
fn name_seed(name: &str, seed: u64) -> u64 {
    name.bytes()
        .fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three layers of 1024 bytes each.
    fn layers() -> impl Iterator<Item = DummyTensor> {
        (0..3).map(|layer| DummyTensor {
            name: format!("model.layers.{layer}.weight"),
            shape: vec![16, 16],
            dtype: DType::F32,
        })
    }

    #[test]
    fn weights_that_fit_layer_by_layer_but_not_together_are_refused_before_any_is_made() {
        let error = DummySource::within(Some(3071), layers(), 1).unwrap_err();
        let text = error.to_string();
        let WeightsError::NoMemory { bytes, available } = error else {
            panic!("{text}")
        };
        assert_eq!((bytes, available), (3072, 3071));
        assert!(text.contains("fewer layers or experts"), "{text}");
        for enough in [Some(3072), None] {
            let source = DummySource::within(enough, layers(), 1).unwrap();
            assert_eq!(source.shards().len(), 3);
        }
    }
}
