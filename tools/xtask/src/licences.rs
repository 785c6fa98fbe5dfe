//! Licences of everything that Hadal is built of: `cargo run -p xtask -- licences`.
//!
//! Decides which crates' licences are allowed, by the list in `deny.toml` that cargo-deny reads
//! too, and which texts go with a program. Read [`complaints`] first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, LicenseReq, Licensee, ParseMode};

/// What is part of programs and no crate: name, licence, whose.
const OTHERS: [(&str, &str, &str); 2] = [
    (
        "patterns of block formats (ggml)",
        "MIT",
        "Copyright (c) 2023-2026 The ggml authors",
    ),
    (
        "the standard library of Rust",
        "MIT",
        "Copyright (c) The Rust Project contributors",
    ),
];

/// A crate as its manifest describes it.
#[derive(Clone, Debug)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The expression in its manifest.
    pub licence: Option<String>,
    /// Who wrote it, as far as it says.
    pub authors: Vec<String>,
    /// Where its sources lie.
    pub folder: PathBuf,
    /// Whether it is part of this repository.
    pub own: bool,
}

/// The licences that are allowed.
#[derive(Debug)]
pub struct Policy {
    /// For every crate, the preferred first.
    allowed: Vec<Licensee>,
    /// For single crates besides.
    exceptions: BTreeMap<String, Vec<Licensee>>,
}

impl Policy {
    /// Reads the section `licenses` of a `deny.toml`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let root: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
        let section = root.get("licenses").ok_or("no section licenses")?;
        let mut exceptions = BTreeMap::new();
        let listed = section.get("exceptions").and_then(toml::Value::as_array);
        for one in listed.into_iter().flatten() {
            let name = one.get("crate").and_then(toml::Value::as_str);
            let name = name.ok_or("an exception names no crate")?;
            exceptions.insert(name.to_string(), licensees(one)?);
        }
        let allowed = licensees(section)?;
        Ok(Policy {
            allowed,
            exceptions,
        })
    }

    /// The licences under which a crate is used.
    ///
    /// # Errors
    /// Why it may not be used.
    pub fn choose(&self, of: &Crate) -> Result<Vec<LicenseReq>, String> {
        let named = format!("{} {}", of.name, of.version);
        let Some(licence) = &of.licence else {
            return Err(format!("{named} names no licence"));
        };
        let expression = Expression::parse_mode(licence, ParseMode::LAX)
            .map_err(|error| format!("{named}: {licence:?} is no licence expression: {error}"))?;
        let more = self.exceptions.get(&of.name).into_iter().flatten();
        expression
            .minimized_requirements(self.allowed.iter().chain(more))
            .map_err(|_| format!("{named}: {licence} is not allowed by deny.toml"))
    }
}

/// The array `allow` of a table.
fn licensees(table: &toml::Value) -> Result<Vec<Licensee>, String> {
    let names = table.get("allow").and_then(toml::Value::as_array);
    let names = names.ok_or("no list allow")?.iter();
    names
        .map(|name| {
            let name = name.as_str().ok_or("a licence is no text")?;
            Licensee::parse(name).map_err(|error| format!("{name}: {error}"))
        })
        .collect()
}

