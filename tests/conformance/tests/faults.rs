//! The suite is tested itself: kernels with one known mistake each must fail, in the group
//! that looks at what is wrong, with words that say so.
//!
//! Needs a device that wgpu reaches (lavapipe will do) and says so by name where there is
//! none.

use std::sync::Arc;

use hadal_conformance::execute::{Status, execute};
use hadal_conformance::{Lacking, Profile, plan};
use hadal_device::{Backend, Device, Features};
use hadal_shaders::faults::{FAULTS, Fault};
use hadal_wgpu::{WgpuBackend, WgpuOptions};

/// A device whose kernels have the fault, launched as on a GPU: in workgroups of several
/// subgroups, without which a missing barrier does no harm.
fn device(fault: Option<&'static Fault>) -> Option<Arc<dyn Device>> {
    let options = WgpuOptions {
        fault,
        ..WgpuOptions::default()
    };
    match WgpuBackend::new(options).open(0) {
        Ok(device) => Some(Arc::new(Lacking::new(device, Features::SOFTWARE))),
        Err(error) => {
            println!("NOT RUN: planted faults: {error}");
            None
        }
    }
}

/// What fails in a group, case and reason, up to the first that says `sought`.
fn failures(device: &Arc<dyn Device>, group: &str, sought: Option<&str>) -> Vec<String> {
    let wanted = format!("{group}/");
    let wants = |id: &str| id.starts_with(&wanted);
    let mut failed = Vec::new();
    for case in plan::cases_of(hadal_shaders::table(), device.info(), Profile::Core, &wants) {
        let result = execute(&case, device, &[], 1);
        if let Status::Failed { why } = result.status {
            let text = format!("{}: {why}", result.case);
            let is_sought = sought.is_some_and(|says| text.contains(says));
            failed.push(text);
            if is_sought {
                break;
            }
        }
    }
    failed
}

#[test]
fn every_planted_fault_is_caught_by_the_case_that_says_what_is_wrong() {
    let Some(sound) = device(None) else { return };
    let mut groups: Vec<_> = FAULTS.iter().map(|fault| fault.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let failed = failures(&sound, group, None);
        assert!(failed.is_empty(), "{group} without a fault: {failed:#?}");
    }
    for fault in FAULTS {
        let device = device(Some(fault)).expect("it opened before");
        let failed = failures(&device, fault.group, Some(fault.says));
        assert!(!failed.is_empty(), "{} was not caught", fault.name);
        let last = failed.last().filter(|text| text.contains(fault.says));
        let text = last.unwrap_or_else(|| {
            panic!("{}: nothing says {:?}: {failed:#?}", fault.name, fault.says)
        });
        println!("{}: {text}", fault.name);
    }
}
