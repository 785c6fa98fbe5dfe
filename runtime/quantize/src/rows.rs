//! Rows of a model's tensors as `f32`, whatever they are stored as.

use std::sync::LazyLock;

use hadal_blocks::decode;
use hadal_device::{DType, SCALE_BLOCK, e4m3_to_f32};
use hadal_weights::{FileType, SCALE_SUFFIX, TensorSource};
use half::{bf16, f16};

use crate::{QuantizeError, Result};

/// The values of all E4M3 codes.
static E4M3: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| e4m3_to_f32(code as u8)));

/// A stored matrix; vectors are one row.
#[derive(Clone, Copy)]
pub struct Matrix<'s> {
    bytes: &'s [u8],
    dtype: DType,
    /// Values of a row.
    pub columns: usize,
    /// How many rows.
    pub rows: usize,
    scales: &'s [u8],
}

impl<'s> Matrix<'s> {
    /// The tensor `name`.
    ///
    /// # Errors
    /// It is not there, cut short, or of a format that no weight has.
    pub fn open(source: &'s dyn TensorSource, name: &str) -> Result<Matrix<'s>> {
        let bytes = source.bytes(name)?;
        let refuse = |why: String| QuantizeError::Tensor {
            tensor: name.to_string(),
            why,
        };
        let info = source
            .get(name)
            .ok_or_else(|| refuse("it is not there".into()))?;
        let dtype = match info.dtype {
            FileType::Weight(dtype) => dtype,
            other => return Err(refuse(format!("it is {other}, which no weight is"))),
        };
        let columns = info.shape.last().copied().unwrap_or(1) as usize;
        let values: u64 = info.shape.iter().product();
        let rows = values as usize / columns.max(1);
        let scales = match dtype.has_block_scales() {
            true => source.bytes(&format!("{name}{SCALE_SUFFIX}"))?,
            false => &[],
        };
        let matrix = Matrix {
            bytes,
            dtype,
            columns,
            rows,
            scales,
        };
        let edge = SCALE_BLOCK as usize;
        let wanted = 4 * rows.div_ceil(edge) * columns.div_ceil(edge);
        if dtype.has_block_scales() && scales.len() < wanted {
            return Err(refuse("it has too few block scales".into()));
        }
        if (bytes.len() as u64) < rows as u64 * dtype.row_bytes(columns as u64) {
            return Err(refuse("it is cut short".into()));
        }
        Ok(matrix)
    }

    /// Bytes of the tensor, block scales not counted.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Its number format.
    pub(crate) fn format(&self) -> DType {
        self.dtype
    }

    /// `count` rows from `first` on, as they are stored.
    pub(crate) fn stored_rows(&self, first: u64, count: u64) -> &'s [u8] {
        let size = self.dtype.row_bytes(self.columns as u64);
        &self.bytes[(first * size) as usize..][..(count * size) as usize]
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        let edge = SCALE_BLOCK as usize;
        let at = 4 * (row / edge * self.columns.div_ceil(edge) + column / edge);
        match self.scales.get(at..at + 4) {
            Some(&[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => 1.0,
        }
    }

    /// The values of row `row` into `to`.
    pub fn row(&self, row: usize, to: &mut [f32]) {
        let size = self.dtype.row_bytes(self.columns as u64) as usize;
        let from = &self.bytes[row * size..][..size];
        match self.dtype {
            blocks if blocks.is_blocks() => decode(blocks, from, to),
            DType::F8E4M3 => {
                let edge = SCALE_BLOCK as usize;
                let blocks = from.chunks(edge).zip(to.chunks_mut(edge));
                for (block, (from, to)) in blocks.enumerate() {
                    let scale = self.scale(row, block * edge);
                    for (to, code) in to.iter_mut().zip(from) {
                        *to = E4M3[usize::from(*code)] * scale;
                    }
                }
            }
            DType::F32 => {
                for (to, code) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*code);
                }
            }
            DType::F16 => {
                for (to, code) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                    *to = f16::from_le_bytes(*code).to_f32();
                }
            }
            _ => {
                for (to, code) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                    *to = bf16::from_le_bytes(*code).to_f32();
                }
            }
        }
    }
}
