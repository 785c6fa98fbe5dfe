//! Maps a file into memory: with `lost_pages.rs` and `into_memory.rs` the only unsafe code of
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

/// Linux leaves out, and says nothing of it, what a request has beyond its setting for reading ahead,
/// of which this is the default.
#[cfg(unix)]
const ASKED_AT_ONCE: usize = 128 << 10;

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
    /// Bytes that `into_memory.rs` is through with.
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
            let end = self.map.len().min(first.saturating_add(bytes));
            for at in (first..end).step_by(ASKED_AT_ONCE) {
                let bytes = ASKED_AT_ONCE.min(end - at);
                // A wish.
                let _ = self.map.advise_range(memmap2::Advice::WillNeed, at, bytes);
            }
        }
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    /// Share of the bytes that are in memory.
    #[allow(unsafe_code)]
    fn present(bytes: &[u8]) -> f64 {
        let mut pages = vec![0u8; bytes.len().div_ceil(4096)];
        let at = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the range is mapped, and there is a byte for each of its pages.
        let status = unsafe { libc::mincore(at, bytes.len(), pages.as_mut_ptr()) };
        assert_eq!(status, 0);
        let count = pages.iter().filter(|page| **page & 1 != 0).count();
        count as f64 / pages.len() as f64
    }

    #[test]
    fn all_that_is_asked_for_is_read_ahead() {
        const BYTES: usize = 48 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&vec![1; BYTES]).unwrap();
        file.sync_all().unwrap();
        #[allow(unsafe_code)]
        // SAFETY: a wish about an open file.
        unsafe {
            libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
        }
        let (mapped, _pages) = super::map(&path).unwrap();
        let mapped = mapped.unwrap();
        let bytes = (*mapped).as_ref();
        // Where the folder lies in memory, all is there from the beginning.
        mapped.read_ahead(0, BYTES);
        let deadline = Instant::now() + Duration::from_secs(60);
        while present(bytes) < 1.0 {
            assert!(Instant::now() < deadline, "{} is there", present(bytes));
            std::thread::sleep(Duration::from_millis(5));
        }
        // Ends of files and numbers beyond them are no matter.
        mapped.read_ahead(BYTES - 1, usize::MAX);
        mapped.read_ahead(usize::MAX, 1);
    }
}
