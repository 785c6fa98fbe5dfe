//! Formats of -1, 0, 1 with one scale for 256 values.

use super::fit::{Coder, Source, Whole, best_scale};

/// What the furthest value is tried as: what is beyond one and a half scales costs more the
/// further it is, and most weights are far nearer to zero than the furthest.
const PEAKS: [f32; 14] = [
    0.8, 1.0, 1.15, 1.3, 1.45, 1.6, 1.8, 2.0, 2.2, 2.4, 2.7, 3.0, 3.5, 4.2,
];

/// Codes plus one, and the scale's bytes.
fn fit(source: &Source<256>) -> Option<([u8; 256], [u8; 2])> {
    let coder = Whole {
        low: -1.0,
        high: 1.0,
    };
    let mut scale = best_scale(&coder, (&source.x, &source.w), &PEAKS);
    if scale < 0.0 {
        // The furthest value was negative; zero is in the middle, so either sign does.
        scale = -scale;
    }
    let scale = source.half(scale)?;
    let mut codes = [0f32; 256];
    coder.code(&source.x, &source.w, scale.value, &mut codes);
    Some((
        codes.map(|code| (code + 1.0) as u8),
        scale.bits.to_le_bytes(),
    ))
}

pub(super) fn tq2_0(source: &Source<256>, to: &mut [u8]) -> bool {
    let Some((codes, scale)) = fit(source) else {
        return false;
    };
    super::k::two_bits(&codes, &mut to[..64]);
    to[64..66].copy_from_slice(&scale);
    true
}

pub(super) fn tq1_0(source: &Source<256>, to: &mut [u8]) -> bool {
    let Some((codes, scale)) = fit(source) else {
        return false;
    };
    // Five digits of base three as a fraction of a byte, rounded up, so that multiplying by
    // powers of three brings each digit to the top.
    let byte = |digits: [u8; 5]| {
        let number = digits
            .iter()
            .fold(0u32, |number, digit| 3 * number + u32::from(*digit));
        (number * 256).div_ceil(243) as u8
    };
    for (i, to) in to[..32].iter_mut().enumerate() {
        *to = byte(std::array::from_fn(|power| codes[32 * power + i]));
    }
    for (i, to) in to[32..48].iter_mut().enumerate() {
        *to = byte(std::array::from_fn(|power| codes[160 + 16 * power + i]));
    }
    for (i, to) in to[48..52].iter_mut().enumerate() {
        let digit = |power: usize| {
            if power < 4 {
                codes[240 + 4 * power + i]
            } else {
                0
            }
        };
        *to = byte(std::array::from_fn(digit));
    }
    to[52..54].copy_from_slice(&scale);
    true
}
