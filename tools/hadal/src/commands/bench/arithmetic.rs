//! How fast a device multiplies: the bound of long prompts.
//!
//! The product of two square matrices by the kernel that the device takes for it. Sides grow
//! until a product takes a while; the best run of all counts, since everything else that runs
//! only makes it slower.

use std::time::{Duration, Instant};

use hadal_device::{
    Access, COUNT_ALL, DType, Device, Dispatch, Error, Executable, OpKind, Operand, Params,
    Problem, Result, SCALE_BLOCK, Step, coded_words, flags, select,
};
use hadal_engine::DISPATCH_BUDGET;
use hadal_engine::stage::{Buffers, bind, program};

/// The product whose rate bounds a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Product {
    /// Format of the weight.
    pub weight: DType,
    /// Activations are E4M3 codes.
    pub coded: bool,
}

/// What a device made of a product.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Which one.
    pub product: Product,
    /// The kernel row.
    pub kernel: &'static str,
    /// Rows, outputs and inputs of the fastest one.
    pub side: u32,
    /// A multiply-add counts as two operations.
    pub flop_per_second: f64,
}

/// The smallest product: short on the slowest of devices, and a whole block of scales. Weights in
/// larger blocks begin with one of them.
const FIRST_SIDE: u32 = 128;

/// The largest: no GPU of today gains by more.
const LAST_SIDE: u32 = 4096;

/// Runs of one side, and the time after which there are no more of them.
const RUNS: usize = 10;
const LONG_ENOUGH: Duration = Duration::from_millis(200);

/// The rate of a product; `None` where the device has no kernel for it.
///
/// # Errors
/// Those of the device.
pub fn measure(device: &dyn Device, product: Product) -> Result<Option<Rate>> {
    let mut best: Option<Rate> = None;
    let mut side = FIRST_SIDE.max(product.weight.block_values() as u32);
    loop {
        let run = match of_side(device, product, side) {
            Ok(Some(run)) => run,
            Ok(None) => return Ok(best),
            // What there was memory for is known.
            Err(Error::OutOfMemory { .. }) if best.is_some() => return Ok(best),
            Err(error) => return Err(error),
        };
        let flop_per_second = 2.0 * f64::from(side).powi(3) / run.seconds;
        if best.is_none_or(|best| best.flop_per_second < flop_per_second) {
            best = Some(Rate {
                product,
                kernel: run.kernel,
                side,
                flop_per_second,
            });
        }
        // Twice the side is eight times the work, and a GPU is shared with others.
        if side == LAST_SIDE || 8 * run.waited > DISPATCH_BUDGET {
            return Ok(best);
        }
        side *= 2;
    }
}

/// The fastest product of a side.
struct Run {
    kernel: &'static str,
    seconds: f64,
    /// By this processor's clock, whatever the device says.
    waited: Duration,
}

/// The product of a side; `None` where there is no kernel or the operands are too large.
fn of_side(device: &dyn Device, product: Product, side: u32) -> Result<Option<Run>> {
    let info = device.info();
    let problem = problem(product, side);
    let Ok(choice) = select(hadal_shaders::table(), info, &problem) else {
        return Ok(None);
    };
    let operands = operands(&problem);
    let most = info.limits.max_binding_bytes;
    let most = most.min(info.limits.max_buffer_bytes);
    if operands.iter().any(|(_, bytes, _)| *bytes > most) {
        return Ok(None);
    }
    let launch = (choice.row.launch)(&problem, info);
    let row = choice.row;
    let pipeline = device.pipeline(row.name, &row.body, &launch.constants)?;
    let last = operands.len() - 1;
    let binds = operands.iter().enumerate().map(|(slot, (_, bytes, _))| {
        let access = match slot == last {
            true => Access::Write,
            false => Access::Read,
        };
        Operand::Range(bind(slot, *bytes, access))
    });
    let dispatch = Step::Dispatch(Dispatch {
        pipeline,
        groups: launch.groups,
        operands: binds.collect(),
        params: Box::new(problem.params),
        label: format!("{} bench", row.name),
    });
    let mut buffers = Buffers::new(device);
    for (label, bytes, numbers) in &operands {
        buffers.add_filled(label, *bytes, &content(*numbers))?;
    }
    let mut executable = device.prepare(&program(operands.len(), dispatch))?;
    fastest(&buffers, executable.as_mut(), row.name).map(Some)
}

fn fastest(
    buffers: &Buffers<'_>,
    executable: &mut dyn Executable,
    kernel: &'static str,
) -> Result<Run> {
    // The first run warms up.
    buffers.seconds(executable)?;
    let mut best = Run {
        kernel,
        seconds: f64::MAX,
        waited: Duration::MAX,
    };
    let started = Instant::now();
    for _ in 0..RUNS {
        let run = Instant::now();
        // No clock is finer than a nanosecond.
        best.seconds = best.seconds.min(buffers.seconds(executable)?.max(1e-9));
        best.waited = best.waited.min(run.elapsed());
        if started.elapsed() > LONG_ENOUGH {
            break;
        }
    }
    Ok(best)
}

