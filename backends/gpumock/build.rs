//! Compiles the GPU kernels for the CPU: each file of `shaders/gpu` and each test kernel, at
//! wave 32 and 64.

use std::collections::HashSet;
use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[allow(
    dead_code,
    reason = "which cases notice a fault is not the build's concern"
)]
#[path = "src/faults.rs"]
mod faults;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a file mentions that is compiled once more with this defined.
const PLANTED: &str = "PLANTED_FAULT";

/// A source for the compiler.
struct Unit {
    name: String,
    text: String,
    /// How far it is optimised.
    level: &'static str,
}

/// Kernels: each is compiled twice, and runs for a part of the time.
const OF_KERNELS: &str = "-O2";
/// What runs them, which takes half of the time of the suite.
const OF_RUNNER: &str = "-O3";
/// Kernels of no use but to fail: compiled in less time.
const OF_FAULTS: &str = "-O1";

fn main() -> Result<()> {
    // Stacks are switched by the rules of Unix systems; elsewhere the crate is empty.
    if env::var("CARGO_CFG_UNIX").is_err() {
        return Ok(());
    }
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let shaders = root.join("../../shaders/gpu");
    for folder in [&shaders, &root.join("cpu"), &root.join("tests/kernels")] {
        tell(&format!("rerun-if-changed={}", folder.display()))?;
    }
    let mut sources = kernels(&shaders)?;
    sources.extend(kernels(&root.join("tests/kernels"))?);
    let mut units = Vec::new();
    for path in &sources {
        units.extend(units_of(path, &shaders)?);
    }
    if env::var("CARGO_FEATURE_PLANTED_FAULTS").is_ok() {
        units.extend(faulty_units(&shaders)?);
    }
    let mut files = vec![Unit {
        name: "files".to_string(),
        text: files_source(units.iter().map(|unit| &unit.name)),
        level: OF_RUNNER,
    }];
    for name in ["stacks", "block", "async", "units", "fragments", "launch"] {
        files.push(Unit {
            name: name.to_string(),
            text: fs::read_to_string(root.join(format!("cpu/{name}.cpp")))?,
            level: OF_RUNNER,
        });
    }
    files.extend(units);
    fs::write(out.join("tails.rs"), tails(&sources)?)?;
    compile(&root.join("cpu"), &out, &files)?;
    if env::var("CARGO_CFG_TARGET_OS")? == "linux" {
        // Threads of the library wait for work for ever, so it stays loaded.
        tell("rustc-cdylib-link-arg=-Wl,-z,nodelete")?;
    }
    Ok(())
}

/// Cargo reads from the output what is to be done.
fn tell(directive: &str) -> io::Result<()> {
    writeln!(io::stdout(), "cargo:{directive}")
}

fn kernels(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "cu") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The sources that a kernel file becomes.
fn units_of(path: &Path, shaders: &Path) -> Result<Vec<Unit>> {
    let text = expanded(path, shaders)?;
    let file = stem(path);
    let mut units: Vec<Unit> = [32, 64].map(|wave| unit(&file, wave, &text)).into();
    if text.contains(PLANTED) {
        let file = format!("{file}_planted");
        let text = format!("#define {PLANTED}\n{text}");
        units.extend([32, 64].map(|wave| unit(&file, wave, &text)));
    }
    Ok(units)
}

/// A file for each fault of the list and each width of waves that it is for.
fn faulty_units(shaders: &Path) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for fault in faults::all() {
        let text = expanded(&shaders.join(format!("{}.cu", fault.file)), shaders)?;
        let text = fault.plant(&text)?;
        let file = format!("{}_planted_{}", fault.file, fault.name);
        units.extend(fault.waves().map(|wave| Unit {
            level: OF_FAULTS,
            ..unit(&file, wave, &text)
        }));
    }
    Ok(units)
}

fn unit(file: &str, wave: u32, text: &str) -> Unit {
    let name = format!("{file}_{wave}");
    Unit {
        text: format!(
            "#include \"hadal_cpu.h\"\n#define HADAL_CPU\n#define HADAL_WAVE {wave}\n\
             namespace {name} {{\n\
             static const hadal_cpu::File file_of_unit(\"{file}\");\n{text}}}\n\
             extern \"C\" void hadal_file_{name}() {{}}\n"
        ),
        name,
        level: OF_KERNELS,
    }
}

fn expanded(path: &Path, shaders: &Path) -> Result<String> {
    let mut text = String::new();
    expand(path, shaders, &mut HashSet::new(), &mut text)?;
    Ok(text)
}

