//! Latent attention on tiles: sixteen heads are the sixteen rows of a tile, so that one token fills
//! it.
//!
//! Queries, cache and probabilities are numbers of 8 bits each, added up: three, all that a float
//! holds, or two where products may be rounded. Of their products those that count least are left
//! out: of a product 2^-21 at most and 2^-23 on average, of a rounded one 2^-14 and 2^-16. A line
//! holds numbers of two registers side by side: columns `j` and `j + 16` of a row, or rows `j` and
//! `j + 16` of a column, the same for both factors.
//!
//! What comes from the cache is taken apart a few columns at a time, while those before are
//! multiplied: what is stored is loaded as a tile much later, and in a first-level cache still. The
//! next page is asked for all the while, half of it along with the keys: otherwise the memory has
//! nothing to do while values are multiplied.
//!
//! An infinity becomes no number.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::cell::Cell;

use hadal_device::DType;

use super::held::{AT_ONCE, Product};
use super::tiles::{COLUMNS, TILE, Tiles};
use crate::args::Fault;
use crate::core::avx512::{powers, transpose};
use crate::core::digits::{Digits, Layout, Line};
use crate::core::{Avx512, Core, Online, Panel};
use crate::weight::{F32, Matrix, Rows};

/// Positions taken at once: a page.
const POSITIONS: usize = AT_ONCE * TILE;
/// Values of a position taken at once.
const VALUES: usize = AT_ONCE * TILE;
/// Steps of 32 columns, or positions, that are taken apart at once.
const CHUNK: usize = 2;
/// Steps of the positions.
const POSITION_STEPS: usize = POSITIONS / COLUMNS;

/// Lines of a step that is held, in `P` pieces, and of one that is streamed.
const fn held(pieces: usize) -> usize {
    pieces * TILE
}
const fn streamed(pieces: usize) -> usize {
    AT_ONCE * pieces * TILE
}

/// Whether keys of so many columns, of which the first are values, can be had.
pub(super) fn fits(width: usize, values: usize) -> bool {
    width.is_multiple_of(COLUMNS) && values.is_multiple_of(VALUES) && values <= width && values > 0
}

/// The keys of up to 64 positions, which begin with their values.
struct Keys<'a> {
    floats: &'a [f32],
    width: usize,
    count: usize,
    /// What is read after them, and how much of it was asked for.
    ahead: &'a [f32],
    asked: Cell<usize>,
}

impl Keys<'_> {
    /// Asks for so many cache lines more of what is read next.
    #[inline]
    fn ask(&self, lines: usize) {
        let first = self.asked.get();
        let end = self.ahead.len().min(first + lines * TILE);
        for line in self.ahead[first..end].chunks(TILE) {
            // SAFETY: a hint.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
        self.asked.set(end);
    }
}

/// `Core::attend` in `P` pieces for keys that [`fits`], of 64 positions at most.
///
/// # Safety
/// Tiles are allowed.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn attend<const P: usize>(
    q: Rows<'_>,
    keys: &Matrix<'_>,
    ahead: &[f32],
    scale: f32,
    online: &mut Online<'_>,
    panel: &mut Panel,
) -> Result<(), Fault> {
    let blocks = q.count.div_ceil(TILE);
    assert!(q.k == keys.k && keys.rows <= POSITIONS && fits(keys.k, online.width));
    assert!(online.most.len().min(online.sum.len()) >= blocks * TILE);
    assert!(online.mixed.len() >= blocks * TILE * online.width);
    let keys = Keys {
        floats: floats_of(keys),
        width: keys.k,
        count: keys.rows,
        ahead,
        asked: Cell::new(0),
    };
    let Panel { digits, lines, .. } = panel;
    let queries = queries::<P>(q, digits)?;
    let of_weights = POSITION_STEPS * held(P);
    let room = lines.take(2 * CHUNK * streamed(P) + blocks * (POSITIONS + of_weights))?;
    let (chunks, room) = room.split_at_mut(2 * CHUNK * streamed(P));
    let (scores, weights) = room.split_at_mut(blocks * POSITIONS);
    // SAFETY: the caller's promise.
    let tiles = unsafe { Tiles::configure() };
    score::<P>(&tiles, (queries, &keys), chunks, scores);
    let each = weights.chunks_exact_mut(of_weights);
    for (block, (weights, scores)) in each.zip(scores.chunks_exact_mut(POSITIONS)).enumerate() {
        weigh(scores, keys.count, scale, online, block);
        put_weights::<P>(scores, weights);
    }
    mix::<P>(&tiles, (weights, &keys), chunks, online);
    Ok(())
}

