//! GGUF files of the architecture `deepseek2`, which V2, V3, R1, Kimi-K2, Moonlight and
//! GLM-4.7-Flash share: their metadata as a configuration, their tensors under published
//! names.
//!
//! Decides what a missing key means. Reads headers only. Read [`config`] first.

use hadal_weights::{Metadata, TensorInfo, TensorSource};
use serde_json::{Map, Value, json};

use crate::Config;
use crate::config::ConfigError;

/// The architecture, and the beginning of its keys.
const ARCHITECTURE: &str = "deepseek2";

/// The configuration of a GGUF model.
///
/// # Errors
/// Another architecture; a key that is missing or means nothing, by its name in the file;
/// what [`Config::from_json`] refuses.
pub fn config(metadata: &Metadata, tensors: &dyn TensorSource) -> Result<Config, ConfigError> {
    let keys = Keys(metadata);
    match metadata.text("general.architecture") {
        Some(ARCHITECTURE) => {}
        found => {
            let why = "models of the architecture deepseek2 are supported";
            let found = found.unwrap_or("nothing");
            return Err(about_file("general.architecture", found, why));
        }
    }
    let json = keys.json(tensors)?;
    let mut config = Config::from_json(&json.to_string()).map_err(|mut error| {
        error.origin = ORIGIN.into();
        error
    })?;
    config.split_kv_b = tensors.get("blk.0.attn_k_b.weight").is_some();
    Ok(config)
}

/// What errors call the metadata.
const ORIGIN: &str = "GGUF metadata";

fn about_file(key: &str, found: &str, why: &str) -> ConfigError {
    let mut error = ConfigError::new(key, &found, why);
    error.origin = ORIGIN.into();
    error
}

/// Metadata under the architecture's own keys.
struct Keys<'m>(&'m Metadata);

