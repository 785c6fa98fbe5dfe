//! Attention over the latent cache with keys and values expanded: `attend_expanded`; the latent
//! form is `latent.rs`.
//!
//! Both walk the pages of a sequence with an online softmax: the scores of one page are all
//! that is ever held. `group`: head, block of rows. No sum of a row takes in a position in a page that the row may not see, so what other
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
//! Where products may be rounded (`flags::ROUGH`), pairs of integers (`core/avx512_pairs`) take 66 of
//! 98 ms for 512 rows at depth 2,048 on two cores of Zen 4.
//!
//! Paper: DeepSeek-V2 report, section 2.1.

use std::ops::Range;

use hadal_device::{PAGE, Params, flags};

use super::at;
use super::expanded::Expanded;
use crate::args::{Args, Fault, Region, Steps};
use crate::core::{Core, Grown, Online, Panel, Scratch, mix};
use crate::weight::{Matrix, Rows, Weight};

pub(super) const PAGE_ROWS: usize = PAGE as usize;
/// Rows that see parts of a page that differ, and are multiplied together nevertheless: what all of
/// them see at once, the rest for each by itself.
const ABOUT: usize = 24;

/// The cache of one layer, read page by page.
pub(super) struct Cache<'a> {
    pub region: Region<'a>,
    pub steps: Steps<'a>,
    /// Values of a cache row.
    pub width: usize,
    pub page_stride: u32,
}

impl<'a> Cache<'a> {
    /// The first `count` rows of page `page` of `sequence`.
    pub fn page(&self, sequence: usize, page: usize, count: usize) -> Result<&'a [f32], Fault> {
        let first = self.steps.page(sequence, page, self.page_stride)?;
        self.region
            .f32s(first.saturating_mul(self.width), count * self.width)
    }
}

/// Divides `buffer` into arrays of these lengths, each from a cache line on.
pub(super) fn carve<const N: usize>(
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
        rough: (C::ROUGH && p.flags & flags::ROUGH != 0).then_some(&mut scratch.panel),
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
            latent * PAGE_ROWS,
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
    /// Memory of a core where products may be rounded.
    rough: Option<&'a mut Panel>,
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
                let rough = self.rough.as_deref_mut();
                self.expanded
                    .expand::<C>(stored, count, self.params, rough)?;
                self.add_page::<C>(first..end, start, count)?;
            }
            first = end;
        }
        Ok(())
    }

    /// Adds the expanded page to the rows that see it: all those together that see as much, or
    /// some that see about as much.
    fn add_page<C: Core>(
        &mut self,
        rows: Range<usize>,
        start: usize,
        count: usize,
    ) -> Result<(), Fault> {
        let p = self.params;
        let (key, value) = (p.nope as usize + p.rope as usize, p.value as usize);
        let first = at(p.x_offset, self.rows.start, p.x_stride);
        let first = first + at(0, self.index, p.x_head_stride);
        let q = Rows::of(&self.q, first, self.rows.len(), key, p.x_stride as usize)?;
        let seen = |row| seen_of_page(&self.cache.steps, row, start, count);
        let mut row = rows.start;
        while row < rows.end {
            let (mut least, mut most) = (seen(row)?, seen(row)?);
            let mut next = row + 1;
            while next < rows.end {
                let seen = seen(next)?;
                if next - row >= ABOUT && (least, most) != (seen, seen) {
                    break;
                }
                (least, most) = (least.min(seen), most.max(seen));
                next += 1;
            }
            if most > 0 {
                // Whole registers: scores of what is not seen are made and not read.
                let columns = most.next_multiple_of(16);
                let scores = &mut self.scores[..(next - row) * columns];
                scores.fill(0.0);
                let keys = Matrix::floats(self.expanded.keys, key, columns, PAGE_ROWS);
                let some = row - self.rows.start..next - self.rows.start;
                mix::<C>((q, some), &keys, scores, self.rough.as_deref_mut())?;
                let values = Matrix::floats(self.expanded.values, most, value, value);
                let first = row - self.rows.start;
                let seen = (least, |query| seen(row + query));
                self.online.add::<C>(
                    first,
                    (scores, columns),
                    p.scale,
                    &values,
                    seen,
                    self.rough.as_deref_mut(),
                )?;
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
