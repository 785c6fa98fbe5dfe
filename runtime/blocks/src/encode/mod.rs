//! Values to blocks: the codes and scales whose weighted squared error is small.
//!
//! Decides what is refused and what is weighed; the search is in `fit.rs` (scales), `affine.rs`
//! (scales with minima) and `grid.rs` (patterns), and one file for each kind of format lays the
//! result out as `unpack.rs` reads it. Each block depends on nothing but its own values, so
//! that the result is the same however rows are spread over threads.

mod affine;
mod fit;
mod grid;
mod iq;
mod k;
mod small;
mod ternary;

use hadal_device::DType;

use fit::Source;

/// Values that cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// An infinity, or not a number.
    #[error("value {at} is {value}, and blocks hold finite numbers only")]
    NotFinite {
        /// Its index.
        at: usize,
        /// The value.
        value: f32,
    },
    /// A scale that half precision does not hold.
    #[error("value {at} is {value:e}, which is too large for a block of {format}")]
    TooLarge {
        /// Index of the largest value of its block.
        at: usize,
        /// The value.
        value: f32,
        /// The format.
        format: DType,
    },
    /// A weight of a column that is negative, infinite or not a number.
    #[error("the importance of column {at} is {value}, but it must be finite and not negative")]
    Importance {
        /// The column.
        at: usize,
        /// Its weight.
        value: f32,
    },
    /// Values, weights and bytes that do not go together.
    #[error("{values} values in rows of {columns} do not fill {bytes} bytes of {format} blocks")]
    Shape {
        /// How many values.
        values: usize,
        /// How many a row, as far as weights tell.
        columns: usize,
        /// Room for blocks.
        bytes: usize,
        /// The format.
        format: DType,
    },
}

/// Encodes `values`, whole rows, as blocks of `format` (one of [`DType::BLOCKS`]) into all of
/// `to`. `importance` has one weight for each column: how much the square of an error there
/// counts; without it all count the same.
///
/// # Errors
/// Numbers that are not finite, or so large that a block's scale overflows; weights that are
/// negative or not finite; lengths that do not fit each other, or a format without blocks.
pub fn encode(
    format: DType,
    values: &[f32],
    importance: Option<&[f32]>,
    to: &mut [u8],
) -> Result<(), EncodeError> {
    let (bytes, size) = (
        format.block_bytes() as usize,
        format.block_values() as usize,
    );
    let columns = importance.map_or(values.len(), <[f32]>::len).max(1);
    let fits = format.is_blocks()
        && values.len().is_multiple_of(columns)
        && (columns.is_multiple_of(size) || values.is_empty())
        && values.len() / size * bytes == to.len();
    if !fits {
        return Err(EncodeError::Shape {
            values: values.len(),
            columns,
            bytes: to.len(),
            format,
        });
    }
    if let Some((at, &value)) = find(values, |value| !value.is_finite()) {
        return Err(EncodeError::NotFinite { at, value });
    }
    let bad = |weight: f32| !weight.is_finite() || weight < 0.0;
    if let Some((at, &value)) = importance.and_then(|weights| find(weights, bad)) {
        return Err(EncodeError::Importance { at, value });
    }
    let blocks = values.chunks_exact(size).zip(to.chunks_exact_mut(bytes));
    for (index, (values, to)) in blocks.enumerate() {
        let first = index * size;
        let weights = importance.map(|weights| &weights[first % columns..][..size]);
        to.fill(0);
        let is_encoded = match size {
            32 => small::encode(format, &Source::new(values, weights), to),
            _ => large(format, &Source::new(values, weights), to),
        };
        if !is_encoded {
            let peak = largest(values);
            return Err(EncodeError::TooLarge {
                at: first + peak,
                value: values[peak],
                format,
            });
        }
    }
    Ok(())
}

fn find(values: &[f32], bad: impl Fn(f32) -> bool) -> Option<(usize, &f32)> {
    values.iter().enumerate().find(|(_, value)| bad(**value))
}

/// Index of the value that is furthest from zero.
fn largest(values: &[f32]) -> usize {
    let indices = 0..values.len();
    indices
        .max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()))
        .unwrap_or(0)
}

/// Blocks of 256 values; false where the scale overflows.
fn large(format: DType, source: &Source<256>, to: &mut [u8]) -> bool {
    match format {
        DType::Q2K => k::q2(source, to),
        DType::Q3K => k::q3(source, to),
        DType::Q4K => k::q4(source, to),
        DType::Q5K => k::q5(source, to),
        DType::Q6K => k::q6(source, to),
        DType::Iq4Xs => k::iq4_xs(source, to),
        DType::Tq1_0 => ternary::tq1_0(source, to),
        DType::Tq2_0 => ternary::tq2_0(source, to),
        DType::Iq2Xxs => iq::iq2_xxs(source, to),
        DType::Iq2Xs => iq::iq2_xs(source, to),
        DType::Iq2S => iq::iq2_s(source, to),
        DType::Iq3Xxs => iq::iq3_xxs(source, to),
        DType::Iq3S => iq::iq3_s(source, to),
        DType::Iq1S => iq::iq1_s(source, to),
        DType::Iq1M => iq::iq1_m(source, to),
        // The caller has seen that the format has blocks, and of 256.
        _ => false,
    }
}

#[cfg(test)]
mod tests;
