//! The golden cases of single operations: their data, and doing them on every device.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hadal_device::{COUNT_ALL, DType, OpKind, Params, Problem};
use serde_json::Value;

use crate::devices::{self, Named};
use crate::dispatch::{Argument, Done, run};
use crate::golden::{self, Expected, worst};

/// Opened once: opening a GPU costs more than the tests.
pub static DEVICES: LazyLock<Vec<Named>> = LazyLock::new(devices::of_golden_cases);

/// The folder of unit cases, for a test.
pub struct Unit {
    /// The test that asks.
    pub test: &'static str,
    /// Values by name.
    pub tensors: BTreeMap<String, Expected>,
    /// `unit.json`.
    pub cases: Value,
}

impl Unit {
    /// Opens the folder, or says that `test` does not run.
    pub fn open(test: &'static str) -> Option<Unit> {
        let folder = golden::folder(test)?.join("unit");
        let cases = std::fs::read(folder.join("unit.json")).expect("unit.json");
        Some(Unit {
            test,
            tensors: golden::read(&folder.join("unit.safetensors")),
            cases: serde_json::from_slice(&cases).expect("unit.json is JSON"),
        })
    }

    /// Values of a tensor.
    pub fn values(&self, name: &str) -> &[f64] {
        &self.tensors[name].values
    }

    /// The same as `f32`.
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.values(name).iter().map(|&v| v as f32).collect()
    }

    /// The same as an operand.
    pub fn floats(&self, name: &str) -> Argument {
        Argument::floats(&self.f32s(name))
    }

    /// Values that are bytes.
    pub fn codes(&self, name: &str) -> Vec<u8> {
        self.values(name).iter().map(|&v| v as u8).collect()
    }

    /// Dimensions of a tensor.
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensors[name].shape
    }

    /// Does one operation, or says that the device cannot. Only a device that never takes the
    /// expanded form of attention may lack it; the other operations are every device's.
    pub fn run(&self, on: &Named, problem: &Problem, arguments: &[Argument]) -> Option<Done> {
        let op = problem.op;
        match run(&*on.device, problem, arguments) {
            Ok(done) => Some(done),
            Err(rejected) => {
                let info = on.device.info();
                let may = op == OpKind::AttendExpanded && info.expand_from_tokens.is_none();
                assert!(may, "{}: no row for {}: {rejected:?}", on.name, op.name());
                println!(
                    "NOT RUN: {} on {}: no row for {}",
                    self.test,
                    on.name,
                    op.name()
                );
                None
            }
        }
    }

    /// Does one operation on every device; `difference` of what comes out is at most `limit`.
    pub fn check(
        &self,
        case: &str,
        (op, weight, params): (OpKind, DType, Params),
        arguments: &[Argument],
        limit: f64,
        difference: impl Fn(&str, &Done) -> f64,
    ) {
        let problem = Problem { op, weight, params };
        for on in DEVICES.iter() {
            if let Some(done) = self.run(on, &problem, arguments) {
                let place = format!("{case} on {} by {}", on.name, done.row);
                judge(&place, difference(&place, &done), limit);
            }
        }
        devices::no_complaints();
    }
}

/// Says how far off a case is, and fails beyond `limit`.
pub fn judge(place: &str, difference: f64, limit: f64) {
    println!("{place}: largest difference {difference:.1e}");
    assert!(difference <= limit, "{place}: off by {difference:e}");
}

/// The largest difference as a share of the largest value.
pub fn share(found: &[f64], want: &[f64]) -> f64 {
    worst(found, want) / want.iter().fold(0.0, |most: f64, v| most.max(v.abs()))
}

/// The largest difference as a share of its own value.
pub fn ratio(found: &[f64], want: &[f64]) -> f64 {
    let pairs = found.iter().zip(want).filter(|(found, want)| found != want);
    let (found, want): (Vec<_>, Vec<_>) = pairs.map(|(f, w)| ((f - w) / w.abs(), 0.0)).unzip();
    worst(&found, &want)
}

/// Parameters of dense rows of `k` values that become rows of `n`.
pub fn dense(rows: usize, k: usize, n: usize) -> Params {
    Params {
        rows: rows as u32,
        count_word: COUNT_ALL,
        count_scale: 1,
        n: n as u32,
        k: k as u32,
        x_stride: k as u32,
        y_stride: n as u32,
        b_stride: n as u32,
        row_count: n as u32,
        ..Params::default()
    }
}

/// `inputs` of rows whose positions are 0, 1, ...
pub fn inputs(rows: usize) -> Argument {
    Argument::inputs(&(0..rows as u32).collect::<Vec<_>>(), &[])
}
