//! A program over a table of buffers as its launches, in the order of the steps: what a graph is
//! made of, or what a submit puts into the stream itself.
//!
//! Addresses and parameters are values in the launches, so that they read nothing of the host's
//! when they run.

use std::ptr::{from_ref, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hadal_device::{Bind, Dispatch, Error, Operand, Params, Program, Result, Step};

use crate::blaslt::{Ready, Values};
use crate::driver::table::{Address, Handle};
use crate::gpu::Gpu;
use crate::kernel::{Kernel, MEMORY_THREADS};
use crate::lists::takes_list;
use crate::native::{Native, Uses, product};

/// Bytes that a block of the copying and filling kernels has, about.
const BLOCK_BYTES: u64 = 4096;

/// Blocks along an axis that every device takes.
const MOST_BLOCKS: u64 = 65535;

/// A program and what a table gives it.
pub struct Binding<'b> {
    /// The steps.
    pub program: &'b Program,
    /// The kernel of each step.
    pub kernels: &'b [Arc<Kernel>],
    /// Where the buffer of each slot begins.
    pub slots: &'b [Address],
    /// Where the lists that the kernels take begin, in order.
    pub lists: &'b [Address],
    /// What a library does, and memory for it.
    pub library: Option<(&'b Uses, &'b Native, Address)>,
}

/// What a step is.
pub enum Work {
    /// A kernel.
    Kernel(Launch),
    /// A product by a library.
    Product(Box<Part>),
}

/// A product by a library and what stands around it, one behind the other. All products of a
/// device use the same memory, so none may run beside another.
pub struct Part {
    /// Makes what the library reads.
    pub before: Launch,
    /// The product.
    pub product: Ready,
    /// Puts the sums in their places.
    pub behind: Launch,
    /// The kernel that may stand in for all three, unless the library `must` do it.
    pub kernel: Launch,
    /// See [`Uses::must`].
    pub must: bool,
    /// The library refused it once, and is not asked again.
    is_refused: AtomicBool,
}

/// A kernel with everything it is launched with.
pub struct Launch {
    kernel: Arc<Kernel>,
    groups: [u32; 3],
    arguments: Arguments,
}

/// The arguments of a kernel, which come in this order.
#[derive(Default)]
struct Arguments {
    params: Option<Params>,
    words: Vec<u64>,
    value: Option<u32>,
}

impl Launch {
    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Blocks along each axis.
    pub fn groups(&self) -> [u32; 3] {
        self.groups
    }

    /// Where each argument lies. The drivers only read there, as long as the call takes.
    pub fn places(&self) -> Vec<Handle> {
        let Arguments {
            params,
            words,
            value,
        } = &self.arguments;
        let params = params.iter().map(|params| from_ref(params).cast());
        let words = words.iter().map(|word| from_ref(word).cast());
        let value = value.iter().map(|value| from_ref(value).cast());
        let places = params.chain(words).chain(value);
        places.map(<*const _>::cast_mut).collect()
    }

    /// Puts it into `stream`.
    ///
    /// # Safety
    /// What it touches lives until it is done; the stream is one of `gpu`, which is entered.
    unsafe fn push(&self, gpu: &Gpu, stream: Handle) -> Result<()> {
        let launch = gpu.driver.calls.launch;
        let mut places = self.places();
        let ([x, y, z], kernel) = (self.groups, &self.kernel);
        // SAFETY: the kernel takes these arguments, which the driver copies now, and lives
        // with this value; the caller's promise for the rest.
        let status = unsafe {
            launch(
                kernel.function,
                x,
                y,
                z,
                kernel.threads,
                1,
                1,
                kernel.shared,
                stream,
                places.as_mut_ptr(),
                null_mut(),
            )
        };
        gpu.launched(status, &kernel.name)
    }
}

impl Work {
    /// Puts it into `stream`.
    ///
    /// # Safety
    /// What it touches lives until it is done, and so does this value; the stream is one of `gpu`,
    /// which is entered.
    pub unsafe fn push(&self, gpu: &Gpu, native: Option<&Native>, stream: Handle) -> Result<()> {
        let (part, native) = match (self, native) {
            // SAFETY: the caller's promise.
            (Work::Kernel(launch), _) => return unsafe { launch.push(gpu, stream) },
            (Work::Product(part), Some(native)) => (part, native),
            // SAFETY: the caller's promise.
            (Work::Product(part), None) => return unsafe { part.kernel.push(gpu, stream) },
        };
        if !part.is_refused.load(Ordering::Relaxed) {
            // SAFETY: the caller's promise.
            let multiplied = unsafe {
                part.before.push(gpu, stream)?;
                native.multiply(&part.product, stream)
            };
            match multiplied {
                // SAFETY: the caller's promise.
                Ok(()) => return unsafe { part.behind.push(gpu, stream) },
                Err(error) if part.must => return Err(error),
                Err(error) => {
                    native.note(&error);
                    part.is_refused.store(true, Ordering::Relaxed);
                }
            }
        }
        // It reads nothing of what the library may have left behind.
        // SAFETY: the caller's promise.
        unsafe { part.kernel.push(gpu, stream) }
    }
}

