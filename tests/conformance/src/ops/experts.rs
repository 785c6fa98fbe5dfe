//! The MoE dispatch: `expert_offsets`, `permute`, products by expert, `combine`.

use hadal_device::{Inputs, OpKind, Params, flags};
use hadal_graph::reference::Tensor;

use super::dense::{gated, near, product, weights};
use super::layout::{Activations, GARBAGE, Rows, StepInputs, params};
use super::{OpCase, Operand, Twist, Want, coded};
use crate::random::Random;
use crate::shape::Shape;
use crate::tolerance;
use crate::weights::Weights;

type Made = (Params, Vec<Operand>);

/// Experts in all: those of the table and those before and after it.
fn experts(shape: &Shape) -> u32 {
    shape.first + shape.experts + shape.after
}

/// Different experts for each real token, in the order of choice.
fn choose(case: &OpCase, random: &mut Random) -> Vec<u32> {
    let shape = &case.shape;
    let all = experts(shape);
    let mut chosen = Vec::new();
    for _ in 0..shape.real {
        // Crowded: everyone takes the last ones, so that the first have no row.
        let first = match case.twist {
            Twist::Crowded => all - shape.top_k,
            _ => 0,
        };
        let order = random.permutation(all - first);
        chosen.extend(order[..shape.top_k as usize].iter().map(|e| first + e));
    }
    chosen
}

/// Choices sorted by expert, stably: offsets and the choice in each place.
fn sort(chosen: &[u32], experts: u32) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..chosen.len() as u32).collect();
    order.sort_by_key(|choice| chosen[*choice as usize]);
    let before = |expert: u32| chosen.iter().filter(|e| **e < expert).count() as u32;
    ((0..=experts).map(before).collect(), order)
}

/// Words of a list with room for `room` of them, garbage after its end.
fn list(words: &[u32], room: u32) -> Operand {
    let mut words = words.to_vec();
    words.resize(room as usize, GARBAGE);
    Operand::Words(words)
}

/// `params` for rows that are choices.
fn choice_params(shape: &Shape, x: Rows, y: Rows) -> Params {
    Params {
        rows: shape.bucket() * shape.top_k,
        count_word: Inputs::TOKENS,
        count_scale: shape.top_k,
        experts: experts(shape),
        top_k: shape.top_k,
        expert_first: shape.first,
        expert_count: shape.experts,
        ..params(shape, x, y)
    }
}

pub fn offsets(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let chosen = choose(case, random);
    let (offsets, order) = sort(&chosen, experts(shape));
    let room = shape.bucket() * shape.top_k;
    let exact = |words: &[u32], room: usize| {
        let mut want: Vec<Want> = words.iter().map(|word| Want::Word(*word)).collect();
        want.resize(room, Want::Untouched);
        want
    };
    let mut place = vec![0; order.len()];
    for (choice, at) in order.iter().zip(0..) {
        place[*choice as usize] = at;
    }
    let params = Params {
        rows: shape.bucket(),
        count_scale: 1,
        ..choice_params(shape, Rows::dense(0, 0), Rows::dense(0, 0))
    };
    let operands = vec![
        StepInputs::count(shape),
        list(&chosen, room),
        Operand::Output("offsets", exact(&offsets, offsets.len())),
        Operand::Output("order", exact(&order, room as usize)),
        Operand::Output("place", exact(&place, room as usize)),
    ];
    (params, operands)
}

pub fn permute(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let (_, order) = sort(&choose(case, random), experts(shape));
    let x = Activations::random(random, shape, shape.n);
    let room = shape.bucket() * shape.top_k;
    let y = Rows::counted(shape, shape.n, room);
    let mut want = y.untouched();
    for (choice, place) in order.iter().zip(0..) {
        for i in 0..shape.n {
            let from = choice / shape.top_k * shape.n + i;
            want[y.at(place, i)] = Want::Word(x.stored[from as usize].to_bits());
        }
    }
    let out = Operand::Output("rows", want);
    let operands = vec![
        StepInputs::count(shape),
        x.operand(),
        list(&order, room),
        out,
    ];
    (choice_params(shape, x.rows, y), operands)
}

/// The tables of one or two weights of each expert.
fn tables(experts: &[Vec<Weights>]) -> Vec<Operand> {
    let mut operands = Vec::new();
    for which in 0..experts[0].len() {
        let each = || experts.iter().map(|e| &e[which]);
        operands.push(Operand::Table(each().map(|w| w.bytes.clone()).collect()));
        let scales: Option<Vec<_>> = each().map(Weights::scale_bytes).collect();
        operands.extend(scales.map(Operand::Table));
    }
    operands
}

/// One or two weights of each expert of the table.
fn expert_weights(case: &OpCase, random: &mut Random) -> Vec<Vec<Weights>> {
    let shape = &case.shape;
    let each = match case.op {
        OpKind::GroupedGateUp | OpKind::ExpertGateUp => 2,
        _ => 1,
    };
    let mut one = || {
        (0..each)
            .map(|_| weights(case, random, shape.n, shape.k))
            .collect()
    };
    (0..shape.experts).map(|_| one()).collect()
}

