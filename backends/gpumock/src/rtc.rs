//! Mocks of the vendors' run-time compilers. A source is known again by the text of a kernel
//! file that it holds; the image lists the file's kernels.

use crate::codes::*;
use crate::image::MAGIC;
use crate::state::State;

/// What a compiler returns for options that it does not know, and for a source that it does
/// not compile.
const INVALID_INPUT: u32 = 3;
const INVALID_PROGRAM: u32 = 4;
const INVALID_OPTION: u32 = 5;
const COMPILATION: u32 = 6;

/// Kernel files with their text behind the last inclusion.
const TAILS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/tails.rs"));

/// A program to be compiled.
#[derive(Default)]
pub(crate) struct Program {
    source: String,
    /// What the compiler said, with a final zero.
    pub log: Vec<u8>,
    /// The image, once there is one.
    pub image: Option<Vec<u8>>,
}

impl State {
    pub fn add_program(&mut self, source: String) -> u64 {
        let program = Program {
            source,
            log: vec![0],
            image: None,
        };
        self.programs.add(0, program)
    }

    pub fn program(&mut self, handle: u64) -> Result<&mut Program> {
        if !self.programs.items.contains_key(&handle) {
            return self.refuse(INVALID_PROGRAM, format!("{handle:#x} is no program"));
        }
        let found = self.programs.items.get_mut(&handle);
        found.map(|(_, program)| program).ok_or(INVALID_PROGRAM)
    }

    pub fn destroy_program(&mut self, handle: u64) -> Result {
        self.program(handle)?;
        self.programs.items.remove(&handle);
        Ok(())
    }

    pub fn compile(&mut self, handle: u64, options: &[String]) -> Result {
        let vendor = self.vendor;
        let program = self.program(handle)?;
        let made = compile(vendor, &program.source, options);
        program.image = None;
        match made {
            Ok(image) => {
                program.log = vec![0];
                program.image = Some(image);
                Ok(())
            }
            Err((code, why)) => {
                program.log = format!("{why}\0").into_bytes();
                Err(code)
            }
        }
    }
}

/// The image of a program that was compiled.
pub(crate) fn image(program: &Program) -> Result<&[u8]> {
    program.image.as_deref().ok_or(INVALID_INPUT)
}

fn compile(vendor: Vendor, source: &str, options: &[String]) -> Result<Vec<u8>, (u32, String)> {
    let mut arch = None;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match option.split_once('=') {
            Some(("--gpu-architecture" | "-arch" | "--offload-arch", value)) => arch = Some(value),
            _ if matches!(option.as_str(), "-arch" | "--gpu-architecture") => {
                arch = options.next().map(String::as_str);
            }
            _ if option.starts_with('-') => {}
            _ => return Err((INVALID_OPTION, format!("unknown option {option}"))),
        }
    }
    let prefix = match vendor {
        Vendor::Cuda => "sm_",
        Vendor::Hip => "gfx",
    };
    let Some(arch) = arch.filter(|arch| arch.starts_with(prefix)) else {
        return Err((
            INVALID_OPTION,
            format!("no architecture {prefix}* is named"),
        ));
    };
    let wave = match arch.starts_with("gfx9") {
        true => 64,
        false => 32,
    };
    let holds = |tail: &str| !tail.is_empty() && source.contains(tail);
    let files = TAILS.iter().filter(|(_, tail)| holds(tail));
    let mut text = format!("{arch}\n");
    for (file, _) in files {
        for kernel in crate::kernels() {
            if kernel.file == *file && kernel.wave == wave {
                text += &format!("{file} {} {}\n", kernel.name, kernel.argument_bytes());
            }
        }
    }
    if text.lines().count() < 2 {
        let why = "the source holds none of the files of the mock's CPU build".to_string();
        return Err((COMPILATION, why));
    }
    let mut image = MAGIC.to_vec();
    image.extend((text.len() as u64).to_le_bytes());
    image.extend(text.as_bytes());
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_known_by_its_text() {
        let source = format!("// expanded headers\n{}\n", TAILS[0].1);
        let options = ["--gpu-architecture=sm_90a".to_string()];
        let image = compile(Vendor::Cuda, &source, &options).unwrap();
        assert!(image.starts_with(MAGIC));
        let codes = |source: &str, options: &[String]| {
            compile(Vendor::Cuda, source, options).map_err(|e| e.0)
        };
        assert_eq!(codes("other", &options), Err(COMPILATION));
        assert_eq!(codes(&source, &[]), Err(INVALID_OPTION));
        assert_eq!(codes(&source, &["x".to_string()]), Err(INVALID_OPTION));
    }
}
