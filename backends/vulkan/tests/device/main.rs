//! Vulkan on whatever device there is: the device contract, and the options of this backend.
//! Without a device each test says that it did not run.

use hadal_device::{Access, Backend, DeviceKind, Error, Features, Operand, Step};
use hadal_vulkan::{VulkanBackend, VulkanOptions};

use contract::{add, bind, program, refused};
use open::{checked, open_with};

#[path = "../../../contract.rs"]
mod contract;
mod lost;
mod measures;
mod open;

contract::for_each!(checked);

#[test]
fn a_binding_limit_below_what_is_offered_is_reported_and_kept() {
    let small = VulkanOptions {
        binding_bytes: Some(65_600),
        ..VulkanOptions::default()
    };
    let test = "a_binding_limit_below_what_is_offered_is_reported_and_kept";
    let Some(device) = open_with(test, small) else {
        return;
    };
    let device = device.as_ref();
    assert_eq!(device.info().limits.max_binding_bytes, 65_536);
    let mut dispatch = add(device, 4);
    dispatch.operands[1] = Operand::Range(bind(1, 0, 65_540, Access::Read));
    let why = refused(device, &program(4, vec![Step::Dispatch(dispatch)]));
    assert!(why.contains("above the limit of 65536"), "{why}");
}

#[test]
fn software_devices_are_marked_and_come_last() {
    let Ok(devices) = VulkanBackend::default().devices() else {
        eprintln!("NOT RUN: software_devices_are_marked_and_come_last, there is no device");
        return;
    };
    let software = |info: &hadal_device::DeviceInfo| info.features.has(Features::SOFTWARE);
    assert!(devices.is_sorted_by_key(software));
    for (ordinal, info) in devices.iter().enumerate() {
        assert_eq!(info.id(), format!("vulkan:{ordinal}"));
        assert_eq!(software(info), info.kind == DeviceKind::Software);
        assert!(info.features.has(Features::WGSL) && !info.driver.is_empty());
    }
    let beyond = VulkanBackend::default().open(devices.len());
    assert!(matches!(beyond, Err(Error::Unavailable { .. })));
}
