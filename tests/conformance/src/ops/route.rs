//! The router: choices must be exact, weights near.

use hadal_device::{Params, flags};
use hadal_graph::RouteRule;
use hadal_graph::reference::{self, Tensor};

use super::dense::near;
use super::layout::{Activations, Rows, StepInputs, params};
use super::{OpCase, Operand, Twist, Want};
use crate::random::Random;
use crate::shape::Shape;
use crate::tolerance;
use crate::weights::Weights;

/// The routed scaling factor of DeepSeek-V3.
const SCALE: f32 = 2.5;

fn rule(shape: &Shape) -> RouteRule {
    let has = |flag| shape.flags & flag != 0;
    RouteRule {
        experts: shape.experts,
        top_k: shape.top_k,
        groups: shape.groups,
        kept_groups: shape.kept,
        softmax: has(flags::SOFTMAX),
        group_max: has(flags::GROUP_MAX),
        normalise: has(flags::NORMALISE),
        scale: SCALE,
    }
}

/// Logits whose scores are further apart than `f32` is inexact: each row is a shuffled
/// ladder, so that no choice hangs on a rounding. Scores are ties on purpose or not at all.
fn logits(case: &OpCase, random: &mut Random) -> Vec<f32> {
    let shape = &case.shape;
    let mut all = Vec::new();
    for r in 0..shape.real {
        let order = random.permutation(shape.experts);
        let step = 6.0 / shape.experts as f32;
        let mut row: Vec<f32> = order
            .iter()
            .map(|place| step * (*place as f32 + 0.3 * random.unit()) - 3.0)
            .collect();
        match case.twist {
            // The same two best in every group: an expert more of the wrong group shows.
            Twist::Ties if r % 2 == 1 && shape.experts > shape.groups => {
                let members = (shape.experts / shape.groups) as usize;
                for group in row.chunks_mut(members) {
                    group.iter_mut().for_each(|z| *z = z.min(1.0));
                    let best = random.below(members as u32) as usize;
                    group[best] = 3.0;
                    group[(best + 1) % members] = 2.0;
                }
            }
            // Few different values, equal ones in many places.
            Twist::Ties => row.iter_mut().for_each(|z| *z = z.round()),
            Twist::Nan if r % 2 == 0 => {
                let at = random.below(shape.experts) as usize;
                row[at] = f32::NAN;
            }
            _ => {}
        }
        all.extend(row);
    }
    all
}

/// A bias that changes choices, on a grid on which no sum of score and bias lies close to
/// another one by chance; for ties it is equal where logits are.
fn bias(case: &OpCase, random: &mut Random) -> Option<Weights> {
    let shape = &case.shape;
    if shape.flags & flags::BIAS == 0 {
        return None;
    }
    let mut bias = Weights::random(random, case.weight, 1, shape.experts as usize);
    if case.twist == Twist::Ties {
        bias.values.fill(0.0);
        bias.bytes.fill(0);
    }
    Some(bias)
}

/// True if a selection would change under an error of some roundings.
fn is_close(rule: &RouteRule, logits: &Tensor, bias: Option<&[f64]>) -> bool {
    let exact = reference::route(rule, logits, bias).experts;
    (0..4).any(|way| {
        let mut moved = logits.clone();
        for (index, z) in moved.data.iter_mut().enumerate() {
            let up = (index >> way) & 1 == 0;
            *z += if up { 2e-5 } else { -2e-5 };
        }
        reference::route(rule, &moved, bias).experts != exact
    })
}

pub fn route(case: &OpCase, random: &mut Random) -> (Params, Vec<Operand>) {
    let shape = &case.shape;
    let rule = rule(shape);
    let rows = Rows::of(shape, shape.experts);
    let (x, bias) = loop {
        let x = Activations::from(logits(case, random), rows);
        let bias = bias(case, random);
        let values = bias.as_ref().map(|b| b.values.as_slice());
        if case.twist == Twist::Ties || !is_close(&rule, &x.values, values) {
            break (x, bias);
        }
    };
    let values = bias.as_ref().map(|b| b.values.as_slice());
    let routes = reference::route(&rule, &x.values, values);
    let room = (shape.bucket() * shape.top_k) as usize;
    let mut indices = vec![Want::Untouched; room];
    let mut weights = vec![Want::Untouched; room];
    // A sigmoid or softmax, and the sum of the chosen ones.
    let share = tolerance::share(case.op, shape.experts);
    for (choice, (expert, weight)) in routes.experts.iter().zip(&routes.weights).enumerate() {
        indices[choice] = Want::Word(*expert);
        weights[choice] = near(*weight, share * weight.abs());
    }
    let params = Params {
        experts: shape.experts,
        groups: shape.groups,
        kept_groups: shape.kept,
        top_k: shape.top_k,
        scale: SCALE,
        n: 0,
        k: 0,
        ..params(shape, x.rows, Rows::dense(0, 0))
    };
    let mut operands = vec![StepInputs::count(shape), x.operand()];
    operands.extend(bias.map(|b| Operand::Stored(b.bytes)));
    operands.push(Operand::Output("chosen experts", indices));
    operands.push(Operand::Output("weights", weights));
    (params, operands)
}
