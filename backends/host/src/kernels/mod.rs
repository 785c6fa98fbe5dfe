//! Host kernels by name, one file an operation family.
//!
//! Each kernel does what the sentence of its operation in `hadal_device::OpKind` says, for
//! one workgroup: block `group[0]` of outputs (or heads), block `group[1]` of rows, and
//! what the file says of `group[2]`. Groups beyond the real rows exit at once. The names
//! stand in the kernel table of the shaders crate; a test resolves each.

mod attention;
mod expanded;
mod experts;
mod latent;
mod linear;
mod order;
mod pointwise;
mod quant;
mod route;
mod rows;

use hadal_device::{Features, flags};

use crate::args::{Args, Fault};
#[cfg(target_arch = "aarch64")]
use crate::core::Neon;
#[cfg(target_arch = "x86_64")]
use crate::core::{Amx, Avx2, Avx512, Avx512Bf16, Avx512Vbmi, Avx512Vnni};
use crate::core::{Scalar, Scratch};
use crate::weight::{Bf16, Blocks, E4m3, F16, F32};

/// A kernel: runs one workgroup.
pub(crate) type HostFn = fn(&Args<'_>, [u32; 3], &mut Scratch) -> Result<(), Fault>;

/// A named kernel.
pub(crate) struct HostKernel {
    /// Name in `Body::Host`.
    pub name: &'static str,
    /// Instruction sets it uses.
    pub needs: Features,
    /// Operands it takes.
    pub operands: usize,
    /// The flag that adds one more operand, or 0.
    pub optional: u32,
    /// The function.
    pub run: HostFn,
}

/// The kernel called `name`.
pub(crate) fn find(name: &str) -> Option<&'static HostKernel> {
    KERNELS
        .iter()
        .flat_map(|family| family.iter())
        .find(|kernel| kernel.name == name)
}

/// Index of element `row * stride` after `offset`; so far below the largest number that a
/// few of these can be added without a look, and far beyond any operand if it is absurd.
fn at(offset: u32, row: usize, stride: u32) -> usize {
    let index = (offset as usize).saturating_add(row.saturating_mul(stride as usize));
    index.min(usize::MAX / 8)
}

/// A kernel without weights.
const fn plain(name: &'static str, operands: usize, run: HostFn) -> HostKernel {
    weightless(name, Features::HOST, operands, run)
}

/// The same, for an instruction set.
const fn weightless(
    name: &'static str,
    needs: Features,
    operands: usize,
    run: HostFn,
) -> HostKernel {
    HostKernel {
        name,
        needs,
        operands,
        optional: 0,
        run,
    }
}

/// The formats of a kernel with `$weights` weight operands; FP8 ones bring scales.
macro_rules! formats {
    ($suffix:literal, $needs:expr, $core:ty;
     $($name:literal, $operands:literal + $weights:literal, $optional:expr, $($path:ident)::+;)*) => {
        &[$(
            formats!(@ $name, "f32", $suffix, $needs, $operands, $optional, $($path)::+::<$core, F32>),
            formats!(@ $name, "f16", $suffix, $needs, $operands, $optional, $($path)::+::<$core, F16>),
            formats!(@ $name, "bf16", $suffix, $needs, $operands, $optional, $($path)::+::<$core, Bf16>),
            formats!(@ $name, "f8", $suffix, $needs, $operands + $weights, $optional, $($path)::+::<$core, E4m3>),
            formats!(@ $name, "blocks", $suffix, $needs, $operands, $optional, $($path)::+::<$core, Blocks>),
        )*]
    };
    (@ $name:literal, $format:literal, $suffix:literal, $needs:expr, $operands:expr, $optional:expr, $run:expr) => {
        HostKernel {
            name: concat!("host_", $name, "_", $format, $suffix),
            needs: $needs,
            operands: $operands,
            optional: $optional,
            run: $run,
        }
    };
}

/// The kernels whose arithmetic is a `Core`.
macro_rules! core_kernels {
    ($suffix:literal, $needs:expr, $core:ty) => {
        formats! { $suffix, $needs, $core;
            "linear", 4 + 1, flags::RESIDUAL, linear::linear;
            "gate_up", 5 + 2, 0, linear::gate_up;
            "head_linear", 4 + 1, 0, linear::head_linear;
            "grouped_linear", 5 + 1, 0, experts::grouped_linear;
            "grouped_gate_up", 6 + 2, 0, experts::grouped_gate_up;
            "expert_linear", 5 + 1, 0, experts::expert_linear;
            "expert_gate_up", 6 + 2, 0, experts::expert_gate_up;
            "attend_expanded", 5 + 1, 0, attention::attend_expanded;
        }
    };
}

/// The formats of a kernel whose weight is a vector, which FP8 is not used for.
macro_rules! vectors {
    ($suffix:literal, $needs:expr, $core:ty;
     $name:literal, $operands:literal, $optional:expr, $($path:ident)::+) => {
        &[
            formats!(@ $name, "f32", $suffix, $needs, $operands, $optional, $($path)::+::<$core, F32>),
            formats!(@ $name, "f16", $suffix, $needs, $operands, $optional, $($path)::+::<$core, F16>),
            formats!(@ $name, "bf16", $suffix, $needs, $operands, $optional, $($path)::+::<$core, Bf16>),
        ]
    };
}

/// What the core of tiles uses: it leaves few rows to the others.
#[cfg(target_arch = "x86_64")]
const AMX: Features = Features::AMX
    .with(Features::AVX512_VNNI)
    .with(Features::AVX512_VBMI);

