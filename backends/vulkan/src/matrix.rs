//! Matrix units: what sizes of products a device has (VK_KHR_cooperative_matrix) of which
//! elements (VK_KHR_shader_bfloat16, VK_EXT_shader_float8), and which of them kernels use.

use std::ffi::{CStr, c_void};

use ash::vk;
use hadal_device::MatrixSizes;
use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;

/// Workgroup memory that kernels on matrix units take at most.
const MATRIX_SHARED_BYTES: u32 = 32 << 10;

/// Largest rows and columns of a matrix of sums that the kernels' tiles are divided into: with
/// larger ones a tile of sums for each subgroup takes more workgroup memory than that.
const MAX_SIDE: u32 = 16;

/// Inputs that kernels load at once.
const MAX_DEPTH: u32 = 32;

/// A type of elements that is younger than the headers of vulkano and ash.
pub struct Element {
    /// The extension it comes with.
    pub extension: &'static CStr,
    /// What asks for its features.
    structure: vk::StructureType,
    /// Which of its features is that matrices can have such elements; the first one is that the
    /// type exists.
    matrices: usize,
    component: vk::ComponentTypeKHR,
}

/// bfloat16.
pub const BF16: Element = Element {
    extension: c"VK_KHR_shader_bfloat16",
    structure: vk::StructureType::from_raw(1_000_141_000),
    matrices: 2,
    component: vk::ComponentTypeKHR::from_raw(1_000_141_000),
};

/// E4M3.
pub const E4M3: Element = Element {
    extension: c"VK_EXT_shader_float8",
    structure: vk::StructureType::from_raw(1_000_567_000),
    matrices: 1,
    component: vk::ComponentTypeKHR::from_raw(1_000_491_002),
};

/// The features of a type of elements, as `VkPhysicalDeviceShaderBfloat16FeaturesKHR`; that of
/// E4M3 lacks the last word.
#[repr(C)]
pub struct ElementFeatures {
    structure: vk::StructureType,
    next: *mut c_void,
    features: [vk::Bool32; 3],
}

// SAFETY: both are structures that Vulkan allows there, and no lifetimes hang on them.
unsafe impl vk::ExtendsPhysicalDeviceFeatures2 for ElementFeatures {}
// SAFETY: as above.
unsafe impl vk::ExtendsDeviceCreateInfo for ElementFeatures {}

impl Element {
    /// The features that matrices of such elements take, switched on.
    pub fn features(&self) -> ElementFeatures {
        let mut features = [vk::FALSE; 3];
        features[0] = vk::TRUE;
        features[self.matrices] = vk::TRUE;
        ElementFeatures {
            features,
            ..self.no_features()
        }
    }

    fn no_features(&self) -> ElementFeatures {
        ElementFeatures {
            structure: self.structure,
            next: std::ptr::null_mut(),
            features: [vk::FALSE; 3],
        }
    }

    /// Whether a device whose extensions are these has matrices of such elements.
    fn is_in(&self, device: &PhysicalDevice, extensions: &[vk::ExtensionProperties]) -> bool {
        let is_named =
            |known: &vk::ExtensionProperties| known.extension_name_as_c_str() == Ok(self.extension);
        if !extensions.iter().any(is_named) {
            return false;
        }
        let mut features = self.no_features();
        let mut all = vk::PhysicalDeviceFeatures2::default().push_next(&mut features);
        let query = device.instance().fns().v1_1.get_physical_device_features2;
        // SAFETY: the device has the extension that the structure in the chain is of.
        unsafe { query(device.handle(), &mut all) };
        features.features[0] == vk::TRUE && features.features[self.matrices] == vk::TRUE
    }
}

