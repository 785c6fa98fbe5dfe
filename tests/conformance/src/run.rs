//! A run of the suite as a program does it: list, replay, verify, or test and report.

use std::process::ExitCode;

use clap::Parser;

use crate::Profile;
use crate::children::{Progress, run_all, run_group};
use crate::execute::{CaseResult, execute};
use crate::failure::{Failure, ReplayError};
use crate::report::{Report, ReportError};
use crate::suite::{Options, Suite};

/// Why a run did not come to a result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The device is not there.
    #[error(transparent)]
    Device(#[from] hadal_device::Error),
    /// A report cannot be read or written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A failing case cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A failing case that this device or version does not have.
    #[error("{0}")]
    Case(String),
    /// No process can be started, or its output goes nowhere.
    #[error("running a group of cases: {0}")]
    Process(#[from] std::io::Error),
    /// A report of another device.
    #[error("the report is about {old}, this is {new}; choose the device it names")]
    OtherDevice {
        /// Device of the report.
        old: String,
        /// Device at hand.
        new: String,
    },
}

/// What a run came to.
pub enum Outcome {
    /// The cases that there are.
    Listed(Vec<String>),
    /// The suite was run; reports that could not be written, and why.
    Tested(Box<Report>, Vec<ReportError>),
    /// One case was run again.
    Replayed(CaseResult),
    /// A report was compared with a second run: what differs.
    Verified(Vec<String>),
    /// This was a child; its parent knows the rest.
    Child,
}

impl Outcome {
    /// True if nothing is wrong.
    pub fn is_good(&self) -> bool {
        match self {
            Outcome::Tested(report, unwritten) => report.summary.is_good() && unwritten.is_empty(),
            Outcome::Replayed(result) => result.status.is_good(),
            Outcome::Verified(differences) => differences.is_empty(),
            Outcome::Listed(_) | Outcome::Child => true,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        match self {
            Outcome::Listed(cases) => cases.join("\n") + "\n",
            Outcome::Tested(report, unwritten) => {
                let lines = unwritten
                    .iter()
                    .map(|error| format!("not written: {error}\n"));
                report.text() + &lines.collect::<String>()
            }
            Outcome::Replayed(result) => format!("{}\n    {}\n", result.case, result.status.text()),
            Outcome::Verified(differences) if differences.is_empty() => {
                "the report holds: a second run gave the same\n".to_string()
            }
            Outcome::Verified(differences) => {
                let count = differences.len();
                format!("{}\n{count} differences\n", differences.join("\n"))
            }
            Outcome::Child => String::new(),
        }
    }
}

/// Does what the options say; `progress` hears which group runs and how far the run is.
pub fn run(
    suite: &Suite,
    options: &Options,
    progress: &mut dyn FnMut(&str, Progress),
) -> Result<Outcome, RunError> {
    if options.child.is_some() {
        run_group(suite, options, &mut std::io::stdout().lock())?;
        return Ok(Outcome::Child);
    }
    if let Some(path) = options.report.iter().find(|path| !Report::has_form(path)) {
        return Err(ReportError::Form(path.clone()).into());
    }
    // Not only after a long run.
    options
        .report
        .iter()
        .try_for_each(|path| Report::check_place(path))?;
    let old = options.verify.as_deref().map(Report::read).transpose()?;
    let failure = options.replay.as_deref().map(Failure::read).transpose()?;
    let options = &as_before(options, old.as_ref(), failure.as_ref());
    let device = suite.open(options)?;
    let cases = suite.cases(&*device, options);
    if options.list {
        let ids = cases.into_iter().map(|case| case.id);
        return Ok(Outcome::Listed(ids.collect()));
    }
    if let Some(failure) = failure {
        let case = failure.to_case(&cases).map_err(RunError::Case)?;
        let result = execute(&case, &device, &suite.expectations, failure.seed);
        return Ok(Outcome::Replayed(result));
    }
    if cases.is_empty() {
        return Err(RunError::Case(format!(
            "no case of this device has {} in its name; --list shows those there are",
            options.cases.join(" or ")
        )));
    }
    let info = device.info();
    if let Some(old) = old.as_ref().filter(|old| old.device.id != info.id()) {
        return Err(RunError::OtherDevice {
            old: old.device.id.clone(),
            new: info.id(),
        });
    }
    let results = run_all(suite, options, info, &cases, progress)?;
    let report = Report::new(suite, options, info, results);
    if let Some(old) = old {
        return Ok(Outcome::Verified(old.differences(&report)));
    }
    let written = options.report.iter().map(|path| report.write(path));
    let unwritten = written.filter_map(Result::err).collect();
    Ok(Outcome::Tested(Box::new(report), unwritten))
}

/// The options of a run that is to be done again, by its report or by what it left of a failure.
fn as_before(options: &Options, old: Option<&Report>, failure: Option<&Failure>) -> Options {
    match (old, failure) {
        (Some(old), _) => Options {
            profile: old.profile,
            seed: old.seed,
            as_gpu: old.as_gpu,
            cases: old.chosen.clone(),
            ..options.clone()
        },
        (None, Some(failure)) => Options {
            // It holds the cases of all others.
            profile: Profile::V3Full,
            seed: failure.seed,
            as_gpu: failure.as_gpu,
            cases: Vec::new(),
            ..options.clone()
        },
        (None, None) => options.clone(),
    }
}

/// Does this backend do what the device contract says?
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
    /// Write the report as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// The whole test program of a backend: parses the arguments, runs, tells, and gives 0 if
/// all is well, 1 if cases failed, 2 if nothing could be run.
pub fn main(suite: Suite) -> ExitCode {
    let cli = Cli::parse();
    let mut last = String::new();
    let mut progress = |group: &str, at: Progress| {
        if group != last {
            eprintln!("{:>6} of {} {group}", at.done, at.all);
            last = group.to_string();
        }
    };
    match run(&suite, &cli.options, &mut progress) {
        Ok(outcome) => {
            match (&outcome, cli.json) {
                (Outcome::Tested(report, _), true) => print!("{}", report.json()),
                _ => print!("{}", outcome.text()),
            }
            ExitCode::from(u8::from(!outcome.is_good()))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
