//! Products by the mock of cuBLASLt: when they are used, and that they are right.
#![cfg(unix)]

mod mock;

use std::path::Path;
use std::sync::Arc;

use hadal_device::{
    Access, Bind, Body, BufferDesc, BufferId, Device, Dispatch, Error, Executable, Features,
    Operand, Params, Program, Result, Slot, Span, Step, coded_scales, coded_words, flags,
};
use hadal_gpucpp::{GpuBackend, GpuDevice, GpuOptions, Vendor};

use mock::Mock;

/// A bucket of rows of which some are there, and a shard that begins at the second block of
/// scales.
const ROWS: u32 = 64;
const REAL: u32 = 50;
const DEPTH: u32 = 512;
const FIRST: u32 = 128;
const OUTPUTS: u32 = 144;
const ALL: u32 = FIRST + OUTPUTS;

/// What no product writes.
const LEFT: f32 = -77.0;

/// Any number from 0 to 1, always the same for a place.
fn any(place: usize) -> f32 {
    (place as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32
}

/// Codes of small values of both signs.
fn code(place: usize) -> u8 {
    let code = 0x28 + (any(place) * 24.0) as u8;
    if place.is_multiple_of(3) {
        code | 0x80
    } else {
        code
    }
}

fn value(code: u8) -> f32 {
    let magnitude = (1.0 + f32::from(code & 7) / 8.0) * 2f32.powi(i32::from(code >> 3 & 15) - 7);
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// The numbers of a case: two products with the same rows, the second with a weight of other
/// signs.
struct Case {
    /// Inputs, rows of codes, a weight, its scales, residual if there is one; then the other
    /// weight.
    read: Vec<Vec<u8>>,
    params: Params,
    expected: [Vec<f32>; 2],
}

fn params(has_residual: bool) -> Params {
    Params {
        rows: ROWS,
        count_word: 0,
        count_scale: 1,
        n: ALL,
        k: DEPTH,
        x_offset: 4,
        x_stride: coded_words(DEPTH).next_multiple_of(4),
        y_offset: 3,
        y_stride: ALL + 5,
        b_offset: 7,
        b_stride: ALL + 1,
        row_first: FIRST,
        row_count: OUTPUTS,
        flags: flags::CODED | if has_residual { flags::RESIDUAL } else { 0 },
        ..Params::default()
    }
}

/// The rows of codes, and their scales by themselves.
fn rows(params: &Params) -> (Vec<u8>, Vec<f32>) {
    let (depth, blocks) = (DEPTH as usize, DEPTH as usize / 128);
    let mut rows = vec![0u8; 4 * (params.x_offset + ROWS * params.x_stride) as usize];
    let mut scales = Vec::new();
    for row in 0..ROWS as usize {
        let begin = 4 * (params.x_offset as usize + row * params.x_stride as usize);
        for i in 0..depth {
            rows[begin + i] = code(row * depth + i);
        }
        for block in 0..blocks {
            let scale = 0.5 + any(row * 7 + block);
            scales.push(scale);
            let at = begin + 4 * (coded_scales(DEPTH) as usize + block);
            rows[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        }
    }
    (rows, scales)
}

impl Case {
    fn new(has_residual: bool) -> Case {
        let params = params(has_residual);
        let (depth, blocks) = (DEPTH as usize, DEPTH as usize / 128);
        let (rows, row_scales) = rows(&params);
        let weight: Vec<u8> = (0..OUTPUTS as usize * depth)
            .map(|i| code(i + 99))
            .collect();
        let scales: Vec<f32> = (0..ALL.div_ceil(128) as usize * blocks)
            .map(|i| 0.25 + any(i + 5))
            .collect();
        let residual: Vec<f32> = (0..(7 + ROWS * (ALL + 1)) as usize).map(any).collect();
        let left = vec![LEFT; (params.y_offset + ROWS * params.y_stride) as usize];
        let mut expected = [left.clone(), left];
        for (row, i) in (0..REAL as usize).flat_map(|r| (0..OUTPUTS as usize).map(move |i| (r, i)))
        {
            let at = FIRST as usize + i;
            let dot = |block: usize| -> f32 {
                let depths = block * 128..(block + 1) * 128;
                let products =
                    depths.map(|d| value(code(row * depth + d)) * value(weight[i * depth + d]));
                let scale = scales[at / 128 * blocks + block];
                products.sum::<f32>() * scale * row_scales[row * blocks + block]
            };
            let sum: f32 = (0..blocks).map(dot).sum();
            let more = match has_residual {
                true => residual[7 + row * (ALL + 1) as usize + at],
                false => 0.0,
            };
            let place = 3 + row * params.y_stride as usize + at;
            expected[0][place] = sum + more;
            expected[1][place] = more - sum;
        }
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut inputs = vec![0u8; 64];
        inputs[..4].copy_from_slice(&REAL.to_le_bytes());
        let other = weight.iter().map(|code| code ^ 0x80).collect();
        let mut read = vec![inputs, rows, weight, bytes(&scales)];
        if has_residual {
            read.push(bytes(&residual));
        }
        read.push(other);
        Case {
            read,
            params,
            expected,
        }
    }

    /// Both products, to two places.
    fn program(&self, device: &GpuDevice) -> Result<Program> {
        let (entry, operands) = match self.params.flags & flags::RESIDUAL {
            0 => ("linear_wgmma8", "rxmrw"),
            _ => ("linear_residual_wgmma8", "rxmrrw"),
        };
        let body = Body::Native {
            file: "hopper8",
            entry,
            operands,
        };
        let shared = 1024 + 6 * (2 * 128 * 128 + 16);
        let pipeline =
            device.pipeline("product", &body, &[("THREADS", 384), ("SHARED", shared)])?;
        let operand = |slot: usize, bytes: usize, access| {
            Operand::Range(Bind {
                slot: Slot(slot as u16),
                offset: 0,
                bytes: bytes as u64,
                access,
            })
        };
        let other = self.read.len() - 1;
        let step = |number: usize| {
            let slots = (0..other).map(|slot| match (slot, number) {
                (2, 1) => other,
                _ => slot,
            });
            let read = slots.map(|slot| operand(slot, self.read[slot].len(), Access::Read));
            let bytes = 4 * self.expected[number].len();
            let target = operand(self.read.len() + number, bytes, Access::Write);
            Step::Dispatch(Dispatch {
                pipeline,
                groups: [OUTPUTS.div_ceil(128), 1, 1],
                operands: read.chain([target]).collect(),
                params: Box::new(self.params),
                label: "product".into(),
            })
        };
        Ok(Program {
            slots: self.read.len() as u16 + 2,
            steps: vec![step(0), step(1)],
        })
    }

    /// Prepares the products.
    fn prepare(&self, device: &GpuDevice) -> Result<(Box<dyn Executable>, Vec<BufferId>)> {
        let executable = device.prepare(&self.program(device)?)?;
        let mut table = Vec::new();
        let left: Vec<u8> = LEFT.to_le_bytes().repeat(self.expected[0].len());
        for bytes in self.read.iter().chain([&left, &left]) {
            let buffer = device.alloc(&BufferDesc::new("operand", bytes.len() as u64))?;
            device.write(whole(buffer, bytes.len()), bytes)?;
            table.push(buffer);
        }
        Ok((executable, table))
    }

    /// Does the products and checks them.
    fn check(&self, device: &GpuDevice) -> Result<()> {
        let (mut executable, table) = self.prepare(device)?;
        device.wait(executable.submit(&table)?)?;
        for (written, expected) in table[self.read.len()..].iter().zip(&self.expected) {
            let mut bytes = vec![0; 4 * expected.len()];
            device.read(whole(*written, bytes.len()), &mut bytes)?;
            for (at, (bytes, expected)) in bytes.chunks(4).zip(expected).enumerate() {
                let found = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                let most = if *expected == LEFT { 0.0 } else { 1e-2 };
                assert!(
                    (found - expected).abs() <= most,
                    "{at}: {found}, {expected}"
                );
            }
        }
        Ok(())
    }

    /// Whether the library does the products: whether recording one matters.
    fn uses_library(&self, mock: &Mock, device: &GpuDevice) -> bool {
        let (mut executable, table) = self.prepare(device).expect("a program");
        mock.fail_calls("cuGraphAddChildGraphNode", 1, 1);
        match executable.submit(&table) {
            Ok(ticket) => {
                device.wait(ticket).expect("it is done");
                false
            }
            Err(error) => {
                assert!(error.to_string().contains("a product"), "{error}");
                true
            }
        }
    }
}

fn whole(buffer: BufferId, bytes: usize) -> Span {
    Span {
        buffer,
        offset: 0,
        bytes: bytes as u64,
    }
}

fn open(mock: &Mock, folder: Option<&Path>) -> Result<Arc<GpuDevice>> {
    let options = GpuOptions {
        cache_folder: folder.map(Path::to_path_buf),
        ..GpuOptions::default()
    };
    mock.backend(Vendor::Cuda, options).open(0)
}

#[test]
fn the_faster_one_is_taken_and_both_are_right() {
    let mock = Mock::new("");
    for has_residual in [false, true] {
        let case = Case::new(has_residual);
        for (products, is_used) in [("slow", false), ("fast", true)] {
            for seed in 1..4 {
                mock.configure(&format!("products={products},seed={seed}"));
                let device = open(&mock, None).expect("it opens");
                case.check(&device).expect("it works");
                assert_eq!(case.uses_library(&mock, &device), is_used);
                drop(device);
                assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
            }
        }
    }
}

#[test]
fn what_was_measured_is_kept() {
    let mock = Mock::new("");
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case::new(false);
    let uses = |configuration: &str| {
        mock.configure(configuration);
        let device = open(&mock, Some(folder.path())).expect("it opens");
        case.uses_library(&mock, &device)
    };
    assert!(uses("products=fast"));
    assert!(uses("products=slow"), "it is not measured again");
    assert!(!uses("products=slow,cublaslt=130100"), "another library");
    assert!(!uses("products=slow,driver=13010"), "another driver");
    assert!(
        !uses("products=slow,arch=sm_90a,cublaslt=120900"),
        "and one more"
    );
    std::fs::remove_dir_all(folder.path().join("kernels")).expect("a folder");
    assert!(!uses("products=slow"), "it is measured again");
    assert!(!uses("products=fast"), "and kept");
    assert_eq!(mock.live(), 0);
}

#[test]
fn a_library_that_is_missing_or_old_is_no_error() {
    let mock = Mock::new("");
    let info = |configuration: &str| {
        mock.configure(configuration);
        let backend: GpuBackend = mock.backend(Vendor::Cuda, GpuOptions::default());
        let info = backend.devices().expect("devices").swap_remove(0);
        (info.features.has(Features::CODES_LIBRARY), info.driver)
    };
    let (has, driver) = info("");
    assert!(has && driver.contains(", cuBLASLt 13.0.2, "), "{driver}");
    let (has, driver) = info("cublaslt=120803");
    assert!(
        !has && driver.contains("cuBLASLt 12.8.3 is older than 12.9"),
        "{driver}"
    );
    // Where it could not be used nothing is said.
    let (has, driver) = info("arch=sm_80");
    assert!(!has && !driver.contains("product"), "{driver}");
    // One that is newer than the driver.
    let (has, driver) = info("driver=12040");
    if driver.contains("cuBLASLt 1") {
        eprintln!("NOT RUN: a_library_that_is_missing_or_old_is_no_error, there is another one");
        return;
    }
    assert!(!has && driver.contains("no cuBLASLt was found"), "{driver}");
    let (has, driver) = info("cublaslt=0");
    assert!(!has && driver.contains("no cuBLASLt was found"), "{driver}");
    // The row's kernel does it without one.
    Case::new(false)
        .check(&open(&mock, None).expect("it opens"))
        .expect("it works");
}

#[test]
fn whatever_the_library_refuses_the_kernel_does() {
    let mock = Mock::new("");
    let case = Case::new(true);
    // How often a product makes each.
    let calls = [
        ("cublasLtMatmulDescCreate", 1),
        ("cublasLtMatmulDescSetAttribute", 5),
        ("cublasLtMatrixLayoutCreate", 3),
        ("cublasLtMatmulPreferenceCreate", 1),
        ("cublasLtMatmulPreferenceSetAttribute", 1),
        ("cublasLtMatmulAlgoGetHeuristic", 1),
        ("cublasLtMatmul", 1),
    ];
    // While it is measured; when it is recorded, the first time and the second.
    let calls = calls.map(|(call, each)| [0, each, 2 * each].map(|before| (call, before + 1)));
    for (call, nth) in calls.into_iter().flatten().chain([("cublasLtCreate", 1)]) {
        mock.configure(&format!("products=fast,fail={call}:{nth}:15"));
        let device = open(&mock, None).expect("it opens");
        case.check(&device).expect(call);
        drop(device);
        assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
    }
    // No memory for it.
    let options = GpuOptions {
        memory_bytes: Some(16 << 20),
        ..GpuOptions::default()
    };
    mock.configure("products=fast");
    let device = mock
        .backend(Vendor::Cuda, options)
        .open(0)
        .expect("it opens");
    case.check(&device).expect("it works");
    assert!(!case.uses_library(&mock, &device));
}

#[test]
fn whichever_call_fails_is_an_error_or_none_and_nothing_is_left() {
    let mock = Mock::new("");
    let case = Case::new(false);
    let codes = [1, 2, 719, 801, 15];
    let folder = tempfile::tempdir().expect("a folder");
    // With measuring, and with what it said. All calls would take minutes.
    for (folder, stride) in [(None, 29), (Some(folder.path()), 3)] {
        mock.configure("products=fast");
        let device = open(&mock, folder).expect("it opens");
        let opened = mock.calls();
        case.check(&device).expect("it works");
        drop(device);
        let all = mock.calls();
        if folder.is_some() {
            mock.configure("products=fast");
            let device = open(&mock, folder).expect("it opens");
            case.check(&device).expect("it works");
        }
        for nth in (opened + 1..=mock.calls().min(all)).step_by(stride) {
            let code = codes[nth as usize / stride % codes.len()];
            mock.configure("products=fast");
            mock.fail_at(nth, code);
            let done = open(&mock, folder).and_then(|device| case.check(&device));
            mock.fail_at(0, 0);
            assert_eq!(mock.live(), 0, "call {nth} fails with {code}: {done:?}");
        }
    }
    let lost = |call| {
        mock.configure("products=fast");
        mock.fail_calls(call, 1, 719);
        let done = open(&mock, None).and_then(|device| case.check(&device));
        assert!(matches!(done, Err(Error::Lost { .. })), "{call}: {done:?}");
    };
    [
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cublasLtMatmul",
    ]
    .into_iter()
    .for_each(lost);
}
