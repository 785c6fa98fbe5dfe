//! What only NVIDIA's driver and compiler have, or have in a form of their own.
#![allow(non_snake_case, reason = "the vendor's names")]

use std::ffi::{c_char, c_void};

use crate::codes::*;
use crate::exports::{copy_peer, device_count, driver, enable_peer, put};
use crate::image::sm;
use crate::module::Request;
use crate::state::{DeviceState, State};
use crate::tensor::{Matrix, TensorMap};

/// `CUDA_KERNEL_NODE_PARAMS`, first version.
#[repr(C)]
pub struct NodeParams {
    function: u64,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: *const *const c_void,
    extra: *const *const c_void,
}

/// Options of loading: where the log goes, and how long it may be.
const ERROR_LOG: i32 = 5;
const ERROR_LOG_BYTES: i32 = 6;

driver! { Cuda:
    fn cuInit(state, flags: u32) {
        if flags != 0 {
            return state.refuse(INVALID_VALUE, format!("flags {flags}"));
        }
        if state.devices.is_empty() {
            return Err(NO_DEVICE);
        }
        state.initialised = true;
        Ok(())
    }
    fn cuDriverGetVersion(state, out: *mut i32) { put(state, out, state.config.version) }
    fn cuDeviceGetAttribute(state, out: *mut i32, attribute: i32, device: i32) {
        let device = state.ordinal(device)?;
        let (arch, _, processors, wave) = state.config.models[device];
        let value = match attribute {
            1..=3 => 1024,
            4 => 64,
            5 => i32::MAX,
            6 | 7 => 65535,
            8 => 48 << 10,
            10 => wave as i32,
            16 => processors,
            18 => 0,
            33 | 34 => device as i32,
            41 => 1,
            50 => 0,
            75 => (sm(arch) / 10) as i32,
            76 => (sm(arch) % 10) as i32,
            81 => 228 << 10,
            97 => 227 << 10,
            _ => return state.refuse(INVALID_VALUE, format!("attribute {attribute} is unknown")),
        };
        put(state, out, value)
    }
    fn cuDevicePrimaryCtxRetain(state, out: *mut u64, device: i32) {
        let device = state.ordinal(device)?;
        if let Some(code) = state.devices[device].sticky {
            return Err(code);
        }
        let context = match state.devices[device].context {
            Some(context) => context,
            None => state.contexts.add(device, ()),
        };
        state.devices[device].context = Some(context);
        state.devices[device].retained += 1;
        put(state, out, context)
    }
    fn cuDevicePrimaryCtxRelease_v2(state, device: i32) {
        let device = state.ordinal(device)?;
        let is_of_library = u32::from(state.devices[device].is_of_library);
        match state.devices[device].retained - is_of_library {
            0 => return state.refuse(INVALID_CONTEXT, "the context was not retained"),
            1 if is_of_library == 0 => {
                state.drain(device);
                state.end_context(device);
            }
            1 => {
                // It stays as it is, lost or not.
                state.drain(device);
                state.forget_objects(device);
                state.devices[device].retained -= 1;
            }
            _ => state.devices[device].retained -= 1,
        }
        Ok(())
    }
    fn cuDevicePrimaryCtxReset_v2(state, device: i32) {
        let device = state.ordinal(device)?;
        let DeviceState { retained, is_of_library, .. } = state.devices[device];
        state.drain(device);
        state.end_context(device);
        // Who retained it still has to give it back.
        state.devices[device].retained = retained;
        state.devices[device].is_of_library = is_of_library;
        Ok(())
    }
    fn cuCtxSetCurrent(state, context: u64) {
        if context != 0 {
            context_device(state, context)?;
        }
        state.make_current(context);
        Ok(())
    }
    fn cuCtxGetCurrent(state, out: *mut u64) {
        let device = state.current();
        let context = device.and_then(|device| state.devices[device].context);
        put(state, out, context.unwrap_or(0))
    }
    fn cuModuleLoadDataEx(
        state, out: *mut u64, image: *const u8, count: u32, options: *const i32, values: *mut u64
    ) {
        let mut log = (0, 0);
        for number in 0..count as usize {
            // SAFETY: the caller's word: so many options, with a value each.
            match unsafe { (*options.add(number), *values.add(number)) } {
                (ERROR_LOG, buffer) => log.0 = buffer,
                (ERROR_LOG_BYTES, bytes) => log.1 = bytes as usize,
                (other, _) => return state.refuse(INVALID_VALUE, format!("option {other}")),
            }
        }
        let module = state.load_module(image);
        if module.is_err() && log.0 != 0 {
            let said = state.complaints.last().cloned().unwrap_or_default();
            let why = said.split_once(": ").map_or("", |(_, why)| why).as_bytes();
            let length = why.len().min(log.1.saturating_sub(1));
            // SAFETY: the caller's word: a buffer of so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(why.as_ptr(), log.0 as *mut u8, length) };
        }
        put(state, out, module?)
    }
    fn cuCtxEnablePeerAccess(state, context: u64, _flags: u32) {
        let peer = context_device(state, context)?;
        enable_peer(state, peer)
    }
    fn cuMemcpyPeerAsync(
        state, to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize, stream: u64
    ) {
        let to_device = context_device(state, to_context)?;
        let from_device = context_device(state, from_context)?;
        copy_peer(state, (to, to_device), (from, from_device), bytes, stream)
    }
    fn cuGraphAddKernelNode(
        state, out: *mut u64, graph: u64, after: *const u64, count: usize, node: *const NodeParams
    ) {
        if node.is_null() {
            return state.refuse(INVALID_VALUE, "no parameters");
        }
        // SAFETY: the caller's word.
        let node = unsafe { &*node };
        let request = Request {
            function: node.function,
            grid: node.grid,
            block: node.block,
            shared: node.shared,
            params: node.params,
            extra: node.extra,
        };
        let after = match count {
            0 => &[],
            // SAFETY: the caller's word: a list of so many handles.
            _ => unsafe { std::slice::from_raw_parts(after, count) },
        };
        let node = state.add_node(graph, after, &request)?;
        put(state, out, node)
    }
    fn cuGraphAddDependencies_v2(
        state, graph: u64, from: *const u64, to: *const u64, says: *const [u8; 8], count: usize
    ) {
        if from.is_null() || to.is_null() || says.is_null() {
            return state.refuse(INVALID_VALUE, "an edge without ends, or that says nothing");
        }
        for i in 0..count {
            // SAFETY: the caller's word: lists of so many.
            let edge = unsafe { (*from.add(i), *to.add(i), *says.add(i)) };
            state.add_edge(graph, edge)?;
        }
        Ok(())
    }
    fn cuStreamBeginCapture_v2(state, stream: u64, mode: i32) {
        state.begin_recording(stream, mode)
    }
    fn cuStreamEndCapture(state, stream: u64, out: *mut u64) {
        let graph = state.end_recording(stream)?;
        put(state, out, graph)
    }
    fn cuGraphAddChildGraphNode(
        state, out: *mut u64, graph: u64, after: *const u64, count: usize, part: u64
    ) {
        let after = match count {
            0 => &[],
            // SAFETY: the caller's word.
            _ => unsafe { std::slice::from_raw_parts(after, count) },
        };
        let node = state.add_part(graph, after, part)?;
        put(state, out, node)
    }
    fn cuGraphCreate(state, out: *mut u64, flags: u32) {
        let graph = state.add_graph(flags)?;
        put(state, out, graph)
    }
    fn cuGraphInstantiateWithFlags(
        state, out: *mut u64, graph: u64, flags: u64
    ) {
        let exec = state.instantiate(graph, flags)?;
        put(state, out, exec)
    }
    fn cuGraphLaunch(state, exec: u64, stream: u64) {
        state.launch_graph(exec, stream)
    }
    fn cuGraphExecDestroy(state, exec: u64) { state.destroy_exec(exec) }
    fn cuGraphDestroy(state, graph: u64) { state.destroy_graph(graph) }
    fn cuTensorMapEncodeTiled(
        state, out: *mut TensorMap, dtype: i32, rank: u32, address: u64, lengths: *const [u64; 2],
        strides: *const u64, boxed: *const [u32; 2], steps: *const [u32; 2], interleave: i32,
        swizzle: i32, promotion: i32, fill: i32
    ) {
        if rank != 2 || !(out as usize).is_multiple_of(64) {
            return state.refuse(INVALID_VALUE, "a tensor map that is not aligned or of two axes");
        }
        if lengths.is_null() || strides.is_null() || boxed.is_null() || steps.is_null() {
            return state.refuse(INVALID_VALUE, "a tensor map of nothing");
        }
        // SAFETY: the caller's word: two numbers for two axes, and a stride between.
        let (lengths, stride, boxed, steps) = unsafe { (*lengths, *strides, *boxed, *steps) };
        let modes = [interleave, swizzle, promotion, fill];
        let map = Matrix { address, dtype, lengths, stride, boxed, steps, modes }.map();
        match map {
            Ok(map) => put(state, out, map),
            Err(why) => state.refuse(INVALID_VALUE, why),
        }
    }
    fn cuGetErrorName(state, code: u32, out: *mut *const c_char) {
        put(state, out, name(code).as_ptr().cast())
    }
    fn cuGetErrorString(state, code: u32, out: *mut *const c_char) {
        put(state, out, name(code).as_ptr().cast())
    }
    fn nvrtcVersion(state, major: *mut i32, minor: *mut i32) {
        let version = state.config.compiler.unwrap_or(state.config.version);
        put(state, major, version / 1000)?;
        put(state, minor, version % 1000 / 10)
    }
}

/// As the vendor documents it.
///
/// # Safety
/// As the vendor's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(out: *mut i32) -> u32 {
    device_count(Vendor::Cuda, "cuDeviceGetCount", out)
}

/// The vendor's compiler asks the driver for private tables, and does without.
///
/// # Safety
/// As the vendor's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(_table: *mut *const c_void, _id: *const u8) -> u32 {
    NOT_FOUND
}

/// The text of a compiler's error code.
///
/// # Safety
/// None is asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetErrorString(code: u32) -> *const c_char {
    compiler_error(code)
}

/// Both compilers number their errors alike.
pub(crate) fn compiler_error(code: u32) -> *const c_char {
    let text: &[u8] = match code {
        0 => b"success\0",
        1 => b"out of memory\0",
        3 => b"invalid input\0",
        4 => b"invalid program\0",
        5 => b"invalid option\0",
        6 => b"compilation\0",
        _ => b"unknown error\0",
    };
    text.as_ptr().cast()
}

fn context_device(state: &mut State, context: u64) -> Result<usize> {
    match state.contexts.items.get(&context) {
        Some((device, ())) => Ok(*device),
        None => state.refuse(INVALID_CONTEXT, format!("{context:#x} is no context")),
    }
}
