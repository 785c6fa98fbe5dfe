//! What the mock drivers pretend to be, from `HADAL_MOCK` or `hadal_mock_configure`.

use crate::codes::Vendor;

/// Where the configuration comes from unless a test gives one.
pub(crate) const VARIABLE: &str = "HADAL_MOCK";

/// A device that can be pretended: architecture, name, multiprocessors, threads of a wave.
type Model = (&'static str, &'static str, i32, u32);

const CUDA_MODELS: &[Model] = &[
    // Few processors, so that blocks that stay have several tiles each.
    ("sm_90a", "Mock H200", 5, 32),
    ("sm_75", "Mock T4", 40, 32),
    ("sm_80", "Mock A100", 108, 32),
    ("sm_86", "Mock RTX 3090", 82, 32),
    ("sm_89", "Mock L40S", 142, 32),
    ("sm_100a", "Mock B200", 148, 32),
    ("sm_120a", "Mock RTX 5090", 170, 32),
];

const HIP_MODELS: &[Model] = &[
    ("gfx942:sramecc+:xnack-", "Mock MI300X", 304, 64),
    ("gfx906:sramecc+:xnack-", "Mock MI50", 60, 64),
    ("gfx90a:sramecc+:xnack-", "Mock MI250X", 110, 64),
    ("gfx950:sramecc+:xnack-", "Mock MI350X", 256, 64),
    ("gfx1030", "Mock RX 6900 XT", 80, 32),
    ("gfx1100", "Mock RX 7900 XTX", 96, 32),
    ("gfx1151", "Mock Radeon 8060S", 40, 32),
    ("gfx1200", "Mock RX 9060 XT", 32, 32),
    ("gfx1201", "Mock RX 9070 XT", 64, 32),
];

/// The architectures of all devices that the drivers can have, as `arch` takes them.
pub fn all_archs() -> impl Iterator<Item = &'static str> {
    CUDA_MODELS.iter().chain(HIP_MODELS).map(|model| model.0)
}

/// One driver and its devices.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The devices' models.
    pub models: Vec<Model>,
    /// Memory of each device.
    pub memory: u64,
    /// Decides all orders.
    pub seed: u64,
    /// The version that the driver names.
    pub version: i32,
    /// The version that the compiler names, where it is another.
    pub compiler: Option<i32>,
    /// The version that cuBLASLt names; 0 is that there is none.
    pub library: i32,
    /// Whether its products take less time than kernels with much block memory.
    pub is_library_fast: bool,
    /// Whether devices can reach each other's memory.
    pub are_peers: bool,
    /// How the names of files end whose kernels, with mistakes planted in them, are taken where
    /// there are such.
    pub planted: Option<String>,
    /// Where complaints are written as they come.
    pub log: Option<String>,
    /// Calls that fail, as `call:nth:code`; the call `*` is any.
    pub fail: Vec<(String, u64, u32)>,
    /// What of the text was not understood.
    pub errors: Vec<String>,
}

