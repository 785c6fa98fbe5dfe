//! Kernels: from text to SPIR-V and a compiled pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use hadal_device::{Error, Result};
use hadal_shaders::wgsl::{Assembled, Binding};
use naga::back::{PipelineConstants, pipeline_constants, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use vulkano::descriptor_set::layout::{
    DescriptorSetLayout, DescriptorSetLayoutBinding, DescriptorSetLayoutCreateInfo, DescriptorType,
};
use vulkano::pipeline::compute::ComputePipelineCreateInfo;
use vulkano::pipeline::layout::PipelineLayoutCreateInfo;
use vulkano::pipeline::{ComputePipeline, PipelineLayout, PipelineShaderStageCreateInfo};
use vulkano::shader::{ShaderModule, ShaderModuleCreateInfo, ShaderStages};

use crate::gpu::Gpu;

/// What compiling a kernel makes.
pub struct Compiled {
    /// What it runs.
    pub pipeline: Arc<ComputePipeline>,
    /// Its place in commands.
    pub layout: Arc<PipelineLayout>,
    /// What it binds.
    pub set: Arc<DescriptorSetLayout>,
}

/// Where kernels are compiled.
pub struct Compiler<'g> {
    /// The device.
    pub gpu: &'g Gpu,
    /// With bounds checks.
    pub checked: bool,
}

impl Compiler<'_> {
    /// The kernel `name` from its text.
    pub fn compile(
        &self,
        name: &str,
        text: &Assembled,
        constants: &[(&'static str, u32)],
    ) -> Result<Compiled> {
        let broken = |why: String| Error::Invalid(format!("kernel {name}: {why}"));
        let words = spirv(&text.source, constants, self.checked).map_err(broken)?;
        let what = format!("compiling kernel {name}");
        let fault = |error| self.gpu.error(error, &what, 0);
        let device = || self.gpu.device.clone();
        let set = DescriptorSetLayout::new(device(), set_info(&text.bindings)).map_err(fault)?;
        let layout = PipelineLayoutCreateInfo {
            set_layouts: vec![set.clone()],
            ..Default::default()
        };
        let layout = PipelineLayout::new(device(), layout).map_err(fault)?;
        // SAFETY: the words are SPIR-V that naga wrote from validated WGSL of this
        // workspace; loops end and indices lie in their operands by the promises of lowering
        // (hadal-device, "What the runtime promises").
        let module = unsafe { ShaderModule::new(device(), ShaderModuleCreateInfo::new(&words)) };
        let entry = module.map_err(fault)?.entry_point("main");
        let entry = entry.ok_or_else(|| broken("it has no entry point main".into()))?;
        let info = ComputePipelineCreateInfo::stage_layout(
            PipelineShaderStageCreateInfo::new(entry),
            layout.clone(),
        );
        let pipeline = ComputePipeline::new(device(), None, info).map_err(fault)?;
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
) -> std::result::Result<Vec<u32>, String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
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
    let zero = if checked {
        spv::ZeroInitializeWorkgroupMemoryMode::Polyfill
    } else {
        // Every kernel writes workgroup memory before it reads it.
        spv::ZeroInitializeWorkgroupMemoryMode::None
    };
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            ..Default::default()
        },
        zero_initialize_workgroup_memory: zero,
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
