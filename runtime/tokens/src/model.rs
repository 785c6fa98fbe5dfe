//! Everything a checkpoint folder says about text.
//!
//! Decides which files are read and which of them wins; it must not know weights. Its one type
//! is [`TextModel`].

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::chat::{ChatFamily, ChatTemplate, RenderOptions, Rendered};
use crate::config::{GenerationConfig, TokenizerConfig, template_from_json};
use crate::error::{Result, TokensError};
use crate::tokenizer::Tokenizer;

/// Largest tokenizer.json; the largest published one has 33 MB.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Largest of the other files; published ones have at most a few hundred kilobytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Tokenizer, special tokens and chat template of one model.
#[derive(Debug, Clone)]
pub struct TextModel {
    tokenizer: Tokenizer,
    config: TokenizerConfig,
    generation: GenerationConfig,
    bos: Option<u32>,
    stop_ids: Vec<u32>,
    template: Option<ChatTemplate>,
}

impl TextModel {
    /// Reads a checkpoint folder: tokenizer.json, and where they exist tokenizer_config.json,
    /// generation_config.json and chat_template.jinja or chat_template.json, which win over
    /// the template in tokenizer_config.json.
    ///
    /// # Errors
    /// [`TokensError::MissingTokenizer`], [`TokensError::Read`], and those of
    /// [`TextModel::from_bytes`].
    pub fn open(folder: &Path) -> Result<TextModel> {
        let path = folder.join("tokenizer.json");
        if !is_there(&path) {
            return Err(missing_tokenizer(folder));
        }
        let tokenizer_json = read_bounded(&path, MAX_TOKENIZER_BYTES)?;
        let config = read_optional(&folder.join("tokenizer_config.json"))?;
        let generation = read_optional(&folder.join("generation_config.json"))?;
        let template = match read_optional(&folder.join("chat_template.jinja"))? {
            Some(bytes) => Some(utf8("chat_template.jinja", bytes)?),
            None => match read_optional(&folder.join("chat_template.json"))? {
                Some(bytes) => template_from_json(&bytes)?,
                None => None,
            },
        };
        let mut model =
            TextModel::from_bytes(&tokenizer_json, config.as_deref(), template.as_deref())?;
        if let Some(bytes) = generation {
            model.set_generation(GenerationConfig::from_bytes(&bytes)?);
        }
        Ok(model)
    }

    /// Builds the model from the contents of its files. `template` wins over the one in
    /// `tokenizer_config_json`.
    ///
    /// # Errors
    /// Those of [`Tokenizer::from_bytes`]; [`TokensError::Malformed`];
    /// [`TokensError::UnknownToken`] if the configuration names a token that does not exist;
    /// [`TokensError::Template`].
    pub fn from_bytes(
        tokenizer_json: &[u8],
        tokenizer_config_json: Option<&[u8]>,
        template: Option<&str>,
    ) -> Result<TextModel> {
        let config = match tokenizer_config_json {
            Some(json) => TokenizerConfig::from_bytes(json)?,
            None => TokenizerConfig::default(),
        };
        let tokenizer = Tokenizer::from_bytes(tokenizer_json)?;
        let bos = special_id(&tokenizer, "bos_token", config.bos_token.as_deref())?;
        let eos = special_id(&tokenizer, "eos_token", config.eos_token.as_deref())?;
        let mut model = TextModel {
            tokenizer,
            config,
            generation: GenerationConfig::default(),
            bos,
            stop_ids: eos.into_iter().collect(),
            template: None,
        };
        if let Some(source) = template.or(model.config.chat_template.as_deref()) {
            let token = |token: &Option<String>| token.clone().unwrap_or_default();
            let (bos, eos) = (
                token(&model.config.bos_token),
                token(&model.config.eos_token),
            );
            model.template = Some(ChatTemplate::new(source, &bos, &eos)?);
        }
        Ok(model)
    }

    /// Uses the built-in template of `family`, also over the checkpoint's own. Where
    /// tokenizer_config.json names no BOS or no token that ends an answer, or is missing, the
    /// family's own are used, for plain prompts and [`TextModel::stop_ids`] too.
    ///
    /// # Errors
    /// [`TokensError::FamilyToken`] if the tokenizer does not have one that is needed; the
    /// model stays as it was.
    pub fn set_chat_family(&mut self, family: ChatFamily) -> Result<()> {
        let token = |own: &Option<String>, role: &'static str, published: &'static str| {
            if let Some(own) = own {
                return Ok((own.clone(), None));
            }
            let id = self.tokenizer.token_id(published);
            let id = id.ok_or(TokensError::FamilyToken {
                family: family.name(),
                role,
                token: published,
            })?;
            Ok((published.to_owned(), Some(id)))
        };
        let (bos, bos_id) = token(&self.config.bos_token, "bos_token", ChatFamily::BOS)?;
        let (eos, eos_id) = token(&self.config.eos_token, "eos_token", ChatFamily::EOS)?;
        self.template = Some(ChatTemplate::new(family.template(), &bos, &eos)?);
        self.bos = self.bos.or(bos_id);
        self.add_stop_ids(eos_id.as_slice());
        Ok(())
    }

