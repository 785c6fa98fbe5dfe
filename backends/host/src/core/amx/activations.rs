//! Rows of activations as tiles of BF16: an activation is the sum of so many numbers of 8 bits,
//! its pieces. Three of them are all that a float holds.

use std::arch::x86_64::*;

use hadal_device::DType;

use super::tiles::{COLUMNS, STRIP, TILE};
use crate::args::Fault;
use crate::core::avx512::transpose;
use crate::core::avx512_pairs::sixteen;
use crate::core::digits::{Digits, Layout, Line};
use crate::weight::Rows;

/// Columns of a chunk: a block of any format. Weights of a strip are 16 KiB then, and stay in a
/// first-level cache while all groups of activations meet them; those are in the second.
const CHUNK: usize = 256;

/// How rows of activations are divided: into chunks of columns, each into groups of rows, each into
/// pieces, each into steps of 32 columns, of which every sixteen rows are a tile.
#[derive(Clone, Copy)]
pub(super) struct Division {
    /// Rows, and columns of each.
    count: usize,
    k: usize,
    /// Pieces of an activation.
    pub pieces: usize,
    /// Tiles of a group: 1 or 2.
    pub wide: usize,
    /// Groups.
    pub groups: usize,
}

impl Division {
    /// Steps of a chunk; the last may have fewer.
    pub const STEPS: usize = CHUNK / COLUMNS;

    pub fn new(x: Rows<'_>, pieces: usize) -> Division {
        let wide = if x.count > TILE { 2 } else { 1 };
        Division {
            count: x.count,
            k: x.k,
            pieces,
            wide,
            groups: x.count.div_ceil(wide * TILE),
        }
    }

    /// Lines of a step of a piece of a group.
    pub fn step_lines(&self) -> usize {
        self.wide * TILE
    }

    /// Lines of the sums of a group with a strip of weight rows.
    pub fn sum_lines(&self) -> usize {
        STRIP * self.wide
    }

    /// Steps of all columns.
    fn all_steps(&self) -> usize {
        self.k.div_ceil(COLUMNS)
    }

    /// First steps and numbers of steps of all chunks.
    pub fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let all = self.all_steps();
        let firsts = (0..all).step_by(Division::STEPS);
        firsts.map(move |first| (first, Division::STEPS.min(all - first)))
    }

    /// Where group `group` of the chunk with these steps begins.
    pub fn group(&self, (first, steps): (usize, usize), group: usize) -> usize {
        (first * self.groups + group * steps) * self.pieces * self.step_lines()
    }

    /// The tiles of `x`, kept while a step of the program lasts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub fn tiles<'d>(&self, x: Rows<'_>, digits: &'d mut Digits) -> Result<&'d [Line], Fault> {
        let layout = Layout {
            // Whatever the weights are.
            format: DType::F32,
            digits: self.pieces,
        };
        let count = self.all_steps() * self.groups * self.pieces * self.step_lines();
        let (lines, known) = digits.of(x, layout, count)?;
        if !known {
            for chunk in self.chunks() {
                for group in 0..self.groups {
                    let from = self.group(chunk, group);
                    match self.pieces {
                        1 => self.fill::<1>(x, chunk, group, &mut lines[from..]),
                        2 => self.fill::<2>(x, chunk, group, &mut lines[from..]),
                        _ => self.fill::<3>(x, chunk, group, &mut lines[from..]),
                    }
                }
            }
        }
        Ok(lines)
    }

    /// One group of a chunk.
    #[allow(
        clippy::needless_range_loop,
        reason = "a number of a row is an index of several arrays"
    )]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn fill<const P: usize>(
        &self,
        x: Rows<'_>,
        (first, steps): (usize, usize),
        group: usize,
        to: &mut [Line],
    ) {
        let mut loose = [[Line::default(); TILE]; P];
        for tile in 0..self.wide {
            let row = (group * self.wide + tile) * TILE;
            let used = self.count.saturating_sub(row).min(TILE);
            if used < TILE {
                loose = [[Line::default(); TILE]; P];
            }
            for step in 0..steps {
                let column = (first + step) * COLUMNS;
                for r in 0..used {
                    let part = &x.row(row + r)[column..self.k.min(column + COLUMNS)];
                    for (piece, line) in taken_apart::<P>(part).into_iter().enumerate() {
                        loose[piece][r] = line;
                    }
                }
                for (piece, loose) in loose.iter().enumerate() {
                    let at = (piece * steps + step) * self.step_lines() + tile * TILE;
                    let to = &mut to[at..][..TILE];
                    // SAFETY: sixteen lines are read and as many written.
                    unsafe { transpose(loose.as_ptr(), 1, to.as_mut_ptr()) };
                }
            }
        }
    }
}

/// The pieces of 32 activations, of which `from` has the first; the others are 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
fn taken_apart<const P: usize>(from: &[f32]) -> [Line; P] {
    let mut lines = [Line::default(); P];
    // SAFETY: this function has the instruction set.
    let mut rest = unsafe { [sixteen(from, 0), sixteen(from, 16)] };
    for line in &mut lines {
        let [low, high] = rest;
        let piece = _mm512_cvtne2ps_pbh(high, low);
        // SAFETY: all are 64 bytes without padding.
        let words = unsafe {
            *line = std::mem::transmute::<__m512bh, Line>(piece);
            std::mem::transmute::<__m512bh, __m512i>(piece)
        };
        let halves = [
            _mm512_castsi512_si256(words),
            _mm512_extracti64x4_epi64::<1>(words),
        ];
        for (rest, words) in rest.iter_mut().zip(halves) {
            let floats = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words));
            let left = _mm512_sub_ps(*rest, _mm512_castsi512_ps(floats));
            // Nothing is left of an infinity, and of no number.
            let magnitude = _mm512_abs_ps(_mm512_castsi512_ps(floats));
            let finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(magnitude, _mm512_set1_ps(f32::INFINITY));
            *rest = _mm512_maskz_mov_ps(finite, left);
        }
    }
    lines
}
