//! A plan as data: what reports, other languages and desktops show.

use std::collections::BTreeMap;

use hadal_device::DeviceKind;
use serde::{Deserialize, Serialize};

use crate::bandwidth::Measured;

/// Memory that may be used, where it is not all there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Budget {
    /// Bytes of the device's memory, which of the host and of devices that share its memory is the
    /// host's.
    pub device: Option<u64>,
    /// Bytes of the host's memory.
    pub host: Option<u64>,
}

impl Budget {
    /// The part of it that is for a device of `kind`.
    pub fn of(&self, kind: DeviceKind) -> Option<u64> {
        match kind.has_own_memory() {
            true => self.device,
            // One memory under both names.
            false => self.device.into_iter().chain(self.host).min(),
        }
    }
}

/// Whose memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// A device's own.
    Device,
    /// The machine's, which software adapters and integrated GPUs use too.
    Host,
}

impl Memory {
    /// As in reports, and in a budget.
    pub fn name(self) -> &'static str {
        match self {
            Memory::Device => "device",
            Memory::Host => "host",
        }
    }
}

/// What lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// Rows of the vocabulary.
    Embedding,
    /// Attention matrices.
    Attention,
    /// Feed-forwards of dense layers.
    Dense,
    /// Shared experts.
    SharedExperts,
    /// Routed experts.
    RoutedExperts,
    /// Router matrices and biases.
    Router,
    /// Norms.
    Norms,
    /// The head.
    Head,
    /// Next-token-prediction modules.
    NextToken,
    /// Headers of files, padding, and copies that are never read.
    Unused,
    /// Latents of all layers.
    Cache,
    /// Temporaries of the largest step.
    Scratch,
    /// The rotary table.
    RotaryTable,
    /// Hidden rows and step inputs.
    Rows,
}

impl PartKind {
    /// True for what comes from files.
    pub fn is_weight(self) -> bool {
        self <= PartKind::Unused
    }

    /// As in reports.
    pub fn name(self) -> &'static str {
        match self {
            PartKind::Embedding => "embedding",
            PartKind::Attention => "attention",
            PartKind::Dense => "dense feed-forward",
            PartKind::SharedExperts => "shared experts",
            PartKind::RoutedExperts => "routed experts",
            PartKind::Router => "router",
            PartKind::Norms => "norms",
            PartKind::Head => "head",
            PartKind::NextToken => "next-token module",
            PartKind::Unused => "headers, padding, copies",
            PartKind::Cache => "cache",
            PartKind::Scratch => "scratch",
            PartKind::RotaryTable => "rotary table",
            PartKind::Rows => "hidden rows and inputs",
        }
    }
}

/// One memory and what is to lie in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tier {
    /// Whose.
    pub memory: Memory,
    /// Of which device, where the model's is made of several: `cuda:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Bytes that may be used: of a budget, or what is free less a reserve for others;
    /// `None` where nobody tells.
    pub available_bytes: Option<u64>,
    /// Bytes of each kind.
    pub parts: BTreeMap<PartKind, u64>,
    /// Bytes of them that nothing has to be found for: what stays in files until it is read,
    /// which it never is, and made-up weights that are in memory already.
    pub held_bytes: u64,
}

impl Tier {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.parts.values().sum()
    }

    /// Bytes that must be found.
    pub fn needed_bytes(&self) -> u64 {
        self.bytes().saturating_sub(self.held_bytes)
    }

    /// Bytes of weights, as allocated or adopted.
    pub fn weight_bytes(&self) -> u64 {
        let weights = self.parts.iter().filter(|(kind, _)| kind.is_weight());
        weights.map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of one kind.
    pub fn part(&self, kind: PartKind) -> u64 {
        self.parts.get(&kind).copied().unwrap_or(0)
    }

    /// True unless it is known to be too small.
    pub fn fits(&self) -> bool {
        self.available_bytes
            .is_none_or(|available| self.needed_bytes() <= available)
    }
}

/// What is expected of decoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// Sequences that a step decodes a token of.
    pub batch: u32,
    /// Tokens in the cache of each.
    pub depth: u32,
    /// Bytes of weights that a step reads.
    pub weight_bytes: u64,
    /// Different experts of a layer among them, as expected of independent tokens.
    pub experts: f64,
    /// Bytes of cache that a step reads.
    pub cache_bytes: u64,
    /// Multiply-adds of attention over the cache.
    pub attention_macs: u64,
    /// Dispatches of a step.
    pub dispatches: u64,
    /// Share of the bandwidth that reading weights reaches.
    pub efficiency: f64,
    /// Expected, all sequences together.
    pub tokens_per_second: f64,
    /// Where time goes, in words.
    pub reason: String,
}

