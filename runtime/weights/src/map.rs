//! Maps a file into memory: with `lost_pages.rs` and `large_pages.rs` the only unsafe code of
//! this crate, and the only one outside the backends.
//!
//! It is an exception to the rule that unsafe code lies in backends. Weights are larger than
//! memory and a process holds one copy of them, so they must be mapped; no safe interface
//! maps a file, since another process may change it, and mapping cannot move into a backend,
//! since headers are read before there is one and several may share the pages.
//!
//! Decides nothing but that only plain files are mapped. A mapped file must not be changed
//! while it is used; the documentation of [`crate::Checkpoint::open`] says so.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hadal_device::Pages;

use crate::file;
use crate::lost_pages::Watch;

/// The bytes of a file, read when touched; the file, unless it is empty.
pub(crate) fn map(path: &Path) -> std::io::Result<(Option<Arc<Mapped>>, Pages)> {
    let (file, bytes) = file::open_plain(path)?;
    if bytes == 0 {
        // An empty range cannot be mapped on every system.
        return Ok((None, Arc::new(Vec::new())));
    }
    #[allow(unsafe_code)]
    // SAFETY: the map is read-only and private to this process. What remains is that another
    // process may write to or cut the file under the map: then the bytes change, which can
    // spoil numbers but no memory, since every byte sequence is a valid weight and headers
    // are checked before use; or a touched page is gone, which the system reports by ending
    // the process, unless the program asked for an error (`lost_pages.rs`).
    let map = unsafe { memmap2::Mmap::map(&file) }?;
    let mapped = Arc::new(Mapped {
        _watch: Watch::new(&map),
        map,
        file,
        moved: Mutex::new(0),
    });
    Ok((Some(mapped.clone()), mapped))
}

/// A mapped file whose pages are watched; the watch ends before the map does.
pub(crate) struct Mapped {
    _watch: Watch,
    map: memmap2::Mmap,
    /// To be read in another way.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) file: File,
    /// Bytes that `large_pages.rs` is through with.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) moved: Mutex<usize>,
}

impl Mapped {
    pub(crate) fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Asks the system to read these bytes from the disk, as many at a time as it can, before
    /// somebody touches them one page after the other.
    #[cfg_attr(not(unix), expect(unused_variables))]
    pub(crate) fn read_ahead(&self, first: usize, bytes: usize) {
        #[cfg(unix)]
        {
            let bytes = bytes.min(self.map.len().saturating_sub(first));
            // A wish; nothing is asked of what lies beyond the end.
            let _ =
                self.map
                    .advise_range(memmap2::Advice::WillNeed, first.min(self.map.len()), bytes);
        }
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
