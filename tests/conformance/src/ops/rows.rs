//! Operations on values: `swiglu`, `add`, `copy`, `gather`, `argmax`, `act_quant`.

use hadal_device::{Inputs, OpKind, Params, flags};
use hadal_graph::ActScale;
use hadal_graph::reference;

use super::dense::{near, wants};
use super::layout::{Activations, Rows, StepInputs, params};
use super::{OpCase, Operand, Twist, Want};
use crate::random::Random;
use crate::tolerance;

type Made = (Params, Vec<Operand>);

pub fn pairwise(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let [a, b] = [0, 1].map(|_| {
        // Wide enough that the sigmoid saturates at both ends.
        let values = random.floats((shape.real * shape.n) as usize);
        let values = values.into_iter().map(|v| 30.0 * v * v * v).collect();
        Activations::from(values, Rows::of(shape, shape.n))
    });
    let y = Rows::of(shape, shape.n);
    let share = tolerance::share(case.op, 1);
    let mut want = y.untouched();
    for index in 0..a.values.data.len() {
        let (one, other) = (a.values.data[index], b.values.data[index]);
        let value = match case.op {
            OpKind::SwiGlu => reference::silu(one) * other,
            _ => one + other,
        };
        // The sigmoid of -|z| is known as well as exp(-|z|) is.
        let error = match case.op {
            OpKind::SwiGlu => share * value.abs() * (1.0 + one.abs()),
            _ => share * (one.abs() + other.abs()),
        };
        let (r, i) = (index as u32 / shape.n, index as u32 % shape.n);
        want[y.at(r, i)] = near(value, error);
    }
    let params = Params {
        b_offset: b.rows.offset,
        b_stride: b.rows.stride,
        ..params(shape, a.rows, y)
    };
    let out = Operand::Output("rows", want);
    (
        params,
        vec![StepInputs::count(shape), a.operand(), b.operand(), out],
    )
}

/// Words that arithmetic would change: subnormals, both zeros, infinities, NaN payloads.
fn any_words(random: &mut Random, count: u32) -> Vec<f32> {
    let special = [
        0x0000_0001,
        0x8000_0000,
        0x7f80_0000,
        0x7fc1_2345,
        0x007f_ffff,
        0xff80_0001,
    ];
    let word = |_| match random.below(4) {
        0 => special[random.below(special.len() as u32) as usize],
        _ => random.bits() as u32,
    };
    (0..count).map(word).map(f32::from_bits).collect()
}

pub fn copy(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    // A slice of each head of `x` goes to a slice of each head of `y`.
    let (x_head, y_head) = (shape.first + shape.n, shape.n + shape.after);
    let stored = any_words(random, shape.real * shape.heads * x_head);
    let x = Activations::from(stored, Rows::of(shape, shape.heads * x_head));
    let y = Rows::of(shape, shape.heads * y_head);
    let mut want = y.untouched();
    for r in 0..shape.real {
        for a in 0..shape.heads {
            for i in 0..shape.n {
                let from = r * x.rows.width + a * x_head + shape.first + i;
                let word = x.stored[from as usize].to_bits();
                want[y.at(r, a * y_head + i)] = Want::Word(word);
            }
        }
    }
    let params = Params {
        heads: shape.heads,
        x_offset: x.rows.offset + shape.first,
        x_head_stride: x_head,
        y_head_stride: y_head,
        ..params(shape, x.rows, y)
    };
    let out = Operand::Output("slices", want);
    (params, vec![StepInputs::count(shape), x.operand(), out])
}

