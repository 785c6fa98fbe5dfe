//! `linear`, `gate_up`, `head_linear`.

use hadal_device::{DType, Features, Inputs, KernelRow, OpKind, Params, flags};

use crate::stage::*;

/// Rows of `k` values `stride` apart from `offset` on; NaN everywhere else.
pub fn strided(
    random: &mut Random,
    rows: usize,
    k: usize,
    stride: usize,
    offset: usize,
) -> Vec<f32> {
    let mut data = vec![f32::NAN; offset + rows * stride + 5];
    for r in 0..rows {
        for c in 0..k {
            data[offset + r * stride + c] = random.unit();
        }
    }
    data
}

pub fn dot(x: &[f32], w: &Weights, row: usize) -> Sum {
    let mut sum = Sum::default();
    for (c, x) in x.iter().enumerate() {
        sum.add(f64::from(*x) * w.at(row, c));
    }
    sum
}

const SHAPES: [(usize, usize, usize); 11] = [
    // (real rows, k, outputs)
    (1, 1, 1),
    (1, 67, 33),
    (3, 128, 64),
    (2, 515, 70),
    (4, 200, 31),
    (5, 130, 37),
    (17, 259, 45),
    (33, 64, 129),
    (150, 96, 40),
    // Several panels; two blocks of scales for as many rows as look-ups take.
    (17, 1300, 45),
    (6, 140, 150),
];

#[test]
fn linear_is_the_dot_product_of_every_row_and_weight_row() {
    let mut random = Random(1);
    for dtype in WEIGHTS {
        for (rows, k, n) in SHAPES {
            let bucket = rows + 3;
            let (x_stride, y_stride) = (k + 7, n + 3);
            let x = strided(&mut random, rows, k, x_stride, 5);
            let w = Weights::random(&mut random, dtype, n, k);
            let params = Params {
                rows: bucket as u32,
                count_word: Inputs::TOKENS,
                count_scale: 1,
                n: n as u32,
                k: k as u32,
                x_offset: 5,
                x_stride: x_stride as u32,
                y_offset: 2,
                y_stride: y_stride as u32,
                row_count: n as u32,
                ..Params::default()
            };
            let mut x_all = x.clone();
            x_all.resize(5 + bucket * x_stride, f32::NAN);
            let mut want = vec![Want::Poison; 2 + bucket * y_stride];
            for r in 0..rows {
                for i in 0..n {
                    want[2 + r * y_stride + i] = dot(&x[5 + r * x_stride..][..k], &w, i).want();
                }
            }
            let mut operands = vec![
                StepInputs::rows(rows, bucket).operand(),
                activations(&x_all),
            ];
            operands.extend(w.whole());
            operands.push(Operation::Out(want.len()));
            check_all(OpKind::Linear, dtype, params, &operands, &[want]);
        }
    }
}

#[test]
fn a_shard_writes_its_own_columns_and_finds_its_scales() {
    let mut random = Random(2);
    let (rows, k, n) = (3, 300, 400);
    for dtype in WEIGHTS {
        let w = Weights::random(&mut random, dtype, n, k);
        let x = random.floats(rows * k);
        let residual = random.floats(rows * n);
        for (first, count) in [(0, 400), (100, 57), (127, 130), (384, 16)] {
            let params = Params {
                rows: rows as u32,
                count_word: u32::MAX,
                count_scale: 1,
                n: n as u32,
                k: k as u32,
                x_stride: k as u32,
                y_stride: n as u32,
                b_stride: n as u32,
                row_first: first as u32,
                row_count: count as u32,
                flags: flags::RESIDUAL,
                ..Params::default()
            };
            let mut want = vec![Want::Poison; rows * n];
            for r in 0..rows {
                for i in first..first + count {
                    let mut sum = dot(&x[r * k..][..k], &w, i);
                    sum.add(f64::from(residual[r * n + i]));
                    want[r * n + i] = sum.want();
                }
            }
            let mut operands = vec![StepInputs::rows(rows, rows).operand(), activations(&x)];
            operands.extend(w.shard(first, count));
            operands.push(activations(&residual));
            operands.push(Operation::Out(want.len()));
            check_all(OpKind::Linear, dtype, params, &operands, &[want]);
        }
    }
}

