//! Formats of 32 values with a scale, or a scale and a minimum, in half precision.

use hadal_device::DType;

use super::affine::{Line, Minima, best_line, codes_at};
use super::fit::{Coder, Source, Whole, best_scale, inverse};
use crate::unpack::LEVELS;

/// Encodes one block; false where its scale overflows.
pub(super) fn encode(format: DType, source: &Source<32>, to: &mut [u8]) -> bool {
    let done = match format {
        DType::Q4_0 => four(source, to),
        DType::Q5_0 => five(source, to),
        DType::Q8_0 => eight(source, to),
        DType::Iq4Nl => levels(source, to),
        DType::Q4_1 => with_minimum(source, 15.0, to),
        _ => with_minimum(source, 31.0, to),
    };
    done.is_some()
}

/// The best codes of a block, with the scale written to the front.
fn scaled(
    coder: &impl Coder<32>,
    source: &Source<32>,
    peaks: &[f32],
    to: &mut [u8],
) -> Option<[f32; 32]> {
    let scale = source.half(best_scale(coder, (&source.x, &source.w), peaks))?;
    let mut codes = [0f32; 32];
    coder.code(&source.x, &source.w, scale.value, &mut codes);
    to[..2].copy_from_slice(&scale.bits.to_le_bytes());
    Some(codes)
}

/// Nibbles as `unpack` reads them: low ones first.
fn nibbles(codes: impl Fn(usize) -> u8, to: &mut [u8]) {
    for (i, to) in to.iter_mut().enumerate().take(16) {
        *to = codes(i) & 15 | codes(i + 16) << 4;
    }
}

/// The fifth bits of all 32 codes.
fn fifths(codes: impl Fn(usize) -> u8) -> [u8; 4] {
    let bits = (0..32).fold(0u32, |bits, i| bits | u32::from(codes(i) >> 4 & 1) << i);
    bits.to_le_bytes()
}

/// What the furthest value is tried as. One end has a code more, so its sign matters.
const FOURS: [f32; 11] = [
    -9.0, -8.6, -8.3, -8.0, -7.7, -7.4, -7.0, -6.6, 7.4, 7.0, 6.6,
];

fn four(source: &Source<32>, to: &mut [u8]) -> Option<()> {
    let coder = Whole {
        low: -8.0,
        high: 7.0,
    };
    let codes = scaled(&coder, source, &FOURS, to)?;
    nibbles(|i| (codes[i] + 8.0) as u8, &mut to[2..]);
    Some(())
}

const FIVES: [f32; 9] = [-16.8, -16.4, -16.0, -15.6, -15.2, -14.8, 15.4, 15.0, 14.6];

fn five(source: &Source<32>, to: &mut [u8]) -> Option<()> {
    let coder = Whole {
        low: -16.0,
        high: 15.0,
    };
    let codes = scaled(&coder, source, &FIVES, to)?;
    let code = |i: usize| (codes[i] + 16.0) as u8;
    to[2..6].copy_from_slice(&fifths(code));
    nibbles(code, &mut to[6..]);
    Some(())
}

fn eight(source: &Source<32>, to: &mut [u8]) -> Option<()> {
    // Readers that multiply bytes are spared the code without a counterpart.
    let coder = Whole {
        low: -127.0,
        high: 127.0,
    };
    let codes = scaled(&coder, source, &[127.0, 126.6, 127.4], to)?;
    for (to, code) in to[2..].iter_mut().zip(codes) {
        *to = code as i8 as u8;
    }
    Some(())
}

/// How much further than to the ends of the values codes are stretched.
const STRETCHES: [f32; 9] = [-0.8, -0.4, 0.0, 0.3, 0.6, 0.9, 1.3, 1.7, 2.2];

fn with_minimum(source: &Source<32>, top: f32, to: &mut [u8]) -> Option<()> {
    let group = (&source.x, &source.w);
    let line = best_line(group, top, Minima::Any, &STRETCHES);
    let (scale, added) = (source.half(line.scale)?, source.half(-line.minimum)?);
    let line = Line {
        scale: scale.value,
        minimum: -added.value,
    };
    let codes = codes_at(&source.x, line, top);
    to[..2].copy_from_slice(&scale.bits.to_le_bytes());
    to[2..4].copy_from_slice(&added.bits.to_le_bytes());
    let code = |i: usize| codes[i] as u8;
    let rest = match top > 15.0 {
        true => {
            to[4..8].copy_from_slice(&fifths(code));
            8
        }
        false => 4,
    };
    nibbles(code, &mut to[rest..]);
    Some(())
}

/// The uneven levels of `iq4_nl` and `iq4_xs`.
pub(super) struct Levels;

impl Levels {
    /// What the furthest value is tried as.
    pub const PEAKS: [f32; 12] = [
        -150.0, -138.0, -127.0, -119.0, -112.0, -104.0, -95.0, -86.0, 126.0, 113.0, 101.0, 88.0,
    ];

    /// The nibble that stands for a level.
    pub fn nibble(level: f32) -> u8 {
        let level = level as i8;
        LEVELS.iter().take_while(|it| **it < level).count() as u8
    }
}

/// The level nearest to `(i - 255.5) / 2`: levels meet at multiples of a half.
const NEAREST: [f32; 512] = {
    let mut table = [0f32; 512];
    let (mut i, mut level) = (0, 0);
    while i < 512 {
        // In quarters, so that the middle of the step is whole.
        let at = 2 * i as i32 - 511;
        while level < 15 && at > 2 * (LEVELS[level] as i32 + LEVELS[level + 1] as i32) {
            level += 1;
        }
        table[i] = LEVELS[level] as f32;
        i += 1;
    }
    table
};

impl<const G: usize> Coder<G> for Levels {
    fn code(&self, x: &[f32; G], _: &[f32; G], scale: f32, codes: &mut [f32; G]) {
        let inverse = 2.0 * inverse(scale);
        let mut steps = [0f32; G];
        for (step, x) in steps.iter_mut().zip(x) {
            *step = (x * inverse + 256.0).clamp(0.0, 511.0);
        }
        for (code, step) in codes.iter_mut().zip(steps) {
            *code = NEAREST[step as usize & 511];
        }
    }
}

fn levels(source: &Source<32>, to: &mut [u8]) -> Option<()> {
    let codes = scaled(&Levels, source, &Levels::PEAKS, to)?;
    nibbles(|i| Levels::nibble(codes[i]), &mut to[2..]);
    Some(())
}
