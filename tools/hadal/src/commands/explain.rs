//! `hadal explain`: which kernel each step takes, and why others were refused; the graph
//! and the program behind it.

mod svg;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use clap::Args;
use hadal_device::Features;
use hadal_engine::{Cancel, Engine, Kind, Lowered};
use serde_json::{Value, json};

use crate::args::{DeviceArgs, EngineArgs, ModelArgs};
use crate::console::Console;
use crate::failure::{Failure, Result};
use crate::{figures, open};

/// Which kernel each step of a model takes, and why others were refused.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal explain\n  \
    hadal explain --tokens 256 --device wgpu\n  \
    hadal explain --steps --json > steps.json\n  \
    hadal explain --svg > graph.svg")]
pub struct ExplainArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Tokens of the step: 1 is decoding, many is reading a prompt.
    #[arg(long, value_name = "N", default_value_t = 1)]
    tokens: u32,
    /// Explain the next-token module instead of the main model.
    #[arg(long)]
    next: bool,
    /// List every step instead of one line a kernel.
    #[arg(long, conflicts_with = "drawing")]
    steps: bool,
    /// Print the graph as text.
    #[arg(long, group = "drawing")]
    graph: bool,
    /// Print the graph in Graphviz's language.
    #[arg(long, group = "drawing")]
    dot: bool,
    /// Print the graph as an SVG picture.
    #[arg(long, group = "drawing")]
    svg: bool,
    /// Print the program: every step with its operands.
    #[arg(long, group = "drawing")]
    program: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: &ExplainArgs, console: &Console) -> Result<()> {
    let model = open::model(&args.model)?;
    let kind = match args.next {
        false => Kind::Main,
        true if model.config.num_nextn_predict_layers > 0 => Kind::Next(0),
        true => return Err(Failure::usage("this model has no next-token module")),
    };
    let most = args.engine.chunk;
    if args.tokens == 0 || args.tokens > most {
        let why = format!("a step has 1 to {most} tokens, not {}", args.tokens);
        return Err(Failure::usage(why).help("--chunk N allows larger steps"));
    }
    let settings = open::engine_options(&args.engine, &model, None);
    let device = open::device(&args.device, console)?;
    let engine = open::engine(model, device, settings, &Cancel::new(), console)?;
    if args.graph || args.dot || args.svg {
        let graph = engine.explain_graph(kind, args.tokens)?;
        let text = match (args.dot, args.svg) {
            (true, _) => graph.dot(),
            (_, true) => svg::draw(&graph),
            _ => graph.to_string(),
        };
        return drawn(args, &engine, console, text);
    }
    let lowered = engine.explain(kind, args.tokens)?;
    if args.program {
        return drawn(args, &engine, console, lowered.program.to_string());
    }
    console.report(
        || report(args, &engine, &lowered),
        || match args.steps {
            true => steps_text(&lowered),
            false => summary_text(args, &lowered),
        },
    )
}

/// A drawing or listing; as JSON a text under the name of its option.
fn drawn(args: &ExplainArgs, engine: &Engine, console: &Console, text: String) -> Result<()> {
    let name = match args {
        ExplainArgs { dot: true, .. } => "dot",
        ExplainArgs { svg: true, .. } => "svg",
        ExplainArgs { program: true, .. } => "program",
        _ => "graph",
    };
    let json = || {
        json!({
            "model": open::model_name(&args.model),
            "device": open::device_json(engine.device().info()),
            "tokens": args.tokens,
            name: text,
        })
    };
    console.report(json, || text.clone())
}

/// True if a row was refused for being written in the language of another backend: true of
/// most rows on every device, and no news.
fn of_another_language(why: &str) -> bool {
    let languages = Features::HOST.with(Features::WGSL).names();
    why.strip_prefix("needs ")
        .is_some_and(|names| names.split('+').any(|name| languages.contains(&name)))
}

/// How many kernels [`of_another_language`] leaves out of the texts, as a line.
fn left_out(lowered: &Lowered) -> String {
    let refused = lowered.explained.iter().flat_map(|step| &step.rejected);
    let others = refused.filter(|refused| of_another_language(&refused.why));
    let names: BTreeSet<&str> = others.map(|refused| refused.row).collect();
    match names.len() {
        0 => String::new(),
        count => format!("not shown: {count} kernels in the language of other backends (--json)\n"),
    }
}

