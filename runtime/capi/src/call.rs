//! What every call does: catch panics, read arguments, write answers.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use hadal::{Error, ErrorCode, Result};

use crate::{HadalError, HadalStatus};

/// Runs the body of a function: failures and panics become a status and an error.
///
/// # Safety
/// `error` is NULL or may be written.
pub(crate) unsafe fn call(
    error: *mut *mut HadalError,
    body: impl FnOnce() -> Result<()>,
) -> HadalStatus {
    // Telling of a failure may fail too; then the status is all there is.
    quietly(HadalStatus::Internal, || {
        let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let text = format!("a panic: {}", text.unwrap_or("without a message"));
            Err(Error::new(ErrorCode::Internal, text))
        });
        let made = match result {
            Ok(()) => return HadalStatus::Ok,
            Err(failed) => HadalError::of(&failed),
        };
        let status = made.status();
        if !error.is_null() {
            // SAFETY: the caller's promise.
            unsafe { error.write(handle(made)) };
        }
        status
    })
}

/// Does what cannot fail but for a mistake of this library.
pub(crate) fn quietly<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

pub(crate) fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidArgument, why)
}

/// What a pointer points to.
///
/// # Safety
/// `pointer` is NULL or points to a `T` that lives for `'a`.
pub(crate) unsafe fn needed<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| invalid(format!("{name} is NULL")))
}

/// Where an answer is written.
///
/// # Safety
/// `pointer` is NULL or may be written.
pub(crate) unsafe fn put<T>(pointer: *mut T, name: &str, value: T) -> Result<()> {
    if pointer.is_null() {
        return Err(invalid(format!("{name} is NULL")));
    }
    // SAFETY: the caller's promise.
    unsafe { pointer.write(value) };
    Ok(())
}

/// A text; `None` for NULL.
///
/// # Safety
/// `pointer` is NULL or a text that ends in a zero byte and lives for `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) }.to_str();
    text.map(Some)
        .map_err(|error| invalid(format!("{name} is no UTF-8: {error}")))
}

/// An array; empty for NULL.
///
/// # Safety
/// `pointer` is NULL or points to `len` of them that live for `'a`.
pub(crate) unsafe fn list<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T]> {
    match (pointer.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(invalid(format!("{name} is NULL and has {len} elements"))),
        // SAFETY: the caller's promise.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, len) }),
    }
}

/// A struct that begins with its size and of which all zeros are a value.
///
/// # Safety
/// `repr(C)`, `size: usize` first, every bit pattern of its fields legal.
pub(crate) unsafe trait SizedStruct: Copy {}

/// More than any struct of this interface will ever have.
const MOST_BYTES: usize = 4096;

/// A caller's struct, of this version, an older or a newer one; `None` for NULL.
///
/// # Safety
/// `pointer` is NULL or points to as many bytes as its first field says.
pub(crate) unsafe fn sized<T: SizedStruct>(pointer: *const T, name: &str) -> Result<Option<T>> {
    if pointer.is_null() {
        return Ok(None);
    }
    let bytes = pointer.cast::<u8>();
    // SAFETY: the size stands first, and the caller's promise.
    let size = unsafe { bytes.cast::<usize>().read_unaligned() };
    if !(size_of::<usize>()..=MOST_BYTES).contains(&size) {
        let own = size_of::<T>();
        return Err(invalid(format!(
            "{name}.size is {size}; set it to sizeof, here {own}"
        )));
    }
    let known = size.min(size_of::<T>());
    // SAFETY: the caller's promise.
    let beyond = unsafe { std::slice::from_raw_parts(bytes.add(known), size - known) };
    if beyond.iter().any(|byte| *byte != 0) {
        let why = format!("{name} has settings that this library does not know; update it");
        return Err(invalid(why));
    }
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are in both, which are apart; all zeros are a value, and so is any
    // pattern in the fields before.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast::<u8>(), known);
        Ok(Some(value.assume_init()))
    }
}

