//! Ties the weights a model declares to the tensors of a checkpoint, both ways: every weight
//! is there with its shape, a fitting number format and its block scales, and every tensor
//! is used.
//!
//! Decides what fits. The number format of a weight is that of its tensor, whatever
//! `quantization_config` says: FP8 files also run without that key and BF16 copies of FP8
//! models with it, as converted checkpoints are found. Scales make the difference safe: FP8
//! without scales, and scales without FP8, are refused. Reads no data (see `values.rs`) and
//! must not know any model: which weights there are is the caller's list. The type [`Bound`]
//! is the proof that later phases ask for.

use std::collections::{BTreeMap, HashSet};

use hadal_device::{DType, SCALE_BLOCK};

use crate::source::layer_of;
use crate::{FileType, Problem, Result, TensorInfo, TensorSource, WeightsError};

/// Most disagreements that one error repeats.
const MAX_PROBLEMS: usize = 20;

/// Ending of the block scales that belong to a tensor.
pub const SCALE_SUFFIX: &str = "_scale_inv";

/// Tensors that some exports carry and nobody needs.
const IGNORED_SUFFIX: &str = ".rotary_emb.inv_freq";

/// A weight that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Name in the files; for experts, `{}` stands for the expert's index.
    pub name: String,
    /// Shape of one tensor: `[out, in]`, or `[n]`.
    pub shape: Vec<u32>,
    /// For a table of experts: how many.
    pub experts: Option<u32>,
    /// The declared weight that this one repeats. It may be missing, and is never loaded.
    pub alias_of: Option<String>,
}

impl Declared {
    /// A single weight.
    pub fn new(name: impl Into<String>, shape: &[u32]) -> Declared {
        Declared {
            name: name.into(),
            shape: shape.to_vec(),
            experts: None,
            alias_of: None,
        }
    }

    /// One matrix `[out, in]` for each of `experts` experts; `name` holds a `{}`.
    pub fn table(name: impl Into<String>, experts: u32, shape: [u32; 2]) -> Declared {
        Declared {
            experts: Some(experts),
            ..Declared::new(name, &shape)
        }
    }

    /// A tensor that repeats the declared weight `of`.
    pub fn alias(name: impl Into<String>, of: impl Into<String>, shape: &[u32]) -> Declared {
        Declared {
            alias_of: Some(of.into()),
            ..Declared::new(name, shape)
        }
    }

    /// The tensor of expert `expert`.
    fn expert_name(&self, expert: u32) -> String {
        self.name.replacen("{}", &expert.to_string(), 1)
    }
}

/// A tensor's place in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Index into [`TensorSource::shards`].
    pub shard: usize,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl From<&TensorInfo> for Stored {
    fn from(info: &TensorInfo) -> Stored {
        Stored {
            shard: info.shard,
            offset: info.offset,
            bytes: info.bytes,
        }
    }
}

/// A declared weight and where its numbers lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundWeight {
    /// As declared.
    pub name: String,
    /// As declared: of one tensor.
    pub shape: Vec<u32>,
    /// As declared.
    pub experts: Option<u32>,
    /// As the files have it; the same for all experts of a table.
    pub dtype: DType,
    /// The tensor, or one for each expert.
    pub data: Vec<Stored>,
    /// Block scales of each of `data`, `f32` `[ceil(out/128), ceil(in/128)]`; empty unless
    /// the weight is FP8.
    pub scales: Vec<Stored>,
}

impl BoundWeight {
    /// The name of tensor `index` of `data`.
    pub fn tensor_name(&self, index: usize) -> String {
        match self.experts {
            Some(_) => self.name.replacen("{}", &index.to_string(), 1),
            None => self.name.clone(),
        }
    }
}

/// Weights of a model, all found. Aliases are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// In the order they were declared.
    pub weights: Vec<BoundWeight>,
}

/// Ties `declared` to the tensors of `source`, or lists what does not fit
/// ([`WeightsError::Mismatch`], all of it up to 20 lines). Reads headers only.
pub fn bind(declared: &[Declared], source: &dyn TensorSource) -> Result<Bound> {
    let mut binder = Binder {
        source,
        used: HashSet::new(),
        problems: Vec::new(),
        more: 0,
    };
    let mut bound = Bound::default();
    for weight in declared {
        if weight.alias_of.is_some() {
            binder.alias(weight);
        } else if let Some(found) = binder.weight(weight) {
            bound.weights.push(found);
        }
    }
    binder.leftovers(declared);
    if binder.problems.is_empty() {
        Ok(bound)
    } else {
        Err(WeightsError::Mismatch {
            problems: binder.problems,
            more: binder.more,
        })
    }
}

struct Binder<'s> {
    source: &'s dyn TensorSource,
    /// Descriptions of tensors that something asked for, by address: names of a hundred
    /// thousand would take as much memory as all else.
    used: HashSet<*const TensorInfo>,
    problems: Vec<Problem>,
    more: usize,
}

impl<'s> Binder<'s> {
    /// Notes what is wrong with a tensor that is there, or with one that is not.
    fn problem(&mut self, tensor: impl Into<String>, info: Option<&TensorInfo>, what: String) {
        if self.problems.len() == MAX_PROBLEMS {
            self.more += 1;
            return;
        }
        let file = match info {
            Some(info) => {
                let shard = self.source.shards().get(info.shard);
                shard.map(|shard| shard.name.clone())
            }
            None => Some(self.source.origin()),
        };
        self.problems.push(Problem {
            tensor: tensor.into(),
            file,
            what,
        });
    }

