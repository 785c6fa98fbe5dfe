//! Tells the crate which commit it was built from, for reports.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}

fn main() {
    // A source archive has no history: its reports say so.
    let mut commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_string());
    // Known when this is built; what is edited afterwards, without a commit, is not seen.
    if git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|it| !it.is_empty()) {
        commit.push_str("-changed");
    }
    println!("cargo::rustc-env=HADAL_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) =
            git(&["rev-parse", "--git-path", name]).filter(|p| Path::new(p).exists())
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
