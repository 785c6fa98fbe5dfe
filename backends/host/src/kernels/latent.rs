//! Attention in the latent form: `attend_latent`, and in parts of the positions `attend_part` and
//! `attend_merge`. `group`: block of heads, block of rows, part.
//!
//! Rows alone are few where one token is made after the other: parts of its positions are what
//! threads share then, and each reads its own part of the cache for all heads.
//!
//! The ladder, one row on two cores of a Xeon (Sapphire Rapids) whose memory gives 19 GB/s, in
//! milliseconds (`examples/kernels.rs attend`; with 16 heads the cache of 65,536 positions is read
//! in 7.9 at least):
//!
//! | | 16 heads, 4,096 | 65,536 | 128 heads, 4,096 | 65,536 |
//! |---|---|---|---|---|
//! | eight heads share a page | 0.86 | 16.2 | | |
//! | parts of the positions, AVX-512 | 0.83 | 12.8 | 5.6 | 87 |
//! | on tiles (`core/amx/attend.rs`), three pieces | 0.74 | 12.6 | 3.0 | 42 |
//! | two pieces, where products may be rounded | 0.58 | 8.8 | 2.2 | 27 |
//!
//! Of V3's shape at 2 billion parameters a token in Q8_0 at depth 4,096 takes 34 ms on AVX-512. On
//! tiles: 37, as keys came from memory while nothing was multiplied; 31, where the next page is
//! asked for along with the keys, and parts are not the end of what is asked for; 28, where it is
//! asked for along with the values, too.

use std::ops::Range;

use hadal_device::flags;

use super::at;
use super::attention::{Cache, PAGE_ROWS, carve};
use crate::args::{Args, Fault, Region};
use crate::core::{Core, Online, Room, Scratch};
use crate::weight::{F32, Matrix, Rows};

/// Cores may take heads so many at a time: sums of as many that are none follow the last one.
const HEADS: usize = 16;

/// A block of heads.
struct Heads<'a> {
    args: &'a Args<'a>,
    heads: Range<usize>,
    q: Region<'a>,
    cache: Cache<'a>,
}

impl<'a> Heads<'a> {
    /// Of block `group`, with queries and cache from the first operands.
    fn take(
        args: &'a Args<'a>,
        operands: &mut crate::args::Operands<'a>,
        group: u32,
    ) -> Result<Heads<'a>, Fault> {
        let p = args.params;
        Ok(Heads {
            args,
            heads: args.output_block(group, p.heads),
            q: operands.range()?,
            cache: Cache {
                region: operands.range()?,
                steps: args.inputs()?,
                width: p.latent as usize + p.rope as usize,
                page_stride: p.page_stride,
            },
        })
    }

    /// The sums of row `row` over the positions in `seen`.
    fn attend<'s, C: Core>(
        &self,
        row: usize,
        seen: Range<usize>,
        scratch: &'s mut Scratch,
    ) -> Result<Online<'s>, Fault> {
        let p = self.args.params;
        let (n, width, latent) = (self.heads.len(), self.cache.width, p.latent as usize);
        let first = at(p.x_offset, row, p.x_stride) + at(0, self.heads.start, p.x_head_stride);
        let q = Rows::of(&self.q, first, n, width, p.x_head_stride as usize)?;
        let room = n.next_multiple_of(HEADS);
        let [most, sum, mixed] = carve(&mut scratch.work, [room, room, room * latent])?;
        let mut online = Online {
            most,
            sum,
            mixed,
            width: latent,
        };
        online.clear();
        let sequence = self.cache.steps.sequence(row)?;
        let rough = p.flags & flags::ROUGH != 0;
        let positions = self.cache.steps.position(row)? + 1;
        // The rows of the page of position `next` from it on, as far as there are any before `end`.
        let stored = |next: usize, end: usize| -> Result<&[f32], Fault> {
            let (page, before) = (next / PAGE_ROWS, next % PAGE_ROWS);
            let count = end.saturating_sub(next).min(PAGE_ROWS - before);
            match count {
                0 => Ok(&[]),
                _ => Ok(&self.cache.page(sequence, page, before + count)?[before * width..]),
            }
        };
        let mut next = seen.start;
        while next < seen.end {
            let keys = stored(next, seen.end)?;
            let count = keys.len() / width;
            next += count;
            let mut keys = Matrix::floats(keys, count, width, width);
            keys.rough = rough;
            let room = Room {
                scores: &mut scratch.extra,
                panel: &mut scratch.panel,
                // Threads mostly take one part after the other.
                ahead: stored(next, positions)?,
            };
            C::attend(q, &keys, p.scale, &mut online, room)?;
        }
        Ok(online)
    }
}

