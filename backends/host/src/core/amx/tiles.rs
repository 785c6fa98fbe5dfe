//! The tile registers: eight of sixteen lines, and the instruction that multiplies them.

use std::arch::asm;

use crate::core::digits::Line;

/// Lines of a tile.
pub(super) const TILE: usize = 16;
/// Columns that a tile of weights or activations holds, as BF16.
pub(super) const COLUMNS: usize = 32;
/// Tiles of weights that are multiplied at once, and the weight rows in them.
pub(super) const HIGH: usize = 2;
pub(super) const STRIP: usize = HIGH * TILE;

/// What the processor is told of its tiles: the first palette, and of eight of them sixteen lines
/// of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

const CONFIG: Config = {
    let mut config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        line_bytes: [0; 16],
        lines: [0; 16],
    };
    let mut tile = 0;
    while tile < 8 {
        config.line_bytes[tile] = size_of::<Line>() as u16;
        config.lines[tile] = TILE as u8;
        tile += 1;
    }
    config
};

/// The thread's tiles are in use; dropped, they are no part of what a switch of threads saves.
pub(super) struct Tiles(());

impl Tiles {
    /// Tiles for this thread.
    ///
    /// # Safety
    /// `allowed` said so.
    pub unsafe fn configure() -> Tiles {
        // SAFETY: the caller's promise; the compiler uses no tiles.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, preserves_flags, readonly));
        }
        Tiles(())
    }

    /// Adds products of `WIDE` tiles of activations with [`HIGH`] tiles of weights to the sums at
    /// `sums`, or puts them there if `fresh`: `steps` steps of 32 columns for each of `pairs`,
    /// which are where weights and activations begin. Tiles of a step lie one after the other, and
    /// so do steps. Sums are tiles, too: the first of weights with all of activations, then the
    /// second; a line is a weight row, a number of it a row of activations.
    ///
    /// # Safety
    /// All these lines are there, and nobody else uses the sums; `steps` and `pairs` are not 0.
    #[inline(always)]
    pub unsafe fn multiply<const WIDE: usize>(
        &self,
        pairs: &[[*const Line; 2]],
        steps: usize,
        sums: *mut Line,
        fresh: bool,
    ) {
        const { assert!(WIDE == 1 || WIDE == 2) };
        // SAFETY: the caller's promise; what is configured was made so by `configure`.
        unsafe {
            if WIDE == 2 {
                four(pairs, steps, sums, fresh);
            } else {
                two(pairs, steps, sums, fresh);
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there are tiles, as this value says.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// A function for so many tiles of activations: how sums are loaded, made zero, added to in a step and
/// stored, and the bytes of a step of activations.
macro_rules! multiply {
    ($name:ident, $step_bytes:literal, load $load:tt, zero $zero:tt, add $add:tt, store $store:tt) => {
        /// # Safety
        /// See [`Tiles::multiply`].
        #[inline(always)]
        unsafe fn $name(pairs: &[[*const Line; 2]], steps: usize, sums: *mut Line, fresh: bool) {
            let range = pairs.as_ptr_range();
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "test {fresh:e}, {fresh:e}",
                    "jnz 2f",
                    concat! $load,
                    "jmp 3f",
                    "2:",
                    concat! $zero,
                    "3:",
                    "mov {w}, [{pair}]",
                    "mov {x}, [{pair} + 8]",
                    "mov {left}, {steps}",
                    "4:",
                    concat! $add,
                    "add {w}, 2048",
                    concat!("add {x}, ", $step_bytes),
                    "dec {left}",
                    "jnz 4b",
                    "add {pair}, 16",
                    "cmp {pair}, {end}",
                    "jne 3b",
                    concat! $store,
                    fresh = in(reg) u32::from(fresh),
                    sums = in(reg) sums,
                    line = in(reg) size_of::<Line>(),
                    pair = inout(reg) range.start => _,
                    end = in(reg) range.end,
                    steps = in(reg) steps,
                    left = out(reg) _,
                    w = out(reg) _,
                    x = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

// Two tiles of activations: four sums.
multiply!(
    four,
    2048,
    load(
        "tileloadd tmm0, [{sums} + {line}*1]\n",
        "tileloadd tmm1, [{sums} + {line}*1 + 1024]\n",
        "tileloadd tmm2, [{sums} + {line}*1 + 2048]\n",
        "tileloadd tmm3, [{sums} + {line}*1 + 3072]"
    ),
    zero(
        "tilezero tmm0\n",
        "tilezero tmm1\n",
        "tilezero tmm2\n",
        "tilezero tmm3"
    ),
    add(
        "tileloadd tmm4, [{w} + {line}*1]\n",
        "tileloadd tmm6, [{x} + {line}*1]\n",
        "tdpbf16ps tmm0, tmm4, tmm6\n",
        "tileloadd tmm7, [{x} + {line}*1 + 1024]\n",
        "tdpbf16ps tmm1, tmm4, tmm7\n",
        "tileloadd tmm5, [{w} + {line}*1 + 1024]\n",
        "tdpbf16ps tmm2, tmm5, tmm6\n",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ),
    store(
        "tilestored [{sums} + {line}*1], tmm0\n",
        "tilestored [{sums} + {line}*1 + 1024], tmm1\n",
        "tilestored [{sums} + {line}*1 + 2048], tmm2\n",
        "tilestored [{sums} + {line}*1 + 3072], tmm3"
    )
);

// One tile of activations: two sums.
multiply!(
    two,
    1024,
    load(
        "tileloadd tmm0, [{sums} + {line}*1]\n",
        "tileloadd tmm1, [{sums} + {line}*1 + 1024]"
    ),
    zero("tilezero tmm0\n", "tilezero tmm1"),
    add(
        "tileloadd tmm4, [{w} + {line}*1]\n",
        "tileloadd tmm6, [{x} + {line}*1]\n",
        "tdpbf16ps tmm0, tmm4, tmm6\n",
        "tileloadd tmm5, [{w} + {line}*1 + 1024]\n",
        "tdpbf16ps tmm1, tmm5, tmm6"
    ),
    store(
        "tilestored [{sums} + {line}*1], tmm0\n",
        "tilestored [{sums} + {line}*1 + 1024], tmm1"
    )
);