impl Config {
    /// Reads a comma list such as `arch=sm_80,devices=2,memory=8G,seed=7,driver=12040`.
    /// `arch` may name one model after another (`gfx942+gfx1100`); the last is repeated.
    pub fn parse(vendor: Vendor, text: &str) -> Config {
        let known = match vendor {
            Vendor::Cuda => CUDA_MODELS,
            Vendor::Hip => HIP_MODELS,
        };
        let mut config = Config {
            models: Vec::new(),
            memory: 8 << 30,
            seed: 1,
            version: match vendor {
                Vendor::Cuda => 13000,
                Vendor::Hip => 70_051_831,
            },
            compiler: None,
            library: 130_002,
            is_library_fast: false,
            are_peers: true,
            planted: None,
            log: None,
            fail: Vec::new(),
            errors: Vec::new(),
        };
        let (mut named, mut devices) = (Vec::new(), None);
        for item in text.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            let (key, value) = item.split_once('=').unwrap_or((item, "1"));
            let understood = match (key, vendor) {
                ("arch", _) => archs(value, known, &mut named),
                ("devices", _) => value.parse().map(|n: usize| devices = Some(n)).is_ok(),
                ("memory", _) => bytes(value).map(|n| config.memory = n).is_some(),
                ("seed", _) => value.parse().map(|n| config.seed = n).is_ok(),
                ("driver", Vendor::Cuda) | ("hip-driver", Vendor::Hip) => {
                    value.parse().map(|n| config.version = n).is_ok()
                }
                ("nvrtc", Vendor::Cuda) | ("hiprtc", Vendor::Hip) => {
                    value.parse().map(|n| config.compiler = Some(n)).is_ok()
                }
                ("driver" | "hip-driver" | "nvrtc" | "hiprtc", _) => true,
                ("cublaslt", _) => value.parse().map(|n| config.library = n).is_ok(),
                ("products", _) => {
                    config.is_library_fast = value == "fast";
                    matches!(value, "fast" | "slow")
                }
                ("peers", _) => {
                    config.are_peers = value != "0";
                    matches!(value, "0" | "1")
                }
                ("planted", _) => planted(value)
                    .map(|ending| config.planted = ending)
                    .is_some(),
                ("log", _) => {
                    config.log = Some(value.to_string());
                    true
                }
                ("fail", _) => fault(value).map(|f| config.fail.push(f)).is_some(),
                _ => false,
            };
            if !understood {
                config
                    .errors
                    .push(format!("{VARIABLE}: `{item}` is unknown"));
            }
        }
        if named.is_empty() {
            named.push(known[0]);
        }
        let count = devices.unwrap_or(named.len());
        config.models = (0..count).map(|i| named[i.min(named.len() - 1)]).collect();
        config
    }
}

/// How files with mistakes end: those of this name, of their own (1), or none (0).
fn planted(value: &str) -> Option<Option<String>> {
    match value.parse() {
        Ok(0) => Some(None),
        Ok(1) => Some(Some("_planted".to_string())),
        _ => {
            let ending = format!("_planted_{value}");
            let known = crate::kernels().iter().any(|k| k.file.ends_with(&ending));
            known.then_some(Some(ending))
        }
    }
}

/// Adds this vendor's models of the list; whether all are some vendor's.
fn archs(value: &str, known: &[Model], to: &mut Vec<Model>) -> bool {
    let mut all = true;
    for arch in value
        .split('+')
        .filter(|arch| !arch.is_empty() && !arch.starts_with(':'))
    {
        let base = |name: &str| name.split(':').next().map(str::to_string);
        let found = known.iter().find(|model| base(model.0) == base(arch));
        to.extend(found);
        let of_any = CUDA_MODELS.iter().chain(HIP_MODELS);
        all &= of_any.into_iter().any(|model| base(model.0) == base(arch));
    }
    all
}

fn bytes(value: &str) -> Option<u64> {
    let (digits, shift) = match value.as_bytes().last()? {
        b'K' => (&value[..value.len() - 1], 10),
        b'M' => (&value[..value.len() - 1], 20),
        b'G' => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn fault(value: &str) -> Option<(String, u64, u32)> {
    let mut parts = value.split(':');
    let fault = (
        parts.next()?.to_string(),
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    );
    parts.next().is_none().then_some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_what_is_unknown_is_named() {
        let text = "arch=sm_80+gfx1100,devices=2,memory=3M,seed=9,driver=12040,fail=cuInit:2:100";
        let cuda = Config::parse(Vendor::Cuda, text);
        assert_eq!(cuda.models.len(), 2);
        assert_eq!(cuda.models[1].0, "sm_80");
        assert_eq!((cuda.memory, cuda.seed, cuda.version), (3 << 20, 9, 12040));
        assert_eq!(cuda.fail, [("cuInit".to_string(), 2, 100)]);
        assert!(cuda.errors.is_empty());
        let hip = Config::parse(Vendor::Hip, text);
        assert_eq!((hip.models[0].0, hip.models[0].3), ("gfx1100", 32));
        assert_eq!(hip.version, 70_051_831);
        let none = Config::parse(Vendor::Hip, "devices=0,speed=1,arch=sm_1,planted=nothing");
        assert!(none.models.is_empty());
        assert_eq!(none.errors.len(), 3);
    }
}
