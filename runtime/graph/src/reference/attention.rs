//! Rotation, the cache, and latent attention in both its forms (report, section 2.1.1).

use std::sync::Arc;

use super::{Caches, ReferenceError, Result, Step, Tensor, dense::dot};

/// Rotates the pairs `(2j, 2j + 1)` of every row by the angle of its token's position.
pub(super) fn rope(x: &Tensor, table: &Tensor, step: &Step<'_>) -> Result<Tensor> {
    let heads = x.rows().len() / x.shape[0].max(1);
    let mut data = Vec::with_capacity(x.data.len());
    for (index, row) in x.rows().enumerate() {
        let position = step.positions[index / heads.max(1)];
        let angles = table.rows().nth(position as usize).ok_or_else(|| {
            let text = format!("position {position} is beyond the rotary table");
            ReferenceError::Step(text)
        })?;
        data.extend(rotate(row, angles));
    }
    Ok(Tensor {
        shape: x.shape.clone(),
        data,
    })
}

/// The pairs `(2j, 2j + 1)` of a row turned by their angles: `angles` has cosine and sine of
/// each pair, interleaved.
pub fn rotate(row: &[f64], angles: &[f64]) -> Vec<f64> {
    let pairs = row.chunks_exact(2).zip(angles.chunks_exact(2));
    pairs
        .flat_map(|(x, angle)| {
            let (cos, sin) = (angle[0], angle[1]);
            [x[0] * cos - x[1] * sin, x[1] * cos + x[0] * sin]
        })
        .collect()
}

/// Writes each token's key to the row of its position.
pub(super) fn append(layer: u32, keys: &Tensor, step: &Step<'_>, caches: &mut Caches) {
    for (index, key) in keys.rows().enumerate() {
        let rows = caches
            .rows
            .entry((layer, step.sequences[index]))
            .or_default();
        let position = step.positions[index] as usize;
        if rows.len() <= position {
            rows.resize(position + 1, None);
        }
        rows[position] = Some(key.to_vec());
    }
}

/// What the tokens of a step see of one layer's cache.
pub(super) struct Contexts<'a> {
    pub(super) layer: u32,
    pub(super) step: &'a Step<'a>,
    pub(super) caches: &'a Caches,
}

impl Contexts<'_> {
    /// The cache rows of positions `0..=` the token's own.
    fn of(&self, token: usize) -> Result<Vec<&[f64]>> {
        let (layer, sequence) = (self.layer, self.step.sequences[token]);
        let rows = self.caches.rows.get(&(layer, sequence));
        let row = |position: usize| {
            let row = rows.and_then(|rows| rows.get(position)?.as_deref());
            row.ok_or_else(|| {
                ReferenceError::Step(format!(
                    "layer {layer} has no cache row for position {position} of sequence {sequence}"
                ))
            })
        };
        (0..=self.step.positions[token] as usize).map(row).collect()
    }
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// `sum_s p[s] * values[s]`.
fn mix<'v>(
    probabilities: &[f64],
    values: impl Iterator<Item = &'v [f64]>,
    width: usize,
) -> Vec<f64> {
    let mut y = vec![0.0; width];
    for (p, value) in probabilities.iter().zip(values) {
        y.iter_mut()
            .zip(value)
            .for_each(|(y, value)| *y += p * value);
    }
    y
}

/// Absorbed: latents are keys and values of every head. `q [T, A, dc + dr]` -> `[T, A, dc]`.
pub(super) fn latent(
    q: &Tensor,
    contexts: &Contexts<'_>,
    latent: usize,
    scale: f64,
) -> Result<Tensor> {
    let heads = q.shape[1];
    let mut rows = Vec::new();
    for (index, query) in q.rows().enumerate() {
        let context = contexts.of(index / heads)?;
        rows.push(attend_latent(query, &context, latent, scale));
    }
    Ok(q.with_rows(latent, rows.into_iter()))
}

/// One head's query of `latent + rope` values over cache rows as wide: the mean of the rows'
/// first `latent` values, weighted by the softmax of the scaled scores.
pub fn attend_latent(query: &[f64], context: &[&[f64]], latent: usize, scale: f64) -> Vec<f64> {
    let scores: Vec<f64> = context.iter().map(|key| scale * dot(query, key)).collect();
    let values = context.iter().map(|row| &row[..latent]);
    mix(&softmax(&scores), values, latent)
}

/// Expanded: every head rebuilds its keys and values with its rows of `kv_b`, `nope` rows
/// for keys and then `value` rows. `q [T, A, dn + dr]` -> `[T, A, dv]`.
pub(super) fn expanded(
    q: &Tensor,
    contexts: &Contexts<'_>,
    kv_b: &[f64],
    (nope, value): (usize, usize),
    scale: f64,
) -> Result<Tensor> {
    let (heads, head_rows) = (q.shape[1], nope + value);
    let latent = kv_b.len() / (heads * head_rows);
    let mut rows = Vec::new();
    for (index, query) in q.rows().enumerate() {
        let projection = &kv_b[(index % heads) * head_rows * latent..][..head_rows * latent];
        let context = contexts.of(index / heads)?;
        rows.push(attend_expanded(query, &context, projection, nope, scale));
    }
    Ok(q.with_rows(value, rows.into_iter()))
}

/// Keys' weight `[A * dc, dn]`, with each head's part transposed, and values' `[A * dv, dc]` as
/// one, `[A * (dn + dv), dc]`.
pub(super) fn joined(
    heads: usize,
    [keys, values]: &[Arc<[f64]>; 2],
    (nope, value): (usize, usize),
) -> Vec<f64> {
    let latent = values.len() / (heads * value);
    let mut joined = Vec::with_capacity(keys.len() + values.len());
    for head in 0..heads {
        let keys = &keys[head * latent * nope..][..latent * nope];
        for i in 0..nope {
            joined.extend(keys.iter().skip(i).step_by(nope));
        }
        joined.extend(&values[head * value * latent..][..value * latent]);
    }
    joined
}

/// One head's query of `nope + rope` values over cache rows of `latent + rope`; `projection
/// [nope + value, latent]` makes keys and values of a latent.
pub fn attend_expanded(
    query: &[f64],
    context: &[&[f64]],
    projection: &[f64],
    nope: usize,
    scale: f64,
) -> Vec<f64> {
    let (q_nope, q_rope) = query.split_at(nope);
    let latent = context.first().map_or(1, |row| row.len() - q_rope.len());
    let (mut scores, mut values) = (Vec::new(), Vec::new());
    for cached in context {
        let (c, k_rope) = cached.split_at(latent);
        let rows = projection.chunks_exact(latent);
        let kv: Vec<f64> = rows.map(|row| dot(row, c)).collect();
        scores.push(scale * (dot(q_nope, &kv[..nope]) + dot(q_rope, k_rope)));
        values.push(kv[nope..].to_vec());
    }
    let width = projection.len() / latent - nope;
    mix(&softmax(&scores), values.iter().map(Vec::as_slice), width)
}
