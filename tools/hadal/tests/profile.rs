//! What `bench` tells of single kernels: times, floors, and the trace of a step.

mod common;

use std::path::Path;

use common::hadal;
use serde_json::Value;

const SMALL: [&str; 11] = [
    "bench",
    "--device",
    "host",
    "--depth",
    "8",
    "--prefill",
    "16",
    "--decode",
    "1",
    "--repeat",
    "2",
];

fn number(value: &Value, key: &str) -> f64 {
    let found = value[key].as_f64();
    found.unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

#[test]
fn kernels_are_compared_with_what_the_device_can_do() {
    let report = hadal(&[&SMALL[..], &["--kernels", "--json"]].concat()).json();
    assert_eq!(report["trace"], Value::Null);
    let host = &report["kernels"][0];
    let floors = &host["floors"];
    let memory = number(floors, "memory_bytes_per_second");
    assert!(memory >= number(floors, "copy_bytes_per_second"));
    assert!(memory >= number(&report["memory_bandwidth"][0], "bytes_per_second"));
    let rates = floors["arithmetic"].as_array().unwrap();
    let rate = |weight: &Value| {
        let rate = rates.iter().find(|rate| rate["weight"] == *weight);
        let rate = rate.unwrap_or_else(|| panic!("no rate for {weight}"));
        assert!(rate["kernel"].as_str().unwrap().contains("linear"));
        assert!(rate["shape"][0].as_u64().unwrap() >= 128);
        number(rate, "flop_per_second")
    };
    let phases = host["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    for phase in phases {
        let mut sum = 0.0;
        for row in phase["kernels"].as_array().unwrap() {
            let least = number(row, "bytes") / memory;
            let work = 2.0 * number(row, "multiply_adds") / rate(&row["weight"]);
            let floor = number(row, "floor_seconds");
            assert!((floor - least.max(work)).abs() < 1e-9 * floor, "{row}");
            let bound = if least >= work {
                "memory"
            } else {
                "arithmetic"
            };
            assert_eq!(row["bound_by"], bound, "{row}");
            let times = number(row, "seconds") / floor;
            assert!((number(row, "times_floor") - times).abs() < 1e-6 * times);
            sum += floor;
        }
        assert!((number(phase, "floor_seconds") - sum).abs() < 1e-9 * sum);
    }
}

#[test]
fn a_prompt_that_does_not_fill_its_program_is_no_more_work_than_it_has() {
    let macs = |tokens: &str| {
        let prompt = ["--prefill", tokens, "--decode", "0", "--depth", "0"];
        let base = [
            "bench",
            "--device",
            "host",
            "--repeat",
            "1",
            "--kernels",
            "--json",
        ];
        let report = hadal(&[&base[..], &prompt].concat()).json();
        let rows = report["kernels"][0]["phases"][0]["kernels"].clone();
        move |place: &str, op: &str| {
            let mut rows = rows.as_array().unwrap().iter();
            let row = rows.find(|row| row["place"] == place && row["op"] == op);
            number(row.unwrap(), "multiply_adds")
        }
    };
    // Both take the program of 16 tokens.
    let (twelve, sixteen) = (macs("12"), macs("16"));
    for (place, op) in [
        ("mlp.down_proj", "linear"),
        ("mlp.experts", "grouped_linear"),
    ] {
        assert_eq!(4.0 * twelve(place, op), 3.0 * sixteen(place, op), "{op}");
    }
    let attention = ("self_attn.attend", "attend_latent");
    let (few, many) = (
        twelve(attention.0, attention.1),
        sixteen(attention.0, attention.1),
    );
    // On average a row of 12 sees 6 of them, one of 16 sees 8.
    assert_eq!(16.0 * few, 9.0 * many);
}

#[test]
fn the_table_of_kernels_names_the_floor_and_what_bounds() {
    let ran = hadal(&[&SMALL[..], &["--kernels"]].concat());
    for part in [
        "floors of host: bytes at ",
        "GFLOP/s  host_linear_",
        " x the floor of ",
        "x floor    bound by",
    ] {
        assert!(ran.text().contains(part), "{part:?} is not in {}", ran.out);
    }
    let plain = hadal(&SMALL);
    assert!(!plain.text().contains("floor"), "{}", plain.out);
    let help = hadal(&["bench", "--help"]);
    for part in ["x floor", "--trace", "submitted alone", "ui.perfetto.dev"] {
        assert!(
            help.text().contains(part),
            "{part:?} is not in {}",
            help.out
        );
    }
}

/// A trace, of a run on the host that also gives its report.
fn traced(path: &Path) -> (Value, Value) {
    let path = path.display().to_string();
    let report = hadal(&[&SMALL[..], &["--trace", &path, "--json"]].concat()).json();
    assert_eq!(report["trace"], path.as_str());
    let text = std::fs::read_to_string(&path).unwrap();
    let keys = (text.find("traceEvents"), text.find("otherData"));
    assert!(keys.0 < keys.1, "some viewers read no other key first");
    (serde_json::from_str(&text).unwrap(), report)
}

#[test]
fn a_trace_has_every_dispatch_of_both_phases_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    // An older one is replaced.
    std::fs::write(&path, "old").unwrap();
    let (trace, report) = traced(&path);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let about = trace["otherData"]["times"].as_str().unwrap();
    assert!(about.contains("submitted alone"), "{about}");
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |kind: &str| -> Vec<&Value> {
        let events = events.iter().filter(|event| event["name"] == kind);
        events
            .inspect(|event| assert_eq!(event["ph"], "M"))
            .collect()
    };
    let processes = named("process_name");
    assert_eq!(processes.len(), 1);
    let process = processes[0]["args"]["name"].as_str().unwrap();
    assert!(process.starts_with("host "), "{process}");
    let threads = named("thread_name");
    let names: Vec<&str> = threads
        .iter()
        .map(|thread| thread["args"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["reading 16 tokens", "decoding 1 token"]);
    let phases = report["kernels"][0]["phases"].as_array().unwrap();
    let mut end = 0.0;
    for (thread, phase) in threads.iter().zip(phases) {
        assert_eq!(thread["pid"], processes[0]["pid"]);
        let dispatches: Vec<&Value> = events
            .iter()
            .filter(|event| event["ph"] == "X" && event["tid"] == thread["tid"])
            .collect();
        let mut sum = 0.0;
        for event in &dispatches {
            assert_eq!(event["pid"], thread["pid"]);
            // In whole nanoseconds, as viewers cut them.
            let start = (number(event, "ts") * 1e3).floor();
            assert!(start >= end, "{event} begins before {end} ns");
            end = start + (number(event, "dur") * 1e3).floor();
            sum += number(event, "dur") / 1e6;
            assert!(event["name"].as_str().unwrap().starts_with("host_"));
            assert!(!event["args"]["place"].as_str().unwrap().is_empty());
            assert!(number(&event["args"], "multiply_adds") > 0.0, "{event}");
        }
        let whole = number(phase, "seconds");
        assert!(sum > 0.0 && (sum - whole).abs() < 1e-6 * whole);
        let rows = phase["kernels"].as_array().unwrap().iter();
        let count: f64 = rows.map(|row| number(row, "dispatches")).sum();
        assert_eq!(dispatches.len() as f64, count);
        assert_eq!(dispatches[0]["cat"], "embed");
        assert_eq!(dispatches[dispatches.len() - 1]["cat"], "argmax");
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_told_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let trace = |path: &str, rest: &[&str]| {
        let ran = hadal(&[&SMALL[..], &["--trace", path], rest].concat());
        assert!(!ran.err.contains("device host"), "{}", ran.err);
        ran
    };
    let ran = trace(&path("no/such/trace.json"), &[]);
    ran.fails(1, &["no/such/trace.json", "help: the folder of the file"]);
    trace(&path(""), &[]).fails(2, &["--trace", "is not an ordinary file"]);
    let nothing = ["bench", "--prefill", "0", "--decode", "0", "--trace"];
    hadal(&[&nothing[..], &[&path("x")]].concat()).fails(2, &["nothing to write", "--decode"]);
    // A run that fails leaves nothing behind.
    let missing = ["--model", "no/such/folder"];
    trace(&path("x"), &missing).fails(1, &["no/such/folder"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn kernels_that_were_not_chosen_stand_beside_those_that_were() {
    let report = hadal(&[&SMALL[..], &["--rows", "--json"]].concat()).json();
    let phases = report["kernels"][0]["phases"].as_array().expect("phases");
    let kernels = phases[0]["kernels"].as_array().expect("kernels");
    let products = kernels.iter().filter(|kernel| kernel["op"] == "linear");
    let others: Vec<&serde_json::Value> = products
        .flat_map(|kernel| kernel["others"].as_array().expect("a list"))
        .collect();
    // The scalar kernel does everything, on every processor.
    let scalar = others
        .iter()
        .find(|other| other["kernel"] == "host_linear_bf16" || other["kernel"] == "host_linear_f8");
    let scalar = scalar.expect("the scalar kernel");
    assert!(scalar["seconds"].as_f64().expect("a time") > 0.0);
    assert!(scalar["times_chosen"].as_f64().expect("a ratio") > 0.0);
    let plain = hadal(&[&SMALL[..], &["--kernels", "--json"]].concat()).json();
    let kernels = &plain["kernels"][0]["phases"][0]["kernels"];
    assert_eq!(kernels[0]["others"], serde_json::json!([]));
}
