//! Intel's matrix units (AMX): tiles of BF16 numbers, sixteen weight rows of 32 columns times 32
//! columns of sixteen rows of activations, 8192 products in sixteen cycles.
//!
//! One product serves all formats, as weights become BF16 numbers on the way to a tile:
//! - BF16 and E4M3 weights are such numbers; an activation is three of them, all 24 bits of a
//!   float. Scales of E4M3 are met by the sums of 128 columns. Nothing is lost but in sums, which
//!   are floats.
//! - A weight of a block format is two, 16 bits, and so is an activation: three products.
//! - Where activations may be rounded (`flags::ROUGH`) both are rounded to one.
//! - Attention in the latent form has tiles of its own: `attend`.
//!
//! Few rows of activations are read faster than tiles are filled: those are other cores'.
//!
//! The ladder, one thread of a Xeon (Sapphire Rapids) whose core others share, for 8192 weight rows
//! of 7168 in BF16 (`examples/kernels.rs`; GFLOP/s, the best of two or three runs):
//!
//! | | 128 rows | 512 |
//! |---|---|---|
//! | `f32` products | 98 | 86 |
//! | tiles, chunks of 2048 columns | 560 | 691 |
//! | of 512 | 534 | 689 |
//! | of 256 | 608 | 752 |
//!
//! The bound depends on what others do there: the unit by itself was seen to do 980 to 2,600 GFLOP/s,
//! and a loop that also loads its tiles from the first-level cache 600 to 2,500.

mod activations;
mod attend;
mod held;
mod product;
mod tiles;
mod weights;

use std::ops::Range;
use std::sync::OnceLock;

use hadal_device::DType;

use self::weights::{Codes, Halves, Spans};
use super::avx512::as_avx512;
use super::avx512_vnni::{
    Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q5_0, Q5_1,
    Q6K, Q8_0, Q45K, Tq1_0, Tq2_0,
};
use super::{Avx512, Avx512Vbmi, Avx512Vnni, Core, LONG, Online, Panel, Room};
use crate::args::Fault;
use crate::weight::{Elements, Matrix, Rows};

/// The AVX-512 core with tiles.
pub(crate) struct Amx;

/// Rows of activations from which tiles pay.
const FROM_ROWS: usize = 5;
/// Heads, and positions, below which attention leaves too much of its tiles empty.
const MOST_OF_A_TILE: usize = 8;

/// True if this processor has tiles of BF16, and the system lets this process use them.
pub(crate) fn allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| has_tiles() && permitted())
}

/// What the processor says, and whether the system saves tiles when threads are switched.
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const SAVES: u32 = 1 << 27;
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    const STATE: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the system allows the instruction, as SAVES says.
        unsafe { _xgetbv(0) }
    }
    #[allow(
        unused_unsafe,
        reason = "the oldest compilers that build this ask for it"
    )]
    // SAFETY: every processor of 64 bits has the instruction; the leaf is there.
    unsafe {
        __cpuid(0).eax >= 7
            && __cpuid(1).ecx & SAVES != 0
            && __cpuid_count(7, 0).edx & (BF16 | TILES) == BF16 | TILES
            && saved() & STATE == STATE
    }
}

/// Linux gives the memory that tiles are saved in to processes that ask for it.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XTILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call has no effect but that this process may use tiles.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

impl Core for Amx {
    fn dots<W: Elements>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        // SAFETY: `HostDevice::pipeline` gives out kernels of this core only on a processor whose
        // features were detected, and where `allowed` said so; here and below.
        unsafe {
            match W::DTYPE {
                _ if x.k == 0 => Avx512::dots::<W>(x, w, out, panel),
                DType::Bf16 if x.count >= FROM_ROWS => match w.rough {
                    true => product::dots::<Halves<true>>(x, w, out, panel),
                    false => product::dots::<Halves<false>>(x, w, out, panel),
                },
                DType::F8E4M3 if x.count >= FROM_ROWS => match w.rough {
                    true => product::dots::<Codes<true>>(x, w, out, panel),
                    false => product::dots::<Codes<false>>(x, w, out, panel),
                },
                _ => Avx512Vbmi::dots::<W>(x, w, out, panel),
            }
        }
    }

    fn block_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        if x.count < FROM_ROWS || (x.k < LONG && !w.rough) {
            return Avx512Vnni::block_dots(x, w, out, panel);
        }
        // SAFETY: as in `dots`.
        of_format!(w.format, F => unsafe {
            match w.rough {
                true => product::dots::<Spans<F, true>>(x, w, out, panel),
                false => product::dots::<Spans<F, false>>(x, w, out, panel),
            }
        })
    }

    fn mix<W: Elements>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]) {
        Avx512Vbmi::mix::<W>(p, w, out);
    }

    const ROUGH: bool = true;

    fn rough_mix(
        p: (Rows<'_>, Range<usize>),
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        Avx512Vnni::rough_mix(p, w, out, panel)
    }

    fn rough_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: (&mut [f32], usize),
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        Avx512Vnni::rough_dots(x, w, out, panel)
    }

    fn attend(
        q: Rows<'_>,
        keys: &Matrix<'_>,
        scale: f32,
        online: &mut Online<'_>,
        room: Room<'_>,
    ) -> Result<(), Fault> {
        let few = q.count.min(keys.rows) < MOST_OF_A_TILE;
        if few || !attend::fits(keys.k, online.width) {
            return online.add_latents::<Avx512>(q, keys, scale, room);
        }
        let (ahead, panel) = (room.ahead, room.panel);
        // SAFETY: as in `dots`.
        unsafe {
            match keys.rough {
                true => attend::attend::<2>(q, keys, ahead, scale, online, panel),
                false => attend::attend::<3>(q, keys, ahead, scale, online, panel),
            }
        }
    }

    as_avx512!();
}
