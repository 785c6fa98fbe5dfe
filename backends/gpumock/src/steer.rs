//! Steering the drivers from a test: the control functions of the library it loads.

use std::ffi::{CString, c_char};

use libloading::Library;

use crate::locate::library;

/// The library that [`library`] names, loaded; a backend that loads it gets the same one.
pub struct Steer(Library);

impl Steer {
    /// Loads it.
    ///
    /// # Errors
    /// The loader's.
    pub fn open() -> Result<Steer, libloading::Error> {
        // SAFETY: it is made to be loaded, and never unloaded.
        unsafe { Library::new(library()) }.map(Steer)
    }

    /// What `HADAL_MOCK` would say. Devices must be closed.
    ///
    /// # Errors
    /// The loader's, of a library that is not this crate's.
    pub fn configure(&self, text: &str) -> Result<(), libloading::Error> {
        let text = CString::new(text).unwrap_or_default();
        // SAFETY: the function has this form.
        unsafe {
            let configure: libloading::Symbol<unsafe extern "C" fn(*const c_char)> =
                self.0.get("hadal_mock_configure")?;
            configure(text.as_ptr());
        }
        Ok(())
    }

    /// Lets the `nth` call of this name from now on fail with `code`.
    ///
    /// # Errors
    /// As of [`Steer::configure`].
    pub fn fail_call(&self, name: &str, nth: u64, code: u32) -> Result<(), libloading::Error> {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the function has this form.
        unsafe {
            let fail: libloading::Symbol<unsafe extern "C" fn(*const c_char, u64, u32)> =
                self.0.get("hadal_mock_fail_call")?;
            fail(name.as_ptr(), nth, code);
        }
        Ok(())
    }

    /// What the drivers complain of, a line each.
    ///
    /// # Errors
    /// As of [`Steer::configure`].
    pub fn complaints(&self) -> Result<String, libloading::Error> {
        let mut text = vec![0u8; 1 << 16];
        // SAFETY: the function has this form, and writes as much as fits.
        let length = unsafe {
            let complaints: libloading::Symbol<unsafe extern "C" fn(*mut c_char, usize) -> usize> =
                self.0.get("hadal_mock_complaints")?;
            complaints(text.as_mut_ptr().cast(), text.len())
        };
        text.truncate(length.min(text.len() - 1));
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What is alive in both drivers.
    ///
    /// # Errors
    /// As of [`Steer::configure`].
    pub fn live(&self) -> Result<u64, libloading::Error> {
        // SAFETY: the function has this form, and the text ends with a zero.
        unsafe {
            let live: libloading::Symbol<unsafe extern "C" fn(*const c_char) -> u64> =
                self.0.get("hadal_mock_live")?;
            Ok(live(c"all".as_ptr()))
        }
    }
}
