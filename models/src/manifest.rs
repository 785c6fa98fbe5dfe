//! The tensors of a published checkpoint: every name, shape and number format, from the
//! configuration alone.
//!
//! Written from the listing of the released files and not from the model's own
//! declarations, so that each can be checked against the other. Also the list that made-up
//! weights and reports without files start from. Must not know how a tensor is used.

use hadal_device::{DType, SCALE_BLOCK};

use crate::config::{Config, TopkMethod};

/// A tensor of a published checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestTensor {
    /// Name in the file.
    pub name: String,
    /// Shape; matrices are `[out, in]`.
    pub shape: Vec<u64>,
    /// Number format.
    pub dtype: DType,
}

impl ManifestTensor {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        self.dtype.row_bytes(self.shape.iter().product())
    }
}

/// Every tensor of the published checkpoint of this configuration, layer by layer, with the
/// block scales of FP8 matrices right behind them and with the copies of embedding and head
/// that each next-token-prediction module carries.
pub fn official_manifest(config: &Config) -> Vec<ManifestTensor> {
    let mut tensors = Vec::new();
    visit_manifest(config, config.n_routed_experts, &mut |tensor| {
        tensors.push(tensor);
    });
    tensors
}

/// The same one after the other, with only the first `experts` experts of each layer: all of them
/// are alike, and nearly all that the largest models have.
pub fn visit_manifest(config: &Config, experts: u32, visit: &mut dyn FnMut(ManifestTensor)) {
    let mut list = List {
        config,
        experts,
        visit,
    };
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    list.plain("model.embed_tokens.weight", &[vocab, hidden]);
    for layer in 0..config.all_layers() {
        list.layer(layer);
        if layer >= config.num_hidden_layers {
            list.mtp(layer);
        }
    }
    list.plain("model.norm.weight", &[hidden]);
    if !config.tie_word_embeddings {
        list.plain("lm_head.weight", &[vocab, hidden]);
    }
}

/// A tensor of a next-token-prediction module that repeats one of the main model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Name of the repetition.
    pub name: String,
    /// Name of the tensor it repeats.
    pub of: &'static str,
    /// Shape of both.
    pub shape: [u32; 2],
}

/// The copies of embedding and head that published next-token-prediction modules carry. A
/// checkpoint may hold them or not; they are never loaded.
pub fn mtp_copies(config: &Config) -> Vec<Copied> {
    let shape = [config.vocab_size, config.hidden_size];
    let head = if config.tie_word_embeddings {
        "model.embed_tokens.weight"
    } else {
        "lm_head.weight"
    };
    let modules = config.num_hidden_layers..config.all_layers();
    let copies = modules.flat_map(|layer| {
        let named = |name: &str, of| Copied {
            name: format!("model.layers.{layer}.{name}"),
            of,
            shape,
        };
        [
            named("embed_tokens.weight", "model.embed_tokens.weight"),
            named("shared_head.head.weight", head),
        ]
    });
    copies.collect()
}

struct List<'c> {
    config: &'c Config,
    experts: u32,
    visit: &'c mut dyn FnMut(ManifestTensor),
}

impl List<'_> {
    fn push(&mut self, name: String, shape: &[u32], dtype: DType) {
        let shape = shape.iter().map(|edge| u64::from(*edge)).collect();
        (self.visit)(ManifestTensor { name, shape, dtype });
    }

    fn plain(&mut self, name: impl Into<String>, shape: &[u32]) {
        self.push(name.into(), shape, DType::Bf16);
    }

    /// A matrix that FP8 files store with block scales.
    fn linear(&mut self, name: String, out: u32, input: u32) {
        if self.config.fp8.is_some() {
            let scales = [out.div_ceil(SCALE_BLOCK), input.div_ceil(SCALE_BLOCK)];
            self.push(format!("{name}.weight"), &[out, input], DType::F8E4M3);
            self.push(format!("{name}.weight_scale_inv"), &scales, DType::F32);
        } else {
            self.plain(format!("{name}.weight"), &[out, input]);
        }
    }

    fn layer(&mut self, layer: u32) {
        let c = self.config;
        let at = format!("model.layers.{layer}");
        self.plain(format!("{at}.input_layernorm.weight"), &[c.hidden_size]);
        self.attention(&format!("{at}.self_attn"));
        self.plain(
            format!("{at}.post_attention_layernorm.weight"),
            &[c.hidden_size],
        );
        if !c.is_moe(layer) {
            return self.mlp(&format!("{at}.mlp"), c.intermediate_size);
        }
        self.plain(
            format!("{at}.mlp.gate.weight"),
            &[c.n_routed_experts, c.hidden_size],
        );
        if c.topk_method == TopkMethod::NoauxTc {
            let name = format!("{at}.mlp.gate.e_score_correction_bias");
            self.push(name, &[c.n_routed_experts], DType::F32);
        }
        for expert in 0..self.experts {
            self.mlp(
                &format!("{at}.mlp.experts.{expert}"),
                c.moe_intermediate_size,
            );
        }
        if c.n_shared_experts > 0 {
            self.mlp(
                &format!("{at}.mlp.shared_experts"),
                c.shared_intermediate_size(),
            );
        }
    }

    fn attention(&mut self, at: &str) {
        let c = self.config;
        let (hidden, heads) = (c.hidden_size, c.num_attention_heads);
        let query = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
        if let Some(rank) = c.q_lora_rank {
            self.linear(format!("{at}.q_a_proj"), rank, hidden);
            self.plain(format!("{at}.q_a_layernorm.weight"), &[rank]);
            self.linear(format!("{at}.q_b_proj"), query, rank);
        } else {
            self.linear(format!("{at}.q_proj"), query, hidden);
        }
        let latent = c.kv_lora_rank;
        self.linear(
            format!("{at}.kv_a_proj_with_mqa"),
            latent + c.qk_rope_head_dim,
            hidden,
        );
        self.plain(format!("{at}.kv_a_layernorm.weight"), &[latent]);
        let expanded = heads * (c.qk_nope_head_dim + c.v_head_dim);
        self.linear(format!("{at}.kv_b_proj"), expanded, latent);
        self.linear(format!("{at}.o_proj"), hidden, heads * c.v_head_dim);
    }

    fn mlp(&mut self, at: &str, width: u32) {
        let hidden = self.config.hidden_size;
        self.linear(format!("{at}.gate_proj"), width, hidden);
        self.linear(format!("{at}.up_proj"), width, hidden);
        self.linear(format!("{at}.down_proj"), hidden, width);
    }

    /// What a next-token-prediction module has beyond its layer.
    fn mtp(&mut self, layer: u32) {
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let at = format!("model.layers.{layer}");
        self.plain(format!("{at}.embed_tokens.weight"), &[vocab, hidden]);
        self.plain(format!("{at}.enorm.weight"), &[hidden]);
        self.plain(format!("{at}.hnorm.weight"), &[hidden]);
        // Never FP8 in released files, alone among the matrices of a layer.
        self.plain(format!("{at}.eh_proj.weight"), &[hidden, 2 * hidden]);
        self.plain(format!("{at}.shared_head.norm.weight"), &[hidden]);
        self.plain(format!("{at}.shared_head.head.weight"), &[vocab, hidden]);
    }
}

#[cfg(test)]
#[path = "manifest/tests.rs"]
mod tests;