impl Keys<'_> {
    fn whole(&self, key: &str) -> Option<u64> {
        self.0.whole(&format!("{ARCHITECTURE}.{key}"))
    }

    fn real(&self, key: &str) -> Option<f64> {
        self.0.real(&format!("{ARCHITECTURE}.{key}"))
    }

    fn need(&self, key: &str) -> Result<u64, ConfigError> {
        let full = format!("{ARCHITECTURE}.{key}");
        let missing = || about_file(&full, "nothing", "a whole number is expected");
        self.0.whole(&full).ok_or_else(missing)
    }

    /// No number is one that JSON has no words for.
    fn check_reals(&self) -> Result<(), ConfigError> {
        let own = self
            .0
            .0
            .iter()
            .filter(|(key, _)| key.starts_with(ARCHITECTURE));
        let mut reals = own.filter_map(|(key, value)| Some((key, value.as_real()?)));
        match reals.find(|(_, real)| !real.is_finite()) {
            Some((key, real)) => Err(about_file(key, &real.to_string(), "a number is expected")),
            None => Ok(()),
        }
    }

    /// The published form of the configuration.
    fn json(&self, tensors: &dyn TensorSource) -> Result<Value, ConfigError> {
        self.check_reals()?;
        let rope = self.need("rope.dimension_count")?;
        // Files with one key-value head say the sizes of the latents there, and elsewhere
        // those of a head.
        let latent_style = self.whole("attention.head_count_kv") == Some(1);
        let head = |mla: &str, plain: &str| match self.whole(mla) {
            Some(size) => Ok(size),
            None if latent_style => self.need(mla),
            None => self.need(plain),
        };
        let key = head("attention.key_length_mla", "attention.key_length")?;
        let value = head("attention.value_length_mla", "attention.value_length")?;
        let nope = key.checked_sub(rope).ok_or_else(|| {
            let full = format!("{ARCHITECTURE}.rope.dimension_count");
            about_file(&full, &rope.to_string(), "keys are shorter than that")
        })?;
        let next = self.whole("nextn_predict_layers").unwrap_or(0);
        let blocks = self.need("block_count")?;
        let mut json = json!({
            "vocab_size": self.vocabulary(tensors)?,
            "hidden_size": self.need("embedding_length")?,
            "num_hidden_layers": blocks.saturating_sub(next),
            "num_nextn_predict_layers": next,
            "num_attention_heads": self.need("attention.head_count")?,
            "q_lora_rank": self.whole("attention.q_lora_rank"),
            "kv_lora_rank": self.need("attention.kv_lora_rank")?,
            "qk_nope_head_dim": nope,
            "qk_rope_head_dim": rope,
            "v_head_dim": value,
            "intermediate_size": self.need("feed_forward_length")?,
            "moe_intermediate_size": self.need("expert_feed_forward_length")?,
            "first_k_dense_replace": self.whole("leading_dense_block_count"),
            "n_routed_experts": self.need("expert_count")?,
            "n_shared_experts": self.whole("expert_shared_count"),
            "num_experts_per_tok": self.need("expert_used_count")?,
            "routed_scaling_factor": self.real("expert_weights_scale"),
            "rms_norm_eps": self.real("attention.layer_norm_rms_epsilon"),
            "rope_theta": self.real("rope.freq_base"),
            "max_position_embeddings": self.need("context_length")?,
            "tie_word_embeddings": tensors.get("output.weight").is_none(),
            "bos_token_id": self.0.whole("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.0.whole("tokenizer.ggml.eos_token_id"),
        });
        if let Value::Object(map) = &mut json {
            self.routing(map, tensors);
            self.yarn(map);
        }
        Ok(json)
    }

    fn vocabulary(&self, tensors: &dyn TensorSource) -> Result<u64, ConfigError> {
        let table = tensors.get("token_embd.weight");
        match (self.whole("vocab_size"), table.map(|info| &info.shape[..])) {
            (Some(size), _) | (None, Some(&[size, _])) => Ok(size),
            _ => self.need("vocab_size"),
        }
    }

    fn routing(&self, map: &mut Map<String, Value>, tensors: &dyn TensorSource) {
        let biased = tensors
            .names()
            .any(|name| name.contains(".exp_probs_b") && name.starts_with("blk."));
        let sigmoid = match self.whole("expert_gating_func") {
            Some(function) => function == 2,
            // Written before the key was: the models with a bias use the sigmoid.
            None => biased,
        };
        let (groups, kept) = self.groups(sigmoid);
        let method = match (biased, groups) {
            (true, _) => "noaux_tc",
            (false, 1) => "greedy",
            (false, _) => "group_limited_greedy",
        };
        let family = if sigmoid {
            "deepseek_v3"
        } else {
            "deepseek_v2"
        };
        let scoring = if sigmoid { "sigmoid" } else { "softmax" };
        let normalise = self.0.flag(&format!("{ARCHITECTURE}.expert_weights_norm"));
        map.insert("model_type".into(), family.into());
        map.insert("scoring_func".into(), scoring.into());
        map.insert("topk_method".into(), method.into());
        map.insert("n_group".into(), groups.into());
        map.insert("topk_group".into(), kept.into());
        map.insert("norm_topk_prob".into(), normalise.unwrap_or(sigmoid).into());
    }

    /// Groups of experts and how many are kept. Published files of V3 and R1 leave both keys
    /// out; the models were trained with 8 and 4 all the same.
    fn groups(&self, sigmoid: bool) -> (u64, u64) {
        let said = (
            self.whole("expert_group_count"),
            self.whole("expert_group_used_count"),
        );
        let is_v3 = sigmoid
            && self.whole("expert_count") == Some(256)
            && matches!(self.whole("block_count"), Some(61 | 62))
            && self.whole("attention.kv_lora_rank") == Some(512);
        match said {
            (Some(groups), kept) => (groups.max(1), kept.unwrap_or(groups).max(1)),
            (None, _) if is_v3 => (8, 4),
            (None, _) => (1, 1),
        }
    }

    fn yarn(&self, map: &mut Map<String, Value>) {
        let kind = self.0.text(&format!("{ARCHITECTURE}.rope.scaling.type"));
        let factor = self.real("rope.scaling.factor");
        if kind.is_none_or(|kind| kind == "none") || factor.is_none() {
            return;
        }
        // The key holds a tenth of the published number.
        let gain = self.real("rope.scaling.yarn_log_multiplier");
        let gain = gain.map_or(1.0, |tenth| round_f32(10.0 * tenth));
        // Written by few: Kimi-K2 was trained with 1, all others with 32.
        let fast = match self.whole("expert_count") {
            Some(384) => 1.0,
            _ => 32.0,
        };
        let scaling = json!({
            "type": kind,
            "factor": factor,
            "original_max_position_embeddings": self.whole("rope.scaling.original_context_length"),
            "beta_fast": self.real("rope.scaling.yarn_beta_fast").unwrap_or(fast),
            "beta_slow": self.real("rope.scaling.yarn_beta_slow").unwrap_or(1.0),
            "mscale": gain,
            "mscale_all_dim": gain,
        });
        map.insert("rope_scaling".into(), scaling);
    }
}

