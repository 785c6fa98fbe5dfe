//! Number formats of tensors as they lie in a file or a buffer.
//!
//! Decides sizes and exact conversions of single codes; knows nothing of shapes or of
//! kernels. Read [`DType`] first. Sources: DeepSeek-V3 report, section 3.3 (FP8), the OCP
//! 8-bit floating point specification (E4M3), the GGUF specification (block formats).

use std::fmt;

/// Number format of the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The top half of an `F32`.
    Bf16,
    /// E4M3FN: sign, 4 exponent bits (bias 7), 3 mantissa bits, no infinities; the value of
    /// a weight is the code's value times the scale of its 128x128 block.
    F8E4M3,
    /// Unsigned 32-bit integer (token ids, expert indices).
    U32,
    /// 4 bits and a scale for each 32 values.
    Q4_0,
    /// 4 bits, a scale and a minimum for each 32 values.
    Q4_1,
    /// 5 bits and a scale for each 32 values.
    Q5_0,
    /// 5 bits, a scale and a minimum for each 32 values.
    Q5_1,
    /// 8 bits and a scale for each 32 values.
    Q8_0,
    /// 2 bits; scales and minimums of 4 bits for each 16 of 256 values.
    Q2K,
    /// 3 bits; scales of 6 bits for each 16 of 256 values.
    Q3K,
    /// 4 bits; scales and minimums of 6 bits for each 32 of 256 values.
    Q4K,
    /// 5 bits; scales and minimums of 6 bits for each 32 of 256 values.
    Q5K,
    /// 6 bits; scales of 8 bits for each 16 of 256 values.
    Q6K,
    /// Eight values from 256 patterns; scales of 4 bits for each 32 of 256 values.
    Iq2Xxs,
    /// Eight values from 512 patterns; scales of 4 bits for each 16 of 256 values.
    Iq2Xs,
    /// Four values from 256 patterns; scales of 4 bits for each 32 of 256 values.
    Iq3Xxs,
    /// Eight values from 2048 patterns of -1, 0, 1; scales of 3 bits for each 32 of 256 values.
    Iq1S,
    /// 4 bits that choose of 16 unevenly spaced values, and a scale for each 32 values.
    Iq4Nl,
    /// Four values from 512 patterns; scales of 4 bits for each 32 of 256 values.
    Iq3S,
    /// Eight values from 1024 patterns; scales of 4 bits for each 16 of 256 values.
    Iq2S,
    /// As `Iq4Nl`, with scales of 6 bits for each 32 of 256 values.
    Iq4Xs,
    /// As `Iq1S`, with scales of 3 bits for each 16 of 256 values.
    Iq1M,
    /// Five of -1, 0, 1 in a byte, and a scale for 256 values.
    Tq1_0,
    /// 2 bits for -1, 0, 1, and a scale for 256 values.
    Tq2_0,
}

/// What a table says of a format: name, values of a block, bytes of a block.
const FORMATS: [(DType, &str, u64, u64); 26] = [
    (DType::F32, "f32", 1, 4),
    (DType::F16, "f16", 1, 2),
    (DType::Bf16, "bf16", 1, 2),
    (DType::F8E4M3, "f8e4m3", 1, 1),
    (DType::U32, "u32", 1, 4),
    (DType::Q4_0, "q4_0", 32, 18),
    (DType::Q4_1, "q4_1", 32, 20),
    (DType::Q5_0, "q5_0", 32, 22),
    (DType::Q5_1, "q5_1", 32, 24),
    (DType::Q8_0, "q8_0", 32, 34),
    (DType::Q2K, "q2_k", 256, 84),
    (DType::Q3K, "q3_k", 256, 110),
    (DType::Q4K, "q4_k", 256, 144),
    (DType::Q5K, "q5_k", 256, 176),
    (DType::Q6K, "q6_k", 256, 210),
    (DType::Iq2Xxs, "iq2_xxs", 256, 66),
    (DType::Iq2Xs, "iq2_xs", 256, 74),
    (DType::Iq3Xxs, "iq3_xxs", 256, 98),
    (DType::Iq1S, "iq1_s", 256, 50),
    (DType::Iq4Nl, "iq4_nl", 32, 18),
    (DType::Iq3S, "iq3_s", 256, 110),
    (DType::Iq2S, "iq2_s", 256, 82),
    (DType::Iq4Xs, "iq4_xs", 256, 136),
    (DType::Iq1M, "iq1_m", 256, 56),
    (DType::Tq1_0, "tq1_0", 256, 54),
    (DType::Tq2_0, "tq2_0", 256, 66),
];