/// `OpKind::AttendLatent`.
pub(super) fn attend_latent<C: Core>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let mut operands = args.operands();
    let block = Heads::take(args, &mut operands, group[0])?;
    let y = operands.range()?;
    operands.end()?;
    if block.heads.is_empty() {
        return Ok(());
    }
    for row in args.row_block(group[1])? {
        let seen = 0..block.cache.steps.position(row)? + 1;
        let mut online = block.attend::<C>(row, seen, scratch)?;
        for (index, head) in block.heads.clone().enumerate() {
            let to = at(p.y_offset, row, p.y_stride) + at(0, head, p.y_head_stride);
            y.out(to, online.width)?.write(online.finish(index));
        }
    }
    Ok(())
}

/// `OpKind::AttendPart`.
pub(super) fn attend_part<C: Core>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let mut operands = args.operands();
    let block = Heads::take(args, &mut operands, group[0])?;
    let (mix, sums) = (operands.range()?, operands.range()?);
    operands.end()?;
    if block.heads.is_empty() || group[2] >= p.row_count {
        return Ok(());
    }
    let part = p.row_first as usize + group[2] as usize;
    for row in args.row_block(group[1])? {
        let positions = block.cache.steps.position(row)? + 1;
        let length = part_length(args, positions)?;
        let first = part.saturating_mul(length);
        if first >= positions {
            continue;
        }
        let end = positions.min(first + length);
        let online = block.attend::<C>(row, first..end, scratch)?;
        for (index, head) in block.heads.clone().enumerate() {
            let to = at(p.y_offset, row, p.y_stride) + at(0, head, p.y_head_stride);
            let to = to.saturating_add(at(0, part, p.latent));
            let width = online.width;
            mix.out(to, width)?
                .write(&online.mixed[index * width..][..width]);
            let to = at(p.b_offset, row, p.b_stride) + at(0, head, p.n.saturating_mul(2));
            sums.out(to.saturating_add(2 * part), 2)?
                .write(&[online.most[index], online.sum[index]]);
        }
    }
    Ok(())
}

/// Positions of a part of a row that has so many.
fn part_length(args: &Args<'_>, positions: usize) -> Result<usize, Fault> {
    let p = args.params;
    let (parts, unit) = (p.n as usize, p.k as usize);
    if parts == 0 || unit == 0 {
        return Err(Fault::Shape("attention in no parts"));
    }
    let units = positions.div_ceil(parts.saturating_mul(unit));
    Ok(units.saturating_mul(unit))
}

/// `OpKind::AttendMerge`.
pub(super) fn attend_merge<C: Core>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let mut operands = args.operands();
    let (mix, sums, y) = (operands.range()?, operands.range()?, operands.range()?);
    operands.end()?;
    let (latent, steps) = (p.latent as usize, args.inputs()?);
    for row in args.row_block(group[1])? {
        let positions = steps.position(row)? + 1;
        let parts = positions.div_ceil(part_length(args, positions)?);
        let [factors, value] = carve(&mut scratch.work, [parts, latent])?;
        for head in args.output_block(group[0], p.heads) {
            let first = at(p.b_offset, row, p.b_stride) + at(0, head, p.n.saturating_mul(2));
            let sums = sums.f32s(first, 2 * parts)?.as_chunks::<2>().0;
            let most = sums.iter().fold(f32::NEG_INFINITY, |a, [m, _]| a.max(*m));
            for (factor, [m, _]) in factors.iter_mut().zip(sums) {
                *factor = (m - most).exp();
            }
            let total: f32 = factors.iter().zip(sums).map(|(e, [_, z])| e * z).sum();
            for factor in &mut *factors {
                *factor /= total;
            }
            let first = at(p.x_offset, row, p.x_stride) + at(0, head, p.x_head_stride);
            let mix = mix.f32s(first, parts * latent)?;
            value.fill(0.0);
            let weights = Rows::packed(factors, 1, parts);
            C::mix::<F32>(weights, &Matrix::floats(mix, parts, latent, latent), value);
            let to = at(p.y_offset, row, p.y_stride) + at(0, head, p.y_head_stride);
            y.out(to, latent)?.write(value);
        }
    }
    Ok(())
}
