//! Texts from standard input and from files, of bounded size.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::failure::{Failure, Result};

/// Largest text that is read; longer than any context.
pub const MAX_BYTES: usize = 64 << 20;

/// All of standard input.
///
/// # Errors
/// It cannot be read, is larger than 64 MiB, or is not UTF-8.
pub fn standard_input() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
    if bytes.len() > MAX_BYTES {
        let most = MAX_BYTES >> 20;
        return Err(Failure::usage(format!(
            "standard input has more than {most} MiB, which no context holds"
        ))
        .help("give a part of it, as with `head -c 100000 FILE | hadal ...`"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!("standard input is not UTF-8 at byte {at}"))
            .help("convert it, as with `iconv -t UTF-8`")
    })
}

/// The text of a file of at most `most` bytes.
///
/// # Errors
/// It cannot be read, is larger, or is not UTF-8.
pub fn text_file(path: &Path, most: usize) -> Result<String> {
    let name = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::file(path, error))?;
    if bytes.len() > most {
        return Err(Failure::usage(format!("{name} has more than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!("{name} is not a text: byte {at} is not UTF-8"))
    })
}
