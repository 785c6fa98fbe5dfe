//! Positions and the cache: `rope`, `cache_append`, `attend_latent`, `attend_expanded`.

use hadal_device::{Inputs, PAGE, Params, flags};
use hadal_graph::reference::{self, Tensor};

use super::dense::{near, shard, weights};
use super::layout::{Activations, Context, GARBAGE, Rows, magnitude, params};
use super::{OpCase, Operand, Twist, Want};
use crate::random::Random;
use crate::shape::Shape;
use crate::tolerance;
use crate::weights::Weights;

type Made = (Params, Vec<Operand>);

/// Softmax scale of the attention cases: scores of some units, so that several positions
/// matter and none alone.
pub(super) const SCALE: f32 = 0.31;
/// Norm epsilon, large enough to matter.
const EPS: f32 = 1e-3;

/// `params` of a case that looks at `inputs` for more than counts.
pub(super) fn paged(shape: &Shape, context: &Context, x: Rows, y: Rows) -> Params {
    Params {
        count_word: Inputs::TOKENS,
        heads: shape.heads,
        nope: shape.nope,
        rope: shape.rope,
        value: shape.value,
        latent: shape.latent,
        scale: SCALE,
        page_stride: context.page_stride,
        ..params(shape, x, y)
    }
}

pub fn rope(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let context = Context::new(random, shape);
    let head = shape.nope + shape.rope;
    let x = Activations::random(random, shape, shape.heads * head);
    // Cosines and sines of nothing in particular, so that each has its own place.
    let angles = Activations::from(
        random.floats((shape.context * shape.rope) as usize),
        Rows::dense(shape.rope, shape.context),
    );
    let y = Rows::of(shape, shape.heads * shape.rope);
    let share = tolerance::share(case.op, 2);
    let mut want = y.untouched();
    for (r, _, position) in context.tokens() {
        for a in 0..shape.heads {
            let part = &x.row(r)[(a * head + shape.nope) as usize..][..shape.rope as usize];
            let turned = reference::rotate(part, angles.row(position));
            for (value, i) in turned.iter().zip(0..) {
                // Two products of numbers below 1.
                want[y.at(r, a * shape.rope + i)] = near(*value, 2.0 * share);
            }
        }
    }
    let params = Params {
        x_offset: x.rows.offset + shape.nope,
        x_head_stride: head,
        y_head_stride: shape.rope,
        ..paged(shape, &context, x.rows, y)
    };
    let inputs = context.inputs.operand(shape);
    (
        params,
        vec![
            inputs,
            x.operand(),
            angles.operand(),
            Operand::Output("rotated", want),
        ],
    )
}

pub fn cache_append(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let context = Context::new(random, shape);
    let x = Activations::random(random, shape, shape.n);
    let cache = Rows::dense(shape.n, context.pages * PAGE);
    let mut want = cache.untouched();
    for (r, sequence, position) in context.tokens() {
        let row = context.row(sequence, position);
        for i in 0..shape.n {
            let word = x.stored[(r * shape.n + i) as usize].to_bits();
            want[cache.at(row, i)] = Want::Word(word);
        }
    }
    let params = paged(shape, &context, x.rows, Rows::dense(0, 0));
    let inputs = context.inputs.operand(shape);
    (
        params,
        vec![inputs, x.operand(), Operand::Output("cache rows", want)],
    )
}

pub fn latent_append(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let context = Context::new(random, shape);
    let width = shape.latent + shape.rope;
    let x = Activations::random(random, shape, width);
    let norm = Weights::random(random, case.weight, 1, shape.latent as usize);
    let angles = Activations::from(
        random.floats((shape.context * shape.rope) as usize),
        Rows::dense(shape.rope, shape.context),
    );
    let cache = Rows::dense(width, context.pages * PAGE);
    let share = tolerance::share(case.op, shape.latent);
    let mut want = cache.untouched();
    for (r, sequence, position) in context.tokens() {
        let (latent, key) = x.row(r).split_at(shape.latent as usize);
        let latent = Tensor {
            shape: vec![1, latent.len()],
            data: latent.to_vec(),
        };
        let normed = reference::norm(&latent, &norm.values, EPS).data;
        let turned = reference::rotate(key, angles.row(position));
        let row = context.row(sequence, position);
        let values = normed.iter().map(|v| near(*v, share * v.abs()));
        // Two products of numbers below 1.
        let values = values.chain(turned.iter().map(|v| near(*v, 2.0 * share)));
        for (value, i) in values.zip(0..) {
            want[cache.at(row, i)] = value;
        }
    }
    let params = Params {
        n: width,
        eps: EPS,
        ..paged(shape, &context, x.rows, Rows::dense(0, 0))
    };
    let operands = vec![
        context.inputs.operand(shape),
        x.operand(),
        Operand::Stored(norm.bytes),
        angles.operand(),
        Operand::Output("cache rows", want),
    ];
    (params, operands)
}

/// A cache that holds numbers only where a token of the step may look.
pub(super) struct Cache {
    width: usize,
    values: Vec<f64>,
    pub words: Vec<u32>,
}

impl Cache {
    pub fn new(random: &mut Random, context: &Context, width: u32) -> Cache {
        let rows = (context.pages * PAGE) as usize;
        let width = width as usize;
        let mut cache = Cache {
            width,
            values: vec![f64::NAN; rows * width],
            words: vec![GARBAGE; rows * width],
        };
        let mut lengths = [0; 2];
        for (_, sequence, position) in context.tokens() {
            lengths[sequence as usize] = position + 1;
        }
        for (length, sequence) in lengths.into_iter().zip(0..) {
            for position in 0..length {
                let row = context.row(sequence, position) as usize;
                for at in row * width..(row + 1) * width {
                    let value = random.unit();
                    cache.values[at] = value.into();
                    cache.words[at] = value.to_bits();
                }
            }
        }
        cache
    }

