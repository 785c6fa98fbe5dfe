//! Makes a `Core` of an implementation of `Lanes`: the one place where functions are
//! compiled for an instruction set, and where it is said why that is sound.

/// Makes a core of an instruction set: `$core` is the type, `$lanes` its registers, `$codes` those
/// of codes of block formats.
macro_rules! vector_core {
    ($core:ident, $lanes:ty, $codes:ty, $features:literal) => {
        impl crate::core::Core for $core {
            fn dots<W: crate::weight::Elements>(
                x: crate::weight::Rows<'_>,
                w: &crate::weight::Matrix<'_>,
                out: &mut [f32],
                panel: &mut crate::core::Panel,
            ) -> Result<(), crate::args::Fault> {
                #[target_feature(enable = $features)]
                fn inner<W: crate::weight::Elements>(
                    x: crate::weight::Rows<'_>,
                    w: &crate::weight::Matrix<'_>,
                    out: &mut [f32],
                    panel: &mut crate::core::Panel,
                ) -> Result<(), crate::args::Fault> {
                    // SAFETY: compiled for the instruction set, see below.
                    unsafe {
                        crate::core::products::dots::<$lanes, W>(x, w, out, &mut panel.floats)
                    }
                }
                // SAFETY: `HostDevice::pipeline` gives out kernels of this core only on a
                // processor whose features were detected.
                unsafe { inner::<W>(x, w, out, panel) }
            }

            fn block_dots(
                x: crate::weight::Rows<'_>,
                w: &crate::weight::Matrix<'_>,
                out: &mut [f32],
                panel: &mut crate::core::Panel,
            ) -> Result<(), crate::args::Fault> {
                #[target_feature(enable = $features)]
                fn inner(
                    x: crate::weight::Rows<'_>,
                    w: &crate::weight::Matrix<'_>,
                    out: &mut [f32],
                    panel: &mut crate::core::Panel,
                ) -> Result<(), crate::args::Fault> {
                    // SAFETY: as in `dots`.
                    unsafe { crate::core::blocks::dots::<$lanes, $codes>(x, w, out, panel) }
                }
                // SAFETY: as in `dots`.
                unsafe { inner(x, w, out, panel) }
            }

            fn mix<W: crate::weight::Elements>(
                p: crate::weight::Rows<'_>,
                w: &crate::weight::Matrix<'_>,
                out: &mut [f32],
            ) {
                #[target_feature(enable = $features)]
                fn inner<W: crate::weight::Elements>(
                    p: crate::weight::Rows<'_>,
                    w: &crate::weight::Matrix<'_>,
                    out: &mut [f32],
                ) {
                    // SAFETY: as in `dots`.
                    unsafe { crate::core::products::mix::<$lanes, W>(p, w, out) }
                }
                // SAFETY: as in `dots`.
                unsafe { inner::<W>(p, w, out) }
            }

            fn swiglu(gate: &mut [f32], up: &[f32]) {
                #[target_feature(enable = $features)]
                fn inner(gate: &mut [f32], up: &[f32]) {
                    // SAFETY: as in `dots`.
                    unsafe { crate::core::elementwise::swiglu::<$lanes>(gate, up) }
                }
                // SAFETY: as in `dots`.
                unsafe { inner(gate, up) }
            }

            fn scale(values: &mut [f32], factor: f32) -> f32 {
                #[target_feature(enable = $features)]
                fn inner(values: &mut [f32], factor: f32) -> f32 {
                    // SAFETY: as in `dots`.
                    unsafe { crate::core::elementwise::scale::<$lanes>(values, factor) }
                }
                // SAFETY: as in `dots`.
                unsafe { inner(values, factor) }
            }

            fn exp(values: &mut [f32], shift: f32) -> f32 {
                #[target_feature(enable = $features)]
                fn inner(values: &mut [f32], shift: f32) -> f32 {
                    // SAFETY: as in `dots`.
                    unsafe { crate::core::elementwise::exp::<$lanes>(values, shift) }
                }
                // SAFETY: as in `dots`.
                unsafe { inner(values, shift) }
            }

            fn squares(values: &[f32]) -> f64 {
                #[target_feature(enable = $features)]
                fn inner(values: &[f32]) -> f64 {
                    // SAFETY: as in `dots`.
                    unsafe { crate::core::elementwise::squares::<$lanes>(values) }
                }
                // SAFETY: as in `dots`.
                unsafe { inner(values) }
            }
        }
    };
}
pub(super) use vector_core;