fn problem(product: Product, side: u32) -> Problem {
    let (x_stride, flags) = match product.coded {
        true => (coded_words(side).next_multiple_of(4), flags::CODED),
        false => (side, 0),
    };
    Problem {
        op: OpKind::Linear,
        weight: product.weight,
        params: Params {
            rows: side,
            count_word: COUNT_ALL,
            count_scale: 1,
            n: side,
            k: side,
            x_stride,
            x_head_stride: x_stride,
            y_stride: side,
            y_head_stride: side,
            heads: 1,
            row_count: side,
            flags: flags | flags::format_bits(product.weight),
            ..Params::default()
        },
    }
}

/// Bytes of `inputs`, of which this product reads nothing.
const INPUTS_BYTES: u64 = 256;

/// Operands of `Linear`: what each is, its bytes, and the format of its numbers.
fn operands(problem: &Problem) -> Vec<(&'static str, u64, DType)> {
    let p = &problem.params;
    let (side, weight) = (u64::from(p.k), problem.weight);
    let x = match p.flags & flags::CODED != 0 {
        true => DType::F8E4M3,
        false => DType::F32,
    };
    let mut operands = vec![
        ("inputs", INPUTS_BYTES, DType::U32),
        ("activations", 4 * side * u64::from(p.x_stride), x),
        ("weight", side * weight.row_bytes(side), weight),
    ];
    if weight.has_block_scales() {
        let blocks = side.div_ceil(u64::from(SCALE_BLOCK));
        operands.push(("scales", 4 * blocks * blocks, DType::F32));
    }
    operands.push(("product", 4 * side * side, DType::F32));
    operands
}

/// Bytes of content that repeats.
const CONTENT_BYTES: usize = 1 << 20;

/// Numbers of a format: random, because multiplying the same ones again and again draws less
/// power and lets a GPU run faster than it ever does; of 0.5 to 1 and either sign, so that
/// nothing overflows. Scales among E4M3 codes come out small, but as numbers.
fn content(numbers: DType) -> Vec<u8> {
    let (random, exponent) = match numbers {
        DType::F32 => (0x807f_ffff, 0x3f00_0000),
        DType::F16 => (0x83ff_83ff, 0x3800_3800),
        DType::Bf16 => (0x807f_807f, 0x3f00_3f00),
        DType::F8E4M3 => (0x8787_8787, 0x3030_3030),
        // Nothing is multiplied in other formats.
        _ => (0, 0),
    };
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state & random | exponent
    };
    (0..CONTENT_BYTES / 4)
        .flat_map(|_| next().to_le_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use hadal_device::{Features, e4m3_to_f32};
    use hadal_engine::registry::{self, Options};

    use super::*;

    #[test]
    fn numbers_are_between_a_half_and_one_and_of_either_sign() {
        let bytes = content(DType::F8E4M3);
        let codes: Vec<f32> = bytes.iter().map(|code| e4m3_to_f32(*code)).collect();
        let words = content(DType::F32);
        let words = words
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        for values in [codes, words.collect()] {
            assert!(values.iter().all(|v| (0.5..1.0).contains(&v.abs())));
            let negative = values.iter().filter(|v| **v < 0.0).count();
            assert!((values.len() / 3..values.len() / 3 * 2).contains(&negative));
        }
    }

    #[test]
    fn the_host_has_a_rate_for_every_format_of_weights_and_none_for_codes() {
        let opened = registry::open(Some("host"), &Options::default()).unwrap();
        let device = opened.device.as_ref();
        assert!(device.info().features.has(Features::HOST));
        for weight in [
            DType::F32,
            DType::Bf16,
            DType::F8E4M3,
            DType::Q8_0,
            DType::Q4K,
        ] {
            let coded = false;
            let rate = measure(device, Product { weight, coded }).unwrap().unwrap();
            assert!(rate.kernel.starts_with("host_linear_"), "{rate:?}");
            assert!(rate.flop_per_second > 1e6, "{rate:?}");
        }
        assert!(measure(device, CODES).unwrap().is_none());
    }

    const CODES: Product = Product {
        weight: DType::F8E4M3,
        coded: true,
    };

    #[test]
    fn codes_are_multiplied_on_the_units_for_them_at_every_side() {
        let opened = registry::open(Some("host"), &Options::default()).unwrap();
        let info = hadal_device::DeviceInfo {
            features: Features::GPU_CPP.with(Features::FP8_MMA),
            ..opened.device.info().clone()
        };
        let mut side = FIRST_SIDE;
        while side <= LAST_SIDE {
            let problem = problem(CODES, side);
            let choice = select(hadal_shaders::table(), &info, &problem);
            let row = choice.map(|choice| choice.row).ok().unwrap();
            assert!(row.takes_codes, "{}", row.name);
            side *= 2;
        }
    }
}
