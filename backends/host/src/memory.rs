//! Buffers of the host device: owned allocations and adopted pages.
//!
//! Decides how memory is had and the answer to requests that cannot be met; knows nothing of what
//! lies in the memory. Read [`Memory`] first.

use std::fmt;

use hadal_device::{Error, Pages, Result};
use memmap2::MmapMut;

/// Buffers from this length on lie in large pages where the system has them: decoding after a
/// long text reads whole caches.
#[cfg(target_os = "linux")]
const LARGE: usize = 8 << 20;

/// One buffer. Its bytes never move while it lives.
pub(crate) struct Memory {
    ptr: *mut u8,
    bytes: usize,
    kept: Kept,
}

/// What keeps the bytes there.
enum Kept {
    Own(#[expect(dead_code, reason = "it is kept")] MmapMut),
    Pages(#[expect(dead_code, reason = "they are kept")] Pages),
}

// SAFETY: the pointer is to memory this value owns or keeps alive. All access goes through
// the device, which runs one submit, write or read at a time and divides a submit's ranges
// among its threads (see `args`).
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed memory, which the machine gives page by page as it is touched. `budget_bytes`:
    /// what the machine can still give, where it is known; a larger request is refused, because
    /// an operating system that overcommits would grant it and later end the process.
    pub fn alloc(label: &str, bytes: u64, budget_bytes: Option<u64>) -> Result<Memory> {
        if bytes == 0 {
            return Err(Error::Invalid(format!("{label}: a buffer of 0 bytes")));
        }
        let refused = || Error::OutOfMemory {
            what: label.to_string(),
            memory: "host".to_string(),
            wanted_bytes: bytes,
        };
        if budget_bytes.is_some_and(|budget| bytes > budget) {
            return Err(refused());
        }
        let size = usize::try_from(bytes).map_err(|_| refused())?;
        let mut map = MmapMut::map_anon(size).map_err(|_| refused())?;
        #[cfg(target_os = "linux")]
        if size >= LARGE {
            // A wish: small pages do as well, more slowly.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Memory {
            ptr: map.as_mut_ptr(),
            bytes: size,
            kept: Kept::Own(map),
        })
    }

    /// The pages themselves, read only.
    pub fn adopt(pages: Pages) -> Memory {
        let slice = (*pages).as_ref();
        Memory {
            ptr: slice.as_ptr().cast_mut(),
            bytes: slice.len(),
            kept: Kept::Pages(pages),
        }
    }

    /// Length.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Bytes this buffer took from the machine.
    pub fn owned_bytes(&self) -> u64 {
        match self.kept {
            Kept::Own(_) => self.bytes(),
            Kept::Pages(_) => 0,
        }
    }

    /// False for adopted pages.
    pub fn writable(&self) -> bool {
        matches!(self.kept, Kept::Own(_))
    }

    /// The address of `offset .. offset + bytes`, or why there is none.
    pub fn range(&self, offset: u64, bytes: u64, write: bool) -> Result<*mut u8> {
        if write && !self.writable() {
            return Err(Error::Invalid(
                "a write to adopted pages, which are read only".to_string(),
            ));
        }
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes() => {
                // SAFETY: offset <= bytes, so the address lies in the allocation or at its end.
                Ok(unsafe { self.ptr.add(offset as usize) })
            }
            _ => Err(Error::Invalid(format!(
                "bytes {offset}+{bytes} of a buffer of {} bytes",
                self.bytes
            ))),
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.bytes)
    }
}

/// Total memory of the machine, where it is known.
pub(crate) fn machine_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}
