//! As `faults.rs`, for the kernels in C++ of CUDA and ROCm: built for the CPU with one known
//! mistake each, and run by a mock driver. Needs no GPU.
#![cfg(unix)]

use std::path::Path;
use std::sync::Arc;

use hadal_conformance::Profile;
use hadal_conformance::execute::{Status, execute};
use hadal_conformance::plan::{self, Case};
use hadal_cuda::{CudaBackend, CudaOptions};
use hadal_device::{Backend, Device};
use hadal_gpumock::Steer;
use hadal_gpumock::faults::{FAULTS, Fault};

/// The mock drivers, and a folder of names for them: a driver is started once for each.
struct Mock {
    steer: Steer,
    names: tempfile::TempDir,
}

impl Mock {
    fn new() -> Mock {
        Mock {
            steer: Steer::open().expect("the mock drivers"),
            names: tempfile::tempdir().expect("a folder"),
        }
    }

    /// A device with this fault in its kernels, or `0`. The one before must be closed.
    fn device(&self, fault: &str) -> Arc<dyn Device> {
        let text = format!("arch=sm_90a,planted={fault}");
        self.steer.configure(&text).expect("the mock drivers");
        let name = self.names.path().join(format!("{fault}.so"));
        link(&name);
        let backend = CudaBackend::new(CudaOptions {
            library: Some(name),
            ..CudaOptions::default()
        });
        let device = backend.open(0).expect("the mock's device");
        let said = self.complaints();
        assert!(said.is_empty(), "{fault}: {said}");
        device
    }

    /// What the drivers say is wrong.
    fn complaints(&self) -> String {
        self.steer.complaints().expect("the mock drivers")
    }
}

fn link(name: &Path) {
    std::os::unix::fs::symlink(hadal_gpumock::library(), name).expect("a link");
}

/// The cases of a group that fail, one after another, as case and reason.
fn failures(cases: &[Case], device: &Arc<dyn Device>, group: &str) -> impl Iterator<Item = String> {
    let cases = cases.iter().filter(move |case| case.group == group);
    cases.filter_map(|case| {
        let result = execute(case, device, &[], 1);
        match result.status {
            Status::Failed { why } => Some(format!("{}: {why}", result.case)),
            _ => None,
        }
    })
}

/// The first failure that says what is wrong, or what was said instead.
fn caught(cases: &[Case], device: &Arc<dyn Device>, fault: &Fault) -> Result<String, Vec<String>> {
    let mut others = Vec::new();
    for text in failures(cases, device, fault.group) {
        if text.contains(fault.says) {
            return Ok(text);
        }
        others.push(text);
    }
    Err(others)
}

#[test]
fn every_fault_planted_in_cpp_is_caught_by_the_case_that_says_what_is_wrong() {
    let mock = Mock::new();
    let sound = mock.device("0");
    let mut cases = plan::cases(hadal_shaders::table(), sound.info(), Profile::Core);
    cases.retain(|case| FAULTS.iter().any(|fault| fault.group == case.group));
    let mut groups: Vec<_> = FAULTS.iter().map(|fault| fault.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let failed: Vec<String> = failures(&cases, &sound, group).collect();
        assert!(failed.is_empty(), "{group} without a fault: {failed:#?}");
    }
    let said = mock.complaints();
    assert!(said.is_empty(), "without a fault: {said}");
    drop(sound);
    let mut missed = Vec::new();
    for fault in FAULTS {
        let device = mock.device(fault.name);
        match caught(&cases, &device, fault) {
            Ok(text) => println!("{}: {text}", fault.name),
            Err(others) => missed.push(format!(
                "{}: nothing in {} says {:?}: {others:#?}",
                fault.name, fault.group, fault.says
            )),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}
