//! `attend_latent`, `attend_expanded`, `cache_append`.

use hadal_device::{DType, Inputs, OpKind, Params, flags};

use crate::stage::*;

const PAGE_STRIDE: usize = 5;
const CACHE_PAGES: usize = 12;

/// Rows of a step: `(sequence, position)`; sequence 1 lies in scattered pages.
fn steps() -> Vec<Vec<(u32, u32)>> {
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

fn inputs(rows: &[(u32, u32)], bucket: usize) -> StepInputs {
    let mut inputs = StepInputs::rows(rows.len(), bucket);
    inputs.sequences = rows.iter().map(|r| r.0).collect();
    inputs.positions = rows.iter().map(|r| r.1).collect();
    inputs.pages = vec![3, 5, 1, 99, 99, 11, 2, 7, 0, 99];
    inputs
}

fn cache_row(inputs: &StepInputs, sequence: u32, position: usize) -> usize {
    let page = inputs.pages[sequence as usize * PAGE_STRIDE + position / 64];
    page as usize * 64 + position % 64
}

/// A cache in which only positions up to the last of each sequence are numbers.
fn cache(random: &mut Random, inputs: &StepInputs, width: usize) -> Vec<f32> {
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

fn softmax(scores: &[f64]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
    scores.iter().map(|s| (s - most).exp() / sum).collect()
}

/// Scores are off by at most `k * 2^-24 * |q||k| * scale`, all numbers here below 1; the
/// mixing of values below `bound` with weights that sum to 1 inherits that error.
fn tolerance(k: usize, positions: usize, bound: f64) -> f64 {
    let chain = (k + positions + 200) as f64;
    bound * chain * 4.0 / (1u64 << 24) as f64
}

struct Shape {
    heads: usize,
    nope: usize,
    rope: usize,
    value: usize,
    latent: usize,
    scale: f32,
}

impl Shape {
    /// How far an error of a score goes, beside that of the usual scale.
    fn spread(&self) -> f64 {
        f64::from(self.scale / SCALE)
    }
}

const SCALE: f32 = 0.31;

const SHAPES: [Shape; 5] = [
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

fn params(shape: &Shape, rows: usize) -> Params {
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

#[test]
fn latent_attention_is_causal_over_the_pages_of_its_own_sequence() {
    let mut random = Random(21);
    for shape in &SHAPES {
        let (width, heads) = (shape.latent + shape.rope, shape.heads);
        for rows in steps() {
            let bucket = rows.len() + 2;
            let inputs = inputs(&rows, bucket);
            let cache = cache(&mut random, &inputs, width);
            let (x_head, y_head) = (width + 3, shape.latent + 1);
            let (x_stride, y_stride) = (heads * x_head + 1, heads * y_head);
            let q = random.floats(bucket * x_stride);
            let params = Params {
                x_stride: x_stride as u32,
                x_head_stride: x_head as u32,
                y_stride: y_stride as u32,
                y_head_stride: y_head as u32,
                ..params(shape, bucket)
            };
            let mut want = vec![Want::Poison; bucket * y_stride];
            for (r, (sequence, position)) in rows.iter().enumerate() {
                let stored: Vec<&[f32]> = (0..=*position as usize)
                    .map(|s| &cache[cache_row(&inputs, *sequence, s) * width..][..width])
                    .collect();
                for a in 0..heads {
                    let q = &q[r * x_stride + a * x_head..][..width];
                    let score = |key: &&[f32]| -> f64 {
                        q.iter()
                            .zip(*key)
                            .map(|(q, k)| f64::from(*q) * f64::from(*k))
                            .sum::<f64>()
                            * f64::from(params.scale)
                    };
                    let p = softmax(&stored.iter().map(score).collect::<Vec<_>>());
                    for c in 0..shape.latent {
                        let mixed: f64 = p
                            .iter()
                            .zip(&stored)
                            .map(|(p, s)| p * f64::from(s[c]))
                            .sum();
                        want[r * y_stride + a * y_head + c] =
                            Want::Near(mixed, shape.spread() * tolerance(width, stored.len(), 1.0));
                    }
                }
            }
            let operands = [
                inputs.operand(),
                activations(&q),
                activations(&cache),
                Operation::Out(want.len()),
            ];
            let off = shape.spread() * rounded(width, shape.scale);
            check_both(OpKind::AttendLatent, &params, &operands, &[(want, off)]);
        }
    }
}

/// What roundings of products to 13 bits, of which most are smaller, add to the error of a mean over
/// positions with keys of `k` numbers.
fn rounded(k: usize, scale: f32) -> f64 {
    // Of a score, whose products are a quarter on average, and of the values.
    (f64::from(scale) * k as f64 / 4.0 + 1.0) * 4.0 / f64::from(1 << 16)
}

/// Every row, also where products may be rounded, which adds an error to each output.
fn check_both(op: OpKind, params: &Params, operands: &[Operation], outputs: &[(Vec<Want>, f64)]) {
    for flags in [0, flags::ROUGH] {
        let wants: Vec<Vec<Want>> = outputs
            .iter()
            .map(|(want, off)| match flags {
                0 => want.clone(),
                _ => want.iter().map(|want| want.wider(*off)).collect(),
            })
            .collect();
        let params = Params { flags, ..*params };
        check_all(op, DType::F32, params, operands, &wants);
    }
}

#[test]
fn parts_of_the_positions_add_up_to_all_of_them() {
    let mut random = Random(24);
    let (parts, unit) = (3, 32);
    for shape in &SHAPES {
        let (width, heads, latent) = (shape.latent + shape.rope, shape.heads, shape.latent);
        for rows in steps() {
            let bucket = rows.len() + 1;
            let inputs = inputs(&rows, bucket);
            let cache = cache(&mut random, &inputs, width);
            let q = random.floats(bucket * heads * width);
            let params = Params {
                n: parts as u32,
                k: unit as u32,
                row_count: parts as u32,
                x_stride: (heads * width) as u32,
                x_head_stride: width as u32,
                y_stride: (heads * parts * latent) as u32,
                y_head_stride: (parts * latent) as u32,
                b_stride: (heads * parts * 2) as u32,
                ..params(shape, bucket)
            };
            let mut mix = vec![Want::Poison; bucket * heads * parts * latent];
            let mut sums = vec![Want::Poison; bucket * heads * parts * 2];
            for (r, (sequence, position)) in rows.iter().enumerate() {
                let positions = *position as usize + 1;
                let length = unit * positions.div_ceil(parts * unit);
                for (a, j) in (0..heads).flat_map(|a| (0..parts).map(move |j| (a, j))) {
                    let seen = j * length..positions.min((j + 1) * length);
                    let stored: Vec<&[f32]> = seen
                        .map(|s| &cache[cache_row(&inputs, *sequence, s) * width..][..width])
                        .collect();
                    if stored.is_empty() {
                        continue;
                    }
                    let q = &q[(r * heads + a) * width..][..width];
                    let score = |key: &&[f32]| -> f64 {
                        let products = q
                            .iter()
                            .zip(*key)
                            .map(|(q, k)| f64::from(*q) * f64::from(*k));
                        products.sum::<f64>() * f64::from(params.scale)
                    };
                    let scores: Vec<f64> = stored.iter().map(score).collect();
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let powers: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                    let total: f64 = powers.iter().sum();
                    let off = shape.spread() * tolerance(width, stored.len(), total.max(1.0));
                    let at = (r * heads + a) * parts + j;
                    sums[2 * at] = Want::Near(most, off);
                    sums[2 * at + 1] = Want::Near(total, off);
                    for c in 0..latent {
                        let values = powers.iter().zip(&stored).map(|(p, s)| p * f64::from(s[c]));
                        mix[at * latent + c] = Want::Near(values.sum(), off);
                    }
                }
            }
            let operands = [
                inputs.operand(),
                activations(&q),
                activations(&cache),
                Operation::Out(mix.len()),
                Operation::Out(sums.len()),
            ];
            // Sums of up to 201 positions.
            let off = 201.0 * shape.spread() * rounded(width, shape.scale);
            check_both(
                OpKind::AttendPart,
                &params,
                &operands,
                &[(mix, off), (sums, off)],
            );
        }
    }
}

/// What is left of a float behind its first 16 bits decides scores whose other products cancel.
#[test]
fn the_last_bits_of_queries_and_keys_count() {
    let shape = &SHAPES[4];
    let (width, latent, heads) = (shape.latent + shape.rope, shape.latent, shape.heads);
    let (full, short) = (f32::from_bits(0x3FFF_FFFF), f32::from_bits(0x3FFF_FF00));
    let small = 1.0 / 256.0;
    // Of each position two products: what the query has in two columns, and what the key has.
    let exact = [
        [[full, short], [full, -full]],
        [[1.0 + small, 1.0], [4.0 + 4.0 * small, -4.0 - 8.0 * small]],
        [[1.0, 1.0], [full, -short]],
    ];
    // Sixteen bits after the first eight, all of them set: to be rounded, not cut.
    let next = f32::from_bits(0x3F80_FFFF);
    let rough = [[[1.0, 1.0], [next, -1.0 - 2.0 * small]]];
    for (flags, tests) in [(0, &exact[..]), (flags::ROUGH, &rough[..])] {
        let rows = [(1, 20)];
        let inputs = inputs(&rows, 1);
        let (mut q, mut cache) = (
            vec![0.0; heads * width],
            vec![0.0; CACHE_PAGES * 64 * width],
        );
        let mut scores = [0.0f64; 21];
        let params = Params {
            scale: 16384.0,
            flags,
            x_stride: (heads * width) as u32,
            x_head_stride: width as u32,
            y_stride: (heads * latent) as u32,
            y_head_stride: latent as u32,
            ..params(shape, 1)
        };
        for (s, [query, key]) in tests.iter().enumerate() {
            for i in 0..2 {
                let column = latent + 2 * s + i;
                q[(heads - 1) * width + column] = query[i];
                cache[cache_row(&inputs, 1, s) * width + column] = key[i];
                scores[s] += 16384.0 * f64::from(query[i]) * f64::from(key[i]);
            }
        }
        // A value of its own for each position.
        for s in 0..scores.len() {
            cache[cache_row(&inputs, 1, s) * width + s] = 1.0;
        }
        let mut want = vec![Want::Near(0.0, 0.0); heads * latent];
        for a in 0..heads {
            // The last head alone has a query.
            let p = softmax(&match a + 1 == heads {
                true => scores,
                false => [0.0; 21],
            });
            for (c, p) in p.iter().enumerate() {
                want[a * latent + c] = Want::Near(*p, 0.001);
            }
        }
        let operands = [
            inputs.operand(),
            activations(&q),
            activations(&cache),
            Operation::Out(want.len()),
        ];
        check_all(OpKind::AttendLatent, DType::F32, params, &operands, &[want]);
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
