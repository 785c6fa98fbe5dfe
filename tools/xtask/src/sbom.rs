//! Bills of materials: `cargo run -p xtask -- sbom PACKAGE`, in CycloneDX's form.
//!
//! cargo-cyclonedx makes them beside every manifest; here one is picked out and the rest goes.

use std::path::Path;
use std::process::Command;

use crate::licences::crates;

/// Whether cargo-cyclonedx is installed.
pub fn can() -> bool {
    let version = Command::new("cargo")
        .args(["cyclonedx", "--version"])
        .output();
    version.is_ok_and(|output| output.status.success())
}

/// What is linked into `package` on this platform, as JSON that names no folder of this machine.
///
/// # Errors
/// What the tool says, or that there is no such package.
pub fn make(root: &Path, package: &str) -> Result<String, String> {
    let mut own = crates(root)?;
    own.retain(|of| of.own);
    let found = own.iter().find(|of| of.name == package);
    let wanted = found.ok_or(format!("there is no package {package}"))?;
    // Each run has a name of its own, so that two do not meet.
    let name = format!("sbom-{}", std::process::id());
    let run = Command::new("cargo")
        .args(["cyclonedx", "--quiet", "--format", "json"])
        .args(["--spec-version", "1.5", "--no-build-deps"])
        .args(["--override-filename", &name, "--manifest-path"])
        .arg(wanted.folder.join("Cargo.toml"))
        .output();
    let file = |folder: &Path| folder.join(format!("{name}.json"));
    let text = std::fs::read_to_string(file(&wanted.folder));
    for of in &own {
        // It lies only where the tool came to.
        let _ = std::fs::remove_file(file(&of.folder));
    }
    let output = run.map_err(|error| format!("cargo cyclonedx: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = text.map_err(|error| format!("cargo cyclonedx wrote nothing: {error}"))?;
    let root = root.canonicalize().map_err(|error| error.to_string())?;
    Ok(text.replace(&root.display().to_string(), ""))
}
