//! Products by the mocks of cuBLASLt and hipBLASLt: when they are used, and that they are right.
#![cfg(unix)]

#[path = "../mock/mod.rs"]
mod mock;
mod numbers;

use std::path::Path;
use std::sync::Arc;

use hadal_device::{
    Access, Bind, BufferDesc, BufferId, Device, Dispatch, Error, Executable, Features, Operand,
    Params, Program, Result, Slot, Span, Step, flags,
};
use hadal_gpucpp::{Code, GpuBackend, GpuDevice, GpuOptions, ShaderCode, Vendor};

use mock::Mock;
use numbers::{ALL, FIRST, Kind, LEFT, OUTPUTS, REAL, ROWS, any, bytes, codes, params, values};

/// The numbers of a case: two products with the same rows, the second with a weight of other
/// signs.
struct Case {
    kind: Kind,
    /// Inputs, rows of codes, a weight, its scales, residual if there is one; then the other
    /// weight.
    read: Vec<Vec<u8>>,
    params: Params,
    expected: [Vec<f32>; 2],
    /// How far each may be off.
    most: Vec<f32>,
}

impl Case {
    fn new(kind: Kind, has_residual: bool) -> Case {
        let params = params(kind, has_residual);
        let numbers = match kind {
            Kind::Codes => codes(&params),
            _ => values(&params),
        };
        let residual: Vec<f32> = (0..(7 + ROWS * (ALL + 1)) as usize).map(any).collect();
        let left = vec![LEFT; (params.y_offset + ROWS * params.y_stride) as usize];
        let mut most = vec![0.0; left.len()];
        let mut expected = [left.clone(), left];
        for (row, i) in (0..REAL as usize).flat_map(|r| (0..OUTPUTS as usize).map(move |i| (r, i)))
        {
            let (at, (sum, off)) = (FIRST as usize + i, (numbers.sum)(row, i));
            let more = match has_residual {
                true => residual[7 + row * (ALL + 1) as usize + at],
                false => 0.0,
            };
            let place = 3 + row * params.y_stride as usize + at;
            expected[0][place] = sum + more;
            expected[1][place] = more - sum;
            most[place] = off;
        }
        let mut inputs = vec![0u8; 64];
        inputs[..4].copy_from_slice(&REAL.to_le_bytes());
        let mut read = vec![inputs, numbers.rows];
        read.extend(numbers.weight);
        if has_residual {
            read.push(bytes(&residual));
        }
        read.push(numbers.other);
        Case {
            kind,
            read,
            params,
            expected,
            most,
        }
    }

    /// Both products, to two places.
    fn program(&self, device: &GpuDevice) -> Result<Program> {
        let has_residual = self.params.flags & flags::RESIDUAL != 0;
        let (body, constants, groups) = self.kind.body(has_residual);
        let pipeline = device.pipeline("product", &body, &constants)?;
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
                groups,
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
            let wanted = expected.iter().zip(&self.most);
            for (at, (bytes, (expected, most))) in bytes.chunks(4).zip(wanted).enumerate() {
                let found = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                assert!(
                    (found - expected).abs() <= *most,
                    "{at}: {found}, {expected}"
                );
            }
        }
        Ok(())
    }

    /// Whether the library does the products. Where it does, the device is lost behind this.
    fn uses_library(&self, mock: &Mock, device: &GpuDevice) -> bool {
        let (mut executable, table) = self.prepare(device).expect("a program");
        mock.fail_calls(self.multiply(), 1, 719);
        match executable.submit(&table) {
            Ok(ticket) => {
                device.wait(ticket).expect("it is done");
                false
            }
            Err(Error::Lost { .. }) => true,
            Err(other) => panic!("{other}"),
        }
    }

    /// The library's own call.
    fn multiply(&self) -> &'static str {
        match self.kind.vendor() {
            Vendor::Cuda => "cublasLtMatmul",
            Vendor::Hip => "hipblasLtMatmul",
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

fn open(mock: &Mock, vendor: Vendor, folder: Option<&Path>) -> Result<Arc<GpuDevice>> {
    let options = GpuOptions {
        cache_folder: folder.map(Path::to_path_buf),
        ..GpuOptions::default()
    };
    mock.backend(vendor, options).open(0)
}

#[test]
fn the_faster_one_is_taken_and_both_are_right() {
    let mock = Mock::new("");
    for (kind, has_residual) in Kind::ALL
        .into_iter()
        .flat_map(|kind| [(kind, false), (kind, true)])
    {
        let case = Case::new(kind, has_residual);
        for (products, is_used) in [("slow", false), ("fast", true)] {
            for seed in 1..4 {
                mock.configure(&format!("products={products},seed={seed}"));
                let device = open(&mock, kind.vendor(), None).expect("it opens");
                case.check(&device).expect("it works");
                let [note] = &device.notes()[..] else {
                    panic!("{:?}", device.notes());
                };
                let told = match is_used {
                    true => "so the library is the faster one",
                    false => "so the kernel is the faster one",
                };
                assert!(
                    note.starts_with("product of 64 rows") && note.ends_with(told),
                    "{note}"
                );
                assert_eq!(case.uses_library(&mock, &device), is_used, "{kind:?}");
                drop(device);
                assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
            }
        }
    }
}

/// Kernels whose sources are not what they were.
struct Changed;

impl Code for Changed {
    fn source(&self, file: &str) -> Option<String> {
        Some(ShaderCode.source(file)? + "\n")
    }

    fn image(&self, arch: &str, file: &str) -> Option<Vec<u8>> {
        ShaderCode.image(arch, file)
    }

    fn image_archs(&self) -> Vec<&'static str> {
        ShaderCode.image_archs()
    }

    fn image_compiler(&self) -> &str {
        ShaderCode.image_compiler()
    }
}

