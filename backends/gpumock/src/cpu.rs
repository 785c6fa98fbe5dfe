//! The kernels' CPU build: its table, and launches on host memory.

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

#[repr(C)]
struct RawArgument {
    bytes: u32,
    align: u32,
    is_pointer: u32,
}

#[repr(C)]
struct RawKernel {
    name: *const c_char,
    file: *const c_char,
    wave: u32,
    threads: u32,
    count: u32,
    arguments: *const RawArgument,
}

unsafe extern "C" {
    fn hadal_cpu_kernels() -> u32;
    fn hadal_cpu_kernel(index: u32) -> RawKernel;
    fn hadal_cpu_launch(
        index: u32,
        grid: *const u32,
        arguments: *const *const c_void,
        shared: u32,
        seed: u64,
        message: *mut c_char,
        length: usize,
    ) -> bool;
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Where it begins in the argument block.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
    /// Whether it is an address of device memory.
    pub is_pointer: bool,
}

/// A kernel of the CPU build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its entry point.
    pub name: String,
    /// The file it comes from, without ending; with `_planted` where mistakes were planted,
    /// and the name of the one that a list of them has.
    pub file: String,
    /// Threads of a wave that it was built for.
    pub wave: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Its arguments.
    pub parameters: Vec<Parameter>,
    index: u32,
}

impl Kernel {
    /// Bytes of the argument block.
    pub fn argument_bytes(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.offset + p.bytes)
    }

    /// Runs the kernel; `block` holds the arguments at their offsets. An error says what went
    /// wrong in which block.
    ///
    /// # Safety
    /// What the arguments point to must be as large as the kernel takes it to be.
    pub unsafe fn run(
        &self,
        grid: [u32; 3],
        block: &[u64],
        shared: u32,
        seed: u64,
    ) -> Result<(), String> {
        if block.len() * 8 < self.argument_bytes() {
            return Err(format!(
                "{}: an argument block of {} bytes, and not {}",
                self.name,
                block.len() * 8,
                self.argument_bytes()
            ));
        }
        if grid.contains(&0) {
            return Err(format!("{}: a grid of {grid:?} blocks", self.name));
        }
        let base = block.as_ptr().cast::<u8>();
        let addresses: Vec<*const c_void> = self
            .parameters
            .iter()
            .map(|p| base.wrapping_add(p.offset).cast())
            .collect();
        let mut message = [0u8; 512];
        // SAFETY: the index comes from the table, every argument lies within the block, and
        // the message is cut to its buffer. What arguments point to is the caller's word.
        let ended = unsafe {
            hadal_cpu_launch(
                self.index,
                grid.as_ptr(),
                addresses.as_ptr(),
                shared,
                seed,
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if ended {
            return Ok(());
        }
        let end = message.iter().position(|b| *b == 0).unwrap_or(0);
        Err(String::from_utf8_lossy(&message[..end]).into_owned())
    }
}

/// All kernels of the CPU build, each at wave 32 and 64.
pub fn kernels() -> &'static [Kernel] {
    static TABLE: OnceLock<Vec<Kernel>> = OnceLock::new();
    TABLE.get_or_init(|| {
        // SAFETY: the table is complete before this library's code runs, and never changes.
        let count = unsafe { hadal_cpu_kernels() };
        (0..count).map(read_kernel).collect()
    })
}

fn read_kernel(index: u32) -> Kernel {
    // SAFETY: the index is below the table's length.
    let raw = unsafe { hadal_cpu_kernel(index) };
    let text = |at: *const c_char| {
        // SAFETY: names in the table are strings that end with a zero and live for ever.
        unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
    };
    let mut parameters = Vec::new();
    let mut offset = 0usize;
    for i in 0..raw.count as usize {
        // SAFETY: the table's entry has `count` arguments.
        let argument = unsafe { &*raw.arguments.add(i) };
        offset = offset.next_multiple_of(argument.align as usize);
        parameters.push(Parameter {
            offset,
            bytes: argument.bytes as usize,
            is_pointer: argument.is_pointer != 0,
        });
        offset += argument.bytes as usize;
    }
    Kernel {
        name: text(raw.name),
        file: text(raw.file),
        wave: raw.wave,
        threads: raw.threads,
        parameters,
        index,
    }
}

/// The kernel of a file, or of any file that has no planted mistakes.
pub fn find(file: Option<&str>, name: &str, wave: u32) -> Option<&'static Kernel> {
    kernels().iter().find(|kernel| {
        kernel.name == name
            && kernel.wave == wave
            && file.map_or(!kernel.file.contains("_planted"), |f| kernel.file == f)
    })
}

/// An argument of [`launch`]. Slices must be as long as the kernel takes them to be.
#[derive(Debug)]
pub enum Arg<'a> {
    /// A value, such as a parameter block.
    Value(&'a [u8]),
    /// What the kernel reads.
    Read(&'a [u8]),
    /// What the kernel writes.
    Write(&'a mut [u8]),
}

impl Arg<'_> {
    /// The plain value of a word.
    pub fn word(value: u32) -> [u8; 4] {
        value.to_le_bytes()
    }
}

/// Runs a kernel on slices of the host. `name` is that of the entry point, or `file:entry`
/// (`sums_planted:test_block_sum`). The seed decides the order of blocks and threads.
pub fn launch(
    name: &str,
    wave: u32,
    grid: [u32; 3],
    args: &mut [Arg<'_>],
    seed: u64,
) -> Result<(), String> {
    launch_with(name, wave, grid, args, 0, seed)
}

/// [`launch`] with `shared` bytes of block memory that the kernel does not declare.
pub fn launch_with(
    name: &str,
    wave: u32,
    grid: [u32; 3],
    args: &mut [Arg<'_>],
    shared: u32,
    seed: u64,
) -> Result<(), String> {
    let (file, entry) = match name.split_once(':') {
        Some((file, entry)) => (Some(file), entry),
        None => (None, name),
    };
    let kernel = find(file, entry, wave).ok_or(format!("no kernel {name} at wave {wave}"))?;
    if args.len() != kernel.parameters.len() {
        return Err(format!(
            "{name} takes {} arguments, and not {}",
            kernel.parameters.len(),
            args.len()
        ));
    }
    let mut block = vec![0u8; kernel.argument_bytes().next_multiple_of(8)];
    for (arg, parameter) in args.iter_mut().zip(&kernel.parameters) {
        let address;
        let bytes: &[u8] = match arg {
            Arg::Value(bytes) => bytes,
            Arg::Read(slice) => {
                address = (slice.as_ptr() as u64).to_le_bytes();
                &address
            }
            Arg::Write(slice) => {
                address = (slice.as_mut_ptr() as u64).to_le_bytes();
                &address
            }
        };
        let is_value = matches!(arg, Arg::Value(_));
        if bytes.len() != parameter.bytes || is_value == parameter.is_pointer {
            return Err(format!(
                "{name}: {} bytes where {parameter:?} is",
                bytes.len()
            ));
        }
        block[parameter.offset..parameter.offset + parameter.bytes].copy_from_slice(bytes);
    }
    let words: Vec<u64> = block
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]))
        .collect();
    // SAFETY: this is a function of tests, whose documentation asks for long enough slices;
    // they are borrowed until the launch has ended.
    unsafe { kernel.run(grid, &words, shared, seed) }
}
