//! Blocks as small integers with a scale and a minimum for each sixteen of them.
//!
//! One function a format, in the order of [`DType::BLOCKS`]. Source: the GGUF specification
//! and `ggml-quants` of llama.cpp for the formats it names only; the numbers are checked
//! against vectors of the Python package `gguf`.

use hadal_device::DType;
use half::f16;

use crate::grids;

/// Values that share a scale and a minimum, in every format.
pub const GROUP: usize = 16;

/// Values of the largest block.
pub const MAX_VALUES: usize = 256;

/// A block taken apart: value `i` is `scales[i / 16] * codes[i] - minima[i / 16]`.
#[derive(Clone, Debug)]
pub struct Block {
    /// Small integers.
    pub codes: [i8; MAX_VALUES],
    /// What a code counts.
    pub scales: [f32; MAX_VALUES / GROUP],
    /// What is taken off; 0 in most formats.
    pub minima: [f32; MAX_VALUES / GROUP],
}

impl Default for Block {
    fn default() -> Block {
        Block {
            codes: [0; MAX_VALUES],
            scales: [0.0; MAX_VALUES / GROUP],
            minima: [0.0; MAX_VALUES / GROUP],
        }
    }
}

impl Block {
    /// Sixteen codes that begin at value `first`.
    fn codes(&mut self, first: usize, code: impl Fn(usize) -> i8) {
        for (i, to) in self.codes[first..first + GROUP].iter_mut().enumerate() {
            *to = code(i);
        }
    }

    /// One scale and minimum for 32 values from group `group` on.
    fn pair(&mut self, group: usize, scale: f32, minimum: f32) {
        self.scales[group..group + 2].fill(scale);
        self.minima[group..group + 2].fill(minimum);
    }

    /// Scales of all groups, and no minima.
    fn scaled(&mut self, scale: impl Fn(usize) -> f32) {
        for (group, to) in self.scales.iter_mut().enumerate() {
            *to = scale(group);
        }
        self.minima.fill(0.0);
    }
}

/// Takes apart the block of `format` at the beginning of `bytes`. Formats of 32 values fill
/// the first 32 codes and two groups.
///
/// # Panics
/// If `bytes` is shorter than a block, or `format` is none of [`DType::BLOCKS`].
pub fn unpack(format: DType, bytes: &[u8], to: &mut Block) {
    match format {
        DType::Q4_0 => nibbles(bytes, 2, to, |code| code as i8 - 8),
        DType::Q4_1 => minimum(bytes, 0, to),
        DType::Q5_0 => fives(bytes, 2, 16, to),
        DType::Q5_1 => minimum(bytes, 4, to),
        DType::Q8_0 => eights(bytes, to),
        DType::Q2K => q2_k(bytes, to),
        DType::Q3K => q3_k(bytes, to),
        DType::Q4K => q45_k(bytes, 0, to),
        DType::Q5K => q45_k(bytes, 32, to),
        DType::Q6K => q6_k(bytes, to),
        DType::Iq2Xxs => iq2_xxs(bytes, to),
        DType::Iq2Xs => iq2_xs(bytes, to),
        DType::Iq3Xxs => iq3_xxs(bytes, to),
        DType::Iq1S => iq1_s(bytes, to),
        DType::Iq4Nl => nibbles(bytes, 2, to, |code| LEVELS[usize::from(code)]),
        DType::Iq3S => iq3_s(bytes, to),
        DType::Iq2S => iq2_s(bytes, to),
        DType::Iq4Xs => iq4_xs(bytes, to),
        DType::Iq1M => iq1_m(bytes, to),
        DType::Tq1_0 => tq1_0(bytes, to),
        DType::Tq2_0 => tq2_0(bytes, to),
        DType::F32 | DType::F16 | DType::Bf16 | DType::F8E4M3 | DType::U32 => {
            panic!("{format} has no blocks")
        }
    }
}

/// What the codes of `iq4_nl` and `iq4_xs` stand for.
pub const LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) | u32::from(word(bytes, at + 2)) << 16
}

/// Nibble `i` of 32: the low ones of sixteen bytes, then the high ones.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i % 16] >> (4 * (i / 16)) & 15
}

/// 32 nibbles from byte `at` on, and one scale.
fn nibbles(bytes: &[u8], at: usize, to: &mut Block, code: impl Fn(u8) -> i8) {
    for group in 0..2 {
        to.codes(group * GROUP, |i| {
            code(nibble(&bytes[at..], group * GROUP + i))
        });
    }
    to.pair(0, half(bytes, 0), 0.0);
}

