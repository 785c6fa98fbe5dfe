//! The text side of a GGUF file: its lists of tokens and merges as a tokenizer.json.
//!
//! Decides how a file's name of a splitting rule (`tokenizer.ggml.pre`) is understood; knows
//! no files. A file that carries its tokenizer.json whole is read from that.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::config::GenerationConfig;
use crate::error::{Result, TokensError};
use crate::model::TextModel;

/// What the metadata of a GGUF file says about text (`tokenizer.*`).
#[derive(Clone, Debug, Default)]
pub struct GgufText<'m> {
    /// `tokenizer.huggingface.json`: the whole tokenizer.json.
    pub tokenizer_json: Option<&'m str>,
    /// `tokenizer.ggml.model`: the kind of tokenizer.
    pub model: &'m str,
    /// `tokenizer.ggml.pre`: the rule by which text is split before merging.
    pub pre: &'m str,
    /// `tokenizer.ggml.tokens`, in the alphabet of byte-level tokenizers.
    pub tokens: Vec<&'m str>,
    /// `tokenizer.ggml.token_type`.
    pub types: Vec<u64>,
    /// `tokenizer.ggml.merges`.
    pub merges: Vec<&'m str>,
    /// `tokenizer.ggml.bos_token_id`, unless `add_bos_token` is false.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`, `eot_token_id` and `eom_token_id`: what ends an answer.
    pub stops: Vec<u32>,
    /// `tokenizer.chat_template`.
    pub template: Option<&'m str>,
}

/// Types of tokens: control tokens, which are special, and those that users added.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

impl TextModel {
    /// Tokenizer and chat template of a GGUF file.
    ///
    /// # Errors
    /// [`TokensError::Unsupported`] for other than byte-level BPE and for a splitting rule that
    /// nobody knows; those of [`TextModel::from_bytes`].
    pub fn from_gguf(text: &GgufText<'_>) -> Result<TextModel> {
        let json = match text.tokenizer_json {
            Some(json) => json.to_string(),
            None => text.tokenizer_json()?.to_string(),
        };
        let token = |id: Option<u32>| text.tokens.get(id? as usize).copied();
        let config = json!({
            "bos_token": token(text.bos),
            "eos_token": token(text.stops.first().copied()),
        });
        let config = config.to_string();
        let model = TextModel::from_bytes(json.as_bytes(), Some(config.as_bytes()), text.template);
        let mut model = model.map_err(|error| text.in_metadata(error))?;
        model.set_generation(GenerationConfig {
            eos_token_ids: text.stops.clone(),
            ..GenerationConfig::default()
        });
        Ok(model)
    }
}

impl GgufText<'_> {
    /// The error, with the key of the file in the place of files that are not there.
    fn in_metadata(&self, error: TokensError) -> TokensError {
        let why = match error {
            TokensError::Malformed { why, .. } => why,
            TokensError::UnknownToken { role, token } => {
                format!("it does not have the {role} {token:?} of tokenizer.ggml")
            }
            other => return other,
        };
        let key = match self.tokenizer_json {
            Some(_) => "tokenizer.huggingface.json",
            None => "tokenizer.ggml",
        };
        let file = format!("{key} of the GGUF file");
        TokensError::Malformed { file, why }
    }

    fn tokenizer_json(&self) -> Result<Value> {
        if self.model != "gpt2" {
            let what = format!("the tokenizer model {:?} of a GGUF file", self.model);
            return Err(TokensError::Unsupported { what });
        }
        let mut splits: Vec<Value> = rule(self.pre)?.iter().map(|regex| split(regex)).collect();
        splits.push(byte_level());
        let mut vocabulary = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            // Of padding that repeats a text, the first keeps it.
            vocabulary.entry(*token).or_insert_with(|| id.into());
        }
        let known: HashSet<&str> = self.tokens.iter().copied().collect();
        let merges = self.merges.iter().filter(|merge| {
            let parts = merge.split_once(' ');
            parts.is_some_and(|(a, b)| {
                let joined = format!("{a}{b}");
                known.contains(a) && known.contains(b) && known.contains(joined.as_str())
            })
        });
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added(),
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
            "post_processor": null,
            "decoder": byte_level(),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false,
                "vocab": vocabulary, "merges": merges.collect::<Vec<_>>(),
            },
        }))
    }

    fn added(&self) -> Vec<Value> {
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        let added = tokens.filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED));
        let entry = |(id, (token, kind)): (usize, (&&str, &u64))| {
            json!({
                "id": id, "content": token, "special": *kind == CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        added.map(entry).collect()
    }
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// Digits by three.
const DIGITS: &str = r"\p{N}{1,3}";
/// What GPT-4's tokenizer and its relatives end with.
const GPT4_TAIL: &str = r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The splitting rule of this name, as published in the tokenizer.json of its models.
fn rule(pre: &str) -> Result<Vec<String>> {
    let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    Ok(match pre {
        "deepseek-v3" | "deepseek-r1-qwen" => vec![
            DIGITS.into(),
            "[一-龥\u{3040}-ゟ゠-ヿ]+".into(),
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?\
             [\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
                .into(),
        ],
        "deepseek-llm" => vec![
            "[\r\n]".into(),
            "\\s?\\p{L}+".into(),
            "\\s?\\p{P}+".into(),
            "[一-龥\u{0800}-一가-\u{d7ff}]+".into(),
            "\\p{N}".into(),
        ],
        "glm4" | "chatglm-bpe" | "llama-bpe" => {
            vec![format!(
                r"{contractions}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+{GPT4_TAIL}"
            )]
        }
        "kimi-k2" => {
            let lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]";
            let upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]";
            let lead = r"[^\r\n\p{L}\p{N}]?";
            vec![format!(
                r"[\p{{Han}}]+|{lead}{upper}*{lower}+{contractions}?|{lead}{upper}+{lower}*{contractions}?{GPT4_TAIL}"
            )]
        }
        "gpt-2" | "default" => {
            vec![
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
                    .into(),
            ]
        }
        _ => {
            let what = format!(
                "the splitting rule {pre:?} of a GGUF file (deepseek-v3, deepseek-llm, kimi-k2, \
                 glm4 and gpt-2 are known)"
            );
            return Err(TokensError::Unsupported { what });
        }
    })
}
