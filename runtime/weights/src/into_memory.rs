//! Brings a mapped file into memory, and there into large pages, under whoever reads it.
//!
//! **Reading ahead.** Whoever touches a page that is not in memory waits for the disk, for one request
//! at a time. A thread asks for all of the file at once, in the order of the file: the first token from
//! a file of 2.2 GB on a disk of 1.0 to 2.3 GB/s comes after 1.2 to 1.4 s instead of 2.1.
//!
//! **Large pages.** A file is mapped in pages of 4 KiB. Decoding reads all of a token's weights once,
//! so each of these pages costs a walk through the page tables, which is longest in a virtual machine; the
//! processor's own prefetching ends with every page, too. Two cores of Zen 5 read a file of 1 GiB
//! at 40 GB/s so, and a copy of it in pages of 2 MiB at 59.
//!
//! A thread copies the file part by part into fresh memory and puts each part where the file was
//! mapped. The bytes are the same before, during and after; a reader notices its pace alone. The
//! memory is then the process's own, which the system cannot take back as it can a file's, so
//! this is done only where there is room for twice the file.
//!
//! **Several sockets.** Each has memory of its own, and pages come from that of the thread that touches
//! them first, which is the one that reads ahead and copies: what one socket's memory gives would be
//! all. The thread takes pages from all of them in turn. (Not measured: for want of such a machine.)
//!
//! With `map.rs` and `lost_pages.rs` the unsafe code of this crate. Linux alone can do it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Shard;
use crate::map::Mapped;

/// Files below this are left as they are.
const WORTH: u64 = 64 << 20;
/// Bytes that are read ahead before the thread looks whether to stop.
const AHEAD: usize = 32 << 20;
/// The moving begins so late that it takes no time from the first token of a short prompt.
const AFTER: Duration = Duration::from_millis(300);

/// The moving of files into memory; dropping it ends the moving at the next part. What was moved stays
/// moved.
#[derive(Debug)]
pub struct Moving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Moving {
    /// Waits for the end; what has not begun begins now.
    pub fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // What was not moved is read where it was.
            let _ = thread.join();
        }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wait();
    }
}

/// Begins to read the mapped files of `shards` ahead and then to move them into large pages, on a
/// thread of its own. `None` where neither pays: for memory that is no file's, for small files, and
/// where there is no room for them. They are moved on Linux alone, and where twice their size is
/// available.
pub fn move_into_memory(shards: &[Shard]) -> Option<Moving> {
    let files: Vec<Arc<Mapped>> = shards.iter().filter_map(|it| it.file.clone()).collect();
    let bytes: u64 = files.iter().map(|file| file.bytes()).sum();
    let room = crate::available_memory()?;
    if bytes < WORTH || room < bytes {
        return None;
    }
    let enlarges = room >= bytes.saturating_mul(2) && sys::offers_large_pages();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::Builder::new()
        .name("hadal-pages".to_string())
        .spawn(move || {
            let begun = Instant::now();
            let go_on = || !stopped.load(Ordering::Relaxed);
            sys::take_turns(&sys::memories());
            read_ahead(&files, &go_on);
            if !enlarges {
                return;
            }
            sys::give_way();
            std::thread::park_timeout(AFTER.saturating_sub(begun.elapsed()));
            // A file that cannot be read on stays mapped: whoever needs it learns why.
            let _ = files
                .iter()
                .try_for_each(|file| sys::relocate(file, &go_on));
        })
        .ok()?;
    Some(Moving {
        stop,
        thread: Some(thread),
    })
}

