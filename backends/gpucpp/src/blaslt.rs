//! cuBLASLt and hipBLASLt, found when the program runs: products of BF16 weights, with activations
//! as sums of three bf16; cuBLASLt also those of E4M3 codes with a scale for each 128 of a row's
//! depth and for each 128 by 128 of a weight.
//!
//! Their answers are never errors of the device: whatever they cannot do, a kernel does.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::{from_ref, null_mut};
use std::sync::{Mutex, PoisonError};

use libloading::Library;

use crate::driver::Vendor;
use crate::driver::table::{Address, CudaLtVersion, Handle, HipLtVersion, LtCalls, Status};

/// The oldest version of cuBLASLt that knows these scales.
const LEAST: (c_int, c_int) = (12, 9);

/// Memory that a product may use beside its operands.
pub const WORKSPACE: u64 = 32 << 20;

/// The library.
pub struct BlasLt {
    calls: LtCalls,
    vendor: Vendor,
    /// For people: `cuBLASLt 13.0.2`; hipBLASLt tells its version to who has a handle.
    pub version: String,
    /// Of cuBLASLt.
    number: (c_int, c_int),
    /// That of hipBLASLt.
    told: Option<HipLtVersion>,
}

/// What was asked for: whose, a path, and the driver's version.
type Asked = (Vendor, Option<PathBuf>, (c_int, c_int));

/// Those that were loaded.
static LOADED: Mutex<BTreeMap<Asked, &BlasLt>> = Mutex::new(BTreeMap::new());

/// Where it may be for a driver of a version `major`, best first. The names of Windows are those
/// that other programs load; none of them was tried there. hipBLASLt needs the HIP that it was
/// built with, of which a process has one.
fn libraries(vendor: Vendor, major: c_int, on_windows: bool) -> &'static [&'static str] {
    match (vendor, on_windows) {
        (Vendor::Hip, true) => &[],
        (Vendor::Hip, false) if major == 6 => {
            &["libhipblaslt.so.0", "/opt/rocm/lib/libhipblaslt.so.0"]
        }
        (Vendor::Hip, false) => &["libhipblaslt.so.1", "/opt/rocm/lib/libhipblaslt.so.1"],
        (Vendor::Cuda, false) => &[
            "libcublasLt.so.13",
            "libcublasLt.so.12",
            "libcublasLt.so",
            "/usr/local/cuda/lib64/libcublasLt.so",
        ],
        (Vendor::Cuda, true) => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
    }
}

impl BlasLt {
    /// The library at `path`, which replaces the driver's, if it is one of these, else in the
    /// usual places. The error says why there is none that serves a driver of version `driver`.
    pub fn open(
        vendor: Vendor,
        path: Option<&Path>,
        driver: (c_int, c_int),
    ) -> std::result::Result<&'static BlasLt, String> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = (vendor, path.map(Path::to_path_buf), driver);
        if let Some(known) = loaded.get(&asked) {
            return Ok(known);
        }
        let usual = libraries(vendor, driver.0, cfg!(windows)).iter();
        let all = path.into_iter().chain(usual.map(Path::new));
        let all = all.filter_map(|name| load(name, vendor));
        // One that is newer than the driver does not start.
        let mut fitting = all.filter(|library| library.number.0 <= driver.0);
        let Some(library) = fitting.next() else {
            return Err(match vendor {
                Vendor::Cuda => "no cuBLASLt was found that is not newer than the driver",
                Vendor::Hip => "no hipBLASLt was found",
            }
            .into());
        };
        if vendor == Vendor::Cuda && library.number < LEAST {
            return Err(format!("{} is older than 12.9", library.version));
        }
        let library: &'static BlasLt = Box::leak(Box::new(library));
        loaded.insert(asked, library);
        Ok(library)
    }

    fn done(&self, status: Status, what: &str) -> std::result::Result<(), String> {
        match status {
            0 => Ok(()),
            _ => Err(format!(
                "{what} with {} failed, code {status}",
                self.version
            )),
        }
    }
}

/// The library called `name`. It stays: its code may have started threads.
fn load(name: &Path, vendor: Vendor) -> Option<BlasLt> {
    // SAFETY: a library of the vendor's may be loaded at any time. A path is trusted as its
    // giver is.
    let library = ManuallyDrop::new(unsafe { Library::new(name) }.ok()?);
    let calls = LtCalls::load(&library, vendor).ok()?;
    if vendor == Vendor::Hip {
        return Some(BlasLt {
            calls,
            vendor,
            version: "hipBLASLt".into(),
            number: (0, 0),
            told: Some(HipLtVersion::load(&library, vendor).ok()?),
        });
    }
    let known = CudaLtVersion::load(&library, vendor).ok()?;
    let mut version = [0; 3];
    for (part, value) in (0..).zip(&mut version) {
        // SAFETY: `value` lives.
        if unsafe { (known.property)(part, value) } != 0 {
            return None;
        }
    }
    let [major, minor, patch] = version;
    Some(BlasLt {
        calls,
        vendor,
        version: format!("cuBLASLt {major}.{minor}.{patch}"),
        number: (major, minor),
        told: None,
    })
}

/// Something of the library's, which goes with this value.
pub struct Made {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> Status,
}

// SAFETY: the library takes calls with one handle from many threads.
unsafe impl Send for Made {}
// SAFETY: as above.
unsafe impl Sync for Made {}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: made by the call that belongs to this one, and never used again.
        unsafe { (self.destroy)(self.handle) };
    }
}

impl BlasLt {
    fn make(
        &self,
        destroy: unsafe extern "C" fn(Handle) -> Status,
        make: impl FnOnce(*mut Handle) -> Status,
    ) -> std::result::Result<Made, String> {
        let mut handle = null_mut();
        self.done(make(&mut handle), "describing a product")?;
        Ok(Made { handle, destroy })
    }

    /// A handle of the library's, for the device that this thread's calls go to.
    pub fn start(&self) -> std::result::Result<Made, String> {
        // SAFETY: the place lives.
        self.make(self.calls.destroy, |to| unsafe { (self.calls.create)(to) })
    }

    /// What answers measured of it hang on.
    pub fn about(&self, handle: &Made) -> String {
        let mut number = 0;
        if let Some(told) = &self.told {
            // SAFETY: the place lives, and the handle is the library's. What stays 0 is a name, too.
            unsafe { (told.version)(handle.handle, &mut number) };
        }
        format!("{} {number}", self.version)
    }
}

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

    use super::{CUDA_ALGORITHM, Found, HIP_ALGORITHM, libraries};
    use crate::driver::Vendor;

    #[test]
    fn structures_and_names_are_as_in_the_headers() {
        type Cuda = Found<CUDA_ALGORITHM>;
        type Hip = Found<HIP_ALGORITHM>;
        assert_eq!(offset_of!(Cuda, workspace), 64);
        assert_eq!(offset_of!(Cuda, status), 72);
        assert_eq!(size_of::<Cuda>(), 96);
        assert_eq!(offset_of!(Hip, workspace), 24);
        assert_eq!(offset_of!(Hip, status), 32);
        assert_eq!(size_of::<Hip>(), 56);
        for vendor in [Vendor::Cuda, Vendor::Hip] {
            let named = |on_windows, ending: &str| {
                let mut names = libraries(vendor, 7, on_windows).iter();
                names.all(|name| name.contains(ending))
            };
            assert!(named(true, ".dll") && named(false, ".so"));
        }
    }
}
