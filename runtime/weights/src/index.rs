//! `model.safetensors.index.json`: which file each tensor lies in.
//!
//! Decides which names of files are allowed: a plain name in the index's own folder, so that
//! a checkpoint from anywhere cannot make the runtime read other files. Names are taken from
//! here and never built. Must not open what it names.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::{Result, WeightsError, file};

/// Name of the index within a checkpoint folder.
pub(crate) const INDEX_NAME: &str = "model.safetensors.index.json";

/// Largest index; the one of the 671B checkpoint has 9 MB.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Most files of a checkpoint; the largest published one has 163. Each may become a slot of a
/// program, whose number has 16 bits.
pub(crate) const MAX_FILES: usize = 16_384;

/// A checked index. Files are numbered in the order of their names.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    files: Vec<String>,
    /// The number of each tensor's file.
    tensors: IndexMap<String, usize>,
}

impl Index {
    /// The index in `folder`; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn open(folder: &Path) -> Result<Option<Index>> {
        let path = folder.join(INDEX_NAME);
        // What is there and cannot be used gets its own error.
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let text =
            file::read_bounded(&path, MAX_INDEX_BYTES).map_err(|source| WeightsError::Io {
                file: path.display().to_string(),
                source,
            })?;
        read(path, &text).map(Some)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, in order of name.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file of a tensor.
    pub fn file_of(&self, tensor: &str) -> Option<&str> {
        let number = self.tensors.get(tensor)?;
        Some(&self.files[*number])
    }

    /// Tensors and the numbers of their files.
    pub(crate) fn into_tensors(self) -> impl Iterator<Item = (String, usize)> {
        self.tensors.into_iter()
    }
}

#[derive(Deserialize)]
struct Json {
    weight_map: WeightMap,
}

/// Tensors, and the files that they lie in; many name one file, which is kept once.
#[derive(Default)]
struct WeightMap {
    files: Vec<String>,
    tensors: IndexMap<String, usize>,
}

/// A text that is only copied if it has escapes.
#[derive(Deserialize)]
pub(crate) struct Text<'t>(#[serde(borrow)] pub(crate) Cow<'t, str>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors and their files")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<WeightMap, A::Error> {
                let mut read = WeightMap::default();
                let mut numbers: HashMap<Cow<'de, str>, usize> = HashMap::new();
                while let Some((tensor, Text(file))) = map.next_entry::<String, Text<'de>>()? {
                    let number = numbers.get(&file).copied().unwrap_or_else(|| {
                        read.files.push(file.to_string());
                        numbers.insert(file, read.files.len() - 1);
                        read.files.len() - 1
                    });
                    read.tensors.insert(tensor, number);
                }
                Ok(read)
            }
        }
        from.deserialize_map(Reader)
    }
}

/// Reads the index at `path`.
fn read(path: PathBuf, text: &[u8]) -> Result<Index> {
    let file = path.display().to_string();
    let damaged = |why: String| WeightsError::File {
        file: file.clone(),
        why,
    };
    let json: Json = serde_json::from_slice(text)
        .map_err(|error| damaged(format!("it is not an index of tensors ({error})")))?;
    let WeightMap { files, mut tensors } = json.weight_map;
    for (number, name) in files.iter().enumerate() {
        let Some(why) = refusal(name) else { continue };
        let tensor = tensors.iter().find(|(_, file)| **file == number);
        let name: String = name.chars().take(80).collect();
        return Err(WeightsError::Tensor {
            file: file.clone(),
            tensor: tensor.map_or_else(String::new, |(tensor, _)| tensor.clone()),
            why: format!("it is said to lie in `{name}`, {why}"),
        });
    }
    if files.is_empty() {
        return Err(damaged("it names no file".into()));
    }
    if files.len() > MAX_FILES {
        return Err(damaged(format!(
            "it names {} files, and {MAX_FILES} are allowed",
            files.len()
        )));
    }
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|number| &files[*number]);
    let mut places = vec![0; files.len()];
    for (place, number) in order.iter().enumerate() {
        places[*number] = place;
    }
    tensors.values_mut().for_each(|file| *file = places[*file]);
    Ok(Index {
        files: order
            .into_iter()
            .map(|number| files[number].clone())
            .collect(),
        path,
        tensors,
    })
}

/// Why a name is not that of a file in this folder.
fn refusal(name: &str) -> Option<&'static str> {
    // `:` also covers drives and alternate streams of Windows, `\` its separators.
    if name.contains(['/', '\\', ':']) {
        Some("but files must lie in the folder of the index itself")
    } else if name.chars().any(char::is_control) {
        Some("but names must be printable")
    } else if !name.ends_with(".safetensors") || name.starts_with('.') || name.len() > 255 {
        Some("but names must end in .safetensors")
    } else {
        None
    }
}
