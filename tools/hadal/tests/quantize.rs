//! quantize and imatrix: what they write runs, what they are refused, and what goes on.

mod common;

use std::path::Path;

use std::process::Command;

use common::hadal;
use hadal_models::Config;
use hadal_tests::headers;

fn within(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[test]
fn a_dry_run_tells_sizes_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = within(folder.path(), "small.gguf");
    let ran = hadal(&["quantize", "--dry-run", "--json", "--experts", "q8_0", &out]).json();
    assert_eq!(ran["written"], false);
    assert_eq!(ran["recipe"], "Q4_K_M");
    let groups = ran["groups"].as_array().unwrap();
    let experts = groups.iter().find(|group| group["kind"] == "experts, in");
    assert_eq!(experts.unwrap()["format"], "q8_0");
    // Keys of a head are 32 long, and no block of 256 fits that.
    let instead = ran["instead"].as_array().unwrap();
    assert!(
        instead
            .iter()
            .any(|it| it["format"] == "q5_0" && it["columns"] == 32)
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // As large as it said, header and all.
    let base = [
        "quantize",
        "--json",
        "--no-verify",
        "--experts",
        "q8_0",
        &out,
    ];
    let written = hadal(&base).json();
    assert_eq!(written["bytes"], std::fs::metadata(&out).unwrap().len());
    assert_eq!(written["bytes"], ran["bytes"]);
    // What is there is replaced when somebody says so, and a dry run asks nobody.
    hadal(&base).fails(2, &["small.gguf is there already", "--force"]);
    let dry = hadal(&["quantize", "--dry-run", "--recipe", "IQ1_S", "--json", &out]);
    assert!(dry.json()["bytes"].as_u64() < written["bytes"].as_u64());
    assert!(dry.err.contains("hadal imatrix"), "{}", dry.err);
    assert_eq!(
        hadal(&[&base[..], &["--force"]].concat()).json()["written"],
        true
    );
    // A matrix that is none is found out before anything is written, too.
    let none = ["quantize", "--dry-run", "--imatrix", &out, "other.gguf"];
    hadal(&none).fails(1, &["in_sum2", "hadal imatrix"]);
}

#[test]
fn what_is_written_runs_and_predicts_nearly_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (out, text) = (
        within(folder.path(), "small.gguf"),
        within(folder.path(), "text"),
    );
    std::fs::write(
        &text,
        "Once upon a time there was a dog. The dog was happy. ".repeat(8),
    )
    .unwrap();
    let args = [
        "quantize",
        "--device",
        "host",
        "--recipe",
        "Q5_K_M",
        "--perplexity",
        &text,
        "--json",
        &out,
    ];
    let report = hadal(&args).json();
    assert_eq!(
        (&report["written"], &report["verified"]),
        (&true.into(), &true.into())
    );
    let perplexity = |key: &str| report[key].as_f64().unwrap();
    let (before, after) = (
        perplexity("perplexity_before"),
        perplexity("perplexity_after"),
    );
    assert!((after / before - 1.0).abs() < 0.05, "{before} {after}");
    assert_eq!(report["bytes"], std::fs::metadata(&out).unwrap().len());
    let ran = hadal(&[
        "run",
        "--device",
        "host",
        "--model",
        &out,
        "--temperature",
        "0",
        "-n",
        "8",
        "Once upon",
    ]);
    assert!(ran.text().len() > 5, "{}", ran.out);
    says_what_it_holds(folder.path(), &out, &report);
}

/// What is told of the file `out`, which `report` was written of.
fn says_what_it_holds(folder: &Path, out: &str, report: &serde_json::Value) {
    let info = hadal(&["info", "--model", out, "--json"]).json();
    assert_eq!(info["quantised"], "block formats of GGUF");
    for (format, bytes) in info["formats"].as_object().unwrap() {
        let groups = report["groups"].as_array().unwrap().iter();
        let own = groups.filter(|group| group["format"] == *format);
        let written: u64 = own.map(|group| group["bytes"].as_u64().unwrap()).sum();
        assert_eq!(bytes.as_u64(), Some(written), "{format}");
    }
    let groups = report["groups"].as_array().unwrap().iter();
    let written: u64 = groups.map(|group| group["bytes"].as_u64().unwrap()).sum();
    assert_eq!(info["bytes"], written);
    // A model whatever it is called.
    let again = within(folder, "again.gguf");
    let plain = within(folder, "plain");
    std::fs::copy(out, &plain).unwrap();
    for file in [out, &plain] {
        assert_eq!(
            hadal(&["info", "--model", file, "--json"]).json()["formats"],
            info["formats"]
        );
    }
    // One of two models is to be named.
    std::fs::copy(out, &again).unwrap();
    let folder = folder.display().to_string();
    for (command, text) in [("info", None), ("plan", None), ("tokenize", Some("x"))] {
        let args: Vec<&str> = [command, "--model", &folder]
            .into_iter()
            .chain(text)
            .collect();
        hadal(&args).fails(2, &["several models", "again.gguf, small.gguf"]);
    }
}

