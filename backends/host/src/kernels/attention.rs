//! Attention over the latent cache: `attend_latent` (absorbed), `attend_expanded`.
//!
//! Both walk the pages of a sequence with an online softmax: the scores of one page are all
//! that is ever held. `group`: block of heads (one head where keys are expanded), block of
//! rows. No sum of a row takes in a position in a page that the row may not see, so what other
//! rows or earlier owners of the page left there cannot matter.
//!
//! The ladder, 16 heads on two cores of a Xeon (Sapphire Rapids), in milliseconds
//! (`examples/kernels.rs attend`): absorbed for one row at depths 4,096 and 65,536, expanded for
//! 512 rows at depth 2,048.
//!
//! | | 1 of 4,096 | 1 of 65,536 | 512 of 2,048 |
//! |---|---|---|---|
//! | before | 1.09 | | 106 |
//! | products as in the ladder of `products.rs` | 1.04 | | 96 |
//! | scores scaled by registers, values expanded as rows, six rows mixed at once | 0.96 | | 68 |
//! | eight heads share a page, and sixteen where there are rows enough | 0.67 | 18.3 | |
//! | keys asked for 4 KiB ahead | 0.69 | 13.6 | |
//!
//! Papers: DeepSeek-V2 report, section 2.1; online softmax: Milakov and Gimelshein 2018.

use std::ops::Range;

use hadal_device::{PAGE, Params};

use super::at;
use crate::args::{Args, Fault, Region, Steps};
use crate::core::{Core, Grown, Scratch};
use crate::weight::{F32, Matrix, Rows, Weight};

const PAGE_ROWS: usize = PAGE as usize;
/// Values of the latents of a page that are multiplied together: 32 KiB, which a first-level
/// cache holds.
const TOGETHER: usize = 128;

/// Sums over the positions seen so far, for each query.
struct Online<'a> {
    /// Largest score.
    most: &'a mut [f32],
    /// Sum of `exp(score - most)`.
    sum: &'a mut [f32],
    /// Sum of `exp(score - most) * value`, `width` for each query.
    mixed: &'a mut [f32],
    width: usize,
}

impl Online<'_> {
    fn clear(&mut self) {
        self.most.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.mixed.fill(0.0);
    }

    /// Adds positions: `scores` are those of whole queries, `stride` apart, the first
    /// `values.rows` of which count, and are used up.
    fn add<C: Core>(
        &mut self,
        first: usize,
        (scores, stride): (&mut [f32], usize),
        scale: f32,
        values: &Matrix<'_>,
    ) {
        let queries = scores.len() / stride;
        for (q, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let (q, scores) = (first + q, &mut scores[..values.rows]);
            let most = C::scale(scores, scale).max(self.most[q]);
            if most > self.most[q] {
                let shrink = (self.most[q] - most).exp();
                self.sum[q] *= shrink;
                C::scale(&mut self.mixed[q * self.width..][..self.width], shrink);
                self.most[q] = most;
            }
            self.sum[q] += C::exp(scores, most);
        }
        let weights = Rows::strided(scores, queries, values.rows, stride);
        let mixed = &mut self.mixed[first * self.width..][..queries * self.width];
        C::mix::<F32>(weights, values, mixed);
    }

    /// The finished values of query `q`.
    fn finish(&mut self, q: usize) -> &[f32] {
        let sum = self.sum[q];
        let mixed = &mut self.mixed[q * self.width..][..self.width];
        for mixed in mixed.iter_mut() {
            *mixed /= sum;
        }
        mixed
    }
}

/// The cache of one layer, read page by page.
struct Cache<'a> {
    region: Region<'a>,
    steps: Steps<'a>,
    /// Values of a cache row.
    width: usize,
    page_stride: u32,
}

impl<'a> Cache<'a> {
    /// The first `count` rows of page `page` of `sequence`.
    fn page(&self, sequence: usize, page: usize, count: usize) -> Result<&'a [f32], Fault> {
        let first = self.steps.page(sequence, page, self.page_stride)?;
        self.region
            .f32s(first.saturating_mul(self.width), count * self.width)
    }
}

