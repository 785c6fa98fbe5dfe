//! Chat templates, system messages and full contexts: `chat` and `run --chat`.

mod common;

use common::{hadal, hadal_with_input};

/// A folder with the model inside the program, so that its text files can be changed.
fn tiny_without_template(folder: &std::path::Path) -> String {
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(hadal_tiny::TOKENIZER_CONFIG).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    write("tokenizer_config.json", config.to_string().as_bytes());
    write("tokenizer.json", hadal_tiny::TOKENIZER);
    write("config.json", hadal_tiny::CONFIG.as_bytes());
    write("model.safetensors", hadal_tiny::WEIGHTS);
    folder.display().to_string()
}

#[test]
fn a_missing_template_can_be_chosen_where_it_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_without_template(folder.path());
    let base = ["run", "--model", &model, "--device", "host", "-t", "0"];
    let ask = |more: &[&str]| {
        hadal(&[&base[..], &["-n", "12", "--json", "--chat", "Why?"], more].concat())
    };
    ask(&[]).fails(1, &["no chat template", "--family v3, r1 or v3.1"]);
    let tokens = |more: &[&str]| ask(more).json()["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&["--family", "v3", "--system", "Be brief."]) > tokens(&["--family", "v3"]));
    // The prompts differ in one token, so it is the answers that tell.
    let answer = |option: &str| ask(&["--family", "v3.1", option]).json()["ids"].clone();
    assert_ne!(answer("--thinking"), answer("--no-thinking"));
    let chat = ["chat", "--model", &model, "--device", "host", "-n", "2"];
    let chat = [&chat[..], &["--no-history", "--family", "r1"]].concat();
    let ran = hadal_with_input(&chat, "Why?\n");
    ran.text();
    assert!(ran.err.contains("is listening"), "{}", ran.err);
}

#[test]
fn options_of_a_conversation_need_one() {
    for option in [
        &["--system", "x"][..],
        &["--family", "v3"],
        &["--thinking"],
        &["--no-thinking"],
    ] {
        hadal(&[&["run", "Once"], option].concat()).fails(2, &[option[0], "needs --chat"]);
    }
    hadal(&["chat", "--story", "--family", "v3"]).fails(2, &["--story", "--family"]);
    let told = hadal(&["chat", "--thinking", "--device", "host"]);
    assert!(told.err.contains("--thinking is for chats"), "{}", told.err);
    hadal(&["run", "--chat", "--family", "v9", "Once"]).fails(2, &["v9", "v3.1"]);
}

#[test]
fn a_full_conversation_tells_the_way_out() {
    let args = ["chat", "--device", "host", "--no-history", "--ignore-end"];
    let full = |context: &str| {
        let args = [&args[..], &["--context", context, "-n", "5000"]].concat();
        hadal_with_input(&args, "Once upon a time\nThen\nThen\n/clear\nOnce\n")
    };
    let ran = full("24");
    ran.text();
    assert!(ran.err.contains("the context is full"), "{}", ran.err);
    assert_eq!(
        ran.err.matches("/clear begins a new").count(),
        4,
        "{}",
        ran.err
    );
    assert!(ran.err.contains("the context holds 24"), "{}", ran.err);
    assert!(ran.err.contains("hadal chat --context 2048"), "{}", ran.err);
    assert_eq!(ran.err.matches("tokens/s").count(), 2, "{}", ran.err);
}

#[test]
fn commands_of_a_chat_are_answered_however_quiet_it_is() {
    let args = ["chat", "--device", "host", "--no-history", "-q"];
    let ran = hadal_with_input(&args, "/help\n/clear\n/system x\n");
    assert_eq!(ran.text(), "");
    for part in ["/retry", "forgotten", "a new conversation"] {
        assert!(ran.err.contains(part), "{part:?} is not in {:?}", ran.err);
    }
    assert!(!ran.err.contains("device"), "{}", ran.err);
}

#[test]
fn a_character_that_the_limit_cuts_is_not_shown() {
    // The first token of a character of three bytes, forced by its bias.
    let ids = hadal(&["tokenize", "--json", "€"]).json();
    let first = ids["ids"][0].as_u64().unwrap();
    assert!(ids["count"].as_u64() > Some(1), "{ids}");
    let bias = format!("{first}=1000");
    let base = ["run", "--device", "host", "-t", "0", "--logit-bias", &bias];
    let run = |more: &[&str]| hadal(&[&base[..], more, &["Once"]].concat());
    assert_eq!(run(&["-n", "1"]).text(), "\n");
    assert_eq!(run(&["-n", "1", "--json"]).json()["text"], "");
    // Bytes that can no longer become a character are told as before.
    assert_eq!(run(&["-n", "3"]).text(), "\u{FFFD}\u{FFFD}\n");
    assert_eq!(
        run(&["-n", "3", "--json"]).json()["text"],
        "\u{FFFD}\u{FFFD}"
    );
}
