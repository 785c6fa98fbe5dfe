//! Puts WGSL kernels together from files of this crate: imports, conditional lines and
//! binding numbers.
//!
//! Decides only what the text says; whether it is valid WGSL is the business of the device
//! (and of this crate's tests, which run naga over every row). Read [`assemble`] first.
//!
//! Directives stand alone on a line:
//! * `#import name` inserts `wgsl/shared/name.wgsl` once; `#import name as prefix` inserts
//!   it once for each prefix, with every `$` replaced by the prefix.
//! * `#ifdef NAME`, `#else`, `#endif` keep lines by the definitions.
//! * `#unused` stands for an operand that the kernel does not read and that is not bound.
//!
//! `@binding(auto)` becomes the next free number, so that bindings follow the operands.

use std::fmt::Write as _;

use crate::wgsl_blocks;
use crate::wgsl_sources::{KERNELS, SHARED};

/// What of a device the text of a kernel depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Target {
    /// `unpack2x16float` keeps subnormal halves. Not promised by WGSL: a backend sets it
    /// after trying it on the device.
    pub half_subnormals: bool,
    /// The block format of the weights, for kernels that read such (definition `BLOCKS`).
    pub format: Option<hadal_device::DType>,
    /// A mistake to be made on purpose, for testing tests.
    #[cfg(feature = "planted-faults")]
    pub fault: Option<&'static crate::faults::Fault>,
    /// Subgroups of this size instead of the device's own, for testing kernels.
    #[cfg(feature = "planted-faults")]
    pub subgroup_size: Option<u32>,
}

/// How a kernel uses one of its resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// Uniform buffer: parameters and table strides, [`PARAM_BYTES`] long.
    Params,
    /// Storage buffer that is only read.
    Read,
    /// Storage buffer that is written, or may share memory with one that is.
    ReadWrite,
    /// Storage buffer with the addresses of a table's entries, two words each, the lower one
    /// first.
    Addresses {
        /// What the addresses are multiples of.
        align: u32,
    },
    /// An operand without a binding number.
    Unused,
}

/// Bytes of the uniform block: the 32 words of `hadal_device::Params` and four words with
/// the byte strides of the table operands in order.
pub const PARAM_BYTES: u64 = 4 * (32 + TABLES as u64);

/// Table operands a kernel may have.
pub const TABLES: usize = 4;

/// A kernel ready for a WGSL compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The text; the entry point is `main`.
    pub source: String,
    /// The parameters, then the operands in order. Binding numbers count those that are
    /// not [`Binding::Unused`].
    pub bindings: Vec<Binding>,
}

/// Why a kernel could not be put together. Each is a mistake in this crate or in a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// No such kernel file.
    #[error("there is no kernel file {0}.wgsl")]
    UnknownKernel(String),
    /// No such snippet.
    #[error("{file}: there is no snippet shared/{name}.wgsl")]
    UnknownSnippet {
        /// Importing file.
        file: String,
        /// What it asked for.
        name: String,
    },
    /// A directive that is none, or an `#else` or `#endif` without `#ifdef`, or the reverse.
    #[error("{file}: misplaced or unknown directive {line:?}")]
    Directive {
        /// The file.
        file: String,
        /// The line.
        line: String,
    },
    /// A resource whose address space or access is not one of [`Binding`].
    #[error("{file}: unknown kind of resource {line:?}")]
    Resource {
        /// The file.
        file: String,
        /// The line.
        line: String,
    },
}