/// Rows one after the other.
fn floats_of<'a>(keys: &Matrix<'a>) -> &'a [f32] {
    assert!(keys.row_bytes == keys.k * size_of::<f32>() && keys.rows > 0);
    let last = keys.row::<F32>(keys.rows - 1).as_ptr_range().end;
    let first = keys.row::<F32>(0).as_ptr();
    assert!(
        first.cast::<f32>().is_aligned()
            && last as usize - first as usize == keys.rows * keys.row_bytes
    );
    // SAFETY: aligned, every bit pattern is a float, and they live as long.
    unsafe { std::slice::from_raw_parts(first.cast(), keys.rows * keys.k) }
}

/// The pieces of the numbers of two registers, side by side; of two pieces the second is rounded.
#[target_feature(enable = "avx512f")]
#[inline]
fn taken_apart<const P: usize>([mut low, mut high]: [__m512; 2]) -> [__m512i; P] {
    let mask = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
    from_fn(|piece| {
        let (mut a, mut b) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
        if piece + 1 < P {
            low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_and_si512(a, mask)));
            high = _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_and_si512(b, mask)));
        } else if P < 3 {
            let half = _mm512_set1_epi32(0x8000);
            (a, b) = (_mm512_add_epi32(a, half), _mm512_add_epi32(b, half));
        }
        // What is left of `a`, or of `b` what the mask has.
        _mm512_ternarylogic_epi32::<0xF8>(_mm512_srli_epi32::<16>(a), b, mask)
    })
}

/// Queries as tiles: of each sixteen heads all steps, of each step the pieces.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn queries<'d, const P: usize>(q: Rows<'_>, digits: &'d mut Digits) -> Result<&'d [Line], Fault> {
    let layout = Layout {
        format: DType::F32,
        digits: P,
    };
    let (blocks, steps) = (q.count.div_ceil(TILE), q.k / COLUMNS);
    let (lines, known) = digits.of(q, layout, blocks * steps * held(P))?;
    if !known {
        let mut loose = [[Line::default(); TILE]; P];
        for (i, to) in lines.chunks_exact_mut(held(P)).enumerate() {
            let (block, step) = (i / steps, i % steps);
            // Queries that are none keep what was there: their sums may be anything.
            for line in 0..TILE.min(q.count - block * TILE) {
                let from = q.row(block * TILE + line)[step * COLUMNS..][..COLUMNS].as_ptr();
                let to = loose.as_flattened_mut()[line..].as_mut_ptr();
                // SAFETY: 32 floats, and a tile for each piece.
                unsafe { put_apart::<P>([from, from.add(TILE)], to) };
            }
            for (loose, to) in loose.iter().zip(to.chunks_exact_mut(TILE)) {
                // SAFETY: sixteen lines are read and as many written.
                unsafe { transpose(loose.as_ptr(), 1, to.as_mut_ptr()) };
            }
        }
    }
    Ok(lines)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn put(line: &mut Line, value: __m512i) {
    // SAFETY: a line is a register.
    unsafe { _mm512_store_si512(std::ptr::from_mut(line).cast(), value) };
}

#[target_feature(enable = "avx512f")]
#[inline]
fn floats(line: &Line) -> __m512 {
    // SAFETY: a line is a register.
    unsafe { _mm512_load_ps(std::ptr::from_ref(line).cast()) }
}

/// Writes the pieces of two registers at `from` to the tiles at `to`, one after the other.
///
/// # Safety
/// There are so many floats and tiles.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn put_apart<const P: usize>(from: [*const f32; 2], to: *mut Line) {
    // SAFETY: the caller's promise.
    unsafe {
        let pair = from.map(|from| _mm512_loadu_ps(from));
        for (piece, line) in taken_apart::<P>(pair).into_iter().enumerate() {
            _mm512_store_si512(to.add(piece * TILE).cast(), line);
        }
    }
}

