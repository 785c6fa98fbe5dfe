//! Attention in parts of the positions, and putting the parts together: `attend_part`,
//! `attend_merge`.

use hadal_device::Params;
use hadal_graph::reference::dot;

use super::attention::{Cache, SCALE, attention_error, paged, score_error};
use super::dense::near;
use super::layout::{Activations, Context, GARBAGE, Rows};
use super::shapes::NONE;
use super::{OpCase, Operand};
use crate::random::Random;
use crate::shape::Shape;
use crate::tolerance;

type Made = (Params, Vec<Operand>);

/// Parts in all: those of the dispatch and those before and after it.
fn parts(shape: &Shape) -> u32 {
    shape.first + shape.n + shape.after
}

/// First position of part `part` of a row with `positions` of them, and the one after its
/// last; nothing if there is none.
fn part(shape: &Shape, positions: u32, part: u32) -> Option<(u32, u32)> {
    let length = shape.k * positions.div_ceil(parts(shape) * shape.k);
    let first = part * length;
    (first < positions).then(|| (first, positions.min(first + length)))
}

/// Positions in `n` parts whose lengths are multiples of `k`; `first` parts lie before those
/// of the dispatch, `after` behind.
pub(super) fn shapes() -> Vec<Shape> {
    let shape = |real, context, heads, latent, rope, n, k| Shape {
        real,
        context,
        heads,
        latent,
        rope,
        n,
        k,
        ..NONE
    };
    vec![
        shape(1, 1, 1, 4, 4, 2, 8),
        Shape {
            gap: 4,
            spare: 1,
            ..shape(1, 200, 8, 64, 16, 4, 16)
        },
        Shape {
            first: 1,
            after: 2,
            ..shape(2, 130, 5, 48, 8, 6, 8)
        },
        shape(2, 700, 4, 16, 4, 8, 64),
        shape(1, 100, 3, 512, 64, 3, 64),
        // Whole tiles of columns, and heads that are no whole tiles.
        shape(2, 300, 20, 128, 32, 3, 64),
        // Sixty-four queries and more; of the last part of the second, few have positions.
        shape(1, 200, 64, 64, 16, 4, 16),
        Shape {
            first: 3,
            gap: 4,
            ..shape(18, 130, 4, 32, 8, 6, 8)
        },
        // Products that may be rounded: the true width, and parts without positions.
        shape(1, 300, 66, 512, 64, 3, 64).rough(),
        Shape {
            first: 3,
            gap: 4,
            ..shape(18, 130, 4, 32, 8, 6, 8).rough()
        },
    ]
}

pub fn attend_part(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let context = Context::new(random, shape);
    let width = shape.latent + shape.rope;
    let cache = Cache::new(random, &context, width);
    let q = Activations::random(random, shape, shape.heads * width);
    let (all, latent) = (parts(shape), shape.latent);
    let mix = Rows::of(shape, shape.heads * all * latent);
    let sums = Rows::of(shape, shape.heads * all * 2);
    let (mut mixed, mut summed) = (mix.untouched(), sums.untouched());
    for (r, sequence, position) in context.tokens() {
        let seen = cache.seen(&context, sequence, position);
        for a in 0..shape.heads {
            let query = &q.row(r)[(a * width) as usize..][..width as usize];
            let score_error = score_error(case, query);
            for j in shape.first..shape.first + shape.n {
                let Some((first, end)) = part(shape, position + 1, j) else {
                    continue;
                };
                let rows = &seen[first as usize..end as usize];
                let scores: Vec<f64> = rows
                    .iter()
                    .map(|row| f64::from(SCALE) * dot(query, row))
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f64 = powers.iter().sum();
                let error = attention_error(case, score_error, rows.len(), total);
                let at = 2 * (a * all + j);
                summed[sums.at(r, at)] = near(largest, score_error);
                summed[sums.at(r, at + 1)] = near(total, error);
                for c in 0..latent {
                    let values = powers.iter().zip(rows).map(|(p, row)| p * row[c as usize]);
                    mixed[mix.at(r, (a * all + j) * latent + c)] = near(values.sum(), error);
                }
            }
        }
    }
    let params = Params {
        n: all,
        k: shape.k,
        row_first: shape.first,
        row_count: shape.n,
        x_head_stride: width,
        y_head_stride: all * latent,
        b_offset: sums.offset,
        b_stride: sums.stride,
        ..paged(shape, &context, q.rows, mix)
    };
    let operands = vec![
        context.inputs.operand(shape),
        q.operand(),
        Operand::Words(cache.words),
        Operand::Output("mixed latents of parts", mixed),
        Operand::Output("sums of parts", summed),
    ];
    (params, operands)
}

pub fn attend_merge(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let context = Context::new(random, shape);
    let (all, latent) = (parts(shape), shape.latent);
    let garbage = f32::from_bits(GARBAGE);
    let mut mix = vec![garbage; (shape.real * shape.heads * all * latent) as usize];
    let mut sums = vec![garbage; (shape.real * shape.heads * all * 2) as usize];
    let y = Rows::of(shape, shape.heads * latent);
    let mut want = y.untouched();
    for (r, _, position) in context.tokens() {
        for a in 0..shape.heads {
            let (mut total, mut most) = (0.0, 0.0f64);
            let mut value = vec![(0.0, 0.0); latent as usize];
            let filled: Vec<u32> = (0..all)
                .filter(|j| part(shape, position + 1, *j).is_some())
                .collect();
            let at = |j: u32| ((r * shape.heads + a) * all + j) as usize;
            for &j in &filled {
                // Powers of these alone are no numbers any more.
                sums[2 * at(j)] = 95.0 + 3.0 * random.unit();
                sums[2 * at(j) + 1] = 1.5 + random.unit();
                most = if j == 0 {
                    sums[2 * at(j)].into()
                } else {
                    most.max(sums[2 * at(j)].into())
                };
            }
            for &j in &filled {
                let power = (f64::from(sums[2 * at(j)]) - most).exp();
                total += power * f64::from(sums[2 * at(j) + 1]);
                for (c, value) in value.iter_mut().enumerate() {
                    let mean = random.unit();
                    mix[at(j) * latent as usize + c] = mean;
                    value.0 += power * f64::from(mean);
                    value.1 += power * f64::from(mean).abs();
                }
            }
            let share = tolerance::share(case.op, all);
            for (c, (sum, magnitude)) in (0..).zip(value) {
                want[y.at(r, a * latent + c)] = near(sum / total, share * magnitude / total);
            }
        }
    }
    let mix = Activations::from(mix, Rows::of(shape, shape.heads * all * latent));
    let sums = Activations::from(sums, Rows::of(shape, shape.heads * all * 2));
    let params = Params {
        n: all,
        k: shape.k,
        row_first: shape.first,
        row_count: shape.n,
        x_head_stride: all * latent,
        y_head_stride: latent,
        b_offset: sums.rows.offset,
        b_stride: sums.rows.stride,
        ..paged(shape, &context, mix.rows, y)
    };
    let operands = vec![
        context.inputs.operand(shape),
        mix.operand(),
        sums.operand(),
        Operand::Output("mixed latents", want),
    ];
    (params, operands)
}
