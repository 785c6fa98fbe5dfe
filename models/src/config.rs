//! `config.json`, as published with a checkpoint, as a checked [`Config`].
//!
//! Decides which published configurations this runtime runs, and refuses all others by the
//! name of the key. Nothing after this page meets a number it cannot multiply: every value
//! is bounded and the whole model has fewer than 2^50 parameters. Must not know tensors,
//! files or devices. Source: the published configurations of the DeepSeek-V3 family.

mod checks;
mod keys;
mod rest;
mod rope;

use serde_json::{Map, Value};

pub use keys::ConfigError;
use keys::{Keys, Result};
pub use rope::Yarn;

/// Largest context, in tokens, that a configuration may name.
pub(crate) const MAX_POSITIONS: u32 = 1 << 27;

/// How the router turns logits into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoringFunc {
    /// A sigmoid for each expert (V3).
    Sigmoid,
    /// A softmax over all experts (V2).
    Softmax,
}

/// How the router chooses experts from scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopkMethod {
    /// With a bias for the choice only; a group counts by its two best members (V3).
    NoauxTc,
    /// The best scores of all experts, groups ignored (V2-Lite).
    Greedy,
    /// The best scores of the best groups; a group counts by its best member (V2).
    GroupLimitedGreedy,
}

/// FP8 weights: E4M3 codes with one scale for each block of 128x128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8 {
    /// `scale_fmt: ue8m0` (V3.1): all scales, also those of activations, are powers of two.
    pub power_of_two_scales: bool,
}

/// A checked configuration. Fields are named as the keys of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `deepseek_v3`, `kimi_k2`, `deepseek_v2` or `glm4_moe_lite`.
    pub model_type: String,
    /// Rows of the embedding and of the head.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Layers, without next-token-prediction modules.
    pub num_hidden_layers: u32,
    /// Attention heads.
    pub num_attention_heads: u32,
    /// Width of the query latent; `None`: queries come from one matrix.
    pub q_lora_rank: Option<u32>,
    /// Width of the cached latent of keys and values.
    pub kv_lora_rank: u32,
    /// Query and key values a head without rotation.
    pub qk_nope_head_dim: u32,
    /// Rotated query and key values a head; even.
    pub qk_rope_head_dim: u32,
    /// Value width a head.
    pub v_head_dim: u32,
    /// Width of a dense feed-forward.
    pub intermediate_size: u32,
    /// Width of one routed expert.
    pub moe_intermediate_size: u32,
    /// Layers before this one are dense.
    pub first_k_dense_replace: u32,
    /// Every how many layers there are experts; 1 in all released files.
    pub moe_layer_freq: u32,
    /// Routed experts a layer.
    pub n_routed_experts: u32,
    /// The shared expert is one feed-forward of this many times `moe_intermediate_size`;
    /// 0: there is none.
    pub n_shared_experts: u32,
    /// Routed experts a token.
    pub num_experts_per_tok: u32,
    /// Groups the experts are in, as written; see [`Config::groups`].
    pub n_group: u32,
    /// Groups a token keeps, as written; see [`Config::kept_groups`].
    pub topk_group: u32,
    /// How experts are chosen.
    pub topk_method: TopkMethod,
    /// How scores are made.
    pub scoring_func: ScoringFunc,
    /// Whether weights are divided by their sum; see [`Config::normalises`].
    pub norm_topk_prob: bool,
    /// Factor of the experts' weights; see [`Config::routing_scale`].
    pub routed_scaling_factor: f64,
    /// Epsilon of all norms but the two latent ones, which use [`Config::LATENT_EPS`].
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Context extension, if any.
    pub yarn: Option<Yarn>,
    /// Longest context in tokens.
    pub max_position_embeddings: u32,
    /// Next-token-prediction modules.
    pub num_nextn_predict_layers: u32,
    /// FP8 weights, as the file announces them. It never decides how a weight is read: each
    /// tensor's own format and scales do, so that converted copies which kept the published
    /// `config.json`, or lost this key, run as what they are. Sizes before any file is there
    /// and the scales of quantised activations follow from it.
    pub fp8: Option<Fp8>,
    /// The head is the embedding, and there is no `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// The checkpoint has `kv_b_proj` in two parts, `k_b_proj` `[A * dc, dn]` (each head's keys
    /// transposed) and `v_b_proj` `[A * dv, dc]`, as GGUF files do.
    pub split_kv_b: bool,
    /// Token before every text, where the file names one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Keys of the file that are neither used nor known to be harmless, all of them switched
    /// off by their value; any other unknown key is refused.
    pub unknown_keys: Vec<String>,
}

