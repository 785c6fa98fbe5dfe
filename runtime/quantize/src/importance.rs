//! How much each column of each tensor matters: the mean square of what it is multiplied by.
//!
//! A file is GGUF with two tensors for each tensor of the model, as the tools of the format
//! write them: `NAME.in_sum2`, the sums of squares `[slices, columns]`, and `NAME.counts`, how
//! many rows were summed for each slice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use hadal_device::DType;
use hadal_weights::{Gguf, TensorSource, WeightsError};

use crate::file::{Described, Value, header};
use crate::plan::padded;
use crate::rows::Matrix;
use crate::{Plan, QuantizeError, Result};

/// Weights of columns by tensor.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    file: String,
    tensors: BTreeMap<String, Columns>,
}

#[derive(Clone, Debug)]
struct Columns {
    columns: usize,
    /// Mean squares, slice after slice; a slice without rows has ones.
    means: Vec<f32>,
}

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

impl Importance {
    /// Reads a file.
    ///
    /// # Errors
    /// It is none, or damaged.
    pub fn open(path: &Path) -> Result<Importance> {
        let file = path.display().to_string();
        let none = |why| QuantizeError::Importance {
            path: file.clone(),
            why,
        };
        let source = match Gguf::open(path) {
            Err(WeightsError::File { why, .. }) => return Err(none(why)),
            opened => opened?,
        };
        let mut tensors = BTreeMap::new();
        for name in source.names() {
            let Some(tensor) = name.strip_suffix(SUMS) else {
                continue;
            };
            let sums = Matrix::open(&source, name)?;
            let counts = Matrix::open(&source, &format!("{tensor}{COUNTS}"))?;
            let mut counted = vec![0f32; counts.rows * counts.columns];
            let rows = counted.chunks_mut(counts.columns.max(1));
            rows.enumerate().for_each(|(row, to)| counts.row(row, to));
            let mut means = vec![0f32; sums.rows * sums.columns];
            for (slice, means) in means.chunks_mut(sums.columns.max(1)).enumerate() {
                let count = counted.get(slice).or(counted.last());
                let count = count.copied().unwrap_or_default();
                sums.row(slice, means);
                let is_seen = count > 0.0 && means.iter().any(|sum| *sum > 0.0);
                let mean = |sum: f32| if is_seen { sum / count } else { 1.0 };
                means.iter_mut().for_each(|sum| *sum = mean(*sum));
                if means.iter().any(|mean| !mean.is_finite() || *mean < 0.0) {
                    let why = format!("{name} has a number that is no sum of squares");
                    return Err(none(why));
                }
            }
            let columns = sums.columns;
            tensors.insert(tensor.to_string(), Columns { columns, means });
        }
        if tensors.is_empty() {
            return Err(none("it has no tensors *.in_sum2".to_string()));
        }
        Ok(Importance { file, tensors })
    }

    /// Checks the file against the tensors that it is for; the number of those that it knows.
    ///
    /// # Errors
    /// It is of another model.
    pub fn check(&self, plan: &Plan) -> Result<usize> {
        let refuse = |why| QuantizeError::Importance {
            path: self.file.clone(),
            why,
        };
        let mut known = 0;
        for tensor in &plan.tensors {
            let Some(own) = self.tensors.get(&tensor.name) else {
                continue;
            };
            known += 1;
            let slices = own.means.len() / own.columns.max(1);
            let wanted = tensor.slices.unwrap_or(1) as usize;
            if own.columns as u64 != tensor.columns || (slices != wanted && slices != 1) {
                return Err(refuse(format!(
                    "{} has {slices} times {} columns, and the model {wanted} times {}",
                    tensor.name, own.columns, tensor.columns
                )));
            }
        }
        match known {
            0 => Err(refuse("it has no tensor of this model".into())),
            _ => Ok(known),
        }
    }

    /// The weights of the columns of a slice, if the file has them.
    pub(crate) fn of(&self, tensor: &str, slice: u64) -> Option<&[f32]> {
        let own = self.tensors.get(tensor)?;
        let slices = own.means.chunks_exact(own.columns.max(1));
        let at = (slice as usize).min(slices.len().saturating_sub(1));
        own.means.chunks_exact(own.columns.max(1)).nth(at)
    }

    /// How many tensors it has.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// All numbers, for telling one matrix from another.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (&str, &[f32])> {
        let all = self.tensors.iter();
        all.map(|(name, columns)| (name.as_str(), columns.means.as_slice()))
    }
}

/// What was summed for a tensor.
#[derive(Clone, Debug)]
pub struct Summed<'s> {
    /// GGUF name.
    pub name: String,
    /// Sums of squares, slice after slice.
    pub sums: &'s [f32],
    /// Rows that each slice saw.
    pub counts: &'s [f32],
}

/// Writes a file of importance, made from `tokens` tokens of `text`.
///
/// # Errors
/// Those of the file system.
pub fn write_importance(
    to: &File,
    tensors: &[Summed<'_>],
    text: &str,
    tokens: u32,
) -> std::io::Result<()> {
    let mut described = Vec::new();
    let mut offset = 0;
    for Summed { name, sums, counts } in tensors {
        let slices = counts.len().max(1) as u64;
        let shapes = [
            (SUMS, vec![sums.len() as u64 / slices, slices]),
            (COUNTS, vec![1, slices]),
        ];
        for (ending, dims) in shapes {
            let bytes = 4 * dims.iter().product::<u64>();
            described.push(Described {
                name: format!("{name}{ending}"),
                dims,
                format: DType::F32,
                offset,
            });
            offset = padded(offset + bytes);
        }
    }
    let metadata = [
        ("general.type".to_string(), Value::Text("imatrix".into())),
        ("general.alignment".to_string(), Value::U32(32)),
        (
            "imatrix.datasets".to_string(),
            Value::Texts(vec![text.to_string()]),
        ),
        ("imatrix.chunk_count".to_string(), Value::U32(1)),
        ("imatrix.chunk_size".to_string(), Value::U32(tokens)),
    ];
    let mut out = BufWriter::new(to);
    out.write_all(&header(&metadata, &described))?;
    for Summed { sums, counts, .. } in tensors {
        for numbers in [sums, counts] {
            for number in *numbers {
                out.write_all(&number.to_le_bytes())?;
            }
            let bytes = 4 * numbers.len() as u64;
            out.write_all(&[0; 32][..(padded(bytes) - bytes) as usize])?;
        }
    }
    out.flush()
}
