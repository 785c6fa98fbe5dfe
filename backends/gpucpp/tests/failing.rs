//! Calls of the drivers and compilers that fail, one after another: an error, and nothing is left.
#![cfg(unix)]

mod mock;

use std::path::Path;

use hadal_device::{
    Access, Body, COUNT_ALL, Device, Dispatch, Operand, Params, Program, Result, Step,
};
use hadal_gpucpp::{GpuDevice, GpuOptions, Vendor, copy_between};

use mock::session::{bind, buffer, pattern, read, session, span};
use mock::{Mock, VENDORS};

/// Out of memory, an illegal address, a launch that failed.
const CODES: [u32; 3] = [2, 700, 719];

/// Calls take turns with these; with all of them sessions of many calls would take minutes.
fn in_turns(codes: &[u32], vendor: Vendor) -> impl Fn(u64) -> u32 {
    move |nth| codes[(vendor as usize + nth as usize) % codes.len()]
}

/// What the mock says of who cleans up after it could not choose the device.
const OF_NO_DEVICE: [&str; 3] = [
    "no context is current on this thread",
    "are left in the context that ends",
    "and 0 is current",
];

/// Bytes of small buffers.
const FEW: u64 = 4096;

/// Lets call after call of `session` fail with `code`, until there are no more than these. What
/// comes after one that failed is `again`, on new drivers.
fn each_call(
    mock: &Mock,
    (configuration, vendor): (&str, Vendor),
    code: impl Fn(u64) -> u32,
    session: impl Fn() -> Result<()>,
    again: impl Fn(),
) -> u64 {
    for nth in 1.. {
        let code = code(nth);
        mock.configure(configuration);
        mock.fail_at(nth, code);
        let done = session();
        mock.fail_at(0, 0);
        let said = mock.complaints();
        let what = format!("call {nth} of {vendor:?} fails with {code}: {done:?}: {said}");
        // One that could not be given back because another device was current.
        let kept = said.lines().filter(|line| line.contains(OF_NO_DEVICE[2]));
        assert!(mock.live() <= kept.count() as u64, "{what}");
        let is_other = |line: &&str| !OF_NO_DEVICE.iter().any(|known| line.contains(known));
        assert_eq!(said.lines().find(is_other), None, "{what}");
        if mock.calls() < nth {
            assert!(done.is_ok(), "{what}");
            return nth - 1;
        }
        if done.is_err() {
            mock.configure(configuration);
            again();
        }
    }
    unreachable!("a session ends")
}

/// The numbers of a small buffer plus themselves, by a kernel of this device.
fn sums(device: &GpuDevice) -> Result<()> {
    let add = Body::Gpu {
        file: "values",
        entry: "add",
        operands: "rrrw",
    };
    let pipeline = device.pipeline("add", &add, &[("THREADS", 256)])?;
    let params = Params {
        rows: 1,
        count_word: COUNT_ALL,
        n: 64,
        ..Params::default()
    };
    let range = |slot, access| Operand::Range(bind(slot, 0, 256, access));
    let program = Program {
        slots: 2,
        steps: vec![Step::Dispatch(Dispatch {
            pipeline,
            groups: [1, 1, 1],
            operands: vec![
                range(0, Access::Read),
                range(0, Access::Read),
                range(0, Access::Read),
                range(1, Access::Write),
            ],
            params: Box::new(params),
            label: "add".into(),
        })],
    };
    let tables = [buffer(device, FEW)?, buffer(device, FEW)?];
    let numbers: Vec<u8> = (0..64).flat_map(|i| (i as f32).to_le_bytes()).collect();
    device.write(span(tables[0], 0, numbers.len()), &numbers)?;
    let mut executable = device.prepare(&program)?;
    let ticket = executable.submit(&tables)?;
    device.wait(ticket)?;
    for (i, sum) in read(device, tables[1], 256)?.chunks_exact(4).enumerate() {
        let sum = f32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
        assert_eq!(sum, 2.0 * i as f32);
    }
    Ok(())
}

#[test]
fn whichever_call_fails_is_an_error_and_nothing_is_left() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        let code = in_turns(&[1, 2, 700, 801, 999], vendor);
        let calls = each_call(&mock, ("", vendor), code, || session(&mock, vendor), || ());
        assert!(calls > 300, "{calls}");
    }
}

#[test]
fn every_call_of_a_small_session_fails_in_every_way() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        for code in CODES {
            let small = || {
                let backend = mock.backend(vendor, GpuOptions::default());
                sums(&*backend.open(0)?)
            };
            let calls = each_call(&mock, ("", vendor), |_| code, small, || ());
            assert!(calls > 40, "{calls}");
        }
    }
}

/// Compiles a kernel and keeps it in the folder, or finds it there, and runs it.
fn compiled(mock: &Mock, vendor: Vendor, folder: &Path) -> Result<()> {
    let options = GpuOptions {
        cache_folder: Some(folder.to_path_buf()),
        no_images: true,
        ..GpuOptions::default()
    };
    sums(&*mock.backend(vendor, options).open(0)?)
}

#[test]
fn every_call_fails_on_the_way_through_a_compiler_and_the_cache() {
    let mock = Mock::new("");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    for vendor in VENDORS {
        let code = || in_turns(&CODES, vendor);
        let anew = || {
            // There is none before the first.
            let _ = std::fs::remove_dir_all(folder.join("kernels"));
            compiled(&mock, vendor, folder)
        };
        // What a failure leaves in the cache does not stand in the way.
        let again = || compiled(&mock, vendor, folder).expect("it works again");
        let compiling = each_call(&mock, ("", vendor), code(), anew, again);
        let kept = || compiled(&mock, vendor, folder);
        let finding = each_call(&mock, ("", vendor), code(), kept, || ());
        assert!(
            compiling > finding && finding > 300,
            "{compiling}, {finding}"
        );
    }
}

#[test]
fn every_call_of_two_devices_fails() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        let both = || {
            let backend = mock.backend(vendor, GpuOptions::default());
            let (one, two) = (backend.open(0)?, backend.open(1)?);
            let (from, to) = (buffer(&one, FEW)?, buffer(&two, FEW)?);
            let whole = |buffer| span(buffer, 0, FEW as usize);
            let bytes = pattern(1, FEW);
            one.write(whole(from), &bytes)?;
            let ticket = copy_between(&one, whole(from), &two, whole(to))?;
            two.wait(ticket)?;
            let copied = read(&two, to, FEW)?;
            // Of the loss of the device that was read, only it itself tells.
            assert!(read(&one, from, FEW)? == bytes);
            assert!(copied == bytes);
            Ok(())
        };
        let code = in_turns(&CODES, vendor);
        let calls = each_call(&mock, ("devices=2", vendor), code, both, || ());
        assert!(calls > 600, "{calls}");
    }
}
