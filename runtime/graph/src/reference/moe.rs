//! Routing and routed experts (report, section 2.1.2).

use std::sync::Arc;

use super::dense::{dot, quantise_row, silu};
use super::{Result, Routes, Tensor};
use crate::{ActScale, RouteRule};

/// Chooses experts for every row of `logits [T, E]`, with a `bias [E]` in the choice.
pub fn route(rule: &RouteRule, logits: &Tensor, bias: Option<&[f64]>) -> Routes {
    let mut routes = Routes {
        top_k: rule.top_k as usize,
        experts: Vec::new(),
        weights: Vec::new(),
    };
    for row in logits.rows() {
        let scores = scores(row, rule.softmax);
        let selection: Vec<f64> = match bias {
            Some(bias) => scores.iter().zip(bias).map(|(s, b)| s + b).collect(),
            None => scores.clone(),
        };
        let chosen = choose(rule, &selection);
        let sum: f64 = chosen.iter().map(|expert| scores[*expert]).sum();
        let divisor = if rule.normalise { sum + 1e-20 } else { 1.0 };
        for expert in chosen {
            routes.experts.push(expert as u32);
            routes
                .weights
                .push(scores[expert] / divisor * f64::from(rule.scale));
        }
    }
    routes
}

fn scores(logits: &[f64], softmax: bool) -> Vec<f64> {
    if !softmax {
        return logits.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
    }
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|z| (z - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// The best experts of the best groups.
fn choose(rule: &RouteRule, selection: &[f64]) -> Vec<usize> {
    let members = selection.len() / rule.groups as usize;
    let group_score = |group: &[f64]| {
        let best: Vec<f64> = best_first(group)
            .iter()
            .map(|index| group[*index])
            .collect();
        if rule.group_max {
            best[0]
        } else {
            best.iter().take(2).sum()
        }
    };
    let groups: Vec<f64> = selection.chunks_exact(members).map(group_score).collect();
    let kept = &best_first(&groups)[..rule.kept_groups as usize];
    let in_choice = |expert: &usize| kept.contains(&(expert / members));
    let order = best_first(selection).into_iter().filter(in_choice);
    order.take(rule.top_k as usize).collect()
}

/// Indices in descending order of value; the lower of equals first, a NaN last.
fn best_first(values: &[f64]) -> Vec<usize> {
    let rank = |index: &usize| match values[*index] {
        value if value.is_nan() => f64::NEG_INFINITY,
        value => value + 0.0,
    };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    order
}

/// `base + sum over the chosen experts of weight * down(silu(gate x) * up x)`, in the order
/// of choice. `matrix(operand, expert)` is a matrix of the node's gate (2), up (3) or
/// down (4) table.
pub(super) fn experts(
    x: &Tensor,
    routes: &Routes,
    matrix: &dyn Fn(usize, u32) -> Result<Arc<[f64]>>,
    base: &Tensor,
    quantise: Option<ActScale>,
) -> Result<Tensor> {
    let rounded = |row: &[f64]| match quantise {
        Some(scale) => quantise_row(row, scale),
        None => row.to_vec(),
    };
    let product =
        |x: &[f64], w: &[f64]| -> Vec<f64> { w.chunks_exact(x.len()).map(|w| dot(x, w)).collect() };
    let mut y = base.clone();
    for (token, row) in x.rows().enumerate() {
        let x = rounded(row);
        for choice in token * routes.top_k..(token + 1) * routes.top_k {
            let expert = routes.experts[choice];
            let gate = product(&x, &matrix(2, expert)?);
            let up = product(&x, &matrix(3, expert)?);
            let hidden: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| silu(*g) * u).collect();
            let down = product(&rounded(&hidden), &matrix(4, expert)?);
            let target = &mut y.data[token * base.width()..][..base.width()];
            for (y, down) in target.iter_mut().zip(down) {
                *y += routes.weights[choice] * down;
            }
        }
    }
    Ok(y)
}
