//! Attention in parts, and their merge.

use hadal_device::{DType, OpKind, Params};

use crate::attention::{
    attention_params, attention_step, cache_for, for_heads, latent_mean, latent_scores, latent_sum,
};
use crate::harness::{Arg, Case, Random, SUMS, Step0, check};

/// Positions from which on part `j` reaches of a row with so many, and where it ends.
fn part(p: &Params, positions: u32, j: u32) -> std::ops::Range<usize> {
    let length = p.k * positions.div_ceil(p.n * p.k);
    let [first, end] = [j * length, (j + 1) * length].map(|s| s.min(positions) as usize);
    first..end
}

/// Shapes of split attention: heads, latent, rope, parts, shortest part.
const SPLITS: [(u32, u32, u32, u32, u32); 4] = [
    (1, 24, 8, 2, 64),
    (3, 64, 16, 5, 8),
    (20, 512, 64, 3, 32),
    (40, 260, 4, 7, 1),
];

fn split_params(heads: u32, latent: u32, rope: u32, parts: u32, shortest: u32) -> Params {
    let width = latent + rope;
    Params {
        n: parts,
        k: shortest,
        row_count: parts,
        latent,
        rope,
        x_offset: 8,
        x_head_stride: width + 4,
        x_stride: heads * (width + 4) + 4,
        y_offset: 4,
        y_head_stride: parts * latent + 4,
        y_stride: heads * (parts * latent + 4) + 8,
        b_offset: 3,
        b_stride: heads * parts * 2 + 1,
        ..attention_params(heads, width, latent)
    }
}

/// `mix` and `sums` of split attention.
type Parts = (Vec<Option<f64>>, Vec<Option<f64>>);

fn attended_parts(p: &Params, step: &Step0, q: &[f32], cache: &[f32]) -> Parts {
    let mut mix = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
    let mut sums = vec![None; (p.b_offset + p.rows * p.b_stride) as usize];
    let mut head = 0;
    for_heads(p, step, q, cache, |a, q, rows| {
        let (r, a) = ((head / p.heads as usize) as u32, a as u32);
        head += 1;
        for j in p.row_first..p.row_first + p.row_count {
            let rows = &rows[part(p, rows.len() as u32, j)];
            if rows.is_empty() {
                continue;
            }
            let scores = latent_scores(p, q, rows);
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let mix_at = p.y_offset + r * p.y_stride + a * p.y_head_stride + j * p.latent;
            for (i, value) in latent_sum(p, rows, &weights).into_iter().enumerate() {
                mix[mix_at as usize + i] = Some(value);
            }
            let sums_at = (p.b_offset + r * p.b_stride + 2 * (a * p.n + j)) as usize;
            sums[sums_at] = Some(largest);
            sums[sums_at + 1] = Some(weights.iter().sum());
        }
        Vec::new()
    });
    (mix, sums)
}

#[test]
fn parts_of_attention_have_their_own_maximum_sum_and_mix() {
    for (heads, latent, rope, parts, shortest) in SPLITS {
        let whole = split_params(heads, latent, rope, parts, shortest);
        // All parts, and all but the first and last, as when a dispatch is cut.
        for (first, count) in [(0, parts), (1, parts.saturating_sub(2))] {
            if count == 0 {
                continue;
            }
            let (p, step) = (
                Params {
                    row_first: first,
                    row_count: count,
                    ..whole
                },
                attention_step(),
            );
            let mut random = Random(91);
            let q = random.floats((p.x_offset + p.rows * p.x_stride) as usize);
            // Small, so that a sum in one part is not a rounding error of another's.
            let q: Vec<f32> = q.iter().map(|v| 0.2 * v).collect();
            let cache = cache_for(&step, latent + rope, &mut random);
            let (mix, sums) = attended_parts(&p, &step, &q, &cache);
            check(Case {
                name: format!("attend_part {heads} x {latent} + {rope}, {first} +{count}"),
                op: OpKind::AttendPart,
                weight: DType::F32,
                params: p,
                step,
                args: vec![Arg::F32(q), Arg::F32(cache), Arg::Out(mix), Arg::Out(sums)],
                tolerance: 8.0 * SUMS,
            });
        }
    }
}

#[test]
fn merged_parts_are_the_whole_and_parts_without_positions_are_not_read() {
    for (heads, latent, rope, parts, shortest) in SPLITS {
        let split = split_params(heads, latent, rope, parts, shortest);
        let step = attention_step();
        let mut random = Random(93);
        let q = random.floats((split.x_offset + split.rows * split.x_stride) as usize);
        let cache = cache_for(&step, latent + rope, &mut random);
        let (mix, sums) = attended_parts(&split, &step, &q, &cache);
        let stored = |values: Vec<Option<f64>>| {
            let stored = values.into_iter().map(|v| v.map_or(f32::NAN, |v| v as f32));
            Arg::F32(stored.collect())
        };
        let wanted = attention_params(heads, 0, latent);
        // Where the queries are read and the means go.
        let whole = Params {
            y_offset: wanted.y_offset,
            y_stride: wanted.y_stride,
            y_head_stride: wanted.y_head_stride,
            ..split
        };
        let p = Params {
            x_offset: split.y_offset,
            x_stride: split.y_stride,
            x_head_stride: split.y_head_stride,
            ..whole
        };
        let out = for_heads(&whole, &step, &q, &cache, |_, q, rows| {
            latent_mean(&p, q, rows)
        });
        check(Case {
            name: format!("attend_merge {heads} x {latent} + {rope}, {parts} parts"),
            op: OpKind::AttendMerge,
            weight: DType::F32,
            params: p,
            step,
            args: vec![stored(mix), stored(sums), Arg::Out(out)],
            tolerance: 4.0 * SUMS,
        });
    }
}
