//! What the validation layers find. A message is a mistake of this backend: the device then
//! refuses everything, so that no test passes over it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hadal_device::{Error, Result};
use vulkano::instance::Instance;
use vulkano::instance::debug::{
    DebugUtilsMessageSeverity, DebugUtilsMessageType, DebugUtilsMessenger,
    DebugUtilsMessengerCallback, DebugUtilsMessengerCreateInfo,
};

/// The layer that checks the calls.
pub const LAYER: &str = "VK_LAYER_KHRONOS_validation";

/// Messages that are not about this backend, by name and reason.
const KNOWN: &[(&str, &str)] = &[(
    "VUID-StandaloneSpirv-None-10684",
    "naga 30 gives arrays in workgroup memory a stride, which newer layers refuse and drivers ignore",
)];

/// Messages so far.
#[derive(Default)]
pub struct Messages {
    any: AtomicBool,
    list: Mutex<Vec<String>>,
}

impl Messages {
    /// Keeps what the layers of `instance`, if it has any, say as long as the result lives.
    pub fn listen(self: &Arc<Self>, instance: &Arc<Instance>) -> Option<DebugUtilsMessenger> {
        let messages = self.clone();
        // SAFETY: the function calls nothing of Vulkan.
        let callback = unsafe {
            DebugUtilsMessengerCallback::new(move |_, _, data| {
                messages.add(data.message_id_name.unwrap_or_default(), data.message);
            })
        };
        let info = DebugUtilsMessengerCreateInfo {
            message_severity: DebugUtilsMessageSeverity::ERROR | DebugUtilsMessageSeverity::WARNING,
            message_type: DebugUtilsMessageType::VALIDATION,
            ..DebugUtilsMessengerCreateInfo::user_callback(callback)
        };
        let has_layer = instance.enabled_extensions().ext_debug_utils;
        has_layer.then(|| DebugUtilsMessenger::new(instance.clone(), info).ok())?
    }

    fn add(&self, name: &str, text: &str) {
        if KNOWN.iter().any(|(known, _)| *known == name) {
            return;
        }
        self.lock().push(format!("{name}: {text}"));
        self.any.store(true, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All so far.
    pub fn all(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// `Err` with the first message if there is one.
    pub fn check(&self, device: &str) -> Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let first = self.lock().first().cloned().unwrap_or_default();
        Err(Error::Invalid(format!(
            "the validation layers say of {device}: {first}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vulkano::VulkanLibrary;
    use vulkano::buffer::BufferUsage;

    use super::{LAYER, Messages};
    use crate::VulkanOptions;
    use crate::gpu::Gpu;
    use crate::instance::enumerate;
    use crate::memory::{Memory, Place};
    use crate::record::Commands;

    #[test]
    fn a_mistake_that_the_layers_find_stops_the_device() {
        const TEST: &str = "a_mistake_that_the_layers_find_stops_the_device";
        let has_layer = VulkanLibrary::new()
            .ok()
            .and_then(|library| library.layer_properties().ok())
            .is_some_and(|mut layers| layers.any(|layer| layer.name() == LAYER));
        let options = VulkanOptions {
            checked: true,
            ..VulkanOptions::default()
        };
        let messages = Arc::new(Messages::default());
        let Some((physical, info)) = enumerate(&options)
            .ok()
            .filter(|_| has_layer)
            .and_then(|mut found| found.drain(..).next())
        else {
            eprintln!("NOT RUN: {TEST}, there is no device or no {LAYER}");
            return;
        };
        let gpu = Gpu::open(physical, info.id(), &options, messages.clone()).expect("a device");
        let usage = BufferUsage::STORAGE_BUFFER;
        let memory = Memory::new(&gpu, "test", 64, usage, Place::Device).expect("memory");
        let mut commands = Commands::new(&gpu.device, gpu.family()).expect("commands");
        gpu.check().expect("no message so far");
        // SAFETY: never submitted. The offset is no multiple of 4, which is the mistake.
        unsafe {
            let _ = commands.record(|recording| recording.fill((memory.handle(), 2), 4, 0));
        }
        let error = gpu.check().expect_err("the layers saw it").to_string();
        assert!(error.contains("VUID-vkCmdFillBuffer-dstOffset"), "{error}");
        assert_eq!(messages.all().len(), 1);
    }
}