impl Binding<'_> {
    /// The steps. `gpu` is entered.
    pub fn works(&self) -> Result<Vec<Work>> {
        let mut lists = self.lists.iter().copied();
        let steps = self.program.steps.iter().zip(self.kernels);
        let works = steps.enumerate().map(|(number, (step, kernel))| {
            let launch = self.launch(step, kernel, &mut lists);
            match (step, self.library) {
                (Step::Dispatch(dispatch), Some((uses, native, scratch)))
                    if uses.is_used[number] =>
                {
                    self.product(dispatch, launch, (uses, native, scratch))
                }
                _ => Ok(Work::Kernel(launch)),
            }
        });
        works.collect()
    }

    fn address(&self, bind: &Bind) -> Address {
        let base = self.slots.get(usize::from(bind.slot.0));
        // Slots were checked: none is beyond the table.
        base.copied().unwrap_or_default() + bind.offset
    }

    /// The kernel of a step. `lists` are those that are left.
    fn launch(
        &self,
        step: &Step,
        kernel: &Arc<Kernel>,
        lists: &mut impl Iterator<Item = Address>,
    ) -> Launch {
        let spread = |bytes: u64| {
            let blocks = bytes.div_ceil(BLOCK_BYTES).clamp(1, MOST_BLOCKS);
            [blocks as u32, 1, 1]
        };
        let (groups, arguments) = match step {
            Step::Dispatch(dispatch) => {
                let [x, y, z] = dispatch.groups;
                let groups = [x.min(kernel.most_blocks), y, z];
                (groups, self.arguments(dispatch, kernel.operands, lists))
            }
            Step::Copy { from, to } => (
                spread(to.bytes),
                Arguments {
                    words: vec![self.address(to), self.address(from), to.bytes],
                    ..Arguments::default()
                },
            ),
            Step::Fill { to, byte } => (
                spread(to.bytes),
                Arguments {
                    words: vec![self.address(to), to.bytes],
                    value: Some(u32::from(*byte)),
                    ..Arguments::default()
                },
            ),
        };
        Launch {
            kernel: kernel.clone(),
            groups,
            arguments,
        }
    }

    fn arguments(
        &self,
        dispatch: &Dispatch,
        letters: &str,
        lists: &mut impl Iterator<Item = Address>,
    ) -> Arguments {
        let mut words = Vec::new();
        for (letter, operand) in letters.chars().zip(&dispatch.operands) {
            match operand {
                Operand::Range(bind) if letter != 'm' => words.push(self.address(bind)),
                _ => {}
            }
            // There is one for each such operand of the program.
            words.extend(takes_list(letter).then(|| lists.next().unwrap_or_default()));
        }
        Arguments {
            params: Some(*dispatch.params),
            words,
            value: None,
        }
    }

    /// A dispatch by the library, or by `kernel` if it cannot be and the kernel may.
    fn product(
        &self,
        dispatch: &Dispatch,
        kernel: Launch,
        (uses, native, scratch): (&Uses, &Native, Address),
    ) -> Result<Work> {
        let params = &dispatch.params;
        let ranges = dispatch.operands.iter().flat_map(|operand| operand.binds());
        let operands: Vec<Address> = ranges.map(|bind| self.address(bind)).collect();
        let product = product(params, &operands, scratch);
        let ready = match native.ready(&product) {
            Ok(ready) => ready,
            Err(lost @ Error::Lost { .. }) => return Err(lost),
            Err(error) if uses.must => return Err(error),
            Err(error) => {
                native.note(&error);
                return Ok(Work::Kernel(kernel));
            }
        };
        let at = |place: usize| operands.get(place).copied().unwrap_or_default();
        let launch = |kernel: &Arc<Kernel>, groups, words| Launch {
            kernel: kernel.clone(),
            groups,
            arguments: Arguments {
                params: Some(**params),
                words,
                value: None,
            },
        };
        let [scales, parts, rows] = &uses.kernels;
        let across = |values: u32, lines: u32| [values.div_ceil(MEMORY_THREADS), lines, 1];
        let before = match product.kind {
            Values::Codes { rows, .. } => {
                let groups = across(params.rows, params.k.div_ceil(128));
                launch(scales, groups, vec![at(1), rows])
            }
            Values::Parts => {
                let groups = across(params.k, params.rows);
                launch(parts, groups, vec![at(1), product.values])
            }
        };
        // Where there is no residual its place is not read.
        let last = operands.len().saturating_sub(1);
        let (residual, written) = (at(last.saturating_sub(1)), at(last));
        let groups = across(params.row_count, params.rows);
        let words = vec![at(0), product.sums, residual, written];
        Ok(Work::Product(Box::new(Part {
            before,
            product: ready,
            behind: launch(rows, groups, words),
            kernel,
            must: uses.must,
            is_refused: AtomicBool::new(false),
        })))
    }
}
