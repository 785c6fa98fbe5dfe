//! Every case for a device, in groups: the same list for all, except that a kernel row is a
//! case only where the device has what the row needs.

use hadal_device::{DeviceInfo, Features, KernelRow, OpKind, Problem, flags};
use hadal_shaders::OTHER_FORMAT;

use crate::Profile;
use crate::models::ModelCase;
use crate::ops::{self, OpCase};

/// What is run.
#[derive(Clone)]
pub enum Work {
    /// One operation by one row.
    Row(OpCase, &'static KernelRow),
    /// An operation that no row does, and why none does.
    NoRow(OpCase, String),
    /// A sentence of the contract.
    Contract(crate::contract::Check),
    /// A block or a small model.
    Model(ModelCase),
}

/// Of a row that would fit if activations were numbers.
const NO_CODES: &str = "reads activations as numbers, and these are codes";

/// Of which a row needs one.
const LANGUAGES: Features = Features::HOST
    .with(Features::WGSL)
    .with(Features::SPIRV)
    .with(Features::GPU_CPP);

/// A case.
#[derive(Clone)]
pub struct Case {
    /// Cases that run in one process: `op.linear`.
    pub group: String,
    /// Unique: `op.linear/linear.bf16.r3_n40_k72/wgsl_linear_bf16`.
    pub id: String,
    /// What to do.
    pub work: Work,
}

/// The cases of `table` for a device, in a fixed order.
pub fn cases(table: &'static [KernelRow], info: &DeviceInfo, profile: Profile) -> Vec<Case> {
    cases_of(table, info, profile, &|_| true)
}

/// Those cases whose id `wants` takes. The data of others, which take long, are not made.
pub fn cases_of(
    table: &'static [KernelRow],
    info: &DeviceInfo,
    profile: Profile,
    wants: &dyn Fn(&str) -> bool,
) -> Vec<Case> {
    let mut all: Vec<Case> = crate::contract::CHECKS
        .iter()
        .map(|check| Case {
            group: check.group.to_string(),
            id: format!("{}/{}", check.group, check.name),
            work: Work::Contract(*check),
        })
        .collect();
    for (op, name) in OpKind::ALL {
        let group = format!("op.{name}");
        for case in ops::cases(*op, profile) {
            all.extend(op_cases(table, info, &group, case, wants));
        }
    }
    all.extend(ModelCase::all().into_iter().map(|case| Case {
        group: case.group().to_string(),
        id: format!("{}/{}", case.group(), case.name()),
        work: Work::Model(case),
    }));
    all.retain(|case| wants(&case.id));
    all
}

/// A case for each row that does it here.
fn op_cases(
    table: &'static [KernelRow],
    info: &DeviceInfo,
    group: &str,
    case: OpCase,
    wants: &dyn Fn(&str) -> bool,
) -> Vec<Case> {
    let id = format!("{group}/{}", case.name());
    let mut rows: Vec<_> = table.iter().filter(|row| row.op == case.op).collect();
    rows.retain(|row| row.needs.without(info.features) == Features::NONE);
    if !wants(&id) && !rows.iter().any(|row| wants(&row_id(&id, row))) {
        return Vec::new();
    }
    let problem = ops::problem(&case);
    let rows = rows.into_iter().filter(|row| {
        (row.takes_codes || problem.params.flags & flags::CODED == 0)
            && (row.fits)(&problem).is_none()
    });
    let mut cases: Vec<Case> = rows
        .map(|row| Case {
            group: group.to_string(),
            id: row_id(&id, row),
            work: Work::Row(case.clone(), row),
        })
        .collect();
    if cases.is_empty() {
        let why = why_none(table, info, &case, &problem);
        cases.push(Case {
            group: group.to_string(),
            id,
            work: Work::NoRow(case, why),
        });
    }
    cases
}

fn row_id(case: &str, row: &KernelRow) -> String {
    format!("{case}/{}", row.name)
}

/// Why no row of `table` does `problem`: what the rows in the device's languages say of it. Not what
/// `select` says: a row that a device avoids is run all the same.
fn why_none(table: &[KernelRow], info: &DeviceInfo, case: &OpCase, problem: &Problem) -> String {
    let language = |features: Features| features.without(features.without(LANGUAGES));
    let rows: Vec<&KernelRow> = table.iter().filter(|row| row.op == case.op).collect();
    let spoken = |row: &&&KernelRow| language(row.needs).without(info.features) == Features::NONE;
    let mut reasons: Vec<String> = rows
        .iter()
        .filter(spoken)
        .map(|row| {
            let lacking = row.needs.without(info.features);
            match lacking == Features::NONE {
                true => (row.fits)(problem).unwrap_or(NO_CODES).to_string(),
                false => format!("needs {}", lacking.names().join("+")),
            }
        })
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    if reasons.len() > 1 {
        reasons.retain(|reason| reason != OTHER_FORMAT);
    }
    if reasons == [OTHER_FORMAT] {
        return format!("no row does it here: none reads {} weights", problem.weight);
    }
    if !reasons.is_empty() {
        return format!("no row does it here: {}", reasons.join("; "));
    }
    let known = rows
        .iter()
        .fold(Features::NONE, |all, row| all.with(language(row.needs)));
    match known.names().as_slice() {
        [] => "the table has no row for it".to_string(),
        names => format!(
            "its rows are in {}, which the device does not run",
            names.join(", ")
        ),
    }
}

/// False for operations that lowering asks for only where a row exists.
pub fn is_required(OpCase { op, shape, .. }: &OpCase, info: &DeviceInfo) -> bool {
    !op.is_optional()
        && shape.flags & flags::CODED == 0
        && (*op != OpKind::AttendExpanded || info.expand_from_tokens.is_some())
}
