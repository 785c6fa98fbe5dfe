//! What a failing case leaves behind: its smallest form in a file, and how to run it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hadal_device::{DType, Device, OpKind};
use serde::{Deserialize, Serialize};

use crate::execute::{CaseResult, Status, execute};
use crate::ops::{OpCase, Twist, is_legal};
use crate::plan::{Case, Work};
use crate::shape::Shape;
use crate::suite::Suite;

/// Smaller cases that are tried at most.
const TRIES: usize = 200;

/// The file of a failing case.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Version of this form.
    pub format: u32,
    /// The case that failed.
    pub case: String,
    /// The device it failed on.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// Seed of the data.
    pub seed: u64,
    /// What is wrong with it.
    pub why: String,
    /// The smallest case of the operation that is wrong too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smallest: Option<Smallest>,
}

/// A small failing case of an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smallest {
    /// Kernel row.
    pub row: String,
    /// Operation.
    pub op: String,
    /// Format of the weight.
    pub weight: String,
    /// Sizes.
    pub shape: Shape,
    /// What is special about it.
    #[serde(default)]
    pub twist: Twist,
    /// What is wrong with it.
    pub why: String,
}

/// Why a failing case's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no failing case.
    #[error("{path} is no failing case of this version: {why}")]
    Form {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// Version of [`Failure`].
const FORMAT: u32 = 1;

impl Failure {
    /// Makes a failing case as small as it can be made and keeps it.
    pub fn of(
        suite: &Suite,
        case: &Case,
        why: &str,
        device: &Arc<dyn Device>,
        seed: u64,
    ) -> Failure {
        let info = device.info();
        let smallest = match &case.work {
            Work::Row(op_case, row) => {
                let (op_case, why) = shrink(suite, case, op_case, why, device, seed);
                Some(Smallest {
                    row: row.name.to_string(),
                    op: op_case.op.name().to_string(),
                    weight: op_case.weight.name().to_string(),
                    shape: op_case.shape,
                    twist: op_case.twist,
                    why,
                })
            }
            _ => None,
        };
        Failure {
            format: FORMAT,
            case: case.id.clone(),
            device: info.id(),
            driver: info.driver.clone(),
            seed,
            why: why.to_string(),
            smallest,
        }
    }

    /// The file's name in `folder`: the case's, without what file systems dislike.
    pub fn path(folder: &Path, case: &str) -> PathBuf {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '+'
            }
        };
        let name: String = case.chars().map(plain).collect();
        folder.join(format!("{name}.json"))
    }

    /// Writes the file.
    pub fn write(&self, folder: &Path) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(folder)?;
        let path = Failure::path(folder, &self.case);
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)?;
        Ok(path)
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Failure, ReplayError> {
        let bytes = std::fs::read(path).map_err(|source| ReplayError::File {
            path: path.into(),
            source,
        })?;
        let form = |why: String| ReplayError::Form {
            path: path.into(),
            why,
        };
        let failure: Failure = serde_json::from_slice(&bytes).map_err(|e| form(e.to_string()))?;
        match failure.format {
            FORMAT => Ok(failure),
            other => Err(form(format!("it has format {other}, this is {FORMAT}"))),
        }
    }

    /// The case to run: the smallest one, or the case itself.
    pub fn to_case(&self, suite: &Suite, cases: &[Case]) -> Result<Case, String> {
        let Some(small) = &self.smallest else {
            let found = cases.iter().find(|case| case.id == self.case).cloned();
            return found.ok_or_else(|| format!("there is no case {} on this device", self.case));
        };
        let row = suite.table.iter().find(|row| row.name == small.row);
        let row = row.ok_or_else(|| format!("there is no kernel row {}", small.row))?;
        let op = OpKind::ALL.iter().find(|(_, name)| *name == small.op);
        let (op, _) = op.ok_or_else(|| format!("there is no operation {}", small.op))?;
        let weight = DType::from_name(&small.weight);
        let op_case = OpCase {
            op: *op,
            weight: weight.ok_or_else(|| format!("there is no format {}", small.weight))?,
            shape: small.shape,
            twist: small.twist,
        };
        match is_legal(&op_case) {
            true => Ok(of_row(op_case, row)),
            false => Err(format!("the sizes {} make no sense", small.shape)),
        }
    }
}

fn of_row(case: OpCase, row: &'static hadal_device::KernelRow) -> Case {
    let group = format!("op.{}", case.op.name());
    Case {
        id: format!("{group}/{}/{}", case.name(), row.name),
        group,
        work: Work::Row(case, row),
    }
}

/// The smallest case that still fails by the same row, one size at a time, and why.
fn shrink(
    suite: &Suite,
    case: &Case,
    op_case: &OpCase,
    why: &str,
    device: &Arc<dyn Device>,
    seed: u64,
) -> (OpCase, String) {
    let Work::Row(_, row) = &case.work else {
        return (op_case.clone(), why.to_string());
    };
    let (mut smallest, mut reason, mut tries) = (op_case.clone(), why.to_string(), 0);
    loop {
        let mut found = None;
        for shape in smallest.shape.smaller() {
            let smaller = OpCase {
                shape,
                ..smallest.clone()
            };
            if tries == TRIES || shape.flags != op_case.shape.flags || vanished(&smaller, op_case) {
                continue;
            }
            // A smaller problem may not be one for this row.
            let fits = is_legal(&smaller)
                && (row.fits)(&crate::ops::build(&smaller, seed).problem).is_none();
            if !fits {
                continue;
            }
            tries += 1;
            let result = execute(
                &of_row(smaller.clone(), row),
                device,
                &suite.expectations,
                seed,
            );
            if let Status::Failed { why } = result.status {
                found = Some((smaller, why));
                break;
            }
        }
        match found {
            Some((smaller, why)) => (smallest, reason) = (smaller, why),
            None => return (smallest, reason),
        }
    }
}

/// True if a size that the operation has became 0.
fn vanished(smaller: &OpCase, whole: &OpCase) -> bool {
    let optional = ["spare", "first", "after", "gap", "flags"];
    let pairs = smaller.shape.sizes().into_iter().zip(whole.shape.sizes());
    pairs
        .filter(|((name, _), _)| !optional.contains(name))
        .any(|((_, small), (_, large))| small == 0 && large > 0)
}

/// Runs a case and, if it fails, keeps its smallest form in `folder`.
pub fn execute_and_keep(
    suite: &Suite,
    case: &Case,
    device: &Arc<dyn Device>,
    seed: u64,
    folder: &Path,
) -> CaseResult {
    let mut result = execute(case, device, &suite.expectations, seed);
    if let Status::Failed { why } = &mut result.status {
        let failure = Failure::of(suite, case, why, device, seed);
        // The result matters more than its file.
        match failure.write(folder) {
            Ok(path) => *why = format!("{why} (smallest case: {})", path.display()),
            Err(error) => *why = format!("{why} (its file could not be written: {error})"),
        }
    }
    result
}