    /// The tensor `name`, which something asks for.
    fn used(&mut self, name: &str) -> Option<&'s TensorInfo> {
        let info = self.source.get(name)?;
        self.used.insert(info);
        Some(info)
    }

    fn is_used(&self, name: &str) -> bool {
        let info = self.source.get(name);
        info.is_some_and(|info| self.used.contains(&std::ptr::from_ref(info)))
    }

    /// True if the tensor has this shape.
    fn has_shape(&mut self, name: &str, info: &TensorInfo, shape: &[u32]) -> bool {
        let wanted = shape.iter().map(|edge| u64::from(*edge));
        if info.shape.iter().copied().eq(wanted) {
            return true;
        }
        let what = format!(
            "its shape is {:?}, but the configuration makes it {shape:?}",
            info.shape
        );
        self.problem(name, Some(info), what);
        false
    }

    fn alias(&mut self, weight: &Declared) {
        if let Some(info) = self.used(&weight.name) {
            self.has_shape(&weight.name, info, &weight.shape);
        }
        // Some exports quantise the copy too; its scales go unused with it.
        self.used(&format!("{}{SCALE_SUFFIX}", weight.name));
    }

    fn weight(&mut self, weight: &Declared) -> Option<BoundWeight> {
        let before = self.problems.len() + self.more;
        let names: Vec<String> = match weight.experts {
            Some(experts) => (0..experts)
                .map(|expert| weight.expert_name(expert))
                .collect(),
            None => vec![weight.name.clone()],
        };
        let mut bound = BoundWeight {
            name: weight.name.clone(),
            shape: weight.shape.clone(),
            experts: weight.experts,
            dtype: DType::F32,
            data: Vec::with_capacity(names.len()),
            scales: Vec::new(),
        };
        let mut missing = Vec::new();
        for name in &names {
            match self.used(name) {
                None => missing.push(name.as_str()),
                Some(info) if self.has_shape(name, info, &weight.shape) => {
                    self.tensor(name, info, &mut bound);
                }
                Some(_) => {}
            }
        }
        self.missing(weight, &names, &missing);
        (before == self.problems.len() + self.more).then_some(bound)
    }

    /// One line for any number of missing experts.
    fn missing(&mut self, weight: &Declared, names: &[String], missing: &[&str]) {
        match missing {
            [] => {}
            [only] => self.problem(
                *only,
                None,
                format!(
                    "it is missing; a tensor of shape {:?} is needed",
                    weight.shape
                ),
            ),
            [first, ..] => {
                let what = format!(
                    "{} of {} experts are missing, the first is {first}",
                    missing.len(),
                    names.len()
                );
                self.problem(&weight.name, None, what);
            }
        }
    }

    /// A tensor that is there with the right shape: its format and its scales.
    fn tensor(&mut self, name: &str, info: &TensorInfo, bound: &mut BoundWeight) {
        let matrix = bound.shape.len() == 2;
        let dtype = match info.dtype {
            FileType::Weight(dtype)
                if matrix || !(dtype.has_block_scales() || dtype.is_blocks()) =>
            {
                dtype
            }
            other => {
                let allowed = if matrix {
                    "f8e4m3, bf16, f16, f32 or a block format of GGUF"
                } else {
                    "bf16, f16 or f32"
                };
                let what = format!("its number format {other} is not supported; {allowed} is");
                return self.problem(name, Some(info), what);
            }
        };
        if bound.data.is_empty() {
            bound.dtype = dtype;
        } else if bound.dtype != dtype {
            let what = format!(
                "its number format is {dtype}, but that of expert 0 is {}",
                bound.dtype
            );
            return self.problem(name, Some(info), what);
        }
        bound.data.push(info.into());
        if dtype.has_block_scales() {
            self.scale(name, info, bound);
        }
    }

    fn scale(&mut self, name: &str, weight: &TensorInfo, bound: &mut BoundWeight) {
        let scale_name = format!("{name}{SCALE_SUFFIX}");
        let shape: Vec<u32> = bound
            .shape
            .iter()
            .map(|edge| edge.div_ceil(SCALE_BLOCK))
            .collect();
        let Some(info) = self.used(&scale_name) else {
            let what = format!(
                "it is missing; {name} is {} and needs f32 scales of shape {shape:?}",
                bound.dtype
            );
            return self.problem(scale_name, Some(weight), what);
        };
        if !self.has_shape(&scale_name, info, &shape) {
            return;
        }
        if info.dtype == FileType::Weight(DType::F32) {
            bound.scales.push(info.into());
        } else {
            let what = format!("its number format is {}, but scales are f32", info.dtype);
            self.problem(scale_name, Some(info), what);
        }
    }

    /// Tensors of the files that nothing asked for.
    fn leftovers(&mut self, declared: &[Declared]) {
        let last = declared
            .iter()
            .filter_map(|weight| layer_of(&weight.name))
            .max();
        let mut beyond: BTreeMap<u32, usize> = BTreeMap::new();
        let source = self.source;
        for (name, info) in source.tensors() {
            if self.used.contains(&std::ptr::from_ref(info)) || name.ends_with(IGNORED_SUFFIX) {
                continue;
            }
            match (layer_of(name), last) {
                (Some(layer), Some(last)) if layer > last => *beyond.entry(layer).or_default() += 1,
                _ => {
                    let what = match name.strip_suffix(SCALE_SUFFIX) {
                        Some(weight) if self.is_used(weight) => {
                            format!("it is not used, since {weight} is not fp8")
                        }
                        _ => "nothing in the configuration asks for this tensor".to_string(),
                    };
                    self.problem(name, Some(info), what);
                }
            }
        }
        for (layer, count) in beyond {
            let what = format!(
                "{count} tensors of a layer that config.json does not have; if it is a next-token-prediction \
                 module, set `num_nextn_predict_layers`, otherwise correct `num_hidden_layers`"
            );
            self.problem(format!("model.layers.{layer}.*"), None, what);
        }
    }
}
