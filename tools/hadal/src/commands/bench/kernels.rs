//! The time of every dispatch of a prompt and of a decoded token, summed over layers, beside
//! what it cannot do without: bytes of weights and cache, multiply-adds, and the least time
//! that these take on the device.

use std::sync::Arc;
use std::time::Duration;

use hadal_engine::{Cancel, Engine, EngineError, Session, Traced};
use serde_json::{Value, json};

use super::BenchArgs;
use super::floor::{Floor, Floors};
use super::measure::{start, tokens};
use crate::failure::Result;
use crate::figures;
use hadal_engine::bandwidth::Bandwidth;

/// The dispatches of one kind of step.
#[derive(Debug)]
pub struct Phase {
    /// `decoding 1 token`.
    name: String,
    tokens: usize,
    depth: usize,
    /// Every dispatch, in order.
    traced: Vec<Traced>,
    rows: Vec<Row>,
}

impl Phase {
    /// `decoding 1 token`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every dispatch, in the order of the step.
    pub fn traced(&self) -> &[Traced] {
        &self.traced
    }

    /// Seconds of all dispatches.
    fn seconds(&self) -> f64 {
        let whole: Duration = self.rows.iter().map(|row| row.time).sum();
        whole.as_secs_f64()
    }

    /// The floors of all rows one after the other.
    fn floor(&self, floors: &Floors) -> Floor {
        let seconds = self.rows.iter().map(|row| row.floor(floors).seconds);
        Floor {
            seconds: seconds.sum(),
            bound: None,
        }
    }
}

/// Dispatches of one row at one place of all layers.
#[derive(Debug)]
struct Row {
    /// One of them; the numbers are those of all.
    first: Traced,
    count: u64,
    macs: u64,
    bytes: u64,
    time: Duration,
    /// Of the first alone.
    chosen: Duration,
}

impl Row {
    fn floor(&self, floors: &Floors) -> Floor {
        floors.of(&self.first, self.macs, self.bytes)
    }

    /// The kernels that were not chosen, each beside the one that was.
    fn others(&self, floors: &Floors) -> impl Iterator<Item = Other> {
        let (first, chosen) = (&self.first, self.chosen);
        let floor = floors.of(first, first.macs, first.bytes);
        first.others.iter().map(move |&(kernel, time)| Other {
            kernel,
            seconds: time.as_secs_f64(),
            chosen: chosen.as_secs_f64(),
            floor,
        })
    }
}

/// One dispatch by another kernel than the chosen one.
struct Other {
    kernel: &'static str,
    seconds: f64,
    /// Of the one that was chosen.
    chosen: f64,
    floor: Floor,
}

impl Other {
    /// A line below the chosen kernel's, of one dispatch.
    fn text(&self) -> String {
        format!(
            "{:>6} {:>10.1} {:>5.2} x chosen {:>33} {:>8} {:>11}  {}\n",
            "or",
            self.seconds * 1e6,
            self.seconds / self.chosen,
            "",
            self.floor.times_text(self.seconds),
            "",
            self.kernel
        )
    }

    fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "seconds": self.seconds,
            "times_chosen": self.seconds / self.chosen,
            "times_floor": self.floor.times(self.seconds),
        })
    }
}

/// Takes the times, each the shortest of `--repeat` runs.
pub fn measure(
    engines: &[Arc<Engine>],
    args: &BenchArgs,
    cancel: &Cancel,
) -> Result<Vec<Vec<Phase>>> {
    let depth = args.depth.first().copied().unwrap_or(0) as usize;
    let prompt = args.prefill.min(args.engine.chunk) as usize;
    let mut measured = Vec::new();
    for engine in engines {
        let ids = tokens(engine.model(), depth + prompt.max(1));
        let mut session = Session::new(engine, false)?;
        if depth > 0 {
            start(&mut session, &ids[..depth], cancel)?;
        }
        let mut phases = Vec::new();
        for (name, count) in [
            ("reading", prompt),
            ("decoding", args.decode.min(1) as usize),
        ] {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled.into());
            }
            if count > 0 {
                let traced = session.trace(&ids[depth..][..count], args.repeat, args.rows)?;
                let plural = if count == 1 { "" } else { "s" };
                phases.push(Phase {
                    name: format!("{name} {count} token{plural}"),
                    tokens: count,
                    depth,
                    rows: sum(&traced),
                    traced,
                });
            }
        }
        measured.push(phases);
    }
    Ok(measured)
}

