//! Embedding, norms and operations on single values.

use hadal_device::{DType, Inputs, NO_ARGMAX, OpKind, Params, e4m3_to_f32, f32_to_e4m3, flags};

use crate::formats::{FORMATS, Weight};
use crate::harness::{Arg, Case, Random, SUMS, Step0, VALUES, check};

const BUCKET: u32 = 5;
const TOKENS: u32 = 4;

fn params(n: u32) -> Params {
    Params {
        rows: BUCKET,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n,
        x_offset: 3,
        x_stride: n + 5,
        y_offset: 2,
        y_stride: n + 1,
        b_offset: 1,
        b_stride: n + 2,
        ..Params::default()
    }
}

fn x_for(p: &Params, random: &mut Random) -> Vec<f32> {
    random.floats((p.x_offset + p.rows * p.x_stride) as usize)
}

fn row<'x>(x: &'x [f32], p: &Params, r: u32) -> &'x [f32] {
    &x[(p.x_offset + r * p.x_stride) as usize..][..p.n as usize]
}

/// The rows of an output, laid out.
fn output(
    p: &Params,
    rows: u32,
    mut values: impl FnMut(u32) -> Vec<Option<f64>>,
) -> Vec<Option<f64>> {
    let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
    for r in 0..rows {
        let at = (p.y_offset + r * p.y_stride) as usize;
        for (i, value) in values(r).into_iter().enumerate() {
            out[at + i] = value;
        }
    }
    out
}

fn simple(op: OpKind, p: Params, step: Step0, args: Vec<Arg<'_>>, tolerance: f64) {
    check(Case {
        name: format!("{} {}", op.name(), p.n),
        op,
        weight: DType::F32,
        params: p,
        step,
        args,
        tolerance,
    });
}

#[test]
fn an_embedding_shard_writes_only_its_own_tokens() {
    for dtype in FORMATS {
        let (vocabulary, n, first, count) = (300usize, 72u32, 130u32, 100u32);
        let w = Weight::random(dtype, vocabulary, n as usize, &mut Random(3));
        let mut step = Step0::of(BUCKET, TOKENS);
        step.ids = vec![129, 130, 229, 230, 131];
        let p = Params {
            row_first: first,
            row_count: count,
            ..params(n)
        };
        let out = output(&p, TOKENS, |t| {
            let id = step.ids[t as usize];
            let inside = (first..first + count).contains(&id);
            w.row(id as usize)
                .iter()
                .map(|v| inside.then_some(*v))
                .collect()
        });
        let shard = w.shard(first as usize, count as usize);
        check(Case {
            name: format!("embed {dtype}"),
            op: OpKind::Embed,
            weight: dtype,
            params: p,
            step,
            args: vec![Arg::Weight(&shard), Arg::Out(out)],
            tolerance: VALUES,
        });
    }
}

#[test]
fn a_norm_divides_by_the_root_mean_square() {
    for dtype in FORMATS.into_iter().filter(|d| !d.has_block_scales()) {
        for n in [1u32, 24, 72, 200] {
            let p = Params {
                eps: 1e-3,
                ..params(n)
            };
            let mut random = Random(5);
            let x = x_for(&p, &mut random);
            let w = Weight::random(dtype, 1, n as usize, &mut random);
            let out = output(&p, TOKENS, |r| {
                let x = row(&x, &p, r);
                let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / f64::from(n);
                let factor = 1.0 / (mean + f64::from(p.eps)).sqrt();
                x.iter()
                    .zip(&w.values)
                    .map(|(x, w)| Some(f64::from(*x) * factor * w))
                    .collect()
            });
            check(Case {
                name: format!("norm {dtype} {n}"),
                op: OpKind::Norm,
                weight: dtype,
                params: p,
                step: Step0::of(BUCKET, TOKENS),
                args: vec![Arg::F32(x), Arg::Weight(&w), Arg::Out(out)],
                tolerance: SUMS,
            });
        }
    }
}

#[test]
fn swiglu_and_add_join_two_rows_and_survive_large_values() {
    for op in [OpKind::SwiGlu, OpKind::Add] {
        for n in [1u32, 70, 200] {
            let p = params(n);
            let mut random = Random(7);
            let mut a = x_for(&p, &mut random);
            // exp of these overflows in f32.
            a[p.x_offset as usize] = -200.0;
            a[(p.x_offset + p.x_stride) as usize] = 200.0;
            let b = random.floats((p.b_offset + p.rows * p.b_stride) as usize);
            let out = output(&p, TOKENS, |r| {
                let b = &b[(p.b_offset + r * p.b_stride) as usize..];
                let join = |(a, b): (&f32, &f32)| {
                    let (a, b) = (f64::from(*a), f64::from(*b));
                    Some(if op == OpKind::Add {
                        a + b
                    } else {
                        a / (1.0 + (-a).exp()) * b
                    })
                };
                row(&a, &p, r).iter().zip(b).map(join).collect()
            });
            let args = vec![Arg::F32(a), Arg::F32(b), Arg::Out(out)];
            simple(op, p, Step0::of(BUCKET, TOKENS), args, VALUES);
        }
    }
}

