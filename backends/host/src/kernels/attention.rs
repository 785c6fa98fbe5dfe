//! Attention over the latent cache: `attend_latent` (absorbed), `attend_expanded`.
//!
//! Both walk the pages of a sequence with an online softmax: the scores of one page are all
//! that is ever held. `group`: block of heads (one head where keys are expanded), block of
//! rows. A position in a page that a row may not see is never read for that row, so what
//! other rows or earlier owners of the page left there cannot matter.
//! Papers: DeepSeek-V2 report, section 2.1; online softmax: Milakov and Gimelshein 2018.

use std::ops::Range;

use hadal_device::{PAGE, Params};

use super::at;
use crate::args::{Args, Fault, Region, Steps};
use crate::core::{Core, Grown, Panel, Scratch};
use crate::weight::{F32, Matrix, Rows, Weight};

const PAGE_ROWS: usize = PAGE as usize;

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

    /// Adds positions: `scores` are `[queries, values.rows]` and are used up.
    fn add<C: Core>(&mut self, first: usize, scores: &mut [f32], scale: f32, values: &Matrix<'_>) {
        let queries = scores.len() / values.rows;
        for (q, scores) in scores.chunks_exact_mut(values.rows).enumerate() {
            let q = first + q;
            let mut most = self.most[q];
            for score in scores.iter_mut() {
                *score *= scale;
                most = most.max(*score);
            }
            if most > self.most[q] {
                let shrink = (self.most[q] - most).exp();
                self.sum[q] *= shrink;
                for mixed in &mut self.mixed[q * self.width..][..self.width] {
                    *mixed *= shrink;
                }
                self.most[q] = most;
            }
            self.sum[q] += C::exp(scores, most);
        }
        let weights = Rows::packed(scores, queries, values.rows);
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

/// Divides `buffer` into arrays of these lengths.
fn carve<const N: usize>(
    buffer: &mut Grown<f32>,
    lengths: [usize; N],
) -> Result<[&mut [f32]; N], Fault> {
    let mut rest = buffer.take(lengths.iter().sum())?;
    Ok(lengths.map(|length| {
        let (array, after) = std::mem::take(&mut rest).split_at_mut(length);
        rest = after;
        array
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
            C::dots::<F32>(q, &key, scores, &mut scratch.panel.floats)?;
            let value = Matrix::floats(keys, count, latent, width);
            online.add::<C>(0, scores, p.scale, &value);
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
    let (n, key) = (rows.len(), nope + rope);
    let [most, sum, mixed, scores, keys, values, unrotated] = carve(
        &mut scratch.work,
        [
            n,
            n,
            n * value,
            n * PAGE_ROWS,
            PAGE_ROWS * key,
            PAGE_ROWS * value,
            PAGE_ROWS * nope,
        ],
    )?;
    let online = Online {
        most,
        sum,
        mixed,
        width: value,
    };
    let mut head = Head {
        params: p,
        index: head,
        rows: rows.clone(),
        q,
        cache,
        w_key: w.rows(head * (nope + value), nope)?,
        w_value: w.rows(head * (nope + value) + nope, value)?,
        online,
        scores,
        expanded: Expanded {
            keys,
            values,
            unrotated,
        },
    };
    head.attend::<C, W>(&mut scratch.panel)?;
    for row in rows.clone() {
        let to = at(p.y_offset, row, p.y_stride) + at(0, head.index, p.y_head_stride);
        y.out(to, value)?
            .write(head.online.finish(row - rows.start));
    }
    Ok(())
}

/// One head's keys and values of one page.
struct Expanded<'a> {
    keys: &'a mut [f32],
    values: &'a mut [f32],
    unrotated: &'a mut [f32],
}

/// One head of a block of rows.
struct Head<'a> {
    params: &'a Params,
    index: usize,
    rows: Range<usize>,
    q: Region<'a>,
    cache: Cache<'a>,
    w_key: Matrix<'a>,
    w_value: Matrix<'a>,
    online: Online<'a>,
    scores: &'a mut [f32],
    expanded: Expanded<'a>,
}

impl Head<'_> {
    /// All rows, a run of one sequence after the other.
    fn attend<C: Core, W: Weight>(&mut self, panel: &mut Panel) -> Result<(), Fault> {
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
                let (key, value) = (&self.w_key, &self.w_value);
                expand::<C, W>(stored, count, key, value, &mut self.expanded, panel)?;
                self.add_page::<C>(first..end, start, count, panel)?;
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
        panel: &mut Panel,
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
                let scores = &mut self.scores[..(next - row) * seen];
                let keys = Matrix::floats(self.expanded.keys, seen, key, key);
                C::dots::<F32>(q, &keys, scores, &mut panel.floats)?;
                let values = Matrix::floats(self.expanded.values, seen, value, value);
                self.online
                    .add::<C>(row - self.rows.start, scores, p.scale, &values);
            }
            row = next;
        }
        Ok(())
    }
}

/// Keys `[count, nope + rope]` and values `[count, value]` of cache rows.
fn expand<C: Core, W: Weight>(
    stored: &[f32],
    count: usize,
    w_key: &Matrix<'_>,
    w_value: &Matrix<'_>,
    to: &mut Expanded<'_>,
    panel: &mut Panel,
) -> Result<(), Fault> {
    let (nope, latent) = (w_key.rows, w_key.k);
    let width = stored.len() / count;
    let rope = width - latent;
    let rows = Rows::strided(stored, count, latent, width);
    W::dots::<C>(rows, w_value, &mut to.values[..count * w_value.rows], panel)?;
    W::dots::<C>(rows, w_key, &mut to.unrotated[..count * nope], panel)?;
    for (s, key) in to
        .keys
        .chunks_exact_mut(nope + rope)
        .take(count)
        .enumerate()
    {
        key[..nope].copy_from_slice(&to.unrotated[s * nope..][..nope]);
        key[nope..].copy_from_slice(&stored[s * width + latent..][..rope]);
    }
    Ok(())
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