#[test]
fn a_full_disk_keeps_what_is_whole_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = within(folder.path(), "small.gguf");
    let args = ["quantize", "--recipe", "Q8_0", "--json", &out];
    let full = hadal(&[&args[..], &["--disk-full-after", "4000000"]].concat());
    full.fails(
        1,
        &[
            "no room left",
            "small.gguf.part",
            "tensors are kept",
            "run the same command",
        ],
    );
    assert!(!Path::new(&out).exists());
    let report = hadal(&args).json();
    assert!(report["resumed_tensors"].as_u64().unwrap() > 10, "{report}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_was_damaged_before_it_was_whole_is_found_and_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let out = within(folder.path(), "small.gguf");
    let args = ["quantize", "--recipe", "Q8_0", "--json", &out];
    let full = hadal(&[&args[..], &["--disk-full-after", "4000000"]].concat());
    full.fails(1, &["tensors are kept"]);
    let part = format!("{out}.part");
    let mut bytes = std::fs::read(&part).unwrap();
    let end = bytes.len();
    // A bit of it, which no number gives away.
    bytes[end - 1_000] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    hadal(&args).fails(1, &["is not read as it was written", "begins anew"]);
    assert!(!Path::new(&out).exists());
    assert_eq!(hadal(&args).json()["resumed_tensors"], 0);
}

#[cfg(unix)]
#[test]
fn two_runs_do_not_write_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = within(folder.path(), "small.gguf");
    let part = std::fs::File::create(format!("{out}.part")).unwrap();
    part.lock().unwrap();
    hadal(&["quantize", &out]).fails(1, &["small.gguf.part", "being written by another run"]);
    part.unlock().unwrap();
    assert_eq!(hadal(&["quantize", "--json", &out]).code, 0);
}

/// Less memory of its own than one layer's experts take: weights go through it in pieces.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_bounded_whatever_the_checkpoint() {
    const EXPERTS: u64 = 24;
    const MOST: u64 = 96 << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut config: serde_json::Value =
        serde_json::from_str(&headers::config("moonlight_16b")).unwrap();
    config["num_hidden_layers"] = 2.into();
    config["n_routed_experts"] = EXPERTS.into();
    config["vocab_size"] = 4096.into();
    config["bos_token_id"] = 0.into();
    config["eos_token_id"] = 1.into();
    let text = config.to_string();
    std::fs::write(folder.path().join("config.json"), &text).unwrap();
    // Holes are read as zeros.
    headers::write(folder.path(), &Config::from_json(&text).unwrap(), 50);
    let table = EXPERTS * 2048 * 1408 * 2;
    assert!(table > MOST);
    let out = within(folder.path(), "small.gguf");
    let model = folder.path().display().to_string();
    let limit = (MOST >> 10).to_string();
    let under_limit = |recipe: &str| {
        let script = "ulimit -d \"$1\" && shift && exec \"$@\"";
        let program = env!("CARGO_BIN_EXE_hadal");
        let base = [script, "sh", &limit, program, "quantize", "--model", &model];
        let ran = Command::new("sh")
            .arg("-c")
            .args(base)
            .args(["--recipe", recipe, "--force", "--json", &out])
            .output();
        common::ran(ran.unwrap())
    };
    assert_eq!(under_limit("Q8_0").json()["written"], true);
}