/// Divides `buffer` into arrays of these lengths, each from a cache line on.
fn carve<const N: usize>(
    buffer: &mut Grown<f32>,
    lengths: [usize; N],
) -> Result<[&mut [f32]; N], Fault> {
    let lines = lengths.map(|length| length.next_multiple_of(16));
    let mut rest = buffer.take(lines.iter().sum())?;
    let mut lengths = lengths.into_iter();
    Ok(lines.map(|line| {
        let (array, after) = std::mem::take(&mut rest).split_at_mut(line);
        rest = after;
        &mut array[..lengths.next().unwrap_or(0)]
    }))
}

/// `OpKind::AttendLatent`. `group[0]`: block of heads.
pub(super) fn attend_latent<C: Core>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let heads = args.output_block(group[0], p.heads);
    let rows = args.row_block(group[1])?;
    let (latent, width) = (p.latent as usize, p.latent as usize + p.rope as usize);
    if heads.is_empty() || rows.is_empty() {
        return Ok(());
    }
    let mut operands = args.operands();
    let q = operands.range()?;
    let cache = Cache {
        region: operands.range()?,
        steps: args.inputs()?,
        width,
        page_stride: p.page_stride,
    };
    let y = operands.range()?;
    operands.end()?;
    let n = heads.len();
    let [most, sum, mixed, scores] = carve(&mut scratch.work, [n, n, n * latent, n * PAGE_ROWS])?;
    let mut online = Online {
        most,
        sum,
        mixed,
        width: latent,
    };
    for row in rows {
        let first = at(p.x_offset, row, p.x_stride) + at(0, heads.start, p.x_head_stride);
        let q = Rows::of(&q, first, n, width, p.x_head_stride as usize)?;
        let (sequence, position) = (cache.steps.sequence(row)?, cache.steps.position(row)?);
        online.clear();
        for page in 0..=position / PAGE_ROWS {
            let count = PAGE_ROWS.min(position + 1 - page * PAGE_ROWS);
            let keys = cache.page(sequence, page, count)?;
            let scores = &mut scores[..n * count];
            let key = Matrix::floats(keys, count, width, width);
            C::dots::<F32>(q, &key, scores, &mut scratch.panel)?;
            let value = Matrix::floats(keys, count, latent, width);
            online.add::<C>(0, (scores, count), p.scale, &value);
        }
        for (index, head) in heads.clone().enumerate() {
            let to = at(p.y_offset, row, p.y_stride) + at(0, head, p.y_head_stride);
            y.out(to, latent)?.write(online.finish(index));
        }
    }
    Ok(())
}

/// `OpKind::AttendExpanded`. `group[0]`: head. A page is expanded once for all rows of a
/// sequence that lie one after the other in the group.
pub(super) fn attend_expanded<C: Core, W: Weight>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let head = group[0] as usize;
    let rows = args.row_block(group[1])?;
    if head >= p.heads as usize || rows.is_empty() {
        return Ok(());
    }
    let (nope, rope) = (p.nope as usize, p.rope as usize);
    let (value, latent) = (p.value as usize, p.latent as usize);
    if nope == 0 || value == 0 || latent == 0 {
        return Err(Fault::Shape("a head without keys, values or latent"));
    }
    let mut operands = args.operands();
    let q = operands.range()?;
    let cache = Cache {
        region: operands.range()?,
        steps: args.inputs()?,
        width: latent + rope,
        page_stride: p.page_stride,
    };
    let w = Matrix::take::<W>(&mut operands, p.heads as usize * (nope + value), latent, 0)?;
    let y = operands.range()?;
    operands.end()?;
    let (online, scores, mut expanded) = room(&mut scratch.work, rows.len(), p)?;
    let row = scratch.extra.take(latent)?;
    expanded.weights::<W>(&w, head * (nope + value), row);
    let mut head = Head {
        params: p,
        index: head,
        rows: rows.clone(),
        q,
        cache,
        online,
        scores,
        expanded,
    };
    head.attend::<C>()?;
    for row in rows.clone() {
        let to = at(p.y_offset, row, p.y_stride) + at(0, head.index, p.y_head_stride);
        y.out(to, value)?
            .write(head.online.finish(row - rows.start));
    }
    Ok(())
}

