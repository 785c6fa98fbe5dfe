//! What the suite guards, seen from outside: a backend that meddles must fail, whatever it does
//! and whenever; what it leaves behind can be run again; a report that was changed is found out.

use std::path::Path;
use std::process::{Command, Output};

use hadal_conformance::{Failure, Report};

/// The program of `examples/meddling.rs`, with one mistake.
fn program(mistake: &str, folder: &Path, arguments: &[&str]) -> Output {
    let own = std::env::current_exe().expect("tests have a path");
    let built = own.parent().and_then(Path::parent).expect("target/debug");
    let name = format!("meddling{}", std::env::consts::EXE_SUFFIX);
    let mut command = Command::new(built.join("examples").join(name));
    command.env("HADAL_MEDDLE", mistake).args(arguments);
    command.args(["--failures".as_ref(), folder.as_os_str()]);
    // `cargo test --test guards` alone does not build it.
    command.output().expect("`cargo build --examples` makes it")
}

/// Runs `add` and, in a group of its own, `argmax`.
fn suite(mistake: &str, folder: &Path) -> (bool, String) {
    let cases = ["--case", "op.add/", "--case", "op.argmax/"];
    let output = program(
        mistake,
        folder,
        &[&cases[..], &["--time-limit", "4"]].concat(),
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

#[test]
fn every_kind_of_meddling_fails_and_costs_no_other_group() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, text) = suite("", folder.path());
    assert!(good && text.contains(" 0 failed"), "{text}");
    for (mistake, says) in [
        ("past_the_end", "was written 0 bytes past its end"),
        (
            "before_the_beginning",
            "was written 4 bytes before its beginning",
        ),
        ("operand_changed", "is only read, but its byte"),
        ("a_little_off", "within"),
        (
            "another_time_different",
            "a second submit gave another result",
        ),
        ("dies", "its group ended in the middle of this case"),
        ("hangs", "4 seconds were not enough"),
    ] {
        let (good, text) = suite(mistake, folder.path());
        assert!(!good && text.contains(says), "{mistake}: {text}");
        assert!(!text.contains("op.argmax"), "{mistake}: {text}");
    }
    for (mistake, says) in [
        ("dies_at_the_end", "but then its group ended badly"),
        ("complains", "a buffer was left behind"),
    ] {
        let (good, text) = suite(mistake, folder.path());
        assert!(!good && text.contains(says), "{mistake}: {text}");
    }
}

#[test]
fn a_slow_device_has_time_for_every_case_and_what_ends_a_group_leaves_its_case() {
    let folder = tempfile::tempdir().expect("a folder");
    let started = std::time::Instant::now();
    let (good, text) = suite("slow", folder.path());
    assert!(good, "{text}");
    // The limit is a case's: all of them take longer.
    assert!(started.elapsed().as_secs() >= 5, "{:?}", started.elapsed());
    let (good, _) = suite("dies", folder.path());
    assert!(!good);
    let mut files = std::fs::read_dir(folder.path()).expect("it was made");
    let file = files.next().expect("a file").expect("readable").path();
    let failure = Failure::read(&file).expect("as it was written");
    assert!(failure.smallest.is_none() && failure.why.contains("in the middle"));
}

#[test]
fn a_failing_case_shrinks_and_comes_back_from_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, _) = suite("a_little_off", folder.path());
    assert!(!good);
    let files = std::fs::read_dir(folder.path()).expect("it was made");
    let largest = files
        .map(|file| file.expect("readable").path())
        .find(|path| path.to_string_lossy().contains("r5_"))
        .expect("a failing case of five rows");
    let mut failure = Failure::read(&largest).expect("as it was written");
    let smallest = failure.smallest.as_mut().expect("it has sizes");
    assert_eq!((smallest.shape.real, smallest.shape.n), (1, 1));
    let replay = |mistake, path: &Path| {
        let path = path.to_str().expect("plain");
        program(mistake, folder.path(), &["--replay", path])
    };
    assert_eq!(replay("a_little_off", &largest).status.code(), Some(1));
    assert_eq!(replay("", &largest).status.code(), Some(0));
    // Sizes that no case has are refused, however large.
    smallest.shape.n = u32::MAX;
    let other = folder.path().join("other.json");
    std::fs::write(&other, serde_json::to_vec(&failure).expect("plain values")).expect("written");
    let output = replay("", &other);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("make no sense"), "{text}");
}

#[test]
fn a_changed_report_is_found_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.json");
    let name = path.to_str().expect("plain");
    let made = ["--case", "op.add/", "--report", name];
    assert!(program("", folder.path(), &made).status.success());
    let verify = || program("", folder.path(), &["--verify", name]);
    assert!(verify().status.success());
    let report = Report::read(&path).expect("as it was written");
    let changes: [fn(&mut Report); 4] = [
        |report| report.summary.passed = 9999,
        |report| report.commit = "0".repeat(40),
        |report| {
            report
                .device
                .features
                .push("cooperative-matrix".to_string())
        },
        |report| report.results.truncate(1),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut forged = report.clone();
        change(&mut forged);
        std::fs::write(&path, forged.json()).expect("written");
        let output = verify();
        assert_eq!(output.status.code(), Some(1), "change {number}");
    }
}