#[test]
fn importance_of_a_text_changes_the_file_and_not_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let text = within(folder.path(), "text");
    std::fs::write(
        &text,
        "Once upon a time there was a dog. The dog was happy. ".repeat(8),
    )
    .unwrap();
    let matrix = within(folder.path(), "imatrix.gguf");
    let args = [
        "imatrix", "--device", "host", "--text", &text, "--json", "-o", &matrix,
    ];
    let report = hadal(&args).json();
    // Every matrix but the embedding: 11 of the dense layer, 14 of the others, eh_proj, head.
    assert_eq!(report["tensors"], 11 + 5 * 14 + 2 - 12, "{report}");
    let (plain, weighed) = (
        within(folder.path(), "a.gguf"),
        within(folder.path(), "b.gguf"),
    );
    // The same of the file that is quantised, whose columns are read where they lie.
    let (small, of_file) = (
        within(folder.path(), "small.gguf"),
        within(folder.path(), "of_file.gguf"),
    );
    hadal(&["quantize", "--recipe", "Q8_0", "--no-verify", &small]).text();
    let args = [
        "imatrix", "--device", "host", "--text", &text, "--json", "-o", &of_file, "--model", &small,
    ];
    assert_eq!(hadal(&args).json()["tensors"], report["tensors"]);
    let known = |matrix: &str| {
        let dry = [
            "quantize",
            "--dry-run",
            "--imatrix",
            matrix,
            "--json",
            "x.gguf",
        ];
        hadal(&dry).json()["tensors_with_importance"].as_u64()
    };
    assert_eq!(known(&of_file), known(&matrix));
    assert!(known(&matrix) > Some(70), "{:?}", known(&matrix));
    // The model that is read is not replaced.
    let own = ["imatrix", "--text", &text, "--model", &small, "-o", &small];
    hadal(&own).fails(2, &["--out", "is a file of the model"]);
    let tight = ["--budget", "host=1kB"];
    hadal(&[&args[..], &tight].concat()).fails(1, &["does not fit host"]);
    let base = ["quantize", "--recipe", "IQ2_XXS", "--json"];
    let first = hadal(&[&base[..], &[&plain]].concat()).json();
    let second = hadal(&[&base[..], &["--imatrix", &matrix, &weighed]].concat()).json();
    assert_eq!(first["bytes"], second["bytes"]);
    assert_ne!(
        std::fs::read(&plain).unwrap(),
        std::fs::read(&weighed).unwrap()
    );
}

/// A story by the model that ships.
fn story(folder: &Path, name: &str, seed: &str) -> String {
    let ran = hadal(&[
        "run",
        "--device",
        "host",
        "--seed",
        seed,
        "--ignore-end",
        "-n",
        "500",
        "Once upon a time",
    ]);
    let path = within(folder, name);
    std::fs::write(&path, ran.text()).unwrap();
    path
}

/// Percent that perplexity may grow where all experts and attention are in a block format: what
/// people see with models of this family, and twice that of a small one's.
const USUAL_LOSSES: [(&[&str], f64); 6] = [
    (&["q8_0", "q6_k"], 0.5),
    (&["q5_0", "q5_1", "q5_k"], 1.5),
    (&["q4_0", "q4_1", "q4_k", "iq4_nl", "iq4_xs"], 3.0),
    (&["q3_k", "iq3_s", "iq3_xxs"], 6.0),
    (&["q2_k", "iq2_s", "iq2_xs", "iq2_xxs"], 25.0),
    (&["iq1_s", "iq1_m", "tq1_0", "tq2_0"], 70.0),
];

#[test]
fn every_block_format_loses_what_is_usual_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let (seen, judged) = (
        story(folder.path(), "seen", "1"),
        story(folder.path(), "judged", "2"),
    );
    let out = within(folder.path(), "small.gguf");
    let importance = within(folder.path(), "importance");
    let host = ["--device", "host"];
    let watched = ["imatrix", "--text", &seen, "--out", &importance];
    hadal(&[&watched[..], &host].concat()).text();
    for (formats, most) in USUAL_LOSSES {
        for format in formats {
            let base = ["quantize", "--recipe", "BF16", "--imatrix", &importance];
            let choice = ["--experts", format, "--attention", format];
            let score = ["--perplexity", &judged, "--json", &out];
            let report = hadal(&[&base[..], &host, &choice, &score].concat()).json();
            let perplexity = |key: &str| report[key].as_f64().unwrap();
            let (before, after) = (
                perplexity("perplexity_before"),
                perplexity("perplexity_after"),
            );
            let loss = 100.0 * (after / before - 1.0);
            println!("{format}: {before:.4} becomes {after:.4}, {loss:+.2} %");
            assert!((-1.0..most).contains(&loss), "{format}: {loss} %");
            std::fs::remove_file(&out).unwrap();
        }
    }
    let judged: usize = USUAL_LOSSES.iter().map(|(formats, _)| formats.len()).sum();
    assert_eq!(judged, hadal_device::DType::BLOCKS.len());
}

