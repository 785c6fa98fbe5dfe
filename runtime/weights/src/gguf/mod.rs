//! GGUF files: metadata, and tensors under the names that the file gives them.
//!
//! Decides which files of a split model are opened and which tensor lies where. Must not know
//! what keys and names mean: `hadal_models::gguf` does. Read [`Gguf`] first. Source: the GGUF
//! specification (ggml repository, docs/gguf.md), versions 2 and 3.

mod header;
mod value;

use std::path::{Path, PathBuf};

use hadal_device::Pages;
use indexmap::IndexMap;

pub use header::gguf_number;
pub use value::{GgufValue, Metadata};

use header::Header;

use crate::index::MAX_FILES;
use crate::{Result, Shard, TensorInfo, TensorSource, WeightsError, map, source};

/// An opened GGUF model: headers read and checked, data untouched.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
    shards: Vec<Shard>,
    tensors: IndexMap<String, TensorInfo>,
}

impl Gguf {
    /// Opens `path`, and the other files of a model that is split (`-00001-of-00009.gguf`),
    /// whichever of them it is. Files are memory-mapped; they must not be changed meanwhile.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        let paths = parts(path.as_ref())?;
        let missing = paths.iter().filter(|path| !path.exists());
        let missing: Vec<String> = missing.map(|path| name_of(path)).collect();
        if paths.len() > 1 && !missing.is_empty() {
            return Err(WeightsError::MissingParts { missing });
        }
        let shards = paths.into_iter().map(open_shard);
        Gguf::from_shards(shards.collect::<Result<_>>()?)
    }

    /// As [`Gguf::open`], also where parts are not here or not all there, whose names come with
    /// it. The first one must have its header. Of tensors that are not there no bytes can be read.
    ///
    /// # Errors
    /// Those of [`Gguf::open`], but for such parts.
    pub fn open_partly(path: impl AsRef<Path>) -> Result<(Gguf, Vec<String>)> {
        let paths = parts(path.as_ref())?;
        let count = paths.len();
        let mut gguf = Gguf {
            metadata: Metadata::default(),
            shards: Vec::new(),
            tensors: IndexMap::new(),
        };
        let mut lacking = Vec::new();
        for (number, path) in paths.into_iter().enumerate() {
            let name = name_of(&path);
            if number > 0 && !path.exists() {
                lacking.push(name);
                continue;
            }
            let shard = open_shard(path)?;
            let length = shard.bytes().len() as u64;
            let header = header::read(&name, shard.bytes(), gguf.shards.len(), u64::MAX);
            let header = match header {
                // The first says what the model is; of others not even the header may be there.
                Err(_) if number > 0 => {
                    lacking.push(name);
                    continue;
                }
                header => header?,
            };
            let ends = header
                .tensors
                .iter()
                .map(|(_, info)| info.offset + info.bytes);
            if ends.max().is_some_and(|end| end > length) {
                lacking.push(name);
            }
            gguf.add(shard, header, number, count)?;
        }
        match lacking.is_empty() {
            true => gguf.check_count().map(|gguf| (gguf, lacking)),
            false => Ok((gguf, lacking)),
        }
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
        let mut gguf = Gguf {
            metadata: Metadata::default(),
            shards: Vec::new(),
            tensors: IndexMap::new(),
        };
        let count = shards.len();
        for (number, shard) in shards.into_iter().enumerate() {
            let length = shard.bytes().len() as u64;
            let header = header::read(&shard.name, shard.bytes(), number, length)?;
            gguf.add(shard, header, number, count)?;
        }
        gguf.check_count()
    }

    /// Adds part `number` of `count`.
    fn add(&mut self, shard: Shard, header: Header, number: usize, count: usize) -> Result<()> {
        check_part(&shard, &header.metadata, number, count)?;
        if number == 0 {
            self.metadata = header.metadata;
        }
        for (name, info) in header.tensors {
            if self.tensors.contains_key(&name) {
                return Err(WeightsError::Tensor {
                    file: shard.name,
                    tensor: name,
                    why: "its name comes twice".into(),
                });
            }
            self.tensors.insert(name, info);
        }
        self.shards.push(shard);
        Ok(())
    }

    /// All tensors that the first part promises are there.
    fn check_count(self) -> Result<Gguf> {
        let found = self.tensors.len();
        match self.metadata.whole("split.tensors.count") {
            Some(wanted) if wanted != found as u64 && self.shards.len() > 1 => {
                let why = format!("it says {wanted} tensors, and {found} are there");
                Err(damaged(&self.shards[0].name, why))
            }
            _ => Ok(self),
        }
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

fn name_of(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.unwrap_or_default().into_owned()
}

fn open_shard(path: PathBuf) -> Result<Shard> {
    let (file, pages) = map::map(&path).map_err(|source| WeightsError::Io {
        file: path.display().to_string(),
        source,
    })?;
    Ok(Shard {
        name: name_of(&path),
        path: Some(path),
        pages,
        file,
    })
}

/// What all parts of a model have in common in the names of their files; of a model that is not
/// split the whole name.
pub fn gguf_stem(name: &str) -> &str {
    split_name(name).map_or(name, |(stem, _)| stem)
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
    tensors: IndexMap<String, TensorInfo>,
}

impl Renamed {
    /// The tensors of `source` as `rename` describes each: names and infos that lie within it.
    ///
    /// # Errors
    /// Two tensors under one name, or one that is not within its shard.
    pub fn new(source: &dyn TensorSource, rename: &Rename<'_>) -> Result<Renamed> {
        let mut tensors = IndexMap::new();
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