/// The same place of every layer is one row; the longest first.
fn sum(traced: &[Traced]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for one in traced {
        let place = place(&one.scope);
        let same = |row: &&mut Row| row.first.row == one.row && row.first.scope == place;
        match rows.iter_mut().find(same) {
            Some(row) => {
                row.count += 1;
                row.macs += one.macs;
                row.bytes += one.bytes;
                row.time += one.time;
            }
            None => rows.push(Row {
                count: 1,
                macs: one.macs,
                bytes: one.bytes,
                time: one.time,
                chosen: one.time,
                first: Traced {
                    scope: place,
                    ..one.clone()
                },
            }),
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.time));
    rows
}

/// `model.layers.12.mlp.experts` without what all have: `mlp.experts`.
fn place(scope: &str) -> String {
    let rest = scope.strip_prefix("model.layers.").and_then(|rest| {
        let (number, place) = rest.split_once('.')?;
        number.bytes().all(|b| b.is_ascii_digit()).then_some(place)
    });
    rest.unwrap_or(scope).to_string()
}

/// A table for each phase.
pub fn text(device: &str, memory: &Bandwidth, floors: &Floors, phases: &[Phase]) -> String {
    let mut out = floors.text(device);
    for phase in phases {
        let (seconds, floor) = (phase.seconds(), phase.floor(floors));
        let bytes: u64 = phase.rows.iter().map(|row| row.bytes).sum();
        out.push_str(&format!(
            "\n{device}, {} after {}: {:.0} µs in {} dispatches, each submitted alone, {} x the \
             floor of {:.0} µs; {} at {:.1} GB/s\n\
             {:>6} {:>10} {:>6} {:>9} {:>10} {:>10} {:>8} {:>11}  {:<34} {}\n",
            phase.name,
            phase.depth,
            seconds * 1e6,
            phase.rows.iter().map(|row| row.count).sum::<u64>(),
            floor.times_text(seconds),
            floor.seconds * 1e6,
            figures::bytes(bytes),
            bytes as f64 / seconds / 1e9,
            "count",
            "µs",
            "share",
            "GB/s",
            "of memory",
            "GFLOP/s",
            "x floor",
            "bound by",
            "kernel",
            "place"
        ));
        for row in &phase.rows {
            out.push_str(&line(row, memory, floors, seconds));
            out.extend(row.others(floors).map(|other| other.text()));
        }
    }
    out
}

/// A line of the table of a phase that takes `whole` seconds.
fn line(row: &Row, memory: &Bandwidth, floors: &Floors, whole: f64) -> String {
    let seconds = row.time.as_secs_f64();
    let rate = row.bytes as f64 / seconds;
    let floor = row.floor(floors);
    format!(
        "{:>6} {:>10.1} {:>4.0} % {:>9.1} {:>8.0} % {:>10.1} {:>8} {:>11}  {:<34} {}\n",
        row.count,
        seconds * 1e6,
        100.0 * seconds / whole,
        rate / 1e9,
        100.0 * rate / memory.bytes_per_second,
        2.0 * row.macs as f64 / seconds / 1e9,
        floor.times_text(seconds),
        floor.bound_text(),
        row.first.row,
        row.first.scope,
    )
}

/// The same for scripts.
pub fn json(device: &str, floors: &Floors, phases: &[Phase]) -> Value {
    let row = |row: &Row| {
        let (seconds, floor) = (row.time.as_secs_f64(), row.floor(floors));
        json!({
            "kernel": row.first.row,
            "op": row.first.op.name(),
            "weight": row.first.weight.name(),
            "place": row.first.scope,
            "dispatches": row.count,
            "seconds": seconds,
            "bytes": row.bytes,
            "multiply_adds": row.macs,
            "floor_seconds": floor.seconds,
            "times_floor": floor.times(seconds),
            "bound_by": floor.bound.map(|bound| bound.name()),
            "others": row.others(floors).map(|other| other.json()).collect::<Vec<_>>(),
        })
    };
    let phase = |phase: &Phase| {
        let (seconds, floor) = (phase.seconds(), phase.floor(floors));
        json!({
            "phase": phase.name,
            "tokens": phase.tokens,
            "depth": phase.depth,
            "seconds": seconds,
            "floor_seconds": floor.seconds,
            "times_floor": floor.times(seconds),
            "kernels": phase.rows.iter().map(row).collect::<Vec<_>>(),
        })
    };
    json!({
        "device": device,
        "floors": floors.json(),
        "phases": phases.iter().map(phase).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_of_every_layer_is_one() {
        assert_eq!(place("model.layers.12.mlp.experts"), "mlp.experts");
        assert_eq!(place("model.layers.x.mlp"), "model.layers.x.mlp");
        assert_eq!(place("lm_head"), "lm_head");
    }
}
