//! `hadal plan` as people and scripts see it, and `run` refusing what it says does not fit.

mod common;

use common::{checkpoint, hadal};
use hadal_tests::checkpoint::Family;

/// A published configuration of the repository.
fn config(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fixtures/configs");
    format!("{folder}/{name}.json")
}

#[test]
fn the_plan_of_the_largest_model_names_what_would_fit() {
    let budget = ["--budget", "host=256GiB", "--device", "host"];
    let file = config("deepseek_v3");
    let base = ["plan", &file, "--bandwidth", "400", "--json"];
    let ran = hadal(&[&base[..], &budget[..]].concat());
    let report = ran.json();
    let plan = &report["plan"];
    assert_eq!(report["described_by"], "config");
    assert_eq!(plan["fits"], false);
    assert_eq!(
        plan["tiers"][0]["parts"]["routed_experts"],
        654_068_416_512u64
    );
    let nearest = plan["nearest"].as_array().expect("a list");
    let format = nearest.iter().find(|it| it["change"] == "quantisation");
    assert_eq!(format.expect("one fits")["format"], "Q2_K");
    let rate = plan["decoding"][0]["tokens_per_second"].as_f64();
    assert!(
        rate.is_some_and(|rate| (1.0..11.0).contains(&rate)),
        "{rate:?}"
    );
}

#[test]
fn run_refuses_with_the_plan_what_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), Family::V3);
    let base = ["perplexity", "--model", &model, "--device", "host"];
    let text = folder.path().join("text").display().to_string();
    std::fs::write(&text, "Once").unwrap();
    let ran = hadal(&[&base[..], &["--budget", "host=1kB", "--text", &text]].concat());
    ran.fails(
        1,
        &[
            "does not fit host",
            "routed experts",
            "can be used",
            "--budget host=",
        ],
    );
    hadal(&["plan", "--budget", "disk=1GB"]).fails(2, &["there is no memory"]);
    for named in [&["plan"][..], &["plan", "--model"]] {
        let ran = hadal(&[named, &["no/such/config.json"]].concat());
        ran.fails(1, &["no/such/config.json"]);
    }
}

#[test]
fn the_model_inside_is_planned_and_fits() {
    let ran = hadal(&["plan", "--device", "host", "--bandwidth", "20"]);
    let text = ran.text();
    for part in [
        "routed experts",
        "cache",
        "scratch",
        "decoding at depth 0",
        "it fits",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
