//! The SPIR-V binaries belong to the sources beside them.

use std::path::Path;

use xtask::spirv::{Compiler, check, rebuild, validate};

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_binary_is_what_was_compiled_from_the_source_as_it_is() {
    let complaints = check(&root()).expect("readable");
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn the_same_compiler_makes_the_same_bytes() {
    let Some(compiler) = Compiler::find() else {
        println!("NOT RUN: there is no glslang to compile shaders/spirv again (tests/README.md)");
        return;
    };
    match rebuild(&root(), &compiler).expect("it compiles") {
        Ok(other) => assert!(other.is_empty(), "{other:?} come out differently"),
        Err(wanted) => println!(
            "NOT RUN: shaders/spirv was compiled by {wanted}, here is {}",
            compiler.version
        ),
    }
}

#[test]
fn every_binary_is_valid_spirv() {
    match validate(&root()).expect("it runs") {
        Some(complaints) => assert!(complaints.is_empty(), "{complaints:#?}"),
        None => println!("NOT RUN: there is no spirv-val to check shaders/spirv (tests/README.md)"),
    }
}
