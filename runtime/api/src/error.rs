//! Everything that can go wrong, as a number for programs and as words for people.

use std::fmt;
use std::io::ErrorKind;

use hadal_device::Error as DeviceError;
use hadal_engine::{EngineError, Plan};
use hadal_weights::WeightsError;

/// What kind of failure. The numbers are part of the interface: none is ever reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum ErrorCode {
    /// The request or the load was cancelled.
    Cancelled = 1,
    /// An argument or option that cannot be.
    InvalidArgument = 2,
    /// A file is missing or cannot be read.
    File = 3,
    /// A file was read and is damaged, or files do not belong together.
    DamagedModel = 4,
    /// A model that is not supported.
    UnsupportedModel = 5,
    /// The model has no tokenizer or no chat template, and the request needs one.
    NoText = 6,
    /// The model does not fit the memory; [`Error::plan`] says what would.
    WouldNotFit = 7,
    /// The memory budget, or memory itself, has no room for this.
    OutOfMemory = 8,
    /// There is no such device, or it cannot be used here.
    NoDevice = 9,
    /// The device was lost and could not be had again.
    DeviceLost = 10,
    /// The session's context is full.
    ContextFull = 11,
    /// The session writes an answer already.
    Busy = 12,
    /// The build lacks a feature.
    NotBuilt = 13,
    /// A mistake in this library.
    Internal = 14,
}

impl ErrorCode {
    /// Its name in logs: `would_not_fit`.
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::Cancelled => "cancelled",
            ErrorCode::InvalidArgument => "invalid_argument",
            ErrorCode::File => "file",
            ErrorCode::DamagedModel => "damaged_model",
            ErrorCode::UnsupportedModel => "unsupported_model",
            ErrorCode::NoText => "no_text",
            ErrorCode::WouldNotFit => "would_not_fit",
            ErrorCode::OutOfMemory => "out_of_memory",
            ErrorCode::NoDevice => "no_device",
            ErrorCode::DeviceLost => "device_lost",
            ErrorCode::ContextFull => "context_full",
            ErrorCode::Busy => "busy",
            ErrorCode::NotBuilt => "not_built",
            ErrorCode::Internal => "internal",
        }
    }

    /// What a person can do about it.
    fn cure(self) -> &'static str {
        match self {
            ErrorCode::Cancelled => "Ask again.",
            ErrorCode::InvalidArgument => "Choose a value that the message allows.",
            ErrorCode::File => "Check that the file exists and may be read.",
            ErrorCode::DamagedModel => "Get the model's files again from its publisher.",
            ErrorCode::UnsupportedModel => "Choose a model of the DeepSeek-V3 family.",
            ErrorCode::NoText => {
                "Put the model's tokenizer.json and tokenizer_config.json beside its config.json, \
                 or give token ids."
            }
            ErrorCode::WouldNotFit => {
                "Choose a shorter context, a smaller model, another device or a larger budget; \
                 the plan says what would fit."
            }
            ErrorCode::OutOfMemory => {
                "Close a session or another program, choose a shorter context, or raise the \
                 memory budget."
            }
            ErrorCode::NoDevice => "Choose one of the devices that are listed.",
            ErrorCode::DeviceLost => {
                "Load the model again, on another device if this one is lost again."
            }
            ErrorCode::ContextFull => "Shorten the conversation, or load with a longer context.",
            ErrorCode::Busy => "Wait for the end of the answer, or cancel it.",
            ErrorCode::NotBuilt => "Build the library with the feature that the message names.",
            ErrorCode::Internal => "Report this message to the project.",
        }
    }
}

