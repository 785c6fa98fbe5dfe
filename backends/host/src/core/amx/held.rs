//! Four tiles of sums, to which products of four tiles from memory with one that is held are added.

use std::arch::asm;

use super::tiles::{TILE, Tiles};
use crate::core::digits::Line;

/// Tiles from memory that are multiplied at once.
pub(super) const AT_ONCE: usize = 4;

/// Where the factors and the sums are.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// A tile for each piece, for each step.
    pub held: *const Line,
    /// Four times a tile for each piece, for each step.
    pub streamed: *const Line,
    pub steps: usize,
    /// Where each tile of the sums begins, and how many bytes lie from line to line.
    pub sums: [*mut f32; AT_ONCE],
    pub stride: usize,
    /// Nothing is there yet.
    pub fresh: bool,
}

impl Product {
    /// Adds up the products of `P` pieces, 2 or 3, of which those that count least are left out. The
    /// lines of the sums are those of the streamed factor.
    ///
    /// # Safety
    /// All these lines are there, and nobody else uses the sums; there is a step.
    #[inline(always)]
    pub unsafe fn by_streamed<const P: usize>(self, tiles: &Tiles) {
        // SAFETY: the caller's promise.
        unsafe {
            match P {
                2 => two_by_streamed(tiles, self),
                _ => three_by_streamed(tiles, self),
            }
        }
    }

    /// As [`Product::by_streamed`], but the lines of the sums are those of the held factor.
    ///
    /// # Safety
    /// See there.
    #[inline(always)]
    pub unsafe fn by_held<const P: usize>(self, tiles: &Tiles) {
        // SAFETY: the caller's promise.
        unsafe {
            match P {
                2 => two_by_held(tiles, self),
                _ => three_by_held(tiles, self),
            }
        }
    }
}

/// The products of piece `$piece` of streamed tile `$tile`, of `$pieces`, with the held ones.
macro_rules! piece {
    ($order:ident $tile:literal $at:literal $($held:literal)+) => {
        concat!(
            "tileloadd tmm7, [{streamed} + {line}*1 + ", $at, "*1024]\n",
            $(piece!(@ $order $tile $held),)+
        )
    };
    (@ by_streamed $tile:literal $held:literal) => {
        concat!("tdpbf16ps tmm", $tile, ", tmm7, tmm", $held, "\n")
    };
    (@ by_held $tile:literal $held:literal) => {
        concat!("tdpbf16ps tmm", $tile, ", tmm", $held, ", tmm7\n")
    };
}

/// A function that adds up products: the pieces that are held, and those of the streamed tiles.
macro_rules! adds {
    ($name:ident, $held:expr, $held_bytes:literal, $streamed:expr, $streamed_bytes:literal) => {
        /// # Safety
        /// See [`Product::by_streamed`].
        #[inline(always)]
        unsafe fn $name(_: &Tiles, product: Product) {
            const { assert!(TILE * size_of::<Line>() == 1024) };
            let [first, second, third, fourth] = product.sums;
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "test {fresh:e}, {fresh:e}",
                    "jnz 2f",
                    "tileloadd tmm0, [{first} + {stride}*1]",
                    "tileloadd tmm1, [{second} + {stride}*1]",
                    "tileloadd tmm2, [{third} + {stride}*1]",
                    "tileloadd tmm3, [{fourth} + {stride}*1]",
                    "jmp 3f",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "3:",
                    $held,
                    $streamed,
                    concat!("add {held}, ", $held_bytes),
                    concat!("add {streamed}, ", $streamed_bytes),
                    "dec {steps}",
                    "jnz 3b",
                    "tilestored [{first} + {stride}*1], tmm0",
                    "tilestored [{second} + {stride}*1], tmm1",
                    "tilestored [{third} + {stride}*1], tmm2",
                    "tilestored [{fourth} + {stride}*1], tmm3",
                    fresh = in(reg) u32::from(product.fresh),
                    first = in(reg) first,
                    second = in(reg) second,
                    third = in(reg) third,
                    fourth = in(reg) fourth,
                    stride = in(reg) product.stride,
                    line = in(reg) size_of::<Line>(),
                    held = inout(reg) product.held => _,
                    streamed = inout(reg) product.streamed => _,
                    steps = inout(reg) product.steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
    ($order:ident, 2, $name:ident) => {
        adds!(
            $name,
            concat!(
                "tileloadd tmm4, [{held} + {line}*1]\n",
                "tileloadd tmm5, [{held} + {line}*1 + 1024]",
            ),
            2048,
            concat!(
                piece!($order 0 0 4 5), piece!($order 1 2 4 5),
                piece!($order 2 4 4 5), piece!($order 3 6 4 5),
                piece!($order 0 1 4), piece!($order 1 3 4),
                piece!($order 2 5 4), piece!($order 3 7 4),
            ),
            8192
        );
    };
    ($order:ident, 3, $name:ident) => {
        adds!(
            $name,
            concat!(
                "tileloadd tmm4, [{held} + {line}*1]\n",
                "tileloadd tmm5, [{held} + {line}*1 + 1024]\n",
                "tileloadd tmm6, [{held} + {line}*1 + 2048]",
            ),
            3072,
            concat!(
                piece!($order 0 0 4 5 6), piece!($order 1 3 4 5 6),
                piece!($order 2 6 4 5 6), piece!($order 3 9 4 5 6),
                piece!($order 0 1 4 5), piece!($order 1 4 4 5),
                piece!($order 2 7 4 5), piece!($order 3 10 4 5),
                piece!($order 0 2 4), piece!($order 1 5 4),
                piece!($order 2 8 4), piece!($order 3 11 4),
            ),
            12288
        );
    };
}

adds!(by_streamed, 2, two_by_streamed);
adds!(by_streamed, 3, three_by_streamed);
adds!(by_held, 2, two_by_held);
adds!(by_held, 3, three_by_held);
