//! The calls of the two drivers, under one name each.
//!
//! CUDA's driver interface and HIP's module interface have the same functions with the same
//! arguments; a call stands here once, with the name that each of them gives it. Sources:
//! `cuda.h` of CUDA 12.0, `hip_runtime_api.h` of ROCm 6.0.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use libloading::Library;

use super::Vendor;

/// What a call answers: 0, or what went wrong.
pub type Status = c_int;

/// A context, stream, event, module, function or graph; also an address of the host.
pub type Handle = *mut c_void;

/// An address in device memory. HIP calls it a pointer, which is as wide.
pub type Address = u64;

macro_rules! table {
    ($(#[$about:meta])* $table:ident {
        $($(#[$doc:meta])* $name:ident($($type:ty),*) = $cuda:literal $(/ $hip:literal)?;)*
    }) => {
        $(#[$about])*
        pub struct $table {
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($type),*) -> Status,)*
        }

        impl $table {
            /// Those of `library`, or the name of the first one it lacks.
            pub fn load(library: &Library, vendor: Vendor) -> Result<$table, &'static str> {
                Ok($table {
                    $($name: {
                        let names: &[&'static str] = &[$cuda $(, $hip)?];
                        let name = match vendor {
                            Vendor::Cuda => names.first(),
                            Vendor::Hip => names.last(),
                        };
                        symbol(library, name.copied().unwrap_or_default())?
                    },)*
                })
            }
        }
    };
}

/// The function `name`, taken for an `F`: the declarations here are those of the headers.
fn symbol<F: Copy>(library: &Library, name: &'static str) -> Result<F, &'static str> {
    const { assert!(size_of::<F>() == size_of::<Handle>()) };
    // SAFETY: nothing is called; callers of the function have their own reasons.
    match unsafe { library.get::<F>(name) } {
        Ok(found) => Ok(*found),
        Err(_) => Err(name),
    }
}

table! {
    /// What can be asked of any version.
    Start {
        /// (flags)
        init(c_uint) = "cuInit" / "hipInit";
        /// (version)
        driver_version(*mut c_int) = "cuDriverGetVersion" / "hipDriverGetVersion";
        /// (count)
        device_count(*mut c_int) = "cuDeviceGetCount" / "hipGetDeviceCount";
    }
}

table! {
    /// What both drivers have.
    Calls {
        /// (device, ordinal)
        device_get(*mut c_int, c_int) = "cuDeviceGet" / "hipDeviceGet";
        /// (name, length, device)
        device_name(*mut c_char, c_int, c_int) = "cuDeviceGetName" / "hipDeviceGetName";
        /// (bytes, device)
        device_memory(*mut usize, c_int) = "cuDeviceTotalMem_v2" / "hipDeviceTotalMem";
        /// (address, bytes)
        mem_alloc(*mut Address, usize) = "cuMemAlloc_v2" / "hipMalloc";
        /// (address)
        mem_free(Address) = "cuMemFree_v2" / "hipFree";
        /// (free, total)
        mem_info(*mut usize, *mut usize) = "cuMemGetInfo_v2" / "hipMemGetInfo";
        /// (pointer, bytes, flags)
        host_alloc(*mut Handle, usize, c_uint) = "cuMemHostAlloc" / "hipHostMalloc";
        /// (pointer)
        host_free(Handle) = "cuMemFreeHost" / "hipHostFree";
        /// (to, from, bytes, stream)
        copy_up(Address, Handle, usize, Handle) =
            "cuMemcpyHtoDAsync_v2" / "hipMemcpyHtoDAsync";
        /// (to, from, bytes, stream)
        copy_down(Handle, Address, usize, Handle) =
            "cuMemcpyDtoHAsync_v2" / "hipMemcpyDtoHAsync";
        /// (to, from, bytes, stream)
        copy_within(Address, Address, usize, Handle) =
            "cuMemcpyDtoDAsync_v2" / "hipMemcpyDtoDAsync";
        /// (stream, flags)
        stream_create(*mut Handle, c_uint) = "cuStreamCreate" / "hipStreamCreateWithFlags";
        /// (stream)
        stream_destroy(Handle) = "cuStreamDestroy_v2" / "hipStreamDestroy";
        /// (stream)
        stream_synchronize(Handle) = "cuStreamSynchronize" / "hipStreamSynchronize";
        /// (stream, event, flags)
        stream_wait(Handle, Handle, c_uint) = "cuStreamWaitEvent" / "hipStreamWaitEvent";
        /// (event, flags)
        event_create(*mut Handle, c_uint) = "cuEventCreate" / "hipEventCreateWithFlags";
        /// (event)
        event_destroy(Handle) = "cuEventDestroy_v2" / "hipEventDestroy";
        /// (event, stream)
        event_record(Handle, Handle) = "cuEventRecord" / "hipEventRecord";
        /// (event)
        event_query(Handle) = "cuEventQuery" / "hipEventQuery";
        /// (event)
        event_synchronize(Handle) = "cuEventSynchronize" / "hipEventSynchronize";
        /// (milliseconds, begin, end)
        event_elapsed(*mut f32, Handle, Handle) = "cuEventElapsedTime" / "hipEventElapsedTime";
        /// (module)
        module_unload(Handle) = "cuModuleUnload" / "hipModuleUnload";
        /// (function, module, name)
        module_function(*mut Handle, Handle, *const c_char) =
            "cuModuleGetFunction" / "hipModuleGetFunction";
        /// (function, blocks along each axis, threads along each axis, dynamic shared memory,
        /// stream, where each argument lies, arguments in another form)
        launch(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle,
            *mut Handle, *mut Handle) = "cuLaunchKernel" / "hipModuleLaunchKernel";
    }
}

table! {
    /// CUDA's contexts, and what it tells of a device by number.
    CudaCalls {
        /// (value, attribute, device)
        device_attribute(*mut c_int, c_int, c_int) = "cuDeviceGetAttribute";
        /// (context, device)
        context_retain(*mut Handle, c_int) = "cuDevicePrimaryCtxRetain";
        /// (device)
        context_release(c_int) = "cuDevicePrimaryCtxRelease_v2";
        /// (device)
        context_reset(c_int) = "cuDevicePrimaryCtxReset_v2";
        /// (context)
        context_set(Handle) = "cuCtxSetCurrent";
        /// (context)
        context_get(*mut Handle) = "cuCtxGetCurrent";
        /// (module, image, how many options, options, their values, which it may write)
        module_load(*mut Handle, *const c_void, c_uint, *mut c_int, *mut Handle) =
            "cuModuleLoadDataEx";
        /// (function, attribute, value)
        function_set(Handle, c_int, c_int) = "cuFuncSetAttribute";
        /// (to, its context, from, its context, bytes, stream)
        copy_peer(Address, Handle, Address, Handle, usize, Handle) = "cuMemcpyPeerAsync";
        /// (map, type of numbers, axes, address, lengths, strides, lengths of a box, steps in it,
        /// interleaving, swizzle, what second-level caches read, what lies outside)
        tensor_map(*mut c_void, c_int, c_uint, Address, *const u64, *const u64, *const c_uint,
            *const c_uint, c_int, c_int, c_int, c_int) = "cuTensorMapEncodeTiled";
    }
}

table! {
    /// HIP's current device, and what it tells of one in a structure.
    HipCalls {
        /// (structure, device)
        properties(*mut c_void, c_int) = "hipGetDevicePropertiesR0600";
        /// (device)
        device_set(c_int) = "hipSetDevice";
        /// (device)
        device_get(*mut c_int) = "hipGetDevice";
        /// (module, image)
        module_load(*mut Handle, *const c_void) = "hipModuleLoadData";
        /// (to, its device, from, its device, bytes, stream)
        copy_peer(Address, c_int, Address, c_int, usize, Handle) = "hipMemcpyPeerAsync";
    }
}

table! {
    /// CUDA's short ways between devices.
    CudaPeers {
        /// (answer, device, whose memory)
        can_reach(*mut c_int, c_int, c_int) = "cuDeviceCanAccessPeer";
        /// (context of the memory, flags), for the current context
        reach(Handle, c_uint) = "cuCtxEnablePeerAccess";
    }
}

table! {
    /// HIP's short ways between devices.
    HipPeers {
        /// (answer, device, whose memory)
        can_reach(*mut c_int, c_int, c_int) = "hipDeviceCanAccessPeer";
        /// (device of the memory, flags), for the current device
        reach(c_int, c_uint) = "hipDeviceEnablePeerAccess";
    }
}

table! {
    /// CUDA's graphs, and what makes a part of one of a library's own launches.
    /// `Vendor::has_graphs` says why those of HIP are not called.
    GraphCalls {
        /// (graph, flags)
        create(*mut Handle, c_uint) = "cuGraphCreate";
        /// (node, graph, what it waits for, how many, parameters: `super::nodes`)
        add_kernel(*mut Handle, Handle, *const Handle, usize, *const c_void) =
            "cuGraphAddKernelNode";
        /// (node, graph, what it waits for, how many, graph in it)
        add_graph(*mut Handle, Handle, *const Handle, usize, Handle) = "cuGraphAddChildGraphNode";
        /// (executable, graph, flags)
        instantiate(*mut Handle, Handle, c_ulonglong) = "cuGraphInstantiateWithFlags";
        /// (executable, stream)
        launch(Handle, Handle) = "cuGraphLaunch";
        /// (executable)
        exec_destroy(Handle) = "cuGraphExecDestroy";
        /// (graph)
        destroy(Handle) = "cuGraphDestroy";
        /// (stream, mode)
        capture_begin(Handle, c_int) = "cuStreamBeginCapture_v2";
        /// (stream, graph)
        capture_end(Handle, *mut Handle) = "cuStreamEndCapture";
    }
}

table! {
    /// Edges of CUDA's graphs that say more than that one node follows another; from 12.3 on.
    EdgeCalls {
        /// (graph, from each, to each, what each says: `super::nodes`, how many)
        add(Handle, *const Handle, *const Handle, *const c_void, usize) =
            "cuGraphAddDependencies_v2";
    }
}

table! {
    /// The version of cuBLASLt.
    CudaLtVersion {
        /// (which part of it, value)
        property(c_int, *mut c_int) = "cublasLtGetProperty";
    }
}

table! {
    /// The version of hipBLASLt.
    HipLtVersion {
        /// (handle, version)
        version(Handle, *mut c_int) = "hipblasLtGetVersion";
    }
}

table! {
    /// cuBLASLt and hipBLASLt. Sources: their documentation, `cublasLt.h` of CUDA 12.9 and
    /// `hipblaslt.h` of ROCm 6.0.
    LtCalls {
        /// (handle)
        create(*mut Handle) = "cublasLtCreate" / "hipblasLtCreate";
        /// (handle)
        destroy(Handle) = "cublasLtDestroy" / "hipblasLtDestroy";
        /// (description, type of sums, type of factors)
        product_create(*mut Handle, c_int, c_int) = "cublasLtMatmulDescCreate" / "hipblasLtMatmulDescCreate";
        /// (description)
        product_destroy(Handle) = "cublasLtMatmulDescDestroy" / "hipblasLtMatmulDescDestroy";
        /// (description, attribute, value, bytes)
        product_set(Handle, c_int, *const c_void, usize) = "cublasLtMatmulDescSetAttribute" / "hipblasLtMatmulDescSetAttribute";
        /// (layout, type, rows, columns, from one column to the next)
        layout_create(*mut Handle, c_int, u64, u64, i64) = "cublasLtMatrixLayoutCreate" / "hipblasLtMatrixLayoutCreate";
        /// (layout)
        layout_destroy(Handle) = "cublasLtMatrixLayoutDestroy" / "hipblasLtMatrixLayoutDestroy";
        /// (preference)
        preference_create(*mut Handle) = "cublasLtMatmulPreferenceCreate" / "hipblasLtMatmulPreferenceCreate";
        /// (preference)
        preference_destroy(Handle) = "cublasLtMatmulPreferenceDestroy" / "hipblasLtMatmulPreferenceDestroy";
        /// (preference, attribute, value, bytes)
        preference_set(Handle, c_int, *const c_void, usize) =
            "cublasLtMatmulPreferenceSetAttribute" / "hipblasLtMatmulPreferenceSetAttribute";
        /// (handle, description, layouts of A, B, C and D, preference, most results, results,
        /// their number)
        choose(Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut c_void,
            *mut c_int) = "cublasLtMatmulAlgoGetHeuristic" / "hipblasLtMatmulAlgoGetHeuristic";
        /// (handle, description, alpha, A, its layout, B, its layout, beta, C, its layout, D, its
        /// layout, algorithm, workspace, its bytes, stream)
        multiply(Handle, Handle, *const c_void, Address, Handle, Address, Handle, *const c_void,
            Address, Handle, Address, Handle, *const c_void, Address, usize, Handle) =
            "cublasLtMatmul" / "hipblasLtMatmul";
    }
}

table! {
    /// The compilers, NVRTC and hipRTC.
    RtcCalls {
        /// (major, minor)
        version(*mut c_int, *mut c_int) = "nvrtcVersion" / "hiprtcVersion";
        /// (program, source, name, headers, their texts, their names)
        create(*mut Handle, *const c_char, *const c_char, c_int, *const *const c_char,
            *const *const c_char) = "nvrtcCreateProgram" / "hiprtcCreateProgram";
        /// (program, options, their texts)
        compile(Handle, c_int, *const *const c_char) =
            "nvrtcCompileProgram" / "hiprtcCompileProgram";
        /// (program, bytes)
        log_size(Handle, *mut usize) = "nvrtcGetProgramLogSize" / "hiprtcGetProgramLogSize";
        /// (program, log)
        log(Handle, *mut c_char) = "nvrtcGetProgramLog" / "hiprtcGetProgramLog";
        /// (program, bytes)
        code_size(Handle, *mut usize) = "nvrtcGetCUBINSize" / "hiprtcGetCodeSize";
        /// (program, module)
        code(Handle, *mut c_char) = "nvrtcGetCUBIN" / "hiprtcGetCode";
        /// (program)
        destroy(*mut Handle) = "nvrtcDestroyProgram" / "hiprtcDestroyProgram";
    }
}
