//! Chores of the repository: `cargo run -p xtask -- tidy`.
//!
//! Decides only which chore runs; each chore is a module of the library beside it.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use xtask::{backends, gpu, licences, sbom, spirv};

const USAGE: &str =
    "usage: cargo run -p xtask -- tidy | spirv | gpu | backends REPORT.json... | licences [PACKAGE]
| sbom PACKAGE
tidy checks the house measures; spirv compiles the GLSL kernels, gpu the C++ ones; backends makes
the README's table of conformance from reports; licences checks those of all crates, or prints the
list that goes with a program; sbom prints its bill of materials";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["tidy"] => tidy(&root),
        ["spirv"] => compile(&root),
        ["gpu"] => compile_gpu(&root),
        ["backends", reports @ ..] if !reports.is_empty() => {
            backends::update(&root, reports).map_err(|error| error.to_string())
        }
        ["licences"] => check_licences(&root),
        ["licences", package] => licences::list(&root, package).map(|list| print!("{list}")),
        ["sbom", package] => sbom::make(&root, package).map(|bill| print!("{bill}")),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn tidy(root: &Path) -> Result<(), String> {
    let complaints = xtask::tidy(root).map_err(|error| error.to_string())?;
    report(&complaints, "tidy")
}

fn check_licences(root: &Path) -> Result<(), String> {
    report(&licences::complaints(root)?, "every licence is allowed")
}

/// Prints the complaints, or `fine` where there is none.
fn report(complaints: &[impl Display], fine: &str) -> Result<(), String> {
    for complaint in complaints {
        println!("{complaint}");
    }
    match complaints.len() {
        0 => println!("{fine}"),
        count => return Err(format!("{count} complaints")),
    }
    Ok(())
}

fn compile(root: &Path) -> Result<(), String> {
    let compiler = spirv::Compiler::find().ok_or(
        "no glslang; install it, or name it in GLSLANG (tests/drivers.sh brings one, see \
         tests/README.md)",
    )?;
    spirv::build(root, &compiler).map_err(|error| error.to_string())?;
    println!("compiled by {}", compiler.version);
    Ok(())
}

fn compile_gpu(root: &Path) -> Result<(), String> {
    let compiler = gpu::Compiler::find()
        .ok_or("no clang-22; install it, or name it in HADAL_CLANG (tests/README.md)")?;
    gpu::build(root, &compiler).map_err(|error| error.to_string())?;
    println!("compiled by {}", compiler.version);
    if !compiler.made_the_images() {
        println!("write that into IMAGE_COMPILER of shaders/src/gpu.rs");
    }
    Ok(())
}
