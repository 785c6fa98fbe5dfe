//! What came out: one report in several forms.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use hadal_device::DeviceInfo;
use serde::{Deserialize, Serialize};

use crate::Profile;
use crate::execute::{CaseResult, Status};
use crate::suite::{Options, Suite};

/// Version of the form.
const FORMAT: u32 = 1;

/// A run of the suite. The same seed on the same device gives the same report: it holds no
/// times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// Version of Hadal.
    pub hadal: String,
    /// The commit it was built from.
    pub commit: String,
    /// The command that gives this report again.
    pub command: String,
    /// How much was run.
    pub profile: Profile,
    /// Seed of the data.
    pub seed: u64,
    /// Whether a software adapter did as if it were a GPU.
    #[serde(default)]
    pub as_gpu: bool,
    /// Texts that chose the cases; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<String>,
    /// What it ran on.
    pub device: DeviceReport,
    /// How many cases ended how.
    pub summary: Summary,
    /// Every case in the order of the suite.
    pub results: Vec<CaseResult>,
}

/// A device in a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// `wgpu:0`
    pub id: String,
    /// The vendor's name.
    pub name: String,
    /// Driver and version.
    pub driver: String,
    /// Kind.
    pub kind: String,
    /// Feature names.
    pub features: Vec<String>,
    /// Limits by name.
    pub limits: BTreeMap<String, u64>,
}

/// Counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// As they must be.
    pub passed: usize,
    /// Wrong.
    pub failed: usize,
    /// Never possible on this device.
    pub unsupported: usize,
    /// Wrong, as told beforehand.
    pub fails_today: usize,
    /// Right, though told otherwise.
    pub unexpected_passes: usize,
}

impl Summary {
    fn of<'r>(results: impl IntoIterator<Item = &'r CaseResult>) -> Summary {
        let mut summary = Summary::default();
        for result in results {
            *match result.status {
                Status::Passed { .. } => &mut summary.passed,
                Status::Failed { .. } => &mut summary.failed,
                Status::Unsupported { .. } => &mut summary.unsupported,
                Status::FailsToday { .. } => &mut summary.fails_today,
                Status::UnexpectedPass { .. } => &mut summary.unexpected_passes,
            } += 1;
        }
        summary
    }

    fn text(&self) -> String {
        format!(
            "{} passed, {} failed, {} unsupported, {} fail today, {} passed unexpectedly",
            self.passed, self.failed, self.unsupported, self.fails_today, self.unexpected_passes
        )
    }

    /// True if nothing is wrong that was not told beforehand, and something was run.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.unexpected_passes == 0 && self.passed > 0
    }
}

impl DeviceReport {
    fn of(info: &DeviceInfo) -> DeviceReport {
        let l = &info.limits;
        let limits = [
            ("max_binding_bytes", l.max_binding_bytes),
            ("max_buffer_bytes", l.max_buffer_bytes),
            ("offset_align", l.offset_align),
            ("max_operands", l.max_operands.into()),
            ("max_workgroup", l.max_workgroup.into()),
            ("max_grid", l.max_grid.into()),
            ("shared_bytes", l.shared_bytes.into()),
            ("subgroup_min", l.subgroup.0.into()),
            ("subgroup_max", l.subgroup.1.into()),
        ];
        let sizes = l.matrix.map(|sizes| {
            [
                (["matrix_m", "matrix_n", "matrix_k"], sizes.f16),
                (["bf16_m", "bf16_n", "bf16_k"], sizes.bf16),
                (["e4m3_m", "e4m3_n", "e4m3_k"], sizes.e4m3),
                (["int8_m", "int8_n", "int8_k"], sizes.int8),
            ]
        });
        let matrix = sizes.into_iter().flatten().flat_map(|(names, sides)| {
            let sides = sides.into_iter().flatten().map(u64::from);
            names.into_iter().zip(sides)
        });
        DeviceReport {
            id: info.id(),
            name: info.name.clone(),
            driver: info.driver.clone(),
            kind: format!("{:?}", info.kind),
            features: info
                .features
                .names()
                .iter()
                .map(ToString::to_string)
                .collect(),
            limits: limits
                .into_iter()
                .chain(matrix)
                .map(|(name, value)| (name.to_string(), value))
                .collect(),
        }
    }
}

