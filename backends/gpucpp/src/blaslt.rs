//! cuBLASLt, found when the program runs: products of E4M3 codes with a scale for each 128 of a
//! row's depth and for each 128 by 128 of a weight.
//!
//! Its answers are never errors of the device: whatever it cannot do, a kernel does.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::{from_ref, null_mut};
use std::sync::{Mutex, PoisonError};

use libloading::Library;

use crate::driver::Vendor;
use crate::driver::table::{Address, Handle, LtCalls, Status};

/// The oldest version that knows these scales.
const LEAST: (c_int, c_int) = (12, 9);

/// Memory that a product may use beside its operands.
pub const WORKSPACE: u64 = 32 << 20;

/// The library.
pub struct BlasLt {
    calls: LtCalls,
    /// For people, and for names of what was measured of it: `cuBLASLt 13.0.2`.
    pub version: String,
    number: (c_int, c_int),
}

/// What was asked for: a path, and the driver's version.
type Asked = (Option<PathBuf>, (c_int, c_int));

/// Those that were loaded.
static LOADED: Mutex<BTreeMap<Asked, &BlasLt>> = Mutex::new(BTreeMap::new());

/// Where it may be, best first. The names of Windows are those that other programs load; none
/// of them was tried there.
fn libraries(on_windows: bool) -> &'static [&'static str] {
    match on_windows {
        false => &[
            "libcublasLt.so.13",
            "libcublasLt.so.12",
            "libcublasLt.so",
            "/usr/local/cuda/lib64/libcublasLt.so",
        ],
        true => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
    }
}

impl BlasLt {
    /// The library at `path`, which replaces the driver's, if it is one of these, else in the
    /// usual places. The error says why there is none that serves a driver of version `driver`.
    pub fn open(
        path: Option<&Path>,
        driver: (c_int, c_int),
    ) -> std::result::Result<&'static BlasLt, String> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = (path.map(Path::to_path_buf), driver);
        if let Some(known) = loaded.get(&asked) {
            return Ok(known);
        }
        let usual = libraries(cfg!(windows)).iter().map(Path::new);
        let all = path.into_iter().chain(usual).filter_map(load);
        // One that is newer than the driver does not start.
        let mut fitting = all.filter(|library| library.number.0 <= driver.0);
        let Some(library) = fitting.next() else {
            return Err("no cuBLASLt was found that is not newer than the driver".into());
        };
        if library.number < LEAST {
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
fn load(name: &Path) -> Option<BlasLt> {
    // SAFETY: a library of the vendor's may be loaded at any time. A path is trusted as its
    // giver is.
    let library = ManuallyDrop::new(unsafe { Library::new(name) }.ok()?);
    let calls = LtCalls::load(&library, Vendor::Cuda).ok()?;
    let mut version = [0; 3];
    for (part, value) in (0..).zip(&mut version) {
        // SAFETY: `value` lives.
        if unsafe { (calls.property)(part, value) } != 0 {
            return None;
        }
    }
    let [major, minor, patch] = version;
    Some(BlasLt {
        calls,
        version: format!("cuBLASLt {major}.{minor}.{patch}"),
        number: (major, minor),
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
}

/// A product and where its operands lie: `outputs` dot products of `depth` codes for each row.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows of codes.
    pub rows: u32,
    /// Rows of the weight.
    pub outputs: u32,
    /// Codes of a row.
    pub depth: u32,
    /// Bytes from one row of codes to the next.
    pub stride: u64,
    /// Rows of codes.
    pub codes: Address,
    /// Their scales, those of all rows for the first 128 codes, then for the next.
    pub code_scales: Address,
    /// The weight's rows, one after another.
    pub weight: Address,
    /// Its scales, those of the first 128 rows in the order of the depth, then of the next.
    pub weight_scales: Address,
    /// `rows` lines of `outputs` sums.
    pub sums: Address,
    /// [`WORKSPACE`] bytes.
    pub workspace: Address,
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Default)]
struct Chosen {
    algorithm: [u64; 8],
    workspace: usize,
    status: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

// Numbers of the header: types, attributes, and what they are set to.
const F32: c_int = 0;
const E4M3: c_int = 28;
const COMPUTE_F32: c_int = 68;
const TRANSPOSE_A: c_int = 3;
const SCALES_A: c_int = 17;
const SCALES_B: c_int = 18;
const MODE_A: c_int = 31;
const MODE_B: c_int = 32;
const EACH_128: c_int = 4;
const EACH_128_BY_128: c_int = 5;
const MOST_WORKSPACE: c_int = 1;

impl Product {
    /// Puts the product into `stream`. Matrices are stored by columns there, so that the weight
    /// is A, transposed, and rows are columns.
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
        let a = layout(E4M3, [depth, outputs, depth])?;
        let b = layout(E4M3, [depth, rows, self.stride])?;
        let d = layout(F32, [outputs, rows, outputs])?;
        let layouts = [&a, &b, &d].map(|layout| layout.handle);
        let chosen = choose(library, handle, &described, layouts)?;
        let (alpha, beta) = (1f32, 0f32);
        // SAFETY: everything described lives, as the caller says of the operands; the factors
        // are read during the call.
        let status = unsafe {
            (calls.multiply)(
                handle.handle,
                described.handle,
                from_ref(&alpha).cast(),
                self.weight,
                a.handle,
                self.codes,
                b.handle,
                from_ref(&beta).cast(),
                self.sums,
                d.handle,
                self.sums,
                d.handle,
                chosen.algorithm.as_ptr().cast(),
                self.workspace,
                chosen.workspace,
                stream,
            )
        };
        library.done(status, "multiplying")
    }

    fn describe(&self, library: &BlasLt) -> std::result::Result<Made, String> {
        let calls = &library.calls;
        // SAFETY: the place lives.
        let described = library.make(calls.product_destroy, |to| unsafe {
            (calls.product_create)(to, COMPUTE_F32, F32)
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
        number(TRANSPOSE_A, 1)?;
        number(MODE_A, EACH_128_BY_128)?;
        number(MODE_B, EACH_128)?;
        address(SCALES_A, self.weight_scales)?;
        address(SCALES_B, self.code_scales)?;
        Ok(described)
    }
}

/// How the library thinks it best done.
fn choose(
    library: &BlasLt,
    handle: &Made,
    described: &Made,
    [a, b, d]: [Handle; 3],
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
    let (mut chosen, mut count) = (Chosen::default(), 0);
    // SAFETY: everything was made, and there is room for one result.
    let status = unsafe {
        (calls.choose)(
            handle.handle,
            described.handle,
            a,
            b,
            d,
            d,
            preference.handle,
            1,
            (&raw mut chosen).cast(),
            &mut count,
        )
    };
    library.done(status, "choosing how to multiply")?;
    match count > 0 && chosen.status == 0 && chosen.workspace <= most {
        true => Ok(chosen),
        false => Err(format!("{} cannot do the product", library.version)),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::{Chosen, libraries};

    #[test]
    fn structures_and_names_are_as_in_the_headers() {
        assert_eq!(offset_of!(Chosen, workspace), 64);
        assert_eq!(offset_of!(Chosen, status), 72);
        assert_eq!(size_of::<Chosen>(), 96);
        assert!(libraries(true).iter().all(|name| name.ends_with(".dll")));
        assert!(libraries(false).iter().all(|name| name.contains(".so")));
    }
}
