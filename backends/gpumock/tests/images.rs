//! Images of the real kernels, as their compilers wrote them, loaded into the mock drivers.
#![cfg(unix)]

mod common;

use std::ffi::{CString, c_char};

use common::{Api, Node};
use hadal_gpumock::kernels;
use hadal_shaders::gpu;
use libloading::Library;

#[test]
fn every_kernel_of_every_image_takes_the_arguments_of_the_cpu_build() {
    let _alone = common::alone();
    for arch in gpu::image_archs() {
        let api = match arch.starts_with("gfx") {
            true => Api::hip(),
            false => Api::cuda(),
        };
        api.configure(&format!("arch={arch}"));
        api.open(0);
        let mut found = 0;
        let files = gpu::KERNELS.iter();
        let files = files.map(|(file, _)| file.trim_end_matches(".cu"));
        for file in files.filter(|file| gpu::is_for(file, arch)) {
            let module = api.module(&gpu::image(arch, file).unwrap());
            let module = module.unwrap_or_else(|_| panic!("{arch} {file}: {}", api.complaints()));
            for kernel in kernels().iter().filter(|k| k.file == file && k.wave == 32) {
                found += usize::from(api.function(module, &kernel.name).is_ok());
            }
        }
        // Some are for matrix units that this device lacks; any other fault counts.
        let complaints = api.complaints();
        let lacking = |line: &&str| line.contains("the image holds no kernel");
        let others: Vec<&str> = complaints.lines().filter(|line| !lacking(line)).collect();
        assert!(others.is_empty(), "{arch}: {others:?}");
        assert!(found > 50, "{arch}: {found}");
    }
}

/// The vendor's own compiler, where `HADAL_NVRTC` names its library.
#[test]
fn code_of_the_real_compiler_is_read() {
    let Some(path) = std::env::var_os("HADAL_NVRTC") else {
        eprintln!("NOT RUN: code_of_the_real_compiler_is_read, HADAL_NVRTC names no library");
        return;
    };
    let _alone = common::alone();
    let image = compile(&path, &gpu::source("memory").unwrap());
    let api = Api::cuda();
    api.configure("");
    api.open(0);
    let module = api
        .module(&image)
        .unwrap_or_else(|_| panic!("{}", api.complaints()));
    let fill = api.function(module, "fill_bytes").unwrap();
    let (stream, at) = (api.stream(), api.alloc(64).unwrap());
    let node = Node::new(fill, [1, 1, 1], 256)
        .address(at)
        .address(64)
        .value(7);
    assert_eq!(api.launch(&node, stream), 0);
    let mut out = [0u8; 64];
    assert_eq!(api.download(out.as_mut_ptr().cast(), at, 64, stream), 0);
    assert_eq!(out, [7; 64]);
    api.configure("arch=sm_80");
    api.open(0);
    assert_eq!(api.module(&image), Err(209));
}

fn compile(path: &std::ffi::OsStr, source: &str) -> Vec<u8> {
    type Create = unsafe extern "C" fn(*mut u64, *const c_char, u64, i32, u64, u64) -> u32;
    type Compile = unsafe extern "C" fn(u64, i32, *const *const c_char) -> u32;
    let source = CString::new(source).unwrap();
    let mut program = 0u64;
    let mut size = 0usize;
    let options = [
        c"--gpu-architecture=sm_90a".as_ptr(),
        c"--std=c++17".as_ptr(),
    ];
    // SAFETY: the functions have these types, and all pointers are valid.
    unsafe {
        let library = Library::new(path).unwrap();
        let create = library.get::<Create>("nvrtcCreateProgram").unwrap();
        assert_eq!(create(&mut program, source.as_ptr(), 0, 0, 0, 0), 0);
        let compile = library.get::<Compile>("nvrtcCompileProgram").unwrap();
        assert_eq!(compile(program, 2, options.as_ptr()), 0);
        let length = library
            .get::<unsafe extern "C" fn(u64, *mut usize) -> u32>("nvrtcGetCUBINSize")
            .unwrap();
        assert_eq!(length(program, &mut size), 0);
        let mut image = vec![0u8; size];
        let code = library
            .get::<unsafe extern "C" fn(u64, *mut u8) -> u32>("nvrtcGetCUBIN")
            .unwrap();
        assert_eq!(code(program, image.as_mut_ptr()), 0);
        image
    }
}
