//! What products need of a block format, and what all of them share.

use hadal_device::DType;

use super::codes::Codes;

/// Columns taken at once: the block of most formats, eight blocks of the others.
pub(super) const SPAN: usize = 256;
/// Room of a span in any format of blocks of 32: of Q8_0, 8 blocks of 34 bytes.
pub(super) const MOST_BYTES: usize = 272;

/// Something for each 32 columns of a span. As a loop it would be left to the compiler, which
/// unrolls some and not others: with the number of a part in a register, shifts take twice as long.
macro_rules! each_part {
    ($part:ident => $what:expr) => {
        each_part!($part => $what, 0 1 2 3 4 5 6 7)
    };
    ($part:ident => $what:expr, $($number:literal)*) => {
        $({
            let $part = $number;
            $what;
        })*
    };
}
pub(super) use each_part;

/// What is added to the products of codes with factors, for each code.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Added {
    /// Nothing.
    Nothing,
    /// The factor, so many times.
    Factor(f32),
    /// A number beside each factor.
    Number,
}

/// A block format: a weight is `factor * code + added`.
///
/// # Safety
/// Methods have the contract of [`Codes`]; `at` has the bytes of a span.
pub(crate) unsafe trait Format: 'static {
    /// Which format.
    const TYPE: DType;
    /// Codes have a sign.
    const SIGNED: bool;
    /// 32 columns share a factor; else sixteen.
    const WIDE: bool;
    /// What is added.
    const ADDED: Added;

    /// Codes of 32 columns, part `part` of the span at `at`.
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C;

    /// Factors of the span at `at`, and what is added if that is a number.
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales);

    /// Bytes of a span.
    const BYTES: usize = Self::TYPE.row_bytes(SPAN as u64) as usize;
}

/// Factors of a span, one for each 32 or sixteen columns, and what is added for each code.
#[repr(align(64))]
pub(crate) struct Scales {
    pub factors: [f32; SPAN / 16],
    pub added: [f32; SPAN / 16],
}

impl Scales {
    /// Those of the span at `at`.
    ///
    /// # Safety
    /// See [`Format`].
    #[inline(always)]
    pub unsafe fn of<C: Codes, F: Format>(at: *const u8) -> Scales {
        let mut scales = Scales {
            factors: [0.0; SPAN / 16],
            added: [0.0; SPAN / 16],
        };
        // SAFETY: the caller's promise.
        unsafe {
            F::scales::<C>(at, &mut scales);
            if let Added::Factor(times) = F::ADDED {
                for first in (0..if F::WIDE { 8 } else { 16 }).step_by(8) {
                    let factors = C::load_eight(scales.factors.as_ptr().add(first));
                    let added = C::fma(C::splat(0.0), factors, C::splat(times));
                    C::store_eight(added, scales.added.as_mut_ptr().add(first));
                }
            }
        }
        scales
    }
}

/// `to[i] = by * byte + more` of eight bytes without sign.
///
/// # Safety
/// See [`Codes`].
#[inline(always)]
pub(super) unsafe fn scaled<C: Codes>(bytes: u64, by: f32, more: f32, to: &mut [f32]) {
    let to = to[..8].as_mut_ptr();
    // SAFETY: the caller's promise; there are eight numbers.
    unsafe { C::store_eight(C::fma(C::splat(more), C::of_bytes(bytes), C::splat(by)), to) }
}

/// `N` bytes at `at`.
///
/// # Safety
/// They can be read.
#[inline(always)]
pub(super) unsafe fn bytes<const N: usize>(at: *const u8) -> [u8; N] {
    // SAFETY: the caller's promise.
    unsafe { at.cast::<[u8; N]>().read_unaligned() }
}

/// Eight bytes at `at`, four, or two.
///
/// # Safety
/// They can be read.
#[inline(always)]
pub(super) unsafe fn eight(at: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    u64::from_le_bytes(unsafe { bytes(at) })
}

/// See [`eight`].
///
/// # Safety
/// They can be read.
#[inline(always)]
pub(super) unsafe fn four(at: *const u8) -> u32 {
    // SAFETY: the caller's promise.
    u32::from_le_bytes(unsafe { bytes(at) })
}

/// See [`eight`].
///
/// # Safety
/// They can be read.
#[inline(always)]
pub(super) unsafe fn two(at: *const u8) -> u32 {
    // SAFETY: the caller's promise.
    u32::from(u16::from_le_bytes(unsafe { bytes(at) }))
}
