//! The CPU build of the kernels: orders, waves, mistakes that are found, speed.
#![cfg(unix)]

use std::time::Instant;

use hadal_gpumock::{Arg, Matrix, TensorMap, find, kernels, launch, launch_with};

fn bytes<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: the tests' values are numbers without padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_mut<T: Copy>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and any bytes are numbers.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Sums of blocks of 256 values by a kernel, and in order.
fn sums(name: &str, wave: u32, seed: u64) -> Result<(Vec<f32>, Vec<f32>), String> {
    let x: Vec<f32> = (0..7 * 256).map(|i| ((i * 37) % 101) as f32).collect();
    let mut out = vec![f32::NAN; 7];
    let n = Arg::word(x.len() as u32);
    launch(
        name,
        wave,
        [7, 1, 1],
        &mut [
            Arg::Read(bytes(&x)),
            Arg::Value(&n),
            Arg::Write(bytes_mut(&mut out)),
        ],
        seed,
    )?;
    Ok((out, x.chunks(256).map(|c| c.iter().sum()).collect()))
}

#[test]
fn sums_are_right_in_any_order_and_without_their_barrier_in_none() {
    for wave in [32, 64] {
        for name in ["test_block_sum", "test_wave_sum"] {
            for seed in 0..20 {
                let (out, want) = sums(name, wave, seed).unwrap();
                assert_eq!(out, want, "{name}, wave {wave}, seed {seed}");
                let planted = format!("sums_planted:{name}");
                let (out, want) = sums(&planted, wave, seed).unwrap();
                assert_ne!(out, want, "{planted}, wave {wave}, seed {seed}");
            }
        }
    }
}

fn words(name: &str, wave: u32, count: usize) -> Result<Vec<u32>, String> {
    let mut out = vec![0u32; count];
    launch(
        name,
        wave,
        [1, 1, 1],
        &mut [Arg::Write(bytes_mut(&mut out))],
        3,
    )?;
    Ok(out)
}

#[test]
fn mistakes_are_reported_with_kernel_and_block() {
    for wave in [32, 64] {
        for (name, what) in [
            (
                "test_returns_early",
                "63 wait at a barrier, 0 at a wave's exchange, 1 have returned",
            ),
            ("test_deadlock", "deadlock of 128 threads"),
            ("test_writes_behind", "written behind its end"),
            ("test_big_stack", "used up its stack"),
        ] {
            let error = words(name, wave, 128).unwrap_err();
            assert!(error.contains(name) && error.contains(what), "{error}");
            assert!(error.contains("block 0,0,0"), "{error}");
        }
    }
}

#[test]
fn block_memory_begins_as_not_a_number() {
    assert!(
        words("test_poison", 32, 64)
            .unwrap()
            .iter()
            .all(|w| *w == u32::MAX)
    );
}

#[test]
fn all_blocks_run_once() {
    let mut counter = [0u32];
    let grid = [9, 5, 3];
    launch(
        "test_count",
        64,
        grid,
        &mut [Arg::Write(bytes_mut(&mut counter))],
        11,
    )
    .unwrap();
    assert_eq!(counter[0], 9 * 5 * 3 * 256);
}

/// Numbers of units in `cpu/hadal_cpu.h`.
const MMA: u32 = 0;
const MFMA: u32 = 2;
const WMMA: u32 = 5;
const NO_UNIT: u32 = 8;

/// The first sums of 64 lanes, in which each `copies`-th holds a one.
fn fragments(wave: u32, unit: u32, last: u32, copies: u32) -> Result<Vec<f32>, String> {
    let mut sums = vec![0.0f32; 64];
    let words = [unit, last, copies].map(Arg::word);
    let mut args: Vec<Arg> = words.iter().map(|word| Arg::Value(word)).collect();
    args.push(Arg::Write(bytes_mut(&mut sums)));
    launch("test_fragments", wave, [1, 1, 1], &mut args, 5)?;
    Ok(sums)
}

