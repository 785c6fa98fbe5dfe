//! Tensors that are described and not here: what a checkpoint would hold, for planning where
//! it would lie before anything is downloaded.
//!
//! Decides that tensors follow each other in their file without gaps, as the safetensors
//! format wants it. Must not know models: the caller lists the tensors. Reading from it
//! fails as reading from a damaged file does.

use std::collections::HashMap;
use std::sync::Arc;

use hadal_device::DType;
use indexmap::IndexMap;
use indexmap::map::Entry;

use crate::{Extent, FileType, Result, Shard, TensorInfo, TensorSource, WeightsError};

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
    tensors: IndexMap<String, TensorInfo>,
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
            tensors: IndexMap::new(),
        };
        let mut numbers: HashMap<String, usize> = HashMap::new();
        for tensor in tensors {
            let known = numbers.get(&tensor.file).copied();
            let shard = known.unwrap_or(numbers.len());
            if known.is_none() {
                numbers.insert(tensor.file.clone(), shard);
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
        let refuse = |file: &str, tensor: &str, why: &str| WeightsError::Tensor {
            file: file.to_string(),
            tensor: tensor.to_string(),
            why: why.to_string(),
        };
        let offset = self.bytes[shard];
        let Some(end) = offset.checked_add(tensor.bytes) else {
            let why = "its shape is not possible";
            return Err(refuse(&tensor.file, &tensor.name, why));
        };
        self.bytes[shard] = end;
        let info = TensorInfo {
            dtype: FileType::Weight(tensor.dtype),
            shape: tensor.shape,
            shard,
            offset,
            bytes: tensor.bytes,
        };
        match self.tensors.entry(tensor.name) {
            Entry::Occupied(there) => {
                Err(refuse(&tensor.file, there.key(), "its name comes twice"))
            }
            Entry::Vacant(free) => {
                free.insert(info);
                Ok(())
            }
        }
    }
}

impl TensorSource for Outline {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn tensors(&self) -> Box<dyn Iterator<Item = (&str, &TensorInfo)> + '_> {
        Box::new(
            self.tensors
                .iter()
                .map(|(name, info)| (name.as_str(), info)),
        )
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
