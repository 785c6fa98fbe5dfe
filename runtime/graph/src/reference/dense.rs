//! Operations on rows: norms, products, joins, roundings.

use hadal_device::NO_ARGMAX;

use super::Tensor;
use crate::{ActScale, Dim, Node, Op};

/// Values that share one scale when activations are quantised.
const GROUP: usize = 128;
/// Largest finite E4M3 value.
const E4M3_MAX: f64 = 448.0;

/// `x * sigmoid(x)`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The sum of the products. Eight sums side by side, since each addition to one would wait for
/// the one before.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let count = a.len().min(b.len());
    let (a, b) = (a[..count].chunks_exact(8), b[..count].chunks_exact(8));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f64 = rest.map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 8];
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `x / sqrt(mean(x^2) + eps) * w` of every row.
pub fn norm(x: &Tensor, w: &[f64], eps: f32) -> Tensor {
    let rows = x.rows().map(|row| {
        let mean = dot(row, row) / row.len() as f64;
        let root = (mean + f64::from(eps)).sqrt();
        row.iter().zip(w).map(|(x, w)| x / root * w).collect()
    });
    x.with_rows(x.width(), rows)
}

/// `x [rows, in]`, `w [out, in]` -> `[rows, out]`.
pub fn linear(x: &Tensor, w: &[f64]) -> Tensor {
    let out = w.len() / x.width();
    let product = |row: &[f64]| w.chunks_exact(x.width()).map(|w| dot(row, w)).collect();
    x.with_rows(out, x.rows().map(product))
}

/// Each head with its own slice of `w [A * head_rows, dc]`.
pub(super) fn head_linear(op: &Op, x: &Tensor, w: &[f64]) -> Tensor {
    let &Op::HeadLinear {
        transposed,
        head_rows,
        head_first,
        count,
    } = op
    else {
        return x.clone();
    };
    let (heads, count) = (x.shape[1], count as usize);
    let latent = w.len() / (heads * head_rows as usize);
    let slice = |index: usize| {
        let first = (index % heads) * head_rows as usize + head_first as usize;
        &w[first * latent..][..count * latent]
    };
    let width = if transposed { latent } else { count };
    let rows = x
        .rows()
        .enumerate()
        .map(|(index, row)| head_slice(row, slice(index), latent, transposed));
    x.with_rows(width, rows)
}

/// A head's values times its slice `P [count, latent]`: `P x`, or `x P` if `transposed`.
pub fn head_slice(x: &[f64], slice: &[f64], latent: usize, transposed: bool) -> Vec<f64> {
    let rows = slice.chunks_exact(latent);
    if !transposed {
        return rows.map(|w| dot(x, w)).collect();
    }
    let mut y = vec![0.0; latent];
    for (x, w) in x.iter().zip(rows) {
        y.iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
    }
    y
}

fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let data = a.data.iter().zip(&b.data).map(|(a, b)| f(*a, *b));
    Tensor {
        shape: a.shape.clone(),
        data: data.collect(),
    }
}

pub(super) fn add(a: &Tensor, b: &Tensor) -> Tensor {
    zip(a, b, |a, b| a + b)
}

pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    zip(gate, up, |gate, up| silu(gate) * up)
}

pub(super) fn slice(x: &Tensor, first: usize, count: usize) -> Tensor {
    x.with_rows(
        count,
        x.rows().map(|row| row[first..first + count].to_vec()),
    )
}

/// The same values under the shape of `node`, whose rows are those of `x`.
pub(super) fn reshaped(x: &Tensor, node: &Node) -> Tensor {
    let dims = node.fact.shape.iter().map(|dim| match dim {
        Dim::N(n) => *n as usize,
        _ => x.shape[0],
    });
    Tensor {
        shape: dims.collect(),
        data: x.data.clone(),
    }
}

pub(super) fn gather(x: &Tensor, rows: &[u32]) -> Tensor {
    let row = |row: &u32| &x.data[*row as usize * x.width()..][..x.width()];
    Tensor {
        shape: vec![rows.len(), x.width()],
        data: rows.iter().flat_map(row).copied().collect(),
    }
}

pub(super) fn concat(a: &Tensor, b: &Tensor) -> Tensor {
    let rows = a.rows().zip(b.rows()).map(|(a, b)| [a, b].concat());
    a.with_rows(a.width() + b.width(), rows)
}

/// Index of the largest value of each row; the lower of equals, never a NaN; `NO_ARGMAX`
/// where there is nothing else.
pub fn argmax(x: &Tensor) -> Vec<u32> {
    let best = |row: &[f64]| {
        let mut best: Option<usize> = None;
        for (index, value) in row.iter().enumerate() {
            if !value.is_nan() && best.is_none_or(|best| *value > row[best]) {
                best = Some(index);
            }
        }
        best.map_or(NO_ARGMAX, |best| best as u32)
    };
    x.rows().map(best).collect()
}

/// Each group of a row rounded to E4M3 under a scale of its own.
pub fn act_quant(x: &Tensor, scale: ActScale) -> Tensor {
    let rows = x.rows().map(|row| quantise_row(row, scale));
    x.with_rows(x.width(), rows)
}

pub(super) fn quantise_row(row: &[f64], scale: ActScale) -> Vec<f64> {
    let rounded = row.chunks(GROUP).flat_map(|group| {
        let largest = group.iter().fold(1e-4, |max: f64, x| max.max(x.abs()));
        let exact = largest / E4M3_MAX;
        let unit = match scale {
            ActScale::F32 => exact,
            ActScale::Ue8m0 => exact.log2().ceil().exp2(),
        };
        group.iter().map(move |x| round_to_e4m3(x / unit) * unit)
    });
    rounded.collect()
}

/// The nearest value that E4M3 holds; ties to the even mantissa, ±448 beyond the range.
pub fn round_to_e4m3(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    // Spacing is 2^(e-3) around 2^e, and that of e = -6 among the subnormals.
    let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(-6);
    let spacing = 2f64.powi(exponent - 3);
    let rounded = (x / spacing).round_ties_even() * spacing;
    rounded.clamp(-E4M3_MAX, E4M3_MAX)
}