/// The kernel `file` under `defines` for `target`. A definition is `NAME`, which `#ifdef`
/// asks for, or `NAME=value`, which also makes a constant `NAME: u32`.
pub fn assemble(file: &str, defines: &[&str], target: Target) -> Result<Assembled, AssembleError> {
    let text = find(KERNELS, file).ok_or_else(|| AssembleError::UnknownKernel(file.into()))?;
    let mut work = Assembly {
        names: Vec::new(),
        imported: Vec::new(),
        #[cfg(feature = "planted-faults")]
        fault: None,
        out: Assembled {
            source: String::new(),
            bindings: Vec::new(),
        },
    };
    for define in defines {
        let (name, value) = define.split_once('=').unwrap_or((define, ""));
        work.names.push(name);
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(work.out.source, "const {name}: u32 = {value}u;");
        }
    }
    if target.half_subnormals {
        work.names.push("HALF_SUBNORMALS");
    }
    if let Some(format) = target.format.filter(|_| defines.contains(&"BLOCKS")) {
        work.out.source.push_str(&wgsl_blocks::constants(format));
        wgsl_blocks::defines(format)
            .iter()
            .for_each(|define| work.define(define));
    }
    #[cfg(feature = "planted-faults")]
    {
        work.fault = target.fault;
    }
    work.file(file, text, "")?;
    #[cfg(feature = "planted-faults")]
    if let Some(size) = target.subgroup_size {
        work.out.source = crate::emulate::emulate(&work.out.source, size);
    }
    Ok(work.out)
}

/// Names of all kernel files.
pub fn kernel_files() -> impl Iterator<Item = &'static str> {
    KERNELS.iter().map(|(name, _)| *name)
}

fn find(files: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    let (_, text) = files.iter().find(|(file, _)| *file == name)?;
    Some(text)
}

struct Assembly<'a> {
    names: Vec<&'a str>,
    /// Snippets inserted so far, with their prefixes.
    imported: Vec<(String, String)>,
    #[cfg(feature = "planted-faults")]
    fault: Option<&'static crate::faults::Fault>,
    out: Assembled,
}

impl<'a> Assembly<'a> {
    /// A name, or a name with a value, which becomes a constant.
    fn define(&mut self, define: &'a str) {
        let (name, value) = define.split_once('=').unwrap_or((define, ""));
        self.names.push(name);
        if !value.is_empty() {
            let _ = writeln!(self.out.source, "const {name}: u32 = {value}u;");
        }
    }

    fn file(&mut self, file: &str, text: &str, prefix: &str) -> Result<(), AssembleError> {
        #[cfg(feature = "planted-faults")]
        let text = &*crate::faults::plant(self.fault, file, text);
        // One entry for each open #ifdef: are its lines kept, and was there an #else?
        let mut open: Vec<(bool, bool)> = Vec::new();
        for line in text.lines() {
            let misplaced = || AssembleError::Directive {
                file: file.into(),
                line: line.into(),
            };
            let keep = open.iter().all(|(keep, _)| *keep);
            let mut words = line.split_whitespace();
            match words.next() {
                Some("#ifdef") => {
                    let name = words.next().ok_or_else(misplaced)?;
                    open.push((self.names.contains(&name), false));
                }
                Some("#else") => match open.last_mut() {
                    Some((keep, seen @ false)) => (*keep, *seen) = (!*keep, true),
                    _ => return Err(misplaced()),
                },
                Some("#endif") => {
                    open.pop().ok_or_else(misplaced)?;
                }
                _ if !keep => {}
                Some("#import") => {
                    let name = words.next().ok_or_else(misplaced)?;
                    let as_prefix = match (words.next(), words.next()) {
                        (None, _) => "",
                        (Some("as"), Some("$")) => prefix,
                        (Some("as"), Some(other)) => other,
                        _ => return Err(misplaced()),
                    };
                    self.import(file, name, as_prefix)?;
                }
                Some("#unused") => self.out.bindings.push(Binding::Unused),
                Some(word) if word.starts_with('#') => return Err(misplaced()),
                // Comments are for people; the compiler need not read them.
                Some(word) if word.starts_with("//") => {}
                None => {}
                Some(_) => self.line(file, &line.replace('$', prefix))?,
            }
        }
        match open.is_empty() {
            true => Ok(()),
            false => Err(AssembleError::Directive {
                file: file.into(),
                line: "#ifdef without #endif".into(),
            }),
        }
    }

    fn import(&mut self, file: &str, name: &str, prefix: &str) -> Result<(), AssembleError> {
        let key = (name.to_string(), prefix.to_string());
        if self.imported.contains(&key) {
            return Ok(());
        }
        let text = find(SHARED, name).ok_or_else(|| AssembleError::UnknownSnippet {
            file: file.into(),
            name: name.into(),
        })?;
        self.imported.push(key);
        self.file(&format!("shared/{name}"), text, prefix)
    }