#[test]
fn matrix_units_refuse_what_their_documentation_does_not_allow() {
    // One product, of the first lane's values: in the first lane's sums.
    for (wave, unit, copies) in [(32, MMA, 32), (64, MFMA, 64), (32, WMMA, 16)] {
        let sums = fragments(wave, unit, unit, copies).unwrap();
        for (thread, sum) in sums.iter().enumerate() {
            let is_first = (thread as u32).is_multiple_of(wave);
            assert_eq!(*sum, f32::from(u8::from(is_first)), "{unit}: {thread}");
        }
    }
    for (wave, unit, last, copies, says) in [
        (64, MMA, MMA, 64, "another number of lanes"),
        (32, MFMA, MFMA, 32, "another number of lanes"),
        (32, MMA, WMMA, 32, "different work"),
        (32, WMMA, WMMA, 32, "the halves of the wave"),
        (32, NO_UNIT, NO_UNIT, 32, "unknown"),
    ] {
        let why = fragments(wave, unit, last, copies).unwrap_err();
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn arguments_are_checked() {
    let mut out = [0u32; 4];
    assert!(launch("test_nothing", 32, [1; 3], &mut [], 0).is_err());
    assert!(launch("test_count", 32, [1; 3], &mut [], 0).is_err());
    assert!(launch("test_count", 32, [1; 3], &mut [Arg::Value(&[0; 8])], 0).is_err());
    let args = &mut [Arg::Write(bytes_mut(&mut out))];
    assert!(launch("test_count", 32, [1, 0, 1], args, 0).is_err());
}

#[test]
fn every_file_of_the_kernels_is_there_at_its_waves() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shaders/gpu");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "cu") {
            let file = path.file_stem().unwrap().to_str().unwrap();
            let waves = if file.starts_with("hopper") {
                &[32][..]
            } else {
                &[32, 64]
            };
            for &wave in waves {
                let of_file = |k: &&hadal_gpumock::Kernel| k.file == file && k.wave == wave;
                assert!(kernels().iter().any(|k| of_file(&k)), "{file} at {wave}");
            }
        }
    }
    let kernel = find(None, "linear_f8_wide_1", 32).unwrap();
    assert_eq!(
        (kernel.threads, kernel.argument_bytes()),
        (128, 128 + 5 * 8)
    );
}

/// A map where kernels look for one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Aligned(TensorMap);

/// A box of fewer lines than are expected, which `units.cu` does not know of.
const OTHER_BOX: u32 = 24;

/// Products of lines of 32 codes by the kernel, and as they are. `mistake` counts from 1 as
/// `units.cu` names them.
fn products(swizzle: u32, mistake: u32, seed: u64) -> Result<(Vec<f32>, Vec<f32>), String> {
    // Bits 0x38 + 8 n stand for the n-th power of two; zeros and signs are among the codes.
    let code = |i: u32| match i.wrapping_mul(2_654_435_761) >> 20 & 15 {
        0..4 => (0, 0.0f32),
        n @ 4..10 => (0x38 + 8 * (n as u8 - 4), (1 << (n - 4)) as f32),
        n => (0xb8 + 8 * (n as u8 - 10), -((1 << (n - 10)) as f32)),
    };
    let (a, a_values): (Vec<u8>, Vec<f32>) = (0..64 * 32).map(code).unzip();
    let (b, b_values): (Vec<u8>, Vec<f32>) = (9000..9000 + 128 * 32).map(code).unzip();
    // Maps ask for addresses of sixteen.
    let aligned = |codes: &[u8]| -> Vec<u128> {
        let quads = codes.chunks_exact(16);
        quads
            .map(|quad| u128::from_le_bytes(quad.try_into().unwrap()))
            .collect()
    };
    let (a, b_lines) = (aligned(&a), aligned(&b));
    // Modes count from 32 bytes in maps and from 128 in descriptors. What a box has more is zeros.
    let (mode, width) = match swizzle {
        0 => (0, 16),
        other => (4 - other as i32, 256 >> other),
    };
    let lines = if mistake == OTHER_BOX { 64 } else { 128 };
    let matrix = Matrix::of_bytes(b_lines.as_ptr() as u64, [32, 128], 32, [width, lines]);
    let modes = [0, mode, 0, 0];
    let b = [Aligned(Matrix { modes, ..matrix }.map()?)];
    let mut out = vec![0f32; 64 * 128];
    let (swizzle, mistake) = (Arg::word(swizzle), Arg::word(mistake));
    let args = &mut [
        Arg::Read(bytes(&a)),
        Arg::Read(bytes(&b)),
        Arg::Value(&swizzle),
        Arg::Value(&mistake),
        Arg::Write(bytes_mut(&mut out)),
    ];
    launch_with("test_units", 32, [1; 3], args, 64 << 10, seed)?;
    let line = |values: &[f32], i: usize| values[i * 32..][..32].to_vec();
    let want = (0..64 * 128).map(|i| {
        let (a, b) = (line(&a_values, i / 128), line(&b_values, i % 128));
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    });
    Ok((out, want.collect()))
}

