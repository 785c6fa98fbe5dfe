//! Looks at the numbers whose damage would spoil every answer and that are few: block
//! scales, norms and biases. The weights themselves are too many to be read twice.
//!
//! Decides which values are refused. A scale of zero is allowed: quantising a block of zeros
//! gives it.

use hadal_device::{DType, SCALE_BLOCK};

use crate::bind::SCALE_SUFFIX;
use crate::source::range;
use crate::{Bound, BoundWeight, Result, Stored, TensorSource, WeightsError};

impl Bound {
    /// Reads every block scale and every vector once. Errors name the first value that is
    /// not finite, or the first scale that is negative.
    pub fn check_values(&self, source: &dyn TensorSource) -> Result<()> {
        for weight in &self.weights {
            for (index, scale) in weight.scales.iter().enumerate() {
                let columns = weight
                    .shape
                    .last()
                    .map_or(1, |edge| edge.div_ceil(SCALE_BLOCK))
                    as usize;
                if let Some((at, value)) =
                    first(source, scale, DType::F32, |v| v.is_finite() && v >= 0.0)
                {
                    let name = format!("{}{SCALE_SUFFIX}", weight.tensor_name(index));
                    let position = format!("[{}, {}]", at / columns, at % columns);
                    return Err(refusal(
                        source,
                        scale,
                        name,
                        position,
                        value,
                        "but scales are finite and not negative",
                    ));
                }
            }
            self.check_vector(weight, source)?;
        }
        Ok(())
    }

    fn check_vector(&self, weight: &BoundWeight, source: &dyn TensorSource) -> Result<()> {
        if weight.shape.len() != 1 {
            return Ok(());
        }
        for (index, data) in weight.data.iter().enumerate() {
            if let Some((at, value)) = first(source, data, weight.dtype, f32::is_finite) {
                let name = weight.tensor_name(index);
                return Err(refusal(
                    source,
                    data,
                    name,
                    format!("[{at}]"),
                    value,
                    "but it must be finite",
                ));
            }
        }
        Ok(())
    }
}

fn refusal(
    source: &dyn TensorSource,
    stored: &Stored,
    tensor: String,
    position: String,
    value: f32,
    why: &'static str,
) -> WeightsError {
    let file = source
        .shards()
        .get(stored.shard)
        .map_or("?", |shard| &shard.name)
        .to_string();
    WeightsError::Value {
        file,
        tensor,
        position,
        value,
        why,
    }
}

/// Index and value of the first number that is not `good`.
fn first(
    source: &dyn TensorSource,
    stored: &Stored,
    dtype: DType,
    good: impl Fn(f32) -> bool,
) -> Option<(usize, f32)> {
    let bytes = range(
        source.shards().get(stored.shard)?,
        stored.offset,
        stored.bytes,
    )?;
    let values = bytes
        .chunks_exact(dtype.block_bytes() as usize)
        .map(|code| match *code {
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            // The exponent tells what is finite; the value itself only goes into a message.
            [a, b] if dtype == DType::Bf16 => f32::from_le_bytes([0, 0, a, b]),
            [a, b] => half_to_f32(u16::from_le_bytes([a, b])),
            _ => 0.0,
        });
    values.enumerate().find(|(_, value)| !good(*value))
}

/// Exact value of an IEEE half.
fn half_to_f32(code: u16) -> f32 {
    let sign = if code & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 10 & 31), f32::from(code & 1023));
    match exponent {
        0 => sign * mantissa * 2f32.powi(-24),
        31 if mantissa == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1.0 + mantissa / 1024.0) * 2f32.powi(exponent - 15),
    }
}