impl DType {
    /// The block formats of GGUF, which only matrices have. Their scales lie within the
    /// blocks; a row is a whole number of blocks.
    pub const BLOCKS: [DType; 21] = [
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Iq2Xxs,
        DType::Iq2Xs,
        DType::Iq3Xxs,
        DType::Iq1S,
        DType::Iq4Nl,
        DType::Iq3S,
        DType::Iq2S,
        DType::Iq4Xs,
        DType::Iq1M,
        DType::Tq1_0,
        DType::Tq2_0,
    ];

    /// Every format, in declaration order.
    pub fn all() -> impl Iterator<Item = DType> {
        FORMATS.iter().map(|row| row.0)
    }

    /// Values of a block: 1 where each value has a code of its own.
    pub const fn block_values(self) -> u64 {
        FORMATS[self as usize].2
    }

    /// Bytes of a block, or of a code.
    pub const fn block_bytes(self) -> u64 {
        FORMATS[self as usize].3
    }

    /// True for the formats of [`DType::BLOCKS`].
    pub const fn is_blocks(self) -> bool {
        self.block_values() > 1
    }

    /// Bytes of a row of `values` values, which are a whole number of blocks.
    pub const fn row_bytes(self, values: u64) -> u64 {
        values.div_ceil(self.block_values()) * self.block_bytes()
    }

    /// The lower-case name used in program text and reports.
    pub const fn name(self) -> &'static str {
        FORMATS[self as usize].1
    }

    /// The format whose [`DType::name`] is `name`.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::all().find(|dtype| dtype.name() == name)
    }

    /// True where each 128x128 block of a weight carries a scale in another tensor.
    pub const fn has_block_scales(self) -> bool {
        matches!(self, DType::F8E4M3)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Edge length of a scale block of an FP8 weight.
pub const SCALE_BLOCK: u32 = 128;

/// Largest finite E4M3 value.
pub const E4M3_MAX: f32 = 448.0;

/// Value of an E4M3 code; the two NaN codes (0x7F, 0xFF) give NaN.
pub fn e4m3_to_f32(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0f32 } else { -1.0 };
    let exponent = (code >> 3) & 15;
    if code & 0x7F == 0x7F {
        return f32::NAN;
    }
    let magnitude = if exponent == 0 {
        f32::from(code & 7) * (1.0 / 512.0)
    } else {
        // The fields of the same number in `f32`, whose bias is larger by 120.
        f32::from_bits((u32::from(code & 0x7F) << 20) + (120 << 23))
    };
    sign * magnitude
}

/// Nearest E4M3 code, ties to even, saturating at ±448; NaN keeps its sign.
pub fn f32_to_e4m3(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80u8 } else { 0 };
    if value.is_nan() {
        return sign | 0x7F;
    }
    let magnitude = value.abs();
    if magnitude >= E4M3_MAX {
        return sign | 0x7E;
    }
    // The spacing of codes around `magnitude` is 2^(e-3), and 2^-9 among the subnormals.
    let exponent = (((magnitude.to_bits() >> 23) as i32) - 127).max(-6);
    let steps = (magnitude * 2f32.powi(3 - exponent)).round_ties_even() as u32;
    // `steps` is 8..=16 for normals (16 carries into the next exponent) and 0..=8 below.
    let code = ((exponent + 6) as u32) * 8 + steps;
    sign | (code.min(0x7E) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_code_survives_decode_and_encode() {
        for code in 0..=255u8 {
            if code & 0x7F != 0x7F {
                assert_eq!(f32_to_e4m3(e4m3_to_f32(code)), code, "code {code:#04x}");
            } else {
                assert!(e4m3_to_f32(code).is_nan());
            }
        }
    }

    #[test]
    fn the_table_of_formats_is_in_declaration_order() {
        for (index, dtype) in DType::all().enumerate() {
            assert_eq!(dtype as usize, index);
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
        }
        assert!(DType::all().filter(|d| d.is_blocks()).eq(DType::BLOCKS));
        assert_eq!(DType::Q4K.row_bytes(512), 288);
    }

    #[test]
    fn encoding_rounds_halfway_values_to_the_even_code() {
        for low in 0..0x7Eu8 {
            let half = (e4m3_to_f32(low) + e4m3_to_f32(low + 1)) / 2.0;
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(f32_to_e4m3(half), even, "between {low:#04x} and the next");
        }
        assert_eq!(f32_to_e4m3(1e9), 0x7E);
        assert_eq!(f32_to_e4m3(f32::NEG_INFINITY), 0xFE);
    }
}