#[test]
fn what_was_measured_is_kept() {
    let mock = Mock::new("");
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case::new(Kind::Codes, false);
    let uses = |configuration: &str| {
        mock.configure(configuration);
        let device = open(&mock, Vendor::Cuda, Some(folder.path())).expect("it opens");
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
    mock.configure("products=slow");
    let options = GpuOptions {
        cache_folder: Some(folder.path().to_path_buf()),
        ..GpuOptions::default()
    };
    let backend = mock.backend_of(Vendor::Cuda, &Changed, options);
    let device = backend.open(0).expect("it opens");
    assert!(!case.uses_library(&mock, &device), "other kernels");
    drop(device);
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
        (info.features.has(Features::LIBRARY), info.driver)
    };
    let (has, driver) = info("");
    assert!(has && driver.contains(", cuBLASLt 13.0.2, "), "{driver}");
    let (has, driver) = info("cublaslt=120803");
    assert!(
        !has && driver.contains("cuBLASLt 12.8.3 is older than 12.9"),
        "{driver}"
    );
    // Where it could not be used nothing is said.
    let (has, driver) = info("arch=sm_75");
    assert!(!has && !driver.contains("product"), "{driver}");
    // One that is newer than the driver.
    let (has, driver) = info("driver=12040");
    assert!(!driver.contains("cuBLASLt 13.0.2"), "{driver}");
    if driver.contains("cuBLASLt 1") {
        eprintln!("NOT RUN: a_library_that_is_missing_or_old_is_no_error, there is another one");
        return;
    }
    assert!(!has && driver.contains("no cuBLASLt was found"), "{driver}");
    let (has, driver) = info("cublaslt=0");
    assert!(!has && driver.contains("no cuBLASLt was found"), "{driver}");
    // The row's kernel does it without one.
    Case::new(Kind::Codes, false)
        .check(&open(&mock, Vendor::Cuda, None).expect("it opens"))
        .expect("it works");
}

/// How often a product makes each call of its library until it can be submitted.
fn calls(kind: Kind) -> Vec<(&'static str, u64)> {
    match kind {
        Kind::HipValues => vec![
            ("hipblasLtMatmulDescCreate", 1),
            ("hipblasLtMatmulDescSetAttribute", 1),
            ("hipblasLtMatrixLayoutCreate", 3),
            ("hipblasLtMatmulPreferenceCreate", 1),
            ("hipblasLtMatmulPreferenceSetAttribute", 1),
            ("hipblasLtMatmulAlgoGetHeuristic", 1),
        ],
        _ => vec![
            ("cublasLtMatmulDescCreate", 1),
            (
                "cublasLtMatmulDescSetAttribute",
                if kind == Kind::Codes { 5 } else { 1 },
            ),
            ("cublasLtMatrixLayoutCreate", 3),
            ("cublasLtMatmulPreferenceCreate", 1),
            ("cublasLtMatmulPreferenceSetAttribute", 5),
            ("cublasLtMatmulAlgoGetHeuristic", 1),
            ("cublasLtMatmul", if kind == Kind::Codes { 1 } else { 3 }),
        ],
    }
}

#[test]
fn whatever_the_library_refuses_the_kernel_does() {
    let mock = Mock::new("");
    for kind in Kind::ALL {
        let case = Case::new(kind, true);
        let create = match kind.vendor() {
            Vendor::Cuda => "cublasLtCreate",
            Vendor::Hip => "hipblasLtCreate",
        };
        let calls = calls(kind).into_iter();
        // While it is measured; when it is recorded, the first time and the second.
        let calls = calls.map(|(call, each)| [0, each, 2 * each].map(|before| (call, before + 1)));
        // HIP multiplies in each submit: seven of the measurement; three parts are a product, of
        // which the second is refused behind the first.
        let submits = match kind.vendor() {
            Vendor::Cuda => vec![],
            Vendor::Hip => [1, 7 * 3 + 1, 7 * 3 + 2, 8 * 3 + 1]
                .map(|nth| ("hipblasLtMatmul", nth))
                .to_vec(),
        };
        for (call, nth) in calls.flatten().chain(submits).chain([(create, 1)]) {
            mock.configure(&format!("products=fast,fail={call}:{nth}:15"));
            let device = open(&mock, kind.vendor(), None).expect("it opens");
            case.check(&device).expect(call);
            let notes = device.notes();
            let is_said = |note: &String| {
                note.starts_with("kernels do products that") && note.contains("failed, code 15")
            };
            let [failed, measured @ ..] = &notes[..] else {
                panic!("{call}: nothing is said");
            };
            let is_measured = |note: &String| note.starts_with("product of 64 rows");
            assert!(
                is_said(failed) && measured.len() < 2 && measured.iter().all(is_measured),
                "{call}: {notes:?}"
            );
            drop(device);
            assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
        }
    }
    let case = Case::new(Kind::Codes, true);
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
    assert_eq!(device.notes().len(), 1);
}

