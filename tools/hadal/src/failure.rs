//! How a command fails: what people read and what scripts see.
//!
//! Exit codes: 1 it did not work, 2 what was typed cannot work, 130 interrupted. A reader
//! that went away (`hadal ... | head`) is no failure.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use hadal_engine::{EngineError, Plan};
use serde_json::{Value, json};

use crate::console::Console;
use crate::plan_text;

/// What kind of failure, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed,
    Usage,
    Interrupted,
    ReaderGone,
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    cause: Option<String>,
    /// The plan of a model that does not fit, shown below the message.
    plan: Option<Box<Plan>>,
    help: Option<String>,
}

/// Result of everything in this program.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    fn of(kind: Kind, message: impl Display) -> Failure {
        Failure {
            kind,
            message: message.to_string(),
            cause: None,
            plan: None,
            help: None,
        }
    }

    /// It did not work.
    pub fn failed(message: impl Display) -> Failure {
        Failure::of(Kind::Failed, message)
    }

    /// What was typed cannot work.
    pub fn usage(message: impl Display) -> Failure {
        Failure::of(Kind::Usage, message)
    }

    /// Ctrl-C.
    pub fn interrupted() -> Failure {
        Failure::of(Kind::Interrupted, "interrupted")
    }

    /// A file that could not be read or written.
    pub fn file(path: &std::path::Path, error: io::Error) -> Failure {
        Failure {
            cause: Some(error.to_string()),
            ..Failure::failed(format!("cannot use {}", path.display()))
        }
    }

    /// With what the person can do.
    pub fn help(self, help: impl Display) -> Failure {
        Failure {
            help: Some(help.to_string()),
            ..self
        }
    }

    /// True if nothing can be tried again because nobody reads the answers.
    pub fn is_lasting(&self) -> bool {
        self.kind == Kind::ReaderGone
    }

    /// Ends the program: tells the person, and a script that wants JSON and has got none yet; gives the
    /// exit code.
    pub fn report(&self, console: &Console) -> ExitCode {
        let code = match self.kind {
            Kind::ReaderGone => return ExitCode::SUCCESS,
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Interrupted => 130,
        };
        if console.json() && !console.has_printed() {
            // Of a reader that is gone nobody can be told.
            let _ = console.print(&format!("{:#}\n", self.json()));
        }
        self.tell();
        ExitCode::from(code)
    }

    /// Tells the person.
    pub fn tell(&self) {
        const RED: &str = "\x1b[1;31m";
        const CYAN: &str = "\x1b[36m";
        const RESET: &str = "\x1b[0m";
        // The stream drops the colours where they are not wanted.
        anstream::eprintln!("{RED}error:{RESET} {}", self.message);
        if let Some(cause) = &self.cause {
            anstream::eprintln!("{CYAN}cause:{RESET} {cause}");
        }
        if let Some(plan) = &self.plan {
            anstream::eprintln!("\n{}", plan_text::memory(plan));
        }
        if let Some(help) = &self.help {
            anstream::eprintln!("{CYAN}help:{RESET} {help}");
        }
    }

    fn json(&self) -> Value {
        let mut error = json!({"message": self.message});
        let more = [
            ("cause", self.cause.as_ref().map(|it| json!(it))),
            ("help", self.help.as_ref().map(|it| json!(it))),
            ("plan", self.plan.as_ref().map(|it| json!(it))),
        ];
        for (key, value) in more {
            if let Some(value) = value {
                error[key] = value;
            }
        }
        json!({"error": error})
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        match error {
            EngineError::Cancelled
            | EngineError::Weights(hadal_weights::WeightsError::Cancelled) => {
                Failure::interrupted()
            }
            EngineError::EmptyPrompt
            | EngineError::UnknownToken { .. }
            | EngineError::Option(_)
            | EngineError::Tokens(hadal_tokens::TokensError::Option { .. }) => {
                Failure::usage(error)
            }
            EngineError::ContextFull { context, max, .. } if context < max => Failure::usage(error)
                .help(format!(
                    "--context TOKENS opens the model with a larger context, up to {max}"
                )),
            EngineError::ContextFull { .. } => {
                Failure::usage(error).help("the model allows no larger context")
            }
            EngineError::Tokens(hadal_tokens::TokensError::NoChatTemplate) => {
                Failure::failed("this checkpoint has no chat template").help(
                    "--family v3, r1 or v3.1 takes a built-in one; `hadal run` without --chat \
                     continues a text",
                )
            }
            EngineError::NoDevice(_) => Failure::usage(error)
                .help("`hadal devices` lists what this machine has; `--device host` always works"),
            EngineError::Device(hadal_device::Error::Unavailable { .. }) => Failure::failed(error)
                .help("`hadal devices` lists what this machine has; `--device host` always works"),
            EngineError::WouldNotFit { plan } => Failure {
                plan: Some(plan.clone()),
                ..Failure::failed(plan.verdict()).help(plan_text::help(&plan))
            },
            EngineError::Io { path, source } => Failure {
                cause: Some(source.to_string()),
                ..Failure::failed(format!("cannot read {path}"))
                    .help("--model takes the folder that holds config.json and the weights, or a .gguf file")
            },
            other => Failure::failed(other),
        }
    }
}

impl From<hadal_conformance::RunError> for Failure {
    fn from(error: hadal_conformance::RunError) -> Failure {
        use hadal_conformance::RunError;
        match error {
            RunError::Device(error) => EngineError::Device(error).into(),
            RunError::OtherDevice { ref old, .. } => {
                let help = format!("--device {old} takes the device of the report");
                Failure::usage(&error).help(help)
            }
            RunError::Report(_) | RunError::Replay(_) | RunError::Case(_) => Failure::usage(error),
            RunError::Process(_) => Failure::failed(error),
        }
    }
}

impl From<hadal_tokens::TokensError> for Failure {
    fn from(error: hadal_tokens::TokensError) -> Failure {
        EngineError::from(error).into()
    }
}

impl From<hadal_models::config::ConfigError> for Failure {
    fn from(error: hadal_models::config::ConfigError) -> Failure {
        Failure::failed(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::of(Kind::ReaderGone, error),
            _ => Failure::failed(format!("standard output: {error}")),
        }
    }
}