/// What did not work, why, and what to do.
#[derive(Debug)]
pub struct Error {
    code: ErrorCode,
    message: String,
    source: Option<Box<EngineError>>,
}

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of a layer above this library, told like its own: an interface to another
    /// language, for example.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
            source: None,
        }
    }

    /// A thread that ended in a panic: a mistake of this library, and not the end of the program.
    pub(crate) fn panic(payload: &(dyn std::any::Any + Send)) -> Error {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("without a message");
        Error::new(ErrorCode::Internal, format!("a panic: {text}"))
    }

    /// What kind, for programs.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What a person can do about it, in a sentence.
    pub fn cure(&self) -> &'static str {
        self.code.cure()
    }

    /// The plan of a model that does not fit, with the nearest things that do.
    pub fn plan(&self) -> Option<&Plan> {
        match self.source.as_deref() {
            Some(EngineError::WouldNotFit { plan }) => Some(plan),
            _ => None,
        }
    }

    /// The engine's own error, where it is one.
    pub fn engine_error(&self) -> Option<&EngineError> {
        self.source.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Error {
        Error {
            code: code_of(&error),
            message: error.to_string(),
            source: Some(Box::new(error)),
        }
    }
}

impl From<hadal_device::Error> for Error {
    fn from(error: hadal_device::Error) -> Error {
        EngineError::from(error).into()
    }
}

impl From<WeightsError> for Error {
    fn from(error: WeightsError) -> Error {
        EngineError::from(error).into()
    }
}

impl From<hadal_models::config::ConfigError> for Error {
    fn from(error: hadal_models::config::ConfigError) -> Error {
        EngineError::from(error).into()
    }
}

impl From<hadal_tokens::TokensError> for Error {
    fn from(error: hadal_tokens::TokensError) -> Error {
        EngineError::from(error).into()
    }
}

fn code_of(error: &EngineError) -> ErrorCode {
    match error {
        EngineError::Device(error) => of_device(error),
        EngineError::LostAgain { .. } | EngineError::NotReopened { .. } => ErrorCode::DeviceLost,
        EngineError::Weights(error) => of_weights(error),
        EngineError::Config(_) => ErrorCode::UnsupportedModel,
        EngineError::Graph(_) => ErrorCode::Internal,
        EngineError::Tokens(error) => of_tokens(error),
        EngineError::NoText(_) => ErrorCode::NoText,
        EngineError::EmptyPrompt | EngineError::UnknownToken { .. } | EngineError::Option(_) => {
            ErrorCode::InvalidArgument
        }
        EngineError::ContextFull { .. } => ErrorCode::ContextFull,
        EngineError::Cancelled => ErrorCode::Cancelled,
        EngineError::WouldNotFit { .. } => ErrorCode::WouldNotFit,
        EngineError::OverBudget { .. } | EngineError::BatchFull { .. } => ErrorCode::OutOfMemory,
        EngineError::NoDevice(_) => ErrorCode::NoDevice,
        EngineError::Io { .. } => ErrorCode::File,
    }
}

fn of_device(error: &DeviceError) -> ErrorCode {
    match error {
        DeviceError::Unavailable { .. } | DeviceError::Unsupported { .. } => ErrorCode::NoDevice,
        DeviceError::OutOfMemory { .. } => ErrorCode::OutOfMemory,
        DeviceError::Lost { .. } => ErrorCode::DeviceLost,
        DeviceError::Invalid(_) => ErrorCode::Internal,
    }
}

fn of_weights(error: &WeightsError) -> ErrorCode {
    match error {
        WeightsError::Device(error) => of_device(error),
        WeightsError::Cancelled => ErrorCode::Cancelled,
        // No room for the map of a file.
        WeightsError::Io { source, .. } if source.kind() == ErrorKind::OutOfMemory => {
            ErrorCode::OutOfMemory
        }
        WeightsError::Io { .. }
        | WeightsError::NoWeights { .. }
        | WeightsError::MissingParts { .. } => ErrorCode::File,
        _ => ErrorCode::DamagedModel,
    }
}

fn of_tokens(error: &hadal_tokens::TokensError) -> ErrorCode {
    use hadal_tokens::TokensError::*;
    match error {
        Read { .. } | MissingTokenizer { .. } => ErrorCode::File,
        Malformed { .. } | UnknownToken { .. } | NoCandidate { .. } => ErrorCode::DamagedModel,
        Unsupported { .. } => ErrorCode::UnsupportedModel,
        NoChatTemplate | FamilyToken { .. } | Template { .. } => ErrorCode::NoText,
        Encode(_) | UnknownId { .. } | Refused { .. } | Messages { .. } | Option { .. } => {
            ErrorCode::InvalidArgument
        }
        Draft(_) => ErrorCode::Internal,
    }
}
