//! What can go wrong on a device. Every variant tells the person what to do.

/// A device operation that did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The backend cannot be used on this machine.
    #[error("{backend} is not available, because {why}")]
    Unavailable {
        /// Backend name, as in `--device`.
        backend: &'static str,
        /// The cause, and the cure where there is one.
        why: String,
    },
    /// The device can never do this.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The operation or kernel.
        what: String,
        /// The missing feature or the exceeded limit.
        why: String,
    },
    /// An allocation did not fit. Nothing was allocated; other buffers are untouched.
    #[error(
        "out of {memory} memory: {} for {what}; choose a smaller context, a smaller model or another device",
        wanted(*wanted_bytes)
    )]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// Which memory, as the person knows it ("host", "wgpu:0").
        memory: String,
        /// Size of the request that failed; 0 where only the driver knows it.
        wanted_bytes: u64,
    },
    /// The device went away (driver reset, unplugged). Open it again; weights can be
    /// uploaded again from their file.
    #[error("the device {device} was lost: {why}; open it again to go on")]
    Lost {
        /// Device name.
        device: String,
        /// What the driver said.
        why: String,
    },
    /// A caller broke the contract of this crate: a bug in the program above, not on the
    /// device.
    #[error("internal contract broken: {0}")]
    Invalid(String),
}

fn wanted(bytes: u64) -> String {
    match bytes {
        0 => "some was wanted".into(),
        bytes => format!("{bytes} bytes wanted"),
    }
}

/// Result of a device operation.
pub type Result<T> = std::result::Result<T, Error>;