impl Config {
    /// Epsilon of `q_a_layernorm` and `kv_a_layernorm`, a constant of the published code
    /// whatever `rms_norm_eps` says.
    pub const LATENT_EPS: f64 = 1e-6;

    /// Largest `config.json` in bytes; published ones have a few thousand. Whoever reads the
    /// file needs no more of it.
    pub const MAX_JSON_BYTES: u64 = 4 << 20;

    /// Reads the text of a published `config.json`.
    pub fn from_json(text: &str) -> std::result::Result<Config, ConfigError> {
        if text.len() as u64 > Config::MAX_JSON_BYTES {
            let found = format!("{} bytes long", text.len());
            return Err(ConfigError::new(
                "",
                &found,
                "this is not the config.json of a model",
            ));
        }
        let not_json = |why: String| ConfigError::new("", &"not usable", why);
        let root: Value = serde_json::from_str(text)
            .map_err(|error| not_json(format!("it is not JSON ({error}); download it again")))?;
        let Value::Object(root) = root else {
            return Err(not_json(
                "a JSON object is expected; download it again".into(),
            ));
        };
        match root.get("text_config") {
            Some(Value::Object(inner)) if model_type(&root)? == "kimi_k25" => {
                Config::from_object("text_config.", inner)
            }
            _ => Config::from_object("", &root),
        }
    }

    fn from_object(prefix: &'static str, map: &Map<String, Value>) -> Result<Config> {
        let mut unknown = Vec::new();
        let keys = &mut Keys::new(prefix, map);
        let model_type = model_type(map)?;
        checks::model_type(keys, &model_type)?;
        checks::refused_switches(keys)?;
        let v2 = model_type == "deepseek_v2";
        let (rope_theta, yarn) = rope::read(keys, &mut unknown)?;
        let mut config = Config {
            model_type,
            vocab_size: keys.need("vocab_size", 1..=1 << 24)?,
            hidden_size: keys.need("hidden_size", 1..=1 << 20)?,
            num_hidden_layers: keys.need("num_hidden_layers", 1..=1024)?,
            num_attention_heads: checks::heads(keys)?,
            q_lora_rank: keys
                .whole("q_lora_rank", 0..=1 << 16)?
                .filter(|rank| *rank > 0),
            kv_lora_rank: keys.need("kv_lora_rank", 1..=1 << 16)?,
            qk_nope_head_dim: keys.need("qk_nope_head_dim", 1..=1 << 13)?,
            qk_rope_head_dim: keys.need("qk_rope_head_dim", 2..=1 << 13)?,
            v_head_dim: keys.need("v_head_dim", 1..=1 << 13)?,
            intermediate_size: keys.need("intermediate_size", 1..=1 << 22)?,
            moe_intermediate_size: keys.need("moe_intermediate_size", 1..=1 << 20)?,
            first_k_dense_replace: keys.whole("first_k_dense_replace", 0..=1024)?.unwrap_or(0),
            moe_layer_freq: keys.whole("moe_layer_freq", 1..=1024)?.unwrap_or(1),
            n_routed_experts: keys.need("n_routed_experts", 1..=4096)?,
            n_shared_experts: keys.whole("n_shared_experts", 0..=64)?.unwrap_or(0),
            num_experts_per_tok: keys.need("num_experts_per_tok", 1..=4096)?,
            n_group: keys.whole("n_group", 1..=4096)?.unwrap_or(1),
            topk_group: keys.whole("topk_group", 1..=4096)?.unwrap_or(1),
            topk_method: checks::topk_method(keys, v2)?,
            scoring_func: checks::scoring_func(keys, v2)?,
            norm_topk_prob: keys.flag("norm_topk_prob")?.unwrap_or(!v2),
            routed_scaling_factor: keys
                .real("routed_scaling_factor", 1e-6..=1e6)?
                .unwrap_or(1.0),
            rms_norm_eps: keys.real("rms_norm_eps", 1e-30..=1.0)?.unwrap_or(1e-6),
            rope_theta,
            yarn,
            max_position_embeddings: keys.need("max_position_embeddings", 1..=MAX_POSITIONS)?,
            num_nextn_predict_layers: checks::mtp_layers(keys)?,
            fp8: checks::fp8(keys, &mut unknown)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            split_kv_b: false,
            bos_token_id: keys.ids("bos_token_id")?.first().copied(),
            eos_token_ids: keys.ids("eos_token_id")?,
            unknown_keys: Vec::new(),
        };
        rest::layer_lists(keys, &config)?;
        unknown.extend(rest::check(keys)?);
        config.unknown_keys = unknown;
        checks::whole(&config)?;
        Ok(config)
    }