/// `q5_0`: as `q4_0`, with a fifth bit of each.
fn fives(bytes: &[u8], at: usize, zero: i8, to: &mut Block) {
    let high = long(bytes, at);
    for group in 0..2 {
        to.codes(group * GROUP, |i| {
            let i = group * GROUP + i;
            let fifth = (high >> i & 1) as u8;
            (nibble(&bytes[at + 4..], i) | fifth << 4) as i8 - zero
        });
    }
    to.pair(0, half(bytes, 0), 0.0);
}

/// `q4_1` and `q5_1`: a scale and what is added, then `high` bytes of fifth bits.
fn minimum(bytes: &[u8], high: usize, to: &mut Block) {
    match high {
        0 => nibbles(bytes, 4, to, |code| code as i8),
        _ => fives(bytes, 4, 0, to),
    }
    to.pair(0, half(bytes, 0), -half(bytes, 2));
}

fn eights(bytes: &[u8], to: &mut Block) {
    for (to, code) in to.codes.iter_mut().zip(&bytes[2..34]) {
        *to = *code as i8;
    }
    to.pair(0, half(bytes, 0), 0.0);
}

/// The two bits of value `16 * group + i`: two halves of 128, four times 32 in each.
fn two_bits(bytes: &[u8], group: usize, i: usize) -> u8 {
    let (half, shift, l) = (group / 8, group % 8 / 2, group % 2 * GROUP + i);
    bytes[32 * half + l] >> (2 * shift) & 3
}

fn q2_k(bytes: &[u8], to: &mut Block) {
    let (scale, minimum) = (half(bytes, 80), half(bytes, 82));
    for group in 0..16 {
        to.codes(group * GROUP, |i| two_bits(&bytes[16..], group, i) as i8);
        to.scales[group] = scale * f32::from(bytes[group] & 15);
        to.minima[group] = minimum * f32::from(bytes[group] >> 4);
    }
}

fn q3_k(bytes: &[u8], to: &mut Block) {
    let (high, scales) = (&bytes[..32], &bytes[96..108]);
    for group in 0..16 {
        to.codes(group * GROUP, |i| {
            let third = high[group % 2 * GROUP + i] >> (group / 2) & 1;
            two_bits(&bytes[32..], group, i) as i8 - 4 * (1 - third as i8)
        });
    }
    let scale = half(bytes, 108);
    to.scaled(|group| {
        let low = scales[group & 7] >> (4 * (group >> 3)) & 15;
        let high = scales[8 + (group & 3)] >> (2 * (group >> 2)) & 3;
        scale * f32::from((low | high << 4) as i8 - 32)
    });
}

/// Scale and minimum `j` of eight, six bits each in twelve bytes.
fn six_bits(s: &[u8], j: usize) -> (u8, u8) {
    match j {
        0..4 => (s[j] & 63, s[j + 4] & 63),
        _ => (
            s[j + 4] & 15 | s[j - 4] >> 6 << 4,
            s[j + 4] >> 4 | s[j] >> 6 << 4,
        ),
    }
}

/// `q4_k`, and `q5_k` with `high` bytes of fifth bits.
fn q45_k(bytes: &[u8], high: usize, to: &mut Block) {
    let (scale, minimum) = (half(bytes, 0), half(bytes, 2));
    let (fifth, low) = bytes[16..].split_at(high);
    for j in 0..8 {
        let (s, m) = six_bits(&bytes[4..16], j);
        to.pair(2 * j, scale * f32::from(s), minimum * f32::from(m));
        for group in 0..2 {
            to.codes((2 * j + group) * GROUP, |i| {
                let l = group * GROUP + i;
                let code = low[j / 2 * 32 + l] >> (4 * (j % 2)) & 15;
                let fifth = fifth.get(l).map_or(0, |bits| bits >> j & 1);
                (code | fifth << 4) as i8
            });
        }
    }
}

