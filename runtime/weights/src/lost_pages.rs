//! Pages of a mapped file that are gone: the file was cut short, or the disk failed.
//!
//! The system reports such a page by a signal, SIGBUS, whose default is to end the process. A
//! program that wants an error instead calls [`survive_lost_pages`] once: a page that is gone
//! then reads as zeros, and whoever computed with it asks [`is_lost`] before the result is used.
//! The library never does it by itself, since a handler belongs to the whole process.
//!
//! Together with `map.rs` the one place of unsafe code outside the backends.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Maps that are watched; more than that are not.
const MOST_MAPS: usize = 1024;

/// A watched range of addresses.
struct Watched {
    /// First address; 0 where the entry is free.
    start: AtomicUsize,
    bytes: AtomicUsize,
    lost: AtomicBool,
}

static WATCHED: [Watched; MOST_MAPS] = [const {
    Watched {
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; MOST_MAPS];

/// Whether any page of any map was ever lost: the quick answer.
static ANY: AtomicBool = AtomicBool::new(false);

/// Watches a range until it is dropped.
pub(crate) struct Watch(Option<&'static Watched>);

impl Watch {
    pub(crate) fn new(range: &[u8]) -> Watch {
        let start = range.as_ptr() as usize;
        let take = |entry: &&'static Watched| {
            // 1 is no address of a map, so nobody finds the entry before its length is set.
            let taken = entry
                .start
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
            taken.is_ok()
        };
        let entry = WATCHED.iter().find(take);
        if let Some(entry) = entry {
            entry.lost.store(false, Ordering::Relaxed);
            entry.bytes.store(range.len(), Ordering::Relaxed);
            entry.start.store(start, Ordering::Release);
        }
        Watch(entry)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(entry) = self.0 {
            entry.start.store(0, Ordering::Release);
        }
    }
}

/// The map that holds an address.
fn watched(address: usize) -> Option<&'static Watched> {
    WATCHED.iter().find(|entry| {
        let start = entry.start.load(Ordering::Acquire);
        start > 1
            && address
                .checked_sub(start)
                .is_some_and(|offset| offset < entry.bytes.load(Ordering::Relaxed))
    })
}

/// Whether pages of the map that `bytes` begin in were lost.
pub(crate) fn is_lost(bytes: &[u8]) -> bool {
    ANY.load(Ordering::Acquire)
        && watched(bytes.as_ptr() as usize).is_some_and(|map| map.lost.load(Ordering::Acquire))
}

/// From now on a page of a mapped checkpoint that is gone is an error of the step that needed it
/// ([`crate::WeightsError::PagesLost`]), and no longer the end of the process. Installs a handler
/// of SIGBUS for the whole process, so it is the program's decision; signals from other memory
/// go to the handler that was there before. Does nothing where there is no such signal.
///
/// # Errors
/// What the system says against the handler.
pub fn survive_lost_pages() -> std::io::Result<()> {
    #[cfg(unix)]
    return handler::install();
    #[cfg(not(unix))]
    Ok(())
}

#[cfg(unix)]
#[allow(unsafe_code)]
mod handler {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{ANY, watched};

    /// What was done on SIGBUS before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
    static PAGE: AtomicUsize = AtomicUsize::new(4096);

    pub fn install() -> std::io::Result<()> {
        if BEFORE.get().is_some() {
            return Ok(());
        }
        // SAFETY: both calls only read and write the structs they are given; `on_fault` has the
        // signature that SA_SIGINFO asks for.
        unsafe {
            PAGE.store(
                libc::sysconf(libc::_SC_PAGESIZE) as usize,
                Ordering::Relaxed,
            );
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut now: libc::sigaction = std::mem::zeroed();
            now.sa_sigaction = on_fault as *const () as usize;
            now.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let _ = BEFORE.set(before);
            if libc::sigaction(libc::SIGBUS, &raw const now, std::ptr::null_mut()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Puts a page of zeros where a page of a watched map is gone. Everything it does is allowed
    /// in a handler: atomics, and plain calls of the system.
    extern "C" fn on_fault(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes the struct; SIGBUS has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        if let Some(map) = watched(address) {
            let page = PAGE.load(Ordering::Relaxed);
            let start = address / page * page;
            // SAFETY: the page belongs to a map of ours, which is private and read-only; it is
            // replaced by one that is the same but for its content.
            let put = unsafe {
                libc::mmap(
                    start as *mut libc::c_void,
                    page,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if put != libc::MAP_FAILED {
                map.lost.store(true, Ordering::Release);
                ANY.store(true, Ordering::Release);
                return;
            }
        }
        // Not ours: the access is tried again under whoever was there before.
        if let Some(before) = BEFORE.get() {
            // SAFETY: a struct that the system gave.
            unsafe { libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut()) };
        }
    }
}
