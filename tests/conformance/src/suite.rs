//! What is tested and how: a backend, its device, what it says beforehand; and the options
//! of a run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use hadal_device::{Backend, Device, Error, Features, KernelRow};

use crate::plan::{self, Case};
use crate::{Expectation, Lacking, Profile};

/// A backend on trial.
pub struct Suite {
    /// The backend, with its options.
    pub backend: Box<dyn Backend>,
    /// Which of its devices.
    pub ordinal: usize,
    /// What it says beforehand.
    pub expectations: Vec<Expectation>,
    /// Kernels; those of Hadal, which serve every backend that runs one of their languages.
    pub table: &'static [KernelRow],
    /// Arguments that make this program test this device: children are started with them.
    pub arguments: Vec<OsString>,
    /// How a person starts the program, for the commands in reports.
    pub program: String,
}

impl Suite {
    /// The first device of a backend that promises everything.
    pub fn new(backend: Box<dyn Backend>) -> Suite {
        let program = std::env::args().next().unwrap_or_default();
        Suite {
            backend,
            ordinal: 0,
            expectations: Vec::new(),
            table: hadal_shaders::table(),
            arguments: Vec::new(),
            program,
        }
    }

    /// The same with what the backend says beforehand.
    pub fn expecting(self, expectations: &[Expectation]) -> Suite {
        Suite {
            expectations: expectations.to_vec(),
            ..self
        }
    }

    /// Opens the device.
    pub fn open(&self, options: &Options) -> Result<Arc<dyn Device>, Error> {
        let device = self.backend.open(self.ordinal)?;
        Ok(match options.as_gpu {
            true => Arc::new(Lacking::new(device, Features::SOFTWARE)),
            false => device,
        })
    }

    /// The cases of a run on an open device.
    pub fn cases(&self, device: &dyn Device, options: &Options) -> Vec<Case> {
        let wants = |id: &str| options.wants(id);
        plan::cases_of(self.table, device.info(), options.profile, &wants)
    }
}

/// Options that are out of place where a file says what is run.
const REPEATED: [&str; 6] = ["report", "list", "profile", "seed", "cases", "as_gpu"];

/// What is run and where it is told.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// How much is run.
    #[arg(long, value_enum, default_value_t = Profile::Core)]
    pub profile: Profile,
    /// Launch kernels on a software adapter as on a GPU: in workgroups of several subgroups,
    /// with the programs that only pay there.
    #[arg(long)]
    pub as_gpu: bool,
    /// Seed of all data: the same one gives the same report.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// Only cases whose id contains this text; may be given several times.
    #[arg(long = "case", value_name = "TEXT")]
    pub cases: Vec<String>,
    /// Write a report, in the form that the name ends in: .json, .xml (JUnit) or .md; may be
    /// given several times.
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// Folder for the smallest form of each case that fails.
    #[arg(long, value_name = "DIR", default_value = "conformance-failures")]
    pub failures: PathBuf,
    /// Seconds that a case may take before its group is stopped.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    pub time_limit: u64,
    /// Run the case of a file that a failure left, and nothing else.
    #[arg(long, value_name = "FILE", conflicts_with_all = REPEATED, conflicts_with = "verify")]
    pub replay: Option<PathBuf>,
    /// Run what a .json report says again and compare.
    #[arg(long, value_name = "FILE", conflicts_with_all = REPEATED)]
    pub verify: Option<PathBuf>,
    /// Only list the cases.
    #[arg(long)]
    pub list: bool,
    /// Run this group in this process and write its results as lines of JSON.
    #[arg(long, value_name = "GROUP", hide = true)]
    pub child: Option<String>,
}

impl Options {
    fn wants(&self, id: &str) -> bool {
        // The others of a child's cases are its siblings'.
        let is_mine = match &self.child {
            Some(group) => id.split_once('/').is_some_and(|(of, _)| of == group),
            None => true,
        };
        is_mine
            && (self.cases.is_empty() || self.cases.iter().any(|text| id.contains(text.as_str())))
    }

    /// The words of a command that gives the same report.
    pub(crate) fn command_words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--profile".into(), self.profile.name().into()];
        words.extend(["--seed".into(), self.seed.to_string().into()]);
        if self.as_gpu {
            words.push("--as-gpu".into());
        }
        for text in &self.cases {
            words.extend(["--case".into(), text.into()]);
        }
        words
    }

    /// Arguments that give a child the same cases and data.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = self.command_words();
        arguments.extend(["--failures".into(), self.failures.clone().into()]);
        arguments
    }
}

/// A word of a command as shells take it.
pub(crate) fn quoted(word: String) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:,=+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
