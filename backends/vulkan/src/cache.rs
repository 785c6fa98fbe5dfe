//! Compiled pipelines on disk, so that a second process need not compile them again.
//!
//! One file for each driver version of each device. Nothing about it is ever an error: a
//! file that is absent, damaged or from elsewhere counts as empty and is replaced, and one
//! that cannot be written is not.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ash::vk;
use vulkano::VulkanObject;
use vulkano::device::Device;
use vulkano::device::physical::PhysicalDevice;
use vulkano::pipeline::cache::{PipelineCache, PipelineCacheCreateInfo};

/// The beginning of a file: what it is, the version of this layout.
const MAGIC: [u8; 8] = *b"hadalpc1";

/// Length of the beginning: magic, length of the data, their checksum.
const HEAD: usize = 24;

/// Larger data are neither written nor read: all kernels of one model are a few megabytes.
const LARGEST: usize = 64 << 20;

/// The pipelines of a device.
pub struct Cache {
    cache: Option<Arc<PipelineCache>>,
    path: Option<PathBuf>,
    /// Pipelines made, and how many of them the file has seen.
    made: AtomicU64,
    saved: AtomicU64,
}

impl Cache {
    /// What `folder` has for `device`.
    pub fn open(device: &Arc<Device>, folder: Option<&Path>) -> Cache {
        let path = folder.map(|folder| folder.join(file_name(device.physical_device())));
        let data = path.as_deref().and_then(read).unwrap_or_default();
        let made = |initial_data| {
            let info = PipelineCacheCreateInfo {
                initial_data,
                ..Default::default()
            };
            // SAFETY: the checksum says that the data are as a driver gave them, and their
            // header and the file's name that it was this version for this device.
            unsafe { PipelineCache::new(device.clone(), info) }.ok()
        };
        let is_own = vk_header(device.physical_device());
        let data = match data.starts_with(&is_own) {
            true => data,
            false => Vec::new(),
        };
        Cache {
            // Without a cache kernels are compiled all the same.
            cache: path
                .as_ref()
                .and_then(|_| made(data).or_else(|| made(Vec::new()))),
            path,
            made: AtomicU64::new(0),
            saved: AtomicU64::new(0),
        }
    }

    /// Vulkan's handle; null without a folder.
    pub fn handle(&self) -> vk::PipelineCache {
        let cache = self.cache.as_ref();
        cache.map_or(vk::PipelineCache::null(), |cache| cache.handle())
    }

    /// Counts a pipeline.
    pub fn count(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the file if pipelines were made since it was written.
    pub fn save(&self) {
        let made = self.made.load(Ordering::Relaxed);
        let (Some(cache), Some(path)) = (&self.cache, &self.path) else {
            return;
        };
        if self.saved.swap(made, Ordering::Relaxed) == made {
            return;
        }
        if let Ok(data) = cache.get_data()
            && data.len() <= LARGEST
        {
            // A full or read-only disk costs the next process its time and no more.
            let _ = write(path, &data);
        }
    }
}

/// The user's folder for such files, as the system names it: `hadal` in `XDG_CACHE_HOME`,
/// `~/.cache`, `~/Library/Caches` or `%LOCALAPPDATA%`.
pub fn user_cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = if cfg!(windows) {
        PathBuf::from(set("LOCALAPPDATA")?)
    } else if cfg!(target_os = "macos") {
        PathBuf::from(set("HOME")?).join("Library/Caches")
    } else {
        match set("XDG_CACHE_HOME") {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(set("HOME")?).join(".cache"),
        }
    };
    folder.is_absolute().then(|| folder.join("hadal"))
}

/// A name that no other device and no other driver version has.
fn file_name(device: &PhysicalDevice) -> String {
    let p = device.properties();
    let uuid: String = p
        .pipeline_cache_uuid
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "vulkan-{:04x}-{:04x}-{:08x}-{uuid}.pipelines",
        p.vendor_id, p.device_id, p.driver_version
    )
}

/// How the driver's data begin, by the specification of `VkPipelineCacheHeaderVersionOne`.
fn vk_header(device: &PhysicalDevice) -> Vec<u8> {
    let p = device.properties();
    let mut header: Vec<u8> = [32, 1, p.vendor_id, p.device_id]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    header.extend(p.pipeline_cache_uuid);
    header
}

/// FNV-1a: finds damage, which is all it is for.
fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn head(data: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&(data.len() as u64).to_le_bytes());
    head[16..].copy_from_slice(&checksum(data).to_le_bytes());
    head
}

/// The data of a sound file.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut file = fs::File::open(path).ok()?.take((HEAD + LARGEST) as u64);
    let mut data = Vec::new();
    file.read_to_end(&mut data).ok()?;
    let found: [u8; HEAD] = data.get(..HEAD)?.try_into().ok()?;
    data.drain(..HEAD);
    (found == head(&data)).then_some(data)
}

/// Writes all of the file or nothing.
fn write(path: &Path, data: &[u8]) -> std::io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unfinished = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let written = fs::write(&unfinished, [&head(data), data].concat())
        .and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::{LARGEST, read, write};

    #[test]
    fn only_a_sound_file_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("below/it");
        assert_eq!(read(&path), None);
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        write(&path, &data).expect("it is written");
        assert_eq!(read(&path), Some(data));
        let sound = std::fs::read(&path).expect("the file");
        for at in [0, 9, 17, 24, 500, sound.len() - 1] {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, flipped).expect("damage");
            assert_eq!(read(&path), None, "byte {at}");
            std::fs::write(&path, &sound[..at]).expect("damage");
            assert_eq!(read(&path), None, "cut at {at}");
        }
        let file = std::fs::File::create(&path).expect("the file");
        file.set_len(4 * LARGEST as u64).expect("a sparse file");
        assert_eq!(read(&path), None);
    }
}
