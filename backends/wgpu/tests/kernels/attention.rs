//! Rotation, the cache, and both forms of attention.

use hadal_device::{DType, Inputs, OpKind, PAGE, Params};

use crate::formats::{FORMATS, Weight, dot};
use crate::harness::{Arg, Case, Random, SUMS, Step0, VALUES, check};

/// Two sequences with scattered pages; rows of both in one step.
fn step(bucket: u32, positions: &[u32], sequences: &[u32]) -> Step0 {
    Step0 {
        positions: positions.to_vec(),
        sequences: sequences.to_vec(),
        pages: vec![3, 0, 5, 1, 4, 2],
        ..Step0::of(bucket, positions.len() as u32)
    }
}

const PAGE_STRIDE: u32 = 3;
const CACHE_PAGES: u32 = 6;

fn cache_row(step: &Step0, sequence: u32, position: u32) -> usize {
    let page = step.pages[(sequence * PAGE_STRIDE + position / PAGE) as usize];
    (page * PAGE + position % PAGE) as usize
}

#[test]
fn pairs_are_rotated_by_the_position_of_their_row() {
    for (heads, rope) in [(1u32, 8u32), (3, 64), (2, 6)] {
        let step = step(4, &[5, 0, 9], &[0, 1, 0]);
        let p = Params {
            rows: 4,
            count_word: Inputs::TOKENS,
            count_scale: 1,
            x_offset: 7,
            x_head_stride: rope + 5,
            x_stride: heads * (rope + 5),
            y_offset: 2,
            y_head_stride: rope + 1,
            y_stride: heads * (rope + 1) + 1,
            heads,
            rope,
            ..Params::default()
        };
        let mut random = Random(79);
        let angles = random.floats((10 * rope) as usize);
        let x = random.floats((p.x_offset + 4 * p.x_stride) as usize);
        let mut out = vec![None; (p.y_offset + 4 * p.y_stride) as usize];
        for (r, position) in step.positions.iter().enumerate() {
            for a in 0..heads {
                let x_at = (p.x_offset + r as u32 * p.x_stride + a * p.x_head_stride) as usize;
                let y_at = (p.y_offset + r as u32 * p.y_stride + a * p.y_head_stride) as usize;
                for j in 0..rope as usize / 2 {
                    let at = (position * rope) as usize + 2 * j;
                    let (cosine, sine) = (f64::from(angles[at]), f64::from(angles[at + 1]));
                    let (even, odd) = (f64::from(x[x_at + 2 * j]), f64::from(x[x_at + 2 * j + 1]));
                    out[y_at + 2 * j] = Some(even * cosine - odd * sine);
                    out[y_at + 2 * j + 1] = Some(odd * cosine + even * sine);
                }
            }
        }
        check(Case {
            name: format!("rope {heads} x {rope}"),
            op: OpKind::Rope,
            weight: DType::F32,
            params: p,
            step,
            args: vec![Arg::F32(x), Arg::Table32(angles), Arg::Out(out)],
            tolerance: VALUES,
        });
    }
}

#[test]
fn a_row_is_appended_to_the_page_of_its_sequence_and_nothing_else_changes() {
    let n = 72;
    let step = step(5, &[0, 70, 63, 130], &[0, 0, 1, 1]);
    let p = Params {
        rows: 5,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n,
        x_offset: 4,
        x_stride: n + 4,
        page_stride: PAGE_STRIDE,
        ..Params::default()
    };
    let mut random = Random(83);
    let x = random.floats((p.x_offset + 5 * p.x_stride) as usize);
    let before = random.floats((CACHE_PAGES * PAGE * n) as usize);
    let mut after: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
    for r in 0..4 {
        let row = cache_row(&step, step.sequences[r], step.positions[r]);
        for i in 0..n as usize {
            let from = (p.x_offset + r as u32 * p.x_stride) as usize + i;
            after[row * n as usize + i] = x[from].into();
        }
    }
    check(Case {
        name: "cache_append".into(),
        op: OpKind::CacheAppend,
        weight: DType::F32,
        params: p,
        step,
        args: vec![Arg::F32(x), Arg::Update(before, after)],
        tolerance: 0.0,
    });
}

/// Rows of a step for attention: few positions, exactly a page, blocks with a ragged end.
pub fn attention_step() -> Step0 {
    step(7, &[0, 7, 8, 63, 64, 150], &[0, 1, 0, 1, 0, 1])
}

pub fn attention_params(heads: u32, q_width: u32, y_width: u32) -> Params {
    Params {
        rows: 7,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        x_offset: 5,
        x_head_stride: q_width + 1,
        x_stride: heads * (q_width + 1) + 3,
        y_offset: 3,
        y_head_stride: y_width + 2,
        y_stride: heads * (y_width + 2) + 1,
        heads,
        scale: 0.7,
        page_stride: PAGE_STRIDE,
        ..Params::default()
    }
}

