//! Where the library lies that tests load as a driver.

use std::io;
use std::path::{Path, PathBuf};

/// Links to the library in [`driver_folder`].
const NAMES: [&str; 6] = [
    "libcuda.so.1",
    "libamdhip64.so.7",
    "libnvrtc.so.13",
    "libhiprtc.so.7",
    "libcublasLt.so.13",
    "libhipblaslt.so.1",
];

/// The mock drivers' library. Cargo puts it beside the test program (`deps`), or in the folder
/// above, as it builds this crate; where it is in neither, the path of the first is given.
pub fn library() -> PathBuf {
    let name = match cfg!(target_os = "macos") {
        true => "libhadal_gpumock.dylib",
        false => "libhadal_gpumock.so",
    };
    let program = std::env::current_exe().unwrap_or_default();
    let folders: Vec<&Path> = program.ancestors().skip(1).take(2).collect();
    let candidates: Vec<PathBuf> = folders.iter().map(|folder| folder.join(name)).collect();
    let found = candidates.iter().find(|path| path.is_file());
    found.or(candidates.first()).cloned().unwrap_or_default()
}

/// Fills a folder with links to the library, named as the drivers are: for `LD_LIBRARY_PATH`
/// of a program under test. With `libraries`, there are the run-time compilers and libraries too.
pub fn driver_folder(folder: &Path, libraries: bool) -> io::Result<()> {
    let names = if libraries { &NAMES[..] } else { &NAMES[..2] };
    for name in names {
        std::os::unix::fs::symlink(library(), folder.join(name))?;
    }
    Ok(())
}
