//! Every crate may be used, by this repository's own reading of `deny.toml` and by cargo-deny's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use xtask::licences::{self, Crate, Policy};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn under(name: &str, licence: Option<&str>) -> Crate {
    Crate {
        name: name.into(),
        version: "1.0.0".into(),
        licence: licence.map(String::from),
        authors: Vec::new(),
        folder: PathBuf::new(),
        own: false,
    }
}

/// A workspace with our `deny.toml` that uses a crate under `licence`.
fn workspace(licence: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let package = |name: &str, licence: &str| {
        format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nlicense = \"{licence}\"\npublish = false\n"
        )
    };
    let program =
        package("program", "MIT") + "[dependencies]\nused = { path = \"used\" }\n[workspace]\n";
    let lock = "version = 4\n[[package]]\nname = \"program\"\nversion = \"0.1.0\"\n\
                dependencies = [\"used\"]\n[[package]]\nname = \"used\"\nversion = \"0.1.0\"\n";
    for (path, text) in [
        ("Cargo.toml", program.as_str()),
        ("Cargo.lock", lock),
        ("src/lib.rs", "//! Uses.\n"),
        ("used/Cargo.toml", package("used", licence).as_str()),
        ("used/src/lib.rs", "//! Used.\n"),
    ] {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
    fs::copy(root().join("deny.toml"), folder.path().join("deny.toml")).expect("a copy");
    folder
}

#[test]
fn every_crate_of_the_workspace_is_allowed() {
    let crates = licences::crates(&root()).expect("cargo tells");
    assert!(crates.len() > 300, "{}", crates.len());
    let complaints = licences::complaints(&root()).expect("all is read");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn a_crate_with_a_denied_licence_is_noticed() {
    let complaints = |licence| {
        let folder = workspace(licence);
        let mut found = licences::complaints(folder.path()).expect("all is read");
        found.retain(|complaint| !complaint.contains("any more"));
        found
    };
    assert_eq!(
        complaints("GPL-3.0-only"),
        ["used 0.1.0: GPL-3.0-only is not allowed by deny.toml"]
    );
    assert_eq!(complaints("MIT AND GPL-3.0-only").len(), 1);
    assert_eq!(complaints("MIT").len(), 0);
}

#[test]
fn of_several_licences_the_preferred_is_taken() {
    let policy = Policy::parse(
        "[licenses]\nallow = [\"MIT\", \"Apache-2.0\"]\n\
         exceptions = [{ crate = \"mild\", allow = [\"MPL-2.0\"] }]\n",
    )
    .expect("a policy");
    let chosen = |name, licence| {
        let chosen = policy.choose(&under(name, Some(licence))).ok()?;
        let names: Vec<String> = chosen.iter().map(ToString::to_string).collect();
        Some(names.join(" AND "))
    };
    assert_eq!(chosen("a", "Apache-2.0/MIT").as_deref(), Some("MIT"));
    assert_eq!(
        chosen("a", "GPL-3.0-only OR Apache-2.0").as_deref(),
        Some("Apache-2.0")
    );
    assert_eq!(chosen("a", "MPL-2.0"), None);
    assert_eq!(chosen("mild", "MPL-2.0").as_deref(), Some("MPL-2.0"));
    assert_eq!(chosen("a", "Proprietary"), None);
    assert!(policy.choose(&under("a", None)).is_err());
}

#[test]
fn the_list_of_a_program_has_the_text_of_every_licence() {
    let list = licences::list(&root(), "hadal-desktop").expect("a list");
    for wanted in [
        "\nthiserror 2.",
        "\nepaint_default_fonts 0.",
        "The ggml authors",
        "Permission is hereby granted, free of charge",
        "Apache License",
        "SIL OPEN FONT LICENSE",
        "UBUNTU FONT LICENCE",
        "Mozilla Public License",
        "UNICODE LICENSE V3",
    ] {
        assert!(list.contains(wanted), "{wanted:?} is not in the list");
    }
    assert!(!list.contains("\nhadal-engine"), "that is Hadal itself");
    assert!(!list.contains("\ntempfile "), "that is in no program");
}

fn cargo_deny(folder: &Path) -> Output {
    Command::new("cargo")
        .args(["deny", "--locked", "--offline", "--workspace"])
        .args(["check", "bans", "licenses", "sources"])
        .current_dir(folder)
        .output()
        .expect("it starts")
}

#[test]
fn cargo_deny_agrees() {
    let version = Command::new("cargo").args(["deny", "--version"]).output();
    if !version.is_ok_and(|output| output.status.success()) {
        println!("NOT RUN: cargo_deny_agrees, no cargo-deny");
        return;
    }
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    // Brings crates that only other systems' builds use, which cargo-deny asks for too.
    licences::crates(&root()).expect("cargo tells");
    let ours = cargo_deny(&root());
    assert!(ours.status.success(), "{}", said(&ours));
    let denied = cargo_deny(workspace("GPL-3.0-only").path());
    assert!(!denied.status.success() && said(&denied).contains("GPL-3.0-only"));
}
