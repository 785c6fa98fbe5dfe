//! Commands that write or read text: run, chat, tokenize, render, perplexity.

mod common;

use common::{command, hadal, hadal_with_input};

const PROMPT: &str = "Once upon a time";

#[test]
fn run_continues_a_text_and_ends_with_figures() {
    let ran = hadal(&["run", "--device", "host", "-n", "12", "-s", "1", PROMPT]);
    assert!(ran.text().len() > 5, "{:?}", ran.out);
    assert!(ran.out.ends_with('\n'));
    for part in [
        "device host",
        "it was asked for",
        "12 tokens",
        "tokens/s",
        "weights",
        "cache",
    ] {
        assert!(ran.err.contains(part), "{part:?} is not in {:?}", ran.err);
    }
}

#[test]
fn the_same_seed_gives_the_same_text_with_and_without_a_pipe() {
    let args = [
        "run", "--device", "host", "--json", "-n", "10", "--seed", "7",
    ];
    let first = hadal(&[&args[..], &[PROMPT]].concat()).json();
    let second = hadal_with_input(&[&args[..], &["-"]].concat(), PROMPT).json();
    assert_eq!(first["ids"], second["ids"]);
    assert_eq!(first["output_tokens"], 10);
    assert_eq!(first["finish"], "length");
    assert_eq!(first["seed"], 7);
    assert!(first["drafts"]["made"].as_u64().unwrap() > 0, "{first}");
    assert!(first["memory"]["weight_bytes"].as_u64().unwrap() > 1_000_000);
    assert_eq!(first["device"]["id"], "host");
}

#[test]
fn greedy_text_is_the_same_without_drafts() {
    let args = ["run", "--device", "host", "--json", "-n", "24", "-t", "0"];
    let with = hadal(&[&args[..], &[PROMPT]].concat()).json();
    let without = hadal(&[&args[..], &["--no-draft", PROMPT]].concat()).json();
    assert_eq!(with["ids"], without["ids"]);
    assert_eq!(without["drafts"]["made"], 0);
    assert!(
        with["steps"].as_u64() < without["steps"].as_u64(),
        "no draft was accepted"
    );
}

#[test]
fn a_text_goes_on_after_the_device_is_lost() {
    let args = ["run", "--device", "wgpu", "--json", "-n", "24", "-t", "0"];
    let calm = hadal(&[&args[..], &[PROMPT]].concat());
    if calm.code != 0 {
        println!(
            "NOT RUN: a_text_goes_on_after_the_device_is_lost: {}",
            calm.err
        );
        return;
    }
    let lossy = hadal(&[&args[..], &["--lose-device-after", "15", PROMPT]].concat());
    assert_eq!(lossy.json()["ids"], calm.json()["ids"]);
    for part in ["the device wgpu:0 was lost", "continuing on wgpu:0"] {
        assert!(
            lossy.err.contains(part),
            "{part:?} is not in {:?}",
            lossy.err
        );
    }
}

#[test]
fn every_sampling_option_reaches_the_sampler() {
    let base = ["run", "--device", "host", "--json", "-n", "4", "-s", "3"];
    let greedy = hadal(&[&base[..], &["-t", "0", PROMPT]].concat()).json();
    let one = hadal(&[&base[..], &["-t", "5", "--top-k", "1", PROMPT]].concat()).json();
    assert_eq!(greedy["ids"], one["ids"], "top-k 1 is greedy");
    let tight = hadal(
        &[
            &base[..],
            &["-t", "5", "--min-p", "1", "--top-p", "1", PROMPT],
        ]
        .concat(),
    );
    assert_eq!(greedy["ids"], tight.json()["ids"], "min-p 1 is greedy");
    let first = greedy["ids"][0].as_u64().unwrap();
    let forbidden = format!("{first}=-inf");
    let other = hadal(&[&base[..], &["-t", "0", "--logit-bias", &forbidden, PROMPT]].concat());
    assert_ne!(other.json()["ids"][0], greedy["ids"][0]);
    let all = [
        "--repetition-penalty",
        "1.1",
        "--presence-penalty",
        "-0.5",
        "--frequency-penalty",
        "0.5",
    ];
    hadal(&[&base[..], &all, &[PROMPT]].concat()).json();
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let base = ["run", "--device", "host", "--json", "-n", "30", "-t", "0"];
    let whole = hadal(&[&base[..], &[PROMPT]].concat()).json();
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(10).take(4).collect();
    let cut = hadal(&[&base[..], &["--stop", &stop, PROMPT]].concat()).json();
    assert_eq!(cut["finish"], "stop");
    assert_eq!(cut["text"], text[..text.find(&stop).unwrap()]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::io::Read;
    use std::process::Stdio;
    let args = [
        "run",
        "--device",
        "host",
        "-n",
        "200",
        "--ignore-end",
        PROMPT,
    ];
    let mut child = command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0u8; 4];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(!err.contains("panicked") && !err.contains("error"), "{err}");
}

