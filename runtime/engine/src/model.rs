//! A model as files: config, weights, text side, and its graphs. Knows no device.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use hadal_device::DType;
use hadal_graph::{ActScale, Graph, Verified};
use hadal_models::manifest::mtp_copies;
use hadal_models::{Config, Outputs};
use hadal_tokens::TextModel;
use hadal_weights::{Bound, Checkpoint, Declared, FileType, TensorSource};

use crate::{EngineError, Result};

/// An opened model: everything that does not depend on a device.
pub struct Model {
    /// The checked configuration.
    pub config: Config,
    /// Its tensors.
    pub source: Arc<dyn TensorSource>,
    /// Tokenizer and chat template; an error text if the checkpoint has none.
    pub text: std::result::Result<TextModel, String>,
    /// Every weight the graphs read.
    pub declared: Vec<Declared>,
    /// Where they lie in the files.
    pub(crate) bound: Bound,
}

/// The configuration in a `config.json`; errors name the file.
pub(crate) fn config_of(file: &Path) -> Result<Config> {
    let name = file.display().to_string();
    match hadal_weights::read_text(file, Config::MAX_JSON_BYTES) {
        Ok(text) => Ok(Config::from_json(&text).map_err(|error| error.of(&name))?),
        Err(source) => Err(EngineError::Io { path: name, source }),
    }
}

impl Model {
    /// Opens a checkpoint folder, or a GGUF file (of a model in parts, any of them), and checks
    /// it both ways against its config.
    pub fn open(dir: &Path) -> Result<Model> {
        if let Some(file) = crate::gguf::gguf_file(dir)? {
            return crate::gguf::open(&file);
        }
        let config = config_of(&dir.join("config.json"))?;
        let source = Arc::new(Checkpoint::open(dir)?);
        let text = TextModel::open(dir).map_err(|error| error.to_string());
        Model::new(config, source, text)
    }

    /// A model from its parts: embedded bytes, or made-up weights.
    pub fn new(
        config: Config,
        source: Arc<dyn TensorSource>,
        text: std::result::Result<TextModel, String>,
    ) -> Result<Model> {
        let mut model = Model {
            config,
            source,
            text,
            declared: Vec::new(),
            bound: Bound::default(),
        };
        model.declared = model.declare()?;
        model.bound = hadal_weights::bind(&model.declared, model.source.as_ref())?;
        Ok(model)
    }

    /// The text side, or why there is none.
    pub fn text(&self) -> Result<&TextModel> {
        self.text
            .as_ref()
            .map_err(|why| EngineError::NoText(why.clone()))
    }

    /// The main model's graph, or that of a next-token module.
    pub(crate) fn graph(&self, kind: Kind, outputs: Outputs) -> Result<Verified<Graph>> {
        let types = |name: &str| Some(dtype_of(self.source.as_ref(), name));
        Ok(match kind {
            Kind::Main => hadal_models::build(&self.config, &types, outputs)?,
            Kind::Next(module) => hadal_models::build_mtp(&self.config, module, &types, outputs)?,
        })
    }
}

/// Whose graph: the main model's or that of a next-token module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The main model.
    Main,
    /// Next-token module of this index.
    Next(u32),
}

impl Model {
    /// Every weight of all graphs, and the copies that files may carry.
    fn declare(&self) -> Result<Vec<Declared>> {
        let modules = 0..self.config.num_nextn_predict_layers;
        let mut seen = HashSet::new();
        let mut declared = Vec::new();
        for kind in std::iter::once(Kind::Main).chain(modules.map(Kind::Next)) {
            for weight in self.graph(kind, Outputs::Hidden)?.weights() {
                if seen.insert(weight.name.clone()) {
                    declared.push(Declared {
                        experts: weight.experts,
                        ..Declared::new(weight.name, &weight.shape)
                    });
                }
            }
        }
        let copies = mtp_copies(&self.config).into_iter();
        declared.extend(copies.map(|copy| Declared::alias(copy.name, copy.of, &copy.shape)));
        Ok(declared)
    }

    /// Scales that activations take when they are quantised as in training.
    pub(crate) fn act_scale(&self) -> ActScale {
        match self.config.fp8 {
            Some(fp8) if fp8.power_of_two_scales => ActScale::Ue8m0,
            _ => ActScale::F32,
        }
    }
}

/// Format of a tensor, or of the first of an expert table. A missing tensor is taken for
/// BF16 here: binding reports all that are missing at once.
fn dtype_of(source: &dyn TensorSource, name: &str) -> DType {
    let first = name.replace("{}", "0");
    match source.get(&first).map(|info| info.dtype) {
        Some(FileType::Weight(dtype)) => dtype,
        _ => DType::Bf16,
    }
}
