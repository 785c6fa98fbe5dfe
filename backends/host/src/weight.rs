//! Weights as they are stored: an operand of a product.
//!
//! Decides how a stored number becomes an `f32` and where the scale of an FP8 block lies;
//! knows nothing of operations or instruction sets. Read [`Matrix`] first. Source of the
//! block scales: DeepSeek-V3 report, section 3.3.

use hadal_device::{DType, SCALE_BLOCK};

pub(crate) use crate::activations::{Place, Rows};
use crate::args::{Fault, Operands, Region, Table};
use crate::core::{Core, Lanes, Panel};

/// Edge of a scale block.
pub(crate) const BLOCK: usize = SCALE_BLOCK as usize;

/// How weights are stored: each by a code of its own ([`Elements`]), or in blocks
/// ([`Blocks`]).
pub(crate) trait Weight: Copy + Send + Sync + 'static {
    /// True where a scale for each 128x128 block follows in an operand of its own.
    const SCALED: bool;

    /// Bytes of `k` values; `format` is what the dispatch says of block formats.
    fn row_bytes(format: Option<DType>, k: usize) -> Result<usize, Fault>;

    /// `Core::dots`, or `Core::block_dots`.
    fn dots<C: Core>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault>;

    /// `Core::mix`, or the same of rows taken out of their blocks.
    fn mix<C: Core>(
        p: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault>;

    /// Row `row` as numbers.
    fn decode_row(w: &Matrix<'_>, row: usize, to: &mut [f32]);
}

impl<E: Elements> Weight for E {
    const SCALED: bool = E::DTYPE.has_block_scales();

    #[inline]
    fn row_bytes(_: Option<DType>, k: usize) -> Result<usize, Fault> {
        Ok(k.saturating_mul(E::BYTES))
    }

    fn dots<C: Core>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        C::dots::<E>(x, w, out, panel)
    }

    fn mix<C: Core>(
        p: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        _: &mut Panel,
    ) -> Result<(), Fault> {
        C::mix::<E>(p, w, out);
        Ok(())
    }

    fn decode_row(w: &Matrix<'_>, row: usize, to: &mut [f32]) {
        let stored = w.row::<E>(row).chunks(BLOCK * E::BYTES);
        for (block, (to, stored)) in to.chunks_mut(BLOCK).zip(stored).enumerate() {
            let scale = w.scale(row, block);
            for (to, code) in to.iter_mut().zip(stored.chunks_exact(E::BYTES)) {
                *to = E::decode(code) * scale;
            }
        }
    }
}

/// Weights in a block format of GGUF; which one, the dispatch says.
#[derive(Clone, Copy)]
pub(crate) struct Blocks;

impl Weight for Blocks {
    const SCALED: bool = false;

    fn row_bytes(format: Option<DType>, k: usize) -> Result<usize, Fault> {
        let format = format.ok_or(Fault::Shape("the parameters name no block format"))?;
        if !(k as u64).is_multiple_of(format.block_values()) {
            return Err(Fault::Shape("rows are no whole blocks"));
        }
        Ok(format.row_bytes(k as u64) as usize)
    }

    fn dots<C: Core>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        C::block_dots(x, w, out, panel)
    }

    fn mix<C: Core>(
        p: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        let floats = panel.floats.take(w.rows * w.k)?;
        for (row, floats) in floats.chunks_exact_mut(w.k.max(1)).enumerate() {
            Blocks::decode_row(w, row, floats);
        }
        C::mix::<F32>(p, &Matrix::floats(floats, w.rows, w.k, w.k), out);
        Ok(())
    }

    fn decode_row(w: &Matrix<'_>, row: usize, to: &mut [f32]) {
        if let Some(format) = w.format {
            hadal_blocks::decode(format, w.stored(row), to);
        }
    }
}