#[test]
fn copy_moves_a_slice_of_each_head() {
    let (heads, n) = (3u32, 70u32);
    let p = Params {
        heads,
        x_head_stride: n + 10,
        x_stride: heads * (n + 10),
        y_head_stride: n + 3,
        y_stride: heads * (n + 3) + 1,
        ..params(n)
    };
    let x = x_for(&p, &mut Random(11));
    let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
    for r in 0..TOKENS {
        for a in 0..heads {
            for i in 0..n {
                let from = p.x_offset + r * p.x_stride + a * p.x_head_stride + i;
                let to = p.y_offset + r * p.y_stride + a * p.y_head_stride + i;
                out[to as usize] = Some(x[from as usize].into());
            }
        }
    }
    let args = vec![Arg::F32(x), Arg::Out(out)];
    simple(OpKind::Copy, p, Step0::of(BUCKET, TOKENS), args, 0.0);
}

#[test]
fn gather_takes_the_rows_whose_logits_are_wanted() {
    let mut step = Step0::of(BUCKET, TOKENS);
    step.logit_rows = 2;
    step.gathered = vec![3, 1];
    let p = Params {
        count_word: Inputs::LOGIT_ROWS,
        ..params(70)
    };
    let x = x_for(&p, &mut Random(13));
    let out = output(&p, 2, |i| {
        let from = row(&x, &p, step.gathered[i as usize]);
        from.iter().map(|v| Some(f64::from(*v))).collect()
    });
    simple(
        OpKind::Gather,
        p,
        step,
        vec![Arg::F32(x), Arg::Out(out)],
        0.0,
    );
}

#[test]
fn argmax_passes_over_nan_and_takes_the_first_of_equals() {
    for n in [1u32, 9, 300] {
        let p = Params {
            y_stride: 1,
            ..params(n)
        };
        let mut random = Random(17);
        let mut x = x_for(&p, &mut random);
        let at = |r: u32, i: u32| (p.x_offset + r * p.x_stride + i) as usize;
        if n > 8 {
            // Row 0: NaN beside a tie of the largest. Row 1: all negative, infinities.
            (x[at(0, 2)], x[at(0, 4)], x[at(0, 7)]) = (f32::NAN, 5.0, 5.0);
            (0..n).for_each(|i| x[at(1, i)] = f32::NEG_INFINITY);
            x[at(1, 5)] = -3.0;
            // Row 2: both zeros are alike. Row 3: nothing but NaN and the lowest value.
            (0..n).for_each(|i| x[at(2, i)] = -1.0);
            (x[at(2, 3)], x[at(2, 6)]) = (-0.0, 0.0);
            (0..n).for_each(|i| x[at(3, i)] = f32::NAN);
            x[at(3, 8)] = f32::NEG_INFINITY;
            if n == 300 {
                (0..n).for_each(|i| x[at(2, i)] = f32::NAN);
            }
        }
        let mut out = vec![None; (p.y_offset + p.rows) as usize];
        for r in 0..TOKENS {
            let mut best = None;
            for (i, value) in (0u32..).zip(row(&x, &p, r)) {
                if !value.is_nan() && best.is_none_or(|(b, _)| *value > b) {
                    best = Some((*value, i));
                }
            }
            out[(p.y_offset + r) as usize] = Some(best.map_or(NO_ARGMAX, |(_, i)| i));
        }
        let args = vec![Arg::F32(x), Arg::OutU32(out)];
        simple(OpKind::Argmax, p, Step0::of(BUCKET, TOKENS), args, 0.0);
    }
}

#[test]
fn activations_are_rounded_to_e4m3_by_groups_of_128() {
    for ue8m0 in [false, true] {
        for n in [24u32, 128, 200, 300] {
            let p = Params {
                flags: if ue8m0 { flags::UE8M0 } else { 0 },
                ..params(n)
            };
            let mut random = Random(19);
            let mut x = x_for(&p, &mut random);
            // A group of zeros, an outlier, a group whose scale is a power of two exactly.
            x[p.x_offset as usize..][..24].fill(0.0);
            x[(p.x_offset + p.x_stride) as usize] = 40.0;
            // In the last, the smallest code that this scale and no larger one can tell
            // from zero.
            x[(p.x_offset + 2 * p.x_stride) as usize + 3] = 448.0 / 16.0;
            x[(p.x_offset + 2 * p.x_stride) as usize + 4] = 2f32.powi(-13);
            let out = output(&p, TOKENS, |r| {
                row(&x, &p, r)
                    .chunks(128)
                    .flat_map(|g| quantised(g, ue8m0))
                    .map(Some)
                    .collect()
            });
            let args = vec![Arg::F32(x), Arg::Out(out)];
            simple(OpKind::ActQuant, p, Step0::of(BUCKET, TOKENS), args, VALUES);
        }
    }
}

fn quantised(group: &[f32], ue8m0: bool) -> Vec<f64> {
    let amax = group.iter().fold(1e-4f32, |m, v| m.max(v.abs()));
    let scale = if ue8m0 {
        f64::from(amax / 448.0).log2().ceil().exp2() as f32
    } else {
        amax / 448.0
    };
    let value = |v: &f32| f64::from(e4m3_to_f32(f32_to_e4m3(v / scale))) * f64::from(scale);
    group.iter().map(value).collect()
}
