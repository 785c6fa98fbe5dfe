//! AVX-512 with products of BF16: weights in BF16 times activations that may be rounded
//! (`flags::ROUGH`), which are products of pairs. Everything else is the AVX-512 core's.

use hadal_device::DType;

use super::avx512::as_avx512;
use super::avx512_pairs::{self, Halves};
use super::{Avx512, Core, Panel};
use crate::args::Fault;
use crate::weight::{Elements, Matrix, Rows};

/// Rows of activations for which products of pairs are no faster.
const FEW: usize = 8;

/// The AVX-512 core with products of BF16.
pub(crate) struct Avx512Bf16;

impl Core for Avx512Bf16 {
    fn dots<W: Elements>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        fn rough<W: Elements>(
            x: Rows<'_>,
            w: &Matrix<'_>,
            out: &mut [f32],
            panel: &mut Panel,
        ) -> Result<bool, Fault> {
            // SAFETY: compiled for the instruction set, see below.
            unsafe { avx512_pairs::many::<Halves, W>(x, w, out, panel) }
        }
        // SAFETY: `HostDevice::pipeline` gives out kernels of this core only on a processor
        // whose features were detected.
        let rounded = W::DTYPE == DType::Bf16
            && w.rough
            && x.count > FEW
            && unsafe { rough::<W>(x, w, out, panel) }?;
        match rounded {
            true => Ok(()),
            false => Avx512::dots::<W>(x, w, out, panel),
        }
    }

    fn block_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        Avx512::block_dots(x, w, out, panel)
    }

    fn mix<W: Elements>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]) {
        Avx512::mix::<W>(p, w, out);
    }

    as_avx512!();
}