/// Something near that would fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Nearest {
    /// A smaller context.
    Context {
        /// Tokens.
        tokens: u32,
    },
    /// Fewer sequences.
    Batch {
        /// Sequences.
        sequences: u32,
    },
    /// The largest GGUF file of the model that fits.
    Quantisation {
        /// The recipe of `hadal quantize` that makes it.
        format: String,
        /// Bits a weight takes in it, over all weights.
        bits: f64,
        /// Bytes of all its weights.
        weight_bytes: u64,
    },
    /// The smallest GGUF file of the model, where none fits, and more memory.
    SmallestQuantisation {
        /// The recipe of `hadal quantize` that makes it.
        format: String,
        /// Bits a weight takes in it, over all weights.
        bits: f64,
        /// Bytes of all its weights.
        weight_bytes: u64,
        /// Bytes that may be used then, as in a budget.
        needed_bytes: u64,
    },
    /// More memory.
    Budget {
        /// Whose.
        memory: Memory,
        /// Bytes that may be used then.
        bytes: u64,
    },
}

/// Which model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedModel {
    /// `deepseek_v3`, ...
    pub family: String,
    /// Parameters, next-token prediction not counted.
    pub parameters: u64,
    /// Those that a token takes.
    pub active_parameters: u64,
    /// The longest context that it allows.
    pub max_context: u32,
}

/// Which device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedDevice {
    /// `host`, `wgpu:0`, ...
    pub id: String,
    /// The vendor's name.
    pub name: String,
}

/// Where everything of a model would lie on a device, and how fast it would be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which model.
    pub model: PlannedModel,
    /// Which device.
    pub device: PlannedDevice,
    /// Tokens a session holds.
    pub context: u32,
    /// Sessions.
    pub batch: u32,
    /// Most tokens of a step.
    pub chunk: u32,
    /// True if the next-token module drafts.
    pub drafts: bool,
    /// What lies where.
    pub tiers: Vec<Tier>,
    /// The longest context that fits, of what the model allows; 0: none.
    pub longest_context: u32,
    /// True if all of it fits.
    pub fits: bool,
    /// Bandwidth of the device's memory that forecasts are made from.
    pub bandwidth: Option<Measured>,
    /// Forecasts; empty without a bandwidth.
    pub decoding: Vec<Decoding>,
    /// Where it does not fit: what would.
    pub nearest: Vec<Nearest>,
    /// Why the device cannot run some step, whatever its memory.
    pub obstacle: Option<String>,
}

impl Plan {
    /// Bytes of weights, as allocated or adopted.
    pub fn weight_bytes(&self) -> u64 {
        self.tiers.iter().map(Tier::weight_bytes).sum()
    }

    /// Bytes that must be found, wherever.
    pub fn needed_bytes(&self) -> u64 {
        self.tiers.iter().map(Tier::needed_bytes).sum()
    }

    /// Bytes that may be used, of all memories; `None` where nobody tells of one.
    pub fn available_bytes(&self) -> Option<u64> {
        self.tiers.iter().map(|tier| tier.available_bytes).sum()
    }

    /// Bytes of one kind, wherever they lie.
    pub fn part(&self, kind: PartKind) -> u64 {
        self.tiers.iter().map(|tier| tier.part(kind)).sum()
    }

    /// Bytes that `budget` allows of all memories together, on devices of `kind`.
    pub(crate) fn allowed(&self, budget: &Budget, kind: DeviceKind) -> Option<u64> {
        let memories = match kind.has_own_memory() {
            true => self.tiers.len() as u64,
            false => 1,
        };
        Some(budget.of(kind)?.saturating_mul(memories))
    }

    /// Whether it fits, in a sentence.
    pub fn verdict(&self) -> String {
        let size = |bytes: u64| match bytes {
            0..1_000 => format!("{bytes} bytes"),
            1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
            1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
            _ => format!("{:.2} GB", bytes as f64 / 1e9),
        };
        let Some(tier) = self.tiers.iter().find(|tier| !tier.fits()) else {
            return match self.fits {
                true => format!("it fits with a context of {} tokens", self.context),
                false => format!(
                    "a context of {} tokens does not fit {}, whose bindings are too small for its cache",
                    self.context, self.device.id
                ),
            };
        };
        let of = match &tier.member {
            Some(member) => format!(" of {member}"),
            None => String::new(),
        };
        format!(
            "the model does not fit {}: with a context of {} tokens it needs {}, and {} of {} memory{of} can be used",
            self.device.id,
            self.context,
            size(tier.needed_bytes()),
            size(tier.available_bytes.unwrap_or(0)),
            tier.memory.name(),
        )
    }
}
