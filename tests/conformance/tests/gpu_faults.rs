//! As `faults.rs`, for the kernels in C++ of CUDA and ROCm: built for the CPU with one known
//! mistake each, and run by a mock driver. Needs no GPU.
#![cfg(unix)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hadal_conformance::Profile;
use hadal_conformance::execute::{Status, execute};
use hadal_conformance::plan::{self, Case, Work};
use hadal_cuda::{CudaBackend, CudaOptions};
use hadal_device::{Backend, Body, Device};
use hadal_gpumock::Steer;
use hadal_gpumock::faults::{self, Fault};
use hadal_rocm::{RocmBackend, RocmOptions};

/// The mock drivers, and a folder of names for them: a driver is started once for each.
struct Mock {
    steer: Steer,
    names: tempfile::TempDir,
    used: Cell<u32>,
}

impl Mock {
    fn new() -> Mock {
        Mock {
            steer: Steer::open().expect("the mock drivers"),
            names: tempfile::tempdir().expect("a folder"),
            used: Cell::new(0),
        }
    }

    /// A device with this fault in its kernels, or `0`. The one before must be closed.
    fn device(&self, arch: &str, fault: &str) -> Arc<dyn Device> {
        let text = format!("arch={arch},planted={fault}");
        self.steer.configure(&text).expect("the mock drivers");
        let name = format!("{}.so", self.used.replace(self.used.get() + 1));
        let name = self.names.path().join(name);
        link(&name);
        let library = Some(name);
        let device = if arch.starts_with("gfx") {
            let options = RocmOptions {
                library,
                ..RocmOptions::default()
            };
            RocmBackend::new(options).open(0)
        } else {
            let options = CudaOptions {
                library,
                ..CudaOptions::default()
            };
            CudaBackend::new(options).open(0)
        };
        let device = device.expect("the mock's device");
        let said = self.complaints();
        assert!(said.is_empty(), "{arch}: {fault}: {said}");
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

/// Why a case fails, as case and reason.
fn failure(case: &Case, device: &Arc<dyn Device>) -> Option<String> {
    let result = execute(case, device, &[], 1);
    match result.status {
        Status::Failed { why } => Some(format!("{}: {why}", result.case)),
        _ => None,
    }
}

/// The kernel file that a case runs.
fn file(case: &Case) -> Option<&'static str> {
    match case.work {
        Work::Row(_, row) => match row.body {
            Body::Gpu { file, .. } => Some(file),
            _ => None,
        },
        _ => None,
    }
}

/// The first case that says what is wrong, and how; or what was said instead.
fn caught<'a>(
    cases: &'a [Case],
    device: &Arc<dyn Device>,
    fault: &Fault,
) -> Result<(&'a Case, String), Vec<String>> {
    let mut others = Vec::new();
    let may_notice = |case: &&Case| case.group == fault.group && file(case) == Some(fault.file);
    for case in cases.iter().filter(may_notice) {
        match failure(case, device) {
            Some(text) if text.contains(fault.says) => return Ok((case, text)),
            other => others.extend(other),
        }
    }
    Err(others)
}

/// What a device of this architecture does not notice, of the faults it has.
fn missed(mock: &Mock, arch: &str) -> Vec<String> {
    let sound = mock.device(arch, "0");
    let table = hadal_shaders::table();
    let of_faults = |id: &str| faults::all().any(|fault| id.starts_with(fault.group));
    let cases = plan::cases_of(table, sound.info(), Profile::Core, &of_faults);
    drop(sound);
    let mut missed = Vec::new();
    let mut noticing = BTreeMap::new();
    for fault in faults::all().filter(|fault| fault.archs.contains(&arch)) {
        let device = mock.device(arch, fault.name);
        match caught(&cases, &device, fault) {
            Ok((case, text)) => {
                println!("{arch}: {}: {text}", fault.name);
                noticing.insert(&case.id, case);
            }
            Err(others) => missed.push(format!(
                "{arch}: {}: nothing in {} says {:?}: {others:#?}",
                fault.name, fault.group, fault.says
            )),
        }
    }
    // What they noticed is the fault.
    let sound = mock.device(arch, "0");
    let without = noticing.values().filter_map(|case| failure(case, &sound));
    missed.extend(without.map(|text| format!("{arch}: without a fault: {text}")));
    let said = mock.complaints();
    assert!(said.is_empty(), "{arch}: without a fault: {said}");
    missed
}

#[test]
fn every_fault_planted_in_cpp_is_caught_by_the_case_that_says_what_is_wrong() {
    let mock = Mock::new();
    let mut archs: Vec<_> = faults::all().flat_map(|fault| fault.archs).collect();
    archs.sort_unstable();
    archs.dedup();
    let missed: Vec<String> = archs
        .into_iter()
        .flat_map(|arch| missed(&mock, arch))
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}
