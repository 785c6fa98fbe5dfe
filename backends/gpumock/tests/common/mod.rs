//! The drivers' functions as the tests call them: one interface for both vendors.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::Library;

/// As a compiler would write it for `tests/kernels/sums.cu`.
pub const CUDA_PTX: &[u8] = b"
.version 8.0
.target sm_90a
.address_size 64
.visible .entry test_axpy(
    .param .f32 test_axpy_param_0,
    .param .u64 .ptr .align 1 test_axpy_param_1,
    .param .u64 .ptr .align 1 test_axpy_param_2,
    .param .u32 test_axpy_param_3
)
.maxntid 256, 1, 1
{
    ret;
}
.visible .entry test_step(.param .u64 a, .param .u32 b, .param .u32 c) { ret; }
.visible .entry test_count(.param .u64 a, .param .u32 b) { ret; }
\0";

/// The file of the test kernels.
pub fn kernel_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/sums.cu")
}

/// The image that the mock of AMD's compiler makes of the test kernels.
pub fn hip_image(arch: &str) -> Vec<u8> {
    let source = std::fs::read_to_string(kernel_file()).unwrap();
    Api::hip()
        .compile(&source, &format!("--offload-arch={arch}"))
        .unwrap()
}

/// The library has one state for the whole process: one test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: the library was built for being loaded, and does nothing then.
        unsafe { Library::new(hadal_gpumock::library()).unwrap() }
    })
}

/// Calls a function by name with arguments that are converted to the given types.
macro_rules! call {
    ($name:expr, $($arg:expr => $type:ty),*) => {{
        // SAFETY: the type is the function's, and the tests' pointers are valid.
        unsafe {
            let function = library()
                .get::<unsafe extern "C" fn($($type),*) -> u32>($name.as_bytes())
                .unwrap();
            function($($arg),*)
        }
    }};
}

/// Calls that one driver names differently from the other.
pub struct Api {
    hip: bool,
}

/// A launch under construction.
pub struct Node {
    function: u64,
    grid: [u32; 3],
    threads: u32,
    arguments: Vec<u64>,
}

impl Node {
    pub fn new(function: u64, grid: [u32; 3], threads: u32) -> Node {
        Node {
            function,
            grid,
            threads,
            arguments: Vec::new(),
        }
    }

    pub fn value(mut self, value: u32) -> Node {
        self.arguments.push(u64::from(value));
        self
    }

    pub fn address(mut self, address: u64) -> Node {
        self.arguments.push(address);
        self
    }

    fn pointers(&self) -> Vec<*const c_void> {
        self.arguments
            .iter()
            .map(|a| (&raw const *a).cast())
            .collect()
    }
}

#[repr(C)]
struct CudaNode(u64, [u32; 3], [u32; 3], u32, *const *const c_void, u64);

fn made<T>(code: u32, value: T) -> Result<T, u32> {
    match code {
        0 => Ok(value),
        code => Err(code),
    }
}

/// Pinned numbers.
#[derive(Clone, Copy)]
pub struct Pinned(*mut f32, usize);

impl Pinned {
    pub fn fill(&self, value: f32) {
        // SAFETY: as long as was allocated.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }.fill(value);
    }

    pub fn as_ptr(&self) -> *const f32 {
        self.0
    }
}

impl Api {
    pub fn cuda() -> Api {
        Api { hip: false }
    }

    pub fn hip() -> Api {
        Api { hip: true }
    }

    /// Whether this is AMD's, which has no graphs here.
    pub fn is_hip(&self) -> bool {
        self.hip
    }

