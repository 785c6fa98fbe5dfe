//! A model from its headers, or from its config alone: what planning needs, and no more. No
//! weight is read and no tokenizer opened.
//!
//! Decides what the tensors of absent weights are taken to be: the published list, in the
//! format that the config says, or the index where there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hadal_models::Config;
use hadal_models::manifest::official_manifest;
use hadal_weights::{Checkpoint, Outline, OutlineTensor, SCALE_SUFFIX, TensorSource, index_of};
use serde::{Deserialize, Serialize};

use crate::{EngineError, Model, Result};

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
}

/// The model of a GGUF file, of a checkpoint's folder or of a config.json, whose weights may be absent, and
/// what is known of them. It can be planned; it has no text side, and of absent weights no
/// engine can be made.
///
/// # Errors
/// Those of [`Model::open`], but for missing files.
pub fn describe(path: &Path) -> Result<(Model, Described)> {
    if let Some(file) = crate::gguf_file(path) {
        return Ok((crate::gguf::without_text(&file)?, Described::Headers));
    }
    let (folder, file) = match path.is_dir() {
        true => (Some(path), path.join("config.json")),
        false => (None, path.to_path_buf()),
    };
    let text = hadal_weights::read_text(&file, Config::MAX_JSON_BYTES).map_err(|source| {
        EngineError::Io {
            path: file.display().to_string(),
            source,
        }
    })?;
    let config = Config::from_json(&text)?;
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
    let index = index_of(folder)?;
    let is_there = |name: &str| folder.join(name).is_file();
    match index {
        Some(index) if !index.values().all(|file| is_there(file)) => {
            let outline = indexed(config, &index, folder.join("model.safetensors.index.json"))?;
            Ok((Arc::new(outline), Described::Index))
        }
        None if !is_there("model.safetensors") => {
            Ok((Arc::new(published(config, file)?), Described::Config))
        }
        _ => Ok((Arc::new(Checkpoint::open(folder)?), Described::Headers)),
    }
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
fn indexed(
    config: &Config,
    index: &std::collections::BTreeMap<String, String>,
    origin: PathBuf,
) -> Result<Outline> {
    let mut config = config.clone();
    if !index.keys().any(|name| name.ends_with(SCALE_SUFFIX)) {
        config.fp8 = None;
    }
    let tensors = official_manifest(&config).into_iter();
    let tensors = tensors.filter_map(|tensor| {
        Some(OutlineTensor {
            bytes: tensor.bytes(),
            file: index.get(&tensor.name)?.clone(),
            name: tensor.name,
            shape: tensor.shape,
            dtype: tensor.dtype,
        })
    });
    Ok(Outline::new(origin.display().to_string(), tensors)?)
}
