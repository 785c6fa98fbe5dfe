//! What a failing case leaves behind: its smallest form in a file, and how to run it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hadal_device::{Device, DeviceInfo, KernelRow};
use serde::{Deserialize, Serialize};

use crate::execute::{CaseResult, Status, execute};
use crate::ops::{self, OpCase, is_legal};
use crate::plan::{Case, Work};
use crate::shape::Shape;
use crate::suite::{Options, Suite};

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
    /// Whether a software adapter did as if it were a GPU.
    #[serde(default)]
    pub as_gpu: bool,
    /// The smallest case of the operation that is wrong too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smallest: Option<Smallest>,
}

/// A case like the failing one, but smaller.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smallest {
    /// Sizes.
    pub shape: Shape,
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
        options: &Options,
        case: &Case,
        why: &str,
        device: &Arc<dyn Device>,
    ) -> Failure {
        let smallest = match &case.work {
            Work::Row(op_case, row) => {
                let (shape, why) = shrink(suite, (op_case, row), why, device, options.seed);
                Some(Smallest { shape, why })
            }
            _ => None,
        };
        Failure {
            smallest,
            ..Failure::whole(options, device.info(), &case.id, why)
        }
    }

    /// A failing case as it is: one that ended its process cannot be made smaller there.
    pub fn whole(options: &Options, info: &DeviceInfo, case: &str, why: &str) -> Failure {
        Failure {
            format: FORMAT,
            case: case.to_string(),
            device: info.id(),
            driver: info.driver.clone(),
            seed: options.seed,
            why: why.to_string(),
            as_gpu: options.as_gpu,
            smallest: None,
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
        let bytes = crate::file::read(path).map_err(|source| ReplayError::File {
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

    /// The case to run, of all those that there are: the smallest one, or the case itself.
    pub fn to_case(&self, cases: &[Case]) -> Result<Case, String> {
        let found = cases.iter().find(|case| case.id == self.case);
        let found =
            found.ok_or_else(|| format!("there is no case {} on this device", self.case))?;
        match (&self.smallest, &found.work) {
            (None, _) => Ok(found.clone()),
            (Some(small), Work::Row(whole, row)) => {
                let smaller = OpCase {
                    shape: small.shape,
                    ..whole.clone()
                };
                match is_smaller(&smaller, whole) && is_one_for(&smaller, row) {
                    true => Ok(of_row(smaller, row)),
                    false => Err(format!("the sizes {} make no sense", small.shape)),
                }
            }
            _ => Err(format!("{} has no sizes", self.case)),
        }
    }
}

fn of_row(case: OpCase, row: &'static KernelRow) -> Case {
    let group = format!("op.{}", case.op.name());
    Case {
        id: format!("{group}/{}/{}", case.name(), row.name),
        group,
        work: Work::Row(case, row),
    }
}

/// The smallest sizes that still fail by the same row, one size at a time, and why.
fn shrink(
    suite: &Suite,
    (op_case, row): (&OpCase, &'static KernelRow),
    why: &str,
    device: &Arc<dyn Device>,
    seed: u64,
) -> (Shape, String) {
    let (mut smallest, mut reason, mut tries) = (op_case.clone(), why.to_string(), 0);
    loop {
        let mut found = None;
        for shape in smallest.shape.smaller() {
            let smaller = OpCase {
                shape,
                ..smallest.clone()
            };
            let is_one = is_smaller(&smaller, op_case) && is_one_for(&smaller, row);
            if tries == TRIES || !is_one {
                continue;
            }
            tries += 1;
            let smaller_case = of_row(smaller.clone(), row);
            let result = execute(&smaller_case, device, &suite.expectations, seed);
            if let Status::Failed { why } = result.status {
                found = Some((smaller, why));
                break;
            }
        }
        match found {
            Some((smaller, why)) => (smallest, reason) = (smaller, why),
            None => return (smallest.shape, reason),
        }
    }
}

/// True if no size is larger, no flag another one, and no size that the operation has became 0.
fn is_smaller(smaller: &OpCase, whole: &OpCase) -> bool {
    let optional = ["spare", "first", "after", "gap", "flags"];
    let mut pairs = smaller.shape.sizes().into_iter().zip(whole.shape.sizes());
    smaller.shape.flags == whole.shape.flags
        && pairs.all(|((name, small), (_, large))| {
            small <= large && (small > 0 || large == 0 || optional.contains(&name))
        })
}

/// True if the sizes go together and the row does such a problem: a smaller one it may not.
fn is_one_for(case: &OpCase, row: &KernelRow) -> bool {
    is_legal(case) && (row.fits)(&ops::problem(case)).is_none()
}

/// Runs a case and, if it fails, keeps its smallest form in the folder for failures.
pub fn execute_and_keep(
    suite: &Suite,
    options: &Options,
    case: &Case,
    device: &Arc<dyn Device>,
) -> CaseResult {
    let mut result = execute(case, device, &suite.expectations, options.seed);
    if let Status::Failed { why } = &mut result.status {
        *why = keep(options, Failure::of(suite, options, case, why, device));
    }
    result
}

/// Writes the file of a failing case; why it failed, and where its file lies.
pub(crate) fn keep(options: &Options, failure: Failure) -> String {
    let why = &failure.why;
    // The result matters more than its file.
    match failure.write(&options.failures) {
        Ok(path) => format!("{why} (smallest case: {})", path.display()),
        Err(error) => format!("{why} (its file could not be written: {error})"),
    }
}
