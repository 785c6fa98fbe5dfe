//! C++ rows of dense products that a library of the vendor's may do: its name is in no row, and where
//! it is missing, refuses or is slower, the row's kernel does it (`hadal_device::Body::Native`).

use hadal_device::{Body, DeviceInfo, Features, KernelRow, Launch, OpKind, Problem};

use crate::gpu_launch::*;
use crate::gpu_rows::row;
use crate::wgsl_fit::*;

type Fits = fn(&Problem) -> Option<&'static str>;

/// Dense products again, without a residual and with one, where a library of the vendor's may be
/// faster than these kernels.
fn native(
    names: [[&'static str; 4]; 2],
    fits: [Fits; 2],
    launch: fn(&Problem, &DeviceInfo) -> Launch,
) -> impl Iterator<Item = KernelRow> {
    let rows = names.into_iter().zip(fits);
    rows.map(move |(names, fits)| {
        let [_, file, entry, operands] = names;
        let plain = row(OpKind::Linear, names, fits, launch);
        KernelRow {
            needs: plain.needs.with(Features::LIBRARY),
            body: Body::Native {
                file,
                entry,
                operands,
            },
            ..plain
        }
    })
}

/// Those of codes, on Hopper.
pub(crate) fn codes() -> impl Iterator<Item = KernelRow> {
    let names = [
        ["gpu_linear_native8", "hopper8", "linear_wgmma8", "rxmrw"],
        [
            "gpu_linear_residual_native8",
            "hopper8",
            "linear_residual_wgmma8",
            "rxmrrw",
        ],
    ];
    let fits: [Fits; 2] = [
        |problem| linear_fits(problem).or_else(|| native_codes(problem)),
        |problem| linear_residual_fits(problem).or_else(|| native_codes(problem)),
    ];
    native(names, fits, launch_codes_ring)
}

/// Those of BF16 weights, on Hopper.
pub(crate) fn split() -> impl Iterator<Item = KernelRow> {
    let names = [
        [
            "gpu_linear_native_wgmma",
            "hopper",
            "linear_wgmma_bf16",
            "rrmw",
        ],
        [
            "gpu_linear_residual_native_wgmma",
            "hopper",
            "linear_residual_wgmma_bf16",
            "rrmrw",
        ],
    ];
    let fits: [Fits; 2] = [
        |problem| linear_fits(problem).or_else(|| native_split(problem)),
        |problem| linear_residual_fits(problem).or_else(|| native_split(problem)),
    ];
    native(names, fits, launch_split_ring)
}

/// Those of BF16 weights, where the kernels are those of `matrix.cu`.
pub(crate) fn tiles() -> Vec<KernelRow> {
    macro_rules! unit {
        ($feature:ident $name:literal) => {{
            let names = [
                [
                    concat!("gpu_linear_native_", $name),
                    "matrix",
                    concat!("linear_", $name, "_bf16"),
                    "rrrw",
                ],
                [
                    concat!("gpu_linear_residual_native_", $name),
                    "matrix",
                    concat!("linear_residual_", $name, "_bf16"),
                    "rrrrw",
                ],
            ];
            let fits: [Fits; 2] = [
                |problem| linear_fits(problem).or_else(|| native_tiles(problem)),
                |problem| linear_residual_fits(problem).or_else(|| native_tiles(problem)),
            ];
            native(names, fits, launch_tile).map(|row| KernelRow {
                needs: row.needs.with(Features::$feature),
                ..row
            })
        }};
    }
    let mut rows = Vec::new();
    rows.extend(unit!(MMA_SYNC "mma"));
    rows.extend(unit!(MFMA "mfma"));
    rows.extend(unit!(WMMA "wmma"));
    rows.extend(unit!(WMMA_12 "wmma12"));
    rows
}
