//! The dispatches of a prompt and of a decoded token as a profile that ui.perfetto.dev
//! opens: Chrome's trace events, a process for each device and a thread for each phase.
//!
//! Decides how times become a time line; what they are is `kernels.rs`'s.

use std::io::Write;
use std::time::Duration;

use hadal_device::DeviceInfo;
use hadal_engine::Traced;
use serde_json::{Value, json};

use super::Found;
use super::floor::Floors;
use super::kernels::Phase;
use crate::failure::Result;
use crate::output::Output;

/// Viewers know threads by their number alone, and take one with the number of its process for
/// the process itself.
const PIDS: usize = 100;

/// Between dispatches: viewers cut times to whole nanoseconds, after which neighbours that
/// touch would overlap.
const GAP: Duration = Duration::from_nanos(2);

/// What the times are, for who opens the file.
const TIMES: &str = "Each dispatch was submitted alone and waited for. Its time is the shortest \
    of all runs: by the device's clock, or by the processor's, with submitting and waiting, \
    where the device has none. Dispatches are in the order of the step, one right after the \
    other, the decoded token after the prompt. A step that is submitted whole takes less.";

/// Writes what was found.
pub fn write(output: Output, found: &Found<'_>) -> Result<()> {
    let text = text(found);
    output.finish(|mut file| file.write_all(text.as_bytes()))
}

fn text(found: &Found<'_>) -> String {
    let kernels = found.floors.iter().zip(&found.kernels);
    let devices = found.engines.iter().zip(kernels).enumerate();
    let events = devices.flat_map(|(number, (engine, (floors, phases)))| {
        let pid = PIDS * (number + 1);
        device_events(pid, engine.device().info(), floors, phases)
    });
    let events: Vec<String> = events.map(|event| event.to_string()).collect();
    let about = json!({
        "program": concat!("hadal ", env!("CARGO_PKG_VERSION")),
        "model": super::name(found.args),
        "times": TIMES,
        "runs": found.args.repeat,
    });
    // By hand, because some viewers read no further than to the first key they do not know.
    format!(
        "{{\"traceEvents\": [\n{}\n],\n\"otherData\": {about}}}\n",
        events.join(",\n")
    )
}

/// Names of a device and its phases, and their dispatches.
fn device_events(pid: usize, info: &DeviceInfo, floors: &Floors, phases: &[Phase]) -> Vec<Value> {
    let name = |kind: &str, tid: usize, name: String| {
        json!({
            "ph": "M",
            "name": kind,
            "pid": pid,
            "tid": tid,
            "args": { "name": name },
        })
    };
    let (id, called) = (info.id(), &info.name);
    let process = format!("{id} ({called}), each dispatch submitted alone");
    let mut events = vec![name("process_name", pid, process)];
    let mut at = Duration::ZERO;
    for (phase, tid) in phases.iter().zip(pid + 1..) {
        events.push(name("thread_name", tid, phase.name().to_string()));
        for traced in phase.traced() {
            let mut event = dispatch(traced, floors);
            event["pid"] = pid.into();
            event["tid"] = tid.into();
            event["ts"] = microseconds(at).into();
            events.push(event);
            at += traced.time + GAP;
        }
    }
    events
}

/// A dispatch without its place in time.
fn dispatch(traced: &Traced, floors: &Floors) -> Value {
    let seconds = traced.time.as_secs_f64();
    let floor = floors.of(traced, traced.macs, traced.bytes);
    json!({
        "ph": "X",
        "name": traced.row,
        "cat": traced.op.name(),
        "dur": microseconds(traced.time),
        "args": {
            "place": traced.scope,
            "op": traced.op.name(),
            "weight": traced.weight.name(),
            "bytes": traced.bytes,
            "multiply_adds": traced.macs,
            "GB/s": traced.bytes as f64 / seconds / 1e9,
            "GFLOP/s": 2.0 * traced.macs as f64 / seconds / 1e9,
            "floor_us": floor.seconds * 1e6,
            "times_floor": floor.times(seconds),
            "bound_by": floor.bound.map(|bound| bound.name()),
        },
    })
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}
