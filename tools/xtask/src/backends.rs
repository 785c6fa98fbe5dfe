//! The README's table of what was tested where, made from conformance reports.
//!
//! `reports.json` keeps the facts of each report without its thousand results; the README
//! shows them as a table between two marks. Nobody writes that table by hand.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::Complaint;

/// The facts of every report that the table shows.
const REPORTS: &str = "tests/conformance/reports.json";
const BEGIN: &str = "<!-- from conformance reports: begin -->\n";
const END: &str = "<!-- from conformance reports: end -->\n";

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn read(path: &Path) -> io::Result<Value> {
    let bytes = std::fs::read(path).map_err(|e| invalid(format!("{}: {e}", path.display())))?;
    serde_json::from_slice(&bytes).map_err(|e| invalid(format!("{}: {e}", path.display())))
}

/// What the table needs of a report.
fn facts(path: &Path) -> io::Result<Value> {
    let report = read(path)?;
    let mut facts = json!({});
    for key in [
        "hadal", "commit", "profile", "seed", "as_gpu", "device", "summary",
    ] {
        let value = report.get(key).cloned();
        facts[key] = value.ok_or_else(|| invalid(format!("{}: no {key}", path.display())))?;
    }
    Ok(facts)
}

/// Takes these reports as what the README shows.
pub fn update(root: &Path, reports: &[&str]) -> io::Result<()> {
    let facts = reports.iter().map(|path| facts(Path::new(path)));
    let facts = Value::Array(facts.collect::<io::Result<Vec<_>>>()?);
    std::fs::write(root.join(REPORTS), format!("{facts:#}\n"))?;
    let path = root.join("README.md");
    let readme = std::fs::read_to_string(&path)?;
    let (before, _, after) =
        parts(&readme).ok_or_else(|| invalid("README.md has no marks for the table".into()))?;
    std::fs::write(
        path,
        format!("{before}{BEGIN}{}{END}{after}", table(&facts)),
    )
}

/// Before, between and after the marks.
fn parts(readme: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (between, after) = rest.split_once(END)?;
    Some((before, between, after))
}

/// Compares the table with the reports.
pub(crate) fn check(root: &Path) -> io::Result<Vec<Complaint>> {
    let readme = std::fs::read_to_string(root.join("README.md"))?;
    let wanted = table(&read(&root.join(REPORTS))?);
    let found = parts(&readme).map(|(_, between, _)| between);
    let complaint = || Complaint {
        path: "README.md".to_string(),
        line: 0,
        text: format!(
            "the table of conformance is not what {REPORTS} says; \
             `cargo run -p xtask -- backends REPORT.json...` writes both"
        ),
    };
    Ok(match found == Some(wanted.as_str()) {
        true => Vec::new(),
        false => vec![complaint()],
    })
}

fn table(facts: &Value) -> String {
    let mut out = String::from(
        "| device | driver | subgroups | profile | passed | failed | unsupported | commit |\n\
         | --- | --- | --- | --- | ---: | ---: | ---: | --- |\n",
    );
    for report in facts.as_array().into_iter().flatten() {
        let text = |value: &Value| match value {
            Value::String(text) => text.replace('|', "/"),
            other => other.to_string(),
        };
        let (device, summary) = (&report["device"], &report["summary"]);
        let number = |key: &str| summary[key].as_u64().unwrap_or(0);
        let limits = &device["limits"];
        let subgroups = match [&limits["subgroup_min"], &limits["subgroup_max"]].map(text) {
            [least, most] if least == most && least == "0" => "–".to_string(),
            [least, most] if least == most => least,
            [least, most] => format!("{least} to {most}"),
        };
        let kind = if report["as_gpu"] == true {
            ", as a GPU"
        } else {
            ""
        };
        let id = text(&device["id"]);
        let id = id.split(':').next().unwrap_or_default();
        let commit = text(&report["commit"]);
        out.push_str(&format!(
            "| `{id}`: {}{kind} | {} | {subgroups} | {} | {} | {} | {} | {} |\n",
            text(&device["name"]),
            text(&device["driver"]),
            text(&report["profile"]),
            number("passed"),
            number("failed") + number("unexpected_passes"),
            number("unsupported") + number("fails_today"),
            commit.get(..9).unwrap_or(&commit),
        ));
    }
    out
}