#[test]
fn chat_continues_a_story_and_obeys_its_commands() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("story.txt");
    let lines = format!(
        "Once upon a time\n/nonsense\n/retry\nThen\n/save {}\n/clear\n/retry\n/help\n/quit\n",
        saved.display()
    );
    let args = [
        "chat",
        "--device",
        "host",
        "-n",
        "6",
        "--no-history",
        "-s",
        "1",
    ];
    let ran = hadal_with_input(&args, &lines);
    ran.text();
    for part in [
        "not trained to chat",
        "there is no /nonsense",
        "saved to",
        "forgotten",
        "no answer yet",
        "/system",
    ] {
        assert!(ran.err.contains(part), "{part:?} is not in {:?}", ran.err);
    }
    let story = std::fs::read_to_string(saved).unwrap();
    assert!(
        story.starts_with("Once upon a time") && story.contains(" Then"),
        "{story:?}"
    );
}

#[test]
fn chat_feeds_only_what_the_cache_does_not_hold() {
    let args = [
        "chat",
        "--device",
        "host",
        "-n",
        "6",
        "--no-history",
        "--json",
    ];
    let ran = hadal_with_input(&args, "Once upon a time there was a fox\nIt ran\n");
    let turns: Vec<serde_json::Value> = ran
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(turns.len(), 2);
    assert_eq!(turns[0]["cached_tokens"], 0);
    assert!(turns[1]["cached_tokens"].as_u64() >= turns[0]["prompt_tokens"].as_u64());
    assert!(turns[1]["prompt_tokens"].as_u64() < Some(6), "{}", turns[1]);
}

#[test]
fn tokenize_goes_both_ways() {
    let there = hadal(&["tokenize", "--json", "Once upon a time ünï"]).json();
    let ids: Vec<String> = there["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.to_string())
        .collect();
    let back = hadal(&["tokenize", "--decode", &ids.join(",")]);
    assert_eq!(back.text(), "Once upon a time ünï\n");
    let bos = hadal(&["tokenize", "--json", "--bos", "Once"]).json();
    assert_eq!(bos["tokens"][0], "<｜begin▁of▁sentence｜>");
    let plain = hadal(&["tokenize", "--json", "--plain", "<｜User｜>"]).json();
    assert!(plain["count"].as_u64().unwrap() > 1);
    assert_eq!(
        hadal(&["tokenize", "--json", "<｜User｜>"]).json()["count"],
        1
    );
    hadal(&["tokenize", "--decode", "99999999"]).fails(1, &["99999999", "does not exist"]);
}

#[test]
fn render_takes_messages_as_text_or_file() {
    let messages = r#"[{"role": "user", "content": "Hello"}]"#;
    let typed = hadal(&["render", "--json", "--messages", messages]).json();
    assert_eq!(
        typed["text"],
        "<｜begin▁of▁sentence｜><｜User｜>Hello<｜Assistant｜>"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    std::fs::write(&path, messages).unwrap();
    let path = path.display().to_string();
    assert_eq!(
        hadal(&["render", "--json", "--messages", &path]).json(),
        typed
    );
    let open = hadal(&[
        "render",
        "--json",
        "--no-generation-prompt",
        "--messages",
        &path,
    ])
    .json();
    assert_eq!(open["text"], "<｜begin▁of▁sentence｜><｜User｜>Hello");
    let thinking = [
        "render",
        "--json",
        "--family",
        "v3.1",
        "--thinking",
        "--messages",
        &path,
    ];
    assert!(
        hadal(&thinking).json()["text"]
            .as_str()
            .unwrap()
            .ends_with("<think>")
    );
    hadal(&["render", "--family", "v9", "--messages", &path]).fails(2, &["v9", "v3.1"]);
    hadal(&["render", "--messages", "[1"]).fails(2, &["is not JSON"]);
    hadal(&["render", "--messages", "gone.json"]).fails(1, &["gone.json"]);
}

#[test]
fn perplexity_prefers_english_to_noise() {
    let folder = tempfile::tempdir().unwrap();
    let score = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        hadal(&[
            "perplexity",
            "--device",
            "host",
            "--json",
            "--window",
            "64",
            "--text",
            &path,
        ])
        .json()
    };
    let story = "The old man went to the forest with his three sons, and they came to a house. ";
    let english = score("a.txt", &story.repeat(3));
    let noise = score(
        "b.txt",
        "xq zzv kw jpf qqx wvb zk xjq pf vvk ".repeat(6).as_str(),
    );
    let bits = |json: &serde_json::Value| json["bits_per_byte"].as_f64().unwrap();
    assert!(bits(&english) < bits(&noise), "{english} {noise}");
    assert!(english["tokens"].as_u64().unwrap() > 20);
    assert!(english["nats_per_token"].as_f64().unwrap() > 0.0);
    let empty = folder.path().join("empty.txt");
    std::fs::write(&empty, "").unwrap();
    let path = empty.display().to_string();
    hadal(&["perplexity", "--text", &path]).fails(2, &["is empty"]);
    hadal(&["perplexity", "--text", "gone.txt"]).fails(1, &["gone.txt"]);
}
