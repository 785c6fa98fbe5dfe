//! Functions that the library exports beside the drivers', for tests that loaded it.

use std::ffi::{CStr, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::codes::Vendor;
use crate::config::VARIABLE;
use crate::state::{restart, with};

const VENDORS: [Vendor; 2] = [Vendor::Cuda, Vendor::Hip];

/// Calls so far, and those that shall fail.
#[derive(Default)]
pub(crate) struct Control {
    pub calls: u64,
    /// Calls until one fails, and its code.
    pub fail_at: Option<(u64, u32)>,
    /// Names, calls of them until one fails, and its code.
    pub fail_calls: Vec<(String, u64, u32)>,
}

static CONTROL: Mutex<Control> = Mutex::new(Control {
    calls: 0,
    fail_at: None,
    fail_calls: Vec::new(),
});

/// The counters of calls.
pub(crate) fn control() -> MutexGuard<'static, Control> {
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Counts a call; the code that it shall fail with.
    pub fn count(&mut self, name: &str) -> Option<u32> {
        self.calls += 1;
        let mut code = None;
        if let Some((left, with)) = &mut self.fail_at {
            *left = left.saturating_sub(1);
            if *left == 0 {
                code = Some(*with);
                self.fail_at = None;
            }
        }
        for (called, left, with) in &mut self.fail_calls {
            if called == name || called == "*" {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    code = Some(*with);
                }
            }
        }
        self.fail_calls.retain(|fault| fault.1 > 0);
        code
    }
}

/// A C string's text.
///
/// # Safety
/// The address is null or that of a string that ends with a zero.
pub(crate) unsafe fn text(at: *const c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: the caller's word.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}

fn begin(text: &str) {
    *control() = Default::default();
    for vendor in VENDORS {
        restart(vendor, text);
    }
}

/// Both drivers as after loading, configured by the environment.
#[unsafe(no_mangle)]
pub extern "C" fn hadal_mock_reset() {
    begin(&std::env::var(VARIABLE).unwrap_or_default());
}

/// Both drivers as after loading, configured by a text in the form of `HADAL_MOCK`.
///
/// # Safety
/// A string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_mock_configure(configuration: *const c_char) {
    // SAFETY: the caller's word.
    begin(&unsafe { text(configuration) });
}

/// The `nth` call from now on (1 is the next) fails with this code; 0 takes that back.
#[unsafe(no_mangle)]
pub extern "C" fn hadal_mock_fail_at(nth: u64, code: u32) {
    control().fail_at = (nth > 0).then_some((nth, code));
}

/// The `nth` call of this function from now on fails with this code.
///
/// # Safety
/// A string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_mock_fail_call(name: *const c_char, nth: u64, code: u32) {
    // SAFETY: the caller's word.
    let name = unsafe { text(name) };
    control().fail_calls.push((name, nth, code));
}

/// Calls of both drivers and compilers since the last reset.
#[unsafe(no_mangle)]
pub extern "C" fn hadal_mock_calls() -> u64 {
    control().calls
}

/// What is alive in both drivers: `allocations`, `pinned`, `contexts`, `streams`, `events`,
/// `modules`, `graphs`, `execs`, `programs`, `library`, `all` of these. Also `peers`, ways between
/// devices, and `ahead`, edges of graphs by which a kernel is sent ahead.
///
/// # Safety
/// A string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_mock_live(kind: *const c_char) -> u64 {
    // SAFETY: the caller's word.
    let kind = unsafe { text(kind) };
    VENDORS
        .map(|vendor| with(vendor, |state| state.live(&kind)))
        .iter()
        .sum()
}

/// Writes the complaints of both drivers, a line each, cut to `length` with a final zero, and
/// returns the length that the text has. Memory is checked on the way.
///
/// # Safety
/// A buffer of `length` bytes, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_mock_complaints(buffer: *mut c_char, length: usize) -> usize {
    let mut all = Vec::new();
    for vendor in VENDORS {
        with(vendor, |state| {
            state.call = "memory check";
            state.check_memory();
            all.extend(state.complaints.iter().cloned());
        });
    }
    let text = all.join("\n");
    if !buffer.is_null() && length > 0 {
        let written = text.len().min(length - 1);
        // SAFETY: the text and its zero fit into the buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), written);
            *buffer.add(written) = 0;
        }
    }
    text.len()
}
