//! Numbers and texts that nobody means, and options that change nothing: one message each,
//! before anything is computed.

mod common;

use common::{checkpoint, command, hadal, hadal_with_input};
use hadal_tests::checkpoint::Family;

const HUGE: &str = "18446744073709551615";

#[test]
fn absurd_numbers_are_refused_by_their_option() {
    let bench = |option: &'static str, value: &'static str| vec!["bench", option, value];
    let run = |option: &'static str, value: &'static str| vec!["run", option, value, "Once"];
    for args in [
        bench("--depth", HUGE),
        bench("--depth", "0,4294967295"),
        bench("--prefill", HUGE),
        bench("--decode", HUGE),
        bench("--repeat", HUGE),
        bench("--repeat", "0"),
        bench("--threads", "100000"),
        run("--threads", "100000"),
        run("--threads", "0"),
        run("-n", "0"),
        run("--stop", ""),
        vec!["perplexity", "--window", "3", "--text", "x.txt"],
        vec!["forward", "--greedy", HUGE, "--ids", "1", "--out", "x.bin"],
    ] {
        let ran = hadal(&args);
        ran.fails(2, &["invalid value", "--"]);
    }
}

#[test]
fn the_largest_numbers_that_are_taken_do_no_harm() {
    let host = ["--device", "host"];
    let most = ["--depth", "16777216", "--prefill", "16777216"];
    hadal(&[&["bench"], &host[..], &most].concat()).fails(2, &["is not possible"]);
    let wide = ["run", "--threads", "1024", "-n", "2", "Once"];
    hadal(&[&wide[..], &host].concat()).text();
    let long = ["run", "-n", HUGE, "--context", "16", "--seed", HUGE, "Once"];
    let ran = hadal(&[&long[..], &host, &["--json"]].concat()).json();
    assert!(ran["output_tokens"].as_u64().unwrap() <= 16, "{ran}");
    let retry = ["chat", "-n", "2", "--no-history", "--seed", HUGE];
    hadal_with_input(&[&retry[..], &host].concat(), "Once\n/retry\n").text();
}

#[test]
fn forward_refuses_what_the_context_cannot_hold_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors").display().to_string();
    let base = ["forward", "--ids", "1,2,3", "--out", &out];
    let greedy = ["--context", "8", "--greedy", "7"];
    let ran = hadal(&[&base[..], &greedy].concat());
    ran.fails(2, &["9 tokens do not fit the context of 8", "--context"]);
    assert!(!ran.err.contains("device"), "{}", ran.err);
    let ran = hadal(&[&base[..], &["--greedy", "16777216"]].concat());
    ran.fails(2, &["do not fit", "no larger context"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_the_computation() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let base = ["forward", "--device", "host", "--ids", "1", "--out"];
    let ran = hadal(&[&base[..], &[&path("no/such/out")]].concat());
    ran.fails(1, &["no/such/out"]);
    assert!(!ran.err.contains("device host"), "{}", ran.err);
    hadal(&[&base[..], &[&path("")]].concat()).fails(2, &["is not an ordinary file"]);
    // A computation that fails leaves nothing behind.
    hadal(&[&base[..], &[&path("out"), "--chunk", "0"]].concat()).fails(2, &["1 to 4096"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    hadal(&[&base[..], &[&path("out")]].concat()).text();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_biased_token_that_does_not_exist_is_refused_before_anything_is_read() {
    for name in ["run", "chat"] {
        let rest: &[&str] = if name == "run" { &["-"] } else { &[] };
        let ran = hadal(&[&[name, "--logit-bias", "4294967295=1"], rest].concat());
        ran.fails(2, &["4294967295", "--logit-bias", "vocabulary"]);
        assert!(!ran.err.contains("device"), "{}", ran.err);
    }
}

#[test]
fn a_list_of_ids_with_a_mistake_is_no_file_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let ids = |list: &str| hadal(&["forward", "--out", &out, "--ids", list]);
    ids("1,-2").fails(2, &["\"-2\" in the list is no token id"]);
    ids("1,x").fails(2, &["\"x\" in the list is no token id"]);
    ids("x,1").fails(1, &["cannot use x,1", "help:"]);
}

#[test]
fn a_device_without_a_name_is_told_the_names() {
    let run = |device: &str| hadal(&["run", "--device", device, "Once"]);
    run(":").fails(2, &["there is no backend \"\"", "host"]);
    run("abacus:x").fails(2, &["there is no backend \"abacus\""]);
}

#[test]
fn a_damaged_gguf_file_is_named_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, b"GGUF\xff\xfe").unwrap();
    let (file, only) = (
        file.display().to_string(),
        folder.path().display().to_string(),
    );
    let damaged = ["model.gguf is damaged", "cut short"];
    for model in [&file, &only] {
        hadal(&["info", "--model", model]).fails(1, &damaged);
        hadal(&["plan", model]).fails(1, &damaged);
        hadal(&["run", "--model", model, "Once"]).fails(1, &damaged);
        hadal(&["tokenize", "--model", model, "Once"]).fails(1, &damaged);
    }
    hadal(&["bench", "--dummy-weights", &file]).fails(2, &["is not a text"]);
    hadal(&["bench", "--dummy-weights", &only]).fails(1, &["is not a plain file"]);
    // Beside a config.json the folder is that of a checkpoint.
    std::fs::write(folder.path().join("config.json"), Family::V3.config_json()).unwrap();
    hadal(&["run", "--model", &only, "Once"]).fails(1, &["holds no weights"]);
}

#[test]
fn a_model_without_a_tokenizer_is_a_failure_in_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), Family::V3);
    let _ = std::fs::remove_file(folder.path().join("tokenizer.json"));
    hadal(&["run", "--model", &model, "Once"]).fails(1, &["has no tokenizer.json"]);
    hadal(&["chat", "--model", &model]).fails(1, &["has no tokenizer.json"]);
    hadal(&["tokenize", "--model", &model, "Once"]).fails(1, &["has no tokenizer.json"]);
}

