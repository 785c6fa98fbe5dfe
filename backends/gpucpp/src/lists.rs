//! Lists in device memory that kernels take in the place of operands: addresses of a table's
//! entries, and tensor maps, by which CUDA's copies of boxes know matrices.

use std::ffi::{c_int, c_uint};
use std::sync::Arc;

use hadal_device::{Bind, Dispatch, Error, Params, Result};

use crate::driver::Own;
use crate::driver::table::Address;
use crate::gpu::Gpu;

/// Bytes of a map, to whose multiples lists of them are aligned: 64 would do.
const MAP_BYTES: usize = 128;

/// A map as the driver writes it.
#[repr(C, align(64))]
struct Map([u8; MAP_BYTES]);

/// Bytes and lines of a box (`hopper.h`: `LINE`, `BOX_LINES`).
const BOX: [c_uint; 2] = [128, 64];

/// Where maps and their boxes may begin, and to what lines are aligned.
const QUAD: u64 = 16;

/// Whether a kernel takes a list for an operand, alone (`t`, `m`, `M`) or behind its address.
pub fn takes_list(letter: char) -> bool {
    "tmMx".contains(letter)
}

/// Lines of bytes at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// First byte from the operand's first one on.
    begin: u64,
    /// Bytes of a line.
    line: u64,
    /// How many lines.
    lines: u64,
    /// Bytes from one line to the next.
    stride: u64,
}

impl Matrix {
    /// What lies at `bind` for a kernel of these parameters: by the letter, coded rows, or a
    /// weight. `Err` if no map can be made of it.
    pub fn of(letter: char, params: &Params, bind: &Bind) -> Result<Matrix> {
        let k = u64::from(params.k.max(1));
        let weight = |lines: u32| {
            let line = bind.bytes / u64::from(lines.max(1)) / k * k;
            Matrix {
                begin: 0,
                line,
                lines: lines.into(),
                stride: line,
            }
        };
        let matrix = match letter {
            'x' => Matrix {
                begin: 4 * u64::from(params.x_offset),
                line: k,
                lines: params.rows.into(),
                stride: 4 * u64::from(params.x_stride),
            },
            'm' => weight(params.row_count),
            _ => weight(params.n),
        };
        let Matrix {
            begin,
            line,
            lines,
            stride,
        } = matrix;
        let is_aligned = [bind.offset + begin, line, stride]
            .iter()
            .all(|bytes| bytes.is_multiple_of(QUAD));
        let ends = begin + lines.saturating_sub(1) * stride + line;
        let is_whole = letter == 'x' || ends == bind.bytes;
        let is_there = lines > 0 && line > 0 && line <= stride && ends <= bind.bytes;
        match is_aligned && is_whole && is_there {
            true => Ok(matrix),
            false => Err(Error::Invalid(format!(
                "{bind} is not {lines} lines of {line} bytes, {stride} apart and all at \
                 multiples of {QUAD}, from byte {begin} on"
            ))),
        }
    }

    /// The map of the matrix in an operand at `address`.
    fn map(&self, gpu: &Gpu, address: Address) -> Result<Map> {
        const BYTES: c_int = 0;
        const NOT_INTERLEAVED: c_int = 0;
        const SWIZZLE_128: c_int = 3;
        const CACHE_256: c_int = 3;
        const ZEROS: c_int = 0;
        let Own::Cuda(own) = &gpu.driver.own else {
            return Err(Error::Unsupported {
                what: "a tensor map".into(),
                why: format!("{} has none", gpu.vendor().interface()),
            });
        };
        let mut map = Map([0; MAP_BYTES]);
        // SAFETY: two lengths, one stride and what follows for two axes, as is said; the map is
        // aligned. Nothing at the address is read.
        let status = unsafe {
            (own.tensor_map)(
                (&raw mut map).cast(),
                BYTES,
                2,
                address + self.begin,
                [self.line, self.lines].as_ptr(),
                [self.stride].as_ptr(),
                BOX.as_ptr(),
                [1, 1].as_ptr(),
                NOT_INTERLEAVED,
                SWIZZLE_128,
                CACHE_256,
                ZEROS,
            )
        };
        gpu.done(status, "mapping a matrix").map(|()| map)
    }
}

/// The lists of a program, one after another.
#[derive(Default)]
pub struct Lists {
    /// Their bytes.
    pub all: Vec<u8>,
    /// Where each begins.
    pub begins: Vec<u64>,
}

impl Lists {
    /// Adds those of a dispatch, whose kernel has operands of these letters.
    pub fn add(
        &mut self,
        gpu: &Arc<Gpu>,
        dispatch: &Dispatch,
        letters: &str,
        address: impl Fn(&Bind) -> Address,
    ) -> Result<()> {
        for (letter, operand) in letters.chars().zip(&dispatch.operands) {
            if !takes_list(letter) {
                continue;
            }
            if letter != 't' {
                self.all
                    .resize(self.all.len().next_multiple_of(MAP_BYTES), 0);
            }
            self.begins.push(self.all.len() as u64);
            for bind in operand.binds() {
                if letter == 't' {
                    self.all.extend(address(bind).to_le_bytes());
                    continue;
                }
                let matrix = Matrix::of(letter, &dispatch.params, bind)?;
                self.all.extend(matrix.map(gpu, address(bind))?.0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hadal_device::{Access, Bind, Params, Slot};

    use super::Matrix;

    #[test]
    fn only_aligned_lines_within_an_operand_are_a_matrix() {
        let params = Params {
            rows: 3,
            n: 5,
            k: 48,
            row_count: 2,
            x_offset: 4,
            x_stride: 16,
            ..Params::default()
        };
        let of = |letter, params: &Params, offset, bytes| {
            let access = Access::Read;
            let slot = Slot(0);
            let bind = Bind {
                slot,
                offset,
                bytes,
                access,
            };
            Matrix::of(letter, params, &bind).ok()
        };
        let matrix = |begin, line, lines, stride| {
            Some(Matrix {
                begin,
                line,
                lines,
                stride,
            })
        };
        assert_eq!(of('m', &params, 16, 2 * 48), matrix(0, 48, 2, 48));
        assert_eq!(of('m', &params, 0, 4 * 48), matrix(0, 96, 2, 96));
        assert_eq!(of('M', &params, 0, 5 * 48), matrix(0, 48, 5, 48));
        // The last row may end with its codes.
        assert_eq!(of('x', &params, 0, 16 + 2 * 64 + 48), matrix(16, 48, 3, 64));
        let far = Params {
            x_stride: 18,
            ..params
        };
        let near = Params {
            x_stride: 8,
            ..params
        };
        for (letter, params, offset, bytes) in [
            ('m', &params, 8, 2 * 48),
            ('m', &params, 0, 2 * 48 + 16),
            ('m', &params, 0, 48),
            ('m', &Params::default(), 0, 2 * 48),
            ('x', &params, 0, 16 + 2 * 64 + 47),
            ('x', &far, 0, 400),
            ('x', &near, 0, 400),
        ] {
            assert_eq!(of(letter, params, offset, bytes), None, "{letter} {bytes}");
        }
    }
}
