//! Pipelines by raw calls: vulkano cannot ask for full subgroups, and reading all of a
//! kernel again to know its interface serves nobody here.

use std::sync::Arc;

use ash::vk;
use vulkano::device::Device;
use vulkano::pipeline::PipelineLayout;
use vulkano::{VulkanError, VulkanObject};

use crate::cache::Cache;
use crate::fault::raw;
use crate::gpu::Gpu;

/// Number of the constant that is the width of workgroups, in all modules.
const WORKGROUP: u32 = 0;

/// A compiled kernel.
pub struct Pipeline {
    device: Arc<Device>,
    pipeline: vk::Pipeline,
}

impl Pipeline {
    /// The pipeline of the kernel `main` in `words` with these specialization constants, of
    /// which it may have some; number [`WORKGROUP`] is the width of its workgroups.
    ///
    /// # Safety
    /// The words are valid SPIR-V for this device, whose resources fit `layout` and which
    /// does nothing undefined when run as programs say.
    pub unsafe fn new(
        gpu: &Gpu,
        cache: &Cache,
        words: &[u32],
        layout: &PipelineLayout,
        constants: &[(u32, u32)],
    ) -> Result<Pipeline, VulkanError> {
        let device = gpu.device.handle();
        let fns = &gpu.device.fns().v1_0;
        let info = vk::ShaderModuleCreateInfo::default().code(words);
        let mut module = vk::ShaderModule::null();
        // SAFETY: the caller's promise.
        raw(unsafe { (fns.create_shader_module)(device, &info, std::ptr::null(), &mut module) })?;
        let mut interface = Interface::of(words);
        if let Some((_, width)) = constants.iter().find(|(id, _)| *id == WORKGROUP) {
            interface.width = *width;
        }
        let values = constants.iter().flat_map(|(_, value)| value.to_ne_bytes());
        let values: Vec<u8> = values.collect();
        let entry = |(place, (id, _)): (u32, &(u32, u32))| vk::SpecializationMapEntry {
            constant_id: *id,
            offset: 4 * place,
            size: 4,
        };
        let entries: Vec<_> = (0u32..).zip(constants).map(entry).collect();
        let special = vk::SpecializationInfo::default()
            .map_entries(&entries)
            .data(&values);
        let mut size = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default();
        let mut stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main")
            .specialization_info(&special);
        if let Some(subgroup) = gpu.offer.subgroup
            && subgroup.is_required
            && interface.uses_subgroups
        {
            if subgroup.full && interface.width.is_multiple_of(subgroup.size) {
                stage.flags |= vk::PipelineShaderStageCreateFlags::REQUIRE_FULL_SUBGROUPS;
            }
            size = size.required_subgroup_size(subgroup.size);
            stage = stage.push_next(&mut size);
        }
        let info = vk::ComputePipelineCreateInfo::default()
            .stage(stage)
            .layout(layout.handle());
        let mut pipeline = vk::Pipeline::null();
        // SAFETY: the module was made above, the cache and the layout live; the caller's
        // promise. The module is not needed afterwards.
        let made = raw(unsafe {
            let made = (fns.create_compute_pipelines)(
                device,
                cache.handle(),
                1,
                &info,
                std::ptr::null(),
                &mut pipeline,
            );
            (fns.destroy_shader_module)(device, module, std::ptr::null());
            made
        });
        made?;
        cache.count();
        Ok(Pipeline {
            device: gpu.device.clone(),
            pipeline,
        })
    }

    /// Vulkan's handle.
    pub fn handle(&self) -> vk::Pipeline {
        self.pipeline
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let destroy = self.device.fns().v1_0.destroy_pipeline;
        // SAFETY: programs hold the kernel as long as their commands may run.
        unsafe { destroy(self.device.handle(), self.pipeline, std::ptr::null()) };
    }
}

/// What of a kernel decides how it is compiled.
#[derive(Debug, PartialEq, Eq)]
struct Interface {
    /// It has operations across a subgroup, or asks for its size.
    uses_subgroups: bool,
    /// Invocations of a workgroup along x; 0 if a constant says it.
    width: u32,
}

impl Interface {
    /// Reads the instructions up to the first function.
    fn of(words: &[u32]) -> Interface {
        const CAPABILITY: u32 = 17;
        const EXECUTION_MODE: u32 = 16;
        const LOCAL_SIZE: u32 = 17;
        const FUNCTION: u32 = 54;
        /// GroupNonUniform to GroupNonUniformQuad, which follow each other.
        const SUBGROUPS: std::ops::RangeInclusive<u32> = 61..=68;
        let mut found = Interface {
            uses_subgroups: false,
            width: 0,
        };
        // Behind the five words of the header each instruction begins with its length.
        let mut rest = words.get(5..).unwrap_or_default();
        while let [first, ..] = *rest {
            let length = (first >> 16).max(1) as usize;
            match (first & 0xFFFF, rest) {
                (FUNCTION, _) => break,
                (CAPABILITY, [_, capability, ..]) if SUBGROUPS.contains(capability) => {
                    found.uses_subgroups = true;
                }
                (EXECUTION_MODE, [_, _, LOCAL_SIZE, x, ..]) => found.width = *x,
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Interface;

    #[test]
    fn the_instructions_before_the_first_function_say_what_a_kernel_uses() {
        let header = [0x0723_0203, 0x0001_0300, 0, 9, 0];
        let shader = [2 << 16 | 17, 1];
        let arithmetic = [2 << 16 | 17, 63];
        let size = [6 << 16 | 16, 4, 17, 64, 1, 1];
        let function = [5 << 16 | 54, 1, 2, 0, 3];
        let parts: [&[u32]; 5] = [&header, &shader, &arithmetic, &size, &function];
        let found = Interface::of(&parts.concat());
        assert!(found.uses_subgroups);
        assert_eq!(found.width, 64);
        // What looks like a capability within a function is none.
        let parts: [&[u32]; 5] = [&header, &shader, &size, &function, &arithmetic];
        assert!(!Interface::of(&parts.concat()).uses_subgroups);
        assert!(!Interface::of(&[1, 2]).uses_subgroups);
    }
}
