//! Products: how they are described to the library, and done.

use std::ffi::{c_int, c_void};
use std::ptr::from_ref;

use super::{BlasLt, Made, WORKSPACE};
use crate::driver::Vendor;
use crate::driver::table::{Address, Handle};

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// E4M3 codes. Scales of the rows: those of all rows for the first 128 codes, then for the
    /// next; of the weight: those of the first 128 rows in the order of the depth, then of the
    /// next.
    Codes {
        /// Of the rows.
        rows: Address,
        /// Of the weight.
        weight: Address,
    },
    /// bf16, of which three make a value of a row: all rows' first parts, then what they leave.
    Parts,
}

/// A product and where its operands lie: `outputs` dot products of `depth` values for each row.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// What is multiplied.
    pub kind: Values,
    /// Rows.
    pub rows: u32,
    /// Rows of the weight.
    pub outputs: u32,
    /// Values of a row.
    pub depth: u32,
    /// Values from one row to the next.
    pub stride: u64,
    /// The rows.
    pub values: Address,
    /// The weight's rows, one after another.
    pub weight: Address,
    /// `rows` lines of `outputs` sums.
    pub sums: Address,
    /// [`WORKSPACE`] bytes.
    pub workspace: Address,
}

// Results of a search: `cublasLtMatmulHeuristicResult_t`, and hipBLASLt's with a shorter
// algorithm.
#[repr(C)]
#[derive(Default)]
struct Found<const WORDS: usize>
where
    [u64; WORDS]: Default,
{
    algorithm: [u64; WORDS],
    workspace: usize,
    status: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

const CUDA_ALGORITHM: usize = 8;
const HIP_ALGORITHM: usize = 3;

/// How to multiply.
struct Chosen {
    algorithm: Vec<u64>,
    workspace: usize,
}

// Numbers of the headers: types, attributes, and what they are set to.
const F32: c_int = 0;
const BF16: c_int = 14;
const E4M3: c_int = 28;
const SCALES_A: c_int = 17;
const SCALES_B: c_int = 18;
const MODE_A: c_int = 31;
const MODE_B: c_int = 32;
const EACH_128: c_int = 4;
const EACH_128_BY_128: c_int = 5;
const MOST_WORKSPACE: c_int = 1;
/// Of A, B, C and D.
const LEAST_ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];

/// What the operands' addresses are multiples of. cuBLASLt would count on 256.
const ALIGNMENT: u32 = 16;

/// Numbers that the two headers do not have in common.
struct Numbers {
    compute_f32: c_int,
    transpose_a: c_int,
    transposed: c_int,
}

impl Numbers {
    fn of(vendor: Vendor) -> Numbers {
        match vendor {
            Vendor::Cuda => Numbers {
                compute_f32: 68,
                transpose_a: 3,
                transposed: 1,
            },
            Vendor::Hip => Numbers {
                compute_f32: 2,
                transpose_a: 0,
                transposed: 112,
            },
        }
    }
}

/// A product that is described, and how it is done.
pub struct Ready {
    product: Product,
    described: Made,
    /// Of A, B and the sums.
    layouts: [Made; 3],
    chosen: Chosen,
}

impl Ready {
    /// Puts the product into `stream`.
    ///
    /// # Safety
    /// The operands lie where it says until the product is done, and `stream` is one of the
    /// device that `handle` was made for.
    pub unsafe fn push(
        &self,
        library: &BlasLt,
        handle: &Made,
        stream: Handle,
    ) -> std::result::Result<(), String> {
        let Product { kind, rows, .. } = self.product;
        let terms = match kind {
            Values::Codes { .. } => 1,
            Values::Parts => 3,
        };
        let [a, b, d] = self.layouts.each_ref().map(|layout| layout.handle);
        for term in 0..terms {
            // What the parts before gave is added.
            let (alpha, beta) = (1f32, if term == 0 { 0f32 } else { 1f32 });
            // SAFETY: everything described lives, as the caller says of the operands; the factors
            // are read during the call.
            let status = unsafe {
                (library.calls.multiply)(
                    handle.handle,
                    self.described.handle,
                    from_ref(&alpha).cast(),
                    self.product.weight,
                    a,
                    self.product.values + term * 2 * u64::from(rows) * self.product.stride,
                    b,
                    from_ref(&beta).cast(),
                    self.product.sums,
                    d,
                    self.product.sums,
                    d,
                    self.chosen.algorithm.as_ptr().cast(),
                    self.product.workspace,
                    self.chosen.workspace,
                    stream,
                )
            };
            library.done(status, "multiplying")?;
        }
        Ok(())
    }
}

