//! What the rest of the runtime sees of a checkpoint, whatever its format: named tensors in
//! shards of plain memory.
//!
//! Decides how a tensor is described. Must not know a file format, so that other formats
//! (and made-up weights) are one more implementation of [`TensorSource`].

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use hadal_device::{DType, Pages};

use crate::map::Mapped;
use crate::{Result, WeightsError, lost_pages};

/// Number format of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// One that weights may have.
    Weight(DType),
    /// One that no weight may have; the name is the file's.
    Other(&'static str),
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileType::Weight(dtype) => dtype.fmt(f),
            FileType::Other(name) => f.write_str(name),
        }
    }
}

/// Where a tensor lies and what it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Number format.
    pub dtype: FileType,
    /// Shape; matrices are `[out, in]`, rows are contiguous.
    pub shape: Vec<u64>,
    /// Index into [`TensorSource::shards`].
    pub shard: usize,
    /// First byte within the shard; of any alignment.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A file, or memory that stands for one.
#[derive(Clone)]
pub struct Shard {
    /// Name for messages.
    pub name: String,
    /// The file; `None` if the bytes are part of the program or made up.
    pub path: Option<PathBuf>,
    /// The whole file, header included, so that a device can use it in place.
    pub pages: Pages,
    /// The mapped file that the pages are.
    pub(crate) file: Option<Arc<Mapped>>,
}

impl Shard {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        (*self.pages).as_ref()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shard({}, {} bytes)", self.name, self.bytes().len())
    }
}

/// How large a shard is and how it lies in memory: what placing needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub bytes: u64,
    /// True if its memory begins a page of the system, so that devices can take its pages.
    pub begins_page: bool,
}

/// Tensors by name. Every [`TensorInfo`] it returns lies within its shard.
pub trait TensorSource: Send + Sync {
    /// Every name, in a fixed order.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Every name with its tensor, in the same order.
    fn tensors(&self) -> Box<dyn Iterator<Item = (&str, &TensorInfo)> + '_> {
        Box::new(
            self.names()
                .filter_map(|name| Some((name, self.get(name)?))),
        )
    }

    /// The tensor of this name.
    fn get(&self, name: &str) -> Option<&TensorInfo>;

    /// The shards that tensors lie in.
    fn shards(&self) -> &[Shard];

    /// The extent of a shard, also where its bytes are described and not there
    /// ([`crate::Outline`]).
    fn extent(&self, shard: usize) -> Extent {
        let bytes = self.shards().get(shard).map_or(&[][..], Shard::bytes);
        Extent {
            bytes: bytes.len() as u64,
            begins_page: (bytes.as_ptr() as u64).is_multiple_of(4096),
        }
    }

    /// An error if pages of a mapped file were gone when they were read, and zeros in their
    /// place: whatever was computed since is wrong. See [`crate::survive_lost_pages`].
    fn check_pages(&self) -> Result<()> {
        match self
            .shards()
            .iter()
            .find(|it| lost_pages::is_lost(it.bytes()))
        {
            Some(shard) => Err(WeightsError::PagesLost {
                file: place_of(shard),
            }),
            None => Ok(()),
        }
    }

    /// Where tensors are looked for, for messages: the file, or the index of several.
    fn origin(&self) -> String {
        origin_of(self.shards())
    }

    /// The bytes of a tensor, as stored; little-endian. Errors: no such tensor.
    fn bytes(&self, name: &str) -> Result<&[u8]> {
        let missing = || WeightsError::NoTensor {
            file: self.origin(),
            tensor: name.to_string(),
        };
        let info = self.get(name).ok_or_else(missing)?;
        let shard = self.shards().get(info.shard).ok_or_else(missing)?;
        range(shard, info.offset, info.bytes).ok_or_else(missing)
    }
}

/// The only shard, or the first of several.
pub(crate) fn origin_of(shards: &[Shard]) -> String {
    match shards {
        [] => "no file".to_string(),
        [only] => place_of(only),
        [first, rest @ ..] => format!("{} or {} files more", place_of(first), rest.len()),
    }
}

fn place_of(shard: &Shard) -> String {
    match &shard.path {
        Some(path) => path.display().to_string(),
        None => shard.name.clone(),
    }
}

/// A byte range of a shard; `None` if it is not within it.
pub(crate) fn range(shard: &Shard, offset: u64, bytes: u64) -> Option<&[u8]> {
    let first = usize::try_from(offset).ok()?;
    let end = first.checked_add(usize::try_from(bytes).ok()?)?;
    shard.bytes().get(first..end)
}

/// The layer index in a published name.
pub fn layer_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("model.layers.")?;
    rest.split('.').next()?.parse().ok()
}
