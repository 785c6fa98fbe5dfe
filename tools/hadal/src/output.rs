//! Files that commands write: beside the wanted file first, then renamed, so that a file under
//! its name is whole.
//!
//! Decides where a file lies until it is whole; must not know what it says.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// A file that is going to be written. Until it is whole it lies beside the wanted one, and
/// nothing is left of it if it does not come to that.
pub struct Output {
    path: PathBuf,
    partial: PathBuf,
    file: File,
}

impl Output {
    /// Begins a file that will be called `path`, which stood after `option`. An ordinary file
    /// of that name stays until the new one is whole.
    ///
    /// # Errors
    /// It cannot be made there.
    pub fn create(option: &str, path: &Path) -> Result<Output> {
        if path.exists() && !path.is_file() {
            let why = format!("{option} {} is not an ordinary file", path.display());
            return Err(Failure::usage(why).help("give the name of a file to write"));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        let file = File::create_new(&partial).map_err(|error| cannot_write(path, error))?;
        Ok(Output {
            path: path.to_path_buf(),
            partial,
            file,
        })
    }

    /// As [`Output::create`], of a command that reads `files`, none of which it may replace.
    ///
    /// # Errors
    /// Those of [`Output::create`]; `path` is one of the files.
    pub fn beside<'f>(
        mut files: impl Iterator<Item = &'f Path>,
        option: &str,
        path: &Path,
    ) -> Result<Output> {
        let own = path.canonicalize().ok();
        if own.is_some() && files.any(|file| file.canonicalize().ok() == own) {
            let why = format!("{option} {} is a file of the model", path.display());
            return Err(Failure::usage(why).help("give the name of another file"));
        }
        Output::create(option, path)
    }

    /// Writes the file with `write` and gives it its name.
    ///
    /// # Errors
    /// Those of `write`, and of the file system.
    pub fn finish(self, write: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
        write(&self.file)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| std::fs::rename(&self.partial, &self.path))
            .map_err(|error| cannot_write(&self.path, error))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Gone already where all went well; nothing can be done if even this fails.
        let _ = std::fs::remove_file(&self.partial);
    }
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    let failure = Failure::file(path, error);
    match is_missing {
        true => failure.help("the folder of the file must be there already"),
        false => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_replaced_when_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "old").unwrap();
        drop(Output::create("--out", &path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let output = Output::create("--out", &path).unwrap();
        output.finish(|mut file| file.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
