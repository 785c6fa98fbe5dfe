//! What the machine's processor is, and opening it as a device.

use std::collections::HashSet;
use std::sync::Arc;

use hadal_device::{Backend, Device, DeviceInfo, DeviceKind, Error, Features, Limits, Result};

use crate::device::HostDevice;
use crate::memory::machine_bytes;

/// From how many tokens a step on expanding keys and values is faster than absorbing: the
/// expansion of a cached position costs `(nope + value) * latent` products, shared by all
/// queries, and a query then saves `2 * latent - nope - value` of them. With V3's numbers
/// the two are equal at 0 tokens for a new prompt and at 170 far into a long one; measured,
/// 128 tokens at a depth of 1,024 take 21 ms expanded and 17 absorbed, 512 tokens at a depth
/// of 2,048 take 68 and 126 (16 heads, two cores, AVX-512).
const EXPAND_FROM_TOKENS: u32 = 192;

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// No vector instructions beyond what the compiler uses by itself.
    Scalar,
    /// 64-bit Arm, Advanced SIMD.
    Neon,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL (and all of `Avx2`).
    Avx512,
    /// `Avx512` with its VNNI extension.
    Avx512Vnni,
    /// `Avx512Vnni` with the VBMI extension.
    Avx512Vbmi,
    /// `Avx512Vbmi` with the BF16 extension.
    Avx512Bf16,
    /// `Avx512Bf16` with matrix units of BF16.
    Amx,
}

impl Isa {
    /// All of them; of those that one processor can have, wider ones later.
    pub const ALL: [Isa; 8] = [
        Isa::Scalar,
        Isa::Neon,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Vbmi,
        Isa::Avx512Bf16,
        Isa::Amx,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Avx512Vbmi => "avx512-vbmi",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Amx => "amx",
        }
    }

    /// The widest set that this processor has, and that is faster than narrower ones.
    pub fn best() -> Isa {
        Isa::ALL
            .into_iter()
            .rfind(|isa| isa.available() && (*isa != Isa::Avx512Bf16 || has_fast_bf16()))
            .unwrap_or(Isa::Scalar)
    }

    /// True if this processor has it.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Avx2 => has_avx2(),
            Isa::Avx512 => has_avx2() && has_avx512(),
            Isa::Avx512Vnni => Isa::Avx512.available() && has_avx512_vnni(),
            Isa::Avx512Vbmi => Isa::Avx512Vnni.available() && has_avx512_vbmi(),
            Isa::Avx512Bf16 => Isa::Avx512Vbmi.available() && has_avx512_bf16(),
            Isa::Amx => Isa::Avx512Bf16.available() && has_amx(),
        }
    }

    /// Features of a device that may use this set: kernels of narrower sets fit too.
    fn features(self) -> Features {
        match self {
            Isa::Scalar => Features::NONE,
            Isa::Neon => Features::NEON,
            Isa::Avx2 => Features::AVX2,
            Isa::Avx512 => Features::AVX2.with(Features::AVX512),
            Isa::Avx512Vnni => Isa::Avx512.features().with(Features::AVX512_VNNI),
            Isa::Avx512Vbmi => Isa::Avx512Vnni.features().with(Features::AVX512_VBMI),
            Isa::Avx512Bf16 => Isa::Avx512Vbmi.features().with(Features::AVX512_BF16),
            // Products of pairs are slow where there are tiles.
            Isa::Amx => Isa::Avx512Vbmi.features().with(Features::AMX),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_vbmi() -> bool {
    is_x86_feature_detected!("avx512vbmi")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    crate::core::amx_allowed()
}

/// Products of BF16 are faster than those of `f32`: twice as fast on Zen 4; on Sapphire Rapids they
/// were measured to be slower.
#[cfg(target_arch = "x86_64")]
fn has_fast_bf16() -> bool {
    #[allow(
        unused_unsafe,
        reason = "the oldest compilers that build this ask for it"
    )]
    // SAFETY: every processor of 64 bits has the instruction.
    let leaf = unsafe { std::arch::x86_64::__cpuid(0) };
    let vendor = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    vendor.as_flattened() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_vnni() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_vbmi() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_bf16() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_amx() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_fast_bf16() -> bool {
    false
}

/// The machine's processor as a backend with one device.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostBackend {
    isa: Option<Isa>,
    threads: Option<usize>,
}

impl HostBackend {
    /// The best instruction set of this processor, and a thread for each core.
    pub fn new() -> HostBackend {
        HostBackend::default()
    }

    /// Uses no instructions beyond `isa`.
    pub fn with_isa(self, isa: Isa) -> HostBackend {
        HostBackend {
            isa: Some(isa),
            ..self
        }
    }

    /// Uses `threads` threads, the caller's included; at least 1.
    pub fn with_threads(self, threads: usize) -> HostBackend {
        HostBackend {
            threads: Some(threads),
            ..self
        }
    }

    fn isa(&self) -> Result<Isa> {
        let isa = self.isa.unwrap_or_else(Isa::best);
        if isa.available() {
            Ok(isa)
        } else {
            Err(Error::Unavailable {
                backend: "host",
                why: format!(
                    "this processor has no {}; the best it has is {}",
                    isa.name(),
                    Isa::best().name()
                ),
            })
        }
    }

    fn info(&self) -> Result<DeviceInfo> {
        let isa = self.isa()?;
        Ok(DeviceInfo {
            backend: "host",
            ordinal: 0,
            name: processor_name(),
            driver: isa.name().to_string(),
            kind: DeviceKind::Cpu,
            features: Features::HOST
                .with(Features::POINTER_TABLES)
                .with(Features::BLOCK_POINTER_TABLES)
                .with(isa.features()),
            limits: Limits {
                max_binding_bytes: isize::MAX as u64,
                max_buffer_bytes: isize::MAX as u64,
                offset_align: 1,
                max_operands: 64,
                max_workgroup: 1,
                max_grid: u32::MAX,
                shared_bytes: u32::MAX,
                subgroup: (0, 0),
                matrix: None,
            },
            memory_bytes: machine_bytes(),
            expand_from_tokens: Some(EXPAND_FROM_TOKENS),
            members: Vec::new(),
        })
    }
}

impl Backend for HostBackend {
    fn name(&self) -> &'static str {
        "host"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![self.info()?])
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        if ordinal != 0 {
            return Err(Error::Unavailable {
                backend: "host",
                why: format!("there is one host device, number 0, and not number {ordinal}"),
            });
        }
        let threads = self.threads.unwrap_or_else(cores).max(1);
        Ok(Arc::new(HostDevice::open(self.info()?, threads)))
    }
}

/// Cores this process may use: a second thread on a core shares the units that a kernel
/// keeps busy alone.
fn cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut cores = HashSet::new();
    let mut package = "";
    for line in text.lines() {
        match line.split_once(':') {
            Some((key, value)) if key.starts_with("physical id") => package = value,
            Some((key, value)) if key.starts_with("core id") => {
                cores.insert((package, value));
            }
            _ => {}
        }
    }
    if cores.is_empty() {
        allowed
    } else {
        allowed.min(cores.len())
    }
}

/// The processor's own name where the system tells it, else its architecture.
fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map(|(_, name)| name.trim().to_string())
        .unwrap_or_else(|| std::env::consts::ARCH.to_string())
}