/// Memory for the attention of `n` queries of one head.
fn room<'s>(
    work: &'s mut Grown<f32>,
    n: usize,
    p: &Params,
) -> Result<(Online<'s>, &'s mut [f32], Expanded<'s>), Fault> {
    let [nope, rope, value, latent] =
        [p.nope, p.rope, p.value, p.latent].map(|width| width as usize);
    let [
        most,
        sum,
        mixed,
        scores,
        for_keys,
        for_values,
        page,
        keys,
        values,
    ] = carve(
        work,
        [
            n,
            n,
            n * value,
            n * PAGE_ROWS,
            nope * latent,
            latent * value,
            (latent + rope) * PAGE_ROWS,
            (nope + rope) * PAGE_ROWS,
            PAGE_ROWS * value,
        ],
    )?;
    let online = Online {
        most,
        sum,
        mixed,
        width: value,
    };
    let expanded = Expanded {
        for_keys,
        for_values,
        page,
        keys,
        values,
    };
    Ok((online, scores, expanded))
}

/// One head's keys and values of one page. Products that run along the columns need no sums across
/// registers, which rows of a few hundred values would spend much time on.
struct Expanded<'a> {
    /// What expands keys, `[nope, latent]`.
    for_keys: &'a mut [f32],
    /// What expands values, `[latent, value]`.
    for_values: &'a mut [f32],
    /// The page, `[latent + rope, PAGE]`.
    page: &'a mut [f32],
    /// `[nope + rope, PAGE]`.
    keys: &'a mut [f32],
    /// `[PAGE, value]`.
    values: &'a mut [f32],
}

impl Expanded<'_> {
    /// Takes the weights of a head, the rows of `w` from `first` on; `row` has room for one.
    fn weights<W: Weight>(&mut self, w: &Matrix<'_>, first: usize, row: &mut [f32]) {
        let nope = self.for_keys.len() / w.k;
        for (index, to) in self.for_keys.chunks_exact_mut(w.k).enumerate() {
            W::decode_row(w, first + index, to);
        }
        let value = self.for_values.len() / w.k;
        for index in 0..value {
            W::decode_row(w, first + nope + index, row);
            for (to, weight) in self.for_values.chunks_exact_mut(value).zip(&*row) {
                to[index] = *weight;
            }
        }
    }

    /// Expands the `count` cache rows `stored`; keys beyond them become 0.
    fn expand<C: Core>(&mut self, stored: &[f32], count: usize, p: &Params) {
        let (latent, nope, value) = (p.latent as usize, p.nope as usize, p.value as usize);
        let width = stored.len() / count;
        turn(stored, width, self.page);
        let (latents, rotated) = self.page.split_at(latent * PAGE_ROWS);
        let (keys, rotated_keys) = self.keys.split_at_mut(nope * PAGE_ROWS);
        rotated_keys.copy_from_slice(rotated);
        let values = &mut self.values[..count * value];
        keys.fill(0.0);
        values.fill(0.0);
        let for_keys = Rows::packed(self.for_keys, nope, latent);
        let stored = Rows::packed(stored, count, width);
        for first in (0..latent).step_by(TOGETHER) {
            let some = TOGETHER.min(latent - first);
            let latents = &latents[first * PAGE_ROWS..];
            let latents = Matrix::floats(latents, some, PAGE_ROWS, PAGE_ROWS);
            C::mix::<F32>(for_keys.columns(first, some), &latents, keys);
            let weights = Matrix::floats(&self.for_values[first * value..], some, value, value);
            C::mix::<F32>(stored.columns(first, some), &weights, values);
        }
    }
}

