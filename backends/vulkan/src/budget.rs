//! How much device memory may still be taken.
//!
//! Where the driver tells a budget (VK_EXT_memory_budget), that less what the process uses;
//! elsewhere the size of the heap less what this device took. An option lowers it.

use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;
use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;
use vulkano::memory::MemoryHeapFlags;

/// Memory in use on an open device.
pub struct Budget {
    physical: Arc<PhysicalDevice>,
    /// Bytes taken from each heap.
    taken: Mutex<Vec<u64>>,
    /// For all heaps of the device together, if less than they have is wanted.
    limit: Option<u64>,
}

/// Bytes taken; given back when it goes.
pub struct Taken {
    budget: Arc<Budget>,
    heap: usize,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = lock(&self.budget.taken);
        taken[self.heap] -= self.bytes;
    }
}

fn lock(taken: &Mutex<Vec<u64>>) -> std::sync::MutexGuard<'_, Vec<u64>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Budget {
    /// The budget of `physical`, at most `limit`.
    pub fn new(physical: &Arc<PhysicalDevice>, limit: Option<u64>) -> Budget {
        let heaps = physical.memory_properties().memory_heaps.len();
        Budget {
            physical: physical.clone(),
            taken: Mutex::new(vec![0; heaps]),
            limit,
        }
    }

    /// Takes `bytes` of `heap`, or tells how many are left.
    pub fn take(self: &Arc<Self>, heap: u32, bytes: u64) -> Result<Taken, u64> {
        let heap = heap as usize;
        let mut taken = lock(&self.taken);
        let left = self.left(heap, &taken);
        if bytes > left {
            return Err(left);
        }
        taken[heap] += bytes;
        Ok(Taken {
            budget: self.clone(),
            heap,
            bytes,
        })
    }

    fn left(&self, heap: usize, taken: &[u64]) -> u64 {
        let size = self.physical.memory_properties().memory_heaps[heap].size;
        let told = told(&self.physical);
        let told = told.map(|told| [told.heap_budget[heap], told.heap_usage[heap]]);
        left(size, told, taken[heap], self.limit, taken.iter().sum())
    }
}

/// Bytes left in a heap of `size` bytes whose budget and use the driver may tell, after this
/// device took `taken` of it and `all` of all heaps, of which it may have `limit`.
fn left(size: u64, told: Option<[u64; 2]>, taken: u64, limit: Option<u64>, all: u64) -> u64 {
    let left = match told {
        Some([budget, used]) => budget.saturating_sub(used),
        None => size.saturating_sub(taken),
    };
    limit.map_or(left, |limit| left.min(limit.saturating_sub(all)))
}

/// Memory a program may take from the device's largest own heap, at most `limit`.
pub fn device_bytes(physical: &PhysicalDevice, limit: Option<u64>) -> Option<u64> {
    let told = told(physical);
    let heaps = physical.memory_properties().memory_heaps.iter().enumerate();
    let bytes = heaps
        .filter(|(_, heap)| heap.flags.contains(MemoryHeapFlags::DEVICE_LOCAL))
        .map(|(index, heap)| told.map_or(heap.size, |told| told.heap_budget[index].min(heap.size)))
        .max()?;
    Some(limit.map_or(bytes, |limit| limit.min(bytes)))
}

/// What the driver tells now, if it does.
fn told(physical: &PhysicalDevice) -> Option<vk::PhysicalDeviceMemoryBudgetPropertiesEXT<'static>> {
    if !physical.supported_extensions().ext_memory_budget {
        return None;
    }
    let mut told = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut told);
    let ask = physical
        .instance()
        .fns()
        .v1_1
        .get_physical_device_memory_properties2;
    // SAFETY: the physical device has the extension whose structure is chained.
    unsafe { ask(physical.handle(), &mut properties) };
    told.p_next = std::ptr::null_mut();
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::left;

    #[test]
    fn what_is_left_is_the_least_that_anyone_says() {
        // The driver knows of other programs.
        assert_eq!(left(100, Some([80, 30]), 10, None, 10), 50);
        assert_eq!(left(100, Some([80, 90]), 10, None, 10), 0);
        // Without its word, what this device took is all that is known.
        assert_eq!(left(100, None, 10, None, 30), 90);
        assert_eq!(left(100, None, 120, None, 120), 0);
        // The option counts all heaps.
        assert_eq!(left(100, Some([80, 30]), 10, Some(60), 20), 40);
        assert_eq!(left(100, Some([80, 30]), 10, Some(90), 20), 50);
        assert_eq!(left(100, None, 10, Some(5), 30), 0);
    }
}