/// The probabilities of positions `0 ..= position`, given their scores.
fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let total: f64 = exps.iter().sum();
    exps.iter().map(|e| e / total).collect()
}

/// Calls `row(r, a, q, cache rows of the row's positions, output of the head)`.
pub fn for_heads(
    p: &Params,
    step: &Step0,
    q: &[f32],
    cache: &[f32],
    mut head: impl FnMut(usize, &[f32], &[&[f32]]) -> Vec<f64>,
) -> Vec<Option<f64>> {
    let width = (p.latent + p.rope) as usize;
    let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
    for (r, (position, sequence)) in step.positions.iter().zip(&step.sequences).enumerate() {
        let rows: Vec<&[f32]> = (0..=*position)
            .map(|s| &cache[cache_row(step, *sequence, s) * width..][..width])
            .collect();
        for a in 0..p.heads {
            let q_at = p.x_offset + r as u32 * p.x_stride + a * p.x_head_stride;
            // Longer than any head; the formulas take what they need.
            let q = &q[q_at as usize..];
            let y_at = (p.y_offset + r as u32 * p.y_stride + a * p.y_head_stride) as usize;
            for (i, value) in head(a as usize, q, &rows).into_iter().enumerate() {
                out[y_at + i] = Some(value);
            }
        }
    }
    out
}

/// A cache with values up to 30, so that some scores are far apart, and NaN in every row
/// that no sequence of the step has reached.
pub fn cache_for(step: &Step0, width: u32, random: &mut Random) -> Vec<f32> {
    let mut cache = vec![f32::NAN; (CACHE_PAGES * PAGE * width) as usize];
    for sequence in 0..2 {
        let of_sequence = step.positions.iter().zip(&step.sequences);
        let last = of_sequence
            .filter(|(_, s)| **s == sequence)
            .map(|(p, _)| *p)
            .max();
        for position in 0..=last.unwrap_or(0) {
            let row = cache_row(step, sequence, position) * width as usize;
            let factor = if random.below(20) == 0 { 30.0 } else { 1.0 };
            for value in &mut cache[row..row + width as usize] {
                *value = factor * random.float();
            }
        }
    }
    cache
}

#[test]
fn latent_attention_is_the_softmax_mean_of_latents() {
    for (heads, latent, rope, aligned) in [
        (1u32, 24u32, 8u32, true),
        (3, 64, 16, false),
        (3, 64, 16, true),
        (5, 24, 8, true),
        (150, 8, 4, true),
        (2, 136, 8, true),
        (2, 33, 6, false),
        (16, 512, 64, true),
        (33, 260, 8, true),
    ] {
        let step = attention_step();
        let width = latent + rope;
        let mut p = Params {
            latent,
            rope,
            ..attention_params(heads, width, latent)
        };
        if aligned {
            (p.x_offset, p.x_head_stride, p.x_stride) = (8, width + 4, heads * (width + 4) + 4);
            (p.y_offset, p.y_head_stride, p.y_stride) = (4, latent + 4, heads * (latent + 4) + 8);
        }
        let mut random = Random(89);
        let q = random.floats((p.x_offset + p.rows * p.x_stride) as usize);
        let cache = cache_for(&step, width, &mut random);
        let out = for_heads(&p, &step, &q, &cache, |_, q, rows| latent_mean(&p, q, rows));
        check(Case {
            name: format!("attend_latent {heads} x {latent} + {rope}"),
            op: OpKind::AttendLatent,
            weight: DType::F32,
            params: p,
            step,
            args: vec![Arg::F32(q), Arg::F32(cache), Arg::Out(out)],
            // Scores reach about 100; an error of one part in 2^23 of them is 1e-5.
            tolerance: 4.0 * SUMS,
        });
    }
}

/// The scores of a head over these cache rows.
pub fn latent_scores(p: &Params, q: &[f32], rows: &[&[f32]]) -> Vec<f64> {
    let score = |c: &&[f32]| {
        let products = q.iter().zip(*c).map(|(q, c)| f64::from(*q) * f64::from(*c));
        products.sum::<f64>() * f64::from(p.scale)
    };
    rows.iter().map(score).collect()
}

/// The sum of the latents of these rows by their weights.
pub fn latent_sum(p: &Params, rows: &[&[f32]], weights: &[f64]) -> Vec<f64> {
    let column = |c: usize| {
        rows.iter()
            .zip(weights)
            .map(move |(row, w)| w * f64::from(row[c]))
    };
    (0..p.latent as usize).map(|c| column(c).sum()).collect()
}

pub fn latent_mean(p: &Params, q: &[f32], rows: &[&[f32]]) -> Vec<f64> {
    latent_sum(p, rows, &softmax(&latent_scores(p, q, rows)))
}

