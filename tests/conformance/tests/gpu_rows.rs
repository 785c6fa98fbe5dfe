//! Which rows in C++ run on the processor, under a mock driver of a device that has what they need.
#![cfg(unix)]

use std::collections::BTreeSet;

use hadal_conformance::Profile;
use hadal_conformance::plan::{self, Work};
use hadal_cuda::{CudaBackend, CudaOptions};
use hadal_device::{Backend, Body, DeviceInfo, Features};
use hadal_gpumock::Steer;
use hadal_rocm::{RocmBackend, RocmOptions};

/// Rows that only hardware can run.
const ONLY_HARDWARE: [&str; 0] = [];

/// All devices that the mock drivers can have.
fn devices() -> Vec<DeviceInfo> {
    let archs: Vec<&str> = hadal_gpumock::all_archs().collect();
    let mock = Steer::open().expect("the mock drivers");
    let all = format!("arch={}", archs.join("+"));
    mock.configure(&all).expect("the mock drivers");
    let library = Some(hadal_gpumock::library());
    let cuda = CudaBackend::new(CudaOptions {
        library: library.clone(),
        ..CudaOptions::default()
    });
    let rocm = RocmBackend::new(RocmOptions {
        library,
        ..RocmOptions::default()
    });
    let mut devices = cuda.devices().expect("the mock's devices");
    devices.extend(rocm.devices().expect("the mock's devices"));
    assert_eq!(devices.len(), archs.len(), "{all}: {devices:?}");
    devices
}

#[test]
fn rows_that_only_hardware_can_run_are_listed_by_name() {
    let devices = devices();
    let (mut left, mut rows) = (Vec::new(), BTreeSet::new());
    for row in hadal_shaders::table() {
        let (Body::Gpu { file, entry, .. } | Body::Native { file, entry, .. }) = row.body else {
            continue;
        };
        rows.insert(row.name);
        let is_run = devices.iter().any(|info| {
            let has_kernel = hadal_gpumock::find(Some(file), entry, info.limits.subgroup.0);
            row.needs.without(info.features) == Features::NONE && has_kernel.is_some()
        });
        if !is_run {
            left.push(row.name);
        }
    }
    assert!(rows.len() > 100, "{rows:?}");
    assert_eq!(left, ONLY_HARDWARE);
    // And the suite has a case for each of the others.
    let all = devices
        .iter()
        .fold(Features::NONE, |all, info| all.with(info.features));
    let any = DeviceInfo {
        features: all,
        ..devices[0].clone()
    };
    for case in plan::cases(hadal_shaders::table(), &any, Profile::Core) {
        if let Work::Row(_, row) = case.work {
            rows.remove(row.name);
        }
    }
    assert!(rows.is_empty(), "no case of the suite runs {rows:?}");
}