/// Steps of one operation that take the same row for the same reasons.
struct Taken<'l> {
    count: usize,
    read_bytes: u64,
    refused: Vec<(&'l str, &'l str)>,
}

fn summary(lowered: &Lowered) -> BTreeMap<(&'static str, &'static str), Taken<'_>> {
    let mut rows = BTreeMap::new();
    for step in &lowered.explained {
        let entry = rows.entry((step.op.name(), step.row)).or_insert(Taken {
            count: 0,
            read_bytes: 0,
            refused: Vec::new(),
        });
        entry.count += 1;
        entry.read_bytes += step.read_bytes;
        for refused in &step.rejected {
            let reason = (refused.row, refused.why.as_str());
            if !entry.refused.contains(&reason) {
                entry.refused.push(reason);
            }
        }
    }
    rows
}

fn summary_text(args: &ExplainArgs, lowered: &Lowered) -> String {
    let mut out = format!(
        "{} steps for {} tokens, {} of scratch\n\n",
        lowered.program.steps.len(),
        args.tokens,
        figures::bytes(lowered.scratch_bytes)
    );
    let rows = summary(lowered);
    let widest = rows.keys().map(|(_, row)| row.len()).max().unwrap_or(0);
    // Writing to a String does not fail.
    let mut line = |op: &str, row: &str, steps: &str, reads: &str, refused: &str| {
        let text = format!("{op:<16} {row:<widest$} {steps:>5} {reads:>9}  {refused}");
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line("operation", "kernel", "steps", "reads", "refused before it");
    for ((op, row), taken) in rows {
        let reads = match taken.read_bytes {
            0 => String::new(),
            bytes => figures::bytes(bytes),
        };
        let mut refused = taken
            .refused
            .iter()
            .filter(|(_, why)| !of_another_language(why))
            .map(|(row, why)| format!("{row}: {why}"));
        let first = refused.next().unwrap_or_default();
        line(op, row, &taken.count.to_string(), &reads, &first);
        for other in refused {
            line("", "", "", "", &other);
        }
    }
    out.push_str(
        "\nreads: weights, cache and rotary table that the steps may touch; of expert tables \
         every entry\n",
    );
    out + &left_out(lowered)
}

fn steps_text(lowered: &Lowered) -> String {
    let mut out = String::new();
    for (index, step) in lowered.explained.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "{index:>5} {:<18} {:<28} {}",
            step.op.name(),
            step.row,
            step.scope
        );
        let rejected = step.rejected.iter();
        for refused in rejected.filter(|refused| !of_another_language(&refused.why)) {
            let _ = writeln!(out, "{:>27} not {}: {}", "", refused.row, refused.why);
        }
    }
    out + &left_out(lowered)
}

fn report(args: &ExplainArgs, engine: &Engine, lowered: &Lowered) -> Value {
    let refused = |row: &str, why: &str| json!({"kernel": row, "why": why});
    let rows = summary(lowered).into_iter().map(|((op, row), taken)| {
        json!({
            "operation": op,
            "kernel": row,
            "steps": taken.count,
            "read_bytes": taken.read_bytes,
            "refused": taken.refused.iter().map(|(row, why)| refused(row, why)).collect::<Vec<_>>(),
        })
    });
    let steps = lowered.explained.iter().map(|step| {
        json!({
            "place": step.scope,
            "operation": step.op.name(),
            "kernel": step.row,
            "read_bytes": step.read_bytes,
            "refused": step.rejected.iter().map(|r| refused(r.row, &r.why)).collect::<Vec<_>>(),
        })
    });
    let mut json = json!({
        "model": open::model_name(&args.model),
        "device": open::device_json(engine.device().info()),
        "tokens": args.tokens,
        "scratch_bytes": lowered.scratch_bytes,
        "program_steps": lowered.program.steps.len(),
        "kernels": rows.collect::<Vec<_>>(),
    });
    if args.steps {
        json["steps"] = steps.collect();
    }
    json
}
