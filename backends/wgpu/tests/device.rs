//! wgpu on whatever adapter there is: the device contract, and the options of this backend.
//! Without an adapter each test says that it did not run.

use std::sync::Arc;

use hadal_device::{Access, Backend, Device, Error, Operand, Step};
use hadal_wgpu::{WgpuBackend, WgpuLimits, WgpuOptions};

use contract::{add, bind, program, refused};

#[path = "../../contract.rs"]
mod contract;

contract::for_each!(open);

fn open(test: &str) -> Option<Arc<dyn Device>> {
    open_with(test, WgpuOptions::default())
}

/// The first device, or `None` and a line that names the test.
fn open_with(test: &str, options: WgpuOptions) -> Option<Arc<dyn Device>> {
    match WgpuBackend::new(options).open(0) {
        Ok(device) => Some(device),
        Err(Error::Unavailable { why, .. }) => {
            eprintln!("{test}: not run, {why}");
            None
        }
        Err(e) => panic!("{test}: {e}"),
    }
}

#[test]
fn limits_below_what_is_offered_are_reported_and_kept() {
    let webgpu = WgpuOptions {
        limits: WgpuLimits::WebGpu,
        ..WgpuOptions::default()
    };
    let test = "limits_below_what_is_offered_are_reported_and_kept";
    let Some(device) = open_with(test, webgpu) else {
        return;
    };
    let limits = device.info().limits;
    assert_eq!(
        (limits.max_binding_bytes, limits.max_operands),
        (128 << 20, 8)
    );
    let small = WgpuOptions {
        limits: WgpuLimits::BindingBytes(65_600),
        ..WgpuOptions::default()
    };
    let device = open_with(test, small).expect("it opened before");
    assert_eq!(device.info().limits.max_binding_bytes, 65_536);
    let mut dispatch = add(device.as_ref(), 4);
    dispatch.operands[1] = Operand::Range(bind(1, 0, 65_540, Access::Read));
    let why = refused(device.as_ref(), &program(4, vec![Step::Dispatch(dispatch)]));
    assert!(why.contains("above the limit of 65536"), "{why}");
}

#[test]
fn software_adapters_are_marked_and_come_last() {
    let Ok(devices) = WgpuBackend::default().devices() else {
        eprintln!("software_adapters_are_marked_and_come_last: not run, there is no adapter");
        return;
    };
    use hadal_device::{DeviceKind, Features};
    let software = |i: &hadal_device::DeviceInfo| i.features.has(Features::SOFTWARE);
    assert!(devices.is_sorted_by_key(software));
    for (ordinal, info) in devices.iter().enumerate() {
        assert_eq!(info.id(), format!("wgpu:{ordinal}"));
        assert_eq!(software(info), info.kind == DeviceKind::Software);
        assert!(info.features.has(Features::WGSL) && !info.driver.is_empty());
    }
    let hardware = WgpuBackend::new(WgpuOptions {
        hardware_only: true,
        ..WgpuOptions::default()
    });
    match hardware.devices() {
        Ok(devices) => assert!(!devices.iter().any(software)),
        Err(Error::Unavailable { why, .. }) => assert!(why.contains("install"), "{why}"),
        Err(e) => panic!("{e}"),
    }
    let beyond = WgpuBackend::default().open(devices.len());
    assert!(matches!(beyond, Err(Error::Unavailable { .. })));
}