#[test]
fn a_text_too_short_to_score_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.txt");
    std::fs::write(&path, "a").unwrap();
    let path = path.display().to_string();
    let base = ["perplexity", "--device", "host", "--text", &path];
    hadal(&base).fails(2, &["one.txt is a single token", "at least two"]);
    hadal(&[&base[..], &["--context", "3"]].concat()).fails(2, &["context of 3", "at least 4"]);
}

#[test]
fn standard_input_is_read_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.txt");
    std::fs::write(&path, vec![b'a'; (64 << 20) + 1]).unwrap();
    for name in ["run", "tokenize"] {
        let mut command = command(&[name, "-"]);
        command.stdin(std::fs::File::open(&path).unwrap());
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains("more than 64 MiB"), "{err}");
    }
    std::fs::write(&path, b"Once \xff").unwrap();
    let mut command = command(&["run", "-"]);
    command.stdin(std::fs::File::open(&path).unwrap());
    let err = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(err.contains("not UTF-8 at byte 5"), "{err}");
}

#[test]
fn options_that_change_nothing_are_told() {
    let host = ["run", "--device", "host", "-n", "1", "Once"];
    let ran = hadal(&[&host[..], &["--checked-shaders"]].concat());
    ran.text();
    assert!(
        ran.err.contains("--checked-shaders is for GPUs"),
        "{}",
        ran.err
    );
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let forward = |family: Family| {
        let folder = tempfile::tempdir().unwrap();
        let model = checkpoint(folder.path(), family);
        let args = ["forward", "--model", &model, "--device", "host"];
        let rest = ["--ids", "1", "--activations", "fp8", "--out", &out];
        let ran = hadal(&[&args[..], &rest].concat());
        ran.text();
        ran.err.contains("--activations fp8 changes nothing")
    };
    assert!(forward(Family::V3));
    assert!(!forward(Family::V3Fp8));
}

#[test]
fn options_of_the_host_are_told_on_a_gpu() {
    let gpu = ["explain", "--device", "wgpu", "--isa", "scalar"];
    let ran = hadal(&gpu);
    if ran.code != 0 {
        println!("not run: options_of_the_host_are_told_on_a_gpu, which needs a GPU driver");
        return;
    }
    assert!(ran.err.contains("--isa is for the host"), "{}", ran.err);
    assert!(!ran.out.contains("needs host"), "{}", ran.out);
    assert!(ran.out.contains("not shown: "), "{}", ran.out);
    let json = hadal(&[&gpu[..], &["--json"]].concat());
    assert!(json.out.contains("needs host"), "{}", json.out);
}
