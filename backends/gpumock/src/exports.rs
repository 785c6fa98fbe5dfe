//! The calls that both vendors' drivers have alike, once for both. Handles and device
//! addresses are numbers of 64 bits here, as wide as the pointers that they are in C.

#![allow(non_snake_case, reason = "the vendors' names")]

use std::ffi::{c_char, c_void};

use crate::codes::*;
use crate::control::text;
use crate::module::Request;
use crate::queue::{Op, Source};
use crate::rtc::{Program, image};
use crate::state::{State, call, object};

/// Writes a result to where the caller wants it.
pub(crate) fn put<T>(state: &mut State, to: *mut T, value: T) -> Result {
    if to.is_null() {
        return state.refuse(INVALID_VALUE, "nowhere to write the result to");
    }
    // SAFETY: not null; the caller's word that it is a place for a value of the type.
    unsafe { to.write(value) };
    Ok(())
}

/// Functions of one driver.
macro_rules! driver {
    ($vendor:ident: $(fn $name:ident($state:ident $(, $arg:ident: $type:ty)*) $body:block)*) => {$(
        /// As the vendor documents it.
        ///
        /// # Safety
        /// As the vendor's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> u32 {
            $crate::state::call($crate::codes::Vendor::$vendor, stringify!($name), |$state| $body)
        }
    )*};
}
pub(crate) use driver;

/// Functions with a name in each driver.
macro_rules! both {
    ($(fn $cuda:ident $hip:ident($state:ident $(, $arg:ident: $type:ty)*) $body:block)*) => {
        $(driver!(Cuda: fn $cuda($state $(, $arg: $type)*) $body);
        driver!(Hip: fn $hip($state $(, $arg: $type)*) $body);)*
    };
}

pub(crate) use both;

