//! The parameters of a kernel node of CUDA's graphs, and what an edge between two says.

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

/// `CUgraphEdgeData`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    from_port: u8,
    to_port: u8,
    kind: u8,
    reserved: [u8; 5],
}

impl Edge {
    /// The second kernel's blocks may be on the device once all of the first one's are, since they
    /// wait there for its end (`CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC` and
    /// `CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC`).
    pub const AHEAD: Edge = Edge {
        from_port: 1,
        to_port: 0,
        kind: 1,
        reserved: [0; 5],
    };

    /// The second begins when the first one has ended.
    pub const AFTER: Edge = Edge {
        from_port: 0,
        to_port: 0,
        kind: 0,
        reserved: [0; 5],
    };
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::{Edge, Node};

    #[test]
    fn the_structure_is_laid_out_as_in_the_header() {
        assert_eq!(offset_of!(Node, groups), 8);
        assert_eq!(offset_of!(Node, block), 20);
        assert_eq!(offset_of!(Node, shared), 32);
        assert_eq!(offset_of!(Node, arguments), 40);
        assert_eq!(offset_of!(Node, extra), 48);
        assert_eq!(size_of::<Node>(), 56);
        assert_eq!(offset_of!(Edge, to_port), 1);
        assert_eq!(offset_of!(Edge, kind), 2);
        assert_eq!(size_of::<Edge>(), 8);
    }
}
