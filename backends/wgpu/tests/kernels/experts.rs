//! Permutation, expert matrix products and their combination.

use hadal_device::{DType, Inputs, OpKind, Params, flags};

use crate::formats::{FORMATS, Weight, dot};
use crate::harness::{Arg, Case, Random, SUMS, Step0, VALUES, check};

const EXPERTS: u32 = 7;

/// Choices of `tokens` tokens, two each; experts 0 and 4 get none.
fn choices(tokens: u32, top_k: u32) -> Vec<u32> {
    let mut random = Random(23);
    let used = [1, 2, 3, 5, 6];
    (0..tokens * top_k)
        .map(|_| used[random.below(5) as usize])
        .collect()
}

/// `offsets`, `order` and `place` of a stable counting sort.
fn sorted(idx: &[u32], experts: u32) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..idx.len() as u32).collect();
    order.sort_by_key(|c| idx[*c as usize]);
    let mut place = vec![0; idx.len()];
    for (p, c) in order.iter().enumerate() {
        place[*c as usize] = p as u32;
    }
    let offsets = (0..=experts)
        .map(|e| idx.iter().filter(|i| **i < e).count() as u32)
        .collect();
    (offsets, order, place)
}

fn some<T: Copy>(values: &[T]) -> Vec<Option<T>> {
    values.iter().map(|v| Some(*v)).collect()
}

fn with_rest<T: Clone>(mut values: Vec<Option<T>>, length: usize) -> Vec<Option<T>> {
    values.resize(length, None);
    values
}

#[test]
fn choices_are_sorted_by_expert_and_keep_their_order() {
    for (bucket, tokens, top_k) in [(1u32, 1u32, 2u32), (9, 6, 2), (40, 37, 3), (4, 0, 2)] {
        let all = (bucket * top_k) as usize;
        let mut idx = choices(tokens, top_k);
        let (offsets, order, place) = sorted(&idx, EXPERTS);
        // What lies behind the real choices names no expert.
        idx.resize(all, u32::MAX);
        check(Case {
            name: format!("expert_offsets {tokens} of {bucket} x {top_k}"),
            op: OpKind::ExpertOffsets,
            weight: DType::F32,
            params: Params {
                rows: bucket,
                count_word: Inputs::TOKENS,
                count_scale: 1,
                experts: EXPERTS,
                top_k,
                ..Params::default()
            },
            step: Step0::of(bucket, tokens),
            args: vec![
                Arg::U32(idx),
                Arg::OutU32(some(&offsets)),
                Arg::OutU32(with_rest(some(&order), all)),
                Arg::OutU32(with_rest(some(&place), all)),
            ],
            tolerance: 0.0,
        });
    }
}

#[test]
fn permute_brings_rows_into_sorted_places() {
    let (bucket, tokens, top_k, n) = (6u32, 4u32, 3u32, 70u32);
    let (_, mut order, _) = sorted(&choices(tokens, top_k), EXPERTS);
    let p = Params {
        rows: bucket * top_k,
        count_word: Inputs::TOKENS,
        count_scale: top_k,
        n,
        top_k,
        x_offset: 2,
        x_stride: n + 1,
        y_offset: 5,
        y_stride: n + 2,
        ..Params::default()
    };
    let x = Random(1).floats((p.x_offset + bucket * p.x_stride) as usize);
    let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
    for (q, c) in order.iter().enumerate() {
        for i in 0..n {
            let from = p.x_offset + c / top_k * p.x_stride + i;
            out[(p.y_offset + q as u32 * p.y_stride + i) as usize] = Some(x[from as usize].into());
        }
    }
    order.resize(p.rows as usize, u32::MAX);
    check(Case {
        name: "permute".into(),
        op: OpKind::Permute,
        weight: DType::F32,
        params: p,
        step: Step0::of(bucket, tokens),
        args: vec![Arg::F32(x), Arg::U32(order), Arg::Out(out)],
        tolerance: 0.0,
    });
}

