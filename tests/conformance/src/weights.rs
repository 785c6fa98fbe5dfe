//! Weights in every stored format: bytes for the device, numbers for the evaluator.

use hadal_device::{DType, SCALE_BLOCK, e4m3_to_f32};
use half::{bf16, f16};

use crate::random::Random;

/// A weight matrix as stored, and the numbers it stands for.
pub struct Weights {
    /// Format.
    pub dtype: DType,
    /// Values a row.
    pub k: usize,
    /// Codes, row by row.
    pub bytes: Vec<u8>,
    /// Scales of an FP8 matrix, `[ceil(rows / 128), ceil(k / 128)]`.
    pub scales: Vec<f32>,
    /// Values, scales applied.
    pub values: Vec<f64>,
}

impl Weights {
    /// `rows` of `k` values. Every finite code of a narrow format may occur; FP8 scales
    /// differ by more than their codes do, in both directions, so that a scale of another
    /// block is noticed.
    pub fn random(random: &mut Random, dtype: DType, rows: usize, k: usize) -> Weights {
        let mut weights = Weights {
            dtype,
            k,
            bytes: Vec::new(),
            scales: scales(random, dtype, rows, k),
            values: Vec::with_capacity(rows * k),
        };
        if dtype.is_blocks() {
            weights.fill_blocks(random, rows * k);
            return weights;
        }
        for index in 0..rows * k {
            weights.push(random, index);
        }
        weights
    }

    /// Random bits, whose scales make the largest value of a block about one.
    fn fill_blocks(&mut self, random: &mut Random, count: usize) {
        let dtype = self.dtype;
        let blocks = count / dtype.block_values() as usize;
        let mut values = vec![0.0; dtype.block_values() as usize];
        for _ in 0..blocks {
            let mut block: Vec<u8> = (0..dtype.block_bytes())
                .map(|_| random.bits() as u8)
                .collect();
            hadal_blocks::set_scales(dtype, &mut block, 1.0);
            hadal_blocks::decode(dtype, &block, &mut values);
            let largest = values
                .iter()
                .fold(0f32, |most, value| most.max(value.abs()));
            let scale = (0.5 + 0.5 * random.unit().abs()) / largest;
            hadal_blocks::set_scales(dtype, &mut block, scale);
            hadal_blocks::decode(dtype, &block, &mut values);
            self.bytes.extend(block);
            self.values
                .extend(values.iter().map(|value| f64::from(*value)));
        }
    }

    fn push(&mut self, random: &mut Random, index: usize) {
        let value = random.unit();
        match self.dtype {
            DType::F32 | DType::U32 => {
                self.bytes.extend(value.to_le_bytes());
                self.values.push(value.into());
            }
            DType::F16 => {
                let value = match index % 16 {
                    // A subnormal among sixteen.
                    7 => f16::from_bits((random.bits() & 0x83ff) as u16),
                    _ => f16::from_f32(value),
                };
                self.bytes.extend(value.to_le_bytes());
                self.values.push(value.into());
            }
            DType::Bf16 => {
                let value = bf16::from_f32(value);
                self.bytes.extend(value.to_le_bytes());
                self.values.push(value.into());
            }
            // FP8; blocks are filled as a whole.
            _ => {
                let code = finite(random.bits() as u8);
                self.bytes.push(code);
                self.values.push(self.scaled(index, code));
            }
        }
    }

    /// What `code` at element `index` stands for.
    fn scaled(&self, index: usize, code: u8) -> f64 {
        let block = SCALE_BLOCK as usize;
        let across = self.k.div_ceil(block);
        let scale = self.scales[index / self.k / block * across + index % self.k / block];
        f64::from(e4m3_to_f32(code)) * f64::from(scale)
    }

    /// Puts an FP8 `code` at element `index`.
    pub fn set_code(&mut self, index: usize, code: u8) {
        self.bytes[index] = code;
        self.values[index] = self.scaled(index, code);
    }

    /// Values of rows `first ..`, `count` of them.
    pub fn rows(&self, first: usize, count: usize) -> &[f64] {
        &self.values[first * self.k..][..count * self.k]
    }

    /// Stored bytes of the same rows.
    pub fn row_bytes(&self, first: usize, count: usize) -> Vec<u8> {
        let row = self.dtype.row_bytes(self.k as u64) as usize;
        self.bytes[first * row..][..count * row].to_vec()
    }

    /// The scales' bytes, if the format has any.
    pub fn scale_bytes(&self) -> Option<Vec<u8>> {
        let bytes = || self.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        self.dtype.has_block_scales().then(bytes)
    }
}

/// A value in a format without blocks or scales.
pub fn stored(dtype: DType, value: f32) -> Vec<u8> {
    match dtype {
        DType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

/// NaN codes become their finite neighbours.
fn finite(code: u8) -> u8 {
    code ^ u8::from(code & 0x7f == 0x7f)
}

fn scales(random: &mut Random, dtype: DType, rows: usize, k: usize) -> Vec<f32> {
    if !dtype.has_block_scales() {
        return Vec::new();
    }
    let block = SCALE_BLOCK as usize;
    let (down, across) = (rows.div_ceil(block), k.div_ceil(block));
    let scale = |index: usize| {
        let (row, column) = (index / across, index % across);
        // From 1/512 on, a step for each block, twice as large downwards.
        0.002 * (1.0 + 0.37 * column as f32 + 0.83 * row as f32)
    };
    (0..down * across)
        .map(|index| scale(index) * (1.0 + 0.1 * random.unit()))
        .collect()
}
