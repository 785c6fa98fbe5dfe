//! A row at a time: `embed`, `unpack_heads`, `norm`, `rope`, `cache_append`, `gather`, `argmax`.
//!
//! `group[1]`: block of rows; `group[0]`: of a head's weight rows (`unpack_heads`). `norm` and `rope`
//! work in place.

use hadal_device::{NO_ARGMAX, PAGE, flags};

use super::at;
use crate::args::{Args, Fault};
use crate::core::{Core, Scratch};
use crate::weight::{Elements, Matrix, Weight};

/// `OpKind::Embed`.
pub(super) fn embed<C: Core, W: Weight>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let n = p.n as usize;
    let mut operands = args.operands();
    let w = Matrix::take::<W>(&mut operands, p.row_count as usize, n, p.row_first as usize)?;
    let y = operands.range()?;
    operands.end()?;
    let values = scratch.work.take(n)?;
    let steps = args.inputs()?;
    for row in args.row_block(group[1])? {
        let id = steps.id(row)?.checked_sub(p.row_first as usize);
        if let Some(id) = id.filter(|id| *id < w.rows) {
            W::decode_row(&w, id, values);
            y.out(at(p.y_offset, row, p.y_stride), n)?.write(values);
        }
    }
    Ok(())
}

/// `OpKind::UnpackHeads`.
pub(super) fn unpack_heads<C: Core, W: Weight>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let (k, head_rows) = (p.k as usize, p.head_rows as usize);
    let outputs = args.output_block(group[0], p.head_rows);
    let mut operands = args.operands();
    let w = Matrix::take::<W>(
        &mut operands,
        head_rows.saturating_mul(p.rows as usize),
        k,
        0,
    )?;
    let y = operands.range()?;
    operands.end()?;
    let values = scratch.work.take(outputs.len() * k)?;
    let column = scratch.extra.take(outputs.len())?;
    for head in args.row_block(group[1])? {
        let first = head * head_rows + outputs.start;
        for (row, values) in values.chunks_exact_mut(k.max(1)).enumerate() {
            W::decode_row(&w, first + row, values);
        }
        let to = |vector| at(p.y_offset, head, p.y_stride) + at(0, vector, p.y_head_stride);
        if p.flags & flags::TRANSPOSED == 0 {
            for (i, values) in outputs.clone().zip(values.chunks_exact(k.max(1))) {
                y.out(to(i), k)?.write(values);
            }
            continue;
        }
        for c in 0..k {
            for (column, values) in column.iter_mut().zip(values.chunks_exact(k)) {
                *column = values[c];
            }
            y.out(to(c) + outputs.start, column.len())?.write(column);
        }
    }
    Ok(())
}

/// `OpKind::Norm`.
pub(super) fn norm<C: Core, W: Elements>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let n = p.n as usize;
    let rows = args.row_block(group[1])?;
    if rows.is_empty() || n == 0 {
        return Ok(());
    }
    let mut operands = args.operands();
    let x = operands.range()?;
    let w = operands.range()?.bytes(0, n * W::BYTES)?;
    let y = operands.range()?;
    operands.end()?;
    let (values, weights) = (scratch.work.take(n)?, scratch.extra.take(n)?);
    for (weight, code) in weights.iter_mut().zip(w.chunks_exact(W::BYTES)) {
        *weight = W::decode(code);
    }
    for row in rows {
        x.words(at(p.x_offset, row, p.x_stride), n)?.read(values);
        let mean = C::squares(values) / n as f64;
        let factor = (1.0 / (mean + f64::from(p.eps)).sqrt()) as f32;
        for (value, weight) in values.iter_mut().zip(&*weights) {
            *value = *value * factor * weight;
        }
        y.out(at(p.y_offset, row, p.y_stride), n)?.write(values);
    }
    Ok(())
}

/// `OpKind::Rope`.
pub(super) fn rope(args: &Args<'_>, group: [u32; 3], scratch: &mut Scratch) -> Result<(), Fault> {
    let p = args.params;
    let rope = p.rope as usize;
    let mut operands = args.operands();
    let (x, table, y) = (operands.range()?, operands.range()?, operands.range()?);
    operands.end()?;
    if !rope.is_multiple_of(2) {
        return Err(Fault::Shape("rope is odd, and values are rotated in pairs"));
    }
    let steps = args.inputs()?;
    let values = scratch.work.take(rope)?;
    for row in args.row_block(group[1])? {
        let angles = table.f32s(steps.position(row)?.saturating_mul(rope), rope)?;
        for head in 0..p.heads as usize {
            let from = at(p.x_offset, row, p.x_stride) + at(0, head, p.x_head_stride);
            let to = at(p.y_offset, row, p.y_stride) + at(0, head, p.y_head_stride);
            x.words(from, rope)?.read(values);
            for (pair, angle) in values.chunks_exact_mut(2).zip(angles.chunks_exact(2)) {
                let ([a, b], [cos, sin]) = ([pair[0], pair[1]], [angle[0], angle[1]]);
                pair[0] = a * cos - b * sin;
                pair[1] = b * cos + a * sin;
            }
            y.out(to, rope)?.write(values);
        }
    }
    Ok(())
}

/// `OpKind::CacheAppend`.
pub(super) fn cache_append(
    args: &Args<'_>,
    group: [u32; 3],
    _scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let n = p.n as usize;
    let mut operands = args.operands();
    let (x, cache) = (operands.range()?, operands.range()?);
    operands.end()?;
    let steps = args.inputs()?;
    for row in args.row_block(group[1])? {
        let position = steps.position(row)?;
        let page = position / PAGE as usize;
        let first = steps.page(steps.sequence(row)?, page, p.page_stride)?;
        let cache_row = first.saturating_add(position % PAGE as usize);
        let values = x.f32s(at(p.x_offset, row, p.x_stride), n)?;
        cache.out(cache_row.saturating_mul(n), n)?.write(values);
    }
    Ok(())
}

/// `OpKind::Gather`.
pub(super) fn gather(
    args: &Args<'_>,
    group: [u32; 3],
    _scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let n = p.n as usize;
    let mut operands = args.operands();
    let (x, y) = (operands.range()?, operands.range()?);
    operands.end()?;
    let steps = args.inputs()?;
    for row in args.row_block(group[1])? {
        let values = x.f32s(at(p.x_offset, steps.logit_row(row)?, p.x_stride), n)?;
        y.out(at(p.y_offset, row, p.y_stride), n)?.write(values);
    }
    Ok(())
}

/// `OpKind::Argmax`.
pub(super) fn argmax(
    args: &Args<'_>,
    group: [u32; 3],
    _scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let mut operands = args.operands();
    let (x, y) = (operands.range()?, operands.range()?);
    operands.end()?;
    for row in args.row_block(group[1])? {
        let values = x.f32s(at(p.x_offset, row, p.x_stride), p.n as usize)?;
        let mut best: Option<(usize, f32)> = None;
        for (i, value) in values.iter().enumerate() {
            if !value.is_nan() && best.is_none_or(|(_, most)| *value > most) {
                best = Some((i, *value));
            }
        }
        let index = best.map_or(NO_ARGMAX, |(i, _)| i as u32);
        y.out(at(p.y_offset, row, p.y_stride), 1)?.set_u32(0, index);
    }
    Ok(())
}
