//! Runs one case and says what came of it.

use std::sync::Arc;

use hadal_device::Device;
use serde::{Deserialize, Serialize};

use crate::expect::{Expectation, Kind};
use crate::ops::{self, Built};
use crate::plan::{Case, Work, is_required};
use crate::stage::{self, Fit};

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    /// As it must be.
    Passed {
        /// Squared error over squared values; absent where all is exact.
        #[serde(skip_serializing_if = "Option::is_none")]
        normalised: Option<f64>,
        /// Largest error as a share of its tolerance.
        #[serde(skip_serializing_if = "Option::is_none")]
        worst: Option<f64>,
    },
    /// Wrong.
    Failed {
        /// What is wrong.
        why: String,
    },
    /// The device can never do it.
    Unsupported {
        /// Why not.
        why: String,
    },
    /// Wrong, as its backend says beforehand.
    FailsToday {
        /// The backend's reason.
        why: String,
        /// What is wrong.
        how: String,
    },
    /// Right, though its backend says that it fails: an error.
    UnexpectedPass {
        /// The backend's reason.
        why: String,
    },
}

impl Status {
    /// False for what a suite must not end with.
    pub fn is_good(&self) -> bool {
        !matches!(self, Status::Failed { .. } | Status::UnexpectedPass { .. })
    }
}

/// A case and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case.
    pub case: String,
    /// What came of it.
    #[serde(flatten)]
    pub status: Status,
}

/// Three digits are enough to compare, and the same on every second run.
fn short(value: f64) -> Option<f64> {
    (value > 0.0).then(|| format!("{value:.2e}").parse().unwrap_or(value))
}

fn passed(fit: Fit) -> Status {
    Status::Passed {
        normalised: short(fit.normalised),
        worst: short(fit.worst),
    }
}

/// Runs `case` on `device` with data from `seed`.
pub fn execute(
    case: &Case,
    device: &Arc<dyn Device>,
    expectations: &[Expectation],
    seed: u64,
) -> CaseResult {
    let info = device.info();
    let mut about = expectations
        .iter()
        .filter(|line| line.is_about(&case.id, info));
    let result = |status| CaseResult {
        case: case.id.clone(),
        status,
    };
    let line = about.next();
    if let Some(line) = line.filter(|line| line.kind == Kind::Unsupported) {
        return result(Status::Unsupported {
            why: line.why.to_string(),
        });
    }
    let status = judge(case, device, seed);
    result(match (line, status) {
        (Some(line), Status::Failed { why }) => Status::FailsToday {
            why: line.why.to_string(),
            how: why,
        },
        (Some(line), Status::Passed { .. }) => Status::UnexpectedPass {
            why: line.why.to_string(),
        },
        (_, status) => status,
    })
}

fn judge(case: &Case, device: &Arc<dyn Device>, seed: u64) -> Status {
    match &case.work {
        Work::Row(op_case, row) => {
            let built = ops::built(op_case, seed);
            if let Some(why) = too_large(&**device, &built) {
                return Status::Unsupported { why };
            }
            match stage::run(&**device, row, &built) {
                Ok(fit) => passed(fit),
                Err(why) => Status::Failed { why },
            }
        }
        Work::NoRow(case, why) if is_required(case, device.info()) => Status::Failed {
            why: format!("every device must do this, and no row does: {why}"),
        },
        Work::NoRow(_, why) => Status::Unsupported { why: why.clone() },
        Work::Model(model_case) => match model_case.run(device, seed) {
            Ok(fit) => passed(fit),
            Err(why) => Status::Failed { why },
        },
        Work::Contract(check) => match (check.run)(&**device) {
            Ok(()) => passed(Fit::default()),
            Err(why) => Status::Failed { why },
        },
    }
}

/// That an operand is longer than the device can bind: lowering would cut it.
fn too_large(device: &dyn Device, built: &Built) -> Option<String> {
    let most = device.info().limits.max_binding_bytes;
    let longest = built.operands.iter().map(ops::Operand::bytes).max()?;
    (longest > most).then(|| {
        format!("an operand of {longest} bytes; the device binds {most}, so lowering cuts it")
    })
}