/// Turns rows of `width` values into columns of a page: `to[c][r] = from[r][c]`, 0 where there is
/// no row `r`.
fn turn(from: &[f32], width: usize, to: &mut [f32]) {
    let rows = from.len() / width;
    for (c, to) in to.chunks_exact_mut(PAGE_ROWS).enumerate() {
        for (to, from) in to.iter_mut().zip(from.chunks_exact(width)) {
            *to = from[c];
        }
        to[rows..].fill(0.0);
    }
}

/// One head of a block of rows.
struct Head<'a> {
    params: &'a Params,
    index: usize,
    rows: Range<usize>,
    q: Region<'a>,
    cache: Cache<'a>,
    online: Online<'a>,
    scores: &'a mut [f32],
    expanded: Expanded<'a>,
}

impl Head<'_> {
    /// All rows, a run of one sequence after the other.
    fn attend<C: Core>(&mut self) -> Result<(), Fault> {
        self.online.clear();
        let mut first = self.rows.start;
        while first < self.rows.end {
            let end = same_sequence(&self.cache.steps, first, self.rows.end)?;
            let sequence = self.cache.steps.sequence(first)?;
            let last = last_position(&self.cache.steps, first, end)?;
            for page in 0..=last / PAGE_ROWS {
                let start = page * PAGE_ROWS;
                let count = PAGE_ROWS.min(last + 1 - start);
                let stored = self.cache.page(sequence, page, count)?;
                self.expanded.expand::<C>(stored, count, self.params);
                self.add_page::<C>(first..end, start, count)?;
            }
            first = end;
        }
        Ok(())
    }

    /// Adds the expanded page to the rows that see it, those together that see as much.
    fn add_page<C: Core>(
        &mut self,
        rows: Range<usize>,
        start: usize,
        count: usize,
    ) -> Result<(), Fault> {
        let p = self.params;
        let (key, value) = (p.nope as usize + p.rope as usize, p.value as usize);
        let mut row = rows.start;
        while row < rows.end {
            let seen = seen_of_page(&self.cache.steps, row, start, count)?;
            let mut next = row + 1;
            while next < rows.end && seen_of_page(&self.cache.steps, next, start, count)? == seen {
                next += 1;
            }
            if seen > 0 {
                let first = at(p.x_offset, row, p.x_stride) + at(0, self.index, p.x_head_stride);
                let q = Rows::of(&self.q, first, next - row, key, p.x_stride as usize)?;
                // Whole registers: scores of what is not seen are made and not read.
                let columns = seen.next_multiple_of(16);
                let scores = &mut self.scores[..(next - row) * columns];
                scores.fill(0.0);
                let keys = Matrix::floats(self.expanded.keys, key, columns, PAGE_ROWS);
                C::mix::<F32>(q, &keys, scores);
                let values = Matrix::floats(self.expanded.values, seen, value, value);
                let first = row - self.rows.start;
                self.online
                    .add::<C>(first, (scores, columns), p.scale, &values);
            }
            row = next;
        }
        Ok(())
    }
}

/// Positions of a page, from `start` on, that a row sees.
fn seen_of_page(steps: &Steps<'_>, row: usize, start: usize, count: usize) -> Result<usize, Fault> {
    Ok((steps.position(row)? + 1).saturating_sub(start).min(count))
}

/// The first row after `row` that belongs to another sequence.
fn same_sequence(steps: &Steps<'_>, row: usize, end: usize) -> Result<usize, Fault> {
    let sequence = steps.sequence(row)?;
    for next in row + 1..end {
        if steps.sequence(next)? != sequence {
            return Ok(next);
        }
    }
    Ok(end)
}

fn last_position(steps: &Steps<'_>, first: usize, end: usize) -> Result<usize, Fault> {
    let mut last = 0;
    for row in first..end {
        last = last.max(steps.position(row)?);
    }
    Ok(last)
}
