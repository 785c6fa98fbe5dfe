//! A checkpoint in the safetensors format: one file, or shards with an index.
//!
//! Decides which files are opened and which tensor lies where. Must not know what the
//! tensors are for: that is `bind.rs`. First test to break: `tests/damaged.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hadal_device::Pages;
use indexmap::IndexMap;

use crate::index::{INDEX_NAME, Index, MAX_FILES};
use crate::{Result, Shard, TensorInfo, TensorSource, WeightsError, map, safetensors, source};

/// Name of the weights of a checkpoint without an index.
const SINGLE_NAME: &str = "model.safetensors";

/// An opened checkpoint: headers read and checked, data untouched.
#[derive(Debug)]
pub struct Checkpoint {
    /// The index that names the shards, where there is one.
    index: Option<PathBuf>,
    shards: Vec<Shard>,
    tensors: IndexMap<String, Listed>,
}

/// A tensor, and where an index wants it.
#[derive(Debug)]
struct Listed {
    /// The number of its shard; where there is no index, the one it is in.
    shard: usize,
    /// `None` until its header is read, never afterwards.
    info: Option<TensorInfo>,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`: the files that `model.safetensors.index.json`
    /// names, or `model.safetensors`. Files are memory-mapped; they must not be changed
    /// while the checkpoint, or a device that adopted its pages, is in use.
    pub fn open(folder: impl AsRef<Path>) -> Result<Checkpoint> {
        let folder = folder.as_ref();
        if let Some(index) = Index::open(folder)? {
            return Checkpoint::open_indexed(folder, index);
        }
        // Something of this name that cannot be used gets its own error.
        if folder.join(SINGLE_NAME).symlink_metadata().is_err() {
            let why = format!(
                "neither {INDEX_NAME} nor {SINGLE_NAME} is there; point at the folder that holds config.json and the weights"
            );
            return Err(WeightsError::NoWeights {
                folder: folder.display().to_string(),
                why,
            });
        }
        Checkpoint::from_shards(vec![open_shard(folder, SINGLE_NAME)?], IndexMap::new())
    }

    /// Opens the files of `folder` that its `index` names.
    ///
    /// # Errors
    /// Those of damaged files, and of files that are not as the index says.
    pub fn open_indexed(folder: &Path, index: Index) -> Result<Checkpoint> {
        let files = index.files().iter();
        let shards = files
            .map(|file| open_shard(folder, file))
            .collect::<Result<Vec<_>>>()?;
        let path = index.path().to_path_buf();
        let listed = |(name, shard)| (name, Listed { shard, info: None });
        let tensors = index.into_tensors().map(listed).collect();
        let mut checkpoint = Checkpoint::from_shards(shards, tensors)?;
        checkpoint.index = Some(path);
        Ok(checkpoint)
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
        Checkpoint::from_shards(files.into_iter().map(shard).collect(), IndexMap::new())
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

    /// Reads the headers; `tensors` are those that an index wants.
    fn from_shards(
        shards: Vec<Shard>,
        mut tensors: IndexMap<String, Listed>,
    ) -> Result<Checkpoint> {
        for (number, shard) in shards.iter().enumerate() {
            for (name, info) in safetensors::read(&shard.name, shard.bytes(), number)? {
                let Some(listed) = tensors.get_mut(name.as_ref()) else {
                    let info = Some(info);
                    tensors.insert(
                        name.into_owned(),
                        Listed {
                            shard: number,
                            info,
                        },
                    );
                    continue;
                };
                if let Some(other) = &listed.info {
                    let why = match other.shard == number {
                        true => "its name comes twice".to_string(),
                        false => format!("it is in {} too", shards[other.shard].name),
                    };
                    return Err(refused(shard, &name, why));
                }
                listed.info = Some(info);
            }
        }
        for (name, listed) in &tensors {
            let wanted = &shards[listed.shard];
            match &listed.info {
                Some(info) if info.shard == listed.shard => {}
                Some(info) => {
                    let other = &shards[info.shard].name;
                    let why = format!("{INDEX_NAME} says it lies here, but it lies in {other}");
                    return Err(refused(wanted, name, why));
                }
                None => {
                    let why = format!("{INDEX_NAME} says it lies here, but it does not");
                    return Err(refused(wanted, name, why));
                }
            }
        }
        Ok(Checkpoint {
            index: None,
            shards,
            tensors,
        })
    }
}

fn refused(shard: &Shard, tensor: &str, why: String) -> WeightsError {
    WeightsError::Tensor {
        file: shard.name.clone(),
        tensor: tensor.to_string(),
        why,
    }
}

impl TensorSource for Checkpoint {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn tensors(&self) -> Box<dyn Iterator<Item = (&str, &TensorInfo)> + '_> {
        let each = self.tensors.iter();
        Box::new(each.filter_map(|(name, listed)| Some((name.as_str(), listed.info.as_ref()?))))
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)?.info.as_ref()
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

fn unreadable(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io {
        file: path.display().to_string(),
        source,
    }
}
