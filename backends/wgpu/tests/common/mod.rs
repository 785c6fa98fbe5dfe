//! What the tests of this backend share.

use hadal_device::{Access, Bind, BufferDesc, BufferId, Device, Program, Slot, Step};

/// A program that fills `bytes` bytes `times` times with sevens, and its buffer.
pub fn filling(device: &dyn Device, bytes: u64, times: usize) -> (Program, BufferId) {
    let to = Bind {
        slot: Slot(0),
        offset: 0,
        bytes,
        access: Access::Write,
    };
    let steps = vec![Step::Fill { to, byte: 7 }; times];
    let buffer = device.alloc(&BufferDesc::new("filled", bytes));
    (Program { slots: 1, steps }, buffer.expect("memory"))
}
