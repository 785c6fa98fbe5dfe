//! Compiled kernels on disk, so that a second process need not compile them again.
//!
//! Nothing about it is ever an error: a file that is absent, damaged or from elsewhere counts
//! as absent and is replaced, and one that cannot be written is not.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// The beginning of a file: what it is, the version of this layout.
const MAGIC: [u8; 8] = *b"hadalgk1";

/// Length of a checksum.
const SUM: usize = 32;

/// Larger modules are neither written nor read.
const LARGEST: usize = 64 << 20;

/// What a module was compiled from and with: a name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The name of what these parts make, in this order.
    pub fn of<'p>(parts: impl IntoIterator<Item = &'p str>) -> Key {
        let mut hash = Sha256::new();
        for part in parts {
            // Lengths keep the ends of parts apart.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        Key(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A folder of compiled kernels, or none.
#[derive(Clone, Debug, Default)]
pub struct Cache(Option<PathBuf>);

impl Cache {
    /// What lies in `folder`.
    pub fn new(folder: Option<&Path>) -> Cache {
        Cache(folder.map(|folder| folder.join("kernels")))
    }

    fn path(&self, key: &Key) -> Option<PathBuf> {
        let folder = self.0.as_ref()?;
        Some(folder.join(format!("{}.module", key.0)))
    }

    /// The module `key`, if it is there and sound.
    pub fn read(&self, key: &Key) -> Option<Vec<u8>> {
        read(&self.path(key)?)
    }

    /// Keeps a module.
    pub fn write(&self, key: &Key, module: &[u8]) {
        if let Some(path) = self.path(key)
            && module.len() <= LARGEST
        {
            // A full or read-only disk costs the next process its time and no more.
            let _ = write(&path, module);
        }
    }
}

fn head(module: &[u8]) -> Vec<u8> {
    let sum = Sha256::digest(module);
    [MAGIC.as_slice(), sum.as_slice()].concat()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let most = MAGIC.len() + SUM + LARGEST;
    let mut file = File::open(path).ok()?.take(most as u64);
    let mut all = Vec::new();
    file.read_to_end(&mut all).ok()?;
    let (found, module) = all.split_at_checked(MAGIC.len() + SUM)?;
    (found == head(module)).then(|| module.to_vec())
}

/// Writes all of the file or nothing.
fn write(path: &Path, module: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unfinished = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let all = || -> io::Result<()> {
        let mut file = File::create(&unfinished)?;
        file.write_all(&head(module))?;
        file.write_all(module)?;
        // A name must not come to the disk before what it names.
        file.sync_all()?;
        drop(file);
        fs::rename(&unfinished, path)
    };
    let written = all();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::{Cache, Key, LARGEST};

    #[test]
    fn only_a_sound_file_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(Some(&folder.path().join("below")));
        let key = Key::of(["source", "sm_90a"]);
        assert_eq!(cache.read(&key), None);
        let module: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        cache.write(&key, &module);
        assert_eq!(cache.read(&key), Some(module.clone()));
        let path = cache.path(&key).expect("a path");
        let sound = std::fs::read(&path).expect("the file");
        for at in [0, 9, 39, 40, 500, sound.len() - 1] {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, flipped).expect("damage");
            assert_eq!(cache.read(&key), None, "byte {at}");
            std::fs::write(&path, &sound[..at]).expect("damage");
            assert_eq!(cache.read(&key), None, "cut at {at}");
        }
        // What is damaged is replaced.
        cache.write(&key, &module);
        assert_eq!(cache.read(&key), Some(module));
        let files = std::fs::read_dir(path.parent().expect("a folder"));
        assert_eq!(files.expect("the folder").count(), 1);
        let file = std::fs::File::create(&path).expect("the file");
        file.set_len(4 * LARGEST as u64).expect("a sparse file");
        assert_eq!(cache.read(&key), None);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, b"in the way").expect("a file");
        let key = Key::of(["a"]);
        for cache in [Cache::new(Some(&file)), Cache::new(None)] {
            cache.write(&key, b"module");
            assert_eq!(cache.read(&key), None);
        }
    }

    #[test]
    fn keys_tell_where_parts_end() {
        assert_ne!(Key::of(["ab", "c"]), Key::of(["a", "bc"]));
        assert_eq!(Key::of(["ab", "c"]), Key::of(["ab", "c"]));
        assert_ne!(Key::of(["ab", "c"]), Key::of(["c", "ab"]));
    }
}