fn read_ahead(files: &[Arc<Mapped>], go_on: &dyn Fn() -> bool) {
    for file in files {
        for first in (0..file.bytes() as usize).step_by(AHEAD) {
            if !go_on() {
                return;
            }
            file.read_ahead(first, AHEAD);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    use crate::map::Mapped;

    pub(super) fn offers_large_pages() -> bool {
        false
    }

    pub(super) fn give_way() {}

    pub(super) fn memories() -> Vec<u64> {
        Vec::new()
    }

    pub(super) fn take_turns(_: &[u64]) -> bool {
        false
    }

    pub(super) fn relocate(_: &Mapped, _: &dyn Fn() -> bool) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod sys {
    use std::io::{Error, Result};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::sync::PoisonError;

    use crate::map::Mapped;

    const LARGE: usize = 2 << 20;
    /// Moved at once: what is needed twice for a moment, and what becomes a mapping of its own,
    /// of which a process may have some 65,000.
    const PART: usize = 16 * LARGE;

    pub(super) fn offers_large_pages() -> bool {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        setting.is_ok_and(|it| it.contains("[madvise]") || it.contains("[always]"))
    }

    /// Numbers of the sockets' memories that there are, as bits.
    pub(super) fn memories() -> Vec<u64> {
        let list = std::fs::read_to_string("/sys/devices/system/node/has_memory");
        list.map_or(Vec::new(), |list| bits(&list))
    }

    /// The numbers of a list like `0-1,4` as bits.
    pub(super) fn bits(list: &str) -> Vec<u64> {
        let mut words = Vec::new();
        for range in list.trim().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
                continue;
            };
            // More than the system can have.
            for number in first..=last.min(4095) {
                words.resize(words.len().max(number / 64 + 1), 0);
                words[number / 64] |= 1 << (number % 64);
            }
        }
        words
    }

    /// Lets the calling thread take pages from these memories in turn, if there are several; false if
    /// the system leaves it as it was.
    pub(super) fn take_turns(memories: &[u64]) -> bool {
        let count: u32 = memories.iter().map(|word| word.count_ones()).sum();
        count > 1 && interleave(memories)
    }

    pub(super) fn interleave(memories: &[u64]) -> bool {
        const MPOL_INTERLEAVE: libc::c_int = 3;
        // One more than there are bits, as the system counts.
        let bits = memories.len() * 64 + 1;
        // SAFETY: so many bits are read; what the call changes is where this thread's pages come from.
        unsafe {
            libc::syscall(
                libc::SYS_set_mempolicy,
                MPOL_INTERLEAVE,
                memories.as_ptr(),
                bits,
            ) == 0
        }
    }

    /// Leaves the calling thread a tenth of what others take: an answer may be under way.
    pub(super) fn give_way() {
        // SAFETY: a plain call of the system; on Linux 0 is the calling thread.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    }

    /// Puts the parts of a file that begin and end with a large page into such pages.
    pub(super) fn relocate(file: &Mapped, go_on: &dyn Fn() -> bool) -> Result<()> {
        let bytes = file.as_ref();
        let start = bytes.as_ptr() as usize;
        let first = start.next_multiple_of(LARGE) - start;
        // Whoever comes second finds it done.
        let mut moved = file.moved.lock().unwrap_or_else(PoisonError::into_inner);
        while go_on() {
            let at = first.max(*moved);
            let count = (bytes.len().saturating_sub(at) / LARGE * LARGE).min(PART);
            if count == 0 {
                break;
            }
            let fresh = Fresh::new(count)?;
            // SAFETY: the memory is this value's alone.
            let to = unsafe { std::slice::from_raw_parts_mut(fresh.at.cast::<u8>(), count) };
            // Read, not copied from the map, where a page that is gone is a signal.
            file.file.read_exact_at(to, at as u64)?;
            fresh.replace(file, at)?;
            *moved = at + count;
        }
        Ok(())
    }

    /// Fresh memory that begins with a large page.
    struct Fresh {
        at: *mut libc::c_void,
        bytes: usize,
    }

    impl Fresh {
        fn new(bytes: usize) -> Result<Fresh> {
            // SAFETY: a mapping of its own; what is cut off at both ends is its own, too.
            unsafe {
                let all = libc::mmap(
                    std::ptr::null_mut(),
                    bytes + LARGE,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                if all == libc::MAP_FAILED {
                    return Err(Error::last_os_error());
                }
                let before = (all as usize).next_multiple_of(LARGE) - all as usize;
                let at = all.byte_add(before);
                if before > 0 {
                    libc::munmap(all, before);
                }
                if before < LARGE {
                    libc::munmap(at.byte_add(bytes), LARGE - before);
                }
                // A wish: without it the pages are small, as they were.
                libc::madvise(at, bytes, libc::MADV_HUGEPAGE);
                Ok(Fresh { at, bytes })
            }
        }

        /// Puts the memory in the place of the bytes from `at` on of a file's mapping.
        fn replace(self, file: &Mapped, at: usize) -> Result<()> {
            let bytes = file.as_ref()[at..][..self.bytes].as_ptr();
            let place = bytes.cast_mut().cast::<libc::c_void>();
            // SAFETY: the place lies within a mapping that `file` owns and unmaps as a whole;
            // its bytes are those of the memory that takes their place, and as little writable.
            // The system does it while every fault of the process waits, so that a reader finds
            // one or the other.
            unsafe {
                if libc::mprotect(self.at, self.bytes, libc::PROT_READ) != 0 {
                    return Err(Error::last_os_error());
                }
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                let moved = libc::mremap(self.at, self.bytes, self.bytes, flags, place);
                if moved == libc::MAP_FAILED {
                    let error = Error::last_os_error();
                    // The system may have freed the place before it failed.
                    libc::mmap(
                        place,
                        self.bytes,
                        libc::PROT_READ,
                        libc::MAP_SHARED | libc::MAP_FIXED,
                        file.file.as_raw_fd(),
                        at as libc::off_t,
                    );
                    return Err(error);
                }
            }
            std::mem::forget(self);
            Ok(())
        }
    }

    impl Drop for Fresh {
        fn drop(&mut self) {
            // SAFETY: the memory is this value's own, and nobody knows of it.
            unsafe { libc::munmap(self.at, self.bytes) };
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Write;
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// What the system says of the mapping that holds an address: a file, or nothing.
    fn mapped_file(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| {
            let (range, _) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let of = |text| usize::from_str_radix(text, 16).unwrap();
            (of(start)..of(end)).contains(&address)
        });
        let words = line.unwrap().split_whitespace();
        words.skip(5).collect::<String>()
    }

    #[test]
    fn readers_see_the_same_bytes_before_during_and_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let word = |i: usize| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let words = (80 << 20) / 8 + 77;
        let content: Vec<u8> = (0..words).flat_map(|i| word(i).to_le_bytes()).collect();
        std::fs::File::create(&path)
            .unwrap()
            .write_all(&content)
            .unwrap();
        drop(content);

        let (file, pages) = crate::map::map(&path).unwrap();
        let file = file.unwrap();
        let bytes = (*pages).as_ref();
        let middle = bytes.as_ptr() as usize + bytes.len() / 2;
        assert!(mapped_file(middle).ends_with("/weights"));
        let check = || {
            for (i, eight) in bytes.chunks_exact(8).enumerate().step_by(97) {
                assert_eq!(u64::from_le_bytes(eight.try_into().unwrap()), word(i));
            }
        };
        let rounds = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    check();
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            while rounds.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            sys::relocate(&file, &|| true).unwrap();
            done.store(true, Ordering::Relaxed);
        });
        check();
        assert_eq!(mapped_file(middle), "", "the middle is still the file's");
        // Cut now: what was moved does not go with it.
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        let moved = (middle - bytes.as_ptr() as usize) / 8 * 8;
        let eight = bytes[moved..][..8].try_into().unwrap();
        assert_eq!(u64::from_le_bytes(eight), word(moved / 8));
    }

    #[test]
    fn lists_of_memories_are_read_and_one_alone_is_left_alone() {
        assert_eq!(sys::bits("0\n"), [1]);
        assert_eq!(sys::bits("0-1\n"), [3]);
        assert_eq!(sys::bits("0,2-3,65\n"), [0b1101, 2]);
        assert_eq!(sys::bits("\n"), [0u64; 0]);
        assert_eq!(sys::bits("a-b,7"), [128]);
        assert!(!sys::take_turns(&[1]));
        assert!(!sys::take_turns(&[]));
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_thread_takes_pages_from_the_memories_it_is_told() {
        let memories = sys::memories();
        let asked = memories.clone();
        // The policy is the thread's, and ends with it.
        let found = std::thread::spawn(move || {
            let done = sys::interleave(&asked);
            let (mut policy, mut words) = (0 as libc::c_int, vec![0u64; 64]);
            // SAFETY: so many bits are written, and a number.
            let told = unsafe {
                libc::syscall(
                    libc::SYS_get_mempolicy,
                    &raw mut policy,
                    words.as_mut_ptr(),
                    words.len() * 64,
                    0usize,
                    0usize,
                )
            };
            (done, told == 0, policy, words)
        });
        let (done, told, policy, words) = found.join().unwrap();
        if memories.is_empty() || !told {
            eprintln!(
                "NOT RUN: a_thread_takes_pages_from_the_memories_it_is_told, the system tells of no memories of sockets"
            );
            return;
        }
        assert!(done);
        assert_eq!((policy, &words[..memories.len()]), (3, &memories[..]));
    }

    #[test]
    fn a_file_that_ends_early_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        let (mapped, _pages) = crate::map::map(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let mapped = mapped.unwrap();
        let error = sys::relocate(&mapped, &|| true).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        let middle = (*mapped).as_ref().as_ptr() as usize + (4 << 20);
        assert!(mapped_file(middle).ends_with("/weights"));
    }
}
