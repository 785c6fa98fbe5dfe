//! A GGUF model of which parts are not here, or not yet all there.
//!
//! Decides what is taken for granted then: the first part says what the model is, and the recipe
//! that it names gives the formats of tensors that nobody has seen.

use std::path::Path;
use std::sync::Arc;

use hadal_models::{Config, gguf};
use hadal_quantize::{Choice, Plan, Planned, RECIPES};
use hadal_weights::{
    FileType, Gguf, Outline, OutlineTensor, Shard, TensorInfo, TensorSource, WeightsError,
};

use super::Described;
use crate::{Model, Result};

/// The model of a GGUF file; its parts may be absent or unfinished.
pub(super) fn describe(file: &Path) -> Result<(Model, Described)> {
    let no_text = Err("only the headers of the model were opened".to_string());
    let (known, lacking) = Gguf::open_partly(file)?;
    if lacking.is_empty() {
        return Ok((crate::gguf::model(&known, no_text)?, Described::Headers));
    }
    let config = gguf::config(known.metadata(), &Promised::of(&known));
    let config = config.map_err(|error| error.of(&known.origin()))?;
    let outline = outline(&known, &config, lacking)?;
    let model = Model::new(config, Arc::new(outline), no_text)?;
    Ok((model, Described::Parts))
}

/// What is known, and of the rest what the recipe of the file makes of it.
fn outline(known: &Gguf, config: &Config, lacking: Vec<String>) -> Result<Outline> {
    let number = known.metadata().whole("general.file_type");
    let recipe = RECIPES
        .iter()
        .find(|it| Some(it.file_type.into()) == number);
    // Older files join keys and values, which no recipe does.
    let Some(recipe) = recipe.filter(|_| config.split_kv_b) else {
        return Err(WeightsError::MissingParts { missing: lacking }.into());
    };
    let plan = Choice::new(recipe.name).and_then(|choice| Plan::of(config, &choice));
    let Ok(plan) = plan else {
        return Err(WeightsError::MissingParts { missing: lacking }.into());
    };
    let absent = plan.tensors.iter().filter(|it| !is_known(known, &it.name));
    let absent = absent.map(|it| (it.name.as_str(), info(it), lacking[0].as_str()));
    let shard = |info: &TensorInfo| known.shards().get(info.shard);
    let here = known.names().filter_map(|name| {
        let info = known.get(name)?;
        Some((name, info.clone(), shard(info)?.name.as_str()))
    });
    let mut tensors = Vec::new();
    for (name, info, file) in here.chain(absent) {
        let FileType::Weight(dtype) = info.dtype else {
            let why = format!("its number format {} is that of no weight", info.dtype);
            return Err(WeightsError::Tensor {
                file: file.to_string(),
                tensor: name.to_string(),
                why,
            }
            .into());
        };
        let published = gguf::published(name, &info, config.split_kv_b).into_iter();
        tensors.extend(published.map(|(name, part)| OutlineTensor {
            name,
            shape: part.shape,
            dtype,
            bytes: part.bytes,
            file: file.to_string(),
        }));
    }
    Ok(Outline::new(known.origin(), tensors)?)
}

/// Whether a tensor of a recipe is here; files have two names for the bias of routers.
fn is_known(known: &Gguf, name: &str) -> bool {
    let other = name.strip_suffix(".bias").unwrap_or(name);
    known.get(name).is_some() || known.get(other).is_some()
}

fn info(planned: &Planned) -> TensorInfo {
    TensorInfo {
        dtype: FileType::Weight(planned.format),
        shape: planned.described().dims.into_iter().rev().collect(),
        shard: 0,
        offset: 0,
        bytes: planned.bytes(),
    }
}

/// The tensors of the parts that are here, and those that the configuration asks for and all
/// files of the architecture have: a head of its own, split keys and values, and with a sigmoid
/// a bias of the routers.
struct Promised<'k> {
    known: &'k Gguf,
    unseen: Vec<(&'static str, TensorInfo)>,
}

impl Promised<'_> {
    fn of(known: &Gguf) -> Promised<'_> {
        let is_here = |name: &str| known.get(name).is_some();
        let biased = known.names().any(|name| name.contains(".exp_probs_b"));
        let sigmoid = known.metadata().whole("deepseek2.expert_gating_func") == Some(2);
        let promised = [
            ("output.weight", !is_here("output.weight")),
            ("blk.0.attn_k_b.weight", !is_here("blk.0.attn_kv_b.weight")),
            ("blk.0.exp_probs_b.bias", sigmoid && !biased),
        ];
        let nothing = TensorInfo {
            dtype: FileType::Other("unseen"),
            shape: Vec::new(),
            shard: 0,
            offset: 0,
            bytes: 0,
        };
        let unseen = promised.into_iter().filter(|(_, unseen)| *unseen);
        Promised {
            known,
            unseen: unseen.map(|(name, _)| (name, nothing.clone())).collect(),
        }
    }
}

impl TensorSource for Promised<'_> {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(
            self.known
                .names()
                .chain(self.unseen.iter().map(|(name, _)| *name)),
        )
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        let unseen = self.unseen.iter().find(|(unseen, _)| *unseen == name);
        self.known.get(name).or(unseen.map(|(_, info)| info))
    }

    fn shards(&self) -> &[Shard] {
        self.known.shards()
    }
}
