//! The model's own tokenizer.json: text to ids, ids to bytes.
//!
//! Encoding is the `tokenizers` crate's; decoding is a table of bytes made once, so that
//! streamed and whole decoding cannot differ. It must not know chat templates or which tokens
//! a model wants in front: BOS is added by [`Tokenizer::encode_with_bos`] only.

use std::path::Path;
use std::sync::Arc;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{Model, OffsetType, PreTokenizedString, PreTokenizer};

use crate::alphabet;
use crate::error::{Result, TokensError};
use crate::model::{MAX_TOKENIZER_BYTES, read_bounded};
use crate::stream::Stream;

/// Ids beyond this come from a damaged file; the largest published vocabulary has 262,144.
const MAX_IDS: usize = 1 << 22;

/// Longest run of white space that is encoded. The regex engine gives up silently after a
/// million steps back, which patterns like `\s*[\r\n]+` take for a run of that length; runs of
/// 600,000 were measured to be split right.
const MAX_WHITE_SPACE_RUN: usize = 250_000;

/// A byte-level tokenizer. Cloning shares the tables.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    inner: tokenizers::Tokenizer,
    /// The bytes of all tokens one after the other.
    bytes: Vec<u8>,
    /// Entry per id: where its bytes are.
    entries: Vec<Entry>,
    /// Most bytes of a text that become one token; `None` where a normalizer may make it shorter.
    longest: Option<usize>,
}

/// The decoder section of tokenizer.json, read for its being JSON.
#[derive(serde::Deserialize)]
struct Decoder {
    #[serde(rename = "decoder")]
    _decoder: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    start: u32,
    len: u32,
    exists: bool,
    special: bool,
}

/// One token of the vocabulary.
pub(crate) struct Token<'a> {
    /// The bytes it stands for; need not be whole characters.
    pub bytes: &'a [u8],
    /// Marked special in tokenizer.json.
    pub special: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a tokenizer.json.
    ///
    /// # Errors
    /// [`TokensError::Read`], and those of [`Tokenizer::from_bytes`].
    pub fn from_file(path: &Path) -> Result<Tokenizer> {
        Tokenizer::from_bytes(&read_bounded(path, MAX_TOKENIZER_BYTES)?)
    }

    /// Builds a tokenizer from the content of a tokenizer.json.
    ///
    /// # Errors
    /// [`TokensError::Malformed`]; [`TokensError::Unsupported`] for a tokenizer that is not
    /// byte-level.
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Tokenizer> {
        let malformed = |why: String| TokensError::Malformed {
            file: "tokenizer.json".into(),
            why,
        };
        // The `tokenizers` crate panics where the decoder section is no JSON, so it is read
        // here first.
        let _: Decoder =
            serde_json::from_slice(tokenizer_json).map_err(|error| malformed(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer_json)
            .map_err(|error| malformed(error.to_string()))?;
        if !is_byte_level(inner.get_decoder()) {
            return Err(TokensError::Unsupported {
                what: "a decoder other than ByteLevel".into(),
            });
        }
        // Limits written into the file would shorten or pad prompts silently.
        inner
            .with_truncation(None)
            .map_err(|error| malformed(error.to_string()))?;
        inner.with_padding(None);

        let (bytes, entries) = byte_table(&inner)?;
        let is_as_written = match inner.get_normalizer() {
            None => true,
            Some(NormalizerWrapper::Sequence(all)) => all.as_ref().is_empty(),
            Some(_) => false,
        };
        let longest = entries.iter().map(|entry| entry.len as usize).max();
        Ok(Tokenizer {
            shared: Arc::new(Shared {
                inner,
                bytes,
                entries,
                longest: longest.filter(|longest| is_as_written && *longest > 0),
            }),
        })
    }

    /// The ids of `text`, without BOS or any other addition. Added tokens written out in the
    /// text, `<｜User｜>` say, become their ids, as chat templates need it.
    ///
    /// # Errors
    /// [`TokensError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        check_white_space(text)?;
        let encoding = self
            .shared
            .inner
            .encode_fast(text, false)
            .map_err(|error| TokensError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of `text` with exactly one `bos` in front: any the text begins with count, and
    /// are reduced to one.
    ///
    /// # Errors
    /// [`TokensError::Encode`]; [`TokensError::UnknownId`] for `bos`.
    pub fn encode_with_bos(&self, text: &str, bos: u32) -> Result<Vec<u32>> {
        self.token(bos)?;
        let ids = self.encode(text)?;
        let text_ids = ids.into_iter().skip_while(|&id| id == bos);
        Ok(std::iter::once(bos).chain(text_ids).collect())
    }

    /// The ids of `text` taken literally: `<｜User｜>` becomes the ids of its characters, so
    /// that text from users cannot forge a turn.
    ///
    /// # Errors
    /// [`TokensError::Encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        check_white_space(text)?;
        let inner = &self.shared.inner;
        let encode = || -> tokenizers::Result<Vec<u32>> {
            let mut pieces = PreTokenizedString::from(text);
            if let Some(normalizer) = inner.get_normalizer() {
                pieces.normalize(|piece| tokenizers::Normalizer::normalize(normalizer, piece))?;
            }
            if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            pieces.tokenize(|piece| inner.get_model().tokenize(piece.get()))?;
            let encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
            Ok(encoding.get_ids().to_vec())
        };
        encode().map_err(|error| TokensError::Encode(error.to_string()))
    }

    /// The text of `ids`. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TokensError::UnknownId`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_where(ids, |_| true)
    }

    /// As [`Tokenizer::decode`], leaving out the tokens that tokenizer.json marks special.
    ///
    /// # Errors
    /// [`TokensError::UnknownId`].
    pub fn decode_without_special(&self, ids: &[u32]) -> Result<String> {
        self.decode_where(ids, |token| !token.special)
    }

    fn decode_where(&self, ids: &[u32], keep: impl Fn(&Token<'_>) -> bool) -> Result<String> {
        let mut bytes = Vec::new();
        for &id in ids {
            let token = self.token(id)?;
            if keep(&token) {
                bytes.extend_from_slice(token.bytes);
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A detokeniser for ids that come one by one; `skip_special` leaves out the tokens that
    /// tokenizer.json marks special.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> Stream {
        Stream::new(self.clone(), skip_special)
    }

    /// The text of one token; a token that ends inside a character shows U+FFFD there.
    ///
    /// # Errors
    /// [`TokensError::UnknownId`].
    pub fn token_text(&self, id: u32) -> Result<String> {
        Ok(String::from_utf8_lossy(self.token_bytes(id)?).into_owned())
    }

    /// The bytes of one token.
    ///
    /// # Errors
    /// [`TokensError::UnknownId`].
    pub fn token_bytes(&self, id: u32) -> Result<&[u8]> {
        Ok(self.token(id)?.bytes)
    }

    /// The id of the token that is written exactly so in tokenizer.json, such as
    /// `<｜User｜>`. Ordinary tokens are written in the byte alphabet there.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.shared.inner.token_to_id(token)
    }

    /// Whether tokenizer.json marks the token special; false for ids that do not exist.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.token(id).is_ok_and(|token| token.special)
    }

    /// How many tokens a text of so many bytes has at least: it takes seconds to make those of
    /// one that no context holds.
    #[must_use]
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        let longest = self.shared.longest;
        longest.map_or(0, |longest| bytes.div_ceil(longest))
    }

    /// One more than the highest id. Embedding tables may be padded beyond it.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.shared.entries.len()
    }

    pub(crate) fn token(&self, id: u32) -> Result<Token<'_>> {
        let shared = &*self.shared;
        match shared.entries.get(id as usize) {
            Some(entry) if entry.exists => {
                let start = entry.start as usize;
                Ok(Token {
                    bytes: &shared.bytes[start..start + entry.len as usize],
                    special: entry.special,
                })
            }
            _ => Err(TokensError::UnknownId {
                id,
                // from_bytes refuses an empty vocabulary and more than MAX_IDS entries.
                last: (shared.entries.len() - 1) as u32,
            }),
        }
    }
}

