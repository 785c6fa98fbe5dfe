//! Tokens a second to expect of decoding: bytes over bandwidth, with what keeps devices from
//! reaching it.
//!
//! Decides the constants, which are measured and not derived; each says where it is from.
//! A step takes the time to read its weights, that of attention over the cache, by bytes or
//! by multiply-adds, whichever is longer, and a little for each dispatch.

use hadal_device::{DeviceInfo, DeviceKind, Features};
use hadal_graph::Amount;

use super::{Decoding, Planner};
use crate::bandwidth::Measured;
use crate::model::Kind;

/// What a kind of device makes of its bandwidth.
struct Reach {
    /// Share of the bandwidth at which weights of 16 bits are read.
    efficiency: f64,
    /// How much of that share is lost with each halving of the bits, since codes have to become
    /// numbers and a byte holds more of them.
    halving: f64,
    /// Multiply-adds of attention in the time of reading a byte.
    macs_per_byte: f64,
    /// Seconds of a dispatch beyond its bytes.
    dispatch: f64,
}

impl Reach {
    fn of(info: &DeviceInfo) -> Reach {
        match info.kind {
            DeviceKind::Cpu if info.features.has(Features::AMX) => TILES,
            DeviceKind::Cpu => HOST,
            DeviceKind::Software => SOFTWARE,
            DeviceKind::DiscreteGpu | DeviceKind::IntegratedGpu | DeviceKind::VirtualGpu => GPU,
        }
    }

    /// Share of the bandwidth at which weights of so many bits are read.
    fn of_bandwidth(&self, bits: f64) -> f64 {
        let halvings = (16.0 / bits.max(1.0)).log2().max(0.0);
        self.efficiency - self.halving * halvings
    }
}

/// `hadal bench --depth 0,1024,4096` on two cores of a Xeon (Sapphire Rapids) whose memory gave 23.7
/// GB/s: V3's shape at 2 billion parameters read weights in BF16 at all of it and more, FP8 and Q8_0
/// at 87 and 92 %, Q4_K_M at 76 %, dispatches included. The depths give the multiply-adds, the
/// model that ships and `v3_narrow` with its 1,149 small dispatches their cost.
const HOST: Reach = Reach {
    efficiency: 1.0,
    halving: 0.09,
    macs_per_byte: 3.3,
    dispatch: 1.7e-6,
};

/// Attention on tiles: the same model at depth 4,096 on such cores at 18.5 GB/s.
const TILES: Reach = Reach {
    macs_per_byte: 5.0,
    ..HOST
};

/// Not measured yet: a software adapter interprets the host's work for a GPU.
const SOFTWARE: Reach = Reach {
    efficiency: 0.2,
    halving: 0.0,
    macs_per_byte: 0.2,
    dispatch: 100e-6,
};

/// Not measured yet, for want of a GPU: what well-made matrix-vector kernels reach with ease.
const GPU: Reach = Reach {
    efficiency: 0.6,
    halving: 0.0,
    macs_per_byte: 2.0,
    dispatch: 5e-6,
};

/// Bytes a second that a thread of the host takes out of blocks one value after the other, where
/// no vector kernel does: one row of Q4_K weights was read at 0.2 to 0.4 GB/s so.
const UNPACKED: f64 = 0.2e9;

/// Instruction sets that the host has vector kernels for, of products with blocks.
const BLOCK_PRODUCTS: Features = Features::AVX2.with(Features::NEON);

/// Work of a step that decodes one token.
struct OneToken {
    dispatches: u64,
    macs: Amount,
    cache: Amount,
}

impl Planner<'_> {
    /// With empty caches, with full ones, and with full ones of all sequences.
    pub(super) fn forecasts(&self, bandwidth: Measured, context: u32) -> Vec<Decoding> {
        let Some(work) = self.one_token(context) else {
            return Vec::new();
        };
        let mut asked = vec![(1, 0), (1, context)];
        if self.options.batch > 1 {
            asked.push((self.options.batch, context));
        }
        let forecasts = asked.into_iter();
        forecasts
            .map(|(batch, depth)| self.forecast(&work, bandwidth, batch, depth))
            .collect()
    }

    fn one_token(&self, context: u32) -> Option<OneToken> {
        let programs = self.programs(context);
        let key = programs.key(Kind::Main, 1, 1);
        let (_, graph) = self.graphs.iter().find(|(it, _)| *it == key)?;
        let lowered = self.lower(&programs, &key, graph).ok()?;
        let mut work = OneToken {
            dispatches: lowered.explained.len() as u64,
            macs: Amount::default(),
            cache: Amount::default(),
        };
        for step in &lowered.explained {
            work.macs.position += step.work.macs.position;
            work.cache.position += step.work.bytes.position;
        }
        Some(work)
    }

    /// True if weights are taken out of their blocks one by one.
    fn unpacks(&self) -> bool {
        let mut weights = self.model.bound.weights.iter();
        self.info.backend == "host"
            && !self.info.features.meets(BLOCK_PRODUCTS)
            && weights.any(|weight| weight.dtype.is_blocks())
    }

    fn forecast(&self, work: &OneToken, bandwidth: Measured, batch: u32, depth: u32) -> Decoding {
        let reach = Reach::of(self.info);
        let (weight_bytes, experts) = self.weights.read_by(&self.model.config, batch);
        let sequences = u64::from(batch);
        let cache_bytes = sequences * work.cache.at(depth);
        let attention_macs = sequences * work.macs.at(depth);
        let rate = bandwidth.bytes_per_second.max(1.0);
        let efficiency = reach.of_bandwidth(self.weights.bits());
        let threads = self.ask.threads.unwrap_or_else(cores);
        let reading = weight_bytes as f64 / (rate * efficiency);
        let weights = match self.unpacks() {
            true => reading.max(weight_bytes as f64 / (UNPACKED * threads as f64)),
            false => reading,
        };
        let by_bytes = cache_bytes as f64 / (rate * reach.efficiency);
        let by_macs = attention_macs as f64 / (rate * reach.macs_per_byte);
        let attention = by_bytes.max(by_macs);
        let dispatching = work.dispatches as f64 * reach.dispatch;
        let seconds = weights + attention + dispatching;
        let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
        let bound = if by_macs > by_bytes {
            "multiply-adds"
        } else {
            "bytes"
        };
        let mut reason = format!(
            "{:.2} GB of weights at {:.0} % of {:.1} GB/s take {}, attention over {depth} tokens {} (by its {bound}), {} dispatches {}",
            weight_bytes as f64 / 1e9,
            efficiency * 100.0,
            rate / 1e9,
            ms(weights),
            ms(attention),
            work.dispatches,
            ms(dispatching),
        );
        if self.unpacks() {
            reason.push_str(&format!(
                "; {} has no vector kernels for these blocks, which {threads} threads take apart at {:.1} GB/s each",
                self.info.driver,
                UNPACKED / 1e9
            ));
        }
        if batch > 1 {
            reason.push_str(&format!(
                "; a bound for steps that decode a token of each of {batch} sequences, which touch {experts:.1} experts a layer"
            ));
        }
        Decoding {
            batch,
            depth,
            weight_bytes,
            experts,
            cache_bytes,
            attention_macs,
            dispatches: work.dispatches,
            efficiency,
            // Three decimals are more than a forecast knows.
            tokens_per_second: (f64::from(batch) / seconds * 1e3).round() / 1e3,
            reason,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
