//! The online softmax: attention over positions that come a few at a time.
//!
//! Paper: Milakov and Gimelshein 2018.

use std::ops::Range;

use super::{Core, Grown, Panel};
use crate::args::Fault;
use crate::weight::{F32, Matrix, Rows};

/// Memory for attention, and what it reads next.
pub(crate) struct Room<'a> {
    pub scores: &'a mut Grown<f32>,
    pub panel: &'a mut Panel,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub ahead: &'a [f32],
}

/// Sums over the positions seen so far, for each query.
pub(crate) struct Online<'a> {
    /// Largest score.
    pub most: &'a mut [f32],
    /// Sum of `exp(score - most)`.
    pub sum: &'a mut [f32],
    /// Sum of `exp(score - most) * value`, `width` for each query.
    pub mixed: &'a mut [f32],
    pub width: usize,
}

impl Online<'_> {
    /// Nothing was seen.
    pub fn clear(&mut self) {
        self.most.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.mixed.fill(0.0);
    }

    /// Adds positions: `scores` are those of whole queries, `stride` apart, and are used up. Query
    /// `q` sees the first `seen(q)` of the positions, and all queries see `least`.
    pub fn add<C: Core>(
        &mut self,
        first: usize,
        (scores, stride): (&mut [f32], usize),
        scale: f32,
        values: &Matrix<'_>,
        (least, seen): (usize, impl Fn(usize) -> Result<usize, Fault>),
        rough: Option<&mut Panel>,
    ) -> Result<(), Fault> {
        let (queries, width) = (scores.len() / stride, self.width);
        for (index, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let (q, seen) = (first + index, seen(index)?);
            let scores = &mut scores[..seen];
            let most = C::scale(scores, scale).max(self.most[q]);
            let mixed = &mut self.mixed[q * width..][..width];
            if most > self.most[q] {
                let shrink = (self.most[q] - most).exp();
                self.sum[q] *= shrink;
                C::scale(mixed, shrink);
                self.most[q] = most;
            }
            self.sum[q] += C::exp(scores, most);
            if seen > least {
                let alone = Rows::packed(&scores[least..], 1, seen - least);
                C::mix::<F32>(alone, &values.rows(least, seen - least)?, mixed);
            }
        }
        let weights = Rows::strided(scores, queries, least, stride);
        let mixed = &mut self.mixed[first * width..][..queries * width];
        mix::<C>((weights, 0..queries), &values.rows(0, least)?, mixed, rough)
    }

    /// Adds positions that all queries see, whose values are the first numbers of their keys.
    pub fn add_latents<C: Core>(
        &mut self,
        q: Rows<'_>,
        keys: &Matrix<'_>,
        scale: f32,
        room: Room<'_>,
    ) -> Result<(), Fault> {
        let count = keys.rows;
        let scores = room.scores.take(q.count * count)?;
        C::dots::<F32>(q, keys, scores, room.panel)?;
        let mut values = *keys;
        values.k = self.width;
        self.add::<C>(
            0,
            (scores, count),
            scale,
            &values,
            (count, |_| Ok(count)),
            None,
        )
    }

    /// Divides the values of query `q` by its sum.
    pub fn finish(&mut self, q: usize) -> &[f32] {
        let sum = self.sum[q];
        let mixed = &mut self.mixed[q * self.width..][..self.width];
        for mixed in mixed.iter_mut() {
            *mixed /= sum;
        }
        mixed
    }
}

/// `Core::mix` of rows `some` of `p`, or `Core::rough_mix` where there is memory for it.
pub(crate) fn mix<C: Core>(
    (p, some): (Rows<'_>, Range<usize>),
    w: &Matrix<'_>,
    out: &mut [f32],
    rough: Option<&mut Panel>,
) -> Result<(), Fault> {
    if let Some(panel) = rough {
        return C::rough_mix((p, some), w, out, panel);
    }
    C::mix::<F32>(p.rows(some.start, some.len()), w, out);
    Ok(())
}