impl Product {
    /// Describes the product and asks the library how it is best done. Matrices are stored by
    /// columns there, so that the weight is A, transposed, and rows are columns.
    pub fn ready(&self, library: &BlasLt, handle: &Made) -> std::result::Result<Ready, String> {
        let calls = &library.calls;
        let described = self.describe(library)?;
        let (depth, outputs) = (u64::from(self.depth), u64::from(self.outputs));
        let rows = u64::from(self.rows);
        let layout = |kind, [lines, columns, stride]: [u64; 3]| {
            // SAFETY: the place lives.
            library.make(calls.layout_destroy, |to| unsafe {
                (calls.layout_create)(to, kind, lines, columns, stride as i64)
            })
        };
        let kind = match self.kind {
            Values::Codes { .. } => E4M3,
            Values::Parts => BF16,
        };
        let layouts = [
            layout(kind, [depth, outputs, depth])?,
            layout(kind, [depth, rows, self.stride])?,
            layout(F32, [outputs, rows, outputs])?,
        ];
        let chosen = choose(library, handle, &described, &layouts)?;
        Ok(Ready {
            product: *self,
            described,
            layouts,
            chosen,
        })
    }

    fn describe(&self, library: &BlasLt) -> std::result::Result<Made, String> {
        let calls = &library.calls;
        let numbers = Numbers::of(library.vendor);
        // SAFETY: the place lives.
        let described = library.make(calls.product_destroy, |to| unsafe {
            (calls.product_create)(to, numbers.compute_f32, F32)
        })?;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the description was made, and the value has so many bytes.
            let status = unsafe { (calls.product_set)(described.handle, attribute, value, bytes) };
            library.done(status, "describing a product")
        };
        let number =
            |attribute, value: c_int| set(attribute, from_ref(&value).cast(), size_of::<c_int>());
        let address = |attribute, value: Address| {
            set(attribute, from_ref(&value).cast(), size_of::<Address>())
        };
        number(numbers.transpose_a, numbers.transposed)?;
        if let Values::Codes { rows, weight } = self.kind {
            number(MODE_A, EACH_128_BY_128)?;
            number(MODE_B, EACH_128)?;
            address(SCALES_A, weight)?;
            address(SCALES_B, rows)?;
        }
        Ok(described)
    }
}

/// How the library thinks it best done.
fn choose(
    library: &BlasLt,
    handle: &Made,
    described: &Made,
    layouts: &[Made; 3],
) -> std::result::Result<Chosen, String> {
    let calls = &library.calls;
    // SAFETY: the place lives.
    let preference = library.make(calls.preference_destroy, |to| unsafe {
        (calls.preference_create)(to)
    })?;
    let most = WORKSPACE as usize;
    // SAFETY: the preference was made, and the value has so many bytes.
    let status = unsafe {
        let value = from_ref(&most).cast();
        (calls.preference_set)(preference.handle, MOST_WORKSPACE, value, size_of::<usize>())
    };
    library.done(status, "describing a product")?;
    let alignments = match library.vendor {
        Vendor::Cuda => LEAST_ALIGNMENTS.as_slice(),
        // It has no such attributes.
        Vendor::Hip => &[],
    };
    for attribute in alignments {
        // SAFETY: as above.
        let status = unsafe {
            let value = from_ref(&ALIGNMENT).cast();
            (calls.preference_set)(preference.handle, *attribute, value, size_of::<u32>())
        };
        library.done(status, "describing a product")?;
    }
    let asked = [handle, described, &preference].map(|made| made.handle);
    let layouts = layouts.each_ref().map(|layout| layout.handle);
    match library.vendor {
        Vendor::Cuda => search::<CUDA_ALGORITHM>(library, asked, layouts),
        Vendor::Hip => search::<HIP_ALGORITHM>(library, asked, layouts),
    }
}

fn search<const WORDS: usize>(
    library: &BlasLt,
    [handle, described, preference]: [Handle; 3],
    [a, b, d]: [Handle; 3],
) -> std::result::Result<Chosen, String>
where
    [u64; WORDS]: Default,
{
    let (mut found, mut count) = (Found::<WORDS>::default(), 0);
    // SAFETY: everything was made, and there is room for one result.
    let status = unsafe {
        (library.calls.choose)(
            handle,
            described,
            a,
            b,
            d,
            d,
            preference,
            1,
            (&raw mut found).cast(),
            &mut count,
        )
    };
    library.done(status, "choosing how to multiply")?;
    match count > 0 && found.status == 0 && found.workspace <= WORKSPACE as usize {
        true => Ok(Chosen {
            algorithm: found.algorithm.to_vec(),
            workspace: found.workspace,
        }),
        false => Err(format!("{} cannot do the product", library.version)),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::{CUDA_ALGORITHM, Found, HIP_ALGORITHM};

    #[test]
    fn structures_are_laid_out_as_in_the_headers() {
        type Cuda = Found<CUDA_ALGORITHM>;
        type Hip = Found<HIP_ALGORITHM>;
        assert_eq!(offset_of!(Cuda, workspace), 64);
        assert_eq!(offset_of!(Cuda, status), 72);
        assert_eq!(size_of::<Cuda>(), 96);
        assert_eq!(offset_of!(Hip, workspace), 24);
        assert_eq!(offset_of!(Hip, status), 32);
        assert_eq!(size_of::<Hip>(), 56);
    }
}
