//! What was measured, as a table and as JSON.

use hadal_engine::{Engine, Kind};
use serde_json::{Value, json};

use super::measure::Measured;
use super::{Found, kernels};
use crate::{figures, open};
use hadal_engine::bandwidth::Bandwidth;

impl Found<'_> {
    /// Each row with its engine and that one's memory, in the order of the table.
    fn rows(&self) -> impl Iterator<Item = ((&Engine, &Bandwidth), &Measured)> {
        let engines = || self.engines.iter().map(|engine| engine.as_ref());
        let engines = move || engines().zip(&self.memory);
        let depths = self.measured.iter();
        depths.flat_map(move |measured| engines().zip(measured))
    }
}

/// Dispatches, copies and fills of a step that decodes one token.
fn steps(engine: &Engine) -> Option<usize> {
    let lowered = engine.explain(Kind::Main, 1).ok()?;
    Some(lowered.program.steps.len())
}

/// The table.
pub fn text(found: &Found<'_>) -> String {
    let Some(engine) = found.engines.first() else {
        return String::new();
    };
    let config = &engine.model().config;
    let mut out = format!(
        "{}: {} layers, {} experts, weights {}\n{}\n\
         {:>9} {:>7} {:>14} {:>14} {:>9} {:>12} {:>10} {:>10}  {}\n",
        super::name(found.args),
        config.num_hidden_layers,
        config.n_routed_experts,
        figures::bytes(engine.weight_bytes()),
        memories(found),
        "device",
        "depth",
        "prefill tok/s",
        "decode tok/s",
        "forecast",
        "bytes/token",
        "GB/s",
        "of memory",
        "with drafts"
    );
    for ((engine, memory), row) in found.rows() {
        let moved = row.decode_bytes_per_second();
        let share = moved.map(|moved| 100.0 * moved / memory.bytes_per_second);
        let drafts = row.drafted.as_ref().map_or(String::new(), |drafted| {
            format!(
                "{:.1} tok/s, {:.0} % accepted",
                drafted.tokens_per_second,
                100.0 * drafted.acceptance
            )
        });
        out.push_str(&format!(
            "{:>9} {:>7} {:>14} {:>14} {:>9} {:>12} {:>10} {:>8} %  {drafts}\n",
            engine.device().info().id(),
            row.depth,
            rate(row.prefill.median()),
            rate(row.decode.median()),
            rate(row.forecast),
            figures::bytes(row.bytes_per_token),
            rate(moved.map(|moved| moved / 1e9)),
            share.map_or("-".to_string(), |share| format!("{share:.0}")),
        ));
    }
    out.push_str(&together(found));
    out.push_str(&submitting(found));
    let engines = found.engines.iter().zip(&found.memory);
    let kernels = found.floors.iter().zip(&found.kernels);
    for ((engine, memory), (floors, phases)) in engines.zip(kernels) {
        let id = engine.device().info().id();
        out.push_str(&kernels::text(&id, memory, floors, phases));
    }
    if let Some(path) = &found.args.trace {
        out.push_str(&format!(
            "\nthe trace is in {}; https://ui.perfetto.dev opens it\n",
            path.display()
        ));
    }
    out
}

/// A line for each device: what its memory does.
fn memories(found: &Found<'_>) -> String {
    let lines = found
        .engines
        .iter()
        .zip(&found.memory)
        .map(|(engine, memory)| {
            let id = engine.device().info().id();
            format!("memory of {id}: {}\n", memory.text())
        });
    lines.collect()
}

/// A line for each count of sequences that were decoded together, of each row.
fn together(found: &Found<'_>) -> String {
    let mut out = String::new();
    for ((engine, _), row) in found.rows() {
        for together in &row.together {
            out.push_str(&format!(
                "{}{} sequence{} together on {}, depth {}: {} tokens/s in all\n",
                if out.is_empty() { "\n" } else { "" },
                together.sequences,
                if together.sequences == 1 { "" } else { "s" },
                engine.device().info().id(),
                row.depth,
                rate(together.rates.median()),
            ));
        }
    }
    out
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or("-".to_string(), |rate| format!("{rate:.1}"))
}

