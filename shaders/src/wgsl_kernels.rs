//! The compiled WGSL kernels of a device, each compiled once. The same for every backend that
//! runs WGSL rows; what compiling makes is the backend's.

use std::collections::HashMap;
use std::sync::Arc;

use hadal_device::{Body, Error, PipelineId, Result};

use crate::wgsl::{Assembled, Binding, Target, assemble};

/// A compiled kernel.
pub struct Kernel<P> {
    /// The row's name.
    pub name: String,
    /// Parameters, then operands in order.
    pub bindings: Vec<Binding>,
    /// What the device runs.
    pub compiled: P,
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
        let key = (file, defines, constants.to_vec());
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        let text = assemble(file, defines, self.target)
            .map_err(|e| Error::Invalid(format!("kernel {name}: {e}")))?;
        let compiled = compile(&text)?;
        let id = PipelineId(self.list.len() as u32);
        self.list.push(Arc::new(Kernel {
            name: name.into(),
            bindings: text.bindings,
            compiled,
        }));
        self.known.insert(key, id);
        Ok(id)
    }
}