#[test]
fn what_does_not_exist_is_refused_with_what_does() {
    let recipe = ["quantize", "--recipe", "Q9", "x.gguf"];
    hadal(&recipe).fails(2, &["no recipe Q9", "Q4_K_M"]);
    let experts = ["quantize", "--experts", "int3", "x.gguf"];
    hadal(&experts).fails(2, &["no format int3", "iq2_xxs"]);
    let tensor = ["quantize", "--tensor", "blk.0", "x.gguf"];
    hadal(&tensor).fails(2, &["no =FORMAT"]);
    for pattern in ["blk.99.*", "*_norm.weight"] {
        let tensor = ["quantize", "--tensor", &format!("{pattern}=q8_0"), "x.gguf"];
        hadal(&tensor).fails(2, &[pattern, "names are like blk.", "stay f32"]);
    }
    let text = ["quantize", "--imatrix", "Cargo.toml", "x.gguf"];
    hadal(&text).fails(
        1,
        &["Cargo.toml: it does not begin with GGUF", "hadal imatrix"],
    );
    let part = ["quantize", "x-00001-of-00003.gguf"];
    hadal(&part).fails(2, &["is the name of a part of a split model"]);
    let json = hadal(&["quantize", "--json", "--recipe"]).json_and(2);
    let message = json["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("a value is required for '--recipe"),
        "{message}"
    );
    let nowhere = ["quantize", "no/such/folder/x.gguf"];
    hadal(&nowhere).fails(2, &["no folder"]);
}

#[test]
fn next_token_modules_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let drafts = |more: &[&str]| {
        let out = within(folder.path(), &format!("{}.gguf", more.len()));
        let quantize = [&["quantize", "--recipe", "Q8_0", "--json", &out], more].concat();
        assert_eq!(hadal(&quantize).json()["verified"], true);
        let run = [
            "run", "--device", "host", "--model", &out, "-n", "16", "--json", "Once",
        ];
        hadal(&run).json()["drafts"]["made"].as_u64().unwrap_or(0)
    };
    assert!(drafts(&[]) > 0);
    assert_eq!(drafts(&["--without-drafts"]), 0);
}

#[test]
fn a_gguf_file_is_quantised_like_the_checkpoint_it_is_of() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| within(folder.path(), name);
    let (exact, direct, through) = (named("exact.gguf"), named("direct"), named("through"));
    let quantize = |args: &[&str]| {
        let ran = hadal(&[&["quantize", "--json"], args].concat());
        assert_eq!(ran.json()["verified"], true);
        ran.err
    };
    let all_f32 = ["--recipe", "F16", "--tensor", "*=f32"];
    quantize(&[&all_f32[..], &[&exact]].concat());
    quantize(&["--recipe", "Q5_K_M", &direct]);
    let said = quantize(&["--model", &exact, "--recipe", "Q5_K_M", &through]);
    assert!(!said.contains("rounded"), "{said}");
    // Tokenizer and template, too; the name is that of what it was made from. The order of keys
    // may be another.
    let bytes = |path: &str| std::fs::read(path).unwrap();
    let info = |path: &str| hadal(&["info", "--model", path, "--json"]).json();
    let data = |path: &str| {
        let bytes = bytes(path);
        bytes[bytes.len() - info(path)["bytes"].as_u64().unwrap() as usize..].to_vec()
    };
    assert!(data(&direct) == data(&through));
    let tokens = |path: &str| hadal(&["tokenize", "--json", "--model", path, "The dog.\n"]).json();
    assert_eq!(tokens(&direct), tokens(&through));
    let turns = |path: &str| hadal(&["render", "--model", path]).out;
    assert_eq!(turns(&direct), turns(&through));
    // Not onto itself, by the name of an unfinished file.
    let (own, whole) = (named("own.part"), named("own"));
    std::fs::copy(&through, &own).unwrap();
    let onto = ["quantize", "--model", &own, &whole];
    hadal(&onto).fails(1, &["own.part is in the way", "is a file of the model"]);
    assert_eq!(bytes(&own), bytes(&through));
    // What stays in its blocks is copied, and the rest rounded again, of which it tells.
    let again = named("again");
    let said = quantize(&["--model", &through, "--recipe", "Q5_K_M", &again]);
    assert!(!said.contains("rounded"), "{said}");
    assert_eq!(bytes(&again), bytes(&through));
    let said = quantize(&["--model", &through, "--recipe", "Q4_0", "--force", &again]);
    assert!(
        said.contains("rounded already (q5_1, q5_k, q8_0)"),
        "{said}"
    );
}
