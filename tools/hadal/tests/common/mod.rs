//! Runs the program as a person would, and looks at what it wrote.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hadal_tests::checkpoint::Family;
use serde_json::Value;

/// What a run left behind.
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Standard output as JSON, after a run that worked.
    pub fn json(&self) -> Value {
        self.json_and(0)
    }

    /// Standard output as JSON, after a run that ended with this code.
    pub fn json_and(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in {:?}", self.out))
    }

    /// Standard output after a run that worked.
    pub fn text(&self) -> &str {
        assert_eq!(self.code, 0, "{}", self.err);
        &self.out
    }

    /// Checks a failure: its code, and what its message contains.
    pub fn fails(&self, code: i32, expected: &[&str]) {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        assert!(self.err.contains("error:"), "{}", self.err);
        for part in expected {
            assert!(self.err.contains(part), "{part:?} is not in {:?}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

/// The program, with nothing of this machine's settings.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.args(args).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs `hadal` with these arguments.
pub fn hadal(args: &[&str]) -> Ran {
    ran(command(args).output().unwrap())
}

/// Runs `hadal` with text on standard input.
pub fn hadal_with_input(args: &[&str], input: &str) -> Ran {
    let mut command = command(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    ran(child.wait_with_output().unwrap())
}

/// What a run left behind.
pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A small checkpoint with a tokenizer whose ids it has not: for commands that need ids.
pub fn checkpoint(folder: &Path, family: Family) -> String {
    family.write(1, folder).unwrap();
    folder.display().to_string()
}