pub fn gather(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let stored = any_words(random, shape.bucket() * shape.n);
    let x = Activations::from(stored, Rows::of(shape, shape.n));
    let logit_rows: Vec<u32> = (0..shape.real)
        .map(|_| random.below(shape.bucket()))
        .collect();
    let y = Rows::of(shape, shape.n);
    let mut want = y.untouched();
    for (row, i) in logit_rows.iter().zip(0..) {
        for c in 0..shape.n {
            let word = x.stored[(row * shape.n + c) as usize].to_bits();
            want[y.at(i, c)] = Want::Word(word);
        }
    }
    let inputs = StepInputs {
        logit_rows,
        ..StepInputs::default()
    };
    let mut params = params(shape, x.rows, y);
    if shape.spare > 0 {
        params.count_word = Inputs::LOGIT_ROWS;
    }
    (
        params,
        vec![
            inputs.operand(shape),
            x.operand(),
            Operand::Output("rows", want),
        ],
    )
}

pub fn argmax(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let mut stored = random.floats((shape.real * shape.n) as usize);
    for (r, row) in stored.chunks_mut(shape.n as usize).enumerate() {
        let row_number = r as u32;
        let two = [0, 1].map(|_| random.below(shape.n) as usize);
        match case.twist {
            // The largest value twice, or plus zero after minus zero.
            Twist::Ties if row_number.is_multiple_of(2) => two.iter().for_each(|i| row[*i] = 2.0),
            Twist::Ties => {
                row.fill(-1.0);
                row[two[0].max(two[1])] = 0.0;
                row[two[0].min(two[1])] = -0.0;
            }
            // A NaN beside infinities, or nothing but NaN.
            Twist::Nan if r % 3 == 0 => row.fill(f32::NAN),
            Twist::Nan => {
                row.fill(f32::NEG_INFINITY);
                row[two[0]] = f32::NAN;
            }
            _ => {}
        }
    }
    let x = Activations::from(stored, Rows::of(shape, shape.n));
    let y = Rows::of(shape, 1);
    let mut want = y.untouched();
    for (index, r) in reference::argmax(&x.values).into_iter().zip(0..) {
        want[y.at(r, 0)] = Want::Word(index);
    }
    let out = Operand::Output("indices", want);
    (
        params(shape, x.rows, y),
        vec![StepInputs::count(shape), x.operand(), out],
    )
}

pub fn act_quant(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let mut stored = random.floats((shape.real * shape.n) as usize);
    for (index, group) in stored.chunks_mut(128).enumerate() {
        // Groups of different sizes, one of them below the smallest scale.
        let size = [1.0f32, 37.0, 1e-6, 3e4][index % 4];
        group.iter_mut().for_each(|v| *v *= size * v.abs());
    }
    let x = Activations::from(stored, Rows::of(shape, shape.n));
    let scale = match shape.flags & flags::UE8M0 != 0 {
        true => ActScale::Ue8m0,
        false => ActScale::F32,
    };
    let exact = reference::act_quant(&x.values, scale);
    // A value that lies between two codes may go either way where the quotient is rounded.
    let shaken = [1.0 - 4e-7, 1.0 + 4e-7].map(|factor| {
        let mut moved = x.values.clone();
        for row in moved.data.chunks_mut(shape.n as usize) {
            for group in row.chunks_mut(128) {
                let largest = group.iter().fold(0.0f64, |most, v| most.max(v.abs()));
                // The largest value decides the scale and stays.
                let others = group.iter_mut().filter(|v| v.abs() < largest);
                others.for_each(|v| *v *= factor);
            }
        }
        reference::act_quant(&moved, scale)
    });
    let y = Rows::of(shape, shape.n);
    let share = tolerance::share(case.op, 1);
    let mut want = wants(y, &exact, |value, _| share * value.abs());
    for index in 0..exact.data.len() {
        let (low, high) = (shaken[0].data[index], shaken[1].data[index]);
        if low != high {
            let (r, i) = (index as u32 / shape.n, index as u32 % shape.n);
            let tolerance = share * high.abs().max(low.abs()) + tolerance::FLUSHED;
            want[y.at(r, i)] = Want::Either(low, high, tolerance);
        }
    }
    let out = Operand::Output("values", want);
    (
        params(shape, x.rows, y),
        vec![StepInputs::count(shape), x.operand(), out],
    )
}
