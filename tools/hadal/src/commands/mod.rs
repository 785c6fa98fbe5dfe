//! The commands, one file each.

pub mod bench;
pub mod chat;
pub mod conformance;
pub mod devices;
pub mod explain;
pub mod forward;
pub mod imatrix;
pub mod info;
pub mod perplexity;
pub mod plan;
pub mod quantize;
pub mod render;
pub mod run;
pub mod tokenize;

use crate::args::Command;
use crate::console::Console;
use crate::failure::Result;

/// Runs a command.
pub fn run(command: &Command, console: &Console) -> Result<()> {
    match command {
        Command::Run(args) => run::run(args, console),
        Command::Chat(args) => chat::run(args, console),
        Command::Info(args) => info::run(args, console),
        Command::Devices(args) => devices::run(args, console),
        Command::Tokenize(args) => tokenize::run(args, console),
        Command::Render(args) => render::run(args, console),
        Command::Perplexity(args) => perplexity::run(args, console),
        Command::Quantize(args) => quantize::run(args, console),
        Command::Imatrix(args) => imatrix::run(args, console),
        Command::Forward(args) => forward::run(args, console),
        Command::Explain(args) => explain::run(args, console),
        Command::Plan(args) => plan::run(args, console),
        Command::Bench(args) => bench::run(args, console),
        Command::Conformance(args) => conformance::run(args, console),
    }
}
