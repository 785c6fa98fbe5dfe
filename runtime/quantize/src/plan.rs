//! The tensors of the file: names, formats, places, and where their rows come from.
//!
//! Decides how published tensors become those of GGUF: experts are stacked, the expansion of
//! latents is split, and copies of embedding and head that next-token modules carry are left
//! out, since readers take the originals. Must not know how rows are encoded.

use hadal_device::DType;
use hadal_models::Config;
use hadal_models::gguf::{EXPERTS, PARTS};
use hadal_models::manifest::{mtp_copies, official_manifest};
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
    /// Bytes that its numbers take in the checkpoint.
    pub source_bytes: u64,
    from: From,
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq)]
enum From {
    /// A tensor as it is.
    Whole(String),
    /// A tensor for each slice.
    Stack(Vec<String>),
    /// Of each head's rows, those from the first number on, as many as the slice has.
    Heads(String, Split),
    /// As `Heads`, but with rows and columns exchanged.
    Transposed(String, Split),
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
        let name = match &self.from {
            From::Stack(names) => &names[slice as usize],
            From::Whole(name) | From::Heads(name, _) | From::Transposed(name, _) => name,
        };
        let matrix = Matrix::open(source, name)?;
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
}

impl Plan {
    /// The tensors of a model in the formats of `choice`.
    ///
    /// # Errors
    /// A tensor that is not there, or that is quantised already.
    pub fn new(config: &Config, source: &dyn TensorSource, choice: &Choice) -> Result<Plan> {
        let mut planner = Planner {
            config,
            source,
            choice,
            tensors: Vec::new(),
            offset: 0,
        };
        let copies = mtp_copies(config);
        for tensor in official_manifest(config) {
            let is_copy = copies.iter().any(|copy| copy.name == tensor.name);
            if !is_copy && !tensor.name.ends_with(SCALE_SUFFIX) {
                planner.tensor(&tensor.name)?;
            }
        }
        Ok(Plan {
            tensors: planner.tensors,
            file_type: choice.recipe.file_type,
        })
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
    source: &'p dyn TensorSource,
    choice: &'p Choice,
    tensors: Vec<Planned>,
    offset: u64,
}

impl Planner<'_> {
    /// Adds what becomes of the published tensor `name`.
    fn tensor(&mut self, name: &str) -> Result<()> {
        let top = match name {
            "model.embed_tokens.weight" => Some("token_embd.weight"),
            "model.norm.weight" => Some("output_norm.weight"),
            "lm_head.weight" => Some("output.weight"),
            _ => None,
        };
        if let Some(top) = top {
            return self.push(top.into(), None, From::Whole(name.into()));
        }
        let unknown = || QuantizeError::Tensor {
            tensor: name.to_string(),
            why: "GGUF has no name for it".into(),
        };
        let rest = name.strip_prefix("model.layers.").ok_or_else(unknown)?;
        let (layer, part) = rest.split_once('.').ok_or_else(unknown)?;
        if let Some(expert) = part.strip_prefix("mlp.experts.") {
            let (index, projection) = expert.split_once('.').ok_or_else(unknown)?;
            return match index {
                "0" => self.stack(layer, projection),
                _ => Ok(()),
            };
        }
        if part == "self_attn.kv_b_proj.weight" {
            return self.expansion(layer, name);
        }
        let found = PARTS.iter().find(|(_, published)| *published == part);
        let (gguf, _) = found.ok_or_else(unknown)?;
        self.push(
            format!("blk.{layer}.{gguf}"),
            None,
            From::Whole(name.into()),
        )
    }

    fn stack(&mut self, layer: &str, projection: &str) -> Result<()> {
        let experts = self.config.n_routed_experts;
        let own = projection.trim_end_matches(".weight");
        let Some((gguf, _)) = EXPERTS.iter().find(|(_, published)| *published == own) else {
            return Ok(());
        };
        let name = |e| format!("model.layers.{layer}.mlp.experts.{e}.{projection}");
        let names = (0..experts).map(name).collect();
        let gguf = format!("blk.{layer}.{gguf}");
        self.push(gguf, Some(u64::from(experts)), From::Stack(names))
    }

    /// Keys transposed by head, then values.
    fn expansion(&mut self, layer: &str, name: &str) -> Result<()> {
        let c = self.config;
        let (nope, value) = (u64::from(c.qk_nope_head_dim), u64::from(c.v_head_dim));
        let head = nope + value;
        let heads = Some(u64::from(c.num_attention_heads));
        let keys = From::Transposed(name.into(), Split { head, first: 0 });
        self.push(format!("blk.{layer}.attn_k_b.weight"), heads, keys)?;
        let values = From::Heads(name.into(), Split { head, first: nope });
        self.push(format!("blk.{layer}.attn_v_b.weight"), heads, values)
    }

    fn push(&mut self, name: String, slices: Option<u64>, from: From) -> Result<()> {
        let c = self.config;
        let first = match &from {
            From::Stack(names) => names.first().map_or("", String::as_str),
            From::Whole(name) | From::Heads(name, _) | From::Transposed(name, _) => name,
        };
        let matrix = Matrix::open(self.source, first)?;
        let (columns, rows) = match &from {
            From::Whole(_) | From::Stack(_) => (matrix.columns as u64, matrix.rows as u64),
            From::Heads(..) => (matrix.columns as u64, u64::from(c.v_head_dim)),
            From::Transposed(..) => (u64::from(c.qk_nope_head_dim), matrix.columns as u64),
        };
        let stored = self.source.get(first).map_or(0, |info| info.bytes);
        let source_bytes = match &from {
            From::Whole(_) => stored,
            From::Stack(names) => stored * names.len() as u64,
            From::Heads(..) | From::Transposed(..) => {
                let values = columns * rows * slices.unwrap_or(1);
                stored * values / (matrix.columns * matrix.rows).max(1) as u64
            }
        };
        let layer = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split('.').next());
        let layer = layer.and_then(|number| number.parse().ok());
        let layer = layer.map(|number| (number, c.all_layers()));
        let wanted = self.choice.wanted(&name, layer);
        let planned = Planned {
            role: Role::of(&name),
            format: fitting(wanted, columns),
            wanted,
            columns,
            rows,
            slices,
            offset: self.offset,
            source_bytes,
            name,
            from,
        };
        self.offset = padded(self.offset + planned.bytes());
        self.tensors.push(planned);
        Ok(())
    }
}
