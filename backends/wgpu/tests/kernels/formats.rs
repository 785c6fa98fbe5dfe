//! Weights in every format, and all their codes.

use hadal_device::{DType, Inputs, OpKind, Params, e4m3_to_f32};
use half::{bf16, f16};

use crate::harness::{Arg, Case, Random, Step0, check};

/// A weight as it lies in a file, and its values.
pub struct Weight {
    pub dtype: DType,
    /// Values a row.
    pub k: usize,
    /// The codes.
    pub bytes: Vec<u8>,
    /// Scales of blocks of 128 x 128, for FP8.
    pub scales: Vec<f32>,
    /// Row-major values.
    pub values: Vec<f64>,
}

pub const FORMATS: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3];

impl Weight {
    /// `rows` rows of `k` values.
    pub fn random(dtype: DType, rows: usize, k: usize, random: &mut Random) -> Weight {
        let mut weight = Weight {
            dtype,
            k,
            bytes: Vec::new(),
            scales: Vec::new(),
            values: Vec::new(),
        };
        let blocks = k.div_ceil(128);
        if dtype.has_block_scales() {
            weight.scales = (0..rows.div_ceil(128) * blocks)
                .map(|_| 0.002 + 0.001 * random.float())
                .collect();
        }
        for i in 0..rows * k {
            let value = random.float();
            match dtype {
                DType::F16 => {
                    let code = f16::from_f32(value);
                    weight.bytes.extend(code.to_le_bytes());
                    weight.values.push(code.to_f64());
                }
                DType::Bf16 => {
                    let code = bf16::from_f32(value);
                    weight.bytes.extend(code.to_le_bytes());
                    weight.values.push(code.to_f64());
                }
                DType::F8E4M3 => {
                    // Any finite code, subnormals among them.
                    let code = random.below(127) as u8 | ((random.below(2) as u8) << 7);
                    let scale = weight.scales[(i / k / 128) * blocks + i % k / 128];
                    weight.bytes.push(code);
                    weight
                        .values
                        .push(f64::from(e4m3_to_f32(code)) * f64::from(scale));
                }
                _ => {
                    weight.bytes.extend(value.to_le_bytes());
                    weight.values.push(value.into());
                }
            }
        }
        weight
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.k..(i + 1) * self.k]
    }

    /// Rows `first ..` as a tensor of its own that shares the scales of the whole.
    pub fn shard(&self, first: usize, rows: usize) -> Weight {
        let bytes = self.dtype.row_bytes(self.k as u64) as usize;
        Weight {
            dtype: self.dtype,
            k: self.k,
            bytes: self.bytes[first * bytes..(first + rows) * bytes].to_vec(),
            scales: self.scales.clone(),
            values: self.values[first * self.k..(first + rows) * self.k].to_vec(),
        }
    }
}

pub fn dot(x: &[f32], w: &[f64]) -> f64 {
    x.iter().zip(w).map(|(x, w)| f64::from(*x) * w).sum()
}

/// Decodes `codes` by looking one row of them up in an embedding of width `n`.
fn embed_all(name: &str, weight: &Weight, want: Vec<Option<f64>>) {
    let n = weight.k as u32;
    let rows = (want.len() / weight.k) as u32;
    let mut step = Step0::of(rows, rows);
    step.ids = (0..rows).collect();
    check(Case {
        name: name.into(),
        op: OpKind::Embed,
        weight: weight.dtype,
        params: Params {
            rows,
            count_word: Inputs::TOKENS,
            count_scale: 1,
            n,
            y_stride: n,
            row_count: rows,
            ..Params::default()
        },
        step,
        args: vec![Arg::Weight(weight), Arg::Out(want)],
        tolerance: 0.0,
    });
}

#[test]
fn all_finite_e4m3_codes_decode_exactly() {
    let bytes: Vec<u8> = (0..=255u8).filter(|c| c & 0x7f != 0x7f).collect();
    let values: Vec<f64> = bytes.iter().map(|c| e4m3_to_f32(*c).into()).collect();
    let want = values.iter().map(|v| Some(*v)).collect();
    let weight = Weight {
        dtype: DType::F8E4M3,
        k: bytes.len(),
        bytes,
        scales: vec![1.0; 2],
        values,
    };
    embed_all("e4m3", &weight, want);
}

#[test]
fn all_finite_bf16_codes_decode_exactly() {
    finite_halves(DType::Bf16, |code| bf16::from_bits(code).to_f64(), 1e-37);
}

#[test]
fn all_finite_f16_codes_decode_exactly() {
    finite_halves(DType::F16, |code| f16::from_bits(code).to_f64(), 0.0);
}

/// Values below `flushed` are subnormal in f32: WGSL lets a device take them for zero.
fn finite_halves(dtype: DType, decode: fn(u16) -> f64, flushed: f64) {
    let finite = |code: &u16| decode(*code).is_finite() && decode(*code).abs() >= flushed;
    let mut codes: Vec<u16> = (0..=u16::MAX).filter(finite).collect();
    // A width of 200 leaves a ragged end in every kind of grouping.
    codes.resize(codes.len().next_multiple_of(200), 0);
    for part in codes.chunks(200 * 40) {
        let values: Vec<f64> = part.iter().map(|c| decode(*c)).collect();
        let want = values.iter().map(|v| Some(*v)).collect();
        let weight = Weight {
            dtype,
            k: 200,
            bytes: part.iter().flat_map(|c| c.to_le_bytes()).collect(),
            scales: Vec::new(),
            values,
        };
        embed_all(dtype.name(), &weight, want);
    }
}
