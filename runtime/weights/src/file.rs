//! Opens and reads files that a person or a checkpoint names: plain files only, and never
//! more of them than a bound.
//!
//! Decides that a device, a pipe or a folder under a file's name is refused before a byte of
//! it is read. Must not know what is in a file.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Opens a plain file, or a link to one; its length in bytes comes with it.
pub(crate) fn open_plain(path: &Path) -> Result<(File, u64)> {
    // Asked before opening: opening a pipe waits for a writer that may never come.
    plain(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    // Asked again, since the name may stand for another file by now.
    let meta = file.metadata()?;
    plain(&meta)?;
    Ok((file, meta.len()))
}

/// The content of a plain file of at most `limit` bytes. Errors: those of the system; what is
/// no plain file, and a file that is larger.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let too_large = |bytes: u64| {
        let why = format!("it has {bytes} bytes or more, and {limit} are allowed");
        Error::new(ErrorKind::FileTooLarge, why)
    };
    let (file, bytes) = open_plain(path)?;
    if bytes > limit {
        return Err(too_large(bytes));
    }
    let mut content = Vec::new();
    // The length may have grown, and some files of the system say 0.
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(too_large(content.len() as u64));
    }
    Ok(content)
}

/// As [`read_bounded`], for text; other than UTF-8 is an error.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let text = String::from_utf8(read_bounded(path, limit)?);
    text.map_err(|error| Error::new(ErrorKind::InvalidData, format!("it is no text ({error})")))
}

fn plain(meta: &Metadata) -> Result<()> {
    if meta.is_file() {
        Ok(())
    } else {
        Err(Error::other("it is not a plain file"))
    }
}