/// A line for each device that measures what submitting costs.
fn submitting(found: &Found<'_>) -> String {
    let mut out = String::new();
    for (index, engine) in found.engines.iter().enumerate() {
        let rows = found.measured.iter().map(|measured| &measured[index]);
        let cheapest = rows.filter_map(Measured::cheapest_submit);
        let Some(cost) = cheapest.min_by(|a, b| a.total.total_cmp(&b.total)) else {
            continue;
        };
        out.push_str(&format!(
            "{}submitting a token on {} costs the processor {:.0} µs, {:.0} µs of it in the \
             driver ({} steps)\n",
            if out.is_empty() { "\n" } else { "" },
            engine.device().info().id(),
            cost.total * 1e6,
            cost.driver * 1e6,
            steps(engine).map_or("?".to_string(), |steps| steps.to_string()),
        ));
    }
    out
}

/// The same for scripts.
pub fn json(found: &Found<'_>) -> Value {
    let Some(first) = found.engines.first() else {
        return Value::Null;
    };
    let config = &first.model().config;
    let device = |engine: &Engine| open::device_json(engine.device().info());
    let kernels = found.floors.iter().zip(&found.kernels);
    let kernels = found.engines.iter().zip(kernels);
    let kernels = kernels.map(|(engine, (floors, phases))| {
        kernels::json(&engine.device().info().id(), floors, phases)
    });
    json!({
        "model": super::name(found.args),
        "made_up_weights": found.args.dummy_weights.is_some(),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "experts": config.n_routed_experts,
        "device": device(first),
        "devices": found.engines.iter().map(|engine| device(engine)).collect::<Vec<_>>(),
        "program_steps": found.engines.iter().map(|engine| steps(engine)).collect::<Vec<_>>(),
        "weight_bytes": first.weight_bytes(),
        "peak_process_bytes": found.peak,
        "memory_bandwidth": found.memory.iter().map(|memory| json!({
            "bytes_per_second": memory.bytes_per_second,
            "threads": memory.threads,
        })).collect::<Vec<_>>(),
        "repeat": found.args.repeat,
        "rows": found.rows().map(|(of, row)| json_row(found, of, row)).collect::<Vec<_>>(),
        "kernels": kernels.collect::<Vec<_>>(),
        "trace": found.args.trace.as_ref().map(|path| path.display().to_string()),
    })
}

fn json_row(found: &Found<'_>, (engine, memory): (&Engine, &Bandwidth), row: &Measured) -> Value {
    let moved = row.decode_bytes_per_second();
    json!({
        "device": engine.device().info().id(),
        "depth": row.depth,
        "prefill_tokens": found.args.prefill,
        "prefill_tokens_per_second": row.prefill.median(),
        "prefill_samples": row.prefill.samples,
        "decode_tokens": found.args.decode,
        "decode_tokens_per_second": row.decode.median(),
        "decode_samples": row.decode.samples,
        "forecast_tokens_per_second": row.forecast,
        "together": row.together.iter().map(|together| json!({
            "sequences": together.sequences,
            "tokens_per_second": together.rates.median(),
            "samples": together.rates.samples,
        })).collect::<Vec<_>>(),
        "bytes_per_token": row.bytes_per_token,
        "decode_bytes_per_second": moved,
        "bandwidth_share": moved.map(|moved| moved / memory.bytes_per_second),
        "submit": row.cheapest_submit().map(|cost| json!({
            "seconds_per_token": cost.total,
            "driver_seconds_per_token": cost.driver,
            "samples": row.submitting.iter().map(|cost| cost.total).collect::<Vec<_>>(),
        })),
        "drafts": row.drafted.as_ref().map(|drafted| json!({
            "tokens_per_second": drafted.tokens_per_second,
            "acceptance": drafted.acceptance,
        })),
    })
}
