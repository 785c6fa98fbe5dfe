//! Commands that report on models and devices: info, devices, forward, explain, bench.

mod common;

use std::path::Path;

use common::{checkpoint, hadal};
use hadal_tests::checkpoint::Family;
use hadal_weights::{Checkpoint, TensorSource};
use serde_json::Value;

fn fixture(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/fixtures/configs");
    root.join(name).display().to_string()
}

#[test]
fn info_counts_a_published_model_from_its_config_alone() {
    let v3 = hadal(&["info", "--json", "--model", &fixture("deepseek_v3.json")]).json();
    assert_eq!(v3["parameters"], 671_026_419_200_u64);
    assert_eq!(v3["weights"]["state"], "absent");
    assert_eq!(v3["config"]["n_routed_experts"], 256);
    let text = hadal(&["info", "--model", &fixture("deepseek_v3.json")]);
    assert!(text.text().contains("671.0 B parameters"), "{}", text.out);
}

#[test]
fn info_knows_the_model_inside_and_folders() {
    let tiny = hadal(&["info", "--json"]).json();
    assert_eq!(tiny["weights"]["state"], "complete");
    assert_eq!(tiny["licence"], "MIT OR Apache-2.0");
    let folder = tempfile::tempdir().unwrap();
    let path = checkpoint(folder.path(), Family::V3);
    std::fs::write(
        folder.path().join("README.md"),
        "---\nlicense: mit\n---\n# X\n",
    )
    .unwrap();
    let found = hadal(&["info", "--json", "--model", &path]).json();
    assert_eq!(found["licence"], "mit");
    assert_eq!(found["weights"]["state"], "complete");
    // A damaged download is told, and the rest is shown all the same.
    let shards = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let shard = shards
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .min()
        .unwrap();
    std::fs::write(&shard, b"short").unwrap();
    let damaged = hadal(&["info", "--json", "--model", &path]).json();
    assert_eq!(damaged["weights"]["state"], "unusable");
}

#[test]
fn devices_lists_every_backend_with_devices_or_a_reason() {
    let found = hadal(&["devices", "--json"]).json();
    let backends = found["backends"].as_array().unwrap();
    let names: Vec<&str> = backends
        .iter()
        .map(|b| b["backend"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["cuda", "rocm", "vulkan", "wgpu", "host"]);
    for backend in backends {
        match backend["available"].as_bool().unwrap() {
            true => assert!(!backend["devices"].as_array().unwrap().is_empty()),
            false => assert!(backend["why"].as_str().unwrap().contains("because")),
        }
    }
    let host = &backends[4]["devices"][0];
    assert_eq!(host["id"], "host");
    assert!(
        host["features"]
            .as_array()
            .unwrap()
            .contains(&Value::from("host"))
    );
    assert!(hadal(&["devices"]).text().contains("(used by default)"));
}

#[test]
fn forward_writes_logits_and_intermediates_for_a_list_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), Family::V3);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("model.safetensors").display().to_string();
    let base = [
        "forward", "--device", "host", "--model", &model, "--out", &file, "--json",
    ];
    let listed = hadal(&[&base[..], &["--ids", "1, 2,3,4"]].concat()).json();
    assert_eq!(listed["tensors"][0]["shape"], serde_json::json!([4, 152]));
    let plain = Checkpoint::open(out.path()).unwrap();
    let logits = plain.bytes("logits").unwrap().to_vec();
    drop(plain);
    let ids = out.path().join("ids.txt");
    std::fs::write(&ids, "1 2\n3,4\n").unwrap();
    let ids = ids.display().to_string();
    let all = hadal(&[&base[..], &["--ids", &ids, "--all", "--greedy", "3"]].concat()).json();
    assert_eq!(all["greedy_ids"].as_array().unwrap().len(), 3);
    let read = Checkpoint::open(out.path()).unwrap();
    assert_eq!(
        read.bytes("logits").unwrap(),
        logits,
        "--all changes no number"
    );
    let names = [
        "embed",
        "final_hidden",
        "greedy_ids",
        "greedy_logits",
        "input_ids",
        "layer.0.out",
        "layer.1.attn_out",
        "layer.1.kv_latent",
        "layer.1.k_pe",
        "layer.1.router_idx",
        "layer.1.router_weight",
        "mtp.0.logits",
        "mtp.0.draft_ids",
        "spec_tokens_per_step",
    ];
    for name in names {
        assert!(read.get(name).is_some(), "{name} is missing");
    }
    assert_eq!(read.get("layer.1.kv_latent").unwrap().shape, [4, 48]);
}

#[test]
fn forward_gives_the_same_logits_whatever_the_expert_options() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), Family::V3);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("model.safetensors").display().to_string();
    let ids: Vec<String> = (0..20).map(|i| (i * 7 % 152).to_string()).collect();
    let ids = ids.join(",");
    let logits = |options: &[&str]| {
        let base = [
            "forward", "--device", "host", "--model", &model, "--out", &file, "--ids", &ids,
        ];
        hadal(&[&base[..], options].concat()).text();
        let read = Checkpoint::open(out.path()).unwrap();
        let bytes = read.bytes("logits").unwrap().chunks(4);
        let values = bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        values.collect::<Vec<f32>>()
    };
    let usual = logits(&[]);
    for options in [
        &["--chunk", "4"][..],
        &["--form", "absorbed"],
        &["--form", "expanded"],
        &["--moe", "direct"],
        &["--moe", "grouped"],
        &["--isa", "scalar", "--threads", "1"],
    ] {
        let other = logits(options);
        let worst = usual
            .iter()
            .zip(&other)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 2e-3, "{options:?}: {worst}");
    }
}

