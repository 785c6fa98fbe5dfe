//! What goes wrong is told in one message with a cure, and an exit code.

mod common;

use common::{checkpoint, hadal, hadal_with_input};
use hadal_tests::checkpoint::Family;

#[test]
fn an_empty_prompt_is_refused() {
    hadal(&["run", ""]).fails(2, &["the prompt is empty", "help:"]);
    hadal_with_input(&["run", "-"], "").fails(2, &["the prompt is empty"]);
}

#[test]
fn a_missing_folder_is_named_with_the_cure() {
    for name in ["run", "chat", "forward", "explain", "bench"] {
        let rest: &[&str] = match name {
            "run" => &["Once"],
            "forward" => &["--ids", "1", "--out", "x.safetensors"],
            _ => &[],
        };
        let ran = hadal(&[&[name, "--model", "no/such/folder"], rest].concat());
        ran.fails(1, &["no/such/folder", "--model takes the folder"]);
    }
    hadal(&["tokenize", "--model", "no/such/folder", "x"]).fails(1, &["no/such/folder"]);
    hadal(&["info", "--model", "no/such/folder"]).fails(1, &["no/such/folder"]);
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let run = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        hadal(&["run", "--model", &path.display().to_string(), "Once"])
    };
    run(b"PK\x03\x04").fails(2, &["no GGUF file", "config.json"]);
    // What a file begins with decides, and not its name.
    run(b"GGUF").fails(1, &["model.bin", "cut short"]);
}

#[test]
fn an_unknown_device_is_refused_with_the_list() {
    hadal(&["run", "--device", "abacus", "Once"]).fails(2, &["abacus", "host", "hadal devices"]);
    hadal(&["run", "--device", "host:x", "Once"]).fails(2, &["is no number"]);
    hadal(&["run", "--device", "host:7", "Once"]).fails(2, &["host:7"]);
    hadal(&["run", "--device", "cuda", "Once"]).fails(1, &["cuda is not available", "because"]);
}

#[test]
fn an_id_beyond_the_vocabulary_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), Family::V3);
    let out = folder.path().join("out.safetensors").display().to_string();
    let base = [
        "forward", "--device", "host", "--model", &model, "--out", &out, "--ids",
    ];
    hadal(&[&base[..], &["1,2,152"]].concat()).fails(2, &["token id 152", "vocabulary of 152"]);
    hadal(&[&base[..], &["1,x"]].concat()).fails(2, &["no token id", "list"]);
    hadal(&[&base[..], &["4294967296"]].concat()).fails(2, &["is no token id"]);
    hadal(&[&base[..], &[","]].concat()).fails(2, &["there is no token id"]);
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_before_anything_runs() {
    let ran = hadal(&[
        "run",
        "--device",
        "host",
        "--context",
        "8",
        "A long story about a fox who ran and ran",
    ]);
    ran.fails(2, &["do not fit the context of 8", "--context"]);
    hadal(&["run", "--device", "host", "--context", "9999999", "Once"]).fails(2, &["9999999"]);
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), Family::V3);
    let out = folder.path().join("out.safetensors").display().to_string();
    let ids = vec!["1"; 4097].join(",");
    let base = [
        "forward", "--device", "host", "--model", &model, "--out", &out, "--ids",
    ];
    hadal(&[&base[..], &[&ids]].concat()).fails(2, &["4097 tokens do not fit"]);
}

#[test]
fn options_out_of_range_are_named() {
    for (option, value) in [
        ("--temperature", "nan"),
        ("--temperature", "-1"),
        ("--top-p", "0"),
        ("--min-p", "2"),
        ("--repetition-penalty", "0"),
    ] {
        let name = option.trim_start_matches('-').replace('-', "_");
        hadal(&["run", "--device", "host", option, value, "Once"]).fails(2, &[&name]);
    }
    hadal(&["run", "--device", "host", "-n", "0", "Once"]).fails(2, &["--max-tokens"]);
    hadal(&["run", "--device", "host", "--chunk", "0", "Once"]).fails(2, &["1 to 4096"]);
    hadal(&["run", "--stop", "", "--device", "host", "Once"]).fails(2, &["stop"]);
    hadal(&["run", "--logit-bias", "x", "Once"]).fails(2, &["ID=VALUE"]);
    hadal(&["walk"]).fails(2, &["walk"]);
    assert_eq!(hadal(&[]).code, 2);
}

#[test]
fn a_damaged_checkpoint_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), Family::Moonlight);
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    hadal(&["explain", "--model", &model])
        .fails(1, &["/config.json is not usable: it is not JSON"]);
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    hadal(&["explain", "--model", &model]).fails(1, &["config.json"]);
}

#[test]
fn help_shows_examples_and_version_tells_the_version() {
    for name in [
        "run",
        "chat",
        "info",
        "tokenize",
        "render",
        "perplexity",
        "forward",
        "explain",
        "bench",
        "devices",
    ] {
        let help = hadal(&[name, "--help"]);
        assert!(help.text().contains("Examples:"), "{name}");
        assert!(help.out.contains(&format!("hadal {name}")), "{name}");
    }
    assert!(
        hadal(&["--help"])
            .text()
            .contains("hadal run \"Once upon a time\"")
    );
    assert!(hadal(&["--version"]).text().starts_with("hadal "));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_with_130_and_keeps_the_text() {
    use std::io::Read;
    use std::process::{Command, Stdio};
    let args = [
        "run",
        "--device",
        "host",
        "--ignore-end",
        "-n",
        "1900",
        "Once upon a time",
    ];
    let mut child = common::command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0u8; 8];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(
        err.contains("interrupted") && err.contains("tokens/s"),
        "{err}"
    );
}
