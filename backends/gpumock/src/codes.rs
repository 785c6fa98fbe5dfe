//! Error codes that both vendors number alike, and what a call returns.

/// Whose driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    /// NVIDIA's.
    Cuda,
    /// AMD's.
    Hip,
}

/// What a call did: nothing, or its error code.
pub(crate) type Result<T = (), E = u32> = std::result::Result<T, E>;

pub(crate) const INVALID_VALUE: u32 = 1;
pub(crate) const OUT_OF_MEMORY: u32 = 2;
pub(crate) const NOT_INITIALIZED: u32 = 3;
pub(crate) const NO_DEVICE: u32 = 100;
pub(crate) const INVALID_DEVICE: u32 = 101;
pub(crate) const INVALID_IMAGE: u32 = 200;
pub(crate) const INVALID_CONTEXT: u32 = 201;
pub(crate) const NO_BINARY: u32 = 209;
pub(crate) const ECC: u32 = 214;
pub(crate) const INVALID_PTX: u32 = 218;
pub(crate) const UNSUPPORTED_PTX: u32 = 222;
pub(crate) const INVALID_HANDLE: u32 = 400;
pub(crate) const NOT_FOUND: u32 = 500;
pub(crate) const NOT_READY: u32 = 600;
pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
pub(crate) const PEER_ALREADY: u32 = 704;
pub(crate) const LAUNCH_FAILED: u32 = 719;
pub(crate) const UNKNOWN: u32 = 999;

/// Whether all later calls on the device fail too.
pub(crate) fn is_sticky(code: u32) -> bool {
    matches!(
        code,
        ECC | 220 | ILLEGAL_ADDRESS | 702 | 710 | 714..=LAUNCH_FAILED | UNKNOWN
    )
}

/// The names of the codes above, with a final zero.
pub(crate) fn name(code: u32) -> &'static [u8] {
    match code {
        0 => b"no error\0",
        INVALID_VALUE => b"invalid argument\0",
        OUT_OF_MEMORY => b"out of memory\0",
        NOT_INITIALIZED => b"initialization error\0",
        NO_DEVICE => b"no device is detected\0",
        INVALID_DEVICE => b"invalid device ordinal\0",
        INVALID_IMAGE => b"device kernel image is invalid\0",
        INVALID_CONTEXT => b"invalid device context\0",
        NO_BINARY => b"no kernel image is available for execution on the device\0",
        ECC => b"uncorrectable ECC error encountered\0",
        INVALID_PTX => b"a PTX JIT compilation failed\0",
        UNSUPPORTED_PTX => b"the PTX was compiled with an unsupported toolchain\0",
        INVALID_HANDLE => b"invalid resource handle\0",
        NOT_FOUND => b"named symbol not found\0",
        NOT_READY => b"device not ready\0",
        ILLEGAL_ADDRESS => b"an illegal memory access was encountered\0",
        LAUNCH_FAILED => b"unspecified launch failure\0",
        _ => b"unknown error\0",
    }
}
