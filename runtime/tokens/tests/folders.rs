//! Folders that hold less than they should, or something else under a file's name.

mod common;

use std::path::Path;

use common::{BOS, EOS, tokenizer_config_json, tokenizer_json};
use hadal_tokens::{ChatFamily, RenderOptions, TextModel, Tokenizer, TokensError};
use serde_json::{Value, json};

const FAMILIES: [ChatFamily; 3] = [ChatFamily::V3, ChatFamily::R1, ChatFamily::V3_1];

/// A folder with a tokenizer.json and no other file.
fn tokenizer_alone(json: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    folder
}

fn hi() -> Value {
    json!([{"role": "user", "content": "hi"}])
}

#[test]
fn a_tokenizer_alone_gets_the_special_tokens_of_the_family_that_is_chosen() {
    let (bare, full) = (
        tokenizer_alone(&tokenizer_json()),
        tokenizer_alone(&tokenizer_json()),
    );
    let config = full.path().join("tokenizer_config.json");
    std::fs::write(config, tokenizer_config_json()).unwrap();
    let turns = json!([
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "no"},
        {"role": "user", "content": "why"}]);
    for family in FAMILIES {
        let mut model = TextModel::open(bare.path()).unwrap();
        assert_eq!((model.bos(), model.stop_ids()), (None, &[][..]));
        model.set_chat_family(family).unwrap();
        let prompt = model.render(&turns, &RenderOptions::default()).unwrap();
        assert!(
            prompt.text.starts_with(&format!("{BOS}<｜User｜>hi")),
            "{}",
            prompt.text
        );
        assert!(
            prompt.text.contains(&format!("no{EOS}<｜User｜>why")),
            "{}",
            prompt.text
        );
        let count = |token| prompt.ids.iter().filter(|id| **id == token).count();
        assert_eq!((prompt.ids[0], count(262), count(263)), (262, 1, 1));
        let mut named = TextModel::open(full.path()).unwrap();
        named.set_chat_family(family).unwrap();
        assert_eq!(
            prompt,
            named.render(&turns, &RenderOptions::default()).unwrap()
        );
        // What begins a text and what ends an answer are the same, too.
        assert_eq!((model.bos(), model.stop_ids()), (Some(262), &[263][..]));
        assert_eq!((named.bos(), named.stop_ids()), (Some(262), &[263][..]));
        assert_eq!(model.encode_prompt("h").unwrap(), [262, u32::from(b'h')]);
    }
}

#[test]
fn a_bos_that_the_family_brings_is_never_doubled() {
    let folder = tokenizer_alone(&tokenizer_json());
    let mut model = TextModel::open(folder.path()).unwrap();
    model.set_chat_family(ChatFamily::V3).unwrap();
    let forged = json!([{"role": "system", "content": format!("{BOS}hi")}]);
    let prompt = model.render(&forged, &RenderOptions::default()).unwrap();
    assert!(
        prompt.text.starts_with(&format!("{BOS}hi")),
        "{}",
        prompt.text
    );
}

#[test]
fn a_family_whose_tokens_the_tokenizer_lacks_is_refused_by_name() {
    for (role, token) in [("bos_token", BOS), ("eos_token", EOS)] {
        let mut json = tokenizer_json();
        let added = json["added_tokens"].as_array_mut().unwrap();
        let entry = added.iter_mut().find(|entry| entry["content"] == token);
        entry.unwrap()["content"] = "<s>".into();
        let folder = tokenizer_alone(&json);
        let mut model = TextModel::open(folder.path()).unwrap();
        for family in FAMILIES {
            let error = model.set_chat_family(family).unwrap_err();
            let family = family.name();
            assert_eq!(
                error,
                TokensError::FamilyToken {
                    family,
                    role,
                    token
                }
            );
            assert!(
                error.to_string().contains("tokenizer_config.json"),
                "{error}"
            );
        }
        assert!(!model.has_chat_template() && model.bos().is_none());
        assert_eq!(model.stop_ids(), [0; 0]);
        // A folder that names its own token needs no other.
        let names = json!({ role: "<s>" }).to_string();
        std::fs::write(folder.path().join("tokenizer_config.json"), names).unwrap();
        let mut model = TextModel::open(folder.path()).unwrap();
        model.set_chat_family(ChatFamily::V3_1).unwrap();
        let text = model.render(&hi(), &RenderOptions::default()).unwrap().text;
        let bos = if role == "bos_token" { "<s>" } else { BOS };
        assert!(text.starts_with(&format!("{bos}<｜User｜>hi")), "{text}");
    }
}

const FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Puts something in place of each file; the error names the file and says `why`.
fn refused_in_place_of_each_file(put: impl Fn(&Path), why: &str) {
    for name in FILES {
        let folder = tokenizer_alone(&tokenizer_json());
        let path = folder.path().join(name);
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        put(&path);
        let error = TextModel::open(folder.path()).unwrap_err();
        assert!(matches!(error, TokensError::Read { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(why), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn folders_pipes_devices_and_broken_links_are_refused_in_place_of_any_file() {
    use std::os::unix::fs::symlink;
    let plain = "not a plain file";
    refused_in_place_of_each_file(|path| std::fs::create_dir(path).unwrap(), plain);
    refused_in_place_of_each_file(|path| symlink("/dev/zero", path).unwrap(), plain);
    refused_in_place_of_each_file(
        |path| symlink("/nowhere/blob", path).unwrap(),
        "No such file",
    );
    // A pipe that nobody writes to: opening it would wait for ever.
    let pipe = |path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    refused_in_place_of_each_file(pipe, plain);
}

#[test]
fn files_of_absurd_size_are_refused_without_being_read() {
    // Files with a hole: long, without taking space.
    let long = |path: &Path| {
        std::fs::File::create(path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap()
    };
    refused_in_place_of_each_file(long, "it has 1099511627776 bytes");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    long(&path);
    assert!(matches!(
        Tokenizer::from_file(&path),
        Err(TokensError::Read { .. })
    ));
}