/// Products of all positions with all queries: of each sixteen queries a line for each position, and
/// something for those that are not there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn score<const P: usize>(
    tiles: &Tiles,
    (queries, keys): (&[Line], &Keys<'_>),
    chunks: &mut [Line],
    scores: &mut [Line],
) {
    let steps = keys.width / COLUMNS;
    let mut multiply = |first: usize, chunk: &[Line]| {
        let some = CHUNK.min(steps - first);
        let each = scores.chunks_exact_mut(POSITIONS);
        for (scores, queries) in each.zip(queries.chunks_exact(steps * held(P))) {
            let sums = scores.as_mut_ptr().cast::<f32>();
            let product = Product {
                held: queries[first * held(P)..][..some * held(P)].as_ptr(),
                streamed: chunk[..some * streamed(P)].as_ptr(),
                steps: some,
                sums: from_fn(|tile| sums.wrapping_add(tile * TILE * TILE)),
                stride: size_of::<Line>(),
                fresh: first == 0,
            };
            // SAFETY: tiles are in use; there are lines for all steps, and 64 of scores.
            unsafe { product.by_streamed::<P>(tiles) };
        }
    };
    let (mut chunk, mut before) = chunks.split_at_mut(CHUNK * streamed(P));
    for first in (0..steps).step_by(CHUNK) {
        put_keys::<P>(keys, first, CHUNK.min(steps - first), chunk);
        if first > 0 {
            multiply(first - CHUNK, before);
        }
        std::mem::swap(&mut chunk, &mut before);
    }
    multiply((steps - 1) / CHUNK * CHUNK, before);
}

/// Steps of the keys of all positions as tiles; a line of the next page is asked for along with each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn put_keys<const P: usize>(keys: &Keys<'_>, first: usize, steps: usize, chunk: &mut [Line]) {
    assert!(chunk.len() >= steps * streamed(P) && (first + steps) * COLUMNS <= keys.width);
    assert!(keys.count <= POSITIONS && keys.floats.len() == keys.count * keys.width);
    for position in 0..keys.count {
        let from = keys.floats[position * keys.width + first * COLUMNS..].as_ptr();
        let to = &mut chunk[position / TILE * held(P) + position % TILE..];
        for step in 0..steps {
            // SAFETY: the row has the columns, and the step the tiles.
            unsafe {
                let from = from.add(step * COLUMNS);
                let to = to.as_mut_ptr().add(step * streamed(P));
                put_apart::<P>([from, from.add(TILE)], to);
            }
        }
        keys.ask(steps);
    }
}

/// Scores of block `block` of sixteen queries become probabilities of the first `count` positions,
/// not yet divided by their sums, and 0 of the others; sums of earlier positions become as large as
/// the largest score wants.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn weigh(scores: &mut [Line], count: usize, scale: f32, online: &mut Online<'_>, block: usize) {
    let queries = block * TILE..(block + 1) * TILE;
    let most = &mut online.most[queries.clone()];
    let sum = &mut online.sum[queries.clone()];
    let factor = _mm512_set1_ps(scale);
    let (seen, unseen) = scores.split_at_mut(count);
    unseen.fill(Line::default());
    // SAFETY: sixteen floats.
    let before = unsafe { _mm512_loadu_ps(most.as_ptr()) };
    let mut largest = before;
    for line in &mut *seen {
        let score = _mm512_mul_ps(floats(line), factor);
        // What is no number is not the largest.
        largest = _mm512_max_ps(score, largest);
        put(line, _mm512_castps_si512(score));
    }
    let mut total = _mm512_setzero_ps();
    for line in seen {
        let power = powers(_mm512_sub_ps(floats(line), largest));
        total = _mm512_add_ps(total, power);
        put(line, _mm512_castps_si512(power));
    }
    let grown = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, before);
    let one = _mm512_set1_ps(1.0);
    let shrink = _mm512_mask_mov_ps(one, grown, powers(_mm512_sub_ps(before, largest)));
    let mut factors = [0.0f32; TILE];
    // SAFETY: sixteen floats each.
    unsafe {
        let all = _mm512_fmadd_ps(_mm512_loadu_ps(sum.as_ptr()), shrink, total);
        _mm512_storeu_ps(sum.as_mut_ptr(), all);
        _mm512_storeu_ps(most.as_mut_ptr(), largest);
        _mm512_storeu_ps(factors.as_mut_ptr(), shrink);
    }
    let mixed = online.mixed.chunks_exact_mut(online.width);
    for (mixed, factor) in mixed.skip(queries.start).zip(factors) {
        if factor != 1.0 {
            Avx512::scale(mixed, factor);
        }
    }
}