#[test]
fn expanded_attention_is_the_softmax_mean_of_values() {
    for dtype in FORMATS {
        for (heads, latent, rope, nope, value) in [
            (2u32, 24u32, 8u32, 16u32, 20u32),
            (3, 136, 6, 30, 50),
            (2, 33, 8, 7, 9),
        ] {
            let step = attention_step();
            let p = Params {
                latent,
                rope,
                nope,
                value,
                ..attention_params(heads, nope + rope, value)
            };
            let mut random = Random(97);
            let rows = (heads * (nope + value)) as usize;
            let w = Weight::random(dtype, rows, latent as usize, &mut random);
            let q = random.floats((p.x_offset + p.rows * p.x_stride) as usize);
            let cache: Vec<f32> = cache_for(&step, latent + rope, &mut random)
                .iter()
                .map(|v| 0.1 * v)
                .collect();
            let (latent, nope) = (latent as usize, nope as usize);
            let out = for_heads(&p, &step, &q, &cache, |a, q, rows| {
                let first = a * (nope + value as usize);
                let score = |c: &&[f32]| {
                    let key: f64 = (0..nope)
                        .map(|i| f64::from(q[i]) * dot(&c[..latent], w.row(first + i)))
                        .sum();
                    let turned: f64 = (0..rope as usize)
                        .map(|i| f64::from(q[nope + i]) * f64::from(c[latent + i]))
                        .sum();
                    (key + turned) * f64::from(p.scale)
                };
                let weights = softmax(&rows.iter().map(score).collect::<Vec<_>>());
                (0..value as usize)
                    .map(|i| {
                        let v = w.row(first + nope + i);
                        rows.iter()
                            .zip(&weights)
                            .map(|(c, p)| p * dot(&c[..latent], v))
                            .sum()
                    })
                    .collect()
            });
            check(Case {
                name: format!(
                    "attend_expanded {dtype} {heads} x {latent} + {rope}, {nope}, {value}"
                ),
                op: OpKind::AttendExpanded,
                weight: dtype,
                params: p,
                step,
                args: vec![Arg::F32(q), Arg::F32(cache), Arg::Weight(&w), Arg::Out(out)],
                tolerance: 10.0 * SUMS,
            });
        }
    }
}

#[test]
fn a_latent_is_normed_and_its_key_rotated_straight_into_the_cache() {
    for dtype in FORMATS.into_iter().filter(|d| !d.has_block_scales()) {
        for (latent, rope) in [(24u32, 8u32), (512, 64), (33, 6)] {
            let n = latent + rope;
            let step = step(5, &[0, 70, 63, 130], &[0, 0, 1, 1]);
            let p = Params {
                rows: 5,
                count_word: Inputs::TOKENS,
                count_scale: 1,
                n,
                latent,
                rope,
                eps: 1e-3,
                x_offset: 3,
                x_stride: n + 5,
                page_stride: PAGE_STRIDE,
                ..Params::default()
            };
            let mut random = Random(85);
            let x = random.floats((p.x_offset + 5 * p.x_stride) as usize);
            let w = Weight::random(dtype, 1, latent as usize, &mut random);
            let angles = random.floats((131 * rope) as usize);
            let before = random.floats((CACHE_PAGES * PAGE * n) as usize);
            let mut after: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
            for r in 0..4 {
                let position = step.positions[r];
                let at = cache_row(&step, step.sequences[r], position) * n as usize;
                let x = &x[(p.x_offset + r as u32 * p.x_stride) as usize..][..n as usize];
                let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
                let (latents, key) = x.split_at(latent as usize);
                let mean = latents.iter().map(|v| v * v).sum::<f64>() / f64::from(latent);
                let factor = 1.0 / (mean + f64::from(p.eps)).sqrt();
                for (i, (v, w)) in latents.iter().zip(&w.values).enumerate() {
                    after[at + i] = v * factor * w;
                }
                for (j, pair) in key.chunks(2).enumerate() {
                    let angle = (position * rope) as usize + 2 * j;
                    let [cosine, sine] = [angles[angle], angles[angle + 1]].map(f64::from);
                    let to = at + latent as usize + 2 * j;
                    after[to] = pair[0] * cosine - pair[1] * sine;
                    after[to + 1] = pair[1] * cosine + pair[0] * sine;
                }
            }
            check(Case {
                name: format!("latent_append {dtype} {latent} + {rope}"),
                op: OpKind::LatentAppend,
                weight: dtype,
                params: p,
                step,
                args: vec![
                    Arg::F32(x),
                    Arg::Weight(&w),
                    Arg::Table32(angles),
                    Arg::Update(before, after),
                ],
                tolerance: SUMS,
            });
        }
    }
}