/// Why a report cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file system says no.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A name that tells no form.
    #[error("{0}: a report's name ends in .json, .xml (JUnit) or .md")]
    Form(std::path::PathBuf),
    /// No report.
    #[error("{path} is no report of this version: {why}")]
    Content {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Report {
    /// The report of a run.
    pub fn new(
        suite: &Suite,
        options: &Options,
        info: &DeviceInfo,
        results: Vec<CaseResult>,
    ) -> Report {
        let words = suite
            .arguments
            .iter()
            .chain(&options.command_words())
            .cloned()
            .collect::<Vec<_>>();
        let words = words.iter().map(|word| word.to_string_lossy().into_owned());
        let command = std::iter::once(suite.program.clone()).chain(words);
        Report {
            format: FORMAT,
            hadal: env!("CARGO_PKG_VERSION").to_string(),
            commit: env!("HADAL_COMMIT").to_string(),
            command: command
                .map(crate::suite::quoted)
                .collect::<Vec<_>>()
                .join(" "),
            profile: options.profile,
            seed: options.seed,
            as_gpu: options.as_gpu,
            chosen: options.cases.clone(),
            device: DeviceReport::of(info),
            summary: Summary::of(&results),
            results,
        }
    }

    /// True if a report can be written under this name.
    pub fn has_form(path: &Path) -> bool {
        let form = path.extension().and_then(|e| e.to_str());
        form.is_some_and(|form| ["json", "xml", "md"].contains(&form))
    }

    /// Writes the report in the form that the name of `path` ends in.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let text = match path.extension().and_then(|e| e.to_str()) {
            Some("json") => self.json(),
            Some("xml") => self.junit(),
            Some("md") => self.markdown(),
            _ => return Err(ReportError::Form(path.into())),
        };
        std::fs::write(path, text).map_err(|source| ReportError::File {
            path: path.into(),
            source,
        })
    }

    /// `Err` if no file can be written there. One that is there stays as it is.
    pub fn check_place(path: &Path) -> Result<(), ReportError> {
        let is_new = !path.exists();
        let opened = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        let checked = opened.and_then(|_| match is_new {
            true => std::fs::remove_file(path),
            false => Ok(()),
        });
        checked.map_err(|source| ReportError::File {
            path: path.into(),
            source,
        })
    }

    /// Reads a `.json` report.
    pub fn read(path: &Path) -> Result<Report, ReportError> {
        let bytes = crate::file::read(path).map_err(|source| ReportError::File {
            path: path.into(),
            source,
        })?;
        let content = |why: String| ReportError::Content {
            path: path.into(),
            why,
        };
        let report: Report = serde_json::from_slice(&bytes).map_err(|e| content(e.to_string()))?;
        match report.format {
            FORMAT => Ok(report),
            other => Err(content(format!("it has format {other}, this is {FORMAT}"))),
        }
    }

    /// Everything that a report says besides its results and its command.
    fn about(&self) -> [(&'static str, String); 9] {
        let d = &self.device;
        let run = format!(
            "{}, seed {}, as a GPU {}",
            self.profile.name(),
            self.seed,
            self.as_gpu
        );
        let limits = d
            .limits
            .iter()
            .map(|(name, value)| format!("{name} {value}"));
        [
            ("version", self.hadal.clone()),
            ("commit", self.commit.clone()),
            ("run", run),
            ("device", d.name.clone()),
            ("driver", d.driver.clone()),
            ("kind of device", d.kind.clone()),
            ("list of features", d.features.join(", ")),
            ("list of limits", limits.collect::<Vec<_>>().join(", ")),
            ("summary", self.summary.text()),
        ]
    }

    /// What differs in `again`, a sentence each; empty if it says the same.
    pub fn differences(&self, again: &Report) -> Vec<String> {
        let mut differences = Vec::new();
        for ((name, old), (_, new)) in self.about().into_iter().zip(again.about()) {
            if old != new {
                differences.push(format!("the {name} was {old}, now it is {new}"));
            }
        }
        let new: BTreeMap<_, _> = again.results.iter().map(|r| (&r.case, r)).collect();
        for old in &self.results {
            match new.get(&old.case) {
                None => differences.push(format!("{} is no longer run", old.case)),
                Some(now) if now.status != old.status => differences.push(format!(
                    "{}: was {}, now {}",
                    old.case,
                    old.status.text(),
                    now.status.text()
                )),
                Some(_) => {}
            }
        }
        let known: std::collections::BTreeSet<_> = self.results.iter().map(|r| &r.case).collect();
        let added = again.results.iter().filter(|r| !known.contains(&r.case));
        differences.extend(added.map(|r| format!("{} is new", r.case)));
        differences
    }

    /// The whole report as JSON.
    pub fn json(&self) -> String {
        // Plain values; nothing here can fail to be written.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Results by group, in the order of the suite.
    pub fn groups(&self) -> Vec<(&str, Vec<&CaseResult>)> {
        let mut groups: Vec<(&str, Vec<&CaseResult>)> = Vec::new();
        for result in &self.results {
            let group = result.case.split('/').next().unwrap_or_default();
            match groups.last_mut() {
                Some((last, list)) if *last == group => list.push(result),
                _ => groups.push((group, vec![result])),
            }
        }
        groups
    }

    fn junit(&self) -> String {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let (all, s) = (self.results.len(), &self.summary);
        let bad = s.failed + s.unexpected_passes;
        // Writing to a String does not fail.
        let _ = writeln!(out, "<testsuites tests=\"{all}\" failures=\"{bad}\">");
        let again = [
            ("command", self.command.clone()),
            ("id of the device", self.device.id.clone()),
        ];
        let properties: String = self
            .about()
            .iter()
            .chain(&again)
            .map(|(name, value)| {
                let value = escape(value);
                format!("      <property name=\"{name}\" value=\"{value}\"/>\n")
            })
            .collect();
        for (group, results) in self.groups() {
            let s = Summary::of(results.iter().copied());
            let (bad, left) = (
                s.failed + s.unexpected_passes,
                s.unsupported + s.fails_today,
            );
            let _ = writeln!(
                out,
                "  <testsuite name=\"{group}\" tests=\"{}\" failures=\"{bad}\" skipped=\"{left}\">",
                results.len()
            );
            let _ = write!(out, "    <properties>\n{properties}    </properties>\n");
            for result in results {
                let name = escape(result.case.split_once('/').map_or("", |(_, name)| name));
                let _ = write!(out, "    <testcase classname=\"{group}\" name=\"{name}\"");
                let text = escape(&result.status.text());
                let _ = match (&result.status, result.status.is_good()) {
                    (Status::Passed { .. }, _) => writeln!(out, "/>"),
                    (_, true) => writeln!(out, "><skipped message=\"{text}\"/></testcase>"),
                    (_, false) => writeln!(out, "><failure message=\"{text}\"/></testcase>"),
                };
            }
            out.push_str("  </testsuite>\n");
        }
        out.push_str("</testsuites>\n");
        out
    }

    fn markdown(&self) -> String {
        let mut out = String::new();
        let d = &self.device;
        let _ = writeln!(out, "# Conformance of {}\n", d.id);
        let profile = self.profile.name();
        for (name, value) in [
            ("Device", d.name.clone()),
            ("Driver", d.driver.clone()),
            ("Hadal", format!("{} at {}", self.hadal, self.commit)),
            ("Run", format!("profile {profile}, seed {}", self.seed)),
            ("Again", format!("`{}`", self.command)),
        ] {
            let _ = writeln!(out, "* {name}: {value}");
        }
        let limits = d
            .limits
            .iter()
            .map(|(name, value)| format!("{name} {value}"));
        let _ = writeln!(out, "* Limits: {}\n", limits.collect::<Vec<_>>().join(", "));
        out.push_str("| group | passed | failed | unsupported | fails today |\n");
        out.push_str("| --- | ---: | ---: | ---: | ---: |\n");
        for (group, results) in self.groups() {
            let s = Summary::of(results.iter().copied());
            let bad = s.failed + s.unexpected_passes;
            let _ = writeln!(
                out,
                "| {group} | {} | {bad} | {} | {} |",
                s.passed, s.unsupported, s.fails_today
            );
        }
        let told: Vec<_> = self
            .results
            .iter()
            .filter(|r| !matches!(r.status, Status::Passed { .. }))
            .collect();
        if !told.is_empty() {
            out.push_str("\n## Not passed\n\n");
            for result in told {
                let _ = writeln!(out, "* `{}`: {}", result.case, result.status.text());
            }
        }
        out
    }

    /// The end of a run for a person: a line for each group that is not all passed, and the
    /// counts.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for result in self.results.iter().filter(|r| !r.status.is_good()) {
            let _ = writeln!(out, "{}\n    {}", result.case, result.status.text());
            let command = self.command.split(" --case ").next().unwrap_or_default();
            let _ = writeln!(out, "    again: {command} --case {}", result.case);
        }
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for result in &self.results {
            if let Status::Unsupported { .. } | Status::FailsToday { .. } = result.status {
                *reasons.entry(result.status.text()).or_default() += 1;
            }
        }
        for (reason, count) in reasons {
            let _ = writeln!(out, "{count} cases {reason}");
        }
        let d = &self.device;
        let _ = writeln!(
            out,
            "{} ({}, {}): {}",
            d.id,
            d.name,
            d.driver,
            self.summary.text()
        );
        out
    }
}

impl Status {
    /// The status and its reason, for people.
    pub fn text(&self) -> String {
        match self {
            Status::Passed {
                worst: Some(worst), ..
            } => {
                format!("passed, worst error {worst} of its tolerance")
            }
            Status::Passed { .. } => "passed".to_string(),
            Status::Failed { why } => format!("failed: {why}"),
            Status::Unsupported { why } => format!("unsupported: {why}"),
            Status::FailsToday { why, how } => format!("fails today, because {why}: {how}"),
            Status::UnexpectedPass { why } => {
                format!("passed, though it is said to fail because {why}; take that line away")
            }
        }
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
