//! Models in GGUF files: configuration, weights and text side out of one file or its parts.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hadal_models::gguf;
use hadal_tokens::{GgufText, TextModel};
use hadal_weights::{Gguf, Metadata, Renamed, TensorSource, gguf_stem};

use crate::{EngineError, Model, Result};

/// The GGUF file that `path` means: itself, whatever it is called, or what a folder without a
/// `config.json` holds.
///
/// # Errors
/// A folder with the files of several models.
pub fn gguf_file(path: &Path) -> Result<Option<PathBuf>> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|end| end == "gguf");
    if !path.is_dir() {
        let is_one = is_gguf(path) || begins_as_gguf(path);
        return Ok(is_one.then(|| path.to_path_buf()));
    }
    let Some(entries) = std::fs::read_dir(path).ok() else {
        return Ok(None);
    };
    if path.join("config.json").exists() {
        return Ok(None);
    }
    let files = entries.flatten().map(|entry| entry.path());
    let files: BTreeSet<PathBuf> = files.filter(|it| is_gguf(it)).collect();
    let name = |file: &PathBuf| {
        file.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let names: Vec<String> = files.iter().filter_map(name).collect();
    let models: BTreeSet<&str> = names.iter().map(|name| gguf_stem(name)).collect();
    if models.len() > 1 {
        return Err(EngineError::Option(format!(
            "{} holds several models: {}; give the file of one of them",
            path.display(),
            names.join(", ")
        )));
    }
    // Of the parts of a model, any will do.
    Ok(files.into_iter().next())
}

fn begins_as_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    // Asked first: reading from a pipe would wait for a writer.
    let file = path.is_file().then(|| File::open(path).ok()).flatten();
    file.is_some_and(|mut file| file.read_exact(&mut magic).is_ok()) && &magic == b"GGUF"
}

pub(crate) fn open(path: &Path) -> Result<Model> {
    gguf_model(&Gguf::open(path)?)
}

/// The model of an opened GGUF file, with its text side.
///
/// # Errors
/// Damaged files, and architectures that Hadal does not run.
pub fn gguf_model(file: &Gguf) -> Result<Model> {
    let text = text_of(file.metadata()).map_err(|error| error.to_string());
    model(file, text)
}

pub(crate) fn model(file: &Gguf, text: std::result::Result<TextModel, String>) -> Result<Model> {
    let config = gguf::config(file.metadata(), file).map_err(|error| error.of(&file.origin()))?;
    let split = config.split_kv_b;
    let source = Renamed::new(file, &|name, info| gguf::published(name, info, split))?;
    Model::new(config, Arc::new(source), text)
}

/// Only the text side of a GGUF file.
///
/// # Errors
/// Damaged files, and tokenizers that are not supported.
pub fn gguf_text(path: &Path) -> Result<TextModel> {
    text_of(Gguf::open(path)?.metadata())
}

fn text_of(metadata: &Metadata) -> Result<TextModel> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| metadata.whole(&key(name)).and_then(|id| id.try_into().ok());
    let texts = |name: &str| -> Vec<&str> {
        let list = metadata.list(&key(name)).unwrap_or_default();
        list.iter()
            .map(|it| it.as_text().unwrap_or_default())
            .collect()
    };
    let types = metadata.list(&key("token_type")).unwrap_or_default();
    let Some(model) = metadata.text(&key("model")) else {
        let why = "the GGUF file has no tokenizer; use the folder that it was made from";
        return Err(EngineError::NoText(why.into()));
    };
    let adds_bos = metadata.flag(&key("add_bos_token")) != Some(false);
    let stops = ["eos_token_id", "eot_token_id", "eom_token_id"];
    let text = GgufText {
        tokenizer_json: metadata.text("tokenizer.huggingface.json"),
        model,
        pre: metadata.text(&key("pre")).unwrap_or("default"),
        tokens: texts("tokens"),
        types: types.iter().map(|it| it.as_whole().unwrap_or(1)).collect(),
        merges: texts("merges"),
        bos: id("bos_token_id").filter(|_| adds_bos),
        stops: stops.into_iter().filter_map(id).collect(),
        template: metadata.text("tokenizer.chat_template"),
    };
    Ok(TextModel::from_gguf(&text)?)
}