/// The largest sizes that the kernels' tiles can be made of.
pub fn sizes(device: &PhysicalDevice) -> Option<MatrixSizes> {
    let (features, p) = (device.supported_features(), device.properties());
    let enough = device.supported_extensions().khr_cooperative_matrix
        && features.cooperative_matrix
        && features.vulkan_memory_model
        && p.max_compute_shared_memory_size >= MATRIX_SHARED_BYTES;
    if !enough {
        return None;
    }
    let (products, extensions) = (products(device), extensions(device));
    let (half, float) = (vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32);
    let (byte, word) = (vk::ComponentTypeKHR::SINT8, vk::ComponentTypeKHR::SINT32);
    let young = |element: &Element| {
        let has = element.is_in(device, &extensions);
        largest(&products, element.component, float).filter(|_| has)
    };
    let sizes = MatrixSizes {
        f16: largest(&products, half, float).filter(|_| features.shader_float16),
        bf16: young(&BF16),
        e4m3: young(&E4M3),
        int8: largest(&products, byte, word).filter(|_| features.shader_int8),
    };
    let all = [sizes.f16, sizes.bf16, sizes.e4m3, sizes.int8];
    all.iter().any(Option::is_some).then_some(sizes)
}

/// The largest usable size `[m, n, k]` of products of such elements with such sums that a subgroup
/// can do.
fn largest(
    products: &[vk::CooperativeMatrixPropertiesKHR<'_>],
    element: vk::ComponentTypeKHR,
    sum: vk::ComponentTypeKHR,
) -> Option<[u32; 3]> {
    let sizes = products.iter().filter(|p| {
        (p.a_type, p.b_type, p.c_type, p.result_type) == (element, element, sum, sum)
            && p.saturating_accumulation == vk::FALSE
            && p.scope == vk::ScopeKHR::SUBGROUP
    });
    let usable = |[m, n, k]: &[u32; 3]| {
        let powers = [m, n, k].into_iter().all(|side| side.is_power_of_two());
        powers && *m <= MAX_SIDE && *n <= MAX_SIDE && *k <= MAX_DEPTH
    };
    sizes
        .map(|p| [p.m_size, p.n_size, p.k_size])
        .filter(usable)
        .max_by_key(|[m, n, k]| m * n * k)
}

/// All extensions of the device, those that vulkano does not know too.
fn extensions(device: &PhysicalDevice) -> Vec<vk::ExtensionProperties> {
    let query = device
        .instance()
        .fns()
        .v1_0
        .enumerate_device_extension_properties;
    // SAFETY: it writes the count alone, then at most `count` names.
    listed(vk::ExtensionProperties::default(), |count, list| unsafe {
        query(device.handle(), std::ptr::null(), count, list)
    })
}

/// All products of cooperative matrices; the device has the extension.
fn products(device: &PhysicalDevice) -> Vec<vk::CooperativeMatrixPropertiesKHR<'static>> {
    let instance = device.instance();
    let query = ash::khr::cooperative_matrix::InstanceFn::load(|name| {
        let library = instance.library();
        // SAFETY: a living instance and a terminated name.
        let found = unsafe { library.get_instance_proc_addr(instance.handle(), name.as_ptr()) };
        found.map_or(std::ptr::null(), |function| function as *const _)
    });
    let query = query.get_physical_device_cooperative_matrix_properties_khr;
    // SAFETY: the device has the extension, as the caller saw, so the function is there; it
    // writes the count alone, then at most `count` properties.
    listed(
        vk::CooperativeMatrixPropertiesKHR::default(),
        |count, list| unsafe { query(device.handle(), count, list) },
    )
}

/// What a function of Vulkan lists that is asked for the count and then for the values; nothing
/// where it fails.
fn listed<T: Clone>(empty: T, query: impl Fn(*mut u32, *mut T) -> vk::Result) -> Vec<T> {
    let mut count = 0;
    if query(&mut count, std::ptr::null_mut()) != vk::Result::SUCCESS {
        return Vec::new();
    }
    let mut list = vec![empty; count as usize];
    if query(&mut count, list.as_mut_ptr()) != vk::Result::SUCCESS {
        return Vec::new();
    }
    list.truncate(count as usize);
    list
}
