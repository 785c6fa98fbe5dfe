//! What only AMD's driver and compiler have, or have in a form of their own.
#![allow(non_snake_case, reason = "the vendor's names")]

use std::ffi::c_char;

use crate::codes::*;
use crate::cuda::compiler_error;
use crate::exports::{copy_peer, device_count, driver, enable_peer, put};

/// `hipDeviceProp_tR0600`: its size, and where the fields are that are filled in.
const PROPERTIES: usize = 1472;
const TOTAL_MEMORY: usize = 288;
const SHARED_MEMORY: usize = 296;
const WARP_SIZE: usize = 308;
const MAX_THREADS: usize = 320;
const MULTIPROCESSORS: usize = 388;
const ARCH_NAME: usize = 1160;

driver! { Hip:
    fn hipInit(state, flags: u32) {
        if flags != 0 {
            return state.refuse(INVALID_VALUE, format!("flags {flags}"));
        }
        // As AMD's own library answers where there is no device.
        match state.devices.is_empty() {
            true => Err(INVALID_DEVICE),
            false => Ok(()),
        }
    }
    fn hipDriverGetVersion(state, out: *mut i32) { put(state, out, state.config.version) }
    fn hipRuntimeGetVersion(state, out: *mut i32) { put(state, out, state.config.version) }
    fn hipSetDevice(state, device: i32) {
        let device = state.ordinal(device)?;
        state.make_current(device as u64 + 1);
        Ok(())
    }
    fn hipGetDevice(state, out: *mut i32) {
        if state.devices.is_empty() {
            return Err(NO_DEVICE);
        }
        // Every thread has one from the beginning; who asked knows which.
        let device = state.current().unwrap_or_else(|| {
            state.make_current(1);
            0
        });
        put(state, out, device as i32)
    }
    fn hipGetLastError(_state) { Ok(()) }
    fn hipDeviceGetAttribute(state, out: *mut i32, attribute: i32, device: i32) {
        let device = state.ordinal(device)?;
        let (_, _, processors, wave) = state.config.models[device];
        let value = match attribute {
            63 => processors,
            87 => wave as i32,
            _ => return state.refuse(INVALID_VALUE, format!("attribute {attribute} is unknown")),
        };
        put(state, out, value)
    }
    fn hipGetDevicePropertiesR0600(state, out: *mut u8, device: i32) {
        let device = state.ordinal(device)?;
        let (arch, name, processors, wave) = state.config.models[device];
        let mut bytes = [0u8; PROPERTIES];
        let mut fill = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        fill(0, name.as_bytes());
        fill(TOTAL_MEMORY, &state.config.memory.to_le_bytes());
        fill(SHARED_MEMORY, &(64u64 << 10).to_le_bytes());
        fill(WARP_SIZE, &wave.to_le_bytes());
        fill(MAX_THREADS, &1024u32.to_le_bytes());
        fill(MULTIPROCESSORS, &processors.to_le_bytes());
        fill(ARCH_NAME, arch.as_bytes());
        put(state, out.cast::<[u8; PROPERTIES]>(), bytes)
    }
    fn hipModuleLoadData(state, out: *mut u64, image: *const u8) {
        let module = state.load_module(image)?;
        put(state, out, module)
    }
    fn hipDeviceEnablePeerAccess(state, peer: i32, _flags: u32) {
        let peer = state.ordinal(peer)?;
        enable_peer(state, peer)
    }
    fn hipMemcpyPeerAsync(
        state, to: u64, to_device: i32, from: u64, from_device: i32, bytes: usize, stream: u64
    ) {
        let to_device = state.ordinal(to_device)?;
        let from_device = state.ordinal(from_device)?;
        copy_peer(state, (to, to_device), (from, from_device), bytes, stream)
    }
    fn hiprtcVersion(state, major: *mut i32, minor: *mut i32) {
        let version = state.config.compiler.unwrap_or(state.config.version);
        put(state, major, version / 10_000_000)?;
        put(state, minor, version / 100_000 % 100)
    }
}

/// As the vendor documents it.
///
/// # Safety
/// As the vendor's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDeviceCount(out: *mut i32) -> u32 {
    device_count(Vendor::Hip, "hipGetDeviceCount", out)
}

/// As the vendor documents it.
///
/// # Safety
/// None is asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetErrorName(code: u32) -> *const c_char {
    name(code).as_ptr().cast()
}

/// As the vendor documents it.
///
/// # Safety
/// None is asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetErrorString(code: u32) -> *const c_char {
    name(code).as_ptr().cast()
}

/// The text of a compiler's error code.
///
/// # Safety
/// None is asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hiprtcGetErrorString(code: u32) -> *const c_char {
    compiler_error(code)
}
