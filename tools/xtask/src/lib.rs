//! House measures as a test: what a machine can check about the sources, it checks.
//!
//! Decides nothing about behaviour and reads no build output. Read [`tidy`] first; the
//! measures themselves are in `rules.rs`.
#![forbid(unsafe_code)]

pub mod backends;
pub mod gates;
pub mod gpu;
pub mod licences;
mod readme;
mod rules;
pub mod sbom;
mod source;
pub mod spirv;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Something that breaks a measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// File, from the root of the repository.
    pub path: String,
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what the measure is.
    pub text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// A text file of the repository.
pub(crate) struct File {
    /// Path from the root, with `/`.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// Checks every source below `root`.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn tidy(root: &Path) -> io::Result<Vec<Complaint>> {
    let mut paths = Vec::new();
    walk(root, &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path)?;
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let parts = relative.iter().map(|part| part.to_string_lossy());
        let path = parts.collect::<Vec<_>>().join("/");
        files.push(File { path, text });
    }
    let mut complaints: Vec<Complaint> = files.iter().flat_map(rules::of_file).collect();
    complaints.extend(rules::unused_shaders(&files));
    complaints.extend(rules::stale_allowances(&files));
    complaints.extend(readme::check(root, &files)?);
    complaints.extend(backends::check(root)?);
    Ok(complaints)
}

/// Sources and scripts below `folder`; build output and hidden folders but `.ci` are left out.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    const ENDINGS: [&str; 5] = ["rs", "wgsl", "py", "sh", "md"];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            let hidden = name.starts_with('.') && name != ".ci";
            if !hidden && !["target", "fuzz", "__pycache__"].contains(&name.as_ref()) {
                walk(&path, found)?;
            }
        } else if path
            .extension()
            .is_some_and(|e| ENDINGS.iter().any(|end| e == *end))
        {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let complaints = tidy(&root).unwrap();
        let list: Vec<String> = complaints.iter().map(Complaint::to_string).collect();
        assert!(list.is_empty(), "\n{}", list.join("\n"));
    }
}
