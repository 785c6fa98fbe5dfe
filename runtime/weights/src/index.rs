//! `model.safetensors.index.json`: which file each tensor lies in.
//!
//! Decides which names of files are allowed: a plain name in the index's own folder, so that
//! a checkpoint from anywhere cannot make the runtime read other files. Names are taken from
//! here and never built. Must not open anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::{Result, WeightsError};

/// Name of the index within a checkpoint folder.
pub(crate) const INDEX_NAME: &str = "model.safetensors.index.json";

/// Largest index; the one of the 671B checkpoint has 9 MB.
pub(crate) const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Most files of a checkpoint; the largest published one has 163. Each may become a slot of a
/// program, whose number has 16 bits.
pub(crate) const MAX_FILES: usize = 16_384;

/// A checked index.
pub(crate) struct Index {
    /// The files, in order of name.
    pub(crate) files: Vec<String>,
    /// Tensor to file.
    pub(crate) weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Json {
    weight_map: BTreeMap<String, String>,
}

/// Reads an index; `file` is its name for messages.
pub(crate) fn read(file: &str, text: &[u8]) -> Result<Index> {
    let damaged = |why: String| WeightsError::File {
        file: file.to_string(),
        why,
    };
    let json: Json = serde_json::from_slice(text)
        .map_err(|error| damaged(format!("it is not an index of tensors ({error})")))?;
    for (tensor, name) in &json.weight_map {
        if let Some(why) = refusal(name) {
            let name: String = name.chars().take(80).collect();
            return Err(WeightsError::Tensor {
                file: file.to_string(),
                tensor: tensor.clone(),
                why: format!("it is said to lie in `{name}`, {why}"),
            });
        }
    }
    let files: BTreeSet<&String> = json.weight_map.values().collect();
    if files.is_empty() {
        return Err(damaged("it names no file".into()));
    }
    if files.len() > MAX_FILES {
        return Err(damaged(format!(
            "it names {} files, and {MAX_FILES} are allowed",
            files.len()
        )));
    }
    let files = files.into_iter().cloned().collect();
    Ok(Index {
        files,
        weight_map: json.weight_map,
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