fn check_white_space(text: &str) -> Result<()> {
    let mut run = 0;
    for c in text.chars() {
        run = if c.is_whitespace() { run + 1 } else { 0 };
        if run > MAX_WHITE_SPACE_RUN {
            return Err(TokensError::Encode(format!(
                "it has more than {MAX_WHITE_SPACE_RUN} white-space characters in a row; remove some"
            )));
        }
    }
    Ok(())
}

fn is_byte_level(decoder: Option<&DecoderWrapper>) -> bool {
    match decoder {
        Some(DecoderWrapper::ByteLevel(_)) => true,
        Some(DecoderWrapper::Sequence(parts)) => matches!(
            parts.get_decoders(),
            [DecoderWrapper::ByteLevel(_)]
                | [DecoderWrapper::ByteLevel(_), DecoderWrapper::Fuse(_)]
        ),
        _ => false,
    }
}

/// The bytes of every token, and where each id's are.
fn byte_table(inner: &tokenizers::Tokenizer) -> Result<(Vec<u8>, Vec<Entry>)> {
    let malformed = |why: String| TokensError::Malformed {
        file: "tokenizer.json".into(),
        why,
    };
    let vocab = inner.get_vocab(false);
    let added = inner.get_added_tokens_decoder();
    let ids = vocab.values().chain(added.keys());
    let Some(last) = ids.max().map(|&id| id as usize) else {
        return Err(malformed("its vocabulary is empty".into()));
    };
    if last >= MAX_IDS {
        return Err(malformed(format!(
            "it has the token id {last}; at most {MAX_IDS} ids are accepted"
        )));
    }

    let inverse = alphabet::char_to_byte();
    let mut tokens: Vec<Option<(Vec<u8>, bool)>> = vec![None; last + 1];
    for (text, id) in vocab {
        // An entry outside the byte alphabet stands for its own UTF-8, as in `tokenizers`.
        let bytes = alphabet::token_bytes(&text, &inverse).unwrap_or_else(|| text.into_bytes());
        tokens[id as usize] = Some((bytes, false));
    }
    for (id, token) in added {
        tokens[id as usize] = Some((token.content.into_bytes(), token.special));
    }

    let mut bytes = Vec::new();
    let mut entries = Vec::with_capacity(tokens.len());
    for token in tokens {
        let start = u32::try_from(bytes.len()).map_err(|e| malformed(e.to_string()))?;
        entries.push(match token {
            Some((token_bytes, special)) => {
                bytes.extend_from_slice(&token_bytes);
                Entry {
                    start,
                    // Bounded by the size limit of the file.
                    len: token_bytes.len() as u32,
                    exists: true,
                    special,
                }
            }
            None => Entry::default(),
        });
    }
    Ok((bytes, entries))
}
