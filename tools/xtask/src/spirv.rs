//! The SPIR-V binaries of `shaders/spirv`: compiling them, and telling whether they belong to
//! their sources.
//!
//! `kernels.txt` says what there is, `kernels.lock` which compiler made it from which text.
//! Must not know what a kernel does.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folder of the kernels, from the root of the repository.
const FOLDER: &str = "shaders/spirv";

/// What the kernels may count on.
const TARGET: &str = "vulkan1.2";

/// First word of the line of the lock that names the compiler.
const COMPILER: &str = "compiler";

/// A line of `kernels.txt`.
struct Kernel {
    name: String,
    file: String,
    definitions: Vec<String>,
}

/// glslang: the program and what goes before its own arguments.
pub struct Compiler {
    command: Vec<String>,
    /// Its first line of `--version`.
    pub version: String,
}

impl Compiler {
    /// The command in `GLSLANG`, else `glslang`; `None` if it does not start.
    pub fn find() -> Option<Compiler> {
        let (command, version) = tool("GLSLANG", "glslang")?;
        Some(Compiler { command, version })
    }

    fn compile(&self, folder: &Path, kernel: &Kernel) -> io::Result<Vec<u8>> {
        let out =
            std::env::temp_dir().join(format!("hadal-{}-{}.spv", std::process::id(), kernel.name));
        let definitions = kernel.definitions.iter().map(|name| format!("-D{name}"));
        let output = Command::new(&self.command[0])
            .args(&self.command[1..])
            .args(["-V", "--target-env", TARGET, "-g0", "-S", "comp"])
            .args(definitions)
            .arg(format!("{}.comp", kernel.file))
            .arg("-o")
            .arg(&out)
            .current_dir(folder)
            .output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            return Err(io::Error::other(format!("{}: {text}", kernel.name)));
        }
        let bytes = std::fs::read(&out)?;
        std::fs::remove_file(&out)?;
        Ok(bytes)
    }
}

/// The command in the variable `name` (a program, perhaps with arguments, divided by spaces), else
/// `program`, and the first line of its `--version`; `None` if it does not start.
fn tool(name: &str, program: &str) -> Option<(Vec<String>, String)> {
    let command = std::env::var(name).unwrap_or_else(|_| program.to_string());
    let command: Vec<String> = command.split_whitespace().map(str::to_string).collect();
    let mut ask = Command::new(command.first()?);
    let output = ask.args(&command[1..]).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next()?.trim().to_string();
    (!version.is_empty()).then_some((command, version))
}

/// What spirv-val (the command in `SPIRV_VAL`, else `spirv-val`) finds in the binaries below
/// `root`, of which no driver at hand runs some; `None` if it does not start.
pub fn validate(root: &Path) -> io::Result<Option<Vec<String>>> {
    let Some((command, _)) = tool("SPIRV_VAL", "spirv-val") else {
        return Ok(None);
    };
    let folder = root.join(FOLDER);
    let mut complaints = Vec::new();
    for kernel in kernels(&folder)? {
        let output = Command::new(&command[0])
            .args(&command[1..])
            .args(["--target-env", TARGET])
            .arg(binary(&folder, &kernel))
            .output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            complaints.push(format!("{}.spv: {text}", kernel.name));
        }
    }
    Ok(Some(complaints))
}

/// Compiles every kernel below `root` and writes the lock.
pub fn build(root: &Path, compiler: &Compiler) -> io::Result<()> {
    let folder = root.join(FOLDER);
    let mut lock = format!("{COMPILER} {}\n", compiler.version);
    for kernel in kernels(&folder)? {
        let bytes = compiler.compile(&folder, &kernel)?;
        lock += &format!(
            "{} {} {}\n",
            kernel.name,
            source_hash(&folder, &kernel)?,
            hash(&bytes)
        );
        std::fs::write(binary(&folder, &kernel), bytes)?;
    }
    std::fs::write(folder.join("kernels.lock"), lock)
}

/// What is wrong with the binaries below `root` by the lock alone.
pub fn check(root: &Path) -> io::Result<Vec<String>> {
    let folder = root.join(FOLDER);
    let lock = std::fs::read_to_string(folder.join("kernels.lock"))?;
    let mut lines: Vec<&str> = lock.lines().skip(1).collect();
    let mut complaints = Vec::new();
    let again = "run `cargo run -p xtask -- spirv`";
    for kernel in kernels(&folder)? {
        let found = lines
            .iter()
            .position(|line| line.split(' ').next() == Some(&kernel.name));
        let Some(line) = found.map(|place| lines.remove(place)) else {
            complaints.push(format!("{} was never compiled; {again}", kernel.name));
            continue;
        };
        let mut hashes = line.split(' ').skip(1);
        if hashes.next() != Some(&source_hash(&folder, &kernel)?) {
            complaints.push(format!(
                "{}.spv is older than its source; {again}",
                kernel.name
            ));
        }
        if hashes.next() != Some(&hash(&std::fs::read(binary(&folder, &kernel))?)) {
            complaints.push(format!(
                "{}.spv is not what was compiled; {again}",
                kernel.name
            ));
        }
    }
    complaints.extend(
        lines
            .iter()
            .map(|line| format!("{line:?} is of no kernel; {again}")),
    );
    Ok(complaints)
}

/// Names of kernels that `compiler` makes other bytes of than those below `root`; `Err` with
/// the version that is wanted if it is another one.
pub fn rebuild(root: &Path, compiler: &Compiler) -> io::Result<Result<Vec<String>, String>> {
    let folder = root.join(FOLDER);
    let lock = std::fs::read_to_string(folder.join("kernels.lock"))?;
    let first = lock.lines().next().unwrap_or_default();
    let wanted = first.strip_prefix(COMPILER).unwrap_or_default().trim();
    if wanted != compiler.version {
        return Ok(Err(wanted.to_string()));
    }
    let mut other = Vec::new();
    for kernel in kernels(&folder)? {
        if compiler.compile(&folder, &kernel)? != std::fs::read(binary(&folder, &kernel))? {
            other.push(kernel.name);
        }
    }
    Ok(Ok(other))
}

fn kernels(folder: &Path) -> io::Result<Vec<Kernel>> {
    let text = std::fs::read_to_string(folder.join("kernels.txt"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let kernel = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_string);
        let broken = || io::Error::other(format!("kernels.txt: {line:?} names no file"));
        Ok(Kernel {
            name: words.next().ok_or_else(broken)?,
            file: words.next().ok_or_else(broken)?,
            definitions: words.collect(),
        })
    };
    lines.map(kernel).collect()
}

fn binary(folder: &Path, kernel: &Kernel) -> PathBuf {
    folder.join(format!("{}.spv", kernel.name))
}

/// Of all text a kernel may be made of, and its definitions.
fn source_hash(folder: &Path, kernel: &Kernel) -> io::Result<String> {
    let mut files = vec![folder.join(format!("{}.comp", kernel.file))];
    for entry in std::fs::read_dir(folder.join("shared"))? {
        files.push(entry?.path());
    }
    files[1..].sort();
    let mut text = kernel.definitions.join(" ").into_bytes();
    for file in files {
        // A checkout may have given lines other ends.
        text.extend(
            std::fs::read(file)?
                .into_iter()
                .filter(|byte| *byte != b'\r'),
        );
    }
    Ok(hash(&text))
}

/// FNV-1a: notices what was forgotten, not what was forged.
fn hash(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}