#[test]
fn a_device_that_was_lost_opens_again_though_the_library_holds_its_context() {
    let mock = Mock::new("products=fast");
    let case = Case::new(Kind::Codes, false);
    let backend = mock.backend(Vendor::Cuda, GpuOptions::default());
    let lose = || {
        let device = backend.open(0).expect("it opens");
        mock.fail_calls("cuMemGetInfo_v2", 1, 700);
        let lost = device.alloc(&BufferDesc::new("a buffer", 64));
        assert!(matches!(lost, Err(Error::Lost { .. })), "{lost:?}");
        // Nor does it open while somebody has it who lost it.
        let why = backend.open(0).err().expect("it is lost").to_string();
        assert!(why.contains("close whatever else"), "{why}");
    };
    lose();
    let device = backend.open(0).expect("it opens again");
    case.check(&device).expect("it works");
    drop(device);
    let refused = || {
        let why = backend.open(0).err().expect("it does not work").to_string();
        assert!(why.contains("restart the process"), "{why}");
    };
    // What else is open there goes in its own time.
    let other = backend.open(0).expect("it opens");
    lose();
    drop(other);
    drop(backend.open(0).expect("it opens again"));
    // What the first use meets.
    lose();
    mock.fail_calls("cuMemAlloc_v2", 1, 719);
    refused();
    let device = backend.open(0).expect("it opens again");
    case.check(&device).expect("it works");
    drop(device);
    // Without this the library would keep the context as it is.
    mock.fail_calls("cuDevicePrimaryCtxReset_v2", 1, 1);
    lose();
    refused();
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}

/// Lets calls fail, each `stride`th, while products are measured (no folder), or known.
fn some_calls_fail(mock: &Mock, case: &Case, folder: Option<&Path>, stride: usize) {
    let codes = [1, 2, 719, 801, 15];
    let vendor = case.kind.vendor();
    mock.configure("products=fast");
    let device = open(mock, vendor, folder).expect("it opens");
    let opened = mock.calls();
    case.check(&device).expect("it works");
    drop(device);
    let all = mock.calls();
    if folder.is_some() {
        mock.configure("products=fast");
        let device = open(mock, vendor, folder).expect("it opens");
        case.check(&device).expect("it works");
    }
    for nth in (opened + 1..=mock.calls().min(all)).step_by(stride) {
        let code = codes[nth as usize / stride % codes.len()];
        mock.configure("products=fast");
        mock.fail_at(nth, code);
        let done = open(mock, vendor, folder).and_then(|device| case.check(&device));
        mock.fail_at(0, 0);
        assert_eq!(mock.live(), 0, "call {nth} fails with {code}: {done:?}");
    }
}

#[test]
fn whichever_call_fails_is_an_error_or_none_and_nothing_is_left() {
    let mock = Mock::new("");
    for kind in [Kind::Codes, Kind::HipValues] {
        let (case, folder) = (
            Case::new(kind, false),
            tempfile::tempdir().expect("a folder"),
        );
        // With measuring, and with what it said. All calls would take minutes.
        some_calls_fail(&mock, &case, None, 29);
        some_calls_fail(&mock, &case, Some(folder.path()), 3);
    }
    let lost = |case: &Case, call| {
        mock.configure("products=fast");
        mock.fail_calls(call, 1, 719);
        let done = open(&mock, case.kind.vendor(), None).and_then(|device| case.check(&device));
        assert!(matches!(done, Err(Error::Lost { .. })), "{call}: {done:?}");
    };
    let codes = Case::new(Kind::Codes, false);
    for call in [
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cublasLtMatmul",
    ] {
        lost(&codes, call);
    }
    lost(&Case::new(Kind::HipValues, false), "hipblasLtMatmul");
}

#[test]
fn what_a_library_refused_in_a_submit_it_is_not_asked_again() {
    let mock = Mock::new("products=fast");
    let case = Case::new(Kind::HipValues, true);
    let device = open(&mock, Vendor::Hip, None).expect("it opens");
    let (mut executable, table) = case.prepare(&device).expect("a program");
    // Both products.
    mock.fail_calls(case.multiply(), 2, 15);
    device
        .wait(executable.submit(&table).expect("the kernels do it"))
        .expect("done");
    // It would be a loss.
    mock.fail_calls(case.multiply(), 9, 719);
    device
        .wait(executable.submit(&table).expect("and again"))
        .expect("done");
    drop((executable, device));
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}
