//! Keys and values of a page of the cache, rebuilt from its latents for one head.

use hadal_device::Params;

use super::attention::PAGE_ROWS;
use crate::args::Fault;
use crate::core::{Core, Panel};
use crate::weight::{F32, Matrix, Rows, Weight};

/// Values of the latents of a page that are multiplied together: 32 KiB, which a first-level
/// cache holds.
const TOGETHER: usize = 128;

/// One head's keys and values of one page. Products that run along the columns need no sums across
/// registers, which rows of a few hundred values would spend much time on.
pub(super) struct Expanded<'a> {
    /// What expands keys, `[nope, latent]`.
    pub for_keys: &'a mut [f32],
    /// What expands values, `[latent, value]`.
    pub for_values: &'a mut [f32],
    /// The latents of a page, `[latent, PAGE]`.
    pub page: &'a mut [f32],
    /// `[nope + rope, PAGE]`.
    pub keys: &'a mut [f32],
    /// `[PAGE, value]`.
    pub values: &'a mut [f32],
}

impl Expanded<'_> {
    /// Takes the weights of a head, the rows of `w` from `first` on; `row` has room for one.
    pub fn weights<W: Weight>(&mut self, w: &Matrix<'_>, first: usize, row: &mut [f32]) {
        let nope = self.for_keys.len() / w.k;
        for (index, to) in self.for_keys.chunks_exact_mut(w.k).enumerate() {
            W::decode_row(w, first + index, to);
        }
        let value = self.for_values.len() / w.k;
        for index in 0..value {
            W::decode_row(w, first + nope + index, row);
            for (to, weight) in self.for_values.chunks_exact_mut(value).zip(&*row) {
                to[index] = *weight;
            }
        }
    }

    /// Expands the `count` cache rows `stored`; keys beyond them become 0.
    pub fn expand<C: Core>(
        &mut self,
        stored: &[f32],
        count: usize,
        p: &Params,
        rough: Option<&mut Panel>,
    ) -> Result<(), Fault> {
        let (latent, nope, value) = (p.latent as usize, p.nope as usize, p.value as usize);
        let width = stored.len() / count;
        let (keys, rotated_keys) = self.keys.split_at_mut(nope * PAGE_ROWS);
        let values = &mut self.values[..count * value];
        keys.fill(0.0);
        values.fill(0.0);
        turn(&stored[latent..], width, rotated_keys);
        let for_keys = Rows::packed(self.for_keys, nope, latent);
        let rows = Rows::strided(stored, count, latent, width);
        if let Some(panel) = rough {
            let latents = Matrix::floats(stored, count, latent, width);
            C::rough_dots(for_keys, &latents, (keys, PAGE_ROWS), panel)?;
            let weights = Matrix::floats(self.for_values, latent, value, value);
            return C::rough_mix((rows, 0..count), &weights, values, panel);
        }
        turn(stored, width, self.page);
        for first in (0..latent).step_by(TOGETHER) {
            let some = TOGETHER.min(latent - first);
            let latents = &self.page[first * PAGE_ROWS..];
            let latents = Matrix::floats(latents, some, PAGE_ROWS, PAGE_ROWS);
            C::mix::<F32>(for_keys.columns(first, some), &latents, keys);
            let weights = Matrix::floats(&self.for_values[first * value..], some, value, value);
            C::mix::<F32>(rows.columns(first, some), &weights, values);
        }
        Ok(())
    }
}

/// Turns rows, `width` values apart, into as many columns of a page as there is room for:
/// `to[c][r] = from[r][c]`, 0 where there is no row `r`.
fn turn(from: &[f32], width: usize, to: &mut [f32]) {
    let rows = from.len().div_ceil(width);
    for (c, to) in to.chunks_exact_mut(PAGE_ROWS).enumerate() {
        for (to, from) in to.iter_mut().zip(from.chunks(width)) {
            *to = from[c];
        }
        to[rows..].fill(0.0);
    }
}
