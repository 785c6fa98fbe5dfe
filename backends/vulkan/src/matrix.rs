//! Matrix units: what sizes of products a device has (VK_KHR_cooperative_matrix), and which of
//! them kernels use.

use ash::vk;
use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;

/// Workgroup memory that kernels on matrix units take at most.
const MATRIX_SHARED_BYTES: u32 = 32 << 10;

/// Largest side of a matrix that the kernels' tiles are divided into: with larger ones a tile
/// of sums for each subgroup takes more workgroup memory than that.
const MAX_SIDE: u32 = 16;

/// The largest size that the kernels' tiles can be made of, as in `Limits::matrix`.
pub fn size(device: &PhysicalDevice) -> Option<[u32; 3]> {
    let (features, p) = (device.supported_features(), device.properties());
    let enough = device.supported_extensions().khr_cooperative_matrix
        && features.cooperative_matrix
        && features.shader_float16
        && features.vulkan_memory_model
        && p.max_compute_shared_memory_size >= MATRIX_SHARED_BYTES;
    if !enough {
        return None;
    }
    let usable = |size: &[u32; 3]| {
        size.iter()
            .all(|side| side.is_power_of_two() && *side <= MAX_SIDE)
    };
    sizes(device)
        .into_iter()
        .filter(usable)
        .max_by_key(|[m, n, k]| m * n * k)
}

/// Sizes `[m, n, k]` of products of f16 matrices with f32 sums that a subgroup can do.
fn sizes(device: &PhysicalDevice) -> Vec<[u32; 3]> {
    let instance = device.instance();
    let query = ash::khr::cooperative_matrix::InstanceFn::load(|name| {
        let library = instance.library();
        // SAFETY: a living instance and a terminated name.
        let found = unsafe { library.get_instance_proc_addr(instance.handle(), name.as_ptr()) };
        found.map_or(std::ptr::null(), |function| function as *const _)
    });
    let query = query.get_physical_device_cooperative_matrix_properties_khr;
    let mut count = 0;
    // SAFETY: the device has the extension, as the caller saw, so the function is there; it
    // writes the count alone, then at most `count` properties.
    let properties = unsafe {
        let none = std::ptr::null_mut();
        if query(device.handle(), &mut count, none) != vk::Result::SUCCESS {
            return Vec::new();
        }
        let mut list = vec![vk::CooperativeMatrixPropertiesKHR::default(); count as usize];
        if query(device.handle(), &mut count, list.as_mut_ptr()) != vk::Result::SUCCESS {
            return Vec::new();
        }
        list.truncate(count as usize);
        list
    };
    let (half, float) = (vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32);
    let sizes = properties.iter().filter(|p| {
        (p.a_type, p.b_type, p.c_type, p.result_type) == (half, half, float, float)
            && p.scope == vk::ScopeKHR::SUBGROUP
    });
    sizes.map(|p| [p.m_size, p.n_size, p.k_size]).collect()
}