fn expert_params(bucket: u32, top_k: u32, n: u32, k: u32) -> Params {
    Params {
        rows: bucket * top_k,
        count_word: Inputs::TOKENS,
        count_scale: top_k,
        n,
        k,
        top_k,
        x_offset: if k.is_multiple_of(8) { 8 } else { 1 },
        x_stride: if k.is_multiple_of(8) { k + 4 } else { k + 3 },
        y_offset: 2,
        y_stride: n + 1,
        experts: EXPERTS,
        ..Params::default()
    }
}

/// Half of a case: the weights of experts `first .. first + count` and the answers.
struct Experts {
    gates: Vec<Weight>,
    ups: Vec<Weight>,
}

impl Experts {
    fn random(dtype: DType, n: u32, k: u32) -> Experts {
        let mut random = Random(29);
        let mut list = || {
            (0..EXPERTS)
                .map(|_| Weight::random(dtype, n as usize, k as usize, &mut random))
                .collect()
        };
        Experts {
            gates: list(),
            ups: list(),
        }
    }

    fn answer(&self, gated: bool, e: u32, i: u32, x: &[f32]) -> f64 {
        let (e, i) = (e as usize, i as usize);
        let gate = dot(x, self.gates[e].row(i));
        if gated {
            gate / (1.0 + (-gate).exp()) * dot(x, self.ups[e].row(i))
        } else {
            gate
        }
    }
}

const SHAPES: [(u32, u32, u32, u32); 8] = [
    // Enough rows for tiles: a few an expert; more than one tile for some.
    (20, 17, 70, 40),
    (190, 187, 66, 24),
    (4, 3, 150, 144),
    (1, 1, 70, 72),
    (9, 6, 33, 40),
    (5, 4, 130, 200),
    (3, 0, 10, 24),
    (40, 37, 20, 33),
];

#[test]
fn grouped_rows_use_their_expert_and_others_are_left_alone() {
    let top_k = 2;
    for dtype in FORMATS {
        for (bucket, tokens, n, k) in SHAPES {
            for gated in [false, true] {
                let experts = Experts::random(dtype, n, k);
                let (offsets, order, _) = sorted(&choices(tokens, top_k), EXPERTS);
                // A part of the experts: the table of a shard.
                let (first, count) = if bucket == 9 { (2, 4) } else { (0, EXPERTS) };
                let p = Params {
                    expert_first: first,
                    expert_count: count,
                    ..expert_params(bucket, top_k, n, k)
                };
                let x = Random(2).floats((p.x_offset + p.rows * p.x_stride) as usize);
                let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
                for e in first..first + count {
                    for q in offsets[e as usize]..offsets[e as usize + 1] {
                        let row = &x[(p.x_offset + q * p.x_stride) as usize..][..k as usize];
                        for i in 0..n {
                            out[(p.y_offset + q * p.y_stride + i) as usize] =
                                Some(experts.answer(gated, e, i, row));
                        }
                    }
                }
                assert_eq!(order.len() as u32, tokens * top_k);
                let range = first as usize..(first + count) as usize;
                let mut args = vec![
                    Arg::F32(x),
                    Arg::U32(offsets),
                    Arg::Experts(&experts.gates[range.clone()]),
                ];
                if gated {
                    args.push(Arg::Experts(&experts.ups[range]));
                }
                args.push(Arg::Out(out));
                check(Case {
                    name: format!(
                        "grouped {dtype} {tokens} of {bucket} x {n} x {k}, gated {gated}"
                    ),
                    op: if gated {
                        OpKind::GroupedGateUp
                    } else {
                        OpKind::GroupedLinear
                    },
                    weight: dtype,
                    params: p,
                    step: Step0::of(bucket, tokens),
                    args,
                    tolerance: SUMS,
                });
            }
        }
    }
}

