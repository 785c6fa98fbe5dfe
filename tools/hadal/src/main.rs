//! `hadal`: the command-line program. Parses, runs one command, turns its failure into a
//! message and an exit code. Everything else is in `commands/`, one file a command.
#![forbid(unsafe_code)]

mod args;
mod budget;
mod commands;
mod console;
mod environment;
mod failure;
mod figures;
mod input;
mod open;
mod output;
mod plan_text;
mod sampling;
mod template;

use std::process::ExitCode;

use clap::Parser;

/// Ends the program for what was typed, or for help that was asked for.
fn refused(error: &clap::Error) -> ! {
    if error.use_stderr() && std::env::args_os().any(|typed| typed == "--json") {
        let text = error.to_string();
        let message = text.trim_start_matches("error: ").trim_end();
        let report = serde_json::json!({"error": {"message": message}});
        // Of a reader that is gone nobody can be told.
        let _ = console::Console::new(true, true).print(&format!("{report:#}\n"));
    }
    error.exit()
}

fn main() -> ExitCode {
    environment::prepare();
    // Without it a file that another program cuts short would end this one without a word.
    let _ = hadal_weights::survive_lost_pages();
    let cli = args::Cli::try_parse().unwrap_or_else(|error| refused(&error));
    let console = console::Console::new(cli.json, cli.quiet);
    match commands::run(&cli.command, &console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&console),
    }
}
