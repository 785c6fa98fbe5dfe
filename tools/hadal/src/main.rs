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

fn main() -> ExitCode {
    environment::prepare();
    // Without it a file that another program cuts short would end this one without a word.
    let _ = hadal_weights::survive_lost_pages();
    let cli = args::Cli::parse();
    let console = console::Console::new(cli.json, cli.quiet);
    match commands::run(&cli.command, &console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&console),
    }
}