/// A file with each header in the place of its first inclusion.
fn expand(path: &Path, shaders: &Path, seen: &mut HashSet<PathBuf>, to: &mut String) -> Result<()> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    writeln!(to, "#line 1 \"{}\"", path.display())?;
    for (at, line) in text.lines().enumerate() {
        match included(line) {
            Some(header) => {
                let header = shaders.join(header);
                if seen.insert(header.clone()) {
                    expand(&header, shaders, seen, to)?;
                    writeln!(to, "#line {} \"{}\"", at + 2, path.display())?;
                } else {
                    to.push('\n');
                }
            }
            None => {
                to.push_str(line);
                to.push('\n');
            }
        }
    }
    Ok(())
}

fn included(line: &str) -> Option<&str> {
    line.trim()
        .strip_prefix("#include")?
        .trim()
        .strip_prefix('"')?
        .strip_suffix('"')
}

/// A function that mentions every kernel file, so that the linker takes them all.
fn files_source<'a>(units: impl Iterator<Item = &'a String> + Clone) -> String {
    let mut text = String::new();
    for unit in units.clone() {
        text.push_str(&format!("extern \"C\" void hadal_file_{unit}();\n"));
    }
    text.push_str("extern \"C\" void hadal_cpu_files() {\n");
    for unit in units {
        text.push_str(&format!("    hadal_file_{unit}();\n"));
    }
    text.push_str("}\n");
    text
}

/// By what the mock of the vendors' compilers knows a file again: its text behind its last
/// inclusion.
fn tails(sources: &[PathBuf]) -> Result<String> {
    let mut text = "&[\n".to_string();
    for path in sources {
        let source = fs::read_to_string(path)?;
        let lines: Vec<&str> = source.lines().collect();
        let after = lines
            .iter()
            .rposition(|line| included(line).is_some())
            .map_or(0, |at| at + 1);
        let tail = lines[after..].join("\n");
        writeln!(text, "({:?}, {:?}),", stem(path), tail.trim())?;
    }
    text.push(']');
    Ok(text)
}

/// Compiles what has changed, and makes one library of it.
fn compile(headers: &Path, out: &Path, files: &[Unit]) -> Result<()> {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").include(headers);
    // So that the runner's functions, which kernels call at every exchange, can become parts of each
    // other; nothing looks at their frames.
    build.flag("-fvisibility=hidden").force_frame_pointer(false);
    // Emulations of matrix units and dot products are slow enough as it is.
    if env::var("CARGO_CFG_TARGET_ARCH")? == "x86_64" {
        build.flag("-mavx2").flag("-mfma").flag("-mf16c");
    }
    build.flag("-ffp-contract=fast");
    // Kernels use some functions of their headers, and name arguments that they do not read.
    build
        .flag("-Wno-unused-function")
        .flag("-Wno-unused-parameter");
    build
        .flag("-Wno-unused-variable")
        .flag("-Wno-unknown-pragmas");
    let mut common = String::new();
    for header in ["hadal_cpu.h", "async.h", "runner.h"] {
        common.push_str(&fs::read_to_string(headers.join(header))?);
    }
    let compiler = build.get_compiler();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let jobs: usize = env::var("NUM_JOBS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(unit) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = object(compiler.to_command(), out, unit, &common) {
                        failures.lock().unwrap_or_else(|e| e.into_inner()).push(e);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    if !failures.is_empty() {
        return Err(failures.join("\n").into());
    }
    for unit in files {
        build.object(out.join(format!("{}.o", unit.name)));
    }
    build.try_compile("hadal_cpu")?;
    Ok(())
}

/// An object file, made anew where its text, a header or an option is another.
fn object(
    mut command: Command,
    out: &Path,
    unit: &Unit,
    common: &str,
) -> std::result::Result<(), String> {
    let Unit { name, text, level } = unit;
    let source = out.join(format!("{name}.cpp"));
    let object = out.join(format!("{name}.o"));
    let made = out.join(format!("{name}.made"));
    command
        .arg(level)
        .arg("-c")
        .arg(&source)
        .arg("-o")
        .arg(&object);
    let key = format!("{command:?}\n{common}\n{text}");
    if object.exists() && fs::read_to_string(&made).is_ok_and(|old| old == key) {
        return Ok(());
    }
    let failed = |e: io::Error| format!("{name}: {e}");
    fs::write(&source, text).map_err(failed)?;
    let output = command.output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{name} does not compile:\n{said}"));
    }
    for line in said.lines().filter(|line| line.contains("warning:")) {
        tell(&format!("warning={line}")).map_err(failed)?;
    }
    fs::write(&made, key).map_err(failed)
}
