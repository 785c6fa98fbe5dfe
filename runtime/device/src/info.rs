//! What a device is and can do.

use std::fmt;

use crate::DType;

/// Named capabilities of a device, as bits. Kernel rows state what they need, reports print
/// the names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(u32);

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl Features {
            $($(#[$doc])* pub const $name: Features = Features(1 << $bit);)*
            /// Every feature with its printed name.
            pub const ALL: &'static [(Features, &'static str)] = &[$((Features::$name, $text),)*];
        }
    };
}

features! {
    /// Runs host rows (Rust functions named in the table).
    HOST = 0, "host";
    /// Runs WGSL rows.
    WGSL = 1, "wgsl";
    /// An expert table may be scattered over buffers (`flags::SCATTERED`); otherwise its
    /// entries lie in one range at a constant stride. See [`Features::scatters`].
    POINTER_TABLES = 2, "pointer-tables";
    /// Shader subgroup operations.
    SUBGROUPS = 3, "subgroups";
    /// Half-precision arithmetic in shaders.
    SHADER_F16 = 4, "shader-f16";
    /// x86-64 with AVX2, FMA and F16C.
    AVX2 = 5, "avx2";
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    AVX512 = 6, "avx512";
    /// AVX-512 VBMI byte look-ups.
    AVX512_VBMI = 7, "avx512-vbmi";
    /// 64-bit Arm with Advanced SIMD.
    NEON = 8, "neon";
    /// A CPU pretending to be a GPU (lavapipe, SwiftShader, WARP).
    SOFTWARE = 9, "software";
    /// Runs SPIR-V rows.
    SPIRV = 10, "spirv";
    /// Matrix units: subgroups multiply matrices of f16 with sums of f32, of the size
    /// [`MatrixSizes::f16`].
    COOPERATIVE_MATRIX = 11, "cooperative-matrix";
    /// Runs C++ rows: kernels of one source for CUDA and ROCm.
    GPU_CPP = 12, "gpu-c++";
    /// NVIDIA GPUs of compute capability 8.0 or later: matrix units of a warp for f16 and bf16.
    MMA_SYNC = 13, "mma-sync";
    /// NVIDIA GPUs of compute capability 9.0: matrix units of four warps, and copies of tiles
    /// by hardware.
    HOPPER = 14, "hopper";
    /// AMD's CDNA: matrix units of a wave of 64.
    MFMA = 15, "mfma";
    /// Reads weights where they lie in host memory: `Device::adopt` works for pages that
    /// begin a page of the system. Operand offsets keep to `Limits::offset_align`.
    IN_PLACE = 16, "in-place";
    /// AMD's RDNA 3: matrix units of a wave of 32.
    WMMA = 17, "wmma";
    /// AMD's RDNA 4: the same with other registers.
    WMMA_12 = 18, "wmma-12";
    /// NVIDIA GPUs of compute capability 8.9 or later: matrix units of a warp for E4M3.
    FP8_MMA = 19, "fp8-mma";
    /// AMD's gfx950: matrix units for E4M3.
    FP8_MFMA = 20, "fp8-mfma";
    /// AMD's gfx942: the same for its own E4M3, which has another bias and another NaN.
    FP8_MFMA_FNUZ = 21, "fp8-mfma-fnuz";
    /// AMD's RDNA 4: matrix units for E4M3.
    FP8_WMMA = 22, "fp8-wmma";
    /// AVX-512 products of 8-bit integers.
    AVX512_VNNI = 23, "avx512-vnni";
    /// `POINTER_TABLES` holds for weights in block formats too.
    BLOCK_POINTER_TABLES = 24, "block-pointer-tables";
    /// Its queue is the program's own, which draws with it: submits take turns with those of
    /// the program, so that never more than one of them is unfinished.
    SHARED = 25, "shared";
    /// As `COOPERATIVE_MATRIX` with elements of bf16, of the size [`MatrixSizes::bf16`].
    COOPERATIVE_BF16 = 26, "cooperative-bf16";
    /// As `COOPERATIVE_MATRIX` with elements of E4M3, of the size [`MatrixSizes::e4m3`].
    COOPERATIVE_E4M3 = 27, "cooperative-e4m3";
    /// As `COOPERATIVE_MATRIX` with elements that are integers of 8 bits and sums of 32, of the
    /// size [`MatrixSizes::int8`].
    COOPERATIVE_INT8 = 28, "cooperative-int8";
    /// A library of the vendor's was found that multiplies: [`crate::Body::Native`].
    LIBRARY = 29, "library";
    /// AVX-512 products of BF16.
    AVX512_BF16 = 30, "avx512-bf16";
    /// Intel's matrix units of BF16.
    AMX = 31, "amx";
}

impl Features {
    /// No feature at all.
    pub const NONE: Features = Features(0);