/// A number format with a code for each weight.
pub(crate) trait Elements: Copy + Send + Sync + 'static {
    /// The format.
    const DTYPE: DType;
    /// Bytes of an element.
    const BYTES: usize = Self::DTYPE.block_bytes() as usize;

    /// Value of the stored element `bytes` ([`Elements::BYTES`] long), without its scale.
    fn decode(bytes: &[u8]) -> f32;

    /// `V::N` stored elements, divided by [`Elements::unit`].
    ///
    /// # Safety
    /// See [`Lanes`]; `from` has `V::N` elements.
    unsafe fn load<V: Lanes>(from: *const u8) -> V;

    /// A power of two that [`Elements::load`] leaves out because it is free elsewhere.
    #[inline(always)]
    fn unit<V: Lanes>() -> f32 {
        1.0
    }
}

/// `f32` weights.
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// `f16` weights.
#[derive(Clone, Copy)]
pub(crate) struct F16;
/// `bf16` weights.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
/// E4M3 weights with block scales.
#[derive(Clone, Copy)]
pub(crate) struct E4m3;

impl Elements for F32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn decode(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from.cast()) }
    }
}

impl Elements for F16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn decode(bytes: &[u8]) -> f32 {
        let code = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let sign = (code & 0x8000) << 16;
        let (exponent, mantissa) = (code >> 10 & 31, code & 0x3FF);
        let magnitude = match exponent {
            0 => mantissa as f32 * (1.0 / 16_777_216.0),
            31 => f32::from_bits(0x7F80_0000 | mantissa << 13),
            _ => f32::from_bits((exponent + 112) << 23 | mantissa << 13),
        };
        f32::from_bits(sign | magnitude.to_bits())
    }
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(from) }
    }
}

impl Elements for Bf16 {
    const DTYPE: DType = DType::Bf16;
    #[inline(always)]
    fn decode(bytes: &[u8]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16)
    }
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16(from) }
    }
}

impl Elements for E4m3 {
    const DTYPE: DType = DType::F8E4M3;
    #[inline(always)]
    fn decode(bytes: &[u8]) -> f32 {
        E4M3[usize::from(bytes[0])]
    }
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_e4m3(from) }
    }
    #[inline(always)]
    fn unit<V: Lanes>() -> f32 {
        V::E4M3_UNIT
    }
}

/// Value of every E4M3 code.
pub(crate) static E4M3: [f32; 256] = e4m3_table();

const fn e4m3_table() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0u32;
    while code < 256 {
        let sign = (code & 0x80) << 24;
        let (exponent, mantissa) = ((code >> 3) & 15, code & 7);
        let magnitude = if code & 0x7F == 0x7F {
            f32::NAN.to_bits()
        } else if exponent == 0 {
            // Subnormals count in steps of 2^-9.
            (mantissa as f32 / 512.0).to_bits()
        } else {
            (exponent + 120) << 23 | mantissa << 20
        };
        table[code as usize] = f32::from_bits(sign | magnitude);
        code += 1;
    }
    table
}

/// The scales of a whole FP8 tensor.
#[derive(Clone, Copy)]
struct Scales<'a> {
    bytes: &'a [u8],
    /// Scales a row of blocks.
    columns: usize,
    /// Row of the tensor that is row 0 of the matrix.
    first_row: usize,
}

/// Weight rows, `[rows, k]`, row after row.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// All rows; row `r` begins at byte `r * row_bytes`.
    pub bytes: &'a [u8],
    /// From one row to the next.
    pub row_bytes: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub k: usize,
    /// Which block format rows are in, if they are.
    pub format: Option<DType>,
    /// Activations may be rounded (`flags::ROUGH`).
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub rough: bool,
    scales: Option<Scales<'a>>,
}