/// Probabilities as tiles: of each step of 32 positions the pieces, of each a line for each query.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn put_weights<const P: usize>(scores: &[Line], weights: &mut [Line]) {
    let mut turned = [[Line::default(); TILE]; 2];
    let steps = weights.chunks_exact_mut(held(P));
    for (scores, to) in scores.chunks_exact(COLUMNS).zip(steps) {
        for (scores, turned) in scores.chunks_exact(TILE).zip(&mut turned) {
            // SAFETY: sixteen lines are read and as many written.
            unsafe { transpose(scores.as_ptr(), 1, turned.as_mut_ptr()) };
        }
        for query in 0..TILE {
            let from = [0, 1].map(|half: usize| turned[half][query].0.as_ptr().cast());
            // SAFETY: sixteen floats each, and a tile for each piece.
            unsafe { put_apart::<P>(from, to[query..].as_mut_ptr()) };
        }
    }
}

/// Adds the values of all positions, each as often as its probability says.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn mix<const P: usize>(
    tiles: &Tiles,
    (weights, keys): (&[Line], &Keys<'_>),
    chunks: &mut [Line],
    online: &mut Online<'_>,
) {
    const { assert!(POSITION_STEPS <= CHUNK) };
    let steps = keys.count.div_ceil(COLUMNS);
    let width = online.width;
    // Of a page's `4 * keys.width` lines half, in `width / 2` rows of tiles.
    let asked = (4 * keys.width).div_ceil(width);
    let mut multiply = |first: usize, chunk: &[Line]| {
        let each = online.mixed.chunks_exact_mut(TILE * width);
        for (mixed, weights) in each.zip(weights.chunks_exact(POSITION_STEPS * held(P))) {
            let sums = mixed[first..].as_mut_ptr();
            let product = Product {
                held: weights.as_ptr(),
                streamed: chunk[..steps * streamed(P)].as_ptr(),
                steps,
                sums: from_fn(|tile| sums.wrapping_add(tile * TILE)),
                stride: width * size_of::<f32>(),
                fresh: false,
            };
            // SAFETY: tiles are in use; there are lines for all steps, and of sixteen queries, so
            // far apart, 64 sums from here on.
            unsafe { product.by_held::<P>(tiles) };
        }
    };
    let (mut chunk, mut before) = chunks.split_at_mut(CHUNK * streamed(P));
    for first in (0..width).step_by(VALUES) {
        put_values::<P>(keys, first, (steps, asked), chunk);
        if first > 0 {
            multiply(first - VALUES, before);
        }
        std::mem::swap(&mut chunk, &mut before);
    }
    multiply(width - VALUES, before);
}

/// 64 values from value `first` on of all positions as tiles; `asked` lines of the next page are asked
/// for along with each row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn put_values<const P: usize>(
    keys: &Keys<'_>,
    first: usize,
    (steps, asked): (usize, usize),
    chunk: &mut [Line],
) {
    assert!(chunk.len() >= steps * streamed(P));
    let row = |position: usize| {
        // Probabilities of positions that are not there are 0.
        let position = position.min(keys.count - 1);
        keys.floats[position * keys.width + first..][..VALUES].as_ptr()
    };
    for step in 0..steps {
        for j in 0..TILE {
            let at = step * COLUMNS + j;
            let rows = [row(at), row(at + TILE)];
            let to = chunk[step * streamed(P) + j..].as_mut_ptr();
            for tile in 0..AT_ONCE {
                // SAFETY: rows have so many values, and the step the tiles.
                unsafe {
                    let from = rows.map(|row| row.add(tile * TILE));
                    put_apart::<P>(from, to.add(tile * held(P)));
                }
            }
            keys.ask(asked);
        }
    }
}
