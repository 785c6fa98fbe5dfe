//! The library as cargo-c installs it: a C program that knows `pkg-config hadal` and nothing else.
#![cfg(all(feature = "tiny", target_os = "linux"))]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs below `prefix` with what `more` says; unoptimised, since only the places count. `None`
/// without cargo-c.
fn install(test: &str, prefix: &Path, more: &[&str]) -> Option<()> {
    let version = Command::new("cargo")
        .args(["cinstall", "--version"])
        .output();
    if !version.is_ok_and(|output| output.status.success()) {
        println!("NOT RUN: {test}, no cargo-c");
        return None;
    }
    let output = Command::new("cargo")
        .args(["cinstall", "--locked", "--debug", "--libdir", "lib"])
        .args(more)
        .args(["--config", "profile.dev.opt-level=0"])
        .args(["--config", "profile.dev.debug=false"])
        .args(["--config", "profile.dev.package.\"*\".opt-level=0"])
        .arg("--prefix")
        .arg(prefix)
        .arg("--target-dir")
        .arg(common::folder(test).join("target"))
        // Half of the disk it would take.
        .env("CARGO_INCREMENTAL", "0")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Some(())
}

/// What pkg-config says of the library in `prefix`; `None` without pkg-config.
fn flags(test: &str, prefix: &Path, asked: &[&str]) -> Option<Vec<String>> {
    let output = Command::new("pkg-config")
        .args(asked)
        .arg("hadal")
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .output();
    let Ok(output) = output else {
        println!("NOT RUN: {test}, no pkg-config");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("text");
    Some(text.split_whitespace().map(str::to_string).collect())
}

/// Compiles and links the program of `tests/end_to_end`, outside of this repository's folders.
fn build(program: &Path, more: &[String]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/end_to_end/embedded.c");
    let output = Command::new("cc")
        .args(["-std=c11", "-pthread"])
        .arg(source)
        .arg("-o")
        .arg(program)
        .args(more)
        .arg("-lm")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{more:?}: {said}");
}

/// What a part of the program prints.
fn run(program: &Path, part: &str, library_path: &str) -> String {
    let output = Command::new(program)
        .arg(part)
        .env("LD_LIBRARY_PATH", library_path)
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_program_finds_the_installed_library_by_pkg_config() {
    const TEST: &str = "a_program_finds_the_installed_library_by_pkg_config";
    if !common::has("cc") {
        println!("NOT RUN: {TEST}, no C compiler (cc)");
        return;
    }
    let prefix = common::folder(TEST).join("prefix");
    let _ = fs::remove_dir_all(&prefix);
    let Some(()) = install(TEST, &prefix, &[]) else {
        return;
    };
    let header = fs::read(prefix.join("include/hadal.h")).expect("a header");
    let own = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("include/hadal.h"));
    assert!(header == own.expect("the header"));
    let number = hadal_capi::hadal_abi_version();
    let soname = fs::read_link(prefix.join("lib/libhadal.so")).expect("a link for the linker");
    let soname = soname.to_string_lossy().into_owned();
    assert!(
        soname.starts_with(&format!("libhadal.so.{number}")),
        "{soname}"
    );
    let (Some(shared), Some(linked)) = (
        flags(TEST, &prefix, &["--cflags", "--libs"]),
        flags(TEST, &prefix, &["--cflags", "--libs", "--static"]),
    ) else {
        return;
    };
    let program = |name: &str| -> PathBuf { prefix.join(name) };
    build(&program("shared"), &shared);
    let lib = prefix.join("lib");
    let path = lib.to_str().expect("a plain path");
    let told = run(&program("shared"), "story", path);
    assert!(told.split_whitespace().count() > 10, "{told}");
    // The archive instead of the library, and what it needs of the system.
    let archive = lib.join("libhadal.a").to_string_lossy().into_owned();
    let linked: Vec<String> = linked
        .into_iter()
        .map(|flag| {
            if flag == "-lhadal" {
                archive.clone()
            } else {
                flag
            }
        })
        .collect();
    build(&program("static"), &linked);
    assert_eq!(run(&program("static"), "story", ""), told);

    // The same program with a library that has no model inside.
    install(TEST, &prefix, &["--no-default-features"]).expect("as before");
    run(&program("shared"), "not_built", path);
}
