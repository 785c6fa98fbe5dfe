//! Modules, their functions, and launches of these.

use std::ffi::c_void;
use std::sync::Arc;

use crate::codes::*;
use crate::cpu::{Kernel, find};
use crate::image::{Image, Sizes};
use crate::memory::Place;
use crate::queue::Op;
use crate::state::{State, object};

/// Block memory that needs no attribute, and at most.
const STATIC_SHARED: u32 = 48 << 10;
const MAX_SHARED: u32 = 227 << 10;

/// A loaded image.
pub(crate) struct Module {
    image: Image,
    functions: Vec<u64>,
}

/// A kernel of a module.
pub(crate) struct Function {
    kernel: &'static Kernel,
    module: u64,
    /// Dynamic block memory that launches may ask for.
    max_shared: u32,
    waits: bool,
}

/// A launch as it was asked for.
#[derive(Clone)]
pub(crate) struct Launch {
    kernel: &'static Kernel,
    pub module: u64,
    /// Whether it may be sent ahead of the end of those before it.
    pub waits: bool,
    grid: [u32; 3],
    shared: u32,
    arguments: Vec<u64>,
}

/// What a caller gives for a launch.
pub(crate) struct Request {
    pub function: u64,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub params: *const *const c_void,
    pub extra: *const *const c_void,
}

impl State {
    pub fn load_module(&mut self, at: *const u8) -> Result<u64> {
        let device = self.device()?;
        if at.is_null() {
            return self.refuse(INVALID_VALUE, "no image");
        }
        // SAFETY: the caller's word: an image of a kind that names its own length.
        let image = unsafe { Image::read(at) };
        let model = self.config.models[device];
        let checked = image.and_then(|image| {
            image.check(self.vendor, model.0, model.3, self.config.version)?;
            Ok(image)
        });
        match checked {
            Ok(image) => {
                let functions = Vec::new();
                Ok(self.modules.add(device, Module { image, functions }))
            }
            Err((code, why)) => self.refuse(code, why),
        }
    }

    pub fn unload_module(&mut self, handle: u64) -> Result {
        let device = self.device_or_lost()?;
        object!(self.modules[handle], device);
        if self.launches_use(handle) {
            self.complain("the module is unloaded while its kernels are queued");
            self.drain(device);
        }
        if let Some((_, module)) = self.modules.items.remove(&handle) {
            for function in module.functions {
                self.functions.items.remove(&function);
            }
        }
        self.recover(device);
        self.devices[device].sticky.map_or(Ok(()), Err)
    }

    pub fn function(&mut self, handle: u64, name: &str) -> Result<u64> {
        let device = self.device()?;
        let wave = self.config.models[device].3;
        let planted = self.config.planted.clone();
        let module = object!(self.modules[handle], device);
        let Some(entry) = module.image.entry(name) else {
            return self.refuse(NOT_FOUND, format!("the image holds no kernel {name}"));
        };
        let with_faults = planted.and_then(|ending| {
            let all = crate::kernels().iter();
            all.filter(|k| k.file.ends_with(&ending))
                .find(|k| k.name == name && k.wave == wave)
        });
        let kernel = with_faults
            .or_else(|| find(entry.file.as_deref(), name, wave))
            .or_else(|| find(None, name, wave));
        let Some(kernel) = kernel else {
            return self.refuse(NOT_FOUND, format!("the CPU build has no kernel {name}"));
        };
        if let Err(why) = agrees(kernel, &entry.sizes, entry.threads) {
            return self.refuse(NOT_FOUND, why);
        }
        let function = Function {
            kernel,
            module: handle,
            max_shared: STATIC_SHARED,
            waits: entry.waits,
        };
        let made = self.functions.add(device, function);
        object!(self.modules[handle], device).functions.push(made);
        Ok(made)
    }

    /// The one attribute that is known: the most dynamic block memory.
    pub fn set_attribute(&mut self, handle: u64, attribute: i32, value: i32) -> Result {
        let device = self.device()?;
        let function = object!(self.functions[handle], device);
        match u32::try_from(value) {
            Ok(bytes) if attribute == 8 && bytes <= MAX_SHARED => {
                function.max_shared = bytes.max(STATIC_SHARED);
                Ok(())
            }
            _ => self.refuse(INVALID_VALUE, format!("attribute {attribute} = {value}")),
        }
    }

    /// Checks a launch and takes copies of its arguments.
    pub fn launch(&mut self, request: &Request) -> Result<Launch> {
        let device = self.device()?;
        let function = object!(self.functions[request.function], device);
        let (kernel, module, max) = (function.kernel, function.module, function.max_shared);
        let waits = function.waits;
        let name = &kernel.name;
        if request.block != [kernel.threads, 1, 1] {
            let why = format!(
                "{name} has {} threads, and not {:?}",
                kernel.threads, request.block
            );
            let code = match self.vendor {
                Vendor::Cuda => INVALID_VALUE,
                // As where a kernel failed, but the device goes on.
                Vendor::Hip => LAUNCH_FAILED,
            };
            return self.refuse(code, why);
        }
        let [x, y, z] = request.grid;
        if request.grid.contains(&0) || x > i32::MAX as u32 || y > 65535 || z > 65535 {
            return self.refuse(
                INVALID_VALUE,
                format!("{name} on a grid of {:?}", request.grid),
            );
        }
        if request.shared > max {
            let why = format!("{name} with {} bytes of block memory", request.shared);
            return self.refuse(INVALID_VALUE, why);
        }
        // SAFETY: the caller's word, as the vendors' functions take it.
        match unsafe { arguments(kernel, request) } {
            Ok(arguments) => Ok(Launch {
                kernel,
                module,
                waits,
                grid: request.grid,
                shared: request.shared,
                arguments,
            }),
            Err(why) => self.refuse(INVALID_VALUE, why),
        }
    }

