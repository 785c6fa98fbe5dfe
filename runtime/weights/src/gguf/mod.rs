//! GGUF files: metadata, and tensors under the names that the file gives them.
//!
//! Decides which files of a split model are opened and which tensor lies where. Must not know
//! what keys and names mean: `hadal_models::gguf` does. Read [`Gguf`] first. Source: the GGUF
//! specification (ggml repository, docs/gguf.md), versions 2 and 3.

mod header;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hadal_device::Pages;

pub use header::gguf_number;
pub use value::{GgufValue, Metadata};

use crate::index::MAX_FILES;
use crate::{Result, Shard, TensorInfo, TensorSource, WeightsError, map, source};

/// An opened GGUF model: headers read and checked, data untouched.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Opens `path`, and the other files of a model that is split (`-00001-of-00009.gguf`),
    /// whichever of them it is. Files are memory-mapped; they must not be changed meanwhile.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        let paths = parts(path.as_ref())?;
        let open = |path: PathBuf| {
            let (file, pages) = map::map(&path).map_err(|source| WeightsError::Io {
                file: path.display().to_string(),
                source,
            })?;
            let name = path.file_name().map(|name| name.to_string_lossy());
            Ok(Shard {
                name: name.unwrap_or_default().into_owned(),
                path: Some(path),
                pages,
                file,
            })
        };
        Gguf::from_shards(paths.into_iter().map(open).collect::<Result<_>>()?)
    }

    /// A model of whole files in memory, by name, in the order of their parts.
    pub fn from_pages(files: Vec<(String, Pages)>) -> Result<Gguf> {
        let shard = |(name, pages)| Shard {
            name,
            path: None,
            pages,
            file: None,
        };
        Gguf::from_shards(files.into_iter().map(shard).collect())
    }

    fn from_shards(shards: Vec<Shard>) -> Result<Gguf> {
        let mut metadata = Metadata::default();
        let mut tensors = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            let header = header::read(&shard.name, shard.bytes(), number)?;
            check_part(shard, &header.metadata, number, shards.len())?;
            if number == 0 {
                metadata = header.metadata;
            }
            for (name, info) in header.tensors {
                if tensors.insert(name.clone(), info).is_some() {
                    return Err(WeightsError::Tensor {
                        file: shard.name.clone(),
                        tensor: name,
                        why: "its name comes twice".into(),
                    });
                }
            }
        }
        if let Some(wanted) = metadata.whole("split.tensors.count")
            && wanted != tensors.len() as u64
            && shards.len() > 1
        {
            let why = format!("it says {wanted} tensors, and {} are there", tensors.len());
            return Err(damaged(&shards[0].name, why));
        }
        Ok(Gguf {
            metadata,
            shards,
            tensors,
        })
    }

    /// What the first file says beside tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl TensorSource for Gguf {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

fn damaged(file: &str, why: String) -> WeightsError {
    WeightsError::File {
        file: file.to_string(),
        why,
    }
}

/// The files of the model that `path` is one of, in order.
fn parts(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some((stem, count)) = name.and_then(split_name) else {
        return Ok(vec![path.to_path_buf()]);
    };
    if count as usize > MAX_FILES {
        return Err(WeightsError::TooManyFiles {
            files: count as usize,
            limit: MAX_FILES,
        });
    }
    let part = |number| path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"));
    Ok((1..=count).map(part).collect())
}

/// What precedes `-00001-of-00009.gguf`, and the count.
fn split_name(name: &str) -> Option<(&str, u32)> {
    let rest = name.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let count: u32 = count.parse().ok().filter(|_| digits(count))?;
    (digits(number) && count > 0).then_some((stem, count))
}

/// A part is the one its place says.
fn check_part(shard: &Shard, metadata: &Metadata, number: usize, count: usize) -> Result<()> {
    let said = (metadata.whole("split.no"), metadata.whole("split.count"));
    let fits = match said {
        (None, None) | (None | Some(0), Some(0 | 1)) => count == 1,
        (no, parts) => no == Some(number as u64) && parts == Some(count as u64),
    };
    if fits {
        return Ok(());
    }
    let why = match said {
        (Some(no), Some(parts)) => format!(
            "it says that it is part {} of {parts}, and it was opened as part {} of {count}; \
             keep the names that the files were published under",
            no.saturating_add(1),
            number + 1
        ),
        _ => format!("it does not say which part it is, and was opened as one of {count}"),
    };
    Err(damaged(&shard.name, why))
}

/// The names and infos that a tensor is to have.
pub type Rename<'r> = dyn Fn(&str, &TensorInfo) -> Vec<(String, TensorInfo)> + 'r;

/// A source under other names: tensors of another source, whole or cut along their slowest
/// axis, as whoever knows both names describes them.
#[derive(Debug)]
pub struct Renamed {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Renamed {
    /// The tensors of `source` as `rename` describes each: names and infos that lie within it.
    ///
    /// # Errors
    /// Two tensors under one name, or one that is not within its shard.
    pub fn new(source: &dyn TensorSource, rename: &Rename<'_>) -> Result<Renamed> {
        let mut tensors = BTreeMap::new();
        for name in source.names() {
            let Some(info) = source.get(name) else {
                continue;
            };
            for (new, part) in rename(name, info) {
                let shard = source.shards().get(part.shard);
                let within = shard
                    .and_then(|shard| source::range(shard, part.offset, part.bytes))
                    .is_some();
                if !within || tensors.contains_key(&new) {
                    return Err(WeightsError::Tensor {
                        file: source.origin(),
                        tensor: name.to_string(),
                        why: format!("it cannot serve as {new}, or another one does"),
                    });
                }
                tensors.insert(new, part);
            }
        }
        Ok(Renamed {
            shards: source.shards().to_vec(),
            tensors,
        })
    }
}

impl TensorSource for Renamed {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    fn shards(&self) -> &[Shard] {
        &self.shards
    }
}
