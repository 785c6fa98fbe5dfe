//! The tensors of the file: names, formats, places, and where their rows come from.
//!
//! [`Plan::of`] knows them from the configuration alone, so that sizes can be told of models
//! that are not here; [`Plan::new`] sees that a checkpoint has what they are made from.
//!
//! Decides how published tensors become those of GGUF: experts are stacked, the expansion of
//! latents is split, and copies of embedding and head that next-token modules carry are left
//! out, since readers take the originals. Must not know how rows are encoded.

use std::borrow::Cow;

use hadal_device::DType;
use hadal_models::Config;
use hadal_models::gguf::{EXPERTS, PARTS};
use hadal_models::manifest::{ManifestTensor, mtp_copies, visit_manifest};
use hadal_weights::{SCALE_SUFFIX, TensorSource};

use crate::file::{ALIGNMENT, Described};
use crate::recipe::fitting;
use crate::rows::Matrix;
use crate::{Choice, QuantizeError, Result, Role};

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// GGUF name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The format it takes.
    pub format: DType,
    /// The format it would take if its rows were whole blocks.
    pub wanted: DType,
    /// Values of a row.
    pub columns: u64,
    /// Rows of a slice.
    pub rows: u64,
    /// Experts or heads, each a matrix of its own; `None` of what is one matrix, 0 rows of
    /// what is a vector.
    pub slices: Option<u64>,
    /// First byte within the data.
    pub offset: u64,
    /// Bytes that its numbers take in the checkpoint; without one, in the published one.
    pub source_bytes: u64,
    from: From,
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq)]
enum From {
    /// A tensor as it is.
    Whole(String),
    /// A tensor for each slice, whose number stands for `{}`.
    Stack(String),
    /// Of each head's rows, those from the first number on, as many as the slice has.
    Heads(String, Split),
    /// As `Heads`, but with rows and columns exchanged.
    Transposed(String, Split),
}

impl From {
    /// The tensor of a slice.
    fn name(&self, slice: u64) -> Cow<'_, str> {
        match self {
            From::Stack(pattern) => pattern.replacen("{}", &slice.to_string(), 1).into(),
            From::Whole(name) | From::Heads(name, _) | From::Transposed(name, _) => name.into(),
        }
    }
}

/// Rows of a head, and the first of them that is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Split {
    head: u64,
    first: u64,
}

impl Planned {
    /// Values of all slices.
    pub fn values(&self) -> u64 {
        self.columns * self.all_rows()
    }

    /// Rows of all slices.
    pub fn all_rows(&self) -> u64 {
        self.rows * self.slices.unwrap_or(1)
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.all_rows() * self.format.row_bytes(self.columns)
    }

    /// As the header has it.
    pub fn described(&self) -> Described {
        let mut dims = vec![self.columns];
        // A vector has its length only.
        if self.role != Role::Exact || self.rows > 1 {
            dims.push(self.rows);
        }
        dims.extend(self.slices);
        Described {
            name: self.name.clone(),
            dims,
            format: self.format,
            offset: self.offset,
        }
    }

    /// Rows `first..first + count` of slice `slice`, one after the other.
    pub(crate) fn read(
        &self,
        source: &dyn TensorSource,
        slice: u64,
        first: u64,
        count: u64,
    ) -> Result<Vec<f32>> {
        let columns = self.columns as usize;
        let mut values = vec![0f32; count as usize * columns];
        let matrix = Matrix::open(source, &self.from.name(slice))?;
        for (row, to) in (first..).zip(values.chunks_mut(columns)) {
            match &self.from {
                From::Whole(_) | From::Stack(_) => matrix.row(row as usize, to),
                From::Heads(_, split) => {
                    matrix.row((slice * split.head + split.first + row) as usize, to);
                }
                From::Transposed(_, split) => {
                    let head = (slice * split.head + split.first) as usize;
                    for (j, to) in to.iter_mut().enumerate() {
                        *to = matrix.value(head + j, row as usize);
                    }
                }
            }
        }
        Ok(values)
    }
}

/// All tensors, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The tensors.
    pub tensors: Vec<Planned>,
    /// Number of the recipe.
    pub file_type: u32,
    /// Layers of the model, next-token modules included.
    layers: u32,
}

impl Plan {
    /// The tensors of a model in the formats of `choice`.
    ///
    /// # Errors
    /// A tensor that is not there, or that is quantised already.
    pub fn new(config: &Config, source: &dyn TensorSource, choice: &Choice) -> Result<Plan> {
        let mut plan = Plan::of(config, choice)?;
        for tensor in &mut plan.tensors {
            let matrix = Matrix::open(source, &tensor.from.name(0))?;
            let values = (matrix.rows * matrix.columns) as u64;
            let stored = u128::from(matrix.stored_bytes()) * u128::from(tensor.values());
            tensor.source_bytes = (stored / u128::from(values.max(1))) as u64;
        }
        Ok(plan)
    }

    /// The tensors of the published model of this configuration.
    ///
    /// # Errors
    /// A tensor that GGUF has no name for.
    pub fn of(config: &Config, choice: &Choice) -> Result<Plan> {
        let mut planner = Planner {
            config,
            tensors: Vec::new(),
        };
        let copies = mtp_copies(config);
        let mut outcome = Ok(());
        visit_manifest(config, 1, &mut |tensor| {
            let is_copy = copies.iter().any(|copy| copy.name == tensor.name);
            if outcome.is_ok() && !is_copy && !tensor.name.ends_with(SCALE_SUFFIX) {
                outcome = planner.tensor(&tensor);
            }
        });
        outcome?;
        let plan = Plan {
            tensors: planner.tensors,
            file_type: 0,
            layers: config.all_layers(),
        };
        Ok(plan.with(choice))
    }

