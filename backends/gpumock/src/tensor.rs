//! Tensor maps of the mock: what the driver's documentation asks of them, in a form of its own,
//! which `cpu/async.cpp` reads. The real form is not documented.

/// `TensorMap` of `cpu/async.h`.
pub type TensorMap = [u64; 16];

const MAGIC: u64 = 0x6861_646c_2062_6f78;

/// A matrix and its boxes, as `cuTensorMapEncodeTiled` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Where it begins.
    pub address: u64,
    /// `CUtensorMapDataType`.
    pub dtype: i32,
    /// Numbers of a line, and lines.
    pub lengths: [u64; 2],
    /// Bytes from one line to the next.
    pub stride: u64,
    /// The same of a box.
    pub boxed: [u32; 2],
    /// Steps along both axes.
    pub steps: [u32; 2],
    /// `CUtensorMapInterleave`, `CUtensorMapSwizzle`, `CUtensorMapL2promotion`,
    /// `CUtensorMapFloatOOBfill`.
    pub modes: [i32; 4],
}

impl Matrix {
    /// Bytes in boxes of this form in 128-byte swizzle.
    pub fn of_bytes(address: u64, lengths: [u64; 2], stride: u64, boxed: [u32; 2]) -> Matrix {
        Matrix {
            address,
            dtype: 0,
            lengths,
            stride,
            boxed,
            steps: [1; 2],
            modes: [0, 3, 0, 0],
        }
    }

    /// Its map; an error says what the documentation forbids or the mock does not have.
    pub fn map(&self) -> Result<TensorMap, String> {
        let Matrix {
            address,
            lengths,
            stride,
            boxed,
            ..
        } = *self;
        // Bytes to numbers of 64 bits, halves, floats; formats of Blackwell are not here.
        let element = match self.dtype {
            0 => 1,
            1 | 6 | 9 => 2,
            2 | 3 | 7 | 10..=12 => 4,
            4 | 5 | 8 => 8,
            other => return Err(format!("numbers of type {other}")),
        };
        let [interleave, swizzle, promotion, fill] = self.modes;
        let line = u64::from(boxed[0]) * element;
        let span = [u64::MAX, 32, 64, 128];
        let span = usize::try_from(swizzle)
            .ok()
            .and_then(|mode| span.get(mode));
        let least = lengths[0].checked_mul(element);
        let whys = [
            (
                !address.is_multiple_of(16),
                "an address that 16 does not divide",
            ),
            (
                !stride.is_multiple_of(16) || stride >= 1 << 40,
                "a stride that is no multiple of 16 below 2^40",
            ),
            (
                lengths.iter().any(|n| *n == 0 || *n > 1 << 32),
                "a length that is not of 1 to 2^32",
            ),
            (least.is_none_or(|line| line > stride), "lines that overlap"),
            (
                boxed.iter().any(|n| *n == 0 || *n > 256),
                "a side of a box that is not of 1 to 256",
            ),
            (
                !line.is_multiple_of(16),
                "lines of a box that 16 bytes do not divide",
            ),
            (
                span.is_none_or(|span| line > *span),
                "lines of a box longer than its swizzle",
            ),
            (self.steps != [1, 1], "steps, which the mock does not take"),
            (interleave != 0, "interleaving, which the mock does not do"),
            (!(0..4).contains(&promotion), "an unknown promotion"),
            // Only for numbers with a point.
            (
                fill != 0,
                "another filling than zeros, which the mock does not do",
            ),
        ];
        if let Some((_, why)) = whys.iter().find(|(is_wrong, _)| *is_wrong) {
            return Err((*why).to_string());
        }
        let mut map = [0; 16];
        map[..5].copy_from_slice(&[MAGIC, address, lengths[0], lengths[1], stride]);
        map[5..7].copy_from_slice(&boxed.map(u64::from));
        map[7..9].copy_from_slice(&[element, swizzle as u64]);
        map[15] = map[..15].iter().fold(0u64, |check, word| {
            (check ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(1)
        });
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::Matrix;

    #[test]
    fn what_the_documentation_forbids_is_refused() {
        let good = Matrix::of_bytes(0x1000, [100, 7], 112, [128, 64]);
        assert!(good.map().is_ok());
        let whys = [
            (
                Matrix {
                    address: 0x1008,
                    ..good.clone()
                },
                "an address",
            ),
            (
                Matrix {
                    stride: 120,
                    ..good.clone()
                },
                "a stride",
            ),
            (
                Matrix {
                    stride: 1 << 40,
                    ..good.clone()
                },
                "a stride",
            ),
            (
                Matrix {
                    lengths: [0, 7],
                    ..good.clone()
                },
                "a length",
            ),
            (
                Matrix {
                    lengths: [100, (1 << 32) + 1],
                    ..good.clone()
                },
                "a length",
            ),
            (
                Matrix {
                    stride: 96,
                    ..good.clone()
                },
                "overlap",
            ),
            (
                Matrix {
                    boxed: [128, 257],
                    ..good.clone()
                },
                "a side",
            ),
            (
                Matrix {
                    boxed: [0, 64],
                    ..good.clone()
                },
                "a side",
            ),
            (
                Matrix {
                    boxed: [100, 64],
                    ..good.clone()
                },
                "16 bytes",
            ),
            (
                Matrix {
                    boxed: [144, 64],
                    ..good.clone()
                },
                "its swizzle",
            ),
            (
                Matrix {
                    dtype: 1,
                    stride: 208,
                    ..good.clone()
                },
                "its swizzle",
            ),
            (
                Matrix {
                    modes: [0, 4, 0, 0],
                    ..good.clone()
                },
                "its swizzle",
            ),
            (
                Matrix {
                    dtype: 99,
                    ..good.clone()
                },
                "type 99",
            ),
            (
                Matrix {
                    steps: [2, 1],
                    ..good.clone()
                },
                "steps",
            ),
            (
                Matrix {
                    modes: [1, 3, 0, 0],
                    ..good.clone()
                },
                "interleaving",
            ),
            (
                Matrix {
                    modes: [0, 3, 4, 0],
                    ..good.clone()
                },
                "promotion",
            ),
            (
                Matrix {
                    modes: [0, 3, 0, 1],
                    ..good.clone()
                },
                "filling",
            ),
        ];
        for (matrix, why) in whys {
            let said = matrix.map().unwrap_err();
            assert!(said.contains(why), "{matrix:?}: {said}");
        }
    }
}