impl<'a> Matrix<'a> {
    /// Takes a weight operand (and its scales) of `rows` rows of `k` elements; row 0 of the
    /// operand is row `first_row` of the tensor.
    pub fn take<W: Weight>(
        operands: &mut Operands<'a>,
        rows: usize,
        k: usize,
        first_row: usize,
    ) -> Result<Matrix<'a>, Fault> {
        let region = operands.range()?;
        let scales = if W::SCALED {
            Some(operands.range()?)
        } else {
            None
        };
        let w = Matrix::new::<W>(operands.format(), region, scales, [rows, k], first_row)?;
        Ok(Matrix {
            rough: operands.rough(),
            ..w
        })
    }

    fn new<W: Weight>(
        format: Option<DType>,
        region: Region<'a>,
        scales: Option<Region<'a>>,
        [rows, k]: [usize; 2],
        first_row: usize,
    ) -> Result<Matrix<'a>, Fault> {
        let row_bytes = W::row_bytes(format, k)?;
        let bytes = region.bytes(0, rows.saturating_mul(row_bytes))?;
        let columns = k.div_ceil(BLOCK);
        let scales = match scales {
            None => None,
            Some(scales) => {
                let blocks = first_row.saturating_add(rows).div_ceil(BLOCK);
                let bytes = scales.bytes(0, blocks.saturating_mul(columns).saturating_mul(4))?;
                Some(Scales {
                    bytes,
                    columns,
                    first_row,
                })
            }
        };
        Ok(Matrix {
            bytes,
            row_bytes,
            rows,
            k,
            format,
            rough: false,
            scales,
        })
    }

    /// Rows of `f32` values that lie `stride` elements apart, of which `k` are used.
    pub fn floats(values: &'a [f32], rows: usize, k: usize, stride: usize) -> Matrix<'a> {
        let used = rows.saturating_sub(1) * stride + if rows == 0 { 0 } else { k };
        let values = &values[..used];
        // SAFETY: the bytes of initialised floats, for the same lifetime.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        Matrix {
            bytes,
            row_bytes: stride * 4,
            rows,
            k,
            format: None,
            rough: false,
            scales: None,
        }
    }

    /// `count` rows from row `first` on.
    pub fn rows(&self, first: usize, count: usize) -> Result<Matrix<'a>, Fault> {
        if first.checked_add(count).is_none_or(|end| end > self.rows) {
            return Err(Fault::Index {
                what: "weight row",
                value: first.saturating_add(count),
                limit: self.rows + 1,
            });
        }
        Ok(Matrix {
            bytes: &self.bytes[first * self.row_bytes..],
            rows: count,
            scales: self.scales.map(|scales| Scales {
                first_row: scales.first_row + first,
                ..scales
            }),
            ..*self
        })
    }

    /// The stored bytes of row `row`.
    #[inline]
    pub fn row<W: Elements>(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.k * W::BYTES]
    }

    /// The blocks of row `row`.
    #[inline]
    pub fn stored(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// The blocks of row `row` and of all rows after it.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    #[inline]
    pub fn stored_from(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..self.rows * self.row_bytes]
    }

    /// Scale of the elements of row `row` in block `block` of columns.
    #[inline]
    pub fn scale(&self, row: usize, block: usize) -> f32 {
        match &self.scales {
            None => 1.0,
            Some(scales) => {
                let index = (scales.first_row + row) / BLOCK * scales.columns + block;
                F32::decode(&scales.bytes[index * 4..])
            }
        }
    }

    /// Rows from `row` on that share row `row`'s scales: to the end of its block.
    #[inline]
    pub fn same_scale(&self, row: usize) -> usize {
        match &self.scales {
            None => self.rows - row,
            Some(scales) => (BLOCK - (scales.first_row + row) % BLOCK).min(self.rows - row),
        }
    }
}

/// Weights of the experts of a table.
#[derive(Clone, Copy)]
pub(crate) struct Experts<'a> {
    weights: Table<'a>,
    scales: Option<Table<'a>>,
    format: Option<DType>,
    rough: bool,
}

impl<'a> Experts<'a> {
    /// Takes a table operand, and the table of its scales.
    pub fn take<W: Weight>(operands: &mut Operands<'a>) -> Result<Experts<'a>, Fault> {
        let weights = operands.table()?;
        let scales = if W::SCALED {
            Some(operands.table()?)
        } else {
            None
        };
        Ok(Experts {
            weights,
            scales,
            format: operands.format(),
            rough: operands.rough(),
        })
    }

    /// The matrix of entry `entry`.
    pub fn matrix<W: Weight>(
        &self,
        entry: usize,
        rows: usize,
        k: usize,
    ) -> Result<Matrix<'a>, Fault> {
        let scales = self.scales.map(|scales| scales.entry(entry)).transpose()?;
        let weights = self.weights.entry(entry)?;
        let w = Matrix::new::<W>(self.format, weights, scales, [rows, k], 0)?;
        Ok(Matrix {
            rough: self.rough,
            ..w
        })
    }
}
