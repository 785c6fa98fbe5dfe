//! Kernels: from a row's body to a compiled pipeline, each compiled once.

use std::collections::HashMap;
use std::sync::Arc;

use hadal_device::{Body, Error, PipelineId, Result};
use hadal_shaders::wgsl::{self, Binding, Target};

use crate::fault::caught;

/// A compiled kernel.
pub struct Kernel {
    /// The row's name.
    pub name: String,
    /// What it runs.
    pub pipeline: wgpu::ComputePipeline,
    /// What it binds.
    pub layout: wgpu::BindGroupLayout,
    /// Parameters, then operands in order.
    pub bindings: Vec<Binding>,
}

type Key = (
    &'static str,
    &'static [&'static str],
    Vec<(&'static str, u32)>,
);

/// Kernels of a device, by number.
#[derive(Default)]
pub struct Kernels {
    list: Vec<Arc<Kernel>>,
    known: HashMap<Key, PipelineId>,
}

/// Where kernels are compiled.
pub struct Compiler<'d> {
    /// The device.
    pub wgpu: &'d wgpu::Device,
    /// Its name, for errors.
    pub device: &'d str,
    /// What its kernels' text depends on.
    pub target: Target,
    /// With bounds checks.
    pub checked: bool,
}

impl Kernels {
    /// The kernel with this number.
    pub fn get(&self, id: PipelineId) -> Option<&Arc<Kernel>> {
        self.list.get(id.0 as usize)
    }

    /// How many were compiled.
    pub fn len(&self) -> u64 {
        self.list.len() as u64
    }

    /// The kernel for `body` and `constants`, compiled now if it is new.
    pub fn get_or_compile(
        &mut self,
        compiler: &Compiler<'_>,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let Body::Wgsl { file, defines } = *body else {
            return Err(Error::Unsupported {
                what: format!("kernel {name}"),
                why: "wgpu runs WGSL rows only".into(),
            });
        };
        let key = (file, defines, constants.to_vec());
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        let kernel = compiler.compile(name, file, defines, constants)?;
        let id = PipelineId(self.list.len() as u32);
        self.list.push(Arc::new(kernel));
        self.known.insert(key, id);
        Ok(id)
    }
}

impl Compiler<'_> {
    fn compile(
        &self,
        name: &str,
        file: &str,
        defines: &[&str],
        constants: &[(&'static str, u32)],
    ) -> Result<Kernel> {
        let text = wgsl::assemble(file, defines, self.target)
            .map_err(|e| Error::Invalid(format!("kernel {name}: {e}")))?;
        let what = format!("compiling kernel {name}");
        let layout = caught(self.wgpu, self.device, &what, 0, || {
            self.layout(name, &text.bindings)
        })?;
        let pipeline = caught(self.wgpu, self.device, &what, 0, || {
            self.pipeline(name, &text.source, &layout, constants)
        })?;
        Ok(Kernel {
            name: name.into(),
            pipeline,
            layout,
            bindings: text.bindings,
        })
    }

    fn layout(&self, name: &str, bindings: &[Binding]) -> wgpu::BindGroupLayout {
        let types = bindings.iter().filter_map(|binding| match binding {
            Binding::Params => Some(wgpu::BufferBindingType::Uniform),
            Binding::Read => Some(wgpu::BufferBindingType::Storage { read_only: true }),
            Binding::ReadWrite => Some(wgpu::BufferBindingType::Storage { read_only: false }),
            Binding::Unused => None,
        });
        let entries: Vec<_> = types
            .zip(0u32..)
            .map(|(ty, binding)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        self.wgpu
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(name),
                entries: &entries,
            })
    }

    fn pipeline(
        &self,
        name: &str,
        source: &str,
        layout: &wgpu::BindGroupLayout,
        constants: &[(&'static str, u32)],
    ) -> wgpu::ComputePipeline {
        let desc = wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = if self.checked {
            self.wgpu.create_shader_module(desc)
        } else {
            trusted_module(self.wgpu, desc)
        };
        let layout = self
            .wgpu
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(name),
                bind_group_layouts: &[Some(layout)],
                ..Default::default()
            });
        let constants: Vec<(&str, f64)> = constants
            .iter()
            .map(|(name, value)| (*name, f64::from(*value)))
            .collect();
        self.wgpu
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    // Every kernel writes workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: self.checked,
                },
                cache: None,
            })
    }
}

#[allow(unsafe_code)]
fn trusted_module(
    wgpu: &wgpu::Device,
    desc: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    // SAFETY: the text comes from this workspace's shaders only. Their loops end (each
    // counts up to a parameter), their divisors are never 0, and lowering promises that
    // every index lies in its operand (hadal-device, "What the runtime promises"). Indices
    // that come from data are bounded: token ids, rows and pages were checked by the engine
    // that wrote them, and the router writes `top_k` different experts whatever its scores,
    // NaN included, so `expert_offsets` gives every choice a place. The tests run the same
    // kernels with all checks on.
    unsafe { wgpu.create_shader_module_trusted(desc, wgpu::ShaderRuntimeChecks::unchecked()) }
}
