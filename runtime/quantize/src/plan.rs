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
use crate::recipe::{fits, fitting};
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
    /// The format it has in the source; without one, in the published checkpoint.
    pub source_format: DType,
    /// Bytes that its numbers take there.
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
        if let From::Transposed(_, split) = &self.from {
            let mut stored = vec![0f32; matrix.columns];
            for j in 0..columns {
                matrix.row((slice * split.head + split.first) as usize + j, &mut stored);
                let taken = &stored[first as usize..][..count as usize];
                for (row, value) in taken.iter().enumerate() {
                    values[row * columns + j] = *value;
                }
            }
            return Ok(values);
        }
        let first = self.first_stored(slice, first);
        for (row, to) in (first as usize..).zip(values.chunks_mut(columns)) {
            matrix.row(row, to);
        }
        Ok(values)
    }

    /// The row of the source that row `row` of a slice is.
    fn first_stored(&self, slice: u64, row: u64) -> u64 {
        match &self.from {
            From::Heads(_, split) => slice * split.head + split.first + row,
            _ => row,
        }
    }

    /// True if its blocks are those of the source: they are copied, not rounded again.
    pub fn is_copied(&self) -> bool {
        let turned = matches!(self.from, From::Transposed(..));
        self.format.is_blocks() && self.format == self.source_format && !turned
    }

    /// Rows `first..first + count` of slice `slice` as the source has them, where it has them in
    /// these blocks.
    pub(crate) fn blocks<'s>(
        &self,
        source: &'s dyn TensorSource,
        slice: u64,
        first: u64,
        count: u64,
    ) -> Result<Option<&'s [u8]>> {
        if !self.is_copied() {
            return Ok(None);
        }
        let matrix = Matrix::open(source, &self.from.name(slice))?;
        let rows = matrix.stored_rows(self.first_stored(slice, first), count);
        Ok((matrix.format() == self.format).then_some(rows))
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
    /// A tensor that is not there, or of a format that no weight has; a pattern that fits none.
    pub fn new(config: &Config, source: &dyn TensorSource, choice: &Choice) -> Result<Plan> {
        let mut plan = Plan::of(config, choice)?;
        plan.check_patterns(choice)?;
        for tensor in &mut plan.tensors {
            let matrix = Matrix::open(source, &tensor.from.name(0))?;
            let values = (matrix.rows * matrix.columns) as u64;
            tensor.source_format = matrix.format();
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

    /// Every pattern is for some tensor.
    fn check_patterns(&self, choice: &Choice) -> Result<()> {
        let chosen = self.tensors.iter().filter(|it| it.role != Role::Exact);
        let names: Vec<&str> = chosen.map(|tensor| tensor.name.as_str()).collect();
        let useless = |pattern: &&String| !names.iter().any(|name| fits(pattern, name));
        match choice
            .tensors
            .iter()
            .map(|(pattern, _)| pattern)
            .find(useless)
        {
            None => Ok(()),
            Some(pattern) => Err(QuantizeError::Choice(format!(
                "no tensor whose format can be chosen is called {pattern}; names are like {}, and \
                 norms, biases and routers stay f32",
                names.get(names.len() / 2).unwrap_or(&"")
            ))),
        }
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

    /// Keys, each head's columns being those of its queries, then values. Of a GGUF file both may be
    /// apart already.
    fn expansion(&mut self, tensor: &ManifestTensor, layer: &str) {
        let c = self.config;
        let (nope, value) = (u64::from(c.qk_nope_head_dim), u64::from(c.v_head_dim));
        let latent = u64::from(c.kv_lora_rank);
        let split = |head, first| Split { head, first };
        let (keys, values) = match c.split_kv_b {
            true => {
                let own = |part| tensor.name.replace("kv_b_proj", part);
                (
                    From::Heads(own("k_b_proj"), split(latent, 0)),
                    From::Heads(own("v_b_proj"), split(value, 0)),
                )
            }
            false => {
                let (whole, head) = (|| tensor.name.clone(), nope + value);
                (
                    From::Transposed(whole(), split(head, 0)),
                    From::Heads(whole(), split(head, nope)),
                )
            }
        };
        let heads = Some(u64::from(c.num_attention_heads));
        let name = |part| format!("blk.{layer}.{part}.weight");
        self.add(tensor.dtype, name("attn_k_b"), [nope, latent], heads, keys);
        self.add(
            tensor.dtype,
            name("attn_v_b"),
            [latent, value],
            heads,
            values,
        );
    }

    /// A tensor with the rows of the published one.
    fn push(&mut self, of: &ManifestTensor, name: String, slices: Option<u64>, from: From) {
        let row = of.shape.last().copied().unwrap_or(1);
        let rows = of.shape.iter().product::<u64>() / row.max(1);
        self.add(of.dtype, name, [row, rows], slices, from);
    }

    /// A tensor whose format and place are not chosen yet, of so many columns and rows a slice.
    fn add(
        &mut self,
        published: DType,
        name: String,
        [columns, rows]: [u64; 2],
        slices: Option<u64>,
        from: From,
    ) {
        let values = columns * rows * slices.unwrap_or(1);
        self.tensors.push(Planned {
            role: Role::of(&name),
            format: DType::F32,
            wanted: DType::F32,
            columns,
            rows,
            slices,
            offset: 0,
            source_format: published,
            source_bytes: published.row_bytes(values),
            name,
            from,
        });
    }
}
