//! Values of whole rows.

use hadal_device::DType;

use crate::{Block, GROUP, unpack};

/// The values of `bytes`, blocks of `format` (one of [`DType::BLOCKS`]) one after the other,
/// as far as `bytes` and `to` reach.
pub fn decode(format: DType, bytes: &[u8], to: &mut [f32]) {
    let (size, values) = (
        format.block_bytes() as usize,
        format.block_values() as usize,
    );
    let mut block = Block::default();
    for (bytes, to) in bytes.chunks_exact(size).zip(to.chunks_mut(values)) {
        unpack(format, bytes, &mut block);
        for (group, to) in to.chunks_mut(GROUP).enumerate() {
            let (scale, minimum) = (block.scales[group], block.minima[group]);
            for (to, code) in to.iter_mut().zip(&block.codes[group * GROUP..]) {
                *to = scale * f32::from(*code) - minimum;
            }
        }
    }
}
