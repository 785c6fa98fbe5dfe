//! Tensors that are described and not here: what a checkpoint would hold, for planning where
//! it would lie before anything is downloaded.
//!
//! Decides that tensors follow each other in their file without gaps, as the safetensors
//! format wants it. Must not know models: the caller lists the tensors. Reading from it
//! fails as reading from a damaged file does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hadal_device::DType;

use crate::index::{self, INDEX_NAME, MAX_INDEX_BYTES};
use crate::{Extent, FileType, Result, Shard, TensorInfo, TensorSource, WeightsError, file};

/// A tensor that is only described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineTensor {
    /// Name, as in published files.
    pub name: String,
    /// Shape; matrices are `[out, in]`.
    pub shape: Vec<u64>,
    /// Number format.
    pub dtype: DType,
    /// Length in bytes.
    pub bytes: u64,
    /// The file it would lie in.
    pub file: String,
}

/// A checkpoint of which only the description is here.
#[derive(Debug)]
pub struct Outline {
    origin: String,
    shards: Vec<Shard>,
    /// Of each shard.
    bytes: Vec<u64>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Outline {
    /// The checkpoint of `tensors`, in this order in each file. `origin` says in messages
    /// where they are described.
    ///
    /// # Errors
    /// A name that comes twice; more bytes than 64 bits count.
    pub fn new(
        origin: impl Into<String>,
        tensors: impl IntoIterator<Item = OutlineTensor>,
    ) -> Result<Outline> {
        let mut outline = Outline {
            origin: origin.into(),
            shards: Vec::new(),
            bytes: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for tensor in tensors {
            let next = numbers.len();
            let shard = *numbers.entry(tensor.file.clone()).or_insert(next);
            if shard == next {
                outline.shards.push(Shard {
                    name: tensor.file.clone(),
                    path: None,
                    pages: Arc::new(Vec::new()),
                    file: None,
                });
                outline.bytes.push(0);
            }
            outline.add(shard, tensor)?;
        }
        Ok(outline)
    }

    fn add(&mut self, shard: usize, tensor: OutlineTensor) -> Result<()> {
        let refuse = |why: &str| WeightsError::Tensor {
            file: tensor.file.clone(),
            tensor: tensor.name.clone(),
            why: why.to_string(),
        };
        let offset = self.bytes[shard];
        let end = offset.checked_add(tensor.bytes);
        self.bytes[shard] = end.ok_or_else(|| refuse("its shape is not possible"))?;
        let info = TensorInfo {
            dtype: FileType::Weight(tensor.dtype),
            shape: tensor.shape.clone(),
            shard,
            offset,
            bytes: tensor.bytes,
        };
        match self.tensors.insert(tensor.name.clone(), info) {
            Some(_) => Err(refuse("its name comes twice")),
            None => Ok(()),
        }
    }
}

impl TensorSource for Outline {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// As a mapped file: its memory begins a page.
    fn extent(&self, shard: usize) -> Extent {
        Extent {
            bytes: self.bytes.get(shard).copied().unwrap_or(0),
            begins_page: true,
        }
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }
}

/// The file of each tensor, as the index in `folder` says; `None` where there is no index.
///
/// # Errors
/// An index that cannot be read, or is damaged.
pub fn index_of(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = folder.join(INDEX_NAME);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let name = path.display().to_string();
    let text = file::read_bounded(&path, MAX_INDEX_BYTES).map_err(|source| WeightsError::Io {
        file: name.clone(),
        source,
    })?;
    Ok(Some(index::read(&name, &text)?.weight_map))
}
