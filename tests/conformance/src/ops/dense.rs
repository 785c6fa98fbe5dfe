//! Products with weights: `embed`, `norm`, `linear`, `gate_up`, `head_linear`; and
//! `unpack_heads`, which `head_linear`'s weights are for.

use hadal_device::{DType, Params, flags};
use hadal_graph::reference::{self, Tensor};

use super::layout::{Activations, Rows, StepInputs, magnitude, magnitudes, params};
use super::{OpCase, Operand, Twist, Want, coded};
use crate::random::Random;
use crate::tolerance;
use crate::weights::Weights;

type Made = (Params, Vec<Operand>);

/// A weight of `rows` rows for a case.
pub fn weights(case: &OpCase, random: &mut Random, rows: u32, k: u32) -> Weights {
    let mut weights = Weights::random(random, case.weight, rows as usize, k as usize);
    if case.twist == Twist::Codes && case.weight == DType::F8E4M3 {
        // Every second row holds nothing but subnormals, which flushing would make 0; the
        // row after it one NaN code, of either sign.
        for row in 0..rows as usize {
            let start = row * k as usize;
            match row % 4 {
                1 => (0..k as usize).for_each(|i| {
                    let code = 1 + (random.bits() % 7) as u8;
                    weights.set_code(start + i, code | (random.bits() as u8 & 0x80));
                }),
                3 => {
                    let at = start + random.below(k) as usize;
                    weights.set_code(at, 0x7f | (random.bits() as u8 & 0x80));
                }
                _ => {}
            }
        }
    }
    weights
}

/// The bound rows of a weight and its scales.
pub fn shard(weights: &Weights, first: u32, count: u32) -> Vec<Operand> {
    let mut operands = vec![Operand::Stored(
        weights.row_bytes(first as usize, count as usize),
    )];
    operands.extend(weights.scale_bytes().map(Operand::Stored));
    operands
}

pub fn embed(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let vocabulary = shape.first + shape.k + shape.after;
    let weights = weights(case, random, vocabulary, shape.n);
    let ids: Vec<u32> = (0..shape.real).map(|_| random.below(vocabulary)).collect();
    let y = Rows::of(shape, shape.n);
    let mut want = y.untouched();
    let share = tolerance::share(case.op, 1);
    for (id, r) in ids.iter().zip(0..) {
        if (shape.first..shape.first + shape.k).contains(id) {
            for (value, i) in weights.rows(*id as usize, 1).iter().zip(0..) {
                want[y.at(r, i)] = near(*value, share * value.abs());
            }
        }
    }
    let inputs = StepInputs {
        ids,
        ..StepInputs::default()
    };
    let params = Params {
        row_first: shape.first,
        row_count: shape.k,
        k: 0,
        ..params(shape, Rows::dense(0, 0), y)
    };
    let mut operands = vec![inputs.operand(shape)];
    operands.extend(shard(&weights, shape.first, shape.k));
    operands.push(Operand::Output("rows", want));
    (params, operands)
}

pub fn norm(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let x = Activations::random(random, shape, shape.n);
    let weights = Weights::random(random, case.weight, 1, shape.n as usize);
    let eps = 1e-3;
    let result = reference::norm(&x.values, &weights.values, eps);
    let share = tolerance::share(case.op, shape.n);
    let y = Rows::of(shape, shape.n);
    let want = wants(y, &result, |value, _| share * value.abs());
    let params = Params {
        eps,
        ..params(shape, x.rows, y)
    };
    let stored = Operand::Stored(weights.bytes.clone());
    let operands = vec![
        StepInputs::count(shape),
        x.operand(),
        stored,
        Operand::Output("rows", want),
    ];
    (params, operands)
}

/// The product `x w^T` and, for each value, the sum of magnitudes.
pub fn product(x: &Tensor, w: &[f64]) -> (Tensor, Tensor) {
    let value = reference::linear(x, w);
    let most = reference::linear(&magnitudes(x), &magnitude(w));
    (value, most)
}