    pub fn enqueue_launch(&mut self, request: &Request, stream: u64) -> Result {
        let launch = Arc::new(self.launch(request)?);
        self.enqueue(stream, Op::Launch(launch))
    }

    /// Runs a launch. What goes wrong makes the device fail from now on.
    pub fn execute_launch(&mut self, device: usize, launch: &Launch) {
        let pointers: Vec<u64> = launch
            .kernel
            .parameters
            .iter()
            .filter(|p| p.is_pointer)
            .map(|p| launch.arguments[p.offset / 8])
            .collect();
        for (at, pointer) in pointers.iter().enumerate() {
            let place = self.memory.find(*pointer).map(|block| block.place);
            let reachable = match place {
                Some(Place::Device(d)) => d == device || self.devices[device].peers.contains(&d),
                _ => false,
            };
            if !reachable {
                self.complain(format!(
                    "{}: operand {at} is {pointer:#x}, which is {}",
                    launch.kernel.name,
                    match place {
                        Some(place) => format!("{place:?} memory"),
                        None if self.memory.was_freed(*pointer) => "freed".to_string(),
                        None => "no memory".to_string(),
                    }
                ));
                return self.stick(device, ILLEGAL_ADDRESS);
            }
        }
        let seed = self.random.next();
        // SAFETY: every address was checked to be memory of the device; that the kernel stays
        // within it is what the guard bytes are for, as far as they reach.
        let run = unsafe {
            launch
                .kernel
                .run(launch.grid, &launch.arguments, launch.shared, seed)
        };
        self.clock += 0.005 * f64::from(launch.grid[0]).log2().max(1.0);
        if self.config.is_library_fast && launch.kernel.name.starts_with("linear") {
            self.clock += 1e3;
        }
        if let Err(why) = run {
            self.complain(why);
            self.stick(device, LAUNCH_FAILED);
        }
        for pointer in pointers {
            if let Some(what) = self.memory.check_block(pointer) {
                self.complain(format!("{}: {what}", launch.kernel.name));
            }
        }
    }
}

/// Whether an image's kernel is the one of the CPU build, as far as that shows.
fn agrees(kernel: &Kernel, sizes: &Sizes, threads: Option<u32>) -> Result<(), String> {
    let own: Vec<usize> = kernel.parameters.iter().map(|p| p.bytes).collect();
    let same = match sizes {
        Sizes::Each(sizes) => *sizes == own,
        Sizes::Sum(bytes) => *bytes == kernel.argument_bytes(),
    };
    if !same {
        return Err(format!(
            "{}: arguments of {own:?} bytes in the CPU build, {sizes:?} in the image",
            kernel.name
        ));
    }
    match threads {
        Some(threads) if threads != kernel.threads => Err(format!(
            "{}: {} threads in the CPU build, {threads} in the image",
            kernel.name, kernel.threads
        )),
        _ => Ok(()),
    }
}

/// Copies a launch's arguments, given one by one or as a packed block.
///
/// # Safety
/// The lists must be as the vendors' documentation asks.
unsafe fn arguments(kernel: &Kernel, request: &Request) -> Result<Vec<u64>, String> {
    let bytes = kernel.argument_bytes();
    let mut block = vec![0u64; bytes.div_ceil(8)];
    let to = block.as_mut_ptr().cast::<u8>();
    if !request.params.is_null() {
        for (i, parameter) in kernel.parameters.iter().enumerate() {
            // SAFETY: the list has an address for each argument, of as many bytes.
            unsafe {
                let from = *request.params.add(i);
                if from.is_null() {
                    return Err(format!("{}: no argument {i}", kernel.name));
                }
                let to = to.add(parameter.offset);
                std::ptr::copy_nonoverlapping(from.cast::<u8>(), to, parameter.bytes);
            }
        }
        return Ok(block);
    }
    if request.extra.is_null() {
        return match bytes {
            0 => Ok(block),
            _ => Err(format!("{}: no arguments", kernel.name)),
        };
    }
    // SAFETY: the list is pairs of a key and a value, with 1 before the block's address and 2
    // before that of its size, and a final key.
    unsafe {
        let [first, from, second, size] = [0, 1, 2, 3].map(|i| *request.extra.add(i));
        if (first as usize, second as usize) != (1, 2) {
            return Err(format!(
                "{}: a list of arguments of another form",
                kernel.name
            ));
        }
        let size = *size.cast::<usize>();
        if size != bytes {
            return Err(format!(
                "{}: {size} bytes of arguments, and not {bytes}",
                kernel.name
            ));
        }
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), to, bytes);
    }
    Ok(block)
}