    fn line(&mut self, file: &str, line: &str) -> Result<(), AssembleError> {
        const AUTO: &str = "@binding(auto)";
        if line.contains(AUTO) {
            let binding = if line.contains("var<uniform>") {
                Binding::Params
            } else if line.contains("var<storage, read>") {
                Binding::Read
            } else if line.contains("var<storage, read_write>") {
                Binding::ReadWrite
            } else {
                return Err(AssembleError::Resource {
                    file: file.into(),
                    line: line.into(),
                });
            };
            let used = |b: &&Binding| **b != Binding::Unused;
            let number = self.out.bindings.iter().filter(used).count();
            self.out.bindings.push(binding);
            let line = line.replace(AUTO, &format!("@binding({number})"));
            self.out.source.push_str(&line);
        } else {
            self.out.source.push_str(line);
        }
        self.out.source.push('\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assembled(text: &str, names: &[&str]) -> Result<Assembled, AssembleError> {
        let mut work = Assembly {
            names: names.to_vec(),
            imported: Vec::new(),
            #[cfg(feature = "planted-faults")]
            fault: None,
            out: Assembled {
                source: String::new(),
                bindings: Vec::new(),
            },
        };
        work.file("test", text, "")?;
        Ok(work.out)
    }

    #[test]
    fn lines_are_kept_by_the_definitions_they_stand_under() {
        let text = "#ifdef A\na\n#ifdef B\nab\n#else\na only\n#endif\n#else\nneither\n#endif";
        for (names, want) in [
            (&["A", "B"][..], "a\nab\n"),
            (&["A"], "a\na only\n"),
            (&["B"], "neither\n"),
        ] {
            assert_eq!(assembled(text, names).map(|a| a.source), Ok(want.into()));
        }
    }

    #[test]
    fn resources_are_numbered_and_unused_operands_take_no_number() {
        let text = "@binding(auto) var<uniform> p\n#unused\n\
                    @binding(auto) var<storage, read> a\n@binding(auto) var<storage, read_write> b";
        let got = assembled(text, &[]).unwrap();
        let kinds = [
            Binding::Params,
            Binding::Unused,
            Binding::Read,
            Binding::ReadWrite,
        ];
        assert_eq!(got.bindings, kinds);
        for line in ["@binding(0) var<uniform>", "@binding(1) var<storage, read>"] {
            assert!(got.source.contains(line), "{}", got.source);
        }
        assert!(got.source.contains("@binding(2) var<storage, read_write>"));
    }

    #[test]
    fn a_snippet_comes_once_for_each_prefix_and_brings_its_own_imports_once() {
        let text = "#import x\n#import weight as w\n#import weight as v\n#import weight as w";
        let source = assembled(text, &["F32"]).unwrap().source;
        for (piece, count) in [("fn w_code(", 1), ("fn v_code(", 1), ("fn decode_e4m3(", 1)] {
            assert_eq!(source.matches(piece).count(), count, "{piece}");
        }
        assert!(!source.contains('$'));
    }

    #[test]
    fn mistakes_are_named_with_file_and_line() {
        for (text, part) in [
            ("#else", "test: misplaced or unknown directive \"#else\""),
            ("#ifdef A\n#else\n#else\n#endif", "#else"),
            ("#endif", "#endif"),
            ("#ifdef A", "#ifdef without #endif"),
            ("#include a", "#include a"),
            ("#import", "#import"),
            ("#import x like y", "#import x like y"),
            ("#import nothing", "no snippet shared/nothing.wgsl"),
            ("@binding(auto) var<private> a", "unknown kind of resource"),
        ] {
            let message = assembled(text, &[]).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(assemble("no_such", &[], Target::default()).is_err());
    }

    #[test]
    fn a_definition_with_a_value_is_a_constant() {
        let got = assemble("norm", &["F32", "TILE=16"], Target::default()).unwrap();
        assert!(got.source.starts_with("const TILE: u32 = 16u;\n"));
    }
}
