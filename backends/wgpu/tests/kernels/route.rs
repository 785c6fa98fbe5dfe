//! The router: scores, groups, bias, ties.

use hadal_device::{DType, Inputs, OpKind, Params, flags};

use crate::formats::{FORMATS, Weight};
use crate::harness::{Arg, Case, Random, Step0, VALUES, check};

struct Setting {
    experts: u32,
    groups: u32,
    kept: u32,
    top_k: u32,
    flags: u32,
}

/// The chosen experts and their weights.
fn route(s: &Setting, logits: &[f32], bias: Option<&[f64]>, factor: f64) -> (Vec<u32>, Vec<f64>) {
    let has = |flag| s.flags & flag != 0;
    let largest = logits.iter().fold(f32::NEG_INFINITY, |m, z| m.max(*z));
    let exps = logits.iter().map(|z| f64::from(z - largest).exp());
    let total: f64 = exps.clone().sum();
    let scores: Vec<f64> = if has(flags::SOFTMAX) {
        exps.map(|e| e / total).collect()
    } else {
        logits
            .iter()
            .map(|z| 1.0 / (1.0 + (-f64::from(*z)).exp()))
            .collect()
    };
    let mut b: Vec<f64> = scores.clone();
    if let Some(bias) = bias {
        b.iter_mut().zip(bias).for_each(|(b, bias)| *b += bias);
    }
    for b in b.iter_mut().filter(|b| b.is_nan()) {
        *b = f64::MIN;
    }
    if s.groups > 1 {
        let size = (s.experts / s.groups) as usize;
        let score = |group: &[f64]| {
            let mut members = group.to_vec();
            members.sort_by(|a, b| b.total_cmp(a));
            if has(flags::GROUP_MAX) {
                members[0]
            } else {
                members[0] + members[1]
            }
        };
        let group_scores: Vec<f64> = b.chunks(size).map(score).collect();
        let kept = best(&group_scores, s.kept);
        for (e, b) in b.iter_mut().enumerate() {
            if !kept.contains(&((e / size) as u32)) {
                *b = f64::NEG_INFINITY;
            }
        }
    }
    let idx = best(&b, s.top_k);
    let chosen: Vec<f64> = idx.iter().map(|e| scores[*e as usize]).collect();
    let sum = if has(flags::NORMALISE) {
        chosen.iter().sum::<f64>() + 1e-20
    } else {
        1.0
    };
    (idx, chosen.iter().map(|w| w / sum * factor).collect())
}

/// Indices of the `count` largest, the lower one first among equals.
fn best(values: &[f64], count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by(|a, b| values[*b as usize].total_cmp(&values[*a as usize]));
    order.truncate(count as usize);
    order
}

fn check_route(name: &str, s: &Setting, logits: Vec<f32>, bias: Option<&Weight>) {
    let (bucket, tokens) = (5u32, 4u32);
    let p = Params {
        rows: bucket,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n: s.experts,
        x_offset: 3,
        x_stride: s.experts + 2,
        experts: s.experts,
        groups: s.groups,
        kept_groups: s.kept,
        top_k: s.top_k,
        flags: s.flags | if bias.is_some() { flags::BIAS } else { 0 },
        scale: 2.5,
        ..Params::default()
    };
    let all = (bucket * s.top_k) as usize;
    let (mut idx, mut weight) = (Vec::new(), Vec::new());
    for r in 0..tokens {
        let row = &logits[(p.x_offset + r * p.x_stride) as usize..][..s.experts as usize];
        let (chosen, weights) = route(s, row, bias.map(|w| w.values.as_slice()), 2.5);
        idx.extend(chosen.into_iter().map(Some));
        weight.extend(weights.into_iter().map(Some));
    }
    idx.resize(all, None);
    weight.resize(all, None);
    let mut args = vec![Arg::F32(logits)];
    if let Some(bias) = bias {
        args.push(Arg::Weight(bias));
    }
    args.extend([Arg::OutU32(idx), Arg::Out(weight)]);
    check(Case {
        name: format!("route {name}"),
        op: OpKind::Route,
        weight: bias.map_or(DType::F32, |w| w.dtype),
        params: p,
        step: Step0::of(bucket, tokens),
        args,
        tolerance: VALUES,
    });
}

const V3: Setting = Setting {
    experts: 64,
    groups: 8,
    kept: 4,
    top_k: 8,
    flags: flags::NORMALISE,
};

fn logits(s: &Setting, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..3 + 5 * (s.experts + 2))
        .map(|_| 4.0 * random.float())
        .collect()
}

#[test]
fn experts_are_chosen_by_score_and_bias_within_the_best_groups() {
    for dtype in FORMATS.into_iter().filter(|d| !d.has_block_scales()) {
        let bias = Weight::random(dtype, 1, 64, &mut Random(37));
        check_route("with bias", &V3, logits(&V3, 41), Some(&bias));
    }
    check_route("without bias", &V3, logits(&V3, 43), None);
    let one_group = Setting {
        groups: 1,
        kept: 1,
        experts: 33,
        top_k: 6,
        ..V3
    };
    check_route("one group", &one_group, logits(&one_group, 47), None);
    let many = Setting {
        experts: 384,
        groups: 1,
        kept: 1,
        top_k: 8,
        ..V3
    };
    check_route("384 experts", &many, logits(&many, 53), None);
}

#[test]
fn softmax_scores_and_groups_by_their_largest_member() {
    let v2 = Setting {
        experts: 40,
        groups: 8,
        kept: 3,
        top_k: 6,
        flags: flags::SOFTMAX | flags::GROUP_MAX,
    };
    check_route("as V2", &v2, logits(&v2, 59), None);
    let greedy = Setting { groups: 0, ..v2 };
    check_route("greedy", &greedy, logits(&greedy, 61), None);
}

#[test]
fn ties_go_to_the_lower_expert_and_the_lower_group() {
    // All equal: groups 0 to 3, experts 0 to 7.
    check_route("all equal", &V3, vec![0.25; logits(&V3, 0).len()], None);
    // Few levels: ties everywhere, at the border of the choice too.
    let mut random = Random(67);
    let levels = (0..logits(&V3, 0).len())
        .map(|_| random.below(3) as f32)
        .collect();
    check_route("three levels", &V3, levels, None);
}

#[test]
fn a_negative_bias_never_lets_an_expert_of_a_dropped_group_in() {
    let mut bias = Weight::random(DType::F32, 1, 64, &mut Random(71));
    for value in &mut bias.values {
        *value -= 5.0;
    }
    bias.values
        .iter_mut()
        .for_each(|v| *v = f64::from(*v as f32));
    bias.bytes = bias
        .values
        .iter()
        .flat_map(|v| (*v as f32).to_le_bytes())
        .collect();
    check_route("negative bias", &V3, logits(&V3, 73), Some(&bias));
}

#[test]
fn a_row_with_nan_still_gets_different_experts() {
    for setting in [V3, Setting { groups: 1, ..V3 }] {
        let mut logits = logits(&setting, 79);
        let stride = (setting.experts + 2) as usize;
        // Row 0: nothing else. Row 1: one, where the best expert was.
        logits[3..3 + stride].fill(f32::NAN);
        let row = &mut logits[3 + stride..][..setting.experts as usize];
        let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        row[best.unwrap()] = f32::NAN;
        check_route("NaN", &setting, logits, None);
    }
}