    fn pick(&self, cuda: &'static str, hip: &'static str) -> &'static str {
        if self.hip { hip } else { cuda }
    }

    pub fn configure(&self, text: &str) {
        let text = CString::new(text).unwrap();
        call!("hadal_mock_configure", text.as_ptr() => *const std::ffi::c_char);
    }

    pub fn init(&self) -> u32 {
        call!(self.pick("cuInit", "hipInit"), 0 => u32)
    }

    /// Makes a device current, and its context on CUDA, by which peer copies name it.
    pub fn open(&self, device: i32) -> u64 {
        assert_eq!(self.init(), 0);
        if self.hip {
            assert_eq!(call!("hipSetDevice", device => i32), 0);
            return device as u64;
        }
        let mut context = 0u64;
        let code = call!("cuDevicePrimaryCtxRetain", &mut context => *mut u64, device => i32);
        assert_eq!(code, 0);
        assert_eq!(call!("cuCtxSetCurrent", context => u64), 0);
        context
    }

    pub fn copy_peer(
        &self,
        to: u64,
        from: u64,
        devices: (u64, u64),
        bytes: usize,
        stream: u64,
    ) -> u32 {
        let name = self.pick("cuMemcpyPeerAsync", "hipMemcpyPeerAsync");
        call!(
            name, to => u64, devices.0 => u64, from => u64, devices.1 => u64, bytes => usize,
            stream => u64
        )
    }

    pub fn query(&self, event: u64) -> u32 {
        self.end("cuEventQuery", "hipEventQuery", event)
    }

    pub fn close(&self, device: i32) {
        if !self.hip {
            assert_eq!(call!("cuDevicePrimaryCtxRelease_v2", device => i32), 0);
        }
    }

    fn make(&self, cuda: &'static str, hip: &'static str) -> u64 {
        let mut handle = 0u64;
        let code = call!(self.pick(cuda, hip), &mut handle => *mut u64, 0 => u32);
        made(code, handle).unwrap()
    }

    fn end(&self, cuda: &'static str, hip: &'static str, handle: u64) -> u32 {
        call!(self.pick(cuda, hip), handle => u64)
    }

    pub fn stream(&self) -> u64 {
        self.make("cuStreamCreate", "hipStreamCreateWithFlags")
    }

    pub fn event(&self) -> u64 {
        self.make("cuEventCreate", "hipEventCreateWithFlags")
    }

    pub fn graph(&self) -> u64 {
        self.make("cuGraphCreate", "no graphs")
    }

    pub fn destroy_stream(&self, stream: u64) {
        assert_eq!(
            self.end("cuStreamDestroy_v2", "hipStreamDestroy", stream),
            0
        );
    }

    pub fn destroy_event(&self, event: u64) {
        assert_eq!(self.end("cuEventDestroy_v2", "hipEventDestroy", event), 0);
    }

    pub fn destroy_graph(&self, graph: u64) {
        assert_eq!(self.end("cuGraphDestroy", "no graphs", graph), 0);
    }

    pub fn destroy_exec(&self, exec: u64) {
        assert_eq!(self.end("cuGraphExecDestroy", "no graphs", exec), 0);
    }

    pub fn unload(&self, module: u64) {
        assert_eq!(self.end("cuModuleUnload", "hipModuleUnload", module), 0);
    }

    pub fn synchronise(&self, stream: u64) -> u32 {
        self.end("cuStreamSynchronize", "hipStreamSynchronize", stream)
    }

    pub fn alloc(&self, bytes: usize) -> Result<u64, u32> {
        let mut at = 0u64;
        let name = self.pick("cuMemAlloc_v2", "hipMalloc");
        let code = call!(name, &mut at => *mut u64, bytes => usize);
        made(code, at)
    }

    pub fn free(&self, at: u64) -> u32 {
        self.end("cuMemFree_v2", "hipFree", at)
    }

    pub fn pinned(&self, bytes: usize) -> Pinned {
        let mut at = 0u64;
        let name = self.pick("cuMemHostAlloc", "hipHostMalloc");
        assert_eq!(
            call!(name, &mut at => *mut u64, bytes => usize, 0 => u32),
            0
        );
        Pinned(at as *mut f32, bytes / 4)
    }

    pub fn free_pinned(&self, pinned: Pinned) {
        assert_eq!(self.end("cuMemFreeHost", "hipHostFree", pinned.0 as u64), 0);
    }

    pub fn upload(&self, to: u64, from: *const c_void, bytes: usize, stream: u64) -> u32 {
        let name = self.pick("cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync");
        call!(name, to => u64, from => *const c_void, bytes => usize, stream => u64)
    }

    pub fn download(&self, to: *mut c_void, from: u64, bytes: usize, stream: u64) -> u32 {
        let name = self.pick("cuMemcpyDtoHAsync_v2", "hipMemcpyDtoHAsync");
        call!(name, to => *mut c_void, from => u64, bytes => usize, stream => u64)
    }

    pub fn record(&self, event: u64, stream: u64) {
        let name = self.pick("cuEventRecord", "hipEventRecord");
        assert_eq!(call!(name, event => u64, stream => u64), 0);
    }

    pub fn wait(&self, stream: u64, event: u64) {
        let name = self.pick("cuStreamWaitEvent", "hipStreamWaitEvent");
        assert_eq!(call!(name, stream => u64, event => u64, 0 => u32), 0);
    }

    pub fn elapsed(&self, from: u64, to: u64) -> Result<f32, u32> {
        let mut time = 0f32;
        let name = self.pick("cuEventElapsedTime", "hipEventElapsedTime");
        let code = call!(name, &mut time => *mut f32, from => u64, to => u64);
        made(code, time)
    }

    pub fn module(&self, image: &[u8]) -> Result<u64, u32> {
        let mut module = 0u64;
        let code = match self.hip {
            true => call!(
                "hipModuleLoadData", &mut module => *mut u64, image.as_ptr() => *const u8
            ),
            false => call!(
                "cuModuleLoadDataEx", &mut module => *mut u64, image.as_ptr() => *const u8,
                0 => u32, 0 => u64, 0 => u64
            ),
        };
        made(code, module)
    }

    pub fn function(&self, module: u64, kernel: &str) -> Result<u64, u32> {
        let (mut function, kernel) = (0u64, CString::new(kernel).unwrap());
        let name = self.pick("cuModuleGetFunction", "hipModuleGetFunction");
        let code = call!(
            name, &mut function => *mut u64, module => u64, kernel.as_ptr() => *const std::ffi::c_char
        );
        made(code, function)
    }

    pub fn launch(&self, node: &Node, stream: u64) -> u32 {
        let pointers = node.pointers();
        let name = self.pick("cuLaunchKernel", "hipModuleLaunchKernel");
        call!(
            name, node.function => u64, node.grid[0] => u32, node.grid[1] => u32,
            node.grid[2] => u32, node.threads => u32, 1 => u32, 1 => u32, 0 => u32,
            stream => u64, pointers.as_ptr() => *const *const c_void, 0 => u64
        )
    }

    pub fn node(&self, graph: u64, after: &[u64], node: &Node) -> Result<u64, u32> {
        let pointers = node.pointers();
        let (block, list) = ([node.threads, 1, 1], pointers.as_ptr());
        let parameters = CudaNode(node.function, node.grid, block, 0, list, 0);
        let mut out = 0u64;
        let code = call!(
            "cuGraphAddKernelNode", &mut out => *mut u64, graph => u64,
            after.as_ptr() => *const u64, after.len() => usize,
            (&raw const parameters).cast() => *const c_void
        );
        made(code, out)
    }

    pub fn instantiate(&self, graph: u64) -> u64 {
        let mut exec = 0u64;
        let name = "cuGraphInstantiateWithFlags";
        let code = call!(name, &mut exec => *mut u64, graph => u64, 0 => u64);
        made(code, exec).unwrap()
    }

    pub fn launch_graph(&self, exec: u64, stream: u64) -> u32 {
        call!("cuGraphLaunch", exec => u64, stream => u64)
    }

    pub fn compile(&self, source: &str, option: &str) -> Result<Vec<u8>, u32> {
        let (source, option) = (CString::new(source).unwrap(), CString::new(option).unwrap());
        let mut program = 0u64;
        let create = self.pick("nvrtcCreateProgram", "hiprtcCreateProgram");
        let code = call!(
            create, &mut program => *mut u64, source.as_ptr() => *const std::ffi::c_char, 0 => u64,
            0 => i32, 0 => u64, 0 => u64
        );
        assert_eq!(code, 0);
        let compile = self.pick("nvrtcCompileProgram", "hiprtcCompileProgram");
        let options = [option.as_ptr()];
        let code = call!(
            compile, program => u64, 1 => i32, options.as_ptr() => *const *const std::ffi::c_char
        );
        let mut image = Vec::new();
        if code == 0 {
            let mut size = 0usize;
            let name = self.pick("nvrtcGetCUBINSize", "hiprtcGetCodeSize");
            assert_eq!(call!(name, program => u64, &mut size => *mut usize), 0);
            image = vec![0u8; size];
            let name = self.pick("nvrtcGetCUBIN", "hiprtcGetCode");
            assert_eq!(
                call!(name, program => u64, image.as_mut_ptr() => *mut u8),
                0
            );
        }
        let destroy = self.pick("nvrtcDestroyProgram", "hiprtcDestroyProgram");
        assert_eq!(call!(destroy, &mut program => *mut u64), 0);
        made(code, image)
    }

    pub fn fail_at(&self, nth: u64, code: u32) {
        call!("hadal_mock_fail_at", nth => u64, code => u32);
    }

    pub fn fail_call(&self, name: &str, nth: u64, code: u32) {
        let name = CString::new(name).unwrap();
        call!("hadal_mock_fail_call", name.as_ptr() => *const std::ffi::c_char, nth => u64, code => u32);
    }

    pub fn calls(&self) -> u64 {
        u64::from(call!("hadal_mock_calls",))
    }

    pub fn live(&self, kind: &str) -> u64 {
        let kind = CString::new(kind).unwrap();
        u64::from(call!("hadal_mock_live", kind.as_ptr() => *const std::ffi::c_char))
    }

    pub fn complaints(&self) -> String {
        let mut buffer = vec![0u8; 1 << 16];
        call!("hadal_mock_complaints", buffer.as_mut_ptr() => *mut u8, buffer.len() => usize);
        let end = buffer.iter().position(|b| *b == 0).unwrap();
        String::from_utf8_lossy(&buffer[..end]).into_owned()
    }
}