/// Every crate that a workspace may use: on any platform, tests and build scripts included.
///
/// # Errors
/// What cargo says.
pub fn crates(root: &Path) -> Result<Vec<Crate>, String> {
    let text = cargo(root, &["metadata", "--format-version=1", "--locked"])?;
    let all: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let text = |of: &Value| of.as_str().map(String::from);
    let packages = all["packages"].as_array().into_iter().flatten();
    let read = packages.filter_map(|package| {
        let manifest = PathBuf::from(package["manifest_path"].as_str()?);
        let authors = package["authors"].as_array().into_iter().flatten();
        Some(Crate {
            name: text(&package["name"])?,
            version: text(&package["version"])?,
            licence: text(&package["license"]),
            authors: authors.filter_map(text).collect(),
            folder: manifest.parent()?.to_path_buf(),
            own: package["source"].is_null(),
        })
    });
    Ok(read.collect())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<String, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    match output.status.success() {
        true => String::from_utf8(output.stdout).map_err(|error| error.to_string()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn policy(root: &Path) -> Result<Policy, String> {
    let text = std::fs::read_to_string(root.join("deny.toml"));
    let text = text.map_err(|error| format!("deny.toml: {error}"))?;
    Policy::parse(&text).map_err(|why| format!("deny.toml: {why}"))
}

/// Crates of a workspace that the `deny.toml` beside it does not allow, and exceptions that
/// no crate needs.
///
/// # Errors
/// What cannot be read.
pub fn complaints(root: &Path) -> Result<Vec<String>, String> {
    let (policy, crates) = (policy(root)?, crates(root)?);
    let denied = crates.iter().filter_map(|of| policy.choose(of).err());
    let mut found: Vec<String> = denied.collect();
    let names: BTreeSet<&str> = crates.iter().map(|of| of.name.as_str()).collect();
    for name in policy.exceptions.keys() {
        if !names.contains(name.as_str()) {
            found.push(format!("deny.toml: there is no {name} any more"));
        }
    }
    Ok(found)
}

/// Texts, each with those whose it is.
#[derive(Default)]
struct Texts(Vec<(String, Vec<String>)>);

impl Texts {
    fn add(&mut self, text: &str, whose: &str) {
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect();
        let wanted: Vec<String> = words(text);
        let same = self.0.iter_mut().find(|(known, _)| {
            let known: Vec<String> = words(known);
            known == wanted
        });
        match same {
            Some((_, names)) => names.push(whose.to_string()),
            None => self.0.push((text.to_string(), vec![whose.to_string()])),
        }
    }
}

/// Name and version of all crates that become part of `package` on this platform, itself included.
///
/// # Errors
/// What cargo says.
pub fn linked(root: &Path, package: &str) -> Result<BTreeSet<(String, String)>, String> {
    let form = ["--prefix", "none", "--format", "{p}"];
    let which = [
        "tree",
        "--locked",
        "--edges",
        "normal",
        "--package",
        package,
    ];
    let tree = cargo(root, &[&which[..], &form[..]].concat())?;
    let name_and_version = |line: &str| {
        let (name, rest) = line.split_once(" v")?;
        Some((name.to_string(), rest.split(' ').next()?.to_string()))
    };
    Ok(tree.lines().filter_map(name_and_version).collect())
}

/// What a distributor of a program or library passes on: the licences of all that is linked
/// into `package` on this platform, with their texts.
///
/// # Errors
/// A crate that is not allowed, or what cannot be read.
pub fn list(root: &Path, package: &str) -> Result<String, String> {
    let (policy, crates) = (policy(root)?, crates(root)?);
    let linked = linked(root, package)?;
    let mut lines = String::new();
    let mut texts = Texts::default();
    let used = |of: &&Crate| linked.contains(&(of.name.clone(), of.version.clone()));
    for of in crates.iter().filter(|of| !of.own).filter(used) {
        let chosen = policy.choose(of)?;
        let named = format!("{} {}", of.name, of.version);
        let licence = of.licence.as_deref().unwrap_or_default();
        let _ = writeln!(lines, "{named}: {licence}");
        let mut found = files(&of.folder).map_err(|error| format!("{named}: {error}"))?;
        if !found.iter().any(|file| file.parent() == Some(&of.folder)) {
            let whose = format!("{named}, {}", of.authors.join(", "));
            for one in &chosen {
                let text = standard(one).ok_or(format!("{named}: no text of {one}"))?;
                texts.add(text, whose.trim_end_matches(", "));
            }
        }
        for file in found.drain(..) {
            let bytes = std::fs::read(&file).map_err(|error| format!("{named}: {error}"))?;
            texts.add(&String::from_utf8_lossy(&bytes), &named);
        }
    }
    for (name, licence, whose) in OTHERS {
        let _ = writeln!(lines, "{name}: {licence}");
        let text = spdx::license_id(licence).ok_or("no such licence")?.text();
        texts.add(text, &format!("{name}, {whose}"));
    }
    let mut out = format!(
        "What {package} contains besides Hadal itself, and under which licences.\n\
         Made by `cargo run -p xtask -- licences {package}`. Of several licences joined by OR\n\
         the first that deny.toml lists is taken. Texts are those in the crates; where a crate\n\
         has none, that of SPDX stands here with the authors that it names.\n\n{lines}"
    );
    for (text, whose) in &texts.0 {
        let line = "=".repeat(80);
        let names = whose.join("\n");
        let _ = write!(out, "\n{line}\n{names}\n{line}\n\n{}\n", text.trim_end());
    }
    Ok(out)
}

/// The text that SPDX has of a licence.
fn standard(of: &LicenseReq) -> Option<&'static str> {
    of.license.id().map(spdx::LicenseId::text)
}

/// Files with licences in a crate's folder and one below it.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    const BEGINNINGS: [&str; 6] = ["LICEN", "COPY", "NOTICE", "UNLICEN", "OFL", "UFL"];
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.to_ascii_uppercase();
            let named = BEGINNINGS.iter().any(|begin| name.starts_with(begin));
            let named = named || name.ends_with("LICENSE.TXT");
            if path.is_dir() && at == folder {
                folders.push(path);
            } else if path.is_file() && named && !name.ends_with(".RS") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
