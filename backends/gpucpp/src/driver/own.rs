//! What only one of the drivers has, or each in a form of its own.

use std::ffi::{c_int, c_void};

use super::status;
use super::table::{CudaCalls, Handle, HipCalls, Status};

/// What only one of the drivers has.
pub enum Own {
    /// CUDA's part.
    Cuda(CudaCalls),
    /// HIP's part.
    Hip(HipCalls),
}

/// The device that a thread's calls go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Current {
    /// CUDA's context.
    Context(Handle),
    /// HIP's number.
    Number(c_int),
}

impl Own {
    /// What this thread's calls go to; `None` if the driver does not say.
    pub fn current(&self) -> Option<Current> {
        match self {
            Own::Cuda(own) => {
                let mut context = std::ptr::null_mut();
                // SAFETY: `context` lives.
                let status = unsafe { (own.context_get)(&mut context) };
                (status == status::OK).then_some(Current::Context(context))
            }
            Own::Hip(own) => {
                let mut number = 0;
                // SAFETY: `number` lives.
                let status = unsafe { (own.device_get)(&mut number) };
                (status == status::OK).then_some(Current::Number(number))
            }
        }
    }

    /// Lets this thread's calls go to `current`, which is one of this driver's.
    pub fn set(&self, current: Current) -> Status {
        match (self, current) {
            // SAFETY: contexts of open devices are retained; one of another owner was this
            // thread's when it was asked.
            (Own::Cuda(own), Current::Context(context)) => unsafe { (own.context_set)(context) },
            // SAFETY: a number that is no device is an error.
            (Own::Hip(own), Current::Number(number)) => unsafe { (own.device_set)(number) },
            _ => status::NOT_SUPPORTED,
        }
    }

    /// Loads the module in `image`. CUDA's translator says in `log` what it does not like: a text
    /// that ends with a zero, or begins with one.
    ///
    /// # Safety
    /// The image is an object file, or a text that ends with a zero.
    pub unsafe fn load(
        &self,
        module: &mut Handle,
        image: *const c_void,
        log: &mut Vec<u8>,
    ) -> Status {
        /// Bytes of a log that are kept.
        const LOG: usize = 4096;
        const ERROR_LOG: c_int = 5;
        const ERROR_LOG_BYTES: c_int = 6;
        match self {
            Own::Cuda(own) => {
                // One more, so that it ends whatever the driver writes.
                log.resize(LOG + 1, 0);
                let mut options = [ERROR_LOG, ERROR_LOG_BYTES];
                let bytes = std::ptr::without_provenance_mut(LOG);
                let mut values = [log.as_mut_ptr().cast(), bytes];
                let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
                // SAFETY: the caller's promise for the image; both options have a value, the
                // second of which is a number, and the log has room for as many bytes.
                unsafe { (own.module_load)(module, image, 2, options, values) }
            }
            // SAFETY: the caller's promise.
            Own::Hip(own) => unsafe { (own.module_load)(module, image) },
        }
    }
}
