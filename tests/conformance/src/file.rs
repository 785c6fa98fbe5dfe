//! Files that people hand in: read whole, but no more of them than there can be.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Bytes of the largest report: some hundred a case, and room for failures.
const LARGEST: u64 = 64 << 20;

/// All of a file of at most [`LARGEST`] bytes.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(Error::new(
            ErrorKind::InvalidData,
            "it is larger than any report",
        )),
        false => Ok(bytes),
    }
}
