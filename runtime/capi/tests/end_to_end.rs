//! Programs in C and Python with the library inside, plain, under AddressSanitizer and under
//! valgrind. The programs lie in `tests/end_to_end`.
#![cfg(feature = "tiny")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/end_to_end")
}

/// The C program; `None` where there is no compiler, which is told.
fn embedded(test: &str) -> Option<PathBuf> {
    compiled(test, &programs().join("embedded.c"), &[])
}

fn compiled(test: &str, source: &Path, flags: &[&str]) -> Option<PathBuf> {
    let cc = common::cc(test)?;
    let program = common::folder(test).join("embedded");
    let library = common::library();
    let folder = common::library_folder();
    let path = format!("-Wl,-rpath,{}", folder.display());
    let library = library.to_str().expect("a plain path");
    let mut more = vec![library, &path, "-lm"];
    more.extend(flags);
    cc.compile(source, &program, &more);
    Some(program)
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Runs a part of the program, which must end well and say nothing of leaks.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

fn part(test: &str, arguments: &[&str]) {
    if let Some(program) = embedded(test) {
        print!("{}", run(Command::new(program).args(arguments)));
    }
}

/// A model of these weights.
fn model_of(weights: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let files: [(&str, &[u8]); 2] = [
        ("config.json", hadal_tiny::CONFIG.as_bytes()),
        ("model.safetensors", weights),
    ];
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("it can be written");
    }
    folder
}

/// A model whose weights end too early.
fn damaged() -> tempfile::TempDir {
    model_of(&hadal_tiny::WEIGHTS[..hadal_tiny::WEIGHTS.len() - 1])
}

#[test]
fn c_and_python_write_the_same_story() {
    const TEST: &str = "c_and_python_write_the_same_story";
    let Some(program) = embedded(TEST) else {
        return;
    };
    let story = run(Command::new(program).arg("story"));
    assert!(story.split_whitespace().count() > 10, "{story}");
    if !common::has("python3") {
        println!("NOT RUN: {TEST} in Python, no python3");
        return;
    }
    let mut python = Command::new("python3");
    python
        .arg(programs().join("embedded.py"))
        .arg(common::library());
    assert_eq!(run(&mut python), story);
}

#[test]
fn the_example_of_the_readme_writes_a_story() {
    const TEST: &str = "the_example_of_the_readme_writes_a_story";
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).expect("the README");
    let example = readme.split("```c\n").nth(1).expect("an example in C");
    let example = example.split("```").next().expect("its end");
    let source = common::folder(TEST).join("example.c");
    std::fs::write(&source, example).expect("it can be written");
    if let Some(program) = compiled(TEST, &source, &[]) {
        let story = run(&mut Command::new(program));
        assert!(story.split_whitespace().count() > 10, "{story}");
    }
}

#[test]
fn everything_works_once() {
    part("everything_works_once", &["all"]);
}

#[test]
fn every_failure_is_a_status_with_words() {
    let folder = damaged();
    let path = folder.path().to_str().expect("a plain path");
    part("every_failure_is_a_status_with_words", &["errors", path]);
}

#[test]
fn a_thousand_cycles_leave_nothing_behind() {
    part(
        "a_thousand_cycles_leave_nothing_behind",
        &["cycles", "1000"],
    );
}

#[test]
fn eight_threads_have_their_own_sessions() {
    part("eight_threads_have_their_own_sessions", &["threads"]);
}

#[test]
fn a_cancel_is_answered_within_a_step() {
    part("a_cancel_is_answered_within_a_step", &["cancel", "1"]);
}

#[test]
fn memory_that_the_system_refuses_is_a_status() {
    // A GiB of which nothing lies on the disk.
    let folder = model_of(hadal_tiny::WEIGHTS);
    let weights = std::fs::File::options()
        .write(true)
        .open(folder.path().join("model.safetensors"));
    let grown = weights.and_then(|file| file.set_len(1 << 30));
    grown.expect("a file with a hole");
    let path = folder.path().to_str().expect("a plain path");
    part(
        "memory_that_the_system_refuses_is_a_status",
        &["memory", path],
    );
}

#[test]
fn weights_that_are_cut_short_are_a_status() {
    let folder = model_of(hadal_tiny::WEIGHTS);
    let path = folder.path().to_str().expect("a plain path");
    part("weights_that_are_cut_short_are_a_status", &["shrink", path]);
}

#[test]
fn handles_may_go_in_any_order() {
    part("handles_may_go_in_any_order", &["order"]);
}

#[test]
fn a_program_may_end_in_the_middle_of_an_answer() {
    part("a_program_may_end_in_the_middle_of_an_answer", &["exit"]);
}

#[test]
fn the_address_sanitizer_finds_nothing() {
    const TEST: &str = "the_address_sanitizer_finds_nothing";
    let folder = damaged();
    let path = folder.path().to_str().expect("a plain path");
    let probe = common::folder(TEST).join("probe.c");
    std::fs::write(&probe, "int main(void) { return 0; }\n").expect("it can be written");
    let Some(cc) = common::cc(TEST) else {
        return;
    };
    let flag = "-fsanitize=address";
    if !cc.can(&probe, &common::folder(TEST).join("probe"), &[flag]) {
        println!("NOT RUN: {TEST}, the C compiler has no AddressSanitizer");
        return;
    }
    let source = programs().join("embedded.c");
    let program = compiled(TEST, &source, &[flag]).expect("there is a compiler");
    for arguments in [
        &["all"][..],
        &["errors", path],
        &["cycles", "40"],
        &["threads"],
        &["cancel", "20"],
        &["order"],
        &["exit"],
    ] {
        let mut command = Command::new(&program);
        // Drivers of GPUs, which the list of devices opens, keep what they allocate.
        let leaks = match arguments[0] {
            "all" | "exit" => "detect_leaks=0",
            _ => "detect_leaks=1",
        };
        run(command.args(arguments).env("ASAN_OPTIONS", leaks));
    }
}

#[test]
fn valgrind_finds_nothing() {
    const TEST: &str = "valgrind_finds_nothing";
    let Some(program) = embedded(TEST) else {
        return;
    };
    if !common::has("valgrind") {
        println!("NOT RUN: {TEST}, no valgrind");
        return;
    }
    let folder = damaged();
    let path = folder.path().to_str().expect("a plain path");
    // Slow there: answers of a few tokens, and everything freed.
    for arguments in [
        &["order"][..],
        &["cycles", "2"],
        &["errors", path],
        &["cancel", "20"],
    ] {
        let mut command = Command::new("valgrind");
        command
            .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
            .args([
                "--show-leak-kinds=definite",
                "--errors-for-leak-kinds=definite",
            ])
            .arg(&program)
            .args(arguments);
        run(&mut command);
    }
}
