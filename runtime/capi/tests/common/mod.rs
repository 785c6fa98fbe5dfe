//! Where the library lies, and the tools that test it. No test uses all of them.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the shared library that cargo built for the tests.
pub fn library_folder() -> PathBuf {
    let program = std::env::current_exe().expect("this program");
    program.parent().expect("its folder").to_path_buf()
}

/// The shared library.
pub fn library() -> PathBuf {
    let name = format!(
        "{}hadal_capi{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    library_folder().join(name)
}

/// A folder for the files of a test.
pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Whether `program` can be started.
pub fn has(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// A C compiler.
pub struct Cc(&'static str);

/// The C compiler of this machine; says that `test` did not run where there is none.
pub fn cc(test: &str) -> Option<Cc> {
    let found = ["cc", "gcc", "clang"].into_iter().find(|name| has(name));
    if found.is_none() {
        println!("NOT RUN: {test}, no C compiler (cc)");
    }
    found.map(Cc)
}

impl Cc {
    fn run(&self, source: &Path, program: &Path, more: &[&str]) -> std::process::Output {
        let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
        Command::new(self.0)
            .args([
                "-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-pthread", "-I",
            ])
            .arg(include)
            .arg(source)
            .arg("-o")
            .arg(program)
            .args(more)
            .output()
            .expect("it starts")
    }

    /// Makes `program` of `source`, with more arguments at the end.
    pub fn compile(&self, source: &Path, program: &Path, more: &[&str]) {
        let output = self.run(source, program, more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", source.display());
    }

    /// Whether it makes one with these arguments.
    pub fn can(&self, source: &Path, program: &Path, more: &[&str]) -> bool {
        self.run(source, program, more).status.success()
    }
}

/// Names that the shared library exports; empty where no tool can tell.
pub fn symbols() -> BTreeSet<String> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(library())
        .output();
    let Ok(output) = output else {
        println!("NOT RUN: the list of exported symbols, no nm");
        return BTreeSet::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split(' ').next_back());
    let names = names.filter(|name| name.starts_with("hadal_"));
    names.map(str::to_string).collect()
}
