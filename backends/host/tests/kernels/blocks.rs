//! Weights in the block formats of GGUF: every format, and activations that are hard to take
//! apart.

use hadal_device::{DType, OpKind, Params, flags};

use crate::linear::{dot, strided};
use crate::stage::*;

/// Random bits, whose scales make the largest value of a block about one.
fn blocks(random: &mut Random, dtype: DType, rows: usize, k: usize) -> Weights {
    let (size, count) = (dtype.block_bytes() as usize, dtype.block_values() as usize);
    let mut weights = Weights {
        dtype,
        k,
        bytes: vec![],
        scales: vec![],
        values: vec![],
    };
    let mut values = vec![0.0; count];
    for _ in 0..rows * k / count {
        let mut block: Vec<u8> = (0..size).map(|_| random.bits() as u8).collect();
        hadal_blocks::set_scales(dtype, &mut block, 1.0);
        hadal_blocks::decode(dtype, &block, &mut values);
        let largest = values.iter().fold(0f32, |most, v| most.max(v.abs()));
        let scale = (0.75 + 0.25 * random.unit()) / largest;
        hadal_blocks::set_scales(dtype, &mut block, scale);
        hadal_blocks::decode(dtype, &block, &mut values);
        weights.bytes.extend(block);
        weights.values.extend(values.iter().map(|v| f64::from(*v)));
    }
    weights
}

/// Lengths of rows: whole blocks, but of the short ones not whole 256.
fn lengths(dtype: DType) -> &'static [usize] {
    match dtype.block_values() {
        32 => &[32, 288, 1120],
        _ => &[256, 768, 1280],
    }
}

#[test]
fn products_of_every_block_format_are_those_of_the_decoded_values() {
    let mut random = Random(61);
    for dtype in DType::BLOCKS {
        for &k in lengths(dtype) {
            for (rows, n) in [(1, 35), (3, 5), (7, 9), (17, 41)] {
                let bucket = rows + 2;
                let (x_stride, y_stride) = (k + 7, n + 3);
                let mut x = strided(&mut random, rows, k, x_stride, 5);
                x.resize(5 + bucket * x_stride, f32::NAN);
                let w = blocks(&mut random, dtype, n, k);
                let params = Params {
                    x_offset: 5,
                    x_stride: x_stride as u32,
                    y_offset: 2,
                    y_stride: y_stride as u32,
                    ..product_params(dtype, bucket, n, k)
                };
                let mut want = vec![Want::Poison; 2 + bucket * y_stride];
                for r in 0..rows {
                    for i in 0..n {
                        want[2 + r * y_stride + i] = dot(&x[5 + r * x_stride..][..k], &w, i).want();
                    }
                }
                let mut operands = vec![StepInputs::rows(rows, bucket).operand(), activations(&x)];
                operands.extend(w.whole());
                operands.push(Operation::Out(want.len()));
                check_all(OpKind::Linear, dtype, params, &operands, &[want]);
            }
        }
    }
}

#[test]
fn activations_may_be_rounded_to_eight_bits() {
    let mut random = Random(64);
    let n = 37;
    for dtype in DType::BLOCKS {
        for &k in lengths(dtype) {
            for rows in [1, 3, 17] {
                let x = random.floats(rows * k);
                let w = blocks(&mut random, dtype, n, k);
                let mut want = Vec::new();
                for r in 0..rows {
                    let x = &x[r * k..][..k];
                    want.extend((0..n).map(|i| {
                        let sum = dot(x, &w, i);
                        // Each is off by half a step of 1/127 at most, evenly spread: 0.29
                        // steps, of which five standard deviations are allowed.
                        let squares: f64 = (0..k).map(|c| w.at(i, c).powi(2)).sum();
                        let rounding = 5.0 * 0.29 / 127.0 * squares.sqrt();
                        Want::Near(sum.value, sum.error() + rounding)
                    }));
                }
                let mut operands = vec![StepInputs::rows(rows, rows).operand(), activations(&x)];
                operands.extend(w.whole());
                operands.push(Operation::Out(want.len()));
                let mut params = product_params(dtype, rows, n, k);
                params.flags |= flags::ROUGH;
                check_all(OpKind::Linear, dtype, params, &operands, &[want]);
            }
        }
    }
}

