//! The compiled kernels of a device, each compiled once. The same for every backend that runs
//! WGSL rows; what compiling makes is the backend's.

use std::collections::HashMap;
use std::sync::Arc;

use hadal_device::{Body, Error, PipelineId, Result};

use crate::spirv::{self, Module};
use crate::wgsl::{Assembled, Binding, PARAM_BYTES, Target, assemble};
use crate::wgsl_blocks;

/// A compiled kernel.
pub struct Kernel<P> {
    /// The row's name.
    pub name: String,
    /// Parameters, then operands in order.
    pub bindings: Vec<Binding>,
    /// What follows its parameters.
    pub patterns: &'static [u16],
    /// What the device runs.
    pub compiled: P,
}

impl<P> Kernel<P> {
    /// Bytes of its parameter block, patterns included.
    pub fn param_bytes(&self) -> u64 {
        PARAM_BYTES + size_of_val(self.patterns) as u64
    }
}

type Key = (
    &'static str,
    &'static [&'static str],
    Vec<(&'static str, u32)>,
);

/// Kernels of a device, by number.
pub struct Kernels<P> {
    target: Target,
    list: Vec<Arc<Kernel<P>>>,
    known: HashMap<Key, PipelineId>,
}

impl<P> Kernels<P> {
    /// None yet; their text will be that for `target`.
    pub fn new(target: Target) -> Kernels<P> {
        Kernels {
            target,
            list: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// The kernel with this number.
    pub fn get(&self, id: PipelineId) -> Result<Arc<Kernel<P>>> {
        let found = self.list.get(id.0 as usize).cloned();
        found.ok_or_else(|| Error::Invalid(format!("pipeline {} does not exist", id.0)))
    }

    /// What the text of kernels depends on.
    pub fn target(&self) -> Target {
        self.target
    }

    /// How many were compiled.
    pub fn count(&self) -> u64 {
        self.list.len() as u64
    }

    /// The kernel for `body` and `constants`, compiled by `compile` if it is new.
    pub fn get_or_compile(
        &mut self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
        compile: impl FnOnce(&Assembled) -> Result<P>,
    ) -> Result<PipelineId> {
        let Body::Wgsl { file, defines } = *body else {
            return Err(Error::Unsupported {
                what: format!("kernel {name}"),
                why: "this backend runs WGSL rows only".into(),
            });
        };
        let target = Target {
            format: wgsl_blocks::format_in(constants),
            ..self.target
        };
        self.get_or((file, defines, constants.to_vec()), name, || {
            let text = assemble(file, defines, target)
                .map_err(|e| Error::Invalid(format!("kernel {name}: {e}")))?;
            let compiled = compile(&text)?;
            Ok((text.bindings, compiled))
        })
    }

    /// The same for the SPIR-V module `file`.
    pub fn get_or_compile_spirv(
        &mut self,
        name: &str,
        file: &'static str,
        constants: &[(&'static str, u32)],
        compile: impl FnOnce(&Module) -> Result<P>,
    ) -> Result<PipelineId> {
        // A definition that no WGSL row has tells it from a file of the same name.
        self.get_or((file, &["SPIRV"], constants.to_vec()), name, || {
            let module = spirv::module(file).ok_or_else(|| {
                Error::Invalid(format!("kernel {name}: there is no module {file}.spv"))
            })?;
            Ok((module.bindings.to_vec(), compile(module)?))
        })
    }

    fn get_or(
        &mut self,
        key: Key,
        name: &str,
        make: impl FnOnce() -> Result<(Vec<Binding>, P)>,
    ) -> Result<PipelineId> {
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        let patterns = wgsl_blocks::format_in(&key.2).map_or(&[][..], wgsl_blocks::patterns);
        let (bindings, compiled) = make()?;
        let id = PipelineId(self.list.len() as u32);
        self.list.push(Arc::new(Kernel {
            name: name.into(),
            bindings,
            patterns,
            compiled,
        }));
        self.known.insert(key, id);
        Ok(id)
    }
}
