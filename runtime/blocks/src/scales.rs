//! Where the scales of a block lie, for blocks that nobody quantised: made-up weights of
//! benchmarks and tests are random bytes with sensible scales.

use hadal_device::DType;
use half::f16;

/// Bytes at which the half floats of a block of `format` begin: its scale and, of formats with
/// minima, theirs. The scale of `iq1_m` is scattered, see [`set_scales`].
fn scales_at(format: DType) -> &'static [usize] {
    match format {
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        DType::Tq1_0 => &[52],
        DType::Tq2_0 => &[64],
        DType::Iq1M => &[],
        _ => &[0],
    }
}

/// Makes `scale` the scale of a block, and of its minima.
pub fn set_scales(format: DType, block: &mut [u8], scale: f32) {
    let bits = f16::from_f32(scale).to_bits();
    for &at in scales_at(format) {
        block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }
    if format == DType::Iq1M {
        // Four bits on top of each of four words.
        for part in 0..4 {
            let byte = &mut block[49 + 2 * part];
            *byte = *byte & 15 | ((bits >> (4 * part) & 15) << 4) as u8;
        }
    }
}
