//! A plan as people read it: the table of memory, the forecasts, and what would fit.

use std::fmt::Write;

use hadal_engine::Plan;
use hadal_engine::plan::{Nearest, Tier};

use crate::figures;

/// What lies where.
pub fn memory(plan: &Plan) -> String {
    let mut out = String::new();
    for tier in &plan.tiers {
        tier_text(&mut out, tier);
    }
    out
}

fn tier_text(out: &mut String, tier: &Tier) {
    // Writing to a String does not fail.
    let _ = match &tier.member {
        Some(member) => writeln!(out, "  {} memory of {member}", tier.memory.name()),
        None => writeln!(out, "  {} memory", tier.memory.name()),
    };
    let mut row = |name: &str, bytes: u64| {
        let _ = writeln!(
            out,
            "    {name:<28}{:>22}{:>12}",
            figures::grouped(bytes),
            figures::bytes(bytes)
        );
    };
    for (kind, bytes) in tier.parts.iter().filter(|(_, bytes)| **bytes > 0) {
        row(kind.name(), *bytes);
    }
    row("total", tier.bytes());
    if tier.held_bytes > 0 {
        row("needs no memory of its own", tier.held_bytes);
    }
    row("needed", tier.needed_bytes());
    match tier.available_bytes {
        Some(bytes) => row("can be used", bytes),
        None => {
            let _ = writeln!(out, "    the driver does not tell how much there is");
        }
    }
}

/// GiB, rounded up so that they do.
fn gib(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 30) * 100.0).ceil() / 100.0
}

/// How a smaller file is made.
fn file(recipe: &str, bits: f64, weight_bytes: u64) -> String {
    format!(
        "`hadal quantize --recipe {recipe}`{} makes a file of {} ({bits} bits a weight) of the checkpoint",
        // Fewer bits predict badly without.
        if bits < 3.0 { " with --imatrix" } else { "" },
        figures::bytes(weight_bytes)
    )
}

/// What would fit, as advice.
pub fn help(plan: &Plan) -> String {
    let one = |nearest: &Nearest| match nearest {
        Nearest::Context { tokens } => format!("--context {tokens} fits"),
        Nearest::Batch { sequences } => format!("--batch {sequences} fits"),
        Nearest::Quantisation {
            format,
            bits,
            weight_bytes,
        } => format!("{}, which fits", file(format, *bits, *weight_bytes)),
        Nearest::SmallestQuantisation {
            format,
            bits,
            weight_bytes,
            needed_bytes,
        } => format!(
            "{}, the smallest there is, which needs {:.2} GiB",
            file(format, *bits, *weight_bytes),
            gib(*needed_bytes)
        ),
        Nearest::Budget { memory, bytes } => format!(
            "{:.2} GiB of {} memory would do (--budget {1}={0:.2}GiB, where there is as much)",
            gib(*bytes),
            memory.name()
        ),
    };
    match plan.nearest.is_empty() {
        true => "`hadal plan` shows the whole plan".to_string(),
        false => plan.nearest.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

/// The whole plan.
pub fn whole(plan: &Plan) -> String {
    let mut out = memory(plan);
    // Writing to a String does not fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let grouped = |count: u32| figures::grouped(count.into());
    line(format!(
        "\n  context {} of {} that the model allows, {} of them fit; {}, steps of up to {} tokens",
        grouped(plan.context),
        grouped(plan.model.max_context),
        grouped(plan.longest_context),
        match plan.batch {
            1 => "1 session".to_string(),
            batch => format!("{batch} sessions"),
        },
        plan.chunk,
    ));
    for decoding in &plan.decoding {
        line(format!(
            "  decoding at depth {}{}: {:.2} tokens/s",
            grouped(decoding.depth),
            match decoding.batch {
                1 => String::new(),
                batch => format!(", {batch} sequences"),
            },
            decoding.tokens_per_second
        ));
        line(format!("    {}", decoding.reason));
    }
    if let Some(obstacle) = &plan.obstacle {
        line(format!("  but: {obstacle}"));
    }
    line(format!("\n  {}", plan.verdict()));
    if !plan.fits {
        line(format!("  {}", help(plan)));
    }
    out
}