/// `silu(gate) * up` and what two inexact sums leave of it: (value, tolerance).
pub fn gated(share: f64, gate: (f64, f64), up: (f64, f64)) -> (f64, f64) {
    let (gate_error, up_error) = (share * gate.1, share * up.1);
    let value = reference::silu(gate.0) * up.0;
    // The slope of silu is at most 1.1.
    let error = 1.1 * gate_error * (up.0.abs() + up_error)
        + reference::silu(gate.0).abs() * up_error
        + share * value.abs();
    (value, error)
}

/// A number within a tolerance, or a NaN.
pub fn near(value: f64, tolerance: f64) -> Want {
    match value.is_nan() {
        true => Want::Nan,
        // Results among the subnormals of f32 may be flushed.
        false => Want::Near(value, tolerance + tolerance::FLUSHED),
    }
}

/// An output of the rows of `result`, each value within `tolerance(value, index)`.
pub fn wants(y: Rows, result: &Tensor, tolerance: impl Fn(f64, usize) -> f64) -> Vec<Want> {
    let mut want = y.untouched();
    for (index, value) in result.data.iter().enumerate() {
        let (r, i) = (index / result.width(), index % result.width());
        want[y.at(r as u32, i as u32)] = near(*value, tolerance(*value, index));
    }
    want
}

pub fn linear(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let total = shape.first + shape.n + shape.after;
    let x = coded::activations(shape, Activations::random(random, shape, shape.k));
    let weights = weights(case, random, total, shape.k);
    let rows = weights.rows(shape.first as usize, shape.n as usize);
    let (value, most) = product(&x.values, rows);
    let share = tolerance::product(case.op, shape);
    let y = Rows::of(shape, total);
    let residual = Activations::random(random, shape, total);
    let has_residual = shape.flags & flags::RESIDUAL != 0;
    let mut want = y.untouched();
    for (index, value) in value.data.iter().enumerate() {
        let (r, i) = (index as u32 / shape.n, shape.first + index as u32 % shape.n);
        let added = if has_residual {
            residual.row(r)[i as usize]
        } else {
            0.0
        };
        let error = share * (most.data[index] + added.abs());
        want[y.at(r, i)] = near(value + added, error);
    }
    let params = Params {
        n: total,
        row_first: shape.first,
        row_count: shape.n,
        b_offset: residual.rows.offset,
        b_stride: residual.rows.stride,
        ..params(shape, x.rows, y)
    };
    let mut operands = vec![StepInputs::count(shape), x.operand()];
    operands.extend(shard(&weights, shape.first, shape.n));
    if has_residual {
        operands.push(residual.operand());
    }
    operands.push(Operand::Output("rows", want));
    (params, operands)
}

pub fn norm_linear(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let total = shape.first + shape.n + shape.after;
    let x = Activations::random(random, shape, shape.k);
    let format = match shape.flags & flags::NORM_BF16 != 0 {
        true => DType::Bf16,
        false => DType::F32,
    };
    let norm = Weights::random(random, format, 1, shape.k as usize);
    let weights = weights(case, random, total, shape.k);
    let eps = 1e-3;
    let normed = reference::norm(&x.values, &norm.values, eps);
    let rows = weights.rows(shape.first as usize, shape.n as usize);
    let (value, most) = product(&normed, rows);
    let share = tolerance::share(case.op, shape.k);
    let y = Rows::of(shape, total);
    let mut want = y.untouched();
    for (index, value) in value.data.iter().enumerate() {
        let (r, i) = (index as u32 / shape.n, shape.first + index as u32 % shape.n);
        want[y.at(r, i)] = near(*value, share * most.data[index]);
    }
    let params = Params {
        n: total,
        eps,
        row_first: shape.first,
        row_count: shape.n,
        ..params(shape, x.rows, y)
    };
    let mut operands = vec![
        StepInputs::count(shape),
        x.operand(),
        Operand::Stored(norm.bytes),
    ];
    operands.extend(shard(&weights, shape.first, shape.n));
    operands.push(Operand::Output("rows", want));
    (params, operands)
}