/// The products of the cores that multiply tiles, BF16 in pairs, look FP8 weights up and multiply
/// blocks as integers.
#[cfg(target_arch = "x86_64")]
macro_rules! special_products {
    ($($name:literal, $operands:literal + $weights:literal, $optional:expr, $($path:ident)::+;)*) => {
        &[$(
            formats!(@ $name, "bf16", "_amx", AMX, $operands, $optional, $($path)::+::<Amx, Bf16>),
            formats!(@ $name, "f8", "_amx", AMX, $operands + $weights, $optional, $($path)::+::<Amx, E4m3>),
            formats!(@ $name, "blocks", "_amx", AMX, $operands, $optional, $($path)::+::<Amx, Blocks>),
            formats!(@ $name, "bf16", "_avx512bf16", Features::AVX512_BF16, $operands, $optional, $($path)::+::<Avx512Bf16, Bf16>),
            formats!(@ $name, "f8", "_avx512vbmi", Features::AVX512_VBMI.with(Features::AVX512_VNNI), $operands + $weights, $optional, $($path)::+::<Avx512Vbmi, E4m3>),
            formats!(@ $name, "blocks", "_avx512vnni", Features::AVX512_VNNI, $operands, $optional, $($path)::+::<Avx512Vnni, Blocks>),
        )*]
    };
}

/// The kernels of a `Core` without weights.
macro_rules! core_plain {
    ($suffix:literal, $needs:expr, $core:ty) => {
        &[
            weightless(
                concat!("host_attend_latent", $suffix),
                $needs,
                4,
                latent::attend_latent::<$core>,
            ),
            weightless(
                concat!("host_attend_part", $suffix),
                $needs,
                5,
                latent::attend_part::<$core>,
            ),
            weightless(
                concat!("host_attend_merge", $suffix),
                $needs,
                4,
                latent::attend_merge::<$core>,
            ),
            weightless(
                concat!("host_swiglu", $suffix),
                $needs,
                4,
                pointwise::swiglu::<$core>,
            ),
        ]
    };
}

const KERNELS: &[&[HostKernel]] = &[
    #[cfg(target_arch = "x86_64")]
    special_products! {
        "linear", 4 + 1, flags::RESIDUAL, linear::linear;
        "gate_up", 5 + 2, 0, linear::gate_up;
        "head_linear", 4 + 1, 0, linear::head_linear;
        "grouped_linear", 5 + 1, 0, experts::grouped_linear;
        "grouped_gate_up", 6 + 2, 0, experts::grouped_gate_up;
        "expert_linear", 5 + 1, 0, experts::expert_linear;
        "expert_gate_up", 6 + 2, 0, experts::expert_gate_up;
    },
    #[cfg(target_arch = "x86_64")]
    formats! { "_amx", AMX, Amx;
        "attend_expanded", 5 + 1, 0, attention::attend_expanded;
    },
    #[cfg(target_arch = "x86_64")]
    &[
        weightless(
            "host_attend_latent_amx",
            AMX,
            4,
            latent::attend_latent::<Amx>,
        ),
        weightless("host_attend_part_amx", AMX, 5, latent::attend_part::<Amx>),
    ],
    #[cfg(target_arch = "x86_64")]
    formats! { "_avx512vnni", Features::AVX512_VNNI, Avx512Vnni;
        "attend_expanded", 5 + 1, 0, attention::attend_expanded;
    },
    #[cfg(target_arch = "x86_64")]
    core_kernels!("_avx512", Features::AVX512, Avx512),
    #[cfg(target_arch = "x86_64")]
    core_plain!("_avx512", Features::AVX512, Avx512),
    #[cfg(target_arch = "x86_64")]
    vectors!("_avx512", Features::AVX512, Avx512; "norm", 4, 0, rows::norm),
    #[cfg(target_arch = "x86_64")]
    core_kernels!("_avx2", Features::AVX2, Avx2),
    #[cfg(target_arch = "x86_64")]
    core_plain!("_avx2", Features::AVX2, Avx2),
    #[cfg(target_arch = "x86_64")]
    vectors!("_avx2", Features::AVX2, Avx2; "norm", 4, 0, rows::norm),
    #[cfg(target_arch = "aarch64")]
    core_kernels!("_neon", Features::NEON, Neon),
    #[cfg(target_arch = "aarch64")]
    core_plain!("_neon", Features::NEON, Neon),
    #[cfg(target_arch = "aarch64")]
    vectors!("_neon", Features::NEON, Neon; "norm", 4, 0, rows::norm),
    core_kernels!("", Features::HOST, Scalar),
    core_plain!("", Features::HOST, Scalar),
    vectors!("", Features::HOST, Scalar; "norm", 4, 0, rows::norm),
    formats! { "", Features::HOST, Scalar;
        "embed", 3 + 1, 0, rows::embed;
        "unpack_heads", 3 + 1, 0, rows::unpack_heads;
    },
    vectors!("", Features::HOST, Scalar; "route", 4, flags::BIAS, route::route),
    &[
        plain("host_rope", 4, rows::rope),
        plain("host_cache_append", 3, rows::cache_append),
        plain("host_gather", 3, rows::gather),
        plain("host_argmax", 3, rows::argmax),
        plain("host_copy", 3, pointwise::copy),
        plain("host_add", 4, pointwise::add),
        plain("host_act_quant", 3, quant::act_quant),
        plain("host_expert_offsets", 5, order::expert_offsets),
        plain("host_permute", 4, order::permute),
        plain("host_combine", 6, order::combine),
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kernels_share_a_name() {
        let mut names: Vec<_> = KERNELS
            .iter()
            .flat_map(|f| f.iter())
            .map(|k| k.name)
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