both! {
    fn cuMemAlloc_v2 hipMalloc(state, out: *mut u64, bytes: usize) {
        let address = state.allocate(bytes, false)?;
        put(state, out, address)
    }
    fn cuMemFree_v2 hipFree(state, address: u64) { state.free(address, false) }
    fn cuMemHostAlloc hipHostMalloc(state, out: *mut u64, bytes: usize, flags: u32) {
        if flags > 0xff {
            return state.refuse(INVALID_VALUE, format!("flags {flags:#x}"));
        }
        let address = state.allocate(bytes, true)?;
        put(state, out, address)
    }
    fn cuMemFreeHost hipHostFree(state, address: u64) { state.free(address, true) }
    fn cuMemGetInfo_v2 hipMemGetInfo(state, free: *mut usize, total: *mut usize) {
        let device = state.device()?;
        let used = state.memory.used(device);
        put(state, free, (state.config.memory - used) as usize)?;
        put(state, total, state.config.memory as usize)
    }
    fn cuMemcpyHtoDAsync_v2 hipMemcpyHtoDAsync(
        state, to: u64, from: u64, bytes: usize, stream: u64
    ) {
        upload(state, to, from, bytes, stream)
    }
    fn cuMemcpyDtoHAsync_v2 hipMemcpyDtoHAsync(
        state, to: u64, from: u64, bytes: usize, stream: u64
    ) {
        download(state, to, from, bytes, stream)
    }
    fn cuMemcpyDtoDAsync_v2 hipMemcpyDtoDAsync(
        state, to: u64, from: u64, bytes: usize, stream: u64
    ) {
        let device = state.device()?;
        state.check_range(from, bytes, device, "the source")?;
        state.check_range(to, bytes, device, "the destination")?;
        state.enqueue(stream, Op::Copy { to, from, bytes })
    }
    fn cuStreamCreate hipStreamCreateWithFlags(state, out: *mut u64, flags: u32) {
        let stream = state.add_stream(flags)?;
        put(state, out, stream)
    }
    fn cuStreamDestroy_v2 hipStreamDestroy(state, stream: u64) { state.destroy_stream(stream) }
    fn cuStreamSynchronize hipStreamSynchronize(state, stream: u64) {
        state.synchronise_stream(stream)
    }
    fn cuStreamWaitEvent hipStreamWaitEvent(state, stream: u64, event: u64, flags: u32) {
        if flags != 0 {
            return state.refuse(INVALID_VALUE, format!("flags {flags}"));
        }
        state.stream_wait(stream, event)
    }
    fn cuCtxSynchronize hipDeviceSynchronize(state) {
        let device = state.device()?;
        state.drain(device);
        state.device().map(|_| ())
    }
    fn cuEventCreate hipEventCreateWithFlags(state, out: *mut u64, flags: u32) {
        let event = state.add_event(flags)?;
        put(state, out, event)
    }
    fn cuEventDestroy_v2 hipEventDestroy(state, event: u64) { state.destroy_event(event) }
    fn cuEventRecord hipEventRecord(state, event: u64, stream: u64) {
        state.record(event, stream)
    }
    fn cuEventQuery hipEventQuery(state, event: u64) { state.query_event(event) }
    fn cuEventSynchronize hipEventSynchronize(state, event: u64) {
        state.synchronise_event(event)
    }
    fn cuEventElapsedTime hipEventElapsedTime(state, out: *mut f32, from: u64, to: u64) {
        let time = state.elapsed(from, to)?;
        put(state, out, time)
    }
    fn cuModuleUnload hipModuleUnload(state, module: u64) { state.unload_module(module) }
    fn cuModuleGetFunction hipModuleGetFunction(
        state, out: *mut u64, module: u64, name: *const c_char
    ) {
        // SAFETY: the caller's word.
        let name = unsafe { text(name) };
        let function = state.function(module, &name)?;
        put(state, out, function)
    }
    fn cuFuncSetAttribute hipFuncSetAttribute(
        state, function: u64, attribute: i32, value: i32
    ) {
        state.set_attribute(function, attribute, value)
    }
    fn cuLaunchKernel hipModuleLaunchKernel(
        state, function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared: u32, stream: u64, params: *const *const c_void,
        extra: *const *const c_void
    ) {
        let request = Request {
            function,
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
            params,
            extra,
        };
        state.enqueue_launch(&request, stream)
    }
    fn cuDeviceGet hipDeviceGet(state, out: *mut i32, number: i32) {
        state.ordinal(number)?;
        put(state, out, number)
    }
    fn cuDeviceGetName hipDeviceGetName(state, out: *mut u8, length: i32, device: i32) {
        let device = state.ordinal(device)?;
        let name = state.config.models[device].1;
        put_text(state, out, length, name)
    }
    fn cuDeviceTotalMem_v2 hipDeviceTotalMem(state, out: *mut usize, device: i32) {
        state.ordinal(device)?;
        put(state, out, state.config.memory as usize)
    }
    fn cuDeviceCanAccessPeer hipDeviceCanAccessPeer(
        state, out: *mut i32, device: i32, peer: i32
    ) {
        let are_two = state.ordinal(device)? != state.ordinal(peer)?;
        let can = are_two && state.config.are_peers;
        put(state, out, i32::from(can))
    }
    fn nvrtcCreateProgram hiprtcCreateProgram(
        state, out: *mut u64, source: *const c_char, _name: *const c_char, headers: i32,
        _texts: u64, _names: u64
    ) {
        if headers != 0 {
            return state.refuse(INVALID_VALUE, "headers beside the source");
        }
        // SAFETY: the caller's word.
        let program = state.add_program(unsafe { text(source) });
        put(state, out, program)
    }
    fn nvrtcCompileProgram hiprtcCompileProgram(
        state, program: u64, count: i32, options: *const *const c_char
    ) {
        let mut list = Vec::new();
        for i in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the caller's word: a list of so many strings.
            list.push(unsafe { text(*options.add(i)) });
        }
        state.compile(program, &list)
    }
    fn nvrtcGetProgramLogSize hiprtcGetProgramLogSize(state, program: u64, out: *mut usize) {
        let length = state.program(program)?.log.len();
        put(state, out, length)
    }
    fn nvrtcGetProgramLog hiprtcGetProgramLog(state, program: u64, out: *mut u8) {
        let log = state.program(program)?.log.clone();
        put_bytes(state, out, &log)
    }
    fn nvrtcGetCUBINSize hiprtcGetCodeSize(state, program: u64, out: *mut usize) {
        let length = compiled(state.program(program)?)?.len();
        put(state, out, length)
    }
    fn nvrtcGetCUBIN hiprtcGetCode(state, program: u64, out: *mut u8) {
        let code = compiled(state.program(program)?)?;
        put_bytes(state, out, &code)
    }
    fn nvrtcDestroyProgram hiprtcDestroyProgram(state, program: *mut u64) {
        if program.is_null() {
            return state.refuse(INVALID_VALUE, "no program");
        }
        // SAFETY: the caller's word: the address of a program's handle.
        state.destroy_program(unsafe { *program })?;
        put(state, program, 0)
    }
}