    /// The same tensors in the formats of another choice.
    pub fn with(mut self, choice: &Choice) -> Plan {
        self.file_type = choice.recipe.file_type;
        let mut offset = 0;
        for tensor in &mut self.tensors {
            let layer = tensor.name.strip_prefix("blk.");
            let layer = layer.and_then(|rest| rest.split('.').next()?.parse().ok());
            let layer = layer.map(|number| (number, self.layers));
            tensor.wanted = choice.wanted(&tensor.name, layer);
            tensor.format = fitting(tensor.wanted, tensor.columns);
            tensor.offset = offset;
            offset = padded(offset + tensor.bytes());
        }
        self
    }

    /// Bytes of the data, padding included.
    pub fn bytes(&self) -> u64 {
        let last = self.tensors.last();
        last.map_or(0, |last| padded(last.offset + last.bytes()))
    }

    /// Values of all tensors.
    pub fn values(&self) -> u64 {
        self.tensors.iter().map(Planned::values).sum()
    }

    /// What the header says of each.
    pub fn described(&self) -> Vec<Described> {
        self.tensors.iter().map(Planned::described).collect()
    }
}

/// The next place where a tensor may begin.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

struct Planner<'p> {
    config: &'p Config,
    tensors: Vec<Planned>,
}

impl Planner<'_> {
    /// Adds what becomes of a published tensor.
    fn tensor(&mut self, tensor: &ManifestTensor) -> Result<()> {
        let name = tensor.name.as_str();
        let top = match name {
            "model.embed_tokens.weight" => Some("token_embd.weight"),
            "model.norm.weight" => Some("output_norm.weight"),
            "lm_head.weight" => Some("output.weight"),
            _ => None,
        };
        if let Some(top) = top {
            self.push(tensor, top.into(), None, From::Whole(name.into()));
            return Ok(());
        }
        let unknown = || QuantizeError::Tensor {
            tensor: name.to_string(),
            why: "GGUF has no name for it".into(),
        };
        let rest = name.strip_prefix("model.layers.").ok_or_else(unknown)?;
        let (layer, part) = rest.split_once('.').ok_or_else(unknown)?;
        if let Some(expert) = part.strip_prefix("mlp.experts.") {
            let (_, projection) = expert.split_once('.').ok_or_else(unknown)?;
            self.stack(tensor, layer, projection);
            return Ok(());
        }
        if part == "self_attn.kv_b_proj.weight" {
            self.expansion(tensor, layer);
            return Ok(());
        }
        let found = PARTS.iter().find(|(_, published)| *published == part);
        let (gguf, _) = found.ok_or_else(unknown)?;
        let gguf = format!("blk.{layer}.{gguf}");
        self.push(tensor, gguf, None, From::Whole(name.into()));
        Ok(())
    }

    fn stack(&mut self, tensor: &ManifestTensor, layer: &str, projection: &str) {
        let own = projection.trim_end_matches(".weight");
        let Some((gguf, _)) = EXPERTS.iter().find(|(_, published)| *published == own) else {
            return;
        };
        let experts = Some(u64::from(self.config.n_routed_experts));
        let from = From::Stack(format!(
            "model.layers.{layer}.mlp.experts.{{}}.{projection}"
        ));
        self.push(tensor, format!("blk.{layer}.{gguf}"), experts, from);
    }

    /// Keys transposed by head, then values.
    fn expansion(&mut self, tensor: &ManifestTensor, layer: &str) {
        let c = self.config;
        let (nope, value) = (u64::from(c.qk_nope_head_dim), u64::from(c.v_head_dim));
        let head = nope + value;
        let heads = Some(u64::from(c.num_attention_heads));
        let name = &tensor.name;
        let keys = From::Transposed(name.clone(), Split { head, first: 0 });
        self.push(tensor, format!("blk.{layer}.attn_k_b.weight"), heads, keys);
        let values = From::Heads(name.clone(), Split { head, first: nope });
        self.push(
            tensor,
            format!("blk.{layer}.attn_v_b.weight"),
            heads,
            values,
        );
    }

    /// A tensor whose format and place are not chosen yet.
    fn push(&mut self, of: &ManifestTensor, name: String, slices: Option<u64>, from: From) {
        let c = self.config;
        let row = of.shape.last().copied().unwrap_or(1);
        let all = of.shape.iter().product::<u64>();
        let (columns, rows) = match &from {
            From::Whole(_) | From::Stack(_) => (row, all / row.max(1)),
            From::Heads(..) => (row, u64::from(c.v_head_dim)),
            From::Transposed(..) => (u64::from(c.qk_nope_head_dim), row),
        };
        let values = columns * rows * slices.unwrap_or(1);
        self.tensors.push(Planned {
            role: Role::of(&name),
            format: DType::F32,
            wanted: DType::F32,
            columns,
            rows,
            slices,
            offset: 0,
            source_bytes: of.dtype.row_bytes(values),
            name,
            from,
        });
    }
}
