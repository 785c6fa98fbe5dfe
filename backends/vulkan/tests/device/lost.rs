//! Losing the device, on purpose. Without a device each test says that it did not run.

use hadal_device::{Access, Backend, BufferDesc, Error, Step, Ticket};
use hadal_vulkan::{VulkanBackend, VulkanOptions};

use crate::contract::{add, alloc, bind, prepare, program, span};
use crate::open::open_from;

#[test]
fn a_lost_device_answers_lost_to_everything_and_the_next_one_works() {
    let test = "a_lost_device_answers_lost_to_everything_and_the_next_one_works";
    let backend = VulkanBackend::new(VulkanOptions {
        checked: true,
        lose_after_submits: Some(3),
        ..VulkanOptions::default()
    });
    let Some(lost) = open_from(test, &backend) else {
        return;
    };
    let device = lost.as_ref();
    let buffer = alloc(device, 32 << 20);
    let fill = Step::Fill {
        to: bind(0, 0, 32 << 20, Access::Write),
        byte: 7,
    };
    let fill = program(1, vec![fill]);
    let mut executable = prepare(device, &fill);
    let tickets: Vec<Ticket> = (0..3)
        .map(|_| executable.submit(&[buffer]).expect("not lost yet"))
        .collect();
    let is_lost = |result: hadal_device::Result<()>, what: &str| {
        let Err(Error::Lost { device, why }) = result else {
            panic!("{what}: {result:?}");
        };
        assert!(device == "vulkan:0" && why.contains("DEVICE_LOST"), "{why}");
    };
    // What runs when the device is lost may still run: nothing may be taken from under it.
    is_lost(executable.submit(&[buffer]).map(drop), "submit");
    is_lost(executable.submit(&[buffer]).map(drop), "submit again");
    is_lost(device.wait(tickets[0]), "wait");
    is_lost(device.alloc(&BufferDesc::new("x", 4)).map(drop), "alloc");
    is_lost(device.write(span(buffer, 0, 4), &[0; 4]), "write");
    is_lost(
        device.write(span(buffer, 0, 1 << 20), &vec![0; 1 << 20]),
        "a long write",
    );
    is_lost(device.read(span(buffer, 0, 4), &mut [0; 4]), "read");
    is_lost(device.prepare(&fill).map(drop), "prepare");
    let body = hadal_device::Body::Host("add");
    is_lost(device.pipeline("x", &body, &[]).map(drop), "pipeline");
    assert_eq!(device.completed(), tickets[2], "nothing runs any more");
    device.free(buffer);
    drop(executable);

    let fresh = open_from(test, &backend).expect("it opened before");
    let device = fresh.as_ref();
    let mut executable = prepare(device, &program(4, vec![Step::Dispatch(add(device, 4))]));
    let table = [64, 16, 16, 16].map(|bytes| alloc(device, bytes));
    for _ in 0..5 {
        let ticket = executable.submit(&table).expect("a fresh device");
        device.wait(ticket).expect("it works on");
    }
    drop((executable, fresh, lost));
    assert_eq!(backend.complaints(), Vec::<String>::new());
}
