//! Measures encoding: the error of every format on normal numbers, and megabytes of `f32` a
//! second on one core.
//!
//! `cargo run --release -p hadal-blocks --example encode`

use std::time::Instant;

use hadal_blocks::{decode, encode};
use hadal_device::DType;

fn main() {
    let mut state = 7u64;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((state >> 33) as f64 + 0.5) / (1u64 << 31) as f64
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let values: Vec<f32> = (0..1 << 20).map(|_| 0.02 * normal() as f32).collect();
    println!("format   bits/weight  error/deviation  MB/s");
    for format in DType::BLOCKS {
        let mut bytes = vec![0; format.row_bytes(values.len() as u64) as usize];
        // Tables of patterns are made the first time.
        let first = format.row_bytes(256) as usize;
        let outcome = encode(format, &values[..256], None, &mut bytes[..first]);
        let started = Instant::now();
        if let Err(error) = outcome.and_then(|()| encode(format, &values, None, &mut bytes)) {
            println!("{format}: {error}");
            continue;
        }
        let rate = 4.0 * values.len() as f64 / 1e6 / started.elapsed().as_secs_f64();
        let mut back = vec![0f32; values.len()];
        decode(format, &bytes, &mut back);
        let square = |x: f32| f64::from(x) * f64::from(x);
        let off: f64 = values.iter().zip(&back).map(|(a, b)| square(a - b)).sum();
        let all: f64 = values.iter().map(|a| square(*a)).sum();
        println!(
            "{:<8} {:>11.4} {:>16.4} {:>5.0}",
            format.name(),
            8.0 * bytes.len() as f64 / values.len() as f64,
            (off / all).sqrt(),
            rate
        );
    }
}
