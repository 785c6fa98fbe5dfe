//! `embed`, `norm`, `rope`, `gather`, `argmax`.

use hadal_device::{DType, Inputs, NO_ARGMAX, OpKind, Params};

use crate::stage::*;

fn params(rows: usize, n: usize) -> Params {
    Params {
        rows: rows as u32,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n: n as u32,
        x_stride: n as u32,
        y_stride: n as u32,
        ..Params::default()
    }
}

#[test]
fn embed_writes_the_rows_whose_ids_lie_in_its_shard() {
    let mut random = Random(41);
    let (vocabulary, n) = (300, 140);
    let ids = vec![0u32, 299, 128, 127, 200, 130];
    for dtype in WEIGHTS {
        let w = Weights::random(&mut random, dtype, vocabulary, n);
        for (first, count) in [(0, 300), (128, 72), (299, 1)] {
            let mut inputs = StepInputs::rows(ids.len(), 8);
            inputs.ids = ids.clone();
            let p = Params {
                row_first: first as u32,
                row_count: count as u32,
                ..params(8, n)
            };
            let mut want = vec![Want::Poison; 8 * n];
            for (t, id) in ids.iter().map(|id| *id as usize).enumerate() {
                for c in (0..n).filter(|_| (first..first + count).contains(&id)) {
                    // One product with the scale, rounded once.
                    want[t * n + c] = Want::Near(w.at(id, c), w.at(id, c).abs() * 6e-8);
                }
            }
            let mut operands = vec![inputs.operand()];
            operands.extend(w.shard(first, count));
            operands.push(Operation::Out(want.len()));
            check_all(OpKind::Embed, dtype, p, &operands, &[want]);
        }
    }
}

#[test]
fn norm_divides_by_the_root_mean_square() {
    let mut random = Random(42);
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        for (rows, n) in [(1, 1), (3, 67), (17, 513), (2, 7168)] {
            let w = Weights::random(&mut random, dtype, 1, n);
            let p = Params {
                x_offset: 3,
                x_stride: n as u32 + 1,
                y_stride: n as u32 + 2,
                eps: 1e-6,
                ..params(rows + 1, n)
            };
            // The second row is so small that eps decides.
            let mut x = random.floats(3 + (rows + 1) * (n + 1));
            if rows > 1 {
                x[3 + n + 1..][..n].iter_mut().for_each(|v| *v *= 1e-4);
            }
            let mut want = vec![Want::Poison; (rows + 1) * (n + 2)];
            for r in 0..rows {
                let x = &x[3 + r * (n + 1)..][..n];
                let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
                for c in 0..n {
                    let value = f64::from(x[c]) / (mean + f64::from(1e-6f32)).sqrt() * w.at(0, c);
                    want[r * (n + 2) + c] = Want::Near(value, value.abs() * 4e-7);
                }
            }
            let mut operands = vec![StepInputs::rows(rows, rows + 1).operand(), activations(&x)];
            operands.extend(w.whole());
            operands.push(Operation::Out(want.len()));
            check_all(OpKind::Norm, dtype, p, &operands, &[want]);
        }
    }
}

#[test]
fn rope_rotates_pairs_by_the_angle_of_the_position() {
    let mut random = Random(43);
    let (rows, heads, rope) = (3usize, 2usize, 10usize);
    let mut inputs = StepInputs::rows(rows, 4);
    inputs.positions = vec![7, 0, 3];
    let table = random.floats(8 * rope);
    let x = random.floats(4 * 50);
    let p = Params {
        rope: rope as u32,
        heads: heads as u32,
        x_offset: 4,
        x_stride: 45,
        x_head_stride: 20,
        y_offset: 1,
        y_stride: 40,
        y_head_stride: 15,
        ..params(4, 0)
    };
    let mut want = vec![Want::Poison; 1 + 4 * 40];
    for r in 0..rows {
        for a in 0..heads {
            for j in 0..rope / 2 {
                let at = |i: usize| f64::from(x[4 + r * 45 + a * 20 + 2 * j + i]);
                let angle =
                    |i: usize| f64::from(table[inputs.positions[r] as usize * rope + 2 * j + i]);
                let to = 1 + r * 40 + a * 15 + 2 * j;
                want[to] = Want::Near(at(0) * angle(0) - at(1) * angle(1), 3e-7);
                want[to + 1] = Want::Near(at(1) * angle(0) + at(0) * angle(1), 3e-7);
            }
        }
    }
    let operands = [
        inputs.operand(),
        activations(&x),
        activations(&table),
        Operation::Out(want.len()),
    ];
    check_all(OpKind::Rope, DType::F32, p, &operands, &[want]);
}

#[test]
fn gather_takes_the_wanted_rows() {
    let mut random = Random(44);
    let n = 33;
    let x = random.floats(9 * n);
    let mut inputs = StepInputs::rows(3, 9);
    inputs.logit_rows = vec![8, 0, 4];
    let p = Params {
        count_word: Inputs::LOGIT_ROWS,
        ..params(9, n)
    };
    let mut want = vec![Want::Poison; 9 * n];
    for (i, row) in [8, 0, 4].into_iter().enumerate() {
        for c in 0..n {
            want[i * n + c] = Want::Word(x[row * n + c].to_bits());
        }
    }
    let operands = [
        inputs.operand(),
        activations(&x),
        Operation::Out(want.len()),
    ];
    check_all(OpKind::Gather, DType::F32, p, &operands, &[want]);
}

#[test]
fn argmax_takes_the_lower_of_equals_and_never_a_nan() {
    let n = 5;
    let nan = f32::NAN;
    let x = [
        [1.0, 3.0, 3.0, 2.0, 0.0],
        [nan, -5.0, nan, -4.0, nan],
        [nan; 5],
        [f32::NEG_INFINITY, nan, f32::NEG_INFINITY, nan, nan],
        [-0.0, 0.0, -1.0, f32::INFINITY, nan],
    ];
    let p = Params {
        y_stride: 1,
        ..params(7, n)
    };
    let mut all = x.concat();
    all.resize(7 * n, 9.0);
    let mut want: Vec<Want> = [1, 3, NO_ARGMAX, 0, 3].map(Want::Word).to_vec();
    want.resize(7, Want::Poison);
    let operands = [
        StepInputs::rows(5, 7).operand(),
        activations(&all),
        Operation::Out(7),
    ];
    check_all(OpKind::Argmax, DType::F32, p, &operands, &[want]);
}
