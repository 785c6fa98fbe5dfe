//! The text side of a checkpoint under the keys of GGUF.
//!
//! Decides the types of tokens and the name of the splitting rule. The lists serve readers of
//! the format; the whole tokenizer.json goes along, so that nothing is lost.

use hadal_models::Config;
use hadal_weights::{GgufValue, Metadata};
use serde_json::Value as Json;

use crate::file::Value;
use crate::{QuantizeError, Result};

/// Files of a checkpoint that say how text becomes ids.
#[derive(Clone, Debug, Default)]
pub struct TextFiles {
    /// tokenizer.json.
    pub tokenizer: String,
    /// The chat template.
    pub template: Option<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end an answer, of which the format has room for three.
    pub stops: Vec<u32>,
}

/// Types of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Ids beyond this come from a damaged file.
const MAX_IDS: u64 = 1 << 22;

impl TextFiles {
    /// The keys of a model with this configuration.
    ///
    /// # Errors
    /// tokenizer.json is no byte-level BPE.
    pub fn keys(&self, config: &Config) -> Result<Vec<(String, Value)>> {
        let json: Json = serde_json::from_str(&self.tokenizer)
            .map_err(|error| QuantizeError::Text(error.to_string()))?;
        let (tokens, types) = tokens(&json, config.vocab_size)?;
        let merges = merges(&json)?;
        let mut keys = Vec::new();
        let mut put = |key: &str, value| keys.push((format!("tokenizer.{key}"), value));
        put("ggml.model", Value::Text("gpt2".into()));
        put("ggml.pre", Value::Text(rule(&json).into()));
        let padding = tokens.iter().position(|token| token.contains("pad▁"));
        put("ggml.tokens", Value::Texts(tokens));
        put("ggml.token_type", Value::Numbers(types));
        put("ggml.merges", Value::Texts(merges));
        if let Some(bos) = self.bos {
            put("ggml.bos_token_id", Value::U32(bos));
        }
        let names = [
            "ggml.eos_token_id",
            "ggml.eot_token_id",
            "ggml.eom_token_id",
        ];
        for (name, id) in names.into_iter().zip(&self.stops) {
            put(name, Value::U32(*id));
        }
        if let Some(padding) = padding {
            put("ggml.padding_token_id", Value::U32(padding as u32));
        }
        put("ggml.add_bos_token", Value::Flag(self.bos.is_some()));
        if let Some(template) = &self.template {
            put("chat_template", Value::Text(template.clone()));
        }
        put("huggingface.json", Value::Text(self.tokenizer.clone()));
        Ok(keys)
    }
}

/// The text side of a GGUF file, key by key.
///
/// # Errors
/// A value of a type that no tokenizer has.
pub fn text_keys(metadata: &Metadata) -> Result<Vec<(String, Value)>> {
    let own = metadata
        .0
        .iter()
        .filter(|(key, _)| key.starts_with("tokenizer."));
    own.map(|(key, value)| match copied(value) {
        Some(value) => Ok((key.clone(), value)),
        None => Err(QuantizeError::Key(key.clone())),
    })
    .collect()
}

fn copied(value: &GgufValue) -> Option<Value> {
    Some(match value {
        GgufValue::Unsigned(number) => Value::U32((*number).try_into().ok()?),
        GgufValue::Signed(number) => Value::I32((*number).try_into().ok()?),
        GgufValue::Float(number) => Value::F32(*number as f32),
        GgufValue::Flag(flag) => Value::Flag(*flag),
        GgufValue::Text(text) => Value::Text(text.clone()),
        GgufValue::List(list) => match list.first() {
            Some(GgufValue::Text(_)) => {
                let text = |it: &GgufValue| it.as_text().map(str::to_string);
                Value::Texts(list.iter().map(text).collect::<Option<_>>()?)
            }
            Some(GgufValue::Float(_)) => {
                let real = |it: &GgufValue| it.as_real().map(|real| real as f32);
                Value::Reals(list.iter().map(real).collect::<Option<_>>()?)
            }
            _ => {
                let number = |it: &GgufValue| match *it {
                    GgufValue::Unsigned(number) => number.try_into().ok(),
                    GgufValue::Signed(number) => number.try_into().ok(),
                    _ => None,
                };
                Value::Numbers(list.iter().map(number).collect::<Option<_>>()?)
            }
        },
    })
}

