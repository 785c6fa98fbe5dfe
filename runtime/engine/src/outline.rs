//! A model from its headers, or from its config alone: what planning needs, and no more. No
//! weight is read and no tokenizer opened.
//!
//! Decides what the tensors of absent weights are taken to be: the published list, in the
//! format that the config says, or the index where there is one. `partly.rs` does it for GGUF.

mod partly;

use std::path::Path;
use std::sync::Arc;

use hadal_models::Config;
use hadal_models::manifest::official_manifest;
use hadal_weights::{Checkpoint, Index, Outline, OutlineTensor, SCALE_SUFFIX, TensorSource};
use serde::{Deserialize, Serialize};

use crate::model::config_of;
use crate::{Model, Result};

/// What is known of a model's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Described {
    /// The headers of all files.
    Headers,
    /// An index that names the tensors; their shapes follow from the config.
    Index,
    /// Only the config: the published list of tensors.
    Config,
    /// Some of the parts of a GGUF file: tensors of the others as its recipe has them.
    Parts,
}

/// The model of a GGUF file, of a checkpoint's folder or of a config.json, whose weights may be absent, and
/// what is known of them. It can be planned; it has no text side, and of absent weights no
/// engine can be made.
///
/// # Errors
/// Those of [`Model::open`], but for missing files.
pub fn describe(path: &Path) -> Result<(Model, Described)> {
    if let Some(file) = crate::gguf_file(path)? {
        return partly::describe(&file);
    }
    let (folder, file) = match path.is_dir() {
        true => (Some(path), path.join("config.json")),
        false => (None, path.to_path_buf()),
    };
    let config = config_of(&file)?;
    let (source, described) = source(&config, folder, &file)?;
    let no_text = Err("only the headers of the model were opened".to_string());
    Ok((Model::new(config, source, no_text)?, described))
}

fn source(
    config: &Config,
    folder: Option<&Path>,
    file: &Path,
) -> Result<(Arc<dyn TensorSource>, Described)> {
    let Some(folder) = folder else {
        return Ok((Arc::new(published(config, file)?), Described::Config));
    };
    let is_there = |name: &String| folder.join(name).is_file();
    Ok(match Index::open(folder)? {
        Some(index) if index.files().iter().all(is_there) => {
            let checkpoint = Checkpoint::open_indexed(folder, index)?;
            (Arc::new(checkpoint), Described::Headers)
        }
        Some(index) => (Arc::new(indexed(config, &index)?), Described::Index),
        None if folder.join("model.safetensors").is_file() => {
            (Arc::new(Checkpoint::open(folder)?), Described::Headers)
        }
        None => (Arc::new(published(config, file)?), Described::Config),
    })
}

/// The published tensors of a configuration, all in one file.
fn published(config: &Config, origin: &Path) -> Result<Outline> {
    let tensors = official_manifest(config).into_iter();
    let tensors = tensors.map(|tensor| OutlineTensor {
        bytes: tensor.bytes(),
        name: tensor.name,
        shape: tensor.shape,
        dtype: tensor.dtype,
        file: "model.safetensors".to_string(),
    });
    Ok(Outline::new(origin.display().to_string(), tensors)?)
}

/// Those of them that the index names. An index without block scales is that of a BF16 copy,
/// whatever the config says.
fn indexed(config: &Config, index: &Index) -> Result<Outline> {
    let mut config = config.clone();
    if !index.names().any(|name| name.ends_with(SCALE_SUFFIX)) {
        config.fp8 = None;
    }
    let tensors = official_manifest(&config).into_iter();
    let tensors = tensors.filter_map(|tensor| {
        Some(OutlineTensor {
            bytes: tensor.bytes(),
            file: index.file_of(&tensor.name)?.to_string(),
            name: tensor.name,
            shape: tensor.shape,
            dtype: tensor.dtype,
        })
    });
    Ok(Outline::new(index.path().display().to_string(), tensors)?)
}
