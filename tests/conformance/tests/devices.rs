//! The whole suite on devices of this machine, in this process (`hadal conformance` takes one for
//! each group): every instruction set of the host; wgpu and Vulkan with bounds checks, as GPUs
//! even where they are software adapters. `tests/matrix.sh` runs them as they are.

use std::sync::Arc;

use hadal_conformance::execute::{Status, execute};
use hadal_conformance::{Lacking, Profile, plan};
use hadal_device::{Backend, Device, Features};
use hadal_host::{HostBackend, Isa};
use hadal_vulkan::{VulkanBackend, VulkanOptions};
use hadal_wgpu::{WgpuBackend, WgpuOptions};

/// The cases that `wanted` names.
fn cases(name: &str, device: &Arc<dyn Device>, wanted: impl Fn(&str) -> bool) {
    let mut cases = plan::cases(hadal_shaders::table(), device.info(), Profile::Core);
    cases.retain(|case| wanted(&case.id));
    let (mut passed, mut failed) = (0, Vec::new());
    for case in &cases {
        let result = execute(case, device, &[], 1);
        match result.status {
            Status::Passed { .. } => passed += 1,
            ref status if !status.is_good() => {
                failed.push(format!("{}: {}", result.case, status.text()));
            }
            _ => {}
        }
    }
    println!("{name}: {passed} of {} cases passed", cases.len());
    assert!(failed.is_empty(), "{name}: {failed:#?}");
    assert!(passed > 200, "{name}: only {passed} cases passed");
}

fn suite(name: &str, device: Arc<dyn Device>) {
    cases(name, &device, |_| true);
}

fn on(name: &str, backend: &dyn Backend) {
    match backend.open(0) {
        Ok(device) => suite(name, device),
        Err(error) => println!("NOT RUN: the suite on {name}: {error}"),
    }
}

fn as_gpu(name: &str, backend: &dyn Backend) {
    match backend.open(0) {
        Ok(device) if device.info().features.has(Features::SOFTWARE) => {
            suite(name, Arc::new(Lacking::new(device, Features::SOFTWARE)));
        }
        Ok(device) => suite(name, device),
        Err(error) => println!("NOT RUN: the suite on {name}: {error}"),
    }
}

#[test]
fn the_host_passes_with_every_instruction_set() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let name = format!("host {}", isa.name());
        on(&name, &HostBackend::new().with_isa(isa).with_threads(3));
    }
}

fn checked_wgpu() -> WgpuBackend {
    WgpuBackend::new(WgpuOptions {
        checked: true,
        ..WgpuOptions::default()
    })
}

#[test]
fn wgpu_passes_as_a_gpu() {
    as_gpu("wgpu as a GPU", &checked_wgpu());
}

#[test]
fn wgpu_passes_with_the_other_way_of_decoding_halves() {
    let options = WgpuOptions {
        no_half_conversion: true,
        ..WgpuOptions::default()
    };
    match WgpuBackend::new(options).open(0) {
        Ok(device) => cases("wgpu without half conversion", &device, |id| {
            id.contains(".f16.") || id.contains(".f8e4m3.")
        }),
        Err(error) => println!("NOT RUN: the suite on wgpu without half conversion: {error}"),
    }
}

fn checked_vulkan() -> VulkanBackend {
    VulkanBackend::new(VulkanOptions {
        checked: true,
        ..VulkanOptions::default()
    })
}

#[test]
fn vulkan_passes_as_a_gpu() {
    as_gpu("vulkan as a GPU", &checked_vulkan());
}