/// Writes as much of `value` as the caller's struct has room for, and that size.
///
/// # Safety
/// `pointer` is NULL or points to as many bytes, which may be written, as its first field says.
pub(crate) unsafe fn put_sized<T: SizedStruct>(
    pointer: *mut T,
    name: &str,
    value: T,
) -> Result<()> {
    let size = match pointer.is_null() {
        true => return Err(invalid(format!("{name} is NULL"))),
        // SAFETY: the caller's promise; only the size is looked at.
        false => unsafe { pointer.cast::<usize>().read_unaligned() },
    };
    if !(size_of::<usize>()..=MOST_BYTES).contains(&size) {
        let own = size_of::<T>();
        return Err(invalid(format!(
            "{name}.size is {size}; set it to sizeof, here {own}"
        )));
    }
    let known = size.min(size_of::<T>());
    let from = (&raw const value).cast::<u8>();
    let skip = size_of::<usize>();
    // SAFETY: `known` bytes are in both; the size stays the caller's, and what this library does
    // not know becomes zero.
    unsafe {
        let to = pointer.cast::<u8>();
        std::ptr::copy_nonoverlapping(from.add(skip), to.add(skip), known - skip);
        to.add(known).write_bytes(0, size - known);
    }
    Ok(())
}

/// A text for C. A zero byte inside would end it, so it is left out.
pub(crate) fn owned_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// Gives a handle out.
pub(crate) fn handle<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// What a handle answers that cannot fail but for a mistake of this library; `otherwise` for
/// NULL.
///
/// # Safety
/// `pointer` is NULL or points to a `T` that nobody changes meanwhile.
pub(crate) unsafe fn ask<T, A>(pointer: *const T, otherwise: A, body: impl FnOnce(&T) -> A) -> A {
    // SAFETY: the caller's promise.
    match unsafe { pointer.as_ref() } {
        None => otherwise,
        Some(handle) => quietly(otherwise, || body(handle)),
    }
}

/// Takes a handle back; NULL does nothing.
///
/// # Safety
/// `pointer` is NULL or came from [`handle`] and is not used again.
pub(crate) unsafe fn free<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: the caller's promise.
        quietly((), || drop(unsafe { Box::from_raw(pointer) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HadalSessionOptions;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let mut error = std::ptr::null_mut();
        // SAFETY: the error may be written.
        let status = unsafe { call(&raw mut error, || panic!("on purpose")) };
        assert_eq!(status, HadalStatus::Internal);
        // SAFETY: it was written above.
        let message = unsafe { CStr::from_ptr(crate::hadal_error_message(error)) };
        assert_eq!(message, c"a panic: on purpose");
        // SAFETY: it is not used again.
        unsafe { crate::hadal_error_free(error) };
    }

    #[test]
    fn a_panic_leaves_no_question_either() {
        // SAFETY: NULL, and a number that lives.
        let asked = |number| unsafe { ask(number, 7, |number| 12 / *number) };
        assert_eq!([asked(&3), asked(&0), asked(std::ptr::null())], [4, 7, 7]);
    }

    #[test]
    fn structs_of_older_and_newer_callers_are_read() {
        #[repr(C)]
        struct Newer {
            known: HadalSessionOptions,
            more: u64,
        }
        let own = size_of::<HadalSessionOptions>();
        let mut newer = Newer {
            known: HadalSessionOptions {
                size: size_of::<Newer>(),
                no_drafts: 1,
                reserved: 0,
            },
            more: 0,
        };
        let read = |options: &Newer| {
            let pointer = std::ptr::from_ref(options).cast::<HadalSessionOptions>();
            // SAFETY: it points to all of `Newer`.
            unsafe { sized(pointer, "options") }.map(|value| value.map(|v| v.no_drafts))
        };
        assert_eq!(read(&newer).unwrap(), Some(1));
        newer.more = 7;
        assert!(read(&newer).is_err(), "it asks for what is not known");
        newer.known.size = own;
        assert_eq!(read(&newer).unwrap(), Some(1));
        newer.known.size = size_of::<usize>();
        assert_eq!(
            read(&newer).unwrap(),
            Some(0),
            "an older caller has no such field"
        );
        for wrong in [0, 3, MOST_BYTES + 1] {
            newer.known.size = wrong;
            assert!(read(&newer).is_err());
        }
    }
}
