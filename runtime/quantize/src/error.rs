//! What can go wrong, with the cure.

use std::io;
use std::path::{Path, PathBuf};

/// A model that did not become a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The disk, or what the person may use of it, is full. What is written stays.
    #[error(
        "there is no room left for {path} ({source}); {tensors} of {of} tensors are kept in it: \
         make room for {needed} bytes more and run the same command again, which goes on there"
    )]
    DiskFull {
        /// The unfinished file.
        path: PathBuf,
        /// Tensors that are whole.
        tensors: usize,
        /// Tensors of the file.
        of: usize,
        /// Bytes that are still to come.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A file that cannot be written or read.
    #[error("{path} cannot be used ({source})")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The model's files.
    #[error(transparent)]
    Weights(#[from] hadal_weights::WeightsError),
    /// A tensor of the model that cannot be quantised.
    #[error("tensor {tensor}: {why}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong, and the cure.
        why: String,
    },
    /// Numbers that a format does not hold.
    #[error("tensor {tensor}, from row {row} on: {source}; the model is damaged")]
    Values {
        /// The tensor of the new file.
        tensor: String,
        /// The first row that was looked at.
        row: u64,
        /// What is wrong with the values.
        source: hadal_blocks::EncodeError,
    },
    /// A configuration that the metadata of GGUF has no words for.
    #[error("a GGUF file cannot say that {0}")]
    Config(String),
    /// A recipe, format or pattern that does not exist.
    #[error("{0}")]
    Choice(String),
    /// A key of a GGUF file's text side that is none.
    #[error("{0} of the GGUF file's metadata has a value that no tokenizer has")]
    Key(String),
    /// A tokenizer that cannot be written.
    #[error("tokenizer.json: {0}")]
    Text(String),
    /// An importance matrix that does not fit the model.
    #[error("{path}: {why}; make it anew with `hadal imatrix` from the same model")]
    Importance {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The file that was written is not what it should be.
    #[error(
        "the file that was written is wrong: {0}; it stays under its unfinished name, and the same \
         command begins anew"
    )]
    Verify(String),
    /// What lies under the name of the unfinished file is something else.
    #[error("{path} is in the way: {why}; move it away, or name another file")]
    Taken {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// Another run writes the same file.
    #[error("{0} is being written by another run; wait for its end, or name another file")]
    Busy(PathBuf),
    /// The person stopped it. What is written stays.
    #[error("interrupted; the same command goes on where it stopped")]
    Cancelled,
}

impl QuantizeError {
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> QuantizeError + '_ {
        |source| QuantizeError::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}
