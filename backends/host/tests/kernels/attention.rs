//! `attend_expanded`, `cache_append`, and what attention in either form is tested with.

use hadal_device::{DType, Inputs, OpKind, Params, flags};

use crate::stage::*;

pub const PAGE_STRIDE: usize = 5;
pub const CACHE_PAGES: usize = 12;

/// Rows of a step: `(sequence, position)`; sequence 1 lies in scattered pages.
pub fn steps() -> Vec<Vec<(u32, u32)>> {
    vec![
        vec![(0, 0)],
        vec![(1, 200)],
        vec![(0, 63), (0, 64), (0, 65)],
        (0..70).map(|p| (1, p)).collect(),
        (0..20)
            .map(|p| (1, 100 + p))
            .chain((0..9).map(|p| (0, 3 + p)))
            .chain([(1, 7)])
            .collect(),
        // Before the end of a page and after it, the other way round, behind another sequence.
        (0..15)
            .map(|p| (0, p))
            .chain((40..80).rev().map(|p| (1, p)))
            .collect(),
    ]
}

pub fn inputs(rows: &[(u32, u32)], bucket: usize) -> StepInputs {
    let mut inputs = StepInputs::rows(rows.len(), bucket);
    inputs.sequences = rows.iter().map(|r| r.0).collect();
    inputs.positions = rows.iter().map(|r| r.1).collect();
    inputs.pages = vec![3, 5, 1, 99, 99, 11, 2, 7, 0, 99];
    inputs
}

pub fn cache_row(inputs: &StepInputs, sequence: u32, position: usize) -> usize {
    let page = inputs.pages[sequence as usize * PAGE_STRIDE + position / 64];
    page as usize * 64 + position % 64
}

/// A cache in which only positions up to the last of each sequence are numbers.
pub fn cache(random: &mut Random, inputs: &StepInputs, width: usize) -> Vec<f32> {
    let mut cache = vec![f32::NAN; CACHE_PAGES * 64 * width];
    for (sequence, position) in inputs.sequences.iter().zip(&inputs.positions) {
        for s in 0..=*position as usize {
            let row = cache_row(inputs, *sequence, s) * width;
            for value in &mut cache[row..row + width] {
                *value = random.unit();
            }
        }
    }
    cache
}

pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
    scores.iter().map(|s| (s - most).exp() / sum).collect()
}

/// Scores are off by at most `k * 2^-24 * |q||k| * scale`, all numbers here below 1; the
/// mixing of values below `bound` with weights that sum to 1 inherits that error.
pub fn tolerance(k: usize, positions: usize, bound: f64) -> f64 {
    let chain = (k + positions + 200) as f64;
    bound * chain * 4.0 / (1u64 << 24) as f64
}

pub struct Shape {
    pub heads: usize,
    nope: usize,
    pub rope: usize,
    value: usize,
    pub latent: usize,
    pub scale: f32,
}

impl Shape {
    /// How far an error of a score goes, beside that of the usual scale.
    pub fn spread(&self) -> f64 {
        f64::from(self.scale / SCALE)
    }
}

pub const SCALE: f32 = 0.31;

pub const SHAPES: [Shape; 5] = [
    Shape {
        heads: 1,
        nope: 8,
        rope: 4,
        value: 6,
        latent: 20,
        scale: SCALE,
    },
    Shape {
        heads: 5,
        nope: 33,
        rope: 18,
        value: 29,
        latent: 130,
        scale: SCALE,
    },
    Shape {
        heads: 8,
        nope: 16,
        rope: 16,
        value: 48,
        latent: 64,
        scale: SCALE,
    },
    // So many heads that groups of them are not one or two; scores of which no power is finite.
    Shape {
        heads: 20,
        nope: 4,
        rope: 4,
        value: 16,
        latent: 16,
        scale: 90.0,
    },
    // Whole tiles of columns, and two blocks of heads.
    Shape {
        heads: 25,
        nope: 8,
        rope: 32,
        value: 8,
        latent: 128,
        scale: SCALE,
    },
];

pub fn params(shape: &Shape, rows: usize) -> Params {
    Params {
        rows: rows as u32,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        heads: shape.heads as u32,
        nope: shape.nope as u32,
        rope: shape.rope as u32,
        value: shape.value as u32,
        latent: shape.latent as u32,
        scale: shape.scale,
        page_stride: PAGE_STRIDE as u32,
        ..Params::default()
    }
}

/// Keys and values of head `a` at one position, from the latent.
fn expand(shape: &Shape, w: &Weights, a: usize, stored: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let first = a * (shape.nope + shape.value);
    let project = |row: usize| -> f64 {
        (0..shape.latent)
            .map(|c| w.at(first + row, c) * f64::from(stored[c]))
            .sum()
    };
    let mut key: Vec<f64> = (0..shape.nope).map(project).collect();
    key.extend(stored[shape.latent..].iter().map(|v| f64::from(*v)));
    (
        key,
        (shape.nope..shape.nope + shape.value)
            .map(project)
            .collect(),
    )
}

