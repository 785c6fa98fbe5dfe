//! The tokenizer of a GGUF file against the tokenizer.json it was made of.

use std::path::Path;

use hadal_tokens::{GgufText, TextModel};

/// The parts of the published tokenizer.json as a GGUF file has them.
#[test]
fn lists_of_tokens_and_merges_encode_as_the_published_file() {
    let (Ok(path), Ok(golden)) = (
        std::env::var("HADAL_TOKENIZER"),
        std::env::var("HADAL_GOLDEN"),
    ) else {
        eprintln!("not run: the published tokenizer (HADAL_TOKENIZER and HADAL_GOLDEN)");
        return;
    };
    let json = std::fs::read(path).unwrap();
    let cases = Path::new(&golden).join("tokenizer_cases.json");
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(cases).unwrap()).unwrap();
    let published: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let vocab = published["model"]["vocab"].as_object().unwrap();
    let added = published["added_tokens"].as_array().unwrap();
    let id_of = |token: &serde_json::Value| token["id"].as_u64().unwrap() as usize;
    let last = vocab.values().map(|id| id.as_u64().unwrap() as usize);
    let last = last.chain(added.iter().map(id_of)).max().unwrap();
    let mut tokens = vec![""; last + 1];
    let mut types = vec![1; last + 1];
    for (token, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = token;
    }
    for token in added {
        tokens[id_of(token)] = token["content"].as_str().unwrap();
        types[id_of(token)] = if token["special"] == true { 3 } else { 4 };
    }
    let merges = published["model"]["merges"].as_array().unwrap();
    let text = GgufText {
        model: "gpt2",
        pre: "deepseek-v3",
        tokens,
        types,
        merges: merges.iter().map(|merge| merge.as_str().unwrap()).collect(),
        bos: Some(0),
        stops: vec![1],
        ..GgufText::default()
    };
    let model = TextModel::from_gguf(&text).unwrap();
    assert_eq!(model.bos(), Some(0));
    assert_eq!(model.stop_ids(), [1]);
    for case in cases["cases"].as_array().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let text = case["text"].as_str().unwrap();
        assert_eq!(model.tokenizer().encode(text).unwrap(), ids, "{text:?}");
    }
}

#[test]
fn every_rule_is_a_valid_pattern() {
    for pre in ["deepseek-v3", "deepseek-llm", "glm4", "kimi-k2", "gpt-2"] {
        let text = GgufText {
            model: "gpt2",
            pre,
            tokens: vec!["a", "b", "ab", "Ġ", "1"],
            types: vec![1; 5],
            merges: vec!["a b", "a z"],
            ..GgufText::default()
        };
        let model = TextModel::from_gguf(&text).unwrap();
        assert_eq!(
            model.tokenizer().encode("ab 1").unwrap(),
            [2, 3, 4],
            "{pre}"
        );
    }
}

#[test]
fn unknown_tokenizers_are_refused_by_name() {
    for (model, pre, wanted) in [
        ("llama", "gpt-2", "\"llama\""),
        ("gpt2", "bloom", "\"bloom\""),
    ] {
        let text = GgufText {
            model,
            pre,
            ..GgufText::default()
        };
        let error = TextModel::from_gguf(&text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn what_is_wrong_is_named_by_the_key_of_the_file() {
    let listed = GgufText {
        model: "gpt2",
        pre: "gpt-2",
        tokens: vec!["a", "b"],
        types: vec![1; 2],
        merges: vec!["ab"],
        ..GgufText::default()
    };
    let whole = GgufText {
        tokenizer_json: Some("{"),
        ..listed.clone()
    };
    let other = GgufText {
        tokenizer_json: Some(include_str!("../../../models/tiny/tokenizer.json")),
        tokens: vec!["<none>"],
        bos: Some(0),
        ..listed
    };
    for (text, wanted) in [
        (whole, "EOF while parsing"),
        (other, "bos_token \"<none>\" of tokenizer.ggml"),
    ] {
        let error = TextModel::from_gguf(&text).unwrap_err().to_string();
        let named = error.starts_with("tokenizer.huggingface.json of the GGUF file is not usable");
        assert!(named && error.contains(wanted), "{error}");
    }
}