#[test]
fn experts_of_every_block_format_share_rows_of_activations() {
    let mut random = Random(62);
    let (top_k, n, experts) = (3usize, 40usize, 4usize);
    for dtype in DType::BLOCKS {
        let k = lengths(dtype)[1];
        for rows in [1, 4] {
            let mut table = || -> Vec<_> {
                (0..experts)
                    .map(|_| blocks(&mut random, dtype, n, k))
                    .collect()
            };
            let (gate, up) = (table(), table());
            let x = random.floats(rows * k);
            let idx: Vec<u32> = (0..rows * top_k)
                .map(|_| random.below(experts) as u32)
                .collect();
            let params = Params {
                count_scale: top_k as u32,
                top_k: top_k as u32,
                experts: experts as u32,
                expert_count: experts as u32,
                flags: flags::ROW_PER_TOKEN | flags::format_bits(dtype),
                ..product_params(dtype, rows * top_k, n, k)
            };
            let mut want = Vec::new();
            for (p, e) in idx.iter().enumerate() {
                let x = &x[p / top_k * k..][..k];
                let e = *e as usize;
                want.extend((0..n).map(|i| gated(dot(x, &gate[e], i), dot(x, &up[e], i))));
            }
            let mut operands = vec![
                StepInputs::rows(rows, rows).operand(),
                activations(&x),
                words(&idx),
            ];
            operands.extend(tables(&gate));
            operands.extend(tables(&up));
            operands.push(Operation::Out(want.len()));
            check_all(OpKind::ExpertGateUp, dtype, params, &operands, &[want]);
        }
    }
}

/// A row of activations, and what its products must be.
fn check_row(dtype: DType, row: impl Fn(&mut Random, usize) -> Vec<f32>, want: fn(Sum) -> Want) {
    let mut random = Random(63);
    let n = 21;
    for &k in lengths(dtype) {
        for rows in [1, 3, 17] {
            let w = blocks(&mut random, dtype, n, k);
            // The others are as always, and must be right beside it.
            let mut x = random.floats(rows * k);
            x[(rows / 2) * k..][..k].copy_from_slice(&row(&mut random, k));
            let mut wants = Vec::new();
            for r in 0..rows {
                let sums = (0..n).map(|i| dot(&x[r * k..][..k], &w, i));
                let want = if r == rows / 2 {
                    want
                } else {
                    |sum: Sum| sum.want()
                };
                wants.extend(sums.map(want));
            }
            let mut operands = vec![StepInputs::rows(rows, rows).operand(), activations(&x)];
            operands.extend(w.whole());
            operands.push(Operation::Out(wants.len()));
            let params = product_params(dtype, rows, n, k);
            check_all(OpKind::Linear, dtype, params, &operands, &[wants]);
        }
    }
}

#[test]
fn zeros_give_zeros_and_tiny_numbers_next_to_nothing() {
    for dtype in DType::BLOCKS {
        check_row(dtype, |_, k| vec![0.0; k], |_| Want::Near(0.0, 0.0));
        let tiny = |random: &mut Random, k: usize| -> Vec<f32> {
            (0..k)
                .map(|_| f32::from_bits(random.bits() as u32 & 0x807f_ffff))
                .collect()
        };
        check_row(dtype, tiny, |sum| Want::Near(sum.value, 1e-30));
    }
}

#[test]
fn one_huge_activation_leaves_the_others_what_a_sum_of_floats_leaves_them() {
    for dtype in DType::BLOCKS {
        let huge = |random: &mut Random, k: usize| {
            let mut row = random.floats(k);
            row[k / 3] = 1e30;
            row
        };
        // Where the weight of the huge one is zero, the others still lose what it costs them.
        check_row(dtype, huge, |sum| {
            Want::Near(sum.value, sum.error() + 1e30 / 65000.0)
        });
    }
}

#[test]
fn infinities_and_nan_stay_no_numbers() {
    for dtype in DType::BLOCKS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let row = move |random: &mut Random, k: usize| {
                let mut row = random.floats(k);
                row[k - 1] = bad;
                row
            };
            check_row(dtype, row, |_| Want::NoNumber);
        }
    }
}
