//! Failures for C: a number, a message, a cure.

use std::ffi::{CString, c_char};
use std::ptr;

use hadal::{Error, ErrorCode};

use crate::call::{ask, free, owned_string, quietly};

/// Whether it worked. Numbers are never reused; later libraries may give others.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HadalStatus {
    /// It worked.
    Ok = 0,
    /// The request or the load was cancelled.
    Cancelled = 1,
    /// An argument or option that cannot be; NULL where something is needed.
    InvalidArgument = 2,
    /// A file is missing or cannot be read.
    File = 3,
    /// A file was read and is damaged, or files do not belong together.
    DamagedModel = 4,
    /// A model that is not supported.
    UnsupportedModel = 5,
    /// The model has no tokenizer or no chat template, and the request needs one.
    NoText = 6,
    /// The model does not fit the memory; hadal_error_plan says what would.
    WouldNotFit = 7,
    /// The memory budget, or memory itself, has no room for this.
    OutOfMemory = 8,
    /// There is no such device, or it cannot be used here.
    NoDevice = 9,
    /// The device was lost and could not be had again.
    DeviceLost = 10,
    /// The session's context is full.
    ContextFull = 11,
    /// The session writes an answer already.
    Busy = 12,
    /// The library was built without it.
    NotBuilt = 13,
    /// A mistake in this library.
    Internal = 14,
}

impl HadalStatus {
    /// In the order of their numbers.
    const ALL: [(HadalStatus, Option<ErrorCode>); 15] = [
        (HadalStatus::Ok, None),
        (HadalStatus::Cancelled, Some(ErrorCode::Cancelled)),
        (
            HadalStatus::InvalidArgument,
            Some(ErrorCode::InvalidArgument),
        ),
        (HadalStatus::File, Some(ErrorCode::File)),
        (HadalStatus::DamagedModel, Some(ErrorCode::DamagedModel)),
        (
            HadalStatus::UnsupportedModel,
            Some(ErrorCode::UnsupportedModel),
        ),
        (HadalStatus::NoText, Some(ErrorCode::NoText)),
        (HadalStatus::WouldNotFit, Some(ErrorCode::WouldNotFit)),
        (HadalStatus::OutOfMemory, Some(ErrorCode::OutOfMemory)),
        (HadalStatus::NoDevice, Some(ErrorCode::NoDevice)),
        (HadalStatus::DeviceLost, Some(ErrorCode::DeviceLost)),
        (HadalStatus::ContextFull, Some(ErrorCode::ContextFull)),
        (HadalStatus::Busy, Some(ErrorCode::Busy)),
        (HadalStatus::NotBuilt, Some(ErrorCode::NotBuilt)),
        (HadalStatus::Internal, Some(ErrorCode::Internal)),
    ];

    pub(crate) fn of(code: ErrorCode) -> HadalStatus {
        let mut all = HadalStatus::ALL.into_iter();
        let found = all.find(|(_, other)| *other == Some(code));
        found.map_or(HadalStatus::Internal, |(status, _)| status)
    }
}

/// What did not work.
pub struct HadalError {
    status: HadalStatus,
    message: CString,
    cure: CString,
    plan: Option<String>,
}

impl HadalError {
    pub(crate) fn of(error: &Error) -> HadalError {
        HadalError {
            status: HadalStatus::of(error.code()),
            message: owned_string(&error.to_string()),
            cure: owned_string(error.cure()),
            plan: error
                .plan()
                .and_then(|plan| serde_json::to_string(plan).ok()),
        }
    }

    pub(crate) fn status(&self) -> HadalStatus {
        self.status
    }
}

/// The number of an error; HADAL_STATUS_OK for NULL.
///
/// # Safety
/// `error` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_error_status(error: *const HadalError) -> HadalStatus {
    // SAFETY: the caller's promise.
    unsafe { ask(error, HadalStatus::Ok, HadalError::status) }
}

/// What happened, a sentence; lives as long as the error. NULL for NULL.
///
/// # Safety
/// `error` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_error_message(error: *const HadalError) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { ask(error, ptr::null(), |error| error.message.as_ptr()) }
}

/// What a person can do about it, a sentence; lives as long as the error. NULL for NULL.
///
/// # Safety
/// `error` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_error_cure(error: *const HadalError) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { ask(error, ptr::null(), |error| error.cure.as_ptr()) }
}

/// The plan of a model that does not fit, as JSON, to be freed by hadal_string_free; NULL for
/// other errors.
///
/// # Safety
/// `error` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_error_plan(error: *const HadalError) -> *mut c_char {
    let copied = |error: &HadalError| {
        let plan = error.plan.as_deref();
        plan.map_or(ptr::null_mut(), |plan| owned_string(plan).into_raw())
    };
    // SAFETY: the caller's promise.
    unsafe { ask(error, ptr::null_mut(), copied) }
}

/// Frees an error; NULL is allowed.
///
/// # Safety
/// `error` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_error_free(error: *mut HadalError) {
    // SAFETY: the caller's promise.
    unsafe { free(error) };
}

/// The name of a status for logs: "would_not_fit"; "unknown" for a number that is none.
#[unsafe(no_mangle)]
pub extern "C" fn hadal_status_name(status: i32) -> *const c_char {
    const NAMES: [&std::ffi::CStr; 15] = [
        c"ok",
        c"cancelled",
        c"invalid_argument",
        c"file",
        c"damaged_model",
        c"unsupported_model",
        c"no_text",
        c"would_not_fit",
        c"out_of_memory",
        c"no_device",
        c"device_lost",
        c"context_full",
        c"busy",
        c"not_built",
        c"internal",
    ];
    quietly(c"unknown".as_ptr(), || {
        let name = usize::try_from(status).ok().and_then(|at| NAMES.get(at));
        name.unwrap_or(&c"unknown").as_ptr()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_status_of_the_same_number_and_name() {
        for (status, code) in HadalStatus::ALL {
            // SAFETY: names are static.
            let name = unsafe { std::ffi::CStr::from_ptr(hadal_status_name(status as i32)) };
            match code {
                None => assert_eq!(name, c"ok"),
                Some(code) => {
                    assert_eq!(status as i32, code as i32);
                    assert_eq!(name.to_str(), Ok(code.name()));
                    assert_eq!(HadalStatus::of(code), status);
                }
            }
        }
    }
}
