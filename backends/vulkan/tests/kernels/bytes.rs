//! Rows on matrix units for integers of eight bits: activations as digits, one or three.

use hadal_device::{DType, Features, OpKind, Params, flags};
use half::f16;

use crate::formats::{Weight, dot};
use crate::harness::{Arg, Case, Random, Step0, answer, fitting};
use crate::open::devices;

/// Values of a block of Q8_0.
const BLOCK: usize = 32;

fn q8_0(rows: usize, k: usize, random: &mut Random) -> Weight {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for _ in 0..rows * k / BLOCK {
        let scale = f16::from_f32(0.01 * (1.5 + random.float()));
        bytes.extend(scale.to_le_bytes());
        for _ in 0..BLOCK {
            let code = random.below(256) as u8 as i8;
            bytes.push(code as u8);
            values.push(scale.to_f64() * f64::from(code));
        }
    }
    Weight {
        dtype: DType::Q8_0,
        k,
        bytes,
        scales: Vec::new(),
        values,
    }
}

/// How far one digit may be off: half a step of each block's activations times its weights.
fn half_steps(x: &[f32], w: &[f64]) -> f64 {
    let blocks = x.chunks(BLOCK).zip(w.chunks(BLOCK));
    blocks.fold(0.0, |sum, (x, w)| {
        let top = x.iter().fold(0.0f32, |top, x| top.max(x.abs()));
        let weights: f64 = w.iter().map(|w| w.abs()).sum();
        sum + f64::from(top) / 254.0 * weights
    })
}

#[test]
fn three_digits_lose_nothing_and_one_digit_half_a_step() {
    const TEST: &str = "three_digits_lose_nothing_and_one_digit_half_a_step";
    let (rows, n, k) = (20u32, 70u32, 96u32);
    let mut random = Random(61);
    let w = q8_0(n as usize, k as usize, &mut random);
    let x = random.floats((rows * k) as usize);
    for (device_name, device) in devices() {
        if !device.info().features.has(Features::COOPERATIVE_INT8) {
            println!("NOT RUN: {TEST}, {device_name} has no matrices of integers");
            continue;
        }
        for flag in [0, flags::ROUGH] {
            let params = Params {
                rows,
                count_word: hadal_device::COUNT_ALL,
                n,
                k,
                x_stride: k,
                y_stride: n,
                row_count: n,
                flags: flag | flags::format_bits(DType::Q8_0),
                ..Params::default()
            };
            let case = Case {
                name: format!("digits, flags {flag}"),
                op: OpKind::Linear,
                weight: DType::Q8_0,
                params,
                step: Step0::of(rows, rows),
                args: vec![
                    Arg::F32(x.clone()),
                    Arg::Weight(&w),
                    Arg::Out(vec![Some(0.0); (rows * n) as usize]),
                ],
                tolerance: 0.0,
            };
            let mut fitting = fitting(&case, device.info()).into_iter();
            let row = fitting.find(|row| row.name == "spirv_linear_matrix_q8_0");
            let y = answer(&case, device.as_ref(), row.expect("the row fits"));
            let mut worst = 0.0f64;
            for (i, y) in y.iter().enumerate() {
                let (r, o) = (i / n as usize, i % n as usize);
                let (x, w) = (&x[r * k as usize..][..k as usize], w.row(o));
                let off = (f64::from(*y) - dot(x, w)).abs();
                worst = worst.max(off / half_steps(x, w));
            }
            println!("{device_name}, flags {flag}: {worst:.1e} of half a step");
            match flag {
                0 => assert!(worst < 1e-4, "{device_name}: {worst:e}"),
                // Both ways: a digit more would have passed below.
                _ => assert!((0.05..=1.001).contains(&worst), "{device_name}: {worst:e}"),
            }
        }
    }
}
