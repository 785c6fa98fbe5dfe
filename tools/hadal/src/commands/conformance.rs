//! `hadal conformance`: the suite on a device of this machine. The cases are those of the
//! conformance crate; here a device is chosen and progress shown.

use std::ffi::OsString;

use clap::Args;
use hadal_conformance::{Options, Outcome, Suite};
use hadal_engine::registry;
use serde_json::json;

use super::devices::default_device;
use crate::args::DeviceArgs;
use crate::console::{Console, Unit};
use crate::failure::{Failure, Result};
use crate::open;

/// Check that a device computes what it must, case by case.
///
/// Buffers, programs, replay, limits, every kernel over awkward shapes, against an evaluator
/// in double precision. Groups of cases run in processes of their own, so that a hang or a
/// crash costs one group. Exit code 1 if a case failed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  hadal conformance\n  \
    hadal conformance --device vulkan --report report.md --report report.json\n  \
    hadal conformance --device vulkan --verify report.json\n  \
    hadal conformance --device wgpu --case op.route")]
pub struct ConformanceArgs {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    options: Options,
}

/// Runs the command.
pub fn run(args: &ConformanceArgs, console: &Console) -> Result<()> {
    let suite = suite(&args.device)?;
    if args.options.child.is_none() {
        let id = format!("{}:{}", suite.backend.name(), suite.ordinal);
        open::note_unused(&args.device, &id, console);
    }
    let bar = console.bar("cases", Unit::Cases);
    let outcome = hadal_conformance::run(&suite, &args.options, &mut |group, at| {
        bar.message(match at.bad {
            0 => group.to_string(),
            bad => format!("{group}, {bad} failed"),
        });
        bar.set(at.done as u64, at.all as u64);
    })?;
    bar.clear();
    match &outcome {
        Outcome::Child => {}
        Outcome::Tested(report, _) if console.json() => console.print(&report.json())?,
        _ => console.report(|| outcome_json(&outcome), || outcome.text())?,
    }
    match outcome.is_good() {
        true => Ok(()),
        false => Err(Failure::failed(match &outcome {
            Outcome::Tested(report, unwritten) => match unwritten.first() {
                Some(error) => error.to_string(),
                None => {
                    let s = &report.summary;
                    format!("{} cases failed", s.failed + s.unexpected_passes)
                }
            },
            Outcome::Verified(_) => "a second run came to other results".to_string(),
            _ => "the case failed".to_string(),
        })),
    }
}

fn outcome_json(outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::Listed(cases) => json!({ "cases": cases }),
        Outcome::Replayed(result) => json!(result),
        Outcome::Verified(differences) => {
            json!({ "holds": differences.is_empty(), "differences": differences })
        }
        Outcome::Tested(..) | Outcome::Child => serde_json::Value::Null,
    }
}

/// The suite of the device that was asked for, or of the one that `hadal run` takes.
fn suite(args: &DeviceArgs) -> Result<Suite> {
    let options = open::device_options(args);
    let name = match &args.device {
        Some(name) => name.clone(),
        None => default_device(&registry::survey(&options))
            .ok_or_else(|| Failure::failed("there is no device"))?,
    };
    let (backend, ordinal) = registry::find(&name, &options)?;
    let mut words: Vec<OsString> = ["conformance", "--device", &name].map(Into::into).into();
    if let Some(isa) = options.isa {
        words.extend(["--isa", isa.name()].map(OsString::from));
    }
    if let Some(threads) = options.threads {
        words.extend(["--threads".into(), threads.to_string().into()]);
    }
    if options.checked_shaders {
        words.push("--checked-shaders".into());
    }
    if options.validation_layers {
        words.push("--validation-layers".into());
    }
    if options.copy_weights {
        words.push("--copy-weights".into());
    }
    Ok(Suite {
        ordinal,
        arguments: words,
        program: "hadal".to_string(),
        ..Suite::new(backend)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ConformanceArgs,
    }

    #[test]
    fn every_option_of_the_device_reaches_the_children() {
        let words = [
            "--device",
            "host",
            "--isa",
            "scalar",
            "--threads",
            "2",
            "--checked-shaders",
            "--validation-layers",
            "--copy-weights",
        ];
        let line = Line::parse_from(["hadal"].iter().chain(&words));
        let suite = suite(&line.args.device).expect("the host is always there");
        for word in words {
            assert!(suite.arguments.contains(&word.into()), "{word} is left out");
        }
    }
}
