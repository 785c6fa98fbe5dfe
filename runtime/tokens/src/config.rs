//! tokenizer_config.json and generation_config.json: the few fields that matter for text.
//!
//! Decides which spellings of those files are understood; it must not know the vocabulary.
//! Unknown fields are ignored, known ones of a wrong type are refused by name.

use serde::Deserialize;
use serde_json::Value;

use crate::SamplingOptions;
use crate::error::{Result, TokensError};

/// What tokenizer_config.json says about text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizerConfig {
    /// Text of the token that begins a document.
    pub bos_token: Option<String>,
    /// Text of the token that ends an answer.
    pub eos_token: Option<String>,
    /// Whether the publisher's tool adds BOS by itself. Kept for reports only: copies of the
    /// same model disagree about it, and [`crate::TextModel`] adds BOS whenever there is one.
    pub add_bos_token: Option<bool>,
    /// Source of the chat template; of several named ones, the one called "default".
    pub chat_template: Option<String>,
}

/// What generation_config.json recommends.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct GenerationConfig {
    /// Id of BOS.
    #[serde(default)]
    pub bos_token_id: Option<u32>,
    /// Ids that end an answer; a single number in the file is a list of one.
    #[serde(default, rename = "eos_token_id", deserialize_with = "one_or_many")]
    pub eos_token_ids: Vec<u32>,
    /// False recommends greedy decoding.
    #[serde(default)]
    pub do_sample: Option<bool>,
    /// Recommended temperature.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Recommended nucleus.
    #[serde(default)]
    pub top_p: Option<f32>,
    /// Recommended number of candidates.
    #[serde(default)]
    pub top_k: Option<u32>,
}

/// What the model family's publishers recommend where a checkpoint says nothing.
const TEMPERATURE: f32 = 0.6;
const TOP_P: f32 = 0.95;

impl GenerationConfig {
    /// The recommended way to choose tokens; that of the family where the file says nothing.
    #[must_use]
    pub fn sampling(&self) -> SamplingOptions {
        let silent = self.temperature.is_none() && self.top_p.is_none();
        let (temperature, top_p) = match self.do_sample {
            Some(false) => (0.0, 1.0),
            _ if silent => (TEMPERATURE, TOP_P),
            _ => (self.temperature.unwrap_or(1.0), self.top_p.unwrap_or(1.0)),
        };
        SamplingOptions {
            temperature,
            top_k: self.top_k.unwrap_or(0),
            top_p,
            ..SamplingOptions::default()
        }
    }
}

#[derive(Deserialize)]
struct RawTokenizerConfig {
    #[serde(default)]
    bos_token: Option<RawToken>,
    #[serde(default)]
    eos_token: Option<RawToken>,
    #[serde(default)]
    add_bos_token: Option<bool>,
    #[serde(default)]
    chat_template: Option<RawTemplate>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a token must be a string or an object with `content`"
)]
enum RawToken {
    Text(String),
    Object { content: String },
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "chat_template must be a string or a list of {name, template}"
)]
enum RawTemplate {
    Source(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl RawToken {
    fn into_text(self) -> String {
        match self {
            RawToken::Text(text) | RawToken::Object { content: text } => text,
        }
    }
}

impl RawTemplate {
    /// The source to use: the one named "default", else the only one.
    fn into_source(self) -> Option<String> {
        match self {
            RawTemplate::Source(source) => Some(source),
            RawTemplate::Named(mut named) => {
                let at = named.iter().position(|t| t.name == "default");
                match (at, named.len()) {
                    (Some(at), _) => Some(named.swap_remove(at).template),
                    (None, 1) => named.pop().map(|t| t.template),
                    _ => None,
                }
            }
        }
    }
}

impl TokenizerConfig {
    /// Reads the content of a tokenizer_config.json.
    ///
    /// # Errors
    /// [`TokensError::Malformed`].
    pub fn from_bytes(json: &[u8]) -> Result<TokenizerConfig> {
        let raw: RawTokenizerConfig = parse("tokenizer_config.json", json)?;
        Ok(TokenizerConfig {
            bos_token: raw.bos_token.map(RawToken::into_text),
            eos_token: raw.eos_token.map(RawToken::into_text),
            add_bos_token: raw.add_bos_token,
            chat_template: raw.chat_template.and_then(RawTemplate::into_source),
        })
    }
}

impl GenerationConfig {
    /// Reads the content of a generation_config.json.
    ///
    /// # Errors
    /// [`TokensError::Malformed`].
    pub fn from_bytes(json: &[u8]) -> Result<GenerationConfig> {
        parse("generation_config.json", json)
    }
}

/// The template in a chat_template.json, the form some publishers use beside the .jinja file.
pub(crate) fn template_from_json(json: &[u8]) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct File {
        chat_template: RawTemplate,
    }
    let file: File = parse("chat_template.json", json)?;
    Ok(file.chat_template.into_source())
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| TokensError::Malformed {
        file: file.into(),
        why: error.to_string(),
    })
}

fn one_or_many<'de, D>(deserializer: D) -> std::result::Result<Vec<u32>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    use serde::de::Error;
    let id = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| D::Error::custom("eos_token_id must be an id or a list of ids"))
    };
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(ids) => ids.iter().map(id).collect(),
        single => Ok(vec![id(&single)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_strings_and_as_objects() {
        let json = r#"{"bos_token": {"__type": "AddedToken", "content": "<s>"},
            "eos_token": "</s>", "add_bos_token": false, "unk_token": null, "other": [1]}"#;
        let config = TokenizerConfig::from_bytes(json.as_bytes()).unwrap();
        assert_eq!(config.bos_token.as_deref(), Some("<s>"));
        assert_eq!(config.eos_token.as_deref(), Some("</s>"));
        assert_eq!(config.add_bos_token, Some(false));
        assert_eq!(config.chat_template, None);
    }

    #[test]
    fn of_named_templates_the_default_one_is_taken() {
        let json = r#"{"chat_template": [{"name": "tool_use", "template": "T"},
            {"name": "default", "template": "D"}]}"#;
        let config = TokenizerConfig::from_bytes(json.as_bytes()).unwrap();
        assert_eq!(config.chat_template.as_deref(), Some("D"));
        assert_eq!(
            template_from_json(br#"{"chat_template": "X"}"#).unwrap(),
            Some("X".into())
        );
    }

    #[test]
    fn one_end_id_and_several_are_understood() {
        let ids =
            |json: &str| GenerationConfig::from_bytes(json.as_bytes()).map(|c| c.eos_token_ids);
        assert_eq!(ids(r#"{"eos_token_id": 1}"#).unwrap(), [1]);
        assert_eq!(ids(r#"{"eos_token_id": [1, 5]}"#).unwrap(), [1, 5]);
        assert_eq!(ids(r#"{"eos_token_id": null}"#).unwrap(), [0u32; 0]);
        assert_eq!(ids("{}").unwrap(), [0u32; 0]);
        assert!(ids(r#"{"eos_token_id": -1}"#).is_err());
    }

    #[test]
    fn a_wrong_type_is_refused_with_the_name_of_the_file() {
        let error = TokenizerConfig::from_bytes(br#"{"bos_token": 3}"#).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("tokenizer_config.json"), "{text}");
        assert!(text.contains("a token must be"), "{text}");
    }
}