    /// Takes the recommendations of a generation_config.json; its end ids join
    /// [`TextModel::stop_ids`].
    pub fn set_generation(&mut self, generation: GenerationConfig) {
        self.add_stop_ids(&generation.eos_token_ids);
        self.generation = generation;
    }

    fn add_stop_ids(&mut self, ids: &[u32]) {
        for &id in ids {
            if !self.stop_ids.contains(&id) {
                self.stop_ids.push(id);
            }
        }
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What tokenizer_config.json says.
    #[must_use]
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// What generation_config.json recommends.
    #[must_use]
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Id of the token that begins a document, where the model has one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Ids that end an answer.
    #[must_use]
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Whether [`TextModel::render`] has a template to use.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The ids of a text to be continued: exactly one BOS in front, where the model has BOS.
    ///
    /// # Errors
    /// [`TokensError::Encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        match self.bos {
            Some(bos) => self.tokenizer.encode_with_bos(text, bos),
            None => self.tokenizer.encode(text),
        }
    }

    /// The prompt of a conversation (see [`ChatTemplate::render`]). The template decides
    /// whether there is a BOS; it is never doubled.
    ///
    /// # Errors
    /// [`TokensError::NoChatTemplate`]; those of [`ChatTemplate::render`];
    /// [`TokensError::Encode`].
    pub fn render(&self, messages: &Value, options: &RenderOptions) -> Result<Rendered> {
        let template = self.template.as_ref().ok_or(TokensError::NoChatTemplate)?;
        let mut text = template.render(messages, options)?;
        let bos = template.bos_token();
        if !bos.is_empty() {
            // A conversation that begins with the written-out token would have it twice.
            while text
                .strip_prefix(bos)
                .is_some_and(|rest| rest.starts_with(bos))
            {
                text.drain(..bos.len());
            }
        }
        let ids = self.tokenizer.encode(&text)?;
        Ok(Rendered { text, ids })
    }
}

fn special_id(
    tokenizer: &Tokenizer,
    role: &'static str,
    token: Option<&str>,
) -> Result<Option<u32>> {
    let Some(token) = token else { return Ok(None) };
    match tokenizer.token_id(token) {
        Some(id) => Ok(Some(id)),
        None => Err(TokensError::UnknownToken {
            role,
            token: token.to_owned(),
        }),
    }
}

fn missing_tokenizer(folder: &Path) -> TokensError {
    let cure = if !folder.is_dir() {
        "it is not a folder that can be read; give the folder of a checkpoint".to_owned()
    } else if folder.join("tiktoken.model").is_file() {
        "it has the same vocabulary as tiktoken.model only; convert it once with \
         transformers.integrations.tiktoken.convert_tiktoken_to_fast (Python), or take \
         tokenizer.json from a copy of the model that has it, and put it beside config.json"
            .to_owned()
    } else {
        "take it from the model's publisher and put it beside config.json".to_owned()
    };
    TokensError::MissingTokenizer {
        folder: folder.to_owned(),
        cure,
    }
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    if is_there(path) {
        read_bounded(path, MAX_CONFIG_BYTES).map(Some)
    } else {
        Ok(None)
    }
}

/// Whether there is anything of this name, also what cannot be read: leaving that out would
/// change prompts silently.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The content of a plain file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = |why: String| TokensError::Read {
        path: path.to_owned(),
        why,
    };
    let io = |error: std::io::Error| failed(error.to_string());
    let plain = |meta: Metadata| match meta.is_file() {
        true => Ok(meta.len()),
        false => Err(failed("it is not a plain file".to_owned())),
    };
    let too_large = |bytes: u64| {
        failed(format!(
            "it has {bytes} bytes or more, and {limit} are allowed"
        ))
    };
    // Asked before opening: opening a pipe waits for a writer that may never come. Asked
    // again after it, since the name may stand for another file by then.
    plain(std::fs::metadata(path).map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    let length = plain(file.metadata().map_err(io)?)?;
    if length > limit {
        return Err(too_large(length));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

fn utf8(file: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| TokensError::Malformed {
        file: file.into(),
        why: error.to_string(),
    })
}