    /// Makes the row of a position NaN.
    fn spoil(&mut self, context: &Context, sequence: u32, position: u32) {
        let row = context.row(sequence, position) as usize;
        let at = row * self.width..(row + 1) * self.width;
        self.values[at.clone()].fill(f64::NAN);
        self.words[at].fill(f32::NAN.to_bits());
    }

    /// What the token at `position` of `sequence` sees.
    pub fn seen(&self, context: &Context, sequence: u32, position: u32) -> Vec<&[f64]> {
        let row = |s| &self.values[context.row(sequence, s) as usize * self.width..][..self.width];
        (0..=position).map(row).collect()
    }
}

/// What scores of a query with cached values, which are below 1, may be off by.
pub(super) fn score_error(case: &OpCase, query: &[f64]) -> f64 {
    let most: f64 = magnitude(query).iter().sum();
    let rounded = match case.shape.flags & flags::ROUGH {
        0 => 0.0,
        _ => tolerance::rounded_sum(query.iter().map(|q| q * q).sum::<f64>().sqrt()),
    };
    (tolerance::share(case.op, query.len() as u32) * most + rounded) * f64::from(SCALE)
}

/// What softmax and mixing leave of scores that are off by `score`, over values of magnitude
/// `mixed`.
pub(super) fn attention_error(case: &OpCase, score: f64, positions: usize, mixed: f64) -> f64 {
    // The powers and the values.
    let rounded = match case.shape.flags & flags::ROUGH {
        0 => 0.0,
        _ => 2.0 * tolerance::BF16,
    };
    // A score's error counts twice: in its own power and in their sum.
    (2.0 * score + tolerance::share(case.op, positions as u32) + rounded) * mixed
}

pub fn attend_latent(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let context = Context::new(random, shape);
    let width = shape.latent + shape.rope;
    let mut cache = Cache::new(random, &context, width);
    if case.twist == Twist::Nan {
        // Seen by the last token of one sequence alone.
        cache.spoil(&context, 0, shape.context - 1);
    }
    let q = Activations::random(random, shape, shape.heads * width);
    let y = Rows::of(shape, shape.heads * shape.latent);
    let mut want = y.untouched();
    for (r, sequence, position) in context.tokens() {
        let seen = cache.seen(&context, sequence, position);
        for a in 0..shape.heads {
            let query = &q.row(r)[(a * width) as usize..][..width as usize];
            let mixed = reference::attend_latent(query, &seen, shape.latent as usize, SCALE.into());
            let error = attention_error(case, score_error(case, query), seen.len(), 1.0);
            for (value, i) in mixed.iter().zip(0..) {
                want[y.at(r, a * shape.latent + i)] = match value.is_nan() {
                    true => Want::Nan,
                    false => near(*value, error),
                };
            }
        }
    }
    let params = Params {
        x_head_stride: width,
        y_head_stride: shape.latent,
        ..paged(shape, &context, q.rows, y)
    };
    let inputs = context.inputs.operand(shape);
    let out = Operand::Output("mixed latents", want);
    (
        params,
        vec![inputs, q.operand(), Operand::Words(cache.words), out],
    )
}

pub fn attend_expanded(case: &OpCase, random: &mut Random) -> Made {
    let shape = &case.shape;
    let context = Context::new(random, shape);
    let (head, head_rows) = (shape.nope + shape.rope, shape.nope + shape.value);
    let cache = Cache::new(random, &context, shape.latent + shape.rope);
    let q = Activations::random(random, shape, shape.heads * head);
    let weights = weights(case, random, shape.heads * head_rows, shape.latent);
    let y = Rows::of(shape, shape.heads * shape.value);
    let mut want = y.untouched();
    for (r, sequence, position) in context.tokens() {
        let seen = cache.seen(&context, sequence, position);
        for a in 0..shape.heads {
            let query = &q.row(r)[(a * head) as usize..][..head as usize];
            let projection = weights.rows((a * head_rows) as usize, head_rows as usize);
            let nope = shape.nope as usize;
            let mixed = reference::attend_expanded(query, &seen, projection, nope, SCALE.into());
            let (keys, values) = projection.split_at(nope * shape.latent as usize);
            // Sums of magnitudes over latents below 1: of a key's products, of a value's.
            let row_sum = |row: &[f64]| magnitude(row).iter().sum::<f64>();
            let parts = query.iter().zip(keys.chunks(shape.latent as usize));
            let most =
                parts.map(|(q, row)| q.abs() * row_sum(row)).sum::<f64>() + row_sum(&query[nope..]);
            for (value, (i, row)) in mixed
                .iter()
                .zip((0..).zip(values.chunks(shape.latent as usize)))
            {
                let terms = shape.latent + head;
                let score = tolerance::share(case.op, terms) * most * f64::from(SCALE);
                let error = attention_error(case, score, seen.len(), row_sum(row));
                let sums = tolerance::share(case.op, shape.latent) * row_sum(row);
                want[y.at(r, a * shape.value + i)] = near(*value, error + sums);
            }
        }
    }
    let params = Params {
        x_head_stride: head,
        y_head_stride: shape.value,
        ..paged(shape, &context, q.rows, y)
    };
    let mut operands = vec![
        context.inputs.operand(shape),
        q.operand(),
        Operand::Words(cache.words),
    ];
    operands.extend(shard(&weights, 0, shape.heads * head_rows));
    operands.push(Operand::Output("mixed values", want));
    (params, operands)
}