#[test]
fn units_multiply_tiles_of_every_swizzle() {
    for swizzle in 0..4 {
        for seed in 0..5 {
            let (out, want) = products(swizzle, 0, seed).unwrap();
            assert!(out == want, "swizzle {swizzle}, seed {seed}");
        }
    }
}

#[test]
fn mistakes_around_the_units_show() {
    for (mistake, what) in [
        (2, "no fence let them see"),
        (4, "without the fence before them"),
        (6, "lanes of a wave"),
        (7, "four waves of a group"),
        (8, "128 for the end of a phase"),
        (9, "a barrier that is not there"),
        (11, "does not begin where its swizzle does"),
        (14, "128 for the end of a phase"),
        (15, "no fence let its thread use"),
        (16, "no fence let it see"),
        (17, "what is no tensor map"),
        (19, "an address that 128 does not divide"),
        (21, "a copy over a barrier"),
        (23, "more bytes expected than"),
        (OTHER_BOX, "128 for the end of a phase"),
    ] {
        for seed in 0..5 {
            let error = products(1, mistake, seed).unwrap_err();
            assert!(error.contains(what), "{mistake}: {error}");
        }
    }
    // Sums that nobody waited for, or that were not committed, are not numbers. Bytes that nobody
    // expects come too late, or keep the phase from its end.
    for mistake in [3, 5, 12, 13, 18] {
        for seed in 0..5 {
            if let Ok((out, want)) = products(1, mistake, seed) {
                assert!(out != want, "{mistake} at seed {seed}");
            }
        }
    }
    for mistake in [12, 13] {
        let late = |seed| products(1, mistake, seed).is_err_and(|e| e.contains("fewer bytes"));
        assert!((0..20).any(late), "{mistake}");
    }
    // The units may have been quick or not.
    let changed =
        |mistake, seed| products(1, mistake, seed).map_or(true, |(out, want)| out != want);
    assert!((0..20).any(|seed| changed(10, seed)));
    // Without the wait for copies, little is there but by luck.
    assert!((0..20).filter(|seed| changed(1, *seed)).count() > 12);
    let many = |seed| products(1, 22, seed).is_err_and(|e| e.contains("more arrivals in a phase"));
    assert!((0..20).any(many));
    // So may copies that a block leaves behind.
    let left = |seed| products(1, 20, seed).is_err_and(|e| e.contains("ended before its copies"));
    assert!((0..20).any(left));
}