/// What each row and head should give: `[rows][heads][value]`, and its error.
fn expanded(
    shape: &Shape,
    params: &Params,
    (inputs, cache, w): (&StepInputs, &[f32], &Weights),
    q: &[f32],
) -> Vec<Want> {
    let (width, key) = (shape.latent + shape.rope, shape.nope + shape.rope);
    let steps: Vec<(u32, u32)> = inputs
        .sequences
        .iter()
        .copied()
        .zip(inputs.positions.iter().copied())
        .collect();
    let mut want = vec![Want::Poison; inputs.bucket as usize * shape.heads * shape.value];
    for a in 0..shape.heads {
        let positions = |q: u32| {
            steps
                .iter()
                .filter(|s| s.0 == q)
                .map(|s| s.1 + 1)
                .max()
                .unwrap_or(0)
        };
        let all: Vec<Vec<_>> = (0..2)
            .map(|q| {
                let row = |s: u32| &cache[cache_row(inputs, q, s as usize) * width..][..width];
                (0..positions(q))
                    .map(|s| expand(shape, w, a, row(s)))
                    .collect()
            })
            .collect();
        for (r, (sequence, position)) in steps.iter().enumerate() {
            let seen = &all[*sequence as usize][..=*position as usize];
            let q = &q[r * params.x_stride as usize + a * key..][..key];
            let score = |k: &[f64]| -> f64 {
                q.iter().zip(k).map(|(q, k)| f64::from(*q) * k).sum::<f64>()
                    * f64::from(params.scale)
            };
            let p = softmax(&seen.iter().map(|(k, _)| score(k)).collect::<Vec<_>>());
            // Expanded numbers are as large as a sum over the latent.
            let bound = 4.0 * (shape.latent as f64).sqrt();
            let mut off = shape.spread() * tolerance(key + shape.latent, seen.len(), bound);
            if params.flags & flags::ROUGH != 0 {
                // A few steps of the twelve bits that are left.
                off += shape.spread() * bound * 3.0 / 2340.0;
            }
            for c in 0..shape.value {
                let mixed: f64 = p.iter().zip(seen).map(|(p, (_, v))| p * v[c]).sum();
                want[(r * shape.heads + a) * shape.value + c] = Want::Near(mixed, off);
            }
        }
    }
    want
}

#[test]
fn expanded_attention_rebuilds_keys_and_values_from_the_latent() {
    let mut random = Random(22);
    for dtype in WEIGHTS {
        for shape in &SHAPES {
            let (heads, key) = (shape.heads, shape.nope + shape.rope);
            for rows in steps() {
                let bucket = rows.len() + 1;
                let inputs = inputs(&rows, bucket);
                let cache = cache(&mut random, &inputs, shape.latent + shape.rope);
                let head_rows = heads * (shape.nope + shape.value);
                let w = Weights::random(&mut random, dtype, head_rows, shape.latent);
                let q = random.floats(bucket * heads * key);
                let params = Params {
                    x_stride: (heads * key) as u32,
                    x_head_stride: key as u32,
                    y_stride: (heads * shape.value) as u32,
                    y_head_stride: shape.value as u32,
                    ..params(shape, bucket)
                };
                for flags in [0, flags::ROUGH] {
                    let params = Params { flags, ..params };
                    let want = expanded(shape, &params, (&inputs, &cache, &w), &q);
                    let mut operands = vec![inputs.operand(), activations(&q), activations(&cache)];
                    operands.extend(w.whole());
                    operands.push(Operation::Out(want.len()));
                    check_all(OpKind::AttendExpanded, dtype, params, &operands, &[want]);
                }
            }
        }
    }
}

#[test]
fn a_row_is_appended_where_its_page_table_says() {
    let mut random = Random(23);
    let n = 37;
    for rows in steps() {
        // A position twice would make the order of rows matter.
        let bucket = rows.len() + 2;
        let inputs = inputs(&rows, bucket);
        let x = random.floats(bucket * (n + 2));
        let params = Params {
            rows: bucket as u32,
            count_word: Inputs::TOKENS,
            count_scale: 1,
            n: n as u32,
            x_offset: 1,
            x_stride: n as u32 + 2,
            page_stride: PAGE_STRIDE as u32,
            ..Params::default()
        };
        let mut want = vec![Want::Poison; CACHE_PAGES * 64 * n];
        for (r, (sequence, position)) in rows.iter().enumerate() {
            let row = cache_row(&inputs, *sequence, *position as usize);
            for c in 0..n {
                want[row * n + c] = Want::Word(x[1 + r * (n + 2) + c].to_bits());
            }
        }
        let operands = [
            inputs.operand(),
            activations(&x),
            Operation::Out(want.len()),
        ];
        check_all(OpKind::CacheAppend, DType::F32, params, &operands, &[want]);
    }
}
