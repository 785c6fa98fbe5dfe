//! Products by a library: which ones, and where their operands lie.
//!
//! A shape is measured once, library against kernel, and the answer is kept on disk beside
//! the compiled kernels. Where nothing could be measured the kernel is taken.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hadal_device::{
    Access, Bind, BufferId, COUNT_ALL, Dispatch, Error, Executable, Operand, Params, Program,
    Result, Slot, Step, flags,
};

use crate::blaslt::{BlasLt, Made, Product, Ready, Values, WORKSPACE};
use crate::cache::{Cache, Key};
use crate::core::Core;
use crate::driver::table::{Address, Handle};
use crate::gpu::Gpu;
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::program::Prepared;

/// Submits of a measurement, and how many of them only warm up.
const SUBMITS: usize = 7;
const WARM: usize = 2;

/// Ranges of the scratch memory begin at multiples of this.
const ALIGN: u64 = 256;

/// A device's library.
pub struct Native {
    library: &'static BlasLt,
    handle: Made,
    cache: Cache,
    /// What everything known of a shape depends on.
    about: String,
    known: Mutex<BTreeMap<Shape, Option<Times>>>,
    scratch: Mutex<Option<Arc<Memory>>>,
    gpu: Arc<Gpu>,
}

/// What of a dispatch decides how long it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    rows: u32,
    outputs: u32,
    depth: u32,
    stride: u32,
    has_residual: bool,
    is_coded: bool,
}

impl Shape {
    fn of(params: &Params) -> Shape {
        Shape {
            rows: params.rows,
            outputs: params.row_count,
            depth: params.k,
            stride: params.x_stride,
            has_residual: params.flags & flags::RESIDUAL != 0,
            is_coded: params.flags & flags::CODED != 0,
        }
    }

    /// Bytes of the sums, and of the scales of codes or the parts of values.
    fn bytes(self) -> [u64; 2] {
        let rows = u64::from(self.rows);
        let before = match self.is_coded {
            true => 4 * u64::from(self.depth.div_ceil(128)),
            false => 3 * 2 * u64::from(self.depth),
        };
        let lines = [4 * u64::from(self.outputs), before];
        lines.map(|line| (rows * line).next_multiple_of(ALIGN))
    }
}

/// What a product takes, in nanoseconds.
#[derive(Clone, Copy)]
struct Times {
    library: u64,
    kernel: u64,
}

impl Times {
    fn library_is_faster(self) -> bool {
        self.library < self.kernel
    }

    /// As they are kept.
    fn text(self) -> String {
        format!("{} {}", self.library, self.kernel)
    }

    fn of_text(kept: &[u8]) -> Option<Times> {
        let (library, kernel) = std::str::from_utf8(kept).ok()?.split_once(' ')?;
        Some(Times {
            library: library.parse().ok()?,
            kernel: kernel.parse().ok()?,
        })
    }
}

/// What people are told of a library that fails.
fn without(library: &BlasLt, why: impl Display) -> String {
    format!(
        "kernels do products that {} should do: {why}",
        library.version
    )
}

/// That the library does not do a product.
fn refused(why: String) -> Error {
    Error::Unsupported {
        what: "a product".into(),
        why,
    }
}