fn q6_k(bytes: &[u8], to: &mut Block) {
    let (low, high) = (&bytes[..128], &bytes[128..192]);
    for group in 0..16 {
        let (n, k, l) = (group / 8, group % 8 / 2, group % 2 * GROUP);
        to.codes(group * GROUP, |i| {
            let four = low[64 * n + 32 * (k & 1) + l + i] >> (4 * (k >> 1)) & 15;
            let two = high[32 * n + l + i] >> (2 * k) & 3;
            (four | two << 4) as i8 - 32
        });
    }
    let scale = half(bytes, 208);
    to.scaled(|group| scale * f32::from(bytes[192 + group] as i8));
}

/// The eight signs of a code of seven bits: the eighth makes their number even.
fn signs(code: u32) -> u8 {
    let seven = code as u8 & 127;
    seven | (seven.count_ones() as u8 & 1) << 7
}

fn signed(value: i8, signs: u8, i: usize) -> i8 {
    if signs >> i & 1 == 0 { value } else { -value }
}

/// Value `i` of eight of a pattern of two-bit codes.
fn of_eight(pattern: u16, i: usize) -> usize {
    usize::from(pattern >> (2 * i) & 3)
}

/// Value `i` of four of a pattern of four-bit codes.
fn of_four(pattern: u16, i: usize) -> i8 {
    (pattern >> (4 * i) & 15) as i8
}

/// Magnitudes of `iq2_xxs`, `iq2_xs`, `iq2_s`.
const EIGHTS: [i8; 4] = [8, 25, 43, 0];

/// Sixteen values of two patterns with signs.
fn two_patterns(to: &mut Block, group: usize, pattern: impl Fn(usize) -> (u16, u8)) {
    let both = [pattern(0), pattern(1)];
    to.codes(group * GROUP, |i| {
        let (pattern, signs) = both[i / 8];
        signed(EIGHTS[of_eight(pattern, i % 8)], signs, i % 8)
    });
}

fn iq2_xxs(bytes: &[u8], to: &mut Block) {
    for b in 0..8 {
        let at = 2 + 8 * b;
        let rest = long(bytes, at + 4);
        for half in 0..2 {
            two_patterns(to, 2 * b + half, |j| {
                let j = 2 * half + j;
                let pattern = grids::IQ2XXS[usize::from(bytes[at + j])];
                (pattern, signs(rest >> (7 * j)))
            });
        }
    }
    let scale = half(bytes, 0);
    to.scaled(|group| {
        let rest = long(bytes, 2 + 8 * (group / 2) + 4);
        scale * (0.5 + (rest >> 28) as f32) * 0.25
    });
}

fn iq2_xs(bytes: &[u8], to: &mut Block) {
    for group in 0..16 {
        two_patterns(to, group, |j| {
            let code = word(bytes, 2 + 2 * (2 * group + j));
            let pattern = grids::IQ2XS[usize::from(code & 511)];
            (pattern, signs(u32::from(code >> 9)))
        });
    }
    quarter_scales(bytes, 66, to);
}

/// Scales of four bits, one for each group, from byte `at` on.
fn quarter_scales(bytes: &[u8], at: usize, to: &mut Block) {
    let scale = half(bytes, 0);
    to.scaled(|group| {
        let four = bytes[at + group / 2] >> (4 * (group % 2)) & 15;
        scale * (0.5 + f32::from(four)) * 0.25
    });
}

fn iq2_s(bytes: &[u8], to: &mut Block) {
    for group in 0..16 {
        two_patterns(to, group, |j| {
            let j = 2 * group + j;
            let high = bytes[66 + j / 4] >> (2 * (j % 4)) & 3;
            let index = usize::from(bytes[2 + j]) | usize::from(high) << 8;
            (grids::IQ2S[index], bytes[34 + j])
        });
    }
    quarter_scales(bytes, 74, to);
}

fn iq3_xxs(bytes: &[u8], to: &mut Block) {
    for group in 0..16 {
        let rest = long(bytes, 66 + 4 * (group / 2));
        to.codes(group * GROUP, |i| {
            let pattern = grids::IQ3XXS[usize::from(bytes[2 + 4 * group + i / 4])];
            let code = of_four(pattern, i % 4);
            // The last step is ten wide.
            let value = 4 + 8 * code + 2 * i8::from(code == 7);
            let signs = signs(rest >> (7 * (group % 2 * 2 + i / 8)));
            signed(value, signs, i % 8)
        });
    }
    let scale = half(bytes, 0);
    to.scaled(|group| {
        let rest = long(bytes, 66 + 4 * (group / 2));
        scale * (0.5 + (rest >> 28) as f32) * 0.5
    });
}

