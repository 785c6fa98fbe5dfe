//! The devices that every test of numbers runs on.

use std::sync::{Arc, Mutex, PoisonError};

use hadal_conformance::Lacking;
use hadal_cuda::{CudaBackend, CudaOptions};
use hadal_device::{Backend, Device, Features};
use hadal_engine::EngineOptions;
use hadal_gpumock::Steer;
use hadal_host::{HostBackend, Isa};
use hadal_rocm::{RocmBackend, RocmOptions};
use hadal_vulkan::{VulkanBackend, VulkanOptions};
use hadal_wgpu::{WgpuBackend, WgpuLimits, WgpuOptions};

/// Binding limit at which the small models' larger matrices are cut, and their caches and
/// head projections, which must stay whole, still fit.
const SMALL_BINDING: u64 = 128 << 10;

/// An open device and the name that failures show.
pub struct Named {
    /// For messages.
    pub name: String,
    /// The device.
    pub device: Arc<dyn Device>,
    /// Of a mock driver; ends after the device.
    _on_mock: Option<OnMock>,
}

/// Devices of mock drivers that are open in this process.
static ON_MOCKS: Mutex<usize> = Mutex::new(0);

/// A device of a mock driver is open. When the last one was closed, nothing may be left and the
/// drivers must have nothing to say.
struct OnMock(());

impl OnMock {
    fn new() -> OnMock {
        *ON_MOCKS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        OnMock(())
    }
}

impl Drop for OnMock {
    fn drop(&mut self) {
        let mut open = ON_MOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        *open -= 1;
        if *open == 0 && !std::thread::panicking() {
            no_complaints();
            let left = Steer::open().and_then(|mock| mock.live());
            assert_eq!(left.expect("the mock drivers"), 0, "left in mock drivers");
        }
    }
}

/// Panics if the mock drivers complain of a call, or of bytes written beside a buffer.
pub fn no_complaints() {
    let said = Steer::open().and_then(|mock| mock.complaints());
    let said = said.expect("the mock drivers");
    assert!(said.is_empty(), "the mock drivers complain:\n{said}");
}

impl Named {
    /// The options, with contexts, batches and chunks that fit bindings made small on purpose.
    pub fn fit(&self, options: EngineOptions) -> EngineOptions {
        if self.device.info().limits.max_binding_bytes > SMALL_BINDING {
            return options;
        }
        EngineOptions {
            context: Some(options.context.unwrap_or(64).min(64)),
            batch: options.batch.min(3),
            chunk: options.chunk.min(16),
            ..options
        }
    }
}

fn named(name: &str, backend: &dyn Backend) -> Option<Named> {
    match backend.open(0) {
        Ok(device) => Some(Named {
            name: format!("{name} ({})", device.info().name),
            device,
            _on_mock: None,
        }),
        Err(error) => {
            println!("NOT RUN on {name}: {error}");
            None
        }
    }
}

/// The plain host.
pub fn scalar() -> Named {
    host_with(Isa::Scalar)
}

fn host_with(isa: Isa) -> Named {
    let backend = HostBackend::new().with_isa(isa).with_threads(2);
    named(&format!("host {}", isa.name()), &backend).expect("the host always opens")
}

/// The host with its best instructions.
pub fn host() -> Named {
    named("host", &HostBackend::new()).expect("the host always opens")
}

/// A software adapter in the guise of a GPU that has the features but `lacking`.
fn as_gpu(named: &Named, without: &str, lacking: Features) -> Option<Named> {
    let is_software = named.device.info().features.has(Features::SOFTWARE);
    is_software.then(|| Named {
        name: format!("as a GPU{without}: {}", named.name),
        device: Arc::new(Lacking::new(named.device.clone(), lacking)),
        _on_mock: None,
    })
}

/// The host with each instruction set that it has, wgpu with bounds checks, the same with
/// the kernels of GPUs without subgroup operations where it is a software adapter, and wgpu with
/// bindings so small that every matrix is cut; Vulkan likewise, but as a GPU with subgroup
/// operations; CUDA and ROCm. Devices that this machine lacks are named on standard output.
pub fn all() -> Vec<Named> {
    let checked = WgpuOptions {
        checked: true,
        ..WgpuOptions::default()
    };
    let pieces = WgpuOptions {
        limits: WgpuLimits::BindingBytes(SMALL_BINDING),
        ..WgpuOptions::default()
    };
    let sets = Isa::ALL.into_iter().filter(|isa| isa.available());
    let mut devices: Vec<_> = sets.map(host_with).collect();
    let wgpu = named("wgpu checked", &WgpuBackend::new(checked));
    let no_subgroups = Features::SOFTWARE.with(Features::SUBGROUPS);
    let guise = |named| as_gpu(named, " without subgroups", no_subgroups);
    devices.extend(wgpu.as_ref().and_then(guise));
    devices.extend(wgpu);
    devices.extend(named("wgpu in pieces", &WgpuBackend::new(pieces)));
    let options = VulkanOptions {
        checked: true,
        adopt: Some(true),
        ..VulkanOptions::default()
    };
    let vulkan = named("vulkan checked", &VulkanBackend::new(options));
    let guise = |named| as_gpu(named, "", Features::SOFTWARE);
    devices.extend(vulkan.as_ref().and_then(guise));
    devices.extend(vulkan);
    let pieces = VulkanOptions {
        binding_bytes: Some(SMALL_BINDING),
        ..VulkanOptions::default()
    };
    devices.extend(named("vulkan in pieces", &VulkanBackend::new(pieces)));
    devices.extend(named("cuda", &CudaBackend::default()));
    devices.extend(named("rocm", &RocmBackend::default()));
    devices
}

/// [`all`], and CUDA and ROCm under mock drivers. `HADAL_TEST_DEVICES` may name some of them by
/// how their names begin, with commas between: with one more driver the host need not be tested
/// once more.
pub fn of_golden_cases() -> Vec<Named> {
    let wanted = std::env::var("HADAL_TEST_DEVICES").ok();
    let is_wanted = |named: &Named| {
        let mut names = wanted.iter().flat_map(|names| names.split(','));
        wanted.is_none() || names.any(|name| named.name.starts_with(name))
    };
    let mut devices = all();
    devices.extend(mocks());
    devices.retain(is_wanted);
    assert!(!devices.is_empty(), "HADAL_TEST_DEVICES names no device");
    devices
}

/// CUDA and ROCm on drivers that run the kernels on the processor: a hundred times slower than
/// the host, so for the golden cases alone.
fn mocks() -> Vec<Named> {
    // Programs that were packed for another machine come without them.
    if let Err(error) = Steer::open() {
        println!("NOT RUN on mock drivers: {error}");
        return Vec::new();
    }
    // Before the devices: while there are such, nobody looks at what is left.
    let held = [OnMock::new(), OnMock::new()];
    let library = Some(hadal_gpumock::library());
    let cuda = CudaBackend::new(CudaOptions {
        library: library.clone(),
        ..CudaOptions::default()
    });
    let rocm = RocmBackend::new(RocmOptions {
        library,
        ..RocmOptions::default()
    });
    let devices = [
        named("cuda under a mock driver", &cuda),
        named("rocm under a mock driver", &rocm),
    ];
    let devices = devices.into_iter().zip(held);
    let devices = devices.filter_map(|(named, held)| {
        Some(Named {
            _on_mock: Some(held),
            ..named?
        })
    });
    devices.collect()
}
