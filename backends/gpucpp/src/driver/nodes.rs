//! The parameters of a kernel node, which the drivers lay out differently.

use std::ffi::{c_uint, c_void};
use std::ptr::null_mut;

use super::Vendor;
use super::table::Handle;

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// The kernel.
    pub function: Handle,
    /// Blocks along each axis.
    pub groups: [c_uint; 3],
    /// Threads of a block.
    pub threads: c_uint,
    /// Dynamic shared memory.
    pub shared: c_uint,
    /// Where each argument lies.
    pub arguments: *mut Handle,
}

/// `CUDA_KERNEL_NODE_PARAMS_v1`.
#[repr(C)]
struct CudaNode {
    function: Handle,
    groups: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    arguments: *mut Handle,
    extra: *mut Handle,
}

/// `hipKernelNodeParams`. The function may be one of a module: what is no function of the
/// host's is taken for one (`hipGraphKernelNode::getFunc`).
#[repr(C)]
struct HipNode {
    block: [c_uint; 3],
    extra: *mut Handle,
    function: Handle,
    groups: [c_uint; 3],
    arguments: *mut Handle,
    shared: c_uint,
}

impl Node {
    /// Calls `with` with the structure that `vendor` wants.
    pub fn with<R>(&self, vendor: Vendor, with: impl FnOnce(*const c_void) -> R) -> R {
        let block = [self.threads, 1, 1];
        match vendor {
            Vendor::Cuda => {
                let node = CudaNode {
                    function: self.function,
                    groups: self.groups,
                    block,
                    shared: self.shared,
                    arguments: self.arguments,
                    extra: null_mut(),
                };
                with((&raw const node).cast())
            }
            Vendor::Hip => {
                let node = HipNode {
                    block,
                    extra: null_mut(),
                    function: self.function,
                    groups: self.groups,
                    arguments: self.arguments,
                    shared: self.shared,
                };
                with((&raw const node).cast())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::{CudaNode, HipNode};

    #[test]
    fn structures_are_laid_out_as_in_the_headers() {
        assert_eq!(offset_of!(CudaNode, groups), 8);
        assert_eq!(offset_of!(CudaNode, block), 20);
        assert_eq!(offset_of!(CudaNode, shared), 32);
        assert_eq!(offset_of!(CudaNode, arguments), 40);
        assert_eq!(offset_of!(CudaNode, extra), 48);
        assert_eq!(size_of::<CudaNode>(), 56);
        assert_eq!(offset_of!(HipNode, extra), 16);
        assert_eq!(offset_of!(HipNode, function), 24);
        assert_eq!(offset_of!(HipNode, groups), 32);
        assert_eq!(offset_of!(HipNode, arguments), 48);
        assert_eq!(offset_of!(HipNode, shared), 56);
        assert_eq!(size_of::<HipNode>(), 64);
    }
}