fn compiled(program: &mut Program) -> Result<Vec<u8>> {
    image(program).map(<[u8]>::to_vec)
}

/// Writes a text and its final zero, cut to the length of the buffer.
pub(crate) fn put_text(state: &mut State, to: *mut u8, length: i32, text: &str) -> Result {
    let length = usize::try_from(length).unwrap_or(0);
    if length == 0 {
        return state.refuse(INVALID_VALUE, "no room for a name");
    }
    let mut bytes = text.as_bytes()[..text.len().min(length - 1)].to_vec();
    bytes.push(0);
    put_bytes(state, to, &bytes)
}

/// Writes bytes for which the caller has made room.
fn put_bytes(state: &mut State, to: *mut u8, bytes: &[u8]) -> Result {
    if to.is_null() {
        return state.refuse(INVALID_VALUE, "nowhere to write the result to");
    }
    // SAFETY: the caller's word: room for as many bytes as it was told.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    Ok(())
}

/// Copies from the host. Memory that is not pinned is read at once, as drivers stage it.
fn upload(state: &mut State, to: u64, from: u64, bytes: usize, stream: u64) -> Result {
    let device = state.device()?;
    object!(state.streams[stream], device);
    state.check_range(to, bytes, device, "the destination")?;
    let from = match state.is_pinned(from, bytes)? {
        true => Source::Pinned(from),
        false if from == 0 => return state.refuse(INVALID_VALUE, "a source at address 0"),
        false => {
            let mut staged = vec![0u8; bytes];
            // SAFETY: the caller's word: readable memory of the host.
            unsafe {
                std::ptr::copy_nonoverlapping(from as *const u8, staged.as_mut_ptr(), bytes);
            }
            Source::Staged(staged)
        }
    };
    state.enqueue(stream, Op::Upload { to, from, bytes })
}

/// Copies to the host. Memory that is not pinned is written before the call returns.
fn download(state: &mut State, to: u64, from: u64, bytes: usize, stream: u64) -> Result {
    let device = state.device()?;
    object!(state.streams[stream], device);
    state.check_range(from, bytes, device, "the source")?;
    let pinned = state.is_pinned(to, bytes)?;
    if to == 0 {
        return state.refuse(INVALID_VALUE, "a destination at address 0");
    }
    state.enqueue(stream, Op::Copy { to, from, bytes })?;
    match pinned {
        true => Ok(()),
        false => state.synchronise_stream(stream),
    }
}

/// Copies between devices, in a stream of the current one.
pub(crate) fn copy_peer(
    state: &mut State,
    to: (u64, usize),
    from: (u64, usize),
    bytes: usize,
    stream: u64,
) -> Result {
    state.check_range(from.0, bytes, from.1, "the source")?;
    state.check_range(to.0, bytes, to.1, "the destination")?;
    let (to, from) = (to.0, from.0);
    state.enqueue(stream, Op::Copy { to, from, bytes })
}

/// Lets the current device use another's memory.
pub(crate) fn enable_peer(state: &mut State, peer: usize) -> Result {
    let device = state.device()?;
    let peers = &mut state.devices[device].peers;
    if peers.contains(&peer) {
        return Err(PEER_ALREADY);
    }
    if peer == device || !state.config.are_peers {
        return state.refuse(INVALID_DEVICE, "the devices are no peers");
    }
    peers.push(peer);
    Ok(())
}

/// A number of devices, or the error where there is none.
pub(crate) fn device_count(vendor: Vendor, name: &'static str, out: *mut i32) -> u32 {
    call(vendor, name, |state| match state.devices.len() {
        0 => Err(NO_DEVICE),
        count => put(state, out, count as i32),
    })
}