/// Tolerances of whole suites do not see the last of the three parts of a value: here it is all
/// that is left.
#[test]
fn the_last_part_of_a_value_counts_on_hopper() {
    let (rows, n, k) = (64usize, 3usize, 128usize);
    // 1 + 2^-9 + 2^-18 takes three bf16, and 1 + 2^-9 less than that.
    let (half, last) = (2f32.powi(-9), 2f32.powi(-18));
    let (whole, less) = (1.0 + half + last, 1.0 + half);
    let x: Vec<f32> = (0..rows * k)
        .map(|i| if i % 2 == 0 { whole } else { less })
        .collect();
    let w: Vec<u16> = (0..n * k)
        .map(|i| if i % 2 == 0 { 0x3f80 } else { 0xbf80 })
        .collect();
    let quad = |eight: &[u16]| {
        eight
            .iter()
            .rev()
            .fold(0, |all, one| all << 16 | u128::from(*one))
    };
    let aligned: Vec<u128> = w.chunks(8).map(quad).collect();
    let (line, at) = (2 * k as u64, aligned.as_ptr() as u64);
    let map = Matrix::of_bytes(at, [line, n as u64], line, [128, 64]).map();
    let map = [Aligned(map.unwrap())];
    let mut params = [0u32; 32];
    // rows, the counts of all, n, k, strides, and the rows of the weight.
    (params[0], params[1], params[2]) = (rows as u32, u32::MAX, 1);
    (params[3], params[4]) = (n as u32, k as u32);
    (params[6], params[9], params[27]) = (k as u32, n as u32, n as u32);
    let mut y = vec![0f32; rows * n];
    let args = &mut [
        Arg::Value(bytes(&params)),
        Arg::Read(bytes(&[0u32; 64])),
        Arg::Read(bytes(&x)),
        Arg::Read(bytes(&map)),
        Arg::Write(bytes_mut(&mut y)),
    ];
    launch_with("linear_wgmma_bf16", 32, [1; 3], args, 227 << 10, 5).unwrap();
    assert!(y.iter().all(|v| *v == 64.0 * last), "{:?}", &y[..3]);
}

/// Prints speeds; run alone: `cargo test --release -p hadal-gpumock -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speeds() {
    let (n, k) = (512usize, 2048usize);
    let x = vec![0.5f32; k];
    let w = vec![0x38u8; n * k];
    let scales = vec![1.0f32; n / 128 * (k / 128)];
    let inputs = [0u32; 64];
    let mut params = [0u32; 32];
    // rows, the counts of all, n, k, strides, and the rows of the weight.
    (params[0], params[1], params[2]) = (1, u32::MAX, 1);
    (params[3], params[4]) = (n as u32, k as u32);
    (params[6], params[9], params[27]) = (k as u32, n as u32, n as u32);
    for (name, wave) in [("linear_f8_wide_1", 32), ("linear_f8_wide_1", 64)] {
        let mut y = vec![0f32; n];
        let mut times = Vec::new();
        for seed in 0..5 {
            let start = Instant::now();
            launch(
                name,
                wave,
                [n as u32 / (256 / wave), 1, 1],
                &mut [
                    Arg::Value(bytes(&params)),
                    Arg::Read(bytes(&inputs)),
                    Arg::Read(bytes(&x)),
                    Arg::Read(&w),
                    Arg::Read(bytes(&scales)),
                    Arg::Write(bytes_mut(&mut y)),
                ],
                seed,
            )
            .unwrap();
            times.push(start.elapsed().as_secs_f64());
        }
        assert!(y.iter().all(|v| *v == k as f32 * 0.5), "{:?}", &y[..4]);
        let best = times.iter().copied().fold(f64::MAX, f64::min);
        println!(
            "{name} wave {wave}: {:.0} MFLOP/s",
            2e-6 * (n * k) as f64 / best
        );
    }
    let blocks = 4096u32;
    let x = vec![1f32; blocks as usize * 256];
    let mut y = x.clone();
    let mut sums = vec![0f32; blocks as usize];
    for round in 0..2 {
        let start = Instant::now();
        let (a, count) = (Arg::word(2f32.to_bits()), Arg::word(blocks * 256));
        let args = &mut [
            Arg::Value(&a),
            Arg::Read(bytes(&x)),
            Arg::Write(bytes_mut(&mut y)),
            Arg::Value(&count),
        ];
        launch("test_axpy", 32, [blocks, 1, 1], args, round).unwrap();
        let plain = start.elapsed();
        let start = Instant::now();
        let args = &mut [
            Arg::Read(bytes(&x)),
            Arg::Value(&count),
            Arg::Write(bytes_mut(&mut sums)),
        ];
        launch("test_block_sum", 32, [blocks, 1, 1], args, round).unwrap();
        let summed = start.elapsed();
        println!(
            "a thread that never waits: {:.1} ns; one with eight barriers: {:.1} ns",
            plain.as_nanos() as f64 / f64::from(blocks * 256),
            summed.as_nanos() as f64 / f64::from(blocks * 256)
        );
    }
}
