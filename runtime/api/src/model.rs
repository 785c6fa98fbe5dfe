//! A model as files: from a path, from memory, or the one that ships.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hadal_device::Pages;
use hadal_engine::plan::Ask;
use hadal_engine::{Cancel, Plan, Progress, gguf_model};
use hadal_models::Config;
use hadal_tokens::{GenerationConfig, TextModel};
use hadal_weights::{Checkpoint, Gguf};

use crate::guard::{guarded, guarded_telling};
use crate::load::{self, LoadOptions, Loading};
use crate::{Engine, Error, Result};

/// An opened model: its configuration and tokenizer were read, its weights only looked up.
/// Cloning shares it.
#[derive(Clone)]
pub struct Model {
    pub(crate) inner: Arc<hadal_engine::Model>,
    name: Arc<str>,
}

/// A model's files in memory. What is not a vector is used where it lies, without a copy: a
/// memory map, bytes of the program (`Arc::new(BYTES)` of a `&'static [u8]`).
pub enum ModelBytes {
    /// Files as published for Python.
    Safetensors {
        /// Text of config.json.
        config: String,
        /// Name and content of each `.safetensors` file.
        weights: Vec<(String, Pages)>,
        /// Content of tokenizer.json.
        tokenizer: Option<Vec<u8>>,
        /// Content of tokenizer_config.json.
        tokenizer_config: Option<Vec<u8>>,
        /// Content of generation_config.json.
        generation_config: Option<Vec<u8>>,
    },
    /// A GGUF file, or all parts of one: name and content.
    Gguf(Vec<(String, Pages)>),
}

impl Model {
    /// Opens a folder as published (config.json, tokenizer.json, `*.safetensors`), or a GGUF
    /// file (of a model in parts, any of them). Weights are memory-mapped: the files must not
    /// change while the model is used.
    ///
    /// # Errors
    /// Missing and damaged files, models that are not supported. Without a usable tokenizer
    /// it opens, and only token ids can be given.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or(path.as_os_str());
        guarded(|| {
            let model = hadal_engine::Model::open(path)?;
            Ok(Model::of(model, &name.to_string_lossy()))
        })
    }

    /// Opens a model whose files are in memory.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(name: &str, bytes: ModelBytes) -> Result<Model> {
        guarded(|| Ok(Model::of(read(bytes)?, name)))
    }

    /// The small model that is part of the library: the complete architecture in 11 MB.
    ///
    /// # Errors
    /// [`crate::ErrorCode::NotBuilt`] without the feature `tiny`.
    #[cfg(feature = "tiny")]
    pub fn shipped() -> Result<Model> {
        let weights: Pages = Arc::new(hadal_tiny::WEIGHTS);
        Model::from_bytes(
            hadal_tiny::NAME,
            ModelBytes::Safetensors {
                config: hadal_tiny::CONFIG.to_string(),
                weights: vec![("embedded model".to_string(), weights)],
                tokenizer: Some(hadal_tiny::TOKENIZER.to_vec()),
                tokenizer_config: Some(hadal_tiny::TOKENIZER_CONFIG.to_vec()),
                generation_config: Some(hadal_tiny::GENERATION_CONFIG.to_vec()),
            },
        )
    }

    /// The small model that ships; this build was made without it.
    ///
    /// # Errors
    /// [`crate::ErrorCode::NotBuilt`].
    #[cfg(not(feature = "tiny"))]
    pub fn shipped() -> Result<Model> {
        let why = "this build has no model inside; it lacks the feature `tiny`";
        Err(Error::new(crate::ErrorCode::NotBuilt, why))
    }

    fn of(model: hadal_engine::Model, name: &str) -> Model {
        Model {
            inner: Arc::new(model),
            name: name.into(),
        }
    }

    /// What people call it: the last part of its path, or the name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its checked configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Its tokenizer, template and recommended sampling.
    ///
    /// # Errors
    /// [`crate::ErrorCode::NoText`] with the reason.
    pub fn text(&self) -> Result<&TextModel> {
        Ok(self.inner.text()?)
    }

    /// Whether messages can be given: it has a tokenizer and a chat template.
    pub fn can_chat(&self) -> bool {
        self.text().is_ok_and(TextModel::has_chat_template)
    }

    /// The engine's own view of it.
    pub fn engine_model(&self) -> &Arc<hadal_engine::Model> {
        &self.inner
    }

    /// Where everything would lie and whether it fits, before anything is allocated. That it
    /// does not fit is no error: [`Plan::fits`] says it, [`Plan::nearest`] what would.
    ///
    /// # Errors
    /// No such device; options that cannot be.
    pub fn plan(&self, options: &LoadOptions) -> Result<Plan> {
        let info = options.device.info(&options.device_options)?;
        let (model, options) = (&self.inner, options.engine_options());
        guarded(|| Ok(Plan::of(model, &info, &options, &Ask::default())?))
    }

    /// Puts it on a device; waits until it is there.
    ///
    /// # Errors
    /// [`crate::ErrorCode::WouldNotFit`] before a weight is read, no such device, those of the
    /// device.
    pub fn load(&self, options: LoadOptions) -> Result<Engine> {
        self.load_with(options, &Cancel::new(), &mut |_| ControlFlow::Continue(()))
    }

    /// [`Model::load`] that tells how far it is and stops when `progress` or `cancel` says so;
    /// nothing stays allocated then.
    ///
    /// # Errors
    /// As [`Model::load`], and [`crate::ErrorCode::Cancelled`].
    pub fn load_with(
        &self,
        options: LoadOptions,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Engine> {
        guarded_telling(progress, |progress| {
            load::run(self, options, cancel, progress)
        })
    }

    /// Begins to load on a thread `hadal-load` and returns at once.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub fn load_in_background(&self, options: LoadOptions) -> Result<Loading> {
        Loading::begin(self.clone(), options)
    }
}

fn text(
    tokenizer: &[u8],
    config: Option<&[u8]>,
    generation: Option<&[u8]>,
) -> std::result::Result<TextModel, Error> {
    let mut text = TextModel::from_bytes(tokenizer, config, None)?;
    if let Some(bytes) = generation {
        text.set_generation(GenerationConfig::from_bytes(bytes)?);
    }
    Ok(text)
}

fn read(bytes: ModelBytes) -> Result<hadal_engine::Model> {
    Ok(match bytes {
        ModelBytes::Gguf(parts) => gguf_model(&Gguf::from_pages(parts)?)?,
        ModelBytes::Safetensors {
            config,
            weights,
            tokenizer,
            tokenizer_config,
            generation_config,
        } => {
            let config = Config::from_json(&config)?;
            let source = Arc::new(Checkpoint::from_pages(weights)?);
            let text = match tokenizer {
                None => Err("no tokenizer was given with the model".to_string()),
                Some(json) => text(
                    &json,
                    tokenizer_config.as_deref(),
                    generation_config.as_deref(),
                )
                .map_err(|error| error.to_string()),
            };
            hadal_engine::Model::new(config, source, text)?
        }
    })
}
