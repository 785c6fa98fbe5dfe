//! Rows of activations: the other operand of a product.

use crate::args::{Fault, Region};

/// Where rows of activations lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    first: usize,
    stride: usize,
    count: usize,
    k: usize,
}

/// Rows of activations: row `r` is `data[first + r * stride ..][..k]`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
    /// They lie in an operand, which nobody writes while a step lasts.
    lasting: bool,
    /// Number of rows.
    pub count: usize,
    /// Values of a row.
    pub k: usize,
}

impl<'a> Rows<'a> {
    /// `count` rows of an operand, from element `first` on.
    pub fn of(
        region: &Region<'a>,
        first: usize,
        count: usize,
        k: usize,
        stride: usize,
    ) -> Result<Rows<'a>, Fault> {
        let span = count.saturating_sub(1).saturating_mul(stride);
        let span = if count == 0 {
            0
        } else {
            span.saturating_add(k)
        };
        let data = region.f32s(first, span)?;
        Ok(Rows {
            data,
            stride,
            lasting: true,
            count,
            k,
        })
    }

    /// Rows of `k` values that lie `stride` apart in a slice that holds all of them.
    pub fn strided(data: &'a [f32], count: usize, k: usize, stride: usize) -> Rows<'a> {
        Rows {
            data: &data[..count.saturating_sub(1) * stride + if count == 0 { 0 } else { k }],
            stride,
            lasting: false,
            count,
            k,
        }
    }

    /// Rows one after the other in a slice that holds all of them.
    pub fn packed(data: &'a [f32], count: usize, k: usize) -> Rows<'a> {
        Rows {
            data: &data[..count * k],
            stride: k,
            lasting: false,
            count,
            k,
        }
    }

    /// Where the rows lie, if their values stay the same while a step lasts.
    pub fn place(&self) -> Option<Place> {
        self.lasting.then_some(Place {
            first: self.data.as_ptr() as usize,
            stride: self.stride,
            count: self.count,
            k: self.k,
        })
    }

    /// Row `index`.
    #[inline]
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.k]
    }

    /// `k` columns from column `first` on.
    pub fn columns(&self, first: usize, k: usize) -> Rows<'a> {
        Rows {
            data: if self.count == 0 {
                &[]
            } else {
                &self.data[first..]
            },
            k,
            ..*self
        }
    }

    /// `count` rows from row `first` on.
    pub fn rows(&self, first: usize, count: usize) -> Rows<'a> {
        Rows {
            data: if count == 0 {
                &[]
            } else {
                &self.data[first * self.stride..]
            },
            count,
            ..*self
        }
    }
}
