//! A model on several devices: `--device A+B`.

mod common;

use common::{command, hadal, ran};

const WRITE: [&str; 8] = [
    "run",
    "Once upon a time",
    "--temperature",
    "0",
    "--max-tokens",
    "4",
    "--json",
    "--device",
];

fn writing(device: &str) -> Vec<&str> {
    WRITE.iter().copied().chain([device]).collect()
}

#[test]
fn host_devices_together_write_what_one_writes() {
    let [one, several] = ["host", "host+host+host"].map(|device| hadal(&writing(device)).json());
    assert_eq!(several["text"], one["text"]);
    assert!(one["text"].is_string(), "{one}");
    assert_eq!(several["device"]["id"], "host+host+host");
}

#[test]
fn a_plan_says_what_lies_on_each() {
    let plan = |device| {
        let ran = hadal(&["plan", "--device", device, "--bandwidth", "20", "--json"]);
        ran.json()["plan"].take()
    };
    let (one, several) = (plan("host"), plan("host+host"));
    let tiers = several["tiers"].as_array().expect("a list");
    assert_eq!(tiers.len(), 2);
    assert!(one["tiers"][0].get("member").is_none(), "{one}");
    for part in ["routed_experts", "attention", "cache", "head"] {
        let of = |tier: &serde_json::Value| tier["parts"][part].as_u64().unwrap_or(0);
        let whole = of(&one["tiers"][0]);
        assert!(whole > 0, "{part}");
        assert_eq!(tiers.iter().map(of).sum::<u64>(), whole, "{part}");
    }
    assert!(tiers.iter().all(|tier| tier["member"] == "host"));
    // Half of the memory is for each.
    let few = [
        "plan",
        "--device",
        "host+host",
        "--budget",
        "host=9MB",
        "--context",
        "2048",
        "--json",
    ];
    let refused = hadal(&few).json_and(1)["plan"].take();
    assert_eq!(refused["tiers"][1]["available_bytes"], 4_500_000);
    let enough = refused["nearest"].as_array().expect("a list");
    let enough = enough
        .iter()
        .find(|it| it["change"] == "budget")
        .expect("one");
    let budget = format!("host={}", enough["bytes"]);
    let fits = [
        "plan",
        "--device",
        "host+host",
        "--budget",
        &budget,
        "--json",
    ];
    let context = refused["context"].to_string();
    let fits = hadal(&[&fits[..], &["--context", &context]].concat());
    assert_eq!(fits.json()["plan"]["fits"], true);
}

#[test]
fn all_gpus_of_a_vendor_write_together() {
    let folder = tempfile::tempdir().expect("a folder");
    hadal_gpumock::driver_folder(folder.path(), false).expect("links");
    let expected = hadal(&writing("host")).json();
    for backend in ["cuda", "rocm"] {
        let device = format!("{backend}:all");
        let mut command = command(&writing(&device));
        command.env("LD_LIBRARY_PATH", folder.path());
        command.env("HADAL_MOCK", "devices=2");
        let found = ran(command.output().expect("it starts")).json();
        assert_eq!(found["text"], expected["text"], "{backend}");
        assert_eq!(found["device"]["id"], format!("{backend}:0+{backend}:1"));
    }
}

#[test]
fn devices_that_cannot_hold_a_model_together_are_refused() {
    hadal(&writing("host+null")).fails(2, &["there is no backend \"null\""]);
    hadal(&writing("host+host:1")).fails(2, &["there is no device host:1"]);
    hadal(&writing("host+")).fails(2, &["names nothing", "cuda:all"]);
    hadal(&writing("host:All")).fails(2, &["host:all"]);
    let folder = tempfile::tempdir().expect("a folder");
    hadal_gpumock::driver_folder(folder.path(), false).expect("links");
    for (device, why) in [
        ("cuda:0+cuda:0", "its memory is there once"),
        ("cuda:0+rocm:0", "two backends"),
        ("rocm:all", "differ in size"),
    ] {
        let mut command = command(&writing(device));
        command.env("LD_LIBRARY_PATH", folder.path());
        command.env("HADAL_MOCK", "arch=sm_90a+gfx942+gfx1100");
        ran(command.output().expect("it starts")).fails(2, &[why, "hadal devices"]);
    }
}