/// Locks without a panic: no code of this file leaves the guarded values half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Native {
    /// The library for an open device, `None` if it does not start; `device` names the device and the
    /// kernels that it stands in for.
    pub fn new(
        gpu: &Arc<Gpu>,
        library: &'static BlasLt,
        device: &str,
        cache: Cache,
    ) -> Result<Option<Native>> {
        let entered = gpu.enter()?;
        let handle = match library.start() {
            Ok(handle) => handle,
            Err(why) => {
                gpu.note.get_or_init(|| without(library, &why));
                return Ok(None);
            }
        };
        let about = library.about(&handle);
        drop(entered);
        Ok(Some(Native {
            library,
            about: format!("{device}, {:?}, {about}", gpu.driver.version),
            handle,
            cache,
            known: Mutex::default(),
            scratch: Mutex::default(),
            gpu: gpu.clone(),
        }))
    }

    /// Memory that all products of the device use in turn.
    pub fn scratch(&self, core: &Core, bytes: u64) -> Result<Arc<Memory>> {
        let mut scratch = lock(&self.scratch);
        if let Some(made) = scratch.as_ref()
            && made.bytes >= bytes
        {
            return Ok(made.clone());
        }
        // Programs that were bound before keep the shorter one.
        let made = Arc::new(core.memory("products of a library", bytes)?);
        Ok(scratch.insert(made).clone())
    }

    /// Keeps the first failure of the library, after which kernels do what it should have done.
    pub fn note(&self, why: &Error) {
        self.gpu.note.get_or_init(|| without(self.library, why));
    }

    /// How the library does a product. It is chosen here, since recording takes launches alone.
    pub fn ready(&self, product: &Product) -> Result<Ready> {
        let _entered = self.gpu.enter()?;
        product.ready(self.library, &self.handle).map_err(refused)
    }

    /// Puts a product into `stream`.
    ///
    /// # Safety
    /// The operands live until it is done, or as long as what is recorded is launched; the stream
    /// is one of this device, which is entered.
    pub unsafe fn multiply(&self, product: &Ready, stream: Handle) -> Result<()> {
        // SAFETY: the caller's promise, and the handle is of this device.
        unsafe { product.push(self.library, &self.handle, stream) }.map_err(refused)
    }

    /// Whether the library is the faster one for a dispatch that both can do.
    pub fn is_faster(&self, core: &Arc<Core>, dispatch: &Dispatch) -> Result<bool> {
        let shape = Shape::of(&dispatch.params);
        let faster = |times: Option<Times>| times.is_some_and(Times::library_is_faster);
        if let Some(known) = lock(&self.known).get(&shape) {
            return Ok(faster(*known));
        }
        let key = Key::of([self.about.as_str(), &format!("{shape:?}")]);
        let kept = self.cache.read(&key);
        let times = match kept.as_deref().and_then(Times::of_text) {
            Some(times) => Some(times),
            None => match measure(core, dispatch) {
                Ok(times) => {
                    self.cache.write(&key, times.text().as_bytes());
                    Some(times)
                }
                Err(lost @ Error::Lost { .. }) => return Err(lost),
                // Too little memory now may be enough for the next process.
                Err(error) => {
                    self.note(&error);
                    None
                }
            },
        };
        lock(&self.known).insert(shape, times);
        Ok(faster(times))
    }

    /// What products took, by the library and by the kernel, a sentence for each shape.
    pub fn measured(&self) -> Vec<String> {
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let sentence = |(shape, times): (&Shape, &Option<Times>)| {
            let times = (*times)?;
            let residual = if shape.has_residual { ", residual" } else { "" };
            Some(format!(
                "product of {} rows, {} outputs, {} deep, {}{residual}: {:.1} µs by {}, {:.1} µs by \
                 the kernel, so {} is the faster one",
                shape.rows,
                shape.outputs,
                shape.depth,
                if shape.is_coded { "codes" } else { "values" },
                microseconds(times.library),
                self.library.version,
                microseconds(times.kernel),
                match times.library_is_faster() {
                    true => "the library",
                    false => "the kernel",
                },
            ))
        };
        lock(&self.known).iter().filter_map(sentence).collect()
    }
}

/// Which steps of a program the library does.
pub struct Uses {
    /// By step.
    pub is_used: Vec<bool>,
    /// Whether the kernel may not stand in.
    pub must: bool,
    /// What stands before a product of codes, and of values, and behind both.
    pub kernels: [Arc<Kernel>; 3],
    bytes: u64,
}

impl Uses {
    /// Those of `is_used`; `None` if there are none.
    pub fn of(
        core: &Core,
        program: &Program,
        is_used: Vec<bool>,
        must: bool,
    ) -> Result<Option<Uses>> {
        let used = program.steps.iter().zip(&is_used);
        let bytes = used.filter_map(|(step, is_used)| match step {
            Step::Dispatch(dispatch) if *is_used => {
                let bytes = Shape::of(&dispatch.params).bytes();
                Some(bytes.iter().sum::<u64>() + WORKSPACE)
            }
            _ => None,
        });
        let Some(bytes) = bytes.max() else {
            return Ok(None);
        };
        let kernel = |entry| core.memory_kernel(entry);
        Ok(Some(Uses {
            kernels: [
                kernel("product_scales")?,
                kernel("product_parts")?,
                kernel("product_rows")?,
            ],
            is_used,
            must,
            bytes,
        }))
    }

    /// Memory for them; `None` if there is too little and the kernels must do.
    pub fn scratch(&self, core: &Core, native: &Native) -> Result<Option<Arc<Memory>>> {
        match native.scratch(core, self.bytes) {
            Err(error @ Error::OutOfMemory { .. }) if !self.must => {
                native.note(&error);
                Ok(None)
            }
            other => other.map(Some),
        }
    }
}