    /// The same model with only its first `layers` layers and `experts` experts, for
    /// measuring with made-up weights; `None` leaves a number as it is. Next-token-prediction
    /// modules are left out when layers are. Errors as a file with these numbers would.
    pub fn cut(
        &self,
        layers: Option<u32>,
        experts: Option<u32>,
    ) -> std::result::Result<Config, ConfigError> {
        let mut config = self.clone();
        if let Some(layers) = layers.filter(|layers| *layers != self.num_hidden_layers) {
            let range = 1..=self.num_hidden_layers;
            if !range.contains(&layers) {
                let why = format!("1 to {} layers can be kept", self.num_hidden_layers);
                return Err(ConfigError::new("num_hidden_layers", &layers, why));
            }
            config.num_hidden_layers = layers;
            config.num_nextn_predict_layers = 0;
        }
        if let Some(experts) = experts {
            if !(1..=self.n_routed_experts).contains(&experts) {
                let why = format!("1 to {} experts can be kept", self.n_routed_experts);
                return Err(ConfigError::new("n_routed_experts", &experts, why));
            }
            config.n_routed_experts = experts;
        }
        checks::whole(&config)?;
        Ok(config)
    }

    /// Whether layer `layer` has experts. Layers from `num_hidden_layers` on are
    /// next-token-prediction modules, which always have them.
    pub fn is_moe(&self, layer: u32) -> bool {
        layer >= self.num_hidden_layers
            || (layer >= self.first_k_dense_replace && layer.is_multiple_of(self.moe_layer_freq))
    }

    /// Layers with their own weights: the model's and the next-token-prediction modules'.
    pub fn all_layers(&self) -> u32 {
        self.num_hidden_layers + self.num_nextn_predict_layers
    }

    /// Groups the router tells apart; 1 where it looks at all experts.
    pub fn groups(&self) -> u32 {
        match self.topk_method {
            TopkMethod::Greedy => 1,
            TopkMethod::NoauxTc | TopkMethod::GroupLimitedGreedy => self.n_group,
        }
    }

    /// Groups a token keeps, of [`Config::groups`].
    pub fn kept_groups(&self) -> u32 {
        if self.groups() == 1 {
            1
        } else {
            self.topk_group
        }
    }

    /// Whether the chosen experts' weights are divided by their sum. The published V2 code
    /// does not do so for a single expert.
    pub fn normalises(&self) -> bool {
        self.norm_topk_prob && (!self.is_v2() || self.num_experts_per_tok > 1)
    }

    /// What the chosen experts' weights are multiplied by. V3 always scales; V2 scales only
    /// weights that it does not normalise.
    pub fn routing_scale(&self) -> f64 {
        if self.is_v2() && self.normalises() {
            1.0
        } else {
            self.routed_scaling_factor
        }
    }

    /// Width of the shared expert; 0 where there is none.
    pub fn shared_intermediate_size(&self) -> u32 {
        self.n_shared_experts * self.moe_intermediate_size
    }

    fn is_v2(&self) -> bool {
        self.model_type == "deepseek_v2"
    }
}

/// `model_type`, or the one that goes with `architectures` where the key is missing.
fn model_type(map: &Map<String, Value>) -> Result<String> {
    if let Some(name) = Keys::new("", map).text("model_type")? {
        return Ok(name.to_string());
    }
    let first = map.get("architectures").and_then(|list| list.get(0));
    match first.and_then(Value::as_str) {
        Some("DeepseekV3ForCausalLM") => Ok("deepseek_v3".into()),
        Some("DeepseekV2ForCausalLM") => Ok("deepseek_v2".into()),
        Some("Glm4MoeLiteForCausalLM") => Ok("glm4_moe_lite".into()),
        _ => Err(Keys::new("", map).refuse("model_type", checks::SUPPORTED_MODELS)),
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
