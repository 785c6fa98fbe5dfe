//! Formats of 256 values with whole-number codes and scales of groups: `q2_k` to `q6_k`, and
//! `iq4_xs`, whose codes are uneven levels.

use super::affine::{Lines, lines};
use super::fit::{Half, Source, Steps, Whole, scaled};
use super::small::Levels;

/// Two bits of each of 256 codes: two halves of 128, four times 32 in each.
pub(super) fn two_bits(codes: &[u8; 256], to: &mut [u8]) {
    for (i, code) in codes.iter().enumerate() {
        let (half, shift, l) = (i / 128, i % 128 / 32, i % 32);
        to[32 * half + l] |= (code & 3) << (2 * shift);
    }
}

fn write(half: Half, to: &mut [u8]) {
    to.copy_from_slice(&half.bits.to_le_bytes());
}

/// How much further than to the ends of the values codes of two bits are stretched.
const STRETCHES_2: [f32; 12] = [
    -0.6, -0.4, -0.2, 0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.6,
];

/// The same for four and five bits.
const STRETCHES: [f32; 10] = [-1.2, -0.7, -0.3, 0.0, 0.3, 0.7, 1.1, 1.6, 2.2, 3.0];

pub(super) fn q2(source: &Source<256>, to: &mut [u8]) -> bool {
    let Some(block) = lines::<16>(source, 3.0, 15, &STRETCHES_2) else {
        return false;
    };
    for (group, to) in to[..16].iter_mut().enumerate() {
        *to = block.scales[group] | block.minima[group] << 4;
    }
    two_bits(&block.codes.map(|code| code as u8), &mut to[16..80]);
    write(block.scale, &mut to[80..82]);
    write(block.minimum, &mut to[82..84]);
    true
}

/// Scales and minima of six bits in twelve bytes.
fn six_bits(block: &Lines, to: &mut [u8]) {
    for j in 0..8 {
        let (s, m) = (block.scales[j], block.minima[j]);
        match j {
            0..4 => {
                to[j] |= s;
                to[j + 4] |= m;
            }
            _ => {
                to[j + 4] = s & 15 | m << 4;
                to[j - 4] |= s >> 4 << 6;
                to[j] |= m >> 4 << 6;
            }
        }
    }
}

/// `q4_k`, and `q5_k` with `high` bytes of fifth bits.
fn q45(source: &Source<256>, high: usize, to: &mut [u8]) -> bool {
    let top = if high > 0 { 31.0 } else { 15.0 };
    let Some(block) = lines::<32>(source, top, 63, &STRETCHES) else {
        return false;
    };
    write(block.scale, &mut to[..2]);
    write(block.minimum, &mut to[2..4]);
    six_bits(&block, &mut to[4..16]);
    let (fifths, low) = to[16..].split_at_mut(high);
    for (i, code) in block.codes.iter().enumerate() {
        let (code, j, l) = (*code as u8, i / 32, i % 32);
        low[j / 2 * 32 + l] |= (code & 15) << (4 * (j % 2));
        if let Some(fifth) = fifths.get_mut(l) {
            *fifth |= (code >> 4) << j;
        }
    }
    true
}

pub(super) fn q4(source: &Source<256>, to: &mut [u8]) -> bool {
    q45(source, 0, to)
}

pub(super) fn q5(source: &Source<256>, to: &mut [u8]) -> bool {
    q45(source, 32, to)
}

/// Multiples of six bits with a sign.
const SIGNED: Steps = Steps {
    first: -32.0,
    step: 1.0,
    count: 64,
    far: 0,
};

pub(super) fn q3(source: &Source<256>, to: &mut [u8]) -> bool {
    const PEAKS: [f32; 13] = [
        -4.9, -4.6, -4.3, -4.0, -3.7, -3.4, -3.1, -2.8, -2.5, 3.4, 3.1, 2.8, 2.5,
    ];
    let coder = Whole {
        low: -4.0,
        high: 3.0,
    };
    let Some(block) = scaled::<16>(&coder, source, &PEAKS, &SIGNED) else {
        return false;
    };
    let codes = block.codes.map(|code| (code + 4.0) as u8);
    for (i, code) in codes.iter().enumerate() {
        to[i % 32] |= (code >> 2) << (i / 32);
    }
    two_bits(&codes, &mut to[32..96]);
    for (group, six) in block.steps.iter().enumerate() {
        to[96 + (group & 7)] |= (six & 15) << (4 * (group >> 3));
        to[104 + (group & 3)] |= (six >> 4) << (2 * (group >> 2));
    }
    write(block.scale, &mut to[108..110]);
    true
}

pub(super) fn q6(source: &Source<256>, to: &mut [u8]) -> bool {
    const PEAKS: [f32; 8] = [-33.0, -32.5, -32.0, -31.5, -31.0, -30.4, 31.2, 30.6];
    const STEPS: Steps = Steps {
        first: -128.0,
        step: 1.0,
        count: 255,
        far: 0,
    };
    let coder = Whole {
        low: -32.0,
        high: 31.0,
    };
    let Some(block) = scaled::<16>(&coder, source, &PEAKS, &STEPS) else {
        return false;
    };
    for (i, code) in block.codes.iter().enumerate() {
        let code = (code + 32.0) as u8;
        let (n, k, l) = (i / 128, i % 128 / 32, i % 32);
        to[64 * n + 32 * (k & 1) + l] |= (code & 15) << (4 * (k >> 1));
        to[128 + 32 * n + l] |= (code >> 4) << (2 * k);
    }
    for (group, step) in block.steps.iter().enumerate() {
        to[192 + group] = step.wrapping_sub(128);
    }
    write(block.scale, &mut to[208..210]);
    true
}

pub(super) fn iq4_xs(source: &Source<256>, to: &mut [u8]) -> bool {
    let Some(block) = scaled::<32>(&Levels, source, &Levels::PEAKS, &SIGNED) else {
        return false;
    };
    write(block.scale, &mut to[..2]);
    let mut high = 0u16;
    for (b, six) in block.steps.iter().enumerate().take(8) {
        to[4 + b / 2] |= (six & 15) << (4 * (b % 2));
        high |= u16::from(six >> 4) << (2 * b);
    }
    to[2..4].copy_from_slice(&high.to_le_bytes());
    for (i, level) in block.codes.iter().enumerate() {
        to[8 + 16 * (i / 32) + i % 16] |= Levels::nibble(*level) << (4 * (i / 16 % 2));
    }
    true
}
