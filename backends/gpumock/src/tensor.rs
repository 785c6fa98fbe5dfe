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
        let element = self.element()?;
        if let Some(why) = self.refused(element) {
            return Err(why.to_string());
        }
        let ([width, height], [numbers, lines]) = (self.boxed.map(u64::from), self.lengths);
        let mut map = [0; 16];
        map[..5].copy_from_slice(&[MAGIC, self.address, numbers, lines, self.stride]);
        map[5..9].copy_from_slice(&[width, height, element, self.modes[1] as u64]);
        map[15] = map[..15].iter().fold(0u64, |check, word| {
            let mixed = (check ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed.wrapping_add(1)
        });
        Ok(map)
    }

    /// Bytes of a number: whole ones, halves, floats; formats of Blackwell are not here.
    fn element(&self) -> Result<u64, String> {
        match self.dtype {
            0 => Ok(1),
            1 | 6 | 9 => Ok(2),
            2 | 3 | 7 | 10..=12 => Ok(4),
            4 | 5 | 8 => Ok(8),
            other => Err(format!("numbers of type {other}")),
        }
    }

    /// Why there is no map for numbers of so many bytes.
    fn refused(&self, element: u64) -> Option<&'static str> {
        let [interleave, swizzle, promotion, fill] = self.modes;
        let boxed = u64::from(self.boxed[0]) * element;
        let span = usize::try_from(swizzle).ok();
        let span = span.and_then(|mode| [u64::MAX, 32, 64, 128].get(mode).copied());
        let line = self.lengths[0].saturating_mul(element);
        let is_side = |side: &u32| (1..=256).contains(side);
        let is_length = |length: &u64| (1..=1 << 32).contains(length);
        let asked = [
            (
                self.address.is_multiple_of(16),
                "an address that 16 does not divide",
            ),
            (
                self.stride.is_multiple_of(16),
                "a stride that 16 does not divide",
            ),
            (self.stride < 1 << 40, "a stride of 2^40 bytes or more"),
            (
                self.lengths.iter().all(is_length),
                "a length that is not of 1 to 2^32",
            ),
            (line <= self.stride, "lines that overlap"),
            (
                self.boxed.iter().all(is_side),
                "a side of a box that is not of 1 to 256",
            ),
            (
                boxed.is_multiple_of(16),
                "lines of a box that 16 bytes do not divide",
            ),
            (
                span.is_some_and(|span| boxed <= span),
                "lines of a box longer than its swizzle",
            ),
            (self.steps == [1, 1], "steps, which the mock does not take"),
            (interleave == 0, "interleaving, which the mock does not do"),
            ((0..4).contains(&promotion), "an unknown promotion"),
            (
                fill == 0,
                "another filling than zeros, which the mock does not do",
            ),
        ];
        asked
            .iter()
            .find(|(is_met, _)| !is_met)
            .map(|(_, why)| *why)
    }
}

#[cfg(test)]
mod tests {
    use super::Matrix;

    type Change = fn(&mut Matrix);

    #[test]
    fn what_the_documentation_forbids_is_refused() {
        let good = Matrix::of_bytes(0x1000, [100, 7], 112, [128, 64]);
        assert!(good.map().is_ok());
        let mistakes: [(Change, &str); 17] = [
            (|m| m.address = 0x1008, "an address"),
            (|m| m.stride = 120, "a stride that"),
            (|m| m.stride = 1 << 40, "a stride of"),
            (|m| m.lengths[0] = 0, "a length"),
            (|m| m.lengths[1] = (1 << 32) + 1, "a length"),
            (|m| m.stride = 96, "overlap"),
            (|m| m.boxed[1] = 257, "a side"),
            (|m| m.boxed[0] = 0, "a side"),
            (|m| m.boxed[0] = 100, "16 bytes"),
            (|m| m.boxed[0] = 144, "its swizzle"),
            (|m| (m.dtype, m.stride) = (1, 208), "its swizzle"),
            (|m| m.modes[1] = 4, "its swizzle"),
            (|m| m.dtype = 99, "type 99"),
            (|m| m.steps[0] = 2, "steps"),
            (|m| m.modes[0] = 1, "interleaving"),
            (|m| m.modes[2] = 4, "promotion"),
            (|m| m.modes[3] = 1, "filling"),
        ];
        for (mistake, why) in mistakes {
            let mut matrix = good.clone();
            mistake(&mut matrix);
            let said = matrix.map().unwrap_err();
            assert!(said.contains(why), "{matrix:?}: {said}");
        }
    }
}
