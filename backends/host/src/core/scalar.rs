//! The plain core: obvious loops in a fixed order.

use super::{Core, Panel};
use crate::args::Fault;
use crate::weight::{BLOCK, Blocks, Elements, F32, Matrix, Rows, Weight};

/// Arithmetic without vector instructions.
pub(crate) struct Scalar;

impl Core for Scalar {
    fn dots<W: Elements>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        _panel: &mut Panel,
    ) -> Result<(), Fault> {
        for r in 0..x.count {
            for i in 0..w.rows {
                out[r * w.rows + i] = dot::<W>(x.row(r), w, i);
            }
        }
        Ok(())
    }

    fn block_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        let floats = panel.floats.take(w.k)?;
        for i in 0..w.rows {
            Blocks::decode_row(w, i, floats);
            let row = Matrix::floats(floats, 1, w.k, w.k);
            for r in 0..x.count {
                out[r * w.rows + i] = dot::<F32>(x.row(r), &row, 0);
            }
        }
        Ok(())
    }

    fn mix<W: Elements>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]) {
        for r in 0..p.count {
            let out = &mut out[r * w.k..][..w.k];
            for (i, p) in p.row(r).iter().enumerate() {
                let row = w.row::<W>(i);
                for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                    let factor = p * w.scale(i, block);
                    let codes = row[block * BLOCK * W::BYTES..].chunks_exact(W::BYTES);
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out += factor * W::decode(code);
                    }
                }
            }
        }
    }

    fn swiglu(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = silu(*gate) * up;
        }
    }

    fn scale(values: &mut [f32], factor: f32) -> f32 {
        let mut most = f32::NEG_INFINITY;
        for value in values {
            *value *= factor;
            most = most.max(*value);
        }
        most
    }

    fn exp(values: &mut [f32], shift: f32) -> f32 {
        let mut sum = 0.0;
        for value in values {
            *value = (*value - shift).exp();
            sum += *value;
        }
        sum
    }

    fn squares(values: &[f32]) -> f64 {
        values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
    }
}

/// Dot product of `x` and row `i`: a partial sum for each block of columns, so that its
/// scale is applied once and long rows do not lose the small terms.
fn dot<W: Elements>(x: &[f32], w: &Matrix<'_>, i: usize) -> f32 {
    let row = w.row::<W>(i);
    let mut total = 0.0;
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let codes = row[block * BLOCK * W::BYTES..].chunks_exact(W::BYTES);
        let mut sum = 0.0;
        for (x, code) in x.iter().zip(codes) {
            sum += x * W::decode(code);
        }
        total += sum * w.scale(i, block);
    }
    total
}

/// `z * sigmoid(z)`.
pub(crate) fn silu(z: f32) -> f32 {
    z / (1.0 + (-z).exp())
}
