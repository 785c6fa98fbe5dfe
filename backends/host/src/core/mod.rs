//! The arithmetic that time goes into, once for each instruction set.
//!
//! Kernels are written once over [`Core`]: they find operands and rows, and a core computes.
//! [`Scalar`] is the readable one. A core knows nothing of operations, operands or programs.

/// `$what`, in which `$name` is the type of the block format that `$format` names; types of these names
/// are the caller's. Another format is the error of the function around it.
macro_rules! of_format {
    ($format:expr, $name:ident => $what:expr) => {
        of_format! { @ $format, $name => $what;
            Q8_0: Q8_0, Q4_0: Q4_0, Q4_1: Q4_1, Q5_0: Q5_0, Q5_1: Q5_1, Iq4Nl: Iq4Nl,
            Q2K: Q2K, Q3K: Q3K, Q4K: Q45K<0>, Q5K: Q45K<32>, Q6K: Q6K, Iq4Xs: Iq4Xs,
            Tq1_0: Tq1_0, Tq2_0: Tq2_0, Iq2Xxs: Iq2Xxs, Iq2Xs: Iq2Xs, Iq2S: Iq2S,
            Iq3Xxs: Iq3Xxs, Iq3S: Iq3S, Iq1S: Iq1S, Iq1M: Iq1M
        }
    };
    (@ $format:expr, $name:ident => $what:expr; $($dtype:ident: $type:ty),*) => {
        match $format {
            $(Some(hadal_device::DType::$dtype) => {
                type $name = $type;
                $what
            })*
            _ => return Err(crate::args::Fault::Shape("the weights are in no block format")),
        }
    };
}

mod ahead;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_pairs;
#[cfg(target_arch = "x86_64")]
mod avx512_vbmi;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
mod blocks;
mod digits;
mod elementwise;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod online;
mod products;
mod scalar;
mod vector_core;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{Amx, allowed as amx_allowed};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512_bf16::Avx512Bf16;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512_vbmi::Avx512Vbmi;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512_vnni::Avx512Vnni;
pub(crate) use digits::Digits;
pub(crate) use lanes::Lanes;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use online::{Online, Room, mix};
pub(crate) use scalar::Scalar;

use std::ops::Range;

use crate::args::Fault;
use crate::weight::{Elements, F32, Matrix, Rows};

/// Memory of one thread that outlives a kernel, so that a warm loop allocates nothing.
#[derive(Default)]
pub(crate) struct Scratch {
    /// For kernels.
    pub work: Grown<f32>,
    /// For a second array of a kernel.
    pub extra: Grown<f32>,
    /// For cores.
    pub panel: Panel,
    /// Scores of the router.
    pub wide: Grown<f64>,
    /// Counts of the sort by expert.
    pub counts: Grown<u32>,
}

/// Memory of a core.
#[derive(Default)]
pub(crate) struct Panel {
    /// Weights as floats.
    pub floats: Grown<f32>,
    /// Activations as integers or BF16.
    pub digits: Digits,
    /// Weights as integers or BF16.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub lines: Grown<digits::Line>,
    /// Sums of tiles.
    #[cfg(target_arch = "x86_64")]
    pub sums: Grown<digits::Line>,
}

/// Length of a sum from which 16 bits of an activation are enough: of shorter ones, their roundings
/// do not average out below those of `f32`.
const LONG: usize = 512;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Numbers that grow in number and never shrink.
#[derive(Default)]
pub(crate) struct Grown<T>(Vec<T>);

impl<T: Copy + Default> Grown<T> {
    /// `count` numbers with undefined values, from the beginning of a cache line on: loads of a
    /// whole line that lie across two take twice as long.
    pub fn take(&mut self, count: usize) -> Result<&mut [T], Fault> {
        let room = count.saturating_add(LINE / size_of::<T>());
        if self.0.len() < room {
            let more = room - self.0.len();
            self.0.try_reserve(more).map_err(|_| Fault::Memory {
                bytes: count.saturating_mul(size_of::<T>()),
            })?;
            self.0.resize(room, T::default());
        }
        let first = self.0.as_ptr().align_offset(LINE).min(room - count);
        Ok(&mut self.0[first..][..count])
    }
}

/// Dense arithmetic in `f32`.
pub(crate) trait Core: Sized + 'static {
    /// `out[r * w.rows + i] = dot(x[r], w[i])` for all rows of `x` and `w`.
    fn dots<W: Elements>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault>;

    /// As [`Core::dots`], for weights in a block format.
    fn block_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault>;

    /// `out[r * w.k + c] += sum_i p[r][i] * w[i][c]` for all rows of `p`; `p.k = w.rows`.
    fn mix<W: Elements>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]);

    /// True if [`Core::rough_mix`] and [`Core::rough_dots`] are faster than what is exact.
    const ROUGH: bool = false;

    /// [`Core::mix`] of rows `some` of `p` and `f32` weights, both rounded to integers of twelve
    /// bits or more with a scale for each 128 rows or fewer, if [`Core::ROUGH`].
    fn rough_mix(
        (p, some): (Rows<'_>, Range<usize>),
        w: &Matrix<'_>,
        out: &mut [f32],
        _panel: &mut Panel,
    ) -> Result<(), Fault> {
        Self::mix::<F32>(p.rows(some.start, some.len()), w, out);
        Ok(())
    }

    /// `out[r * stride + i] = dot(x[r], w[i])` for `f32` weights, rounded like that.
    fn rough_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        (out, stride): (&mut [f32], usize),
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        for r in 0..x.count {
            Self::dots::<F32>(x.rows(r, 1), w, &mut out[r * stride..], panel)?;
        }
        Ok(())
    }

    /// [`Online::add_latents`]; sums of queries up to the next multiple of sixteen may be anything
    /// afterwards.
    fn attend(
        q: Rows<'_>,
        keys: &Matrix<'_>,
        scale: f32,
        online: &mut Online<'_>,
        room: Room<'_>,
    ) -> Result<(), Fault> {
        online.add_latents::<Self>(q, keys, scale, room)
    }

    /// `gate[i] = silu(gate[i]) * up[i]`.
    fn swiglu(gate: &mut [f32], up: &[f32]);

    /// `values[i] *= factor`; returns the largest, for which a NaN does not count.
    fn scale(values: &mut [f32], factor: f32) -> f32;

    /// `values[i] = exp(values[i] - shift)`; returns their sum.
    fn exp(values: &mut [f32], shift: f32) -> f32;

    /// Sum of squares.
    fn squares(values: &[f32]) -> f64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_begins_with_a_cache_line_and_keeps_its_length() {
        let mut floats = Grown::<f32>::default();
        let mut wide = Grown::<f64>::default();
        for count in [0, 1, 7, 64, 63, 1000] {
            let taken = floats.take(count).unwrap();
            assert_eq!((taken.len(), taken.as_ptr() as usize % LINE), (count, 0));
            let taken = wide.take(count).unwrap();
            assert_eq!((taken.len(), taken.as_ptr() as usize % LINE), (count, 0));
        }
    }
}
