//! Names of device memory.

/// A buffer of one device. The number means nothing to callers and is never reused while
/// the device is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u64);

/// A request for memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferDesc {
    /// What it is for; shown in traces and in out-of-memory errors.
    pub label: String,
    /// Size; at least 1.
    pub bytes: u64,
    /// On a device that is made of several ([`crate::DeviceInfo::members`]): which of them has it;
    /// `None`: each. Other devices ignore it.
    pub member: Option<u16>,
}

impl BufferDesc {
    /// A request of `bytes` bytes for `label`, on each member of the device.
    pub fn new(label: impl Into<String>, bytes: u64) -> BufferDesc {
        BufferDesc {
            label: label.into(),
            bytes,
            member: None,
        }
    }

    /// The same on one member.
    pub fn on(self, member: Option<u16>) -> BufferDesc {
        BufferDesc { member, ..self }
    }
}

/// A byte range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The buffer.
    pub buffer: BufferId,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Read-only memory that a device may use in place: a memory-mapped shard, for example.
pub type Pages = std::sync::Arc<dyn AsRef<[u8]> + Send + Sync>;
