//! The parameters of a kernel node of CUDA's graphs.

use std::ffi::c_uint;

use super::table::Handle;

/// `CUDA_KERNEL_NODE_PARAMS_v1`.
#[repr(C)]
pub struct Node {
    /// The kernel.
    pub function: Handle,
    /// Blocks along each axis.
    pub groups: [c_uint; 3],
    /// Threads of a block along each axis.
    pub block: [c_uint; 3],
    /// Dynamic shared memory.
    pub shared: c_uint,
    /// Where each argument lies.
    pub arguments: *mut Handle,
    /// Arguments in another form; null.
    pub extra: *mut Handle,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::Node;

    #[test]
    fn the_structure_is_laid_out_as_in_the_header() {
        assert_eq!(offset_of!(Node, groups), 8);
        assert_eq!(offset_of!(Node, block), 20);
        assert_eq!(offset_of!(Node, shared), 32);
        assert_eq!(offset_of!(Node, arguments), 40);
        assert_eq!(offset_of!(Node, extra), 48);
        assert_eq!(size_of::<Node>(), 56);
    }
}
