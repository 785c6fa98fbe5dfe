//! What can be wrong with a checkpoint. Every variant names file and tensor where there is
//! one, and says what to do.

use std::fmt;

/// One disagreement between the weights a model declares and the tensors that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The tensor, or a pattern for several.
    pub tensor: String,
    /// The file it lies in or was looked for in, where there is one.
    pub file: Option<String>,
    /// What is wrong and what was expected.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tensor)?;
        if let Some(file) = &self.file {
            write!(f, " in {file}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Weights that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// There is no checkpoint here.
    #[error("{folder} holds no weights: {why}")]
    NoWeights {
        /// The folder.
        folder: String,
        /// What was looked for, and the cure.
        why: String,
    },
    /// The operating system refused to read a file.
    #[error(
        "{file} cannot be read ({source}); see that all files of the model are there and may be read"
    )]
    Io {
        /// The file.
        file: String,
        /// What it said.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{file} is damaged: {why}; download it again")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A model in parts of which some are not here.
    #[error(
        "the model has parts that are not here: {}; download them into the folder of the others",
        missing.join(", ")
    )]
    MissingParts {
        /// Their names.
        missing: Vec<String>,
    },
    /// One tensor of a file is not described as it must be.
    #[error("{file}, tensor {tensor}: {why}; download the file again")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// More files than any checkpoint has.
    #[error(
        "{files} files of weights were given, and {limit} are allowed; join small files, or see that all belong to one model"
    )]
    TooManyFiles {
        /// How many.
        files: usize,
        /// How many may be.
        limit: usize,
    },
    /// Made-up weights that are larger than the memory that is left; none was taken.
    #[error(
        "the made-up weights take {bytes} bytes, but only {available} bytes of memory are available; keep fewer layers or experts of the model"
    )]
    NoMemory {
        /// Bytes of all weights.
        bytes: u64,
        /// Bytes that the machine, or its container, has left.
        available: u64,
    },
    /// Pages of a mapped file were gone when they were needed.
    #[error(
        "{file} became shorter while it was used, or its disk cannot be read; put the file back as it was and open the model again"
    )]
    PagesLost {
        /// The file.
        file: String,
    },
    /// A tensor was asked for that is not there.
    #[error(
        "there is no tensor {tensor} in {file}; see that config.json and all files belong to the same release of the model"
    )]
    NoTensor {
        /// The file, or the index of files, it was looked for in.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// The files and the model do not fit together.
    #[error("{}", mismatch(problems, *more))]
    Mismatch {
        /// The first disagreements.
        problems: Vec<Problem>,
        /// How many more there are.
        more: usize,
    },
    /// A number that would spoil every answer.
    #[error(
        "{file}, tensor {tensor}: the value at {position} is {value}, {why}; download the file again"
    )]
    Value {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Index of the value.
        position: String,
        /// The value.
        value: f32,
        /// What would do.
        why: &'static str,
    },
    /// A weight that the device cannot bind even in the smallest piece.
    #[error(
        "{tensor} needs {bytes} bytes in one piece, but the device binds at most {limit}; choose another device"
    )]
    TooLarge {
        /// The weight.
        tensor: String,
        /// Bytes of its smallest piece.
        bytes: u64,
        /// The device's limit.
        limit: u64,
    },
    /// The device refused; nothing stays allocated.
    #[error(transparent)]
    Device(#[from] hadal_device::Error),
    /// The person stopped the load; nothing stays allocated.
    #[error("loading was cancelled")]
    Cancelled,
}

fn mismatch(problems: &[Problem], more: usize) -> String {
    let mut text = String::from(
        "the weights do not fit the configuration (config.json, or the metadata of a GGUF file):",
    );
    for problem in problems {
        text.push_str(&format!("\n  {problem}"));
    }
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    text.push_str("\nTake all files, config.json among them, from the same release of the model.");
    text
}
