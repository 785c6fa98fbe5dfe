//! How many parameters and bytes a model has, part by part, from its configuration alone.
//!
//! Decides what `info` prints before any weight is read. Closed formulas, kept apart from the
//! list of tensors in `manifest.rs` so that a test can compare the two. Must not know files.
//! Source of the shapes: DeepSeek-V3 report, section 2, and released files.

use hadal_device::{DType, SCALE_BLOCK};

use crate::config::{Config, TopkMethod};

/// One part of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Parameters.
    pub params: u64,
    /// Parameters read to compute one token.
    pub active: u64,
    /// Bytes as stored, block scales included.
    pub bytes: u64,
    /// Bytes read to compute one token, block scales included.
    pub active_bytes: u64,
}

/// A model, part by part. Sums saturate, so that they can bound an unchecked configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The embedding; nothing of it counts as active.
    pub embedding: Part,
    /// The head; nothing if it is tied to the embedding, whose rows are then active.
    pub head: Part,
    /// Attention matrices.
    pub attention: Part,
    /// Feed-forwards of dense layers.
    pub dense: Part,
    /// Shared experts.
    pub shared: Part,
    /// Routed experts; active are those of one token.
    pub routed: Part,
    /// Router matrices and biases.
    pub router: Part,
    /// Norms.
    pub norms: Part,
    /// Next-token-prediction modules, without their copies of embedding and head. Not part
    /// of [`Counts::total`] or [`Counts::active`].
    pub mtp: Part,
}

impl Counts {
    /// The counts of a model.
    pub fn of(config: &Config) -> Counts {
        let hidden = u64::from(config.hidden_size);
        let vocab = u64::from(config.vocab_size);
        let layers = u64::from(config.num_hidden_layers);
        let moe = (0..config.num_hidden_layers)
            .filter(|layer| config.is_moe(*layer))
            .count() as u64;
        let table = plain(vocab * hidden, 2);
        let layer = LayerParts::of(config);
        let latents = config.kv_lora_rank + config.q_lora_rank.unwrap_or(0);
        let layer_norms = plain(2 * hidden + u64::from(latents), 2);
        let mtp_layer = [
            layer.attention,
            layer.shared,
            layer.routed,
            layer.router,
            layer_norms,
            plain(2 * hidden * hidden, 2),
            plain(3 * hidden, 2),
        ];
        Counts {
            embedding: Part {
                active: 0,
                active_bytes: 0,
                ..table
            },
            head: if config.tie_word_embeddings {
                Part {
                    params: 0,
                    bytes: 0,
                    ..table
                }
            } else {
                table
            },
            attention: layer.attention.times(layers),
            dense: layer.dense.times(layers - moe),
            shared: layer.shared.times(moe),
            routed: layer.routed.times(moe),
            router: layer.router.times(moe),
            norms: layer_norms.times(layers).and(plain(hidden, 2)),
            mtp: sum(&mtp_layer).times(u64::from(config.num_nextn_predict_layers)),
        }
    }

    /// Every part with its name, in the order of reports; `mtp` last.
    pub fn parts(&self) -> [(&'static str, Part); 9] {
        [
            ("embedding", self.embedding),
            ("head", self.head),
            ("attention", self.attention),
            ("dense feed-forward", self.dense),
            ("shared experts", self.shared),
            ("routed experts", self.routed),
            ("router", self.router),
            ("norms", self.norms),
            ("next-token prediction", self.mtp),
        ]
    }

    /// All of the model without next-token prediction: the published way to count.
    pub fn main(&self) -> Part {
        sum(&self.parts()[..8]
            .iter()
            .map(|(_, part)| *part)
            .collect::<Vec<_>>())
    }

    /// Parameters, next-token prediction left out.
    pub fn total(&self) -> u64 {
        self.main().params
    }

    /// Parameters read to compute one token: with the head, without the embedding.
    pub fn active(&self) -> u64 {
        self.main().active
    }

    /// Bytes of all weights once loaded, next-token prediction included, its copies of
    /// embedding and head not.
    pub fn bytes(&self) -> u64 {
        self.main().bytes.saturating_add(self.mtp.bytes)
    }
}

/// The parts of one layer, as if it had every kind.
struct LayerParts {
    attention: Part,
    dense: Part,
    shared: Part,
    routed: Part,
    router: Part,
}

impl LayerParts {
    fn of(c: &Config) -> LayerParts {
        let linear = |out: u32, input: u32| linear(c, out, input);
        let heads = c.num_attention_heads;
        let query = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
        let queries = match c.q_lora_rank {
            Some(rank) => linear(rank, c.hidden_size).and(linear(query, rank)),
            None => linear(query, c.hidden_size),
        };
        let attention = [
            queries,
            linear(c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size),
            linear(heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank),
            linear(c.hidden_size, heads * c.v_head_dim),
        ];
        let mlp = |width: u32| {
            let wide = linear(width, c.hidden_size);
            wide.and(wide).and(linear(c.hidden_size, width))
        };
        let expert = mlp(c.moe_intermediate_size);
        let chosen = expert.times(u64::from(c.num_experts_per_tok));
        let experts = u64::from(c.n_routed_experts);
        let gate = plain(experts * u64::from(c.hidden_size), 2);
        let bias = if c.topk_method == TopkMethod::NoauxTc {
            experts
        } else {
            0
        };
        LayerParts {
            attention: sum(&attention),
            dense: mlp(c.intermediate_size),
            shared: mlp(c.shared_intermediate_size()),
            routed: Part {
                active: chosen.active,
                active_bytes: chosen.active_bytes,
                ..expert.times(experts)
            },
            router: gate.and(plain(bias, 4)),
        }
    }
}

/// A matrix that the FP8 files store in FP8 with block scales, and others in BF16.
fn linear(config: &Config, out: u32, input: u32) -> Part {
    let params = u64::from(out) * u64::from(input);
    if config.fp8.is_none() {
        return plain(params, DType::Bf16.block_bytes());
    }
    let blocks = u64::from(out.div_ceil(SCALE_BLOCK)) * u64::from(input.div_ceil(SCALE_BLOCK));
    let bytes = params.saturating_add(blocks.saturating_mul(DType::F32.block_bytes()));
    Part {
        params,
        active: params,
        bytes,
        active_bytes: bytes,
    }
}

/// Parameters of `size` bytes each, all active.
fn plain(params: u64, size: u64) -> Part {
    let bytes = params.saturating_mul(size);
    Part {
        params,
        active: params,
        bytes,
        active_bytes: bytes,
    }
}

fn sum(parts: &[Part]) -> Part {
    parts
        .iter()
        .fold(Part::default(), |all, part| all.and(*part))
}

impl Part {
    fn and(self, other: Part) -> Part {
        Part {
            params: self.params.saturating_add(other.params),
            active: self.active.saturating_add(other.active),
            bytes: self.bytes.saturating_add(other.bytes),
            active_bytes: self.active_bytes.saturating_add(other.active_bytes),
        }
    }

    fn times(self, count: u64) -> Part {
        Part {
            params: self.params.saturating_mul(count),
            active: self.active.saturating_mul(count),
            bytes: self.bytes.saturating_mul(count),
            active_bytes: self.active_bytes.saturating_mul(count),
        }
    }
}
