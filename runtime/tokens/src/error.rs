//! What can go wrong between text and ids. Every variant names the file, option or id, and
//! what the person can do about it.

use std::path::PathBuf;

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, TokensError>;

/// Text that did not become ids, or the other way round.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TokensError {
    /// A file of the checkpoint could not be read.
    #[error("{} could not be read: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said, or which limit was passed.
        why: String,
    },
    /// The folder has no tokenizer.json.
    #[error("{} has no tokenizer.json; {cure}", folder.display())]
    MissingTokenizer {
        /// The checkpoint folder.
        folder: PathBuf,
        /// How to get the file for this kind of checkpoint.
        cure: String,
    },
    /// A file was read but does not mean what it should.
    #[error("{file} is not usable: {why}; take this file again from the model's publisher")]
    Malformed {
        /// File name, or the name of the argument that stands for it.
        file: String,
        /// The first thing that is wrong.
        why: String,
    },
    /// The tokenizer uses something other than byte-level BPE.
    #[error(
        "the tokenizer has {what}, but only byte-level tokenizers of known rules are supported"
    )]
    Unsupported {
        /// The part that was found.
        what: String,
    },
    /// A text could not be encoded.
    #[error("the text could not be encoded: {0}")]
    Encode(String),
    /// An id beyond the vocabulary, or in a gap of it.
    #[error("token id {id} does not exist; ids go from 0 to {last}")]
    UnknownId {
        /// The id.
        id: u32,
        /// The highest id that exists.
        last: u32,
    },
    /// A token that the tokenizer configuration names is not in the vocabulary.
    #[error(
        "tokenizer_config.json names the {role} {token:?}, which tokenizer.json does not have; the two files belong to different models"
    )]
    UnknownToken {
        /// What the token is for: "bos_token" or "eos_token".
        role: &'static str,
        /// Its text.
        token: String,
    },
    /// A built-in template needs a token that the tokenizer does not have.
    #[error(
        "the built-in {family} template writes the {role} {token:?}, which tokenizer.json does not have; use the model's own chat template, or put the tokenizer_config.json that names its {role} beside config.json"
    )]
    FamilyToken {
        /// Name of the template's family.
        family: &'static str,
        /// What the token is for: "bos_token" or "eos_token".
        role: &'static str,
        /// Its text.
        token: &'static str,
    },
    /// The checkpoint has no chat template.
    #[error(
        "this checkpoint has no chat template; choose a built-in one (v3, r1, v3.1), or use the model without chat"
    )]
    NoChatTemplate,
    /// The chat template does not compile, fails, or works beyond its bounds.
    #[error("the chat template failed: {why}")]
    Template {
        /// What the template engine said, with the line.
        why: String,
    },
    /// The chat template itself refused the conversation (`raise_exception`).
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The messages are not a conversation.
    #[error("{at} {why}")]
    Messages {
        /// Which part, as `messages[2].content`.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// A sampling option is outside its range.
    #[error("{option} is {value}, but must be {range}")]
    Option {
        /// Option name, as in [`crate::SamplingOptions`].
        option: &'static str,
        /// The value given.
        value: String,
        /// The allowed values.
        range: &'static str,
    },
    /// No token is left to choose from.
    #[error(
        "no token can be chosen: all {vocab} logits are NaN or minus infinity; the weights may be damaged"
    )]
    NoCandidate {
        /// Length of the logits.
        vocab: usize,
    },
    /// A distribution given for a draft is not one.
    #[error("a draft cannot be judged: {0}")]
    Draft(&'static str),
}