#[test]
fn gate_up_multiplies_the_silu_of_one_product_by_the_other() {
    let mut random = Random(3);
    for dtype in WEIGHTS {
        for (rows, k, n) in SHAPES {
            let (first, count) = (n / 3, n - n / 3);
            let x = random.floats(rows * k);
            let gate = Weights::random(&mut random, dtype, n, k);
            let up = Weights::random(&mut random, dtype, n, k);
            let params = Params {
                rows: rows as u32 + 1,
                count_word: Inputs::TOKENS,
                count_scale: 1,
                n: n as u32,
                k: k as u32,
                x_stride: k as u32,
                y_stride: n as u32,
                row_first: first as u32,
                row_count: count as u32,
                ..Params::default()
            };
            let mut want = vec![Want::Poison; (rows + 1) * n];
            for r in 0..rows {
                for i in first..n {
                    let x = &x[r * k..][..k];
                    want[r * n + i] = gated(dot(x, &gate, i), dot(x, &up, i));
                }
            }
            let mut operands = vec![StepInputs::rows(rows, rows + 1).operand(), activations(&x)];
            operands.extend(gate.shard(first, count));
            operands.extend(up.shard(first, count));
            operands.push(Operation::Out(want.len()));
            check_all(OpKind::GateUp, dtype, params, &operands, &[want]);
        }
    }
}

/// (rows, heads, head_rows, head_first, used rows, latent)
const HEADS: [(usize, usize, usize, usize, usize, usize); 6] = [
    (1, 2, 40, 0, 24, 64),
    (1, 3, 40, 24, 16, 130),
    (3, 4, 37, 5, 30, 200),
    (17, 2, 256, 128, 128, 33),
    (6, 1, 9, 1, 7, 515),
    (1, 2, 140, 3, 130, 600),
];

#[test]
fn head_linear_takes_each_heads_slice() {
    let mut random = Random(4);
    for dtype in WEIGHTS {
        for (rows, heads, head_rows, head_first, used, latent) in HEADS {
            for transposed in [false, true] {
                let (k, n) = if transposed {
                    (used, latent)
                } else {
                    (latent, used)
                };
                let w = Weights::random(&mut random, dtype, heads * head_rows, latent);
                let (x_stride, y_stride) = (heads * (k + 3), heads * (n + 2) + 1);
                let x = strided(&mut random, rows, x_stride, x_stride, 0);
                let params = Params {
                    rows: rows as u32 + 2,
                    count_word: Inputs::TOKENS,
                    count_scale: 1,
                    n: n as u32,
                    k: k as u32,
                    x_stride: x_stride as u32,
                    x_head_stride: k as u32 + 3,
                    y_offset: 1,
                    y_stride: y_stride as u32,
                    y_head_stride: n as u32 + 2,
                    heads: heads as u32,
                    latent: latent as u32,
                    head_rows: head_rows as u32,
                    head_first: head_first as u32,
                    flags: if transposed { flags::TRANSPOSED } else { 0 },
                    ..Params::default()
                };
                let mut want = vec![Want::Poison; 1 + (rows + 2) * y_stride];
                for r in 0..rows {
                    for a in 0..heads {
                        let x = &x[r * x_stride + a * (k + 3)..][..k];
                        for o in 0..n {
                            let row = a * head_rows + head_first;
                            let mut sum = Sum::default();
                            for (i, x) in x.iter().enumerate() {
                                let w = if transposed {
                                    w.at(row + i, o)
                                } else {
                                    w.at(row + o, i)
                                };
                                sum.add(f64::from(*x) * w);
                            }
                            want[1 + r * y_stride + a * (n + 2) + o] = sum.want();
                        }
                    }
                }
                let mut operands =
                    vec![StepInputs::rows(rows, rows + 2).operand(), activations(&x)];
                operands.extend(w.whole());
                operands.push(Operation::Out(want.len()));
                check_all(OpKind::HeadLinear, dtype, params, &operands, &[want]);
            }
        }
    }
}

#[test]
fn a_nan_code_of_an_fp8_weight_gives_nan_in_its_output_alone() {
    let mut random = Random(5);
    let (k, n) = (300, 40);
    for (code, rows) in [(0x7F, 1), (0xFF, 1), (0x7F, 9), (0xFF, 3)] {
        for column in [0, 15, 127, 128, 255, 288, 299] {
            let mut w = Weights::random(&mut random, DType::F8E4M3, n, k);
            w.bytes[33 * k + column] = code;
            let x = random.floats(rows * k);
            let params = Params {
                rows: rows as u32,
                count_word: u32::MAX,
                k: k as u32,
                n: n as u32,
                x_stride: k as u32,
                y_stride: n as u32,
                row_count: n as u32,
                ..Params::default()
            };
            let mut want = vec![Want::Nan; rows * n];
            for r in 0..rows {
                for i in (0..n).filter(|i| *i != 33) {
                    want[r * n + i] = dot(&x[r * k..][..k], &w, i).want();
                }
            }
            let mut operands = vec![StepInputs::rows(rows, rows).operand(), activations(&x)];
            operands.extend(w.whole());
            operands.push(Operation::Out(want.len()));
            check_all(OpKind::Linear, DType::F8E4M3, params, &operands, &[want]);
        }
    }
}

