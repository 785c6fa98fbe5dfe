//! No panic of this library leaves it on a thread of the program; one of the program's own
//! functions does, once the call that it was in has ended.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::{Error, Result};

/// Does `body`; a panic in it is an error.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|payload| Err(Error::panic(payload.as_ref())))
}

/// Does `body`, which tells the program's function `tell`. Where that panics, `body` is told to
/// break off, and the panic goes on behind it.
pub(crate) fn guarded_telling<E, T>(
    tell: &mut dyn FnMut(E) -> ControlFlow<()>,
    body: impl FnOnce(&mut dyn FnMut(E) -> ControlFlow<()>) -> Result<T>,
) -> Result<T> {
    let mut caught = Caught::default();
    let mut told = |event| {
        let flow = caught.call(|| tell(event));
        flow.unwrap_or(ControlFlow::Break(()))
    };
    let done = guarded(|| body(&mut told));
    caught.go_on();
    done
}

/// A panic of one of the program's functions.
#[derive(Default)]
pub(crate) struct Caught(Option<Box<dyn Any + Send>>);

impl Caught {
    /// What `function` gives, unless it panics.
    pub fn call<T>(&mut self, function: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(function));
        done.map_err(|payload| self.0 = Some(payload)).ok()
    }

    /// Panics as the function did, if it did.
    pub fn go_on(self) {
        if let Some(payload) = self.0 {
            resume_unwind(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn a_panic_inside_is_an_error_with_its_words() {
        let failed = guarded::<()>(|| panic!("no {}", 7)).unwrap_err();
        assert_eq!(failed.code(), ErrorCode::Internal);
        assert!(failed.to_string().contains("no 7"), "{failed}");
    }

    #[test]
    fn a_panic_of_the_program_breaks_off_and_goes_on() {
        let mut after = None;
        let mut tell = |number: u32| match number {
            0 => ControlFlow::Continue(()),
            _ => panic!("mine"),
        };
        let call = || {
            guarded_telling(&mut tell, |tell| {
                assert!(tell(0).is_continue());
                after = Some(tell(1));
                Ok(())
            })
        };
        let payload = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"mine"));
        assert_eq!(after, Some(ControlFlow::Break(())));
    }
}