/// The shortest decimal that is the same `f32`: the files hold ten times a number in `f32`.
fn round_f32(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}

/// The tensors that a GGUF tensor stands for, under published names: itself, or each expert's
/// part of a stack. Names that nobody knows stay as they are, for binding to refuse.
pub fn published(name: &str, info: &TensorInfo, split: bool) -> Vec<(String, TensorInfo)> {
    let whole = |new: String| vec![(new, info.clone())];
    let top = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(top) = top {
        return whole(top.to_string());
    }
    let Some((layer, part)) = in_layer(name) else {
        return whole(name.to_string());
    };
    let prefix = format!("model.layers.{layer}.");
    if let Some((_, expert)) = EXPERTS.iter().find(|(gguf, _)| *gguf == part) {
        return stacked(info, |e| format!("{prefix}mlp.experts.{e}.{expert}.weight"));
    }
    match PARTS.iter().find(|(gguf, _)| *gguf == part) {
        // Files that carry both forms carry the same numbers twice.
        Some((_, "self_attn.kv_b_proj.weight")) if split => Vec::new(),
        Some((_, own)) => vec![(format!("{prefix}{own}"), flat(info))],
        None => whole(name.to_string()),
    }
}

/// `blk.7.attn_norm.weight` as 7 and `attn_norm.weight`.
fn in_layer(name: &str) -> Option<(u32, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// A stack of heads as one matrix.
fn flat(info: &TensorInfo) -> TensorInfo {
    let mut info = info.clone();
    if let [heads, rows, width] = info.shape[..] {
        info.shape = vec![heads.saturating_mul(rows), width];
    }
    info
}

/// The experts of a stack, which lie one after the other.
fn stacked(info: &TensorInfo, name: impl Fn(u64) -> String) -> Vec<(String, TensorInfo)> {
    let &[experts, rows, width] = &info.shape[..] else {
        return vec![(name(0), info.clone())];
    };
    // A header has few bytes, and its stack may claim any number of experts.
    let experts = experts.min(4096);
    let bytes = info.bytes / experts.max(1);
    let expert = |e: u64| TensorInfo {
        shape: vec![rows, width],
        offset: info.offset + e * bytes,
        bytes,
        ..info.clone()
    };
    (0..experts).map(|e| (name(e), expert(e))).collect()
}

/// Stacks of experts.
pub const EXPERTS: [(&str, &str); 3] = [
    ("ffn_gate_exps.weight", "gate_proj"),
    ("ffn_up_exps.weight", "up_proj"),
    ("ffn_down_exps.weight", "down_proj"),
];

/// Other tensors of a layer.
pub const PARTS: [(&str, &str); 28] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q_a.weight", "self_attn.q_a_proj.weight"),
    ("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight"),
    ("attn_q_b.weight", "self_attn.q_b_proj.weight"),
    (
        "attn_kv_a_mqa.weight",
        "self_attn.kv_a_proj_with_mqa.weight",
    ),
    ("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"),
    ("attn_kv_b.weight", "self_attn.kv_b_proj.weight"),
    ("attn_k_b.weight", "self_attn.k_b_proj.weight"),
    ("attn_v_b.weight", "self_attn.v_b_proj.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_gate_inp.weight", "mlp.gate.weight"),
    ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    ("exp_probs_b", "mlp.gate.e_score_correction_bias"),
    (
        "ffn_gate_shexp.weight",
        "mlp.shared_experts.gate_proj.weight",
    ),
    ("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"),
    (
        "ffn_down_shexp.weight",
        "mlp.shared_experts.down_proj.weight",
    ),
    ("nextn.eh_proj.weight", "eh_proj.weight"),
    ("nextn.enorm.weight", "enorm.weight"),
    ("nextn.hnorm.weight", "hnorm.weight"),
    ("nextn.embed_tokens.weight", "embed_tokens.weight"),
    ("nextn.shared_head_norm.weight", "shared_head.norm.weight"),
    ("nextn.shared_head_head.weight", "shared_head.head.weight"),
    ("nextn.shared_head.weight", "shared_head.head.weight"),
];