/// What one row gives with one expert.
fn outputs(case: &OpCase, x: &Activations, row: u32, expert: &[Weights]) -> Vec<Want> {
    let share = tolerance::product(case.op, &case.shape);
    let row = Tensor {
        shape: vec![1, case.shape.k as usize],
        data: x.row(row).to_vec(),
    };
    let sums: Vec<_> = expert.iter().map(|w| product(&row, &w.values)).collect();
    let one = |i: usize| {
        let both: Vec<_> = sums
            .iter()
            .map(|(v, most)| (v.data[i], most.data[i]))
            .collect();
        match both.as_slice() {
            [gate, up] => gated(share, *gate, *up),
            [only, ..] => (only.0, share * only.1),
            [] => (0.0, 0.0),
        }
    };
    (0..case.shape.n as usize)
        .map(|i| near(one(i).0, one(i).1))
        .collect()
}

pub fn grouped(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let (offsets, order) = sort(&choose(case, random), experts(shape));
    let room = shape.bucket() * shape.top_k;
    let stored = random.floats(order.len() * shape.k as usize);
    let x = Activations::from(stored, Rows::counted(shape, shape.k, room));
    let x = coded::activations(shape, x);
    let table = expert_weights(case, random);
    let y = Rows::counted(shape, shape.n, room);
    let mut want = y.untouched();
    for (weights, e) in table.iter().zip(shape.first..) {
        for place in offsets[e as usize]..offsets[e as usize + 1] {
            for (value, i) in outputs(case, &x, place, weights).into_iter().zip(0..) {
                want[y.at(place, i)] = value;
            }
        }
    }
    let mut operands = vec![
        StepInputs::count(shape),
        x.operand(),
        Operand::Words(offsets),
    ];
    operands.extend(tables(&table));
    operands.push(Operand::Output("rows", want));
    (choice_params(shape, x.rows, y), operands)
}

pub fn direct(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let chosen = choose(case, random);
    let room = shape.bucket() * shape.top_k;
    let by_token = shape.flags & flags::ROW_PER_TOKEN != 0;
    let x = match by_token {
        true => Activations::random(random, shape, shape.k),
        false => {
            let stored = random.floats(chosen.len() * shape.k as usize);
            Activations::from(stored, Rows::counted(shape, shape.k, room))
        }
    };
    let table = expert_weights(case, random);
    let y = Rows::counted(shape, shape.n, room);
    let mut want = y.untouched();
    for (expert, choice) in chosen.iter().zip(0..) {
        let Some(entry) = expert.checked_sub(shape.first) else {
            continue;
        };
        let Some(weights) = table.get(entry as usize) else {
            continue;
        };
        let row = if by_token {
            choice / shape.top_k
        } else {
            choice
        };
        for (value, i) in outputs(case, &x, row, weights).into_iter().zip(0..) {
            want[y.at(choice, i)] = value;
        }
    }
    let mut operands = vec![StepInputs::count(shape), x.operand(), list(&chosen, room)];
    operands.extend(tables(&table));
    operands.push(Operand::Output("rows", want));
    (choice_params(shape, x.rows, y), operands)
}

pub fn combine(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let (choices, room) = (shape.real * shape.top_k, shape.bucket() * shape.top_k);
    let x = Activations::from(
        random.floats((choices * shape.n) as usize),
        Rows::counted(shape, shape.n, room),
    );
    let weight = random.floats(choices as usize);
    let base = Activations::random(random, shape, shape.n);
    let place = match shape.flags & flags::PLACED != 0 {
        true => random.permutation(choices),
        false => (0..choices).collect(),
    };
    let y = Rows::of(shape, shape.n);
    let share = tolerance::share(case.op, shape.top_k);
    let mut want = y.untouched();
    for r in 0..shape.real {
        for i in 0..shape.n {
            let added = base.row(r)[i as usize];
            let (mut sum, mut most) = (added, added.abs());
            for c in r * shape.top_k..(r + 1) * shape.top_k {
                let row = x.row(place[c as usize]);
                let part = f64::from(weight[c as usize]) * row[i as usize];
                (sum, most) = (sum + part, most + part.abs());
            }
            want[y.at(r, i)] = near(sum, share * most);
        }
    }
    let params = Params {
        rows: shape.bucket(),
        count_scale: 1,
        b_offset: base.rows.offset,
        b_stride: base.rows.stride,
        ..choice_params(shape, x.rows, y)
    };
    let bits: Vec<u32> = weight.iter().map(|w| w.to_bits()).collect();
    let operands = vec![
        StepInputs::count(shape),
        x.operand(),
        list(&bits, room),
        list(&place, room),
        base.operand(),
        Operand::Output("rows", want),
    ];
    (params, operands)
}