#[test]
fn direct_rows_use_the_expert_they_chose_and_others_are_left_alone() {
    let top_k = 2;
    for dtype in FORMATS {
        for (bucket, tokens, n, k) in SHAPES {
            for gated in [false, true] {
                let experts = Experts::random(dtype, n, k);
                let mut idx = choices(tokens, top_k);
                let (first, count) = if bucket == 9 { (2, 4) } else { (0, EXPERTS) };
                let p = Params {
                    expert_first: first,
                    expert_count: count,
                    // gate and up read the token, down reads the choice
                    flags: if gated { flags::ROW_PER_TOKEN } else { 0 },
                    ..expert_params(bucket, top_k, n, k)
                };
                let x = Random(3).floats((p.x_offset + p.rows * p.x_stride) as usize);
                let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
                for (q, e) in (0u32..).zip(&idx) {
                    if !(first..first + count).contains(e) {
                        continue;
                    }
                    let r = if gated { q / top_k } else { q };
                    let row = &x[(p.x_offset + r * p.x_stride) as usize..][..k as usize];
                    for i in 0..n {
                        out[(p.y_offset + q * p.y_stride + i) as usize] =
                            Some(experts.answer(gated, *e, i, row));
                    }
                }
                idx.resize((bucket * top_k) as usize, u32::MAX);
                let range = first as usize..(first + count) as usize;
                let mut args = vec![
                    Arg::F32(x),
                    Arg::U32(idx),
                    Arg::Experts(&experts.gates[range.clone()]),
                ];
                if gated {
                    args.push(Arg::Experts(&experts.ups[range]));
                }
                args.push(Arg::Out(out));
                check(Case {
                    name: format!("expert {dtype} {tokens} of {bucket} x {n} x {k}, gated {gated}"),
                    op: if gated {
                        OpKind::ExpertGateUp
                    } else {
                        OpKind::ExpertLinear
                    },
                    weight: dtype,
                    params: p,
                    step: Step0::of(bucket, tokens),
                    args,
                    tolerance: SUMS,
                });
            }
        }
    }
}

#[test]
fn combine_adds_the_weighted_rows_to_the_base() {
    let (bucket, tokens, top_k, n) = (6u32, 5u32, 3u32, 70u32);
    for placed in [true, false] {
        let p = Params {
            rows: bucket,
            count_word: Inputs::TOKENS,
            count_scale: 1,
            n,
            top_k,
            x_offset: 1,
            x_stride: n + 3,
            y_offset: 2,
            y_stride: n + 1,
            b_offset: 3,
            b_stride: n + 2,
            flags: if placed { flags::PLACED } else { 0 },
            ..Params::default()
        };
        let mut random = Random(31);
        let all = (bucket * top_k) as usize;
        let x = random.floats(p.x_offset as usize + all * p.x_stride as usize);
        let weight = random.floats(all);
        let base = random.floats((p.b_offset + bucket * p.b_stride) as usize);
        let (_, _, mut place) = sorted(&choices(tokens, top_k), EXPERTS);
        place.resize(all, u32::MAX);
        let mut out = vec![None; (p.y_offset + bucket * p.y_stride) as usize];
        for r in 0..tokens {
            for i in 0..n {
                let mut sum = f64::from(base[(p.b_offset + r * p.b_stride + i) as usize]);
                for c in r * top_k..(r + 1) * top_k {
                    let row = if placed { place[c as usize] } else { c };
                    let value = x[(p.x_offset + row * p.x_stride + i) as usize];
                    sum += f64::from(weight[c as usize]) * f64::from(value);
                }
                out[(p.y_offset + r * p.y_stride + i) as usize] = Some(sum);
            }
        }
        check(Case {
            name: format!("combine, placed {placed}"),
            op: OpKind::Combine,
            weight: DType::F32,
            params: p,
            step: Step0::of(bucket, tokens),
            args: vec![
                Arg::F32(x),
                Arg::F32(weight),
                Arg::U32(place),
                Arg::F32(base),
                Arg::Out(out),
            ],
            tolerance: VALUES,
        });
    }
}