/// The product of a dispatch, with `operands` at these addresses (inputs, rows, weight, scales of
/// codes, what else there is) and its own ranges in `scratch`.
pub fn product(params: &Params, operands: &[Address], scratch: Address) -> Product {
    let shape = Shape::of(params);
    let [sums, before] = shape.bytes();
    let at = |place: usize| operands.get(place).copied().unwrap_or_default();
    // Shards begin with a block of scales.
    let line = 4 * u64::from(params.k.div_ceil(128));
    let kind = match shape.is_coded {
        true => Values::Codes {
            rows: scratch + sums,
            weight: at(3) + u64::from(params.row_first / 128) * line,
        },
        false => Values::Parts,
    };
    Product {
        kind,
        rows: params.rows,
        outputs: params.row_count,
        depth: params.k,
        stride: match shape.is_coded {
            true => 4 * u64::from(params.x_stride),
            false => params.k.into(),
        },
        values: match shape.is_coded {
            true => at(1) + 4 * u64::from(params.x_offset),
            false => scratch + sums,
        },
        weight: at(2),
        sums: scratch,
        workspace: scratch + sums + before,
    }
}

/// The dispatch alone over buffers of its own, a slot each, and their lengths.
fn alone(dispatch: &Dispatch) -> (Program, Vec<u64>) {
    let p = &dispatch.params;
    let rows = |stride: u32| 4 * u64::from(p.rows) * u64::from(stride.max(p.row_count));
    let (outputs, scales) = (u64::from(p.row_count), u64::from(p.k.div_ceil(128)));
    let mut bytes = vec![64, 4 * u64::from(p.rows) * u64::from(p.x_stride)];
    match p.flags & flags::CODED != 0 {
        true => bytes.extend([outputs * u64::from(p.k), 4 * outputs.div_ceil(128) * scales]),
        false => bytes.push(2 * outputs * u64::from(p.k)),
    }
    if p.flags & flags::RESIDUAL != 0 {
        bytes.push(rows(p.b_stride));
    }
    bytes.push(rows(p.y_stride));
    let operand = |(slot, bytes): (usize, &u64)| {
        Operand::Range(Bind {
            slot: Slot(slot as u16),
            offset: 0,
            bytes: *bytes,
            access: match slot + 1 == dispatch.operands.len() {
                true => Access::Write,
                false => Access::Read,
            },
        })
    };
    let params = Params {
        count_word: COUNT_ALL,
        n: p.row_count,
        x_offset: 0,
        y_offset: 0,
        b_offset: 0,
        row_first: 0,
        ..**p
    };
    let step = Dispatch {
        operands: bytes.iter().enumerate().map(operand).collect(),
        params: Box::new(params),
        ..dispatch.clone()
    };
    let program = Program {
        slots: bytes.len() as u16,
        steps: vec![Step::Dispatch(step)],
    };
    (program, bytes)
}

/// What the library takes for a dispatch, and its kernel.
fn measure(core: &Arc<Core>, dispatch: &Dispatch) -> Result<Times> {
    let (program, bytes) = alone(dispatch);
    let mut table = Vec::new();
    let measured = compare(core, &program, &bytes, &mut table);
    table.into_iter().for_each(|buffer| core.free(buffer));
    measured
}

/// Allocates `table`, and compares.
fn compare(
    core: &Arc<Core>,
    program: &Program,
    bytes: &[u64],
    table: &mut Vec<BufferId>,
) -> Result<Times> {
    for bytes in bytes {
        table.push(core.alloc("measuring a product", *bytes)?);
    }
    let fill = |(slot, bytes): (usize, &u64)| Step::Fill {
        to: Bind {
            slot: Slot(slot as u16),
            offset: 0,
            bytes: *bytes,
            access: Access::Write,
        },
        // One as a code; small as a number, of 16 bits or of 32.
        byte: 0x38,
    };
    let fills = Program {
        slots: program.slots,
        steps: bytes.iter().enumerate().map(fill).collect(),
    };
    Prepared::plain(core.clone(), &fills)?.submit(table)?;
    let mut kernel = Prepared::plain(core.clone(), program)?;
    let mut library = Prepared::plain(core.clone(), program)?;
    library.take(vec![true], true)?;
    Ok(Times {
        library: shortest(core, &mut library, table)?,
        kernel: shortest(core, &mut kernel, table)?,
    })
}

fn shortest(core: &Core, program: &mut Prepared, table: &[BufferId]) -> Result<u64> {
    let mut shortest = Duration::MAX;
    for number in 0..SUBMITS {
        let ticket = program.submit(table)?;
        core.lanes.wait(ticket)?;
        let time = core.lanes.time(ticket);
        let time = time.ok_or_else(|| Error::Invalid("the driver told no time".into()))?;
        if number >= WARM {
            shortest = shortest.min(time);
        }
    }
    Ok(u64::try_from(shortest.as_nanos()).unwrap_or(u64::MAX))
}
