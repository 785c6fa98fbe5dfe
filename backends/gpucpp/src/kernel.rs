//! Kernels by number, and the modules they are in.

use std::collections::HashMap;
use std::sync::Arc;

use hadal_device::{Body, Error, Limits, PipelineId, Result};

use crate::compile::{Compiler, Module};
use crate::driver::table::Handle;
use crate::driver::{Own, status};
use crate::gpu::Gpu;

/// A kernel ready to be launched.
pub struct Kernel {
    /// For messages.
    pub name: String,
    /// The driver's handle; lives as long as the module.
    pub function: Handle,
    /// Its operands, a letter each; see [`Body::Gpu`].
    pub operands: &'static str,
    /// Whether a library may stand in for it.
    pub is_native: bool,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared: u32,
    /// Blocks along x that it is launched with at most: those of others do their work.
    pub most_blocks: u32,
    /// Whether it waits itself for those before it.
    pub waits: bool,
    _module: Arc<Module>,
}

// SAFETY: the handle is the driver's, which takes calls from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

type Constants = Vec<(&'static str, u32)>;

/// Kernels of a device.
pub struct Kernels {
    compiler: Compiler,
    modules: HashMap<&'static str, Arc<Module>>,
    known: HashMap<(Body, Constants), PipelineId>,
    list: Vec<Arc<Kernel>>,
    own: HashMap<&'static str, Arc<Kernel>>,
}

/// Threads of the kernels that copy and fill.
pub const MEMORY_THREADS: u32 = 256;

impl Kernels {
    /// None yet; the compiler gets their modules.
    pub fn new(compiler: Compiler) -> Kernels {
        Kernels {
            compiler,
            modules: HashMap::new(),
            known: HashMap::new(),
            list: Vec::new(),
            own: HashMap::new(),
        }
    }

    /// How many were asked for.
    pub fn count(&self) -> u64 {
        self.list.len() as u64
    }

    /// The kernel of `id`.
    pub fn get(&self, id: PipelineId) -> Result<Arc<Kernel>> {
        let found = self.list.get(id.0 as usize).cloned();
        found.ok_or_else(|| Error::Invalid(format!("kernel {} does not exist", id.0)))
    }

    /// The kernel `body` with these constants; the same ones again are the same kernel.
    pub fn find(
        &mut self,
        gpu: &Arc<Gpu>,
        limits: &Limits,
        (name, body): (&str, &Body),
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let key = (*body, constants.to_vec());
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        let (Body::Gpu {
            file,
            entry,
            operands,
        }
        | Body::Native {
            file,
            entry,
            operands,
        }) = *body
        else {
            return Err(Error::Unsupported {
                what: format!("kernel {name}"),
                why: format!("{} runs C++ kernels only", gpu.vendor().backend()),
            });
        };
        if operands.chars().any(|letter| !"rwtmMx".contains(letter)) {
            return Err(Error::Invalid(format!(
                "{name} has operands {operands:?}, which are not all of r, w, t, m, M and x"
            )));
        }
        let [threads, shared, stays] = sizes(name, constants, limits)?;
        let module = self.module(gpu, file)?;
        let mut kernel = make(gpu, module, (name, entry, operands), threads, shared)?;
        if stays != 0 {
            kernel.most_blocks = processors(gpu)?;
        }
        kernel.is_native = matches!(body, Body::Native { .. });
        let id = u32::try_from(self.list.len())
            .map(PipelineId)
            .map_err(|_| Error::Invalid("too many kernels".into()))?;
        self.list.push(Arc::new(kernel));
        self.known.insert(key, id);
        Ok(id)
    }

    /// A kernel of the backend's own, in no row.
    pub fn memory(&mut self, gpu: &Arc<Gpu>, entry: &'static str) -> Result<Arc<Kernel>> {
        if let Some(known) = self.own.get(entry) {
            return Ok(known.clone());
        }
        let module = self.module(gpu, "memory")?;
        let kernel = make(gpu, module, (entry, entry, ""), MEMORY_THREADS, 0)?;
        let kernel = Arc::new(kernel);
        self.own.insert(entry, kernel.clone());
        Ok(kernel)
    }

    fn module(&mut self, gpu: &Arc<Gpu>, file: &'static str) -> Result<Arc<Module>> {
        if let Some(known) = self.modules.get(file) {
            return Ok(known.clone());
        }
        let made = Arc::new(self.compiler.module(gpu, file)?);
        self.modules.insert(file, made.clone());
        Ok(made)
    }
}

/// Threads and dynamic shared memory of a block, and whether blocks stay for as long as there is
/// something to do, so that more of them than processors are of no use.
fn sizes(name: &str, constants: &[(&'static str, u32)], limits: &Limits) -> Result<[u32; 3]> {
    let (mut threads, mut shared, mut stays) = (0, 0, 0);
    for (constant, value) in constants {
        match *constant {
            "THREADS" => threads = *value,
            "SHARED" => shared = *value,
            "STAYS" => stays = *value,
            other => {
                return Err(Error::Invalid(format!(
                    "{name}: no C++ kernel has a constant {other}"
                )));
            }
        }
    }
    if threads == 0 || threads > limits.max_workgroup {
        return Err(Error::Invalid(format!(
            "{name}: a block of {threads} threads, of 1 to {}",
            limits.max_workgroup
        )));
    }
    Ok([threads, shared, stays])
}

fn make(
    gpu: &Arc<Gpu>,
    module: Arc<Module>,
    (name, entry, operands): (&str, &str, &'static str),
    threads: u32,
    shared: u32,
) -> Result<Kernel> {
    let function = module.object.function(entry)?;
    allow_shared(gpu, name, function, shared)?;
    Ok(Kernel {
        name: name.to_string(),
        function,
        operands,
        is_native: false,
        threads,
        shared,
        most_blocks: u32::MAX,
        waits: module.waits,
        _module: module,
    })
}

/// Processors of a device of CUDA, each of which has a block with a ring; of others no kernel asks.
fn processors(gpu: &Arc<Gpu>) -> Result<u32> {
    const MULTIPROCESSORS: i32 = 16;
    let Own::Cuda(own) = &gpu.driver.own else {
        return Ok(u32::MAX);
    };
    let mut count = 0;
    // SAFETY: `count` lives.
    let status = unsafe { (own.device_attribute)(&mut count, MULTIPROCESSORS, gpu.ordinal) };
    gpu.done(status, "counting processors")?;
    Ok(u32::try_from(count).unwrap_or(0).max(1))
}

/// CUDA gives more than 48 KiB only to kernels that say so before.
fn allow_shared(gpu: &Arc<Gpu>, name: &str, function: Handle, shared: u32) -> Result<()> {
    const FREE: u32 = 48 << 10;
    const MAX_DYNAMIC_SHARED: i32 = 8;
    let Own::Cuda(own) = &gpu.driver.own else {
        return Ok(());
    };
    if shared <= FREE {
        return Ok(());
    }
    let _entered = gpu.enter()?;
    let bytes = i32::try_from(shared).unwrap_or(i32::MAX);
    // SAFETY: the function is one of a module that lives.
    match unsafe { (own.function_set)(function, MAX_DYNAMIC_SHARED, bytes) } {
        status::OK => Ok(()),
        // The driver's word for more than there is.
        1 => Err(Error::Unsupported {
            what: format!("kernel {name}"),
            why: format!("a block has less than {shared} bytes of shared memory"),
        }),
        other => Err(gpu.error(other, "reserving shared memory", 0)),
    }
}