pub fn gate_up(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let total = shape.first + shape.n + shape.after;
    let x = coded::activations(shape, Activations::random(random, shape, shape.k));
    let [gate, up] = [0, 1].map(|_| weights(case, random, total, shape.k));
    let both =
        [&gate, &up].map(|w| product(&x.values, w.rows(shape.first as usize, shape.n as usize)));
    let share = tolerance::product(case.op, shape);
    let y = Rows::of(shape, total);
    let mut want = y.untouched();
    for index in 0..both[0].0.data.len() {
        let (r, i) = (index as u32 / shape.n, shape.first + index as u32 % shape.n);
        let sums = [0, 1].map(|w| (both[w].0.data[index], both[w].1.data[index]));
        let (value, error) = gated(share, sums[0], sums[1]);
        want[y.at(r, i)] = near(value, error);
    }
    let params = Params {
        n: total,
        row_first: shape.first,
        row_count: shape.n,
        ..params(shape, x.rows, y)
    };
    let mut operands = vec![StepInputs::count(shape), x.operand()];
    operands.extend(shard(&gate, shape.first, shape.n));
    operands.extend(shard(&up, shape.first, shape.n));
    operands.push(Operand::Output("rows", want));
    (params, operands)
}

pub fn head_linear(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let transposed = shape.flags & flags::TRANSPOSED != 0;
    let (latent, count) = match transposed {
        true => (shape.n, shape.k),
        false => (shape.k, shape.n),
    };
    let head_rows = shape.first + count + shape.after;
    let x = Activations::random(random, shape, shape.heads * shape.k);
    let weights = weights(case, random, shape.heads * head_rows, latent);
    let y = Rows::of(shape, shape.heads * shape.n);
    let share = tolerance::share(case.op, shape.k);
    let mut want = y.untouched();
    for r in 0..shape.real {
        for a in 0..shape.heads {
            let x = &x.row(r)[(a * shape.k) as usize..][..shape.k as usize];
            let slice = weights.rows((a * head_rows + shape.first) as usize, count as usize);
            let latent = latent as usize;
            let values = reference::head_slice(x, slice, latent, transposed);
            let most = reference::head_slice(&magnitude(x), &magnitude(slice), latent, transposed);
            for (i, (value, most)) in (0..).zip(values.iter().zip(most)) {
                want[y.at(r, a * shape.n + i)] = near(*value, share * most);
            }
        }
    }
    let params = Params {
        heads: shape.heads,
        latent,
        head_rows,
        head_first: shape.first,
        x_head_stride: shape.k,
        y_head_stride: shape.n,
        ..params(shape, x.rows, y)
    };
    let mut operands = vec![StepInputs::count(shape), x.operand()];
    operands.extend(shard(&weights, 0, shape.heads * head_rows));
    operands.push(Operand::Output("rows", want));
    (params, operands)
}

pub fn unpack_heads(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let (n, k) = (shape.n, shape.k);
    let weights = weights(case, random, shape.bucket() * n, k);
    let transposed = shape.flags & flags::TRANSPOSED != 0;
    // Gaps between a head's vectors, too.
    let (count, width) = if transposed { (k, n) } else { (n, k) };
    let vector = width + shape.gap;
    let y = Rows::of(shape, count * vector);
    let share = tolerance::share(case.op, 1);
    let mut want = y.untouched();
    for head in 0..shape.real {
        let values = weights.rows((head * n) as usize, n as usize);
        for (value, index) in values.iter().zip(0..) {
            let (row, column) = (index / k, index % k);
            let (at, i) = if transposed {
                (column, row)
            } else {
                (row, column)
            };
            want[y.at(head, at * vector + i)] = near(*value, share * value.abs());
        }
    }
    let params = Params {
        head_rows: n,
        row_count: shape.bucket() * n,
        y_head_stride: vector,
        ..params(shape, Rows::dense(0, 0), y)
    };
    let mut operands = vec![StepInputs::count(shape)];
    operands.extend(shard(&weights, 0, shape.bucket() * n));
    operands.push(Operand::Output("vectors", want));
    (params, operands)
}
