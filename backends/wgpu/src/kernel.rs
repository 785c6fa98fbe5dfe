//! Kernels: from text to a compiled pipeline.

use hadal_device::Result;
use hadal_shaders::wgsl::{Assembled, Binding};

use crate::core::{Core, label};

/// Bytes of what a kernel over nothing binds: no kernel asks for more where it binds least.
const EMPTY_BYTES: u64 = 64 << 10;

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
        let compiled = Compiled { pipeline, layout };
        if self.core.shared {
            self.warm_up(&what, &compiled, &text.bindings)?;
        }
        Ok(compiled)
    }

    /// Runs the kernel over nothing. Some drivers finish compiling when a kernel first runs
    /// (llvmpipe takes a tenth of a second), which holds up the queue: one at a time then, with
    /// the application's frames in between.
    fn warm_up(&self, what: &str, compiled: &Compiled, bindings: &[Binding]) -> Result<()> {
        let core = self.core;
        let commands = core.caught(what, 0, || {
            let buffers: Vec<_> = bindings
                .iter()
                .filter_map(usage)
                .map(|usage| {
                    core.wgpu.create_buffer(&wgpu::BufferDescriptor {
                        label: Some("hadal nothing"),
                        size: EMPTY_BYTES,
                        usage,
                        mapped_at_creation: false,
                    })
                })
                .collect();
            let entries = buffers.iter().zip(0u32..);
            let entries: Vec<_> = entries
                .map(|(buffer, binding)| wgpu::BindGroupEntry {
                    binding,
                    resource: buffer.as_entire_binding(),
                })
                .collect();
            let group = core.wgpu.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("hadal nothing"),
                layout: &compiled.layout,
                entries: &entries,
            });
            let desc = wgpu::CommandEncoderDescriptor {
                label: Some("hadal nothing"),
            };
            let mut encoder = core.wgpu.create_command_encoder(&desc);
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&compiled.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(0, 0, 0);
            drop(pass);
            encoder.finish()
        })?;
        let handed = core.hand_over(what, Some(commands))?;
        core.wait_for(&handed, what)
    }

    fn layout(&self, label: &str, bindings: &[Binding]) -> wgpu::BindGroupLayout {
        let types = bindings.iter().filter_map(binding_type);
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

/// What is bound there, if anything.
fn binding_type(binding: &Binding) -> Option<wgpu::BufferBindingType> {
    match binding {
        Binding::Params => Some(wgpu::BufferBindingType::Uniform),
        Binding::Read => Some(wgpu::BufferBindingType::Storage { read_only: true }),
        Binding::ReadWrite => Some(wgpu::BufferBindingType::Storage { read_only: false }),
        // Only modules, which this backend does not run, take addresses.
        Binding::Unused | Binding::Addresses { .. } => None,
    }
}

fn usage(binding: &Binding) -> Option<wgpu::BufferUsages> {
    binding_type(binding).map(|ty| match ty {
        wgpu::BufferBindingType::Uniform => wgpu::BufferUsages::UNIFORM,
        wgpu::BufferBindingType::Storage { .. } => wgpu::BufferUsages::STORAGE,
    })
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
