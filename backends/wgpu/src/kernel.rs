//! Kernels: from text to a compiled pipeline.

use hadal_device::Result;
use hadal_shaders::wgsl::{Assembled, Binding};

use crate::core::{Core, label};

/// What compiling a kernel makes.
pub struct Compiled {
    /// What it runs.
    pub pipeline: wgpu::ComputePipeline,
    /// What it binds.
    pub layout: wgpu::BindGroupLayout,
}

/// Where kernels are compiled.
pub struct Compiler<'d> {
    /// The device.
    pub core: &'d Core,
}

impl Compiler<'_> {
    /// The kernel `name` from its text.
    pub fn compile(
        &self,
        name: &str,
        text: &Assembled,
        constants: &[(&'static str, u32)],
    ) -> Result<Compiled> {
        let what = format!("compiling kernel {name}");
        let label = label(name);
        let layout = self
            .core
            .caught(&what, 0, || self.layout(&label, &text.bindings))?;
        let pipeline = self.core.caught(&what, 0, || {
            self.pipeline(&label, &text.source, &layout, constants)
        })?;
        Ok(Compiled { pipeline, layout })
    }

    fn layout(&self, label: &str, bindings: &[Binding]) -> wgpu::BindGroupLayout {
        let types = bindings.iter().filter_map(|binding| match binding {
            Binding::Params => Some(wgpu::BufferBindingType::Uniform),
            Binding::Read => Some(wgpu::BufferBindingType::Storage { read_only: true }),
            Binding::ReadWrite => Some(wgpu::BufferBindingType::Storage { read_only: false }),
            // Only modules, which this backend does not run, take addresses.
            Binding::Unused | Binding::Addresses { .. } => None,
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
        self.core
            .wgpu
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(label),
                entries: &entries,
            })
    }

    fn pipeline(
        &self,
        label: &str,
        source: &str,
        layout: &wgpu::BindGroupLayout,
        constants: &[(&'static str, u32)],
    ) -> wgpu::ComputePipeline {
        let desc = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = if self.core.options.checked {
            self.core.wgpu.create_shader_module(desc)
        } else {
            trusted_module(&self.core.wgpu, desc)
        };
        let layout = self
            .core
            .wgpu
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(label),
                bind_group_layouts: &[Some(layout)],
                ..Default::default()
            });
        let constants: Vec<(&str, f64)> = constants
            .iter()
            .map(|(name, value)| (*name, f64::from(*value)))
            .collect();
        self.core
            .wgpu
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(label),
                layout: Some(&layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    // Every kernel writes workgroup memory before it reads it; zeros would
                    // hide the one that does not.
                    zero_initialize_workgroup_memory: false,
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