fn iq3_s(bytes: &[u8], to: &mut Block) {
    for group in 0..16 {
        to.codes(group * GROUP, |i| {
            let j = 4 * group + i / 4;
            let high = usize::from(bytes[66 + j / 8] >> (j % 8) & 1);
            let pattern = grids::IQ3S[usize::from(bytes[2 + j]) | high << 8];
            let value = 2 * of_four(pattern, i % 4) + 1;
            signed(value, bytes[74 + 2 * group + i / 8], i % 8)
        });
    }
    let scale = half(bytes, 0);
    to.scaled(|group| {
        let four = bytes[106 + group / 4] >> (4 * (group / 2 % 2)) & 15;
        scale * f32::from(1 + 2 * four)
    });
}

/// An eighth of `8 * grid + 1` or `8 * grid - 1`: the pattern moved by an eighth.
fn moved(pattern: u16, i: usize, down: bool) -> i8 {
    8 * (of_eight(pattern, i) as i8 - 1) + if down { -1 } else { 1 }
}

fn iq1_s(bytes: &[u8], to: &mut Block) {
    let high = |group: usize| word(bytes, 34 + 2 * (group / 2));
    for group in 0..16 {
        to.codes(group * GROUP, |i| {
            let j = 2 * group + i / 8;
            let bits = high(group) >> (3 * (j % 4)) & 7;
            let pattern = grids::IQ1S[usize::from(bytes[2 + j]) | usize::from(bits) << 8];
            moved(pattern, i % 8, high(group) & 0x8000 != 0)
        });
    }
    let scale = half(bytes, 0) / 8.0;
    to.scaled(|group| scale * f32::from(2 * (high(group) >> 12 & 7) + 1));
}

fn iq1_m(bytes: &[u8], to: &mut Block) {
    for group in 0..16 {
        to.codes(group * GROUP, |i| {
            let j = 2 * group + i / 8;
            let bits = bytes[32 + j / 2] >> (4 * (j % 2)) & 15;
            let index = usize::from(bytes[j]) | usize::from(bits & 7) << 8;
            moved(grids::IQ1S[index], i % 8, bits & 8 != 0)
        });
    }
    // The scale of all lies in the top four bits of four words.
    let words: [u16; 4] = std::array::from_fn(|i| word(bytes, 48 + 2 * i));
    let bits = words
        .iter()
        .rev()
        .fold(0, |bits, word| bits << 4 | word >> 12);
    let scale = f16::from_bits(bits).to_f32() / 8.0;
    to.scaled(|group| {
        let three = words[group / 4] >> (3 * (group % 4)) & 7;
        scale * f32::from(2 * three + 1)
    });
}

fn iq4_xs(bytes: &[u8], to: &mut Block) {
    for group in 0..16 {
        let codes = &bytes[8 + 16 * (group / 2)..];
        to.codes(group * GROUP, |i| {
            LEVELS[usize::from(codes[i] >> (4 * (group % 2)) & 15)]
        });
    }
    let (scale, high) = (half(bytes, 0), word(bytes, 2));
    to.scaled(|group| {
        let b = group / 2;
        let low = bytes[4 + b / 2] >> (4 * (b % 2)) & 15;
        let six = low | ((high >> (2 * b) & 3) << 4) as u8;
        scale * f32::from(six as i8 - 32)
    });
}

fn tq1_0(bytes: &[u8], to: &mut Block) {
    // A byte counts in units of 3^-5 of 256; times a power of three, its next digit is on top.
    let digit = |byte: u8, power: u8| {
        let moved = byte.wrapping_mul([1, 3, 9, 27, 81][usize::from(power)]);
        ((u16::from(moved) * 3) >> 8) as i8 - 1
    };
    for (i, code) in to.codes.iter_mut().enumerate() {
        *code = match i {
            0..160 => digit(bytes[i % 32], (i / 32) as u8),
            160..240 => digit(bytes[32 + i % 16], ((i - 160) / 16) as u8),
            _ => digit(bytes[48 + i % 4], ((i - 240) / 4) as u8),
        };
    }
    let scale = half(bytes, 52);
    to.scaled(|_| scale);
}

fn tq2_0(bytes: &[u8], to: &mut Block) {
    for group in 0..16 {
        to.codes(group * GROUP, |i| two_bits(bytes, group, i) as i8 - 1);
    }
    let scale = half(bytes, 64);
    to.scaled(|_| scale);
}
