//! `attend_latent`, `attend_part`.

use hadal_device::{DType, OpKind, Params, flags};

use crate::attention::*;
use crate::stage::*;

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

/// What parts of the positions should give, and their sums.
fn parted(
    shape: &Shape,
    params: &Params,
    (inputs, cache): (&StepInputs, &[f32]),
    q: &[f32],
) -> (Vec<Want>, Vec<Want>) {
    let (width, heads, latent) = (shape.latent + shape.rope, shape.heads, shape.latent);
    let (parts, unit) = (params.n as usize, params.k as usize);
    let mut mix = vec![Want::Poison; inputs.bucket as usize * heads * parts * latent];
    let mut sums = vec![Want::Poison; inputs.bucket as usize * heads * parts * 2];
    let steps = inputs.sequences.iter().zip(&inputs.positions);
    for (r, (sequence, position)) in steps.enumerate() {
        let positions = *position as usize + 1;
        let length = unit * positions.div_ceil(parts * unit);
        for (a, j) in (0..heads).flat_map(|a| (0..parts).map(move |j| (a, j))) {
            let seen = j * length..positions.min((j + 1) * length);
            let stored: Vec<&[f32]> = seen
                .map(|s| &cache[cache_row(inputs, *sequence, s) * width..][..width])
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
    (mix, sums)
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
            let (mix, sums) = parted(shape, &params, (&inputs, &cache), &q);
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