#[test]
fn explain_names_kernels_and_draws() {
    let summary = hadal(&["explain", "--device", "host", "--json", "--steps"]).json();
    assert!(summary["kernels"].as_array().unwrap().len() > 5);
    let steps = summary["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["operation"] == "route"));
    assert!(
        hadal(&["explain", "--device", "host"])
            .text()
            .contains("attend")
    );
    let dot = hadal(&["explain", "--device", "host", "--dot"]);
    assert!(dot.text().starts_with("digraph"), "{}", &dot.out[..60]);
    let svg = hadal(&["explain", "--device", "host", "--svg", "--tokens", "64"]);
    assert!(svg.text().starts_with("<svg") && svg.out.ends_with("</svg>\n"));
    assert!(
        hadal(&["explain", "--device", "host", "--program"])
            .text()
            .starts_with("program")
    );
    assert!(
        hadal(&["explain", "--device", "host", "--graph", "--next"])
            .text()
            .contains("norm")
    );
    for drawing in ["dot", "svg", "graph", "program"] {
        let option = format!("--{drawing}");
        let json = hadal(&["explain", "--device", "host", "--json", &option]).json();
        assert!(json[drawing].as_str().unwrap().len() > 1000, "{drawing}");
    }
    hadal(&["explain", "--steps", "--dot"]).fails(2, &["--steps", "--dot"]);
    hadal(&["explain", "--device", "host", "--tokens", "0"]).fails(2, &["1 to 512"]);
}

#[cfg(target_os = "linux")]
#[test]
fn bench_refuses_made_up_weights_that_do_not_fit_and_tells_how_to_keep_a_part() {
    let text = std::fs::read_to_string(fixture("deepseek_v3.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    // More than any machine that runs this has.
    config["num_hidden_layers"] = 1000.into();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let path = path.display().to_string();
    let ran = hadal(&["bench", "--dummy-weights", &path]);
    ran.fails(1, &["memory", "--layers N and --experts N"]);
    let help = hadal(&["bench", "--help"]);
    assert!(help.text().contains("--layers N and"), "{}", help.out);
}

#[test]
fn bench_measures_the_model_inside_and_made_up_shapes() {
    let small = [
        "--depth",
        "0,8",
        "--prefill",
        "8",
        "--decode",
        "2",
        "--repeat",
        "1",
    ];
    let tiny = hadal(&[&["bench", "--device", "host", "--json"], &small[..]].concat()).json();
    let peak = tiny["peak_process_bytes"].as_u64().unwrap_or(0);
    assert!(
        peak < 400_000_000,
        "{peak} bytes are more than the engine's"
    );
    let rows = tiny["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(row["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(row["prefill_tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(row["bandwidth_share"].as_f64().unwrap() > 0.0);
        assert!(row["forecast_tokens_per_second"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(rows[0]["submit"], Value::Null, "the host submits nothing");
    assert_eq!(rows[0]["together"], serde_json::json!([]), "nobody asked");
    assert!(rows[1]["bytes_per_token"].as_u64() > rows[0]["bytes_per_token"].as_u64());
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, Family::V3Fp8.config_json()).unwrap();
    let config = config.display().to_string();
    let dummy = [
        "bench",
        "--device",
        "host",
        "--json",
        "--dummy-weights",
        &config,
        "--layers",
        "2",
        "--experts",
        "16",
    ];
    let made_up = hadal(&[&dummy[..], &small].concat()).json();
    assert_eq!(
        (&made_up["layers"], &made_up["experts"]),
        (&2.into(), &16.into())
    );
    hadal(&["bench", "--layers", "2"]).fails(2, &["--dummy-weights"]);
}

#[test]
fn bench_decodes_several_sequences_together() {
    let args = [
        "bench",
        "--device",
        "host",
        "--depth",
        "8",
        "--prefill",
        "0",
        "--decode",
        "3",
        "--repeat",
        "2",
        "--batch",
        "4,1",
    ];
    let json = hadal(&[&args[..], &["--json"]].concat()).json();
    let together = json["rows"][0]["together"].as_array().unwrap();
    let counts: Vec<u64> = together
        .iter()
        .map(|it| it["sequences"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [4, 1]);
    for it in together {
        assert!(it["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(it["samples"].as_array().unwrap().len(), 2);
    }
    let text = hadal(&args);
    let line = "4 sequences together on host, depth 8: ";
    assert!(text.text().contains(line), "{}", text.out);
    hadal(&["bench", "--batch", "0"]).fails(2, &["--batch"]);
}

#[test]
fn bench_measures_several_devices_in_turn() {
    let args = [
        "bench",
        "--depth",
        "0",
        "--prefill",
        "4",
        "--decode",
        "2",
        "--repeat",
        "1",
    ];
    let both = hadal(&[&args[..], &["--json", "--device", "host,wgpu"]].concat());
    if both.err.contains("wgpu is not available") {
        println!(
            "NOT RUN: bench_measures_several_devices_in_turn: {}",
            both.err
        );
        return;
    }
    let both = both.json();
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|row| row["device"].as_str().unwrap_or_default().to_string())
            .collect()
    };
    assert_eq!(names(&both["rows"]), ["host", "wgpu:0"]);
    assert_eq!(both["devices"][1]["id"], "wgpu:0");
    let submit = &both["rows"][1]["submit"];
    let cost = |key: &str| submit[key].as_f64().unwrap();
    let (total, driver) = (cost("seconds_per_token"), cost("driver_seconds_per_token"));
    assert!(0.0 < driver && driver < total && total < 1.0, "{submit}");
    let table = hadal(&[&args[..], &["--device", "wgpu, host"]].concat());
    let table = table.text();
    assert!(
        table.contains("submitting a token on wgpu:0 costs"),
        "{table}"
    );
    assert!(!table.contains("submitting a token on host"), "{table}");
}
