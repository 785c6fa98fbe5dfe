//! Kernels: from WGSL or a module to a compiled pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use hadal_device::{Error, Result};
use hadal_shaders::spirv::{CONSTANTS, HALF_SUBNORMALS, Module};
use hadal_shaders::wgsl::{Assembled, Binding, Target};
use naga::back::{PipelineConstants, pipeline_constants, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use vulkano::descriptor_set::layout::{
    DescriptorSetLayout, DescriptorSetLayoutBinding, DescriptorSetLayoutCreateInfo, DescriptorType,
};
use vulkano::pipeline::PipelineLayout;
use vulkano::pipeline::layout::PipelineLayoutCreateInfo;
use vulkano::shader::ShaderStages;

use crate::cache::Cache;
use crate::gpu::Gpu;
use crate::pipeline::Pipeline;

/// What compiling a kernel makes.
pub struct Compiled {
    /// What it runs.
    pub pipeline: Pipeline,
    /// Its place in commands.
    pub layout: Arc<PipelineLayout>,
    /// What it binds.
    pub set: Arc<DescriptorSetLayout>,
}

/// Where kernels are compiled.
pub struct Compiler<'g> {
    /// The device.
    pub gpu: &'g Gpu,
    /// Pipelines of earlier times.
    pub cache: &'g Cache,
    /// With bounds checks.
    pub checked: bool,
}

impl Compiler<'_> {
    /// What kernels may use beyond plain WGSL.
    fn capabilities(&self) -> Capabilities {
        match self.gpu.offer.subgroup {
            Some(_) => Capabilities::SUBGROUP,
            None => Capabilities::empty(),
        }
    }

    /// The kernel `name` from its text.
    pub fn compile(
        &self,
        name: &str,
        text: &Assembled,
        constants: &[(&'static str, u32)],
    ) -> Result<Compiled> {
        let broken = |why: String| Error::Invalid(format!("kernel {name}: {why}"));
        let words =
            spirv(&text.source, constants, self.checked, self.capabilities()).map_err(broken)?;
        self.pipeline(name, &words, &text.bindings, &[])
    }

    /// The kernel `name` from a module.
    pub fn compile_module(
        &self,
        name: &str,
        module: &Module,
        constants: &[(&'static str, u32)],
        target: Target,
    ) -> Result<Compiled> {
        let half = (HALF_SUBNORMALS, u32::from(target.half_subnormals));
        let number = |(constant, value): &(&str, u32)| {
            let known = CONSTANTS.iter().find(|(known, _)| known == constant);
            let (_, number) = known.ok_or_else(|| {
                Error::Invalid(format!("kernel {name}: no constant is called {constant}"))
            })?;
            Ok((*number, *value))
        };
        let values: Result<Vec<_>> = constants.iter().chain([&half]).map(number).collect();
        self.pipeline(name, &module.words(), module.bindings, &values?)
    }

    fn pipeline(
        &self,
        name: &str,
        words: &[u32],
        bindings: &[Binding],
        constants: &[(u32, u32)],
    ) -> Result<Compiled> {
        let what = format!("compiling kernel {name}");
        let fault = |error| self.gpu.error(error, &what, 0);
        let device = || self.gpu.device.clone();
        let set = DescriptorSetLayout::new(device(), set_info(bindings)).map_err(fault)?;
        let layout = PipelineLayoutCreateInfo {
            set_layouts: vec![set.clone()],
            ..Default::default()
        };
        let layout = PipelineLayout::new(device(), layout).map_err(fault)?;
        // SAFETY: the words are SPIR-V that naga wrote from validated WGSL of this workspace, or
        // glslang from its GLSL; loops end and indices lie in their operands by the promises of
        // lowering (hadal-device, "What the runtime promises").
        let pipeline = unsafe { Pipeline::new(self.gpu, self.cache, words, &layout, constants) };
        let pipeline = pipeline.map_err(|error| self.gpu.error(error, &what, 0))?;
        Ok(Compiled {
            pipeline,
            layout,
            set,
        })
    }
}

fn set_info(bindings: &[Binding]) -> DescriptorSetLayoutCreateInfo {
    let used = bindings.iter().filter(|b| **b != Binding::Unused);
    let entries = used.zip(0u32..).map(|(binding, number)| {
        let kind = match binding {
            Binding::Params => DescriptorType::UniformBuffer,
            _ => DescriptorType::StorageBuffer,
        };
        let entry = DescriptorSetLayoutBinding {
            stages: ShaderStages::COMPUTE,
            ..DescriptorSetLayoutBinding::descriptor_type(kind)
        };
        (number, entry)
    });
    DescriptorSetLayoutCreateInfo {
        bindings: entries.collect::<BTreeMap<_, _>>(),
        ..Default::default()
    }
}

/// WGSL to SPIR-V with the constants put in.
fn spirv(
    source: &str,
    constants: &[(&'static str, u32)],
    checked: bool,
    capabilities: Capabilities,
) -> std::result::Result<Vec<u32>, String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| e.emit_to_string(source))?;
    let mut values = PipelineConstants::default();
    for (name, value) in constants {
        values.insert((*name).to_string(), f64::from(*value));
    }
    let entry = (naga::ShaderStage::Compute, "main");
    let (module, info) =
        pipeline_constants::process_overrides(&module, &info, Some(entry), &values)
            .map_err(|e| e.to_string())?;
    let policy = if checked {
        BoundsCheckPolicy::Restrict
    } else {
        BoundsCheckPolicy::Unchecked
    };
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            ..Default::default()
        },
        // Every kernel writes workgroup memory before it reads it; zeros would hide the one
        // that does not, and take compilers minutes.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        use_storage_input_output_16: false,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: entry.0,
        entry_point: entry.1.into(),
    };
    spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| e.to_string())
}