    /// Both sets together.
    pub const fn with(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// This set less the members of `other`.
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// True if every member of `other` is in this set.
    pub const fn has(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if any member of `other` is in this set.
    pub const fn meets(self, other: Features) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the entries of an expert table of `dtype` may be scattered over buffers.
    pub fn scatters(self, dtype: DType) -> bool {
        self.has(Features::POINTER_TABLES)
            && (!dtype.is_blocks() || self.has(Features::BLOCK_POINTER_TABLES))
    }

    /// Printed names of the members, in declaration order.
    pub fn names(self) -> Vec<&'static str> {
        Features::ALL
            .iter()
            .filter(|(bit, _)| self.has(*bit))
            .map(|(_, name)| *name)
            .collect()
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.names().join("+"))
    }
}

/// What matrix units multiply, for each type of element: `m x k` times `k x n`, as `[m, n, k]`,
/// with sums of f32, or of integers. `None` without the feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixSizes {
    /// [`Features::COOPERATIVE_MATRIX`].
    pub f16: Option<[u32; 3]>,
    /// [`Features::COOPERATIVE_BF16`].
    pub bf16: Option<[u32; 3]>,
    /// [`Features::COOPERATIVE_E4M3`].
    pub e4m3: Option<[u32; 3]>,
    /// [`Features::COOPERATIVE_INT8`].
    pub int8: Option<[u32; 3]>,
}

/// Numbers that lowering and kernels must respect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest byte range one operand may cover.
    pub max_binding_bytes: u64,
    /// Largest single buffer.
    pub max_buffer_bytes: u64,
    /// Byte alignment of operand offsets.
    pub offset_align: u64,
    /// Storage buffers a kernel may take (a table counts as one).
    pub max_operands: u32,
    /// Invocations a workgroup may have.
    pub max_workgroup: u32,
    /// Workgroups along one axis of a grid.
    pub max_grid: u32,
    /// Bytes of workgroup memory.
    pub shared_bytes: u32,
    /// Smallest and largest subgroup size; (0, 0) without subgroups.
    pub subgroup: (u32, u32),
    /// Sizes of cooperative matrices; `None` without any.
    pub matrix: Option<MatrixSizes>,
}

/// Kind of a device, for choosing a default and for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The machine's own processor.
    Cpu,
    /// GPU with memory of its own.
    DiscreteGpu,
    /// GPU that shares memory with the processor.
    IntegratedGpu,
    /// GPU of a virtual machine.
    VirtualGpu,
    /// A software implementation of a GPU interface.
    Software,
}

impl DeviceKind {
    /// Whether it has memory of its own, and does not share the host's.
    pub fn has_own_memory(self) -> bool {
        match self {
            DeviceKind::DiscreteGpu | DeviceKind::VirtualGpu => true,
            DeviceKind::Cpu | DeviceKind::Software | DeviceKind::IntegratedGpu => false,
        }
    }
}

/// One of the devices that a device is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name that selects it, e.g. `cuda:1`.
    pub id: String,
    /// Its memory in bytes where the driver tells.
    pub memory_bytes: Option<u64>,
}

/// Everything known of a device before it is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Backend name: `host`, `wgpu`, ...
    pub backend: &'static str,
    /// Index among the backend's devices.
    pub ordinal: usize,
    /// The vendor's name of the device.
    pub name: String,
    /// Driver name and version, or the instruction set of a host device.
    pub driver: String,
    /// What it is.
    pub kind: DeviceKind,
    /// What it can do.
    pub features: Features,
    /// What it can hold.
    pub limits: Limits,
    /// Device memory in bytes where the driver tells; of an open device what of it was free then,
    /// where the driver tells that, too.
    pub memory_bytes: Option<u64>,
    /// From how many tokens a step on the expanded form of attention is the faster one;
    /// `None`: never.
    pub expand_from_tokens: Option<u32>,
    /// The devices that it is made of ([`crate::Device::prepare_stage`]); empty where it is one.
    pub members: Vec<Member>,
}

impl DeviceInfo {
    /// The name that selects this device on the command line, e.g. `wgpu:0` or `cuda:0+cuda:1`.
    pub fn id(&self) -> String {
        if !self.members.is_empty() {
            let ids: Vec<&str> = self.members.iter().map(|it| it.id.as_str()).collect();
            return ids.join("+");
        }
        if self.backend == "host" {
            self.backend.to_string()
        } else {
            format!("{}:{}", self.backend, self.ordinal)
        }
    }

    /// Memory of each member, of one that has none its own.
    pub fn memories(&self) -> Vec<Option<u64>> {
        match self.members.as_slice() {
            [] => vec![self.memory_bytes],
            members => members.iter().map(|member| member.memory_bytes).collect(),
        }
    }
}