/// How activations and weights are rounded.
#[derive(Clone, Copy, PartialEq)]
enum Rounded {
    /// To integers: E4M3 weights without tiles.
    Integers,
    /// To numbers of eight bits.
    Halves,
}

impl Rounded {
    /// How weights of `dtype` may be.
    fn of(dtype: DType) -> &'static [Rounded] {
        match dtype {
            DType::F8E4M3 => &[Rounded::Integers, Rounded::Halves],
            _ => &[Rounded::Halves],
        }
    }

    /// True if kernel `row` rounds like that, if it does.
    fn by(self, dtype: DType, row: &KernelRow) -> bool {
        let halves = dtype != DType::F8E4M3 || row.needs.has(Features::AMX);
        halves == (self == Rounded::Halves)
    }
}

/// What rounding one product may add to a sum: by integers, half a step of 1/2340 of the largest
/// activation, and half a sixteenth of the weight before its scale; by numbers of eight bits, half a
/// step of the activation, and of an E4M3 weight with its scale. The steps.
fn rounding(how: Rounded, row: &[f32], w: &Weights, i: usize, c: usize) -> f64 {
    let x = f64::from(row[c]);
    if how == Rounded::Halves {
        let step = x * w.at(i, c) / 128.0;
        return match w.dtype {
            DType::F8E4M3 => step.hypot(step),
            _ => step,
        };
    }
    let largest = row.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = w.scales[i / 128 * row.len().div_ceil(128) + c / 128];
    (f64::from(largest) / 2340.0 * w.at(i, c)).hypot(x * f64::from(scale) / 16.0)
}

#[test]
fn activations_of_fp8_and_bf16_weights_may_be_rounded() {
    let mut random = Random(9);
    // Less than a panel and more, several blocks of scales, every tile of rows, ends of blocks in
    // both halves. Few columns of a last block could all be too small to be rounded.
    let shapes = [
        (3, 300, 40),
        (4, 127, 7),
        (4, 200, 130),
        (9, 128, 16),
        (12, 40, 50),
        (17, 200, 45),
        (27, 64, 150),
        (150, 551, 33),
    ];
    for (rows, k, n, dtype) in shapes
        .into_iter()
        .flat_map(|(rows, k, n)| [DType::F8E4M3, DType::Bf16].map(|dtype| (rows, k, n, dtype)))
    {
        let mut x = random.floats(rows * k);
        let mut w = Weights::random(&mut random, dtype, n, k);
        // What is no number spoils its row, or its column.
        let (spoilt_row, spoilt) = (rows - 2, n / 2);
        x[spoilt_row * k + k / 2] = f32::NAN;
        let bytes = dtype.block_bytes() as usize;
        w.bytes[(spoilt * k + k / 2) * bytes..][..bytes].fill(0xFF);
        for &how in Rounded::of(dtype) {
            let mut want = Vec::new();
            for (r, i) in (0..rows).flat_map(|r| (0..n).map(move |i| (r, i))) {
                let row = &x[r * k..][..k];
                let sum = dot(row, &w, i);
                let steps = (0..k).map(|c| rounding(how, row, &w, i, c).abs());
                let (all, squares) = steps.fold((0.0, 0.0), |(all, squares), step| {
                    (all + step, squares + step * step)
                });
                // Half a step each, or five standard deviations of evenly spread errors.
                let rounding = f64::min(0.5 * all, 5.0 * 0.29 * f64::sqrt(squares));
                let error = sum.error() + rounding;
                want.push(match r == spoilt_row || i == spoilt {
                    true => Want::Nan,
                    false => Want::Near(sum.value, error),
                });
            }
            check_rounded(how, (rows, k, n), &x, &w, want);
        }
    }
}

/// A product that may be rounded, all rows of which are real, where it is rounded like that.
fn check_rounded(
    how: Rounded,
    (rows, k, n): (usize, usize, usize),
    x: &[f32],
    w: &Weights,
    want: Vec<Want>,
) {
    let params = Params {
        flags: flags::ROUGH,
        ..product_params(w.dtype, rows, n, k)
    };
    let mut operands = vec![StepInputs::rows(rows, rows).operand(), activations(x)];
    operands.extend(w.whole());
    operands.push(Operation::Out(want.len()));
    let some = |row: &KernelRow| how.by(w.dtype, row);
    check_some(some, OpKind::Linear, w.dtype, params, &operands, &[want]);
}

