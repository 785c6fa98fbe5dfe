//! Everything that can end a request. Errors are values; each says what to do.

/// Why a model could not be opened or a step not be done.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The device refused or failed.
    #[error(transparent)]
    Device(#[from] hadal_device::Error),
    /// The device was lost again and again while the same step ran.
    #[error(
        "the same step lost the device {losses} times, so it was given up; choose a smaller chunk, a smaller dispatch budget or another device ({lost})"
    )]
    LostAgain {
        /// How often.
        losses: u32,
        /// What the device said the last time.
        lost: hadal_device::Error,
    },
    /// The device was lost, and no device could be opened to go on with.
    #[error("{lost}, which failed: {error}")]
    NotReopened {
        /// What the device said.
        lost: hadal_device::Error,
        /// Why there is none.
        error: Box<EngineError>,
    },
    /// The checkpoint's files are damaged or do not match its config.
    #[error(transparent)]
    Weights(#[from] hadal_weights::WeightsError),
    /// The config is not one that Hadal runs.
    #[error(transparent)]
    Config(#[from] hadal_models::config::ConfigError),
    /// The model's graph is not legal: a bug in a model file or a pass.
    #[error("the model's graph is not legal: {0}")]
    Graph(#[from] hadal_graph::Violation),
    /// Tokenizer, chat template or sampling options.
    #[error(transparent)]
    Tokens(#[from] hadal_tokens::TokensError),
    /// The checkpoint has no tokenizer that can be used; says which file and why.
    #[error("{0}")]
    NoText(String),
    /// A prompt without a token.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// More tokens than the session has room for.
    #[error(
        "{wanted} tokens do not fit the context of {context}; shorten the prompt or open the model with a larger context (the model allows {max})"
    )]
    ContextFull {
        /// Tokens wanted in all.
        wanted: usize,
        /// Tokens the session holds.
        context: u32,
        /// `max_position_embeddings`.
        max: u32,
    },
    /// A token id that the model does not have.
    #[error("token id {id} is not in the vocabulary of {vocab} (position {position})")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab: u32,
        /// Place in the list given.
        position: usize,
    },
    /// The request was cancelled; the session can go on from where it is.
    #[error("cancelled")]
    Cancelled,
    /// An option that cannot be met.
    #[error("{0}")]
    Option(String),
    /// The model does not fit the memory; nothing was allocated and no weight was read.
    #[error("{}", plan.verdict())]
    WouldNotFit {
        /// What would lie where, and the nearest things that fit.
        plan: Box<crate::Plan>,
    },
    /// The budget has no room for one more session; the others go on.
    #[error(
        "one more session needs {wanted_bytes} bytes, {over_bytes} more than the memory budget leaves; close a session or raise the budget"
    )]
    OverBudget {
        /// Bytes of the session.
        wanted_bytes: u64,
        /// Bytes by which the budget would be exceeded.
        over_bytes: u64,
        /// What is held now.
        used: crate::MemoryUse,
    },
    /// Every place of the batch has a session.
    #[error("the batch has {sequences} sessions already; close one, or open the model for more")]
    BatchFull {
        /// Sessions that it has places for.
        sequences: u32,
    },
    /// No device of that name, or none at all.
    #[error("{0}")]
    NoDevice(String),
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl EngineError {
    /// The loss of a device that this is, wherever it was met.
    fn lost(&self) -> Option<&hadal_device::Error> {
        use hadal_device::Error::Lost;
        match self {
            EngineError::Device(lost @ Lost { .. })
            | EngineError::Weights(hadal_weights::WeightsError::Device(lost @ Lost { .. })) => {
                Some(lost)
            }
            _ => None,
        }
    }

    /// True for the loss of a device.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost().is_some()
    }

    /// The loss of a device that this is; `Err` for everything else.
    pub(crate) fn into_lost(self) -> Result<hadal_device::Error> {
        self.lost().cloned().ok_or(self)
    }
}

/// Result of an engine operation.
pub type Result<T> = std::result::Result<T, EngineError>;
