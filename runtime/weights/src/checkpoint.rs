//! A checkpoint in the safetensors format: one file, or shards with an index.
//!
//! Decides which files are opened and which tensor lies where. Must not know what the
//! tensors are for: that is `bind.rs`. First test to break: `tests/damaged.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hadal_device::Pages;

use crate::index::{self, INDEX_NAME, MAX_FILES, MAX_INDEX_BYTES};
use crate::{
    Result, Shard, TensorInfo, TensorSource, WeightsError, file, map, safetensors, source,
};

/// Name of the weights of a checkpoint without an index.
const SINGLE_NAME: &str = "model.safetensors";

/// An opened checkpoint: headers read and checked, data untouched.
#[derive(Debug)]
pub struct Checkpoint {
    /// The index that names the shards, where there is one.
    index: Option<PathBuf>,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`: the files that `model.safetensors.index.json`
    /// names, or `model.safetensors`. Files are memory-mapped; they must not be changed
    /// while the checkpoint, or a device that adopted its pages, is in use.
    pub fn open(folder: impl AsRef<Path>) -> Result<Checkpoint> {
        let folder = folder.as_ref();
        let index_path = folder.join(INDEX_NAME);
        if is_there(&index_path) {
            let text = file::read_bounded(&index_path, MAX_INDEX_BYTES)
                .map_err(|source| unreadable(&index_path, source))?;
            let index = index::read(&index_path.display().to_string(), &text)?;
            let files = index.files.iter();
            let shards = files
                .map(|file| open_shard(folder, file))
                .collect::<Result<Vec<_>>>()?;
            let mut checkpoint = Checkpoint::from_shards(shards)?;
            checkpoint.check_index(&index)?;
            checkpoint.index = Some(index_path);
            return Ok(checkpoint);
        }
        if !is_there(&folder.join(SINGLE_NAME)) {
            let why = format!(
                "neither {INDEX_NAME} nor {SINGLE_NAME} is there; point at the folder that holds config.json and the weights"
            );
            return Err(WeightsError::NoWeights {
                folder: folder.display().to_string(),
                why,
            });
        }
        Checkpoint::from_shards(vec![open_shard(folder, SINGLE_NAME)?])
    }

    /// A checkpoint of whole safetensors files in memory, by name, without a copy: bytes of
    /// the program itself, for example. Errors: those of damaged files, and more than 16,384
    /// files.
    pub fn from_pages(files: Vec<(String, Pages)>) -> Result<Checkpoint> {
        if files.len() > MAX_FILES {
            return Err(WeightsError::TooManyFiles {
                files: files.len(),
                limit: MAX_FILES,
            });
        }
        let shard = |(name, pages)| Shard {
            name,
            path: None,
            pages,
            file: None,
        };
        Checkpoint::from_shards(files.into_iter().map(shard).collect())
    }

    /// [`Checkpoint::from_pages`] for bytes that are part of the program.
    pub fn from_static(files: &[(&str, &'static [u8])]) -> Result<Checkpoint> {
        let pages = |bytes: &'static [u8]| -> Pages { Arc::new(bytes) };
        Checkpoint::from_pages(
            files
                .iter()
                .map(|(name, bytes)| ((*name).into(), pages(bytes)))
                .collect(),
        )
    }

    fn from_shards(shards: Vec<Shard>) -> Result<Checkpoint> {
        let mut tensors: BTreeMap<String, TensorInfo> = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            for (name, info) in safetensors::read(&shard.name, shard.bytes(), number)? {
                if let Some(other) = tensors.get(&name) {
                    let why = format!("it is in {} too", shards[other.shard].name);
                    return Err(WeightsError::Tensor {
                        file: shard.name.clone(),
                        tensor: name,
                        why,
                    });
                }
                tensors.insert(name, info);
            }
        }
        Ok(Checkpoint {
            index: None,
            shards,
            tensors,
        })
    }

    /// Every tensor of the index is in the file the index says.
    fn check_index(&self, index: &index::Index) -> Result<()> {
        for (tensor, file) in &index.weight_map {
            let found = self
                .tensors
                .get(tensor)
                .map(|info| self.shards[info.shard].name.as_str());
            if found != Some(file.as_str()) {
                let why = match found {
                    Some(other) => {
                        format!("{INDEX_NAME} says it lies here, but it lies in {other}")
                    }
                    None => format!("{INDEX_NAME} says it lies here, but it does not"),
                };
                return Err(WeightsError::Tensor {
                    file: file.clone(),
                    tensor: tensor.clone(),
                    why,
                });
            }
        }
        Ok(())
    }
}

impl TensorSource for Checkpoint {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    fn shards(&self) -> &[Shard] {
        &self.shards
    }

    fn origin(&self) -> String {
        match (&self.index, self.shards.as_slice()) {
            (Some(index), _) => index.display().to_string(),
            (None, shards) => source::origin_of(shards),
        }
    }
}

fn open_shard(folder: &Path, file: &str) -> Result<Shard> {
    let path = folder.join(file);
    let (mapped, pages) = map::map(&path).map_err(|source| unreadable(&path, source))?;
    Ok(Shard {
        name: file.to_string(),
        path: Some(path),
        pages,
        file: mapped,
    })
}

/// Whether there is anything of this name, also what cannot be used: that gets its own error.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn unreadable(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io {
        file: path.display().to_string(),
        source,
    }
}