#[test]
fn the_largest_fp8_weights_and_activations_do_not_overflow() {
    let mut random = Random(10);
    for (rows, k, one) in [(4, 128, 1.0), (16, 256, -1.0)] {
        let n = 20;
        let mut w = Weights::random(&mut random, DType::F8E4M3, n, k);
        w.set_codes(|_| 0x7E);
        let x = vec![one; rows * k];
        let sums = (0..rows * n).map(|at| dot(&x[..k], &w, at % n));
        // An activation and a weight are whole steps: nothing is rounded but by floats.
        let want = sums
            .map(|sum| Want::Near(sum.value, 4.0 * sum.error()))
            .collect();
        check_rounded(Rounded::Integers, (rows, k, n), &x, &w, want);
    }
}

#[test]
fn small_fp8_weights_beside_a_large_one_are_rounded_to_the_nearest_sixteenth() {
    let mut random = Random(11);
    for rows in [4, 16] {
        let (k, n) = (2, 127);
        let mut w = Weights::random(&mut random, DType::F8E4M3, n, k);
        w.set_codes(|at| if at % 2 == 0 { 0x7E } else { (at / 2) as u8 });
        let x: Vec<f32> = (0..rows * k).map(|at| (at % 2) as f32).collect();
        let want = (0..rows * n)
            .map(|at| Want::Near(w.at(at % n, 1), 1.001 / 32.0 * f64::from(w.scales[0])))
            .collect();
        check_rounded(Rounded::Integers, (rows, k, n), &x, &w, want);
    }
}

#[test]
fn fp8_weights_that_rounding_would_ruin_are_multiplied_exactly() {
    let mut random = Random(12);
    for (rows, k, n) in [(4, 300, 30), (20, 300, 30)] {
        let mut w = Weights::random(&mut random, DType::F8E4M3, n, k);
        // In one row, and there in its second block alone: below 4.
        let mut small = Random(13);
        let codes: Vec<u8> = w.bytes.clone();
        w.set_codes(|at| match at / k == 17 && (128..256).contains(&(at % k)) {
            true => small.below(0x48) as u8,
            false => codes[at],
        });
        let x = random.floats(rows * k);
        let want = (0..rows * n)
            .map(|at| dot(&x[at / n * k..][..k], &w, at % n).want())
            .collect();
        check_rounded(Rounded::Integers, (rows, k, n), &x, &w, want);
    }
}

#[test]
fn every_code_of_every_format_is_read_exactly() {
    for dtype in [DType::F16, DType::Bf16, DType::F8E4M3] {
        let codes: usize = if dtype == DType::F8E4M3 { 256 } else { 65536 };
        // One column, so that an output is a weight times one.
        let bytes: Vec<u8> = match dtype {
            DType::F8E4M3 => (0..=255).collect(),
            _ => (0..=u16::MAX).flat_map(|c| c.to_le_bytes()).collect(),
        };
        let value = |code: usize| match dtype {
            DType::F8E4M3 => hadal_device::e4m3_to_f32(code as u8),
            DType::F16 => half::f16::from_bits(code as u16).to_f32(),
            _ => half::bf16::from_bits(code as u16).to_f32(),
        };
        // 32 columns with one hot input, so that vector paths decode the code too.
        for (k, hot) in [(1, 0), (32, 0), (32, 17), (33, 32)] {
            let mut wide = vec![0u8; codes * k * dtype.block_bytes() as usize];
            for code in 0..codes {
                let b = dtype.block_bytes() as usize;
                wide[(code * k + hot) * b..][..b].copy_from_slice(&bytes[code * b..][..b]);
            }
            let mut x = vec![0.0; k];
            x[hot] = 1.0;
            let params = Params {
                rows: 1,
                count_word: u32::MAX,
                k: k as u32,
                n: codes as u32,
                x_stride: k as u32,
                y_stride: codes as u32,
                row_count: codes as u32,
                ..Params::default()
            };
            let want = (0..codes)
                .map(|code| match value(code) {
                    v if v.is_nan() => Want::Nan,
                    v if v.is_infinite() => Want::Word(v.to_bits()),
                    v => Want::Near(f64::from(v), 0.0),
                })
                .collect();
            let mut operands = vec![
                StepInputs::rows(1, 1).operand(),
                activations(&x),
                Operation::In(wide),
            ];
            if dtype == DType::F8E4M3 {
                operands.push(input(&[1.0, 1.0]));
            }
            operands.push(Operation::Out(codes));
            check_all(OpKind::Linear, dtype, params, &operands, &[want]);
        }
    }
}
