//! What the drivers' codes mean. Nearly all are the same number in CUDA and HIP.
//!
//! Up to ROCm 6.3 a kernel that touches no memory of the device ends the whole process inside AMD's
//! runtime, which writes "Memory access fault by GPU node": there is no code for it, no loss to be
//! seen, and nothing to be done again. Later versions may answer with one of the codes below.

use super::Vendor;
use super::table::Status;

/// Done.
pub const OK: Status = 0;
/// Memory is full.
pub const OUT_OF_MEMORY: Status = 2;
/// There is no device.
pub const NO_DEVICE: Status = 100;
/// Work is not finished.
pub const NOT_READY: Status = 600;
/// The driver cannot do this.
pub const NOT_SUPPORTED: Status = 801;

/// Whether nothing works after this code: the device's context is spoilt.
pub fn is_loss(status: Status) -> bool {
    // 4: the driver shuts down; 46: taken by another process; 214, 220: memory or link
    // errors that could not be corrected; 700 to 721: a kernel went wrong, less 701
    // (too large to launch) and 704, 705, 708, 711 to 713, which are about calls; 806, 810:
    // the server of shared devices went; 911: a device outside; 1052, 1053: HIP's runtime.
    matches!(
        status,
        4 | 46 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714
            ..=719 | 721 | 806 | 810 | 911 | 999 | 1052 | 1053
    )
}

/// What HIP answers to a launch that it refuses, such as one of a larger block than the kernel was
/// compiled for, and what a wait answers where a kernel failed.
pub const LAUNCH_FAILED: Status = 719;

/// Whether the driver cannot use this image, so that another may serve.
pub fn is_refusal(status: Status) -> bool {
    matches!(
        status,
        98 | 200 | 209 | 218 | 221..=225 | 300 | 302 | 303 | 500 | 701
    )
}

/// The header's name of a code, without its prefix.
fn short(status: Status) -> Option<[&'static str; 2]> {
    Some(match status {
        1 => ["INVALID_VALUE", "InvalidValue"],
        2 => ["OUT_OF_MEMORY", "OutOfMemory"],
        3 => ["NOT_INITIALIZED", "NotInitialized"],
        4 => ["DEINITIALIZED", "Deinitialized"],
        34 => ["STUB_LIBRARY", "StubLibrary"],
        35 => ["INSUFFICIENT_DRIVER", "InsufficientDriver"],
        46 => ["DEVICE_UNAVAILABLE", "DeviceUnavailable"],
        98 => ["INVALID_DEVICE_FUNCTION", "InvalidDeviceFunction"],
        100 => ["NO_DEVICE", "NoDevice"],
        101 => ["INVALID_DEVICE", "InvalidDevice"],
        200 => ["INVALID_IMAGE", "InvalidImage"],
        201 => ["INVALID_CONTEXT", "InvalidContext"],
        209 => ["NO_BINARY_FOR_GPU", "NoBinaryForGpu"],
        214 => ["ECC_UNCORRECTABLE", "ECCNotCorrectable"],
        217 => ["PEER_ACCESS_UNSUPPORTED", "PeerAccessUnsupported"],
        218 => ["INVALID_PTX", "InvalidKernelFile"],
        220 => ["NVLINK_UNCORRECTABLE", "NvlinkUncorrectable"],
        221 => ["JIT_COMPILER_NOT_FOUND", "JitCompilerNotFound"],
        222 => ["UNSUPPORTED_PTX_VERSION", "UnsupportedPtxVersion"],
        223 => ["JIT_COMPILATION_DISABLED", "JitCompilationDisabled"],
        303 => ["SHARED_OBJECT_INIT_FAILED", "SharedObjectInitFailed"],
        304 => ["OPERATING_SYSTEM", "OperatingSystem"],
        400 => ["INVALID_HANDLE", "InvalidHandle"],
        500 => ["NOT_FOUND", "NotFound"],
        600 => ["NOT_READY", "NotReady"],
        700 => ["ILLEGAL_ADDRESS", "IllegalAddress"],
        701 => ["LAUNCH_OUT_OF_RESOURCES", "LaunchOutOfResources"],
        702 => ["LAUNCH_TIMEOUT", "LaunchTimeOut"],
        709 => ["CONTEXT_IS_DESTROYED", "ContextIsDestroyed"],
        710 => ["ASSERT", "Assert"],
        714 => ["HARDWARE_STACK_ERROR", "HardwareStackError"],
        715 => ["ILLEGAL_INSTRUCTION", "IllegalInstruction"],
        716 => ["MISALIGNED_ADDRESS", "MisalignedAddress"],
        717 => ["INVALID_ADDRESS_SPACE", "InvalidAddressSpace"],
        718 => ["INVALID_PC", "InvalidPc"],
        719 => ["LAUNCH_FAILED", "LaunchFailure"],
        801 => ["NOT_SUPPORTED", "NotSupported"],
        802 => ["SYSTEM_NOT_READY", "SystemNotReady"],
        803 => ["SYSTEM_DRIVER_MISMATCH", "SystemDriverMismatch"],
        804 => [
            "COMPAT_NOT_SUPPORTED_ON_DEVICE",
            "CompatNotSupportedOnDevice",
        ],
        999 => ["UNKNOWN", "Unknown"],
        _ => return None,
    })
}

/// The name of a code as the vendor's documentation has it, and the number.
pub fn name(vendor: Vendor, status: Status) -> String {
    match (vendor, short(status)) {
        (Vendor::Cuda, Some([cuda, _])) => format!("CUDA_ERROR_{cuda} ({status})"),
        (Vendor::Hip, Some([_, hip])) => format!("hipError{hip} ({status})"),
        (Vendor::Cuda, None) => format!("CUDA error {status}"),
        (Vendor::Hip, None) => format!("HIP error {status}"),
    }
}

/// The same with what to do about it, where that is known.
pub fn told(vendor: Vendor, status: Status) -> String {
    let name = name(vendor, status);
    match (vendor, status) {
        // GPUs that NVSwitch connects do not start without it.
        (Vendor::Cuda, 802) => format!(
            "{name}; where GPUs are connected by NVSwitch, start nvidia-fabricmanager \
             (`systemctl start nvidia-fabricmanager`)"
        ),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::{is_loss, is_refusal, name};
    use crate::Vendor;

    #[test]
    fn codes_are_named_as_their_vendor_does() {
        assert_eq!(name(Vendor::Cuda, 719), "CUDA_ERROR_LAUNCH_FAILED (719)");
        assert_eq!(name(Vendor::Hip, 719), "hipErrorLaunchFailure (719)");
        assert_eq!(name(Vendor::Hip, 12345), "HIP error 12345");
    }

    #[test]
    fn no_code_is_two_things() {
        assert!((0..2000).all(|code| !(is_loss(code) && is_refusal(code))));
        assert!([214, 700, 719, 999].into_iter().all(is_loss));
        assert!(![0, 1, 2, 600, 701, 801].into_iter().any(is_loss));
    }
}
