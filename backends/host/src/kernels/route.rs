//! `route`: which experts a token goes to. Paper: DeepSeek-V3 report, section 2.1.2,
//! equations 13 to 16.
//!
//! Scores are kept in `f64`, so that the choice hangs on the logits alone and not on the
//! rounding of a sigmoid. `group[1]`: block of rows.

use hadal_device::{Params, flags};

use super::at;
use crate::args::{Args, Fault};
use crate::core::{Core, Scratch};
use crate::weight::Elements;

/// `OpKind::Route`; `W` is the format of the bias.
pub(super) fn route<C: Core, W: Elements>(
    args: &Args<'_>,
    group: [u32; 3],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let p = args.params;
    let (experts, top_k, groups) = (p.experts as usize, p.top_k as usize, p.groups as usize);
    let mut operands = args.operands();
    let logits = operands.range()?;
    let bias = if p.flags & flags::BIAS != 0 {
        Some(
            operands
                .range()?
                .bytes(0, experts.saturating_mul(W::BYTES))?,
        )
    } else {
        None
    };
    let (idx, weight) = (operands.range()?, operands.range()?);
    operands.end()?;
    if groups > 1 && !experts.is_multiple_of(groups) {
        return Err(Fault::Shape("groups do not divide the experts"));
    }
    if top_k > experts || p.kept_groups > p.groups.max(1) {
        return Err(Fault::Shape("more is to be chosen than there is"));
    }
    let wide = scratch.wide.take(2 * experts + groups)?;
    let (scores, rest) = wide.split_at_mut(experts);
    let (choice, group_scores) = rest.split_at_mut(experts);
    for row in args.row_block(group[1])? {
        let logits = logits.f32s(at(p.x_offset, row, p.x_stride), experts)?;
        score(logits, p.flags & flags::SOFTMAX != 0, scores);
        choice.copy_from_slice(scores);
        if let Some(bias) = bias {
            for (choice, bias) in choice.iter_mut().zip(bias.chunks_exact(W::BYTES)) {
                *choice += f64::from(W::decode(bias));
            }
        }
        // A NaN takes part as the worst score, so that a broken row still gets `top_k`
        // different experts, and NaN weights.
        for choice in choice.iter_mut().filter(|choice| choice.is_nan()) {
            *choice = f64::NEG_INFINITY;
        }
        if groups > 1 {
            drop_groups(p, choice, group_scores);
        }
        let idx = idx.out(row * top_k, top_k)?;
        let weight = weight.out(row * top_k, top_k)?;
        let mut sum = 0.0;
        for j in 0..top_k {
            let expert = largest(choice);
            idx.set_u32(j, expert as u32);
            sum += scores[expert];
            choice[expert] = TAKEN;
        }
        let divisor = if p.flags & flags::NORMALISE != 0 {
            sum + 1e-20
        } else {
            1.0
        };
        for j in 0..top_k {
            let expert = idx.get_u32(j) as usize;
            weight.set(j, (scores[expert] / divisor * f64::from(p.scale)) as f32);
        }
    }
    Ok(())
}

/// Marks what is out of the choice for good; below every score, even a masked one's.
const TAKEN: f64 = f64::NAN;

/// `sigmoid(logits)`, or their softmax.
fn score(logits: &[f32], softmax: bool, scores: &mut [f64]) {
    if !softmax {
        for (score, logit) in scores.iter_mut().zip(logits) {
            *score = 1.0 / (1.0 + (-f64::from(*logit)).exp());
        }
        return;
    }
    let most = logits.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let mut sum = 0.0;
    for (score, logit) in scores.iter_mut().zip(logits) {
        *score = (f64::from(*logit) - f64::from(most)).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// Sets the choice of experts outside the `kept_groups` best groups to -inf.
fn drop_groups(p: &Params, choice: &mut [f64], group_scores: &mut [f64]) {
    let size = choice.len() / group_scores.len();
    for (score, members) in group_scores.iter_mut().zip(choice.chunks_exact(size)) {
        let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        for b in members {
            if *b > first {
                (first, second) = (*b, first);
            } else if *b > second {
                second = *b;
            }
        }
        let one = p.flags & flags::GROUP_MAX != 0 || size == 1;
        *score = if one { first } else { first + second };
    }
    for _ in 0..p.kept_groups {
        let kept = largest(group_scores);
        group_scores[kept] = TAKEN;
    }
    for (score, members) in group_scores.iter().zip(choice.chunks_exact_mut(size)) {
        if !score.is_nan() {
            members.fill(f64::NEG_INFINITY);
        }
    }
}

/// Index of the largest value, the lower one of equals; a NaN is below -inf.
fn largest(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate().skip(1) {
        if *value > values[best] || (values[best].is_nan() && !value.is_nan()) {
            best = i;
        }
    }
    best
}