/// Every token by its id, one for each row of the embedding, and its type.
fn tokens(json: &Json, rows: u32) -> Result<(Vec<String>, Vec<i32>)> {
    let missing = || QuantizeError::Text("it has no model.vocab".into());
    let vocabulary = json["model"]["vocab"].as_object().ok_or_else(missing)?;
    let base = vocabulary
        .iter()
        .map(|(token, id)| (id.as_u64(), token.as_str(), NORMAL));
    let added = json["added_tokens"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let added = added.iter().map(|entry| {
        let kind = match entry["special"].as_bool() {
            Some(true) => CONTROL,
            _ => USER_DEFINED,
        };
        (
            entry["id"].as_u64(),
            entry["content"].as_str().unwrap_or_default(),
            kind,
        )
    });
    let all: Vec<(u64, &str, i32)> = base
        .chain(added)
        .map(|(id, token, kind)| {
            let id = id.filter(|id| *id < MAX_IDS);
            let why = || QuantizeError::Text(format!("token {token:?} has no usable id"));
            Ok((id.ok_or_else(why)?, token, kind))
        })
        .collect::<Result<_>>()?;
    let most = all.iter().map(|(id, ..)| id + 1).max().unwrap_or(0);
    let count = most.max(u64::from(rows)) as usize;
    // Rows that stand for nothing, as other writers name them.
    let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; count];
    for (id, token, kind) in all {
        tokens[id as usize] = token.to_string();
        types[id as usize] = kind;
    }
    Ok((tokens, types))
}

/// Merges in order, each as two parts with a space between them; newer files have pairs.
fn merges(json: &Json) -> Result<Vec<String>> {
    let missing = || QuantizeError::Text("it has no model.merges".into());
    let list = json["model"]["merges"].as_array().ok_or_else(missing)?;
    let merge = |entry: &Json| match (entry, entry[0].as_str(), entry[1].as_str()) {
        (Json::String(text), ..) => Some(text.clone()),
        (_, Some(a), Some(b)) => Some(format!("{a} {b}")),
        _ => None,
    };
    let merges: Option<Vec<String>> = list.iter().map(merge).collect();
    merges.ok_or_else(missing)
}

/// The name that GGUF files give the splitting rule of this tokenizer.
fn rule(json: &Json) -> &'static str {
    let rule = json["pre_tokenizer"].to_string();
    // Parts that only one of the rules has.
    if rule.contains("p{Han}") {
        "kimi-k2"
    } else if rule.contains("ゟ゠-ヿ") && rule.contains("{1,3}") {
        "deepseek-v3"
    } else if rule.contains("p{P}+") && rule.contains("\\\\s?") {
        "deepseek-llm"
    } else if rule.contains("(?i:'s|'t") && rule.contains("{1,3}") {
        "glm4"
    } else {
        "default"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_tokenizer_is_known_by_its_rule() {
        let json: Json = serde_json::from_slice(hadal_tiny::TOKENIZER).unwrap();
        assert_eq!(rule(&json), "deepseek-v3");
        let (tokens, types) = tokens(&json, 4100).unwrap();
        assert_eq!(tokens[0], "<｜begin▁of▁sentence｜>");
        assert_eq!(
            (types[0], types[100], types[4094]),
            (CONTROL, NORMAL, USER_DEFINED)
        );
        assert_eq!((tokens[4099].as_str(), types[4099]), ("[PAD4099]", UNUSED));
        assert!(
            merges(&json)
                .unwrap()
                .iter()
                .all(|merge| merge.contains(' '))
        );
    }
}
