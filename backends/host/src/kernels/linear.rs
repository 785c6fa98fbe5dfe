//! Products with one weight: `linear`, `gate_up`, `head_linear`.
//!
//! `group`: block of outputs, block of rows, head (`head_linear` only).

use hadal_device::flags;

use super::at;
use crate::args::{Args, Fault};
use crate::core::{Core, Scratch};
use crate::weight::{Matrix, Rows, Weight};

/// `dot(x, w)`, or `silu(dot(x, gate)) * dot(x, up)`, for all rows of both: `[x.count, rows]`.
pub(super) fn product<'s, C: Core, W: Weight>(
    x: Rows<'_>,
    gate: &Matrix<'_>,
    up: Option<&Matrix<'_>>,
    scratch: &'s mut Scratch,
) -> Result<&'s mut [f32], Fault> {
    let count = x.count * gate.rows;
    let out = scratch.work.take(count)?;
    W::dots::<C>(x, gate, out, &mut scratch.panel)?;
    if let Some(up) = up {
        let other = scratch.extra.take(count)?;
        W::dots::<C>(x, up, other, &mut scratch.panel)?;
        C::swiglu(out, other);
    }
    Ok(out)
}

/// `OpKind::Linear`.
pub(super) fn linear<C: Core, W: Weight>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let rows = args.row_block(group[1])?;
    let outputs = args.output_block(group[0], p.row_count);
    if rows.is_empty() || outputs.is_empty() {
        return Ok(());
    }
    let (k, first_row) = (p.k as usize, p.row_first as usize);
    let mut operands = args.operands();
    let x = operands.range()?;
    let w = Matrix::take::<W>(&mut operands, p.row_count as usize, k, first_row)?;
    let residual = (p.flags & flags::RESIDUAL != 0)
        .then(|| operands.range())
        .transpose()?;
    let y = operands.range()?;
    operands.end()?;

    let x_first = at(p.x_offset, rows.start, p.x_stride);
    let x = Rows::of(&x, x_first, rows.len(), k, p.x_stride as usize)?;
    let w = w.rows(outputs.start, outputs.len())?;
    let sums = product::<C, W>(x, &w, None, scratch)?;
    let column = first_row + outputs.start;
    for (r, sums) in rows.zip(sums.chunks_exact_mut(outputs.len())) {
        if let Some(residual) = &residual {
            let base = residual.words(at(p.b_offset, r, p.b_stride) + column, sums.len())?;
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += base.f32(i);
            }
        }
        y.out(at(p.y_offset, r, p.y_stride) + column, sums.len())?
            .write(sums);
    }
    Ok(())
}

/// `OpKind::GateUp`.
pub(super) fn gate_up<C: Core, W: Weight>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let rows = args.row_block(group[1])?;
    let outputs = args.output_block(group[0], p.row_count);
    if rows.is_empty() || outputs.is_empty() {
        return Ok(());
    }
    let (k, count, first_row) = (p.k as usize, p.row_count as usize, p.row_first as usize);
    let mut operands = args.operands();
    let x = operands.range()?;
    let gate = Matrix::take::<W>(&mut operands, count, k, first_row)?;
    let up = Matrix::take::<W>(&mut operands, count, k, first_row)?;
    let y = operands.range()?;
    operands.end()?;

    let x_first = at(p.x_offset, rows.start, p.x_stride);
    let x = Rows::of(&x, x_first, rows.len(), k, p.x_stride as usize)?;
    let gate = gate.rows(outputs.start, outputs.len())?;
    let up = up.rows(outputs.start, outputs.len())?;
    let sums = product::<C, W>(x, &gate, Some(&up), scratch)?;
    let column = first_row + outputs.start;
    for (r, sums) in rows.zip(sums.chunks_exact(outputs.len())) {
        y.out(at(p.y_offset, r, p.y_stride) + column, sums.len())?
            .write(sums);
    }
    Ok(())
}

/// `OpKind::HeadLinear`. `group[2]` is the head; transposed, there is one block of outputs.
pub(super) fn head_linear<C: Core, W: Weight>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let transposed = p.flags & flags::TRANSPOSED != 0;
    let rows = args.row_block(group[1])?;
    let (k, n, head) = (p.k as usize, p.n as usize, group[2] as usize);
    let outputs = if transposed {
        0..n
    } else {
        args.output_block(group[0], p.n)
    };
    if rows.is_empty() || outputs.is_empty() || head >= p.heads as usize {
        return Ok(());
    }
    let mut operands = args.operands();
    let x = operands.range()?;
    let head_rows = p.head_rows as usize;
    let all_rows = head_rows.saturating_mul(p.heads as usize);
    let w = Matrix::take::<W>(&mut operands, all_rows, if transposed { n } else { k }, 0)?;
    let y = operands.range()?;
    operands.end()?;

    let x_first = at(p.x_offset, rows.start, p.x_stride) + at(0, head, p.x_head_stride);
    let x = Rows::of(&x, x_first, rows.len(), k, p.x_stride as usize)?;
    let first = head * head_rows + p.head_first as usize;
    let sums = if transposed {
        let sums = scratch.work.take(rows.len() * n)?;
        sums.fill(0.0);
        W::mix::<C>(x, &w.rows(first, k)?, sums, &mut scratch.panel)?;
        sums
    } else {
        let w = w.rows(first + outputs.start, outputs.len())?;
        product::<C, W>(x, &w, None, scratch)?
    };
    for (r, sums) in rows.zip(sums.chunks_exact(outputs.len())) {
        let row = at(p.y_offset, r, p.y_stride) + at(0, head, p.y_head_stride);
        y.out(row + outputs.start, sums.len())?.write(sums);
    }
    Ok(())
}
