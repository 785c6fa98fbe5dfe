//! What is refused, key by key, and the rules that tie several keys together.
//!
//! Decides the words of every refusal. Must not derive anything: that is `config.rs`.

use super::keys::{ConfigError, Keys, Result};
use super::{Config, Fp8, ScoringFunc, TopkMethod, rest, rope};
use crate::counts::Counts;

pub(super) const SUPPORTED_MODELS: &str =
    "supported are deepseek_v3, deepseek_v2, kimi_k2 (also inside kimi_k25) and glm4_moe_lite";

/// Fewer parameters than this: no product of sizes in bytes can overflow 64 bits.
const MAX_PARAMETERS: u64 = 1 << 50;

pub(super) fn model_type(keys: &Keys<'_>, name: &str) -> Result<()> {
    let why = match name {
        "deepseek_v3" | "deepseek_v2" | "kimi_k2" | "glm4_moe_lite" => return Ok(()),
        "deepseek_v32" => {
            "its sparse attention (the indexer) is not implemented; the V3.1 checkpoint of the same size is supported"
        }
        "deepseek_v4" => {
            "it is another architecture (hyper-connections, compressed attention, fp4 experts) that is not supported"
        }
        _ => SUPPORTED_MODELS,
    };
    Err(keys.refuse("model_type", why))
}

/// Switches of which only one position is implemented.
pub(super) fn refused_switches(keys: &mut Keys<'_>) -> Result<()> {
    if keys.flag("attention_bias")? == Some(true) {
        let why = "only false is supported: attention has no biases in this family";
        return Err(keys.refuse("attention_bias", why));
    }
    if keys.flag("mlp_bias")? == Some(true) {
        let why = "only false is supported: feed-forwards have no biases in this family";
        return Err(keys.refuse("mlp_bias", why));
    }
    if keys.flag("rope_interleave")? == Some(false) {
        let why = "only true is supported: released weights rotate neighbouring pairs";
        return Err(keys.refuse("rope_interleave", why));
    }
    rope::whole_width(keys)?;
    match keys.text("hidden_act")? {
        None | Some("silu") => Ok(()),
        Some(_) => Err(keys.refuse("hidden_act", "only silu is supported")),
    }
}

pub(super) fn heads(keys: &mut Keys<'_>) -> Result<u32> {
    let heads = keys.need("num_attention_heads", 1..=4096)?;
    match keys.whole("num_key_value_heads", 1..=4096)? {
        Some(other) if other != heads => {
            let why = format!(
                "it must equal num_attention_heads, {heads}: latent attention has no grouped heads"
            );
            Err(keys.refuse("num_key_value_heads", why))
        }
        _ => Ok(heads),
    }
}

pub(super) fn topk_method(keys: &mut Keys<'_>, v2: bool) -> Result<TopkMethod> {
    match keys.text("topk_method")? {
        Some("noaux_tc") => Ok(TopkMethod::NoauxTc),
        Some("greedy") => Ok(TopkMethod::Greedy),
        Some("group_limited_greedy") => Ok(TopkMethod::GroupLimitedGreedy),
        None if v2 => Ok(TopkMethod::Greedy),
        None => Ok(TopkMethod::NoauxTc),
        Some(_) => {
            let why = "noaux_tc, greedy and group_limited_greedy are supported";
            Err(keys.refuse("topk_method", why))
        }
    }
}

pub(super) fn scoring_func(keys: &mut Keys<'_>, v2: bool) -> Result<ScoringFunc> {
    match keys.text("scoring_func")? {
        Some("sigmoid") => Ok(ScoringFunc::Sigmoid),
        Some("softmax") => Ok(ScoringFunc::Softmax),
        None if v2 => Ok(ScoringFunc::Softmax),
        None => Ok(ScoringFunc::Sigmoid),
        Some(_) => Err(keys.refuse("scoring_func", "sigmoid and softmax are supported")),
    }
}

pub(super) fn mtp_layers(keys: &mut Keys<'_>) -> Result<u32> {
    let official = keys.whole("num_nextn_predict_layers", 0..=16)?;
    let synonym = keys.whole("num_mtp_layers", 0..=16)?;
    match (official, synonym) {
        (Some(one), Some(other)) if one != other => {
            let why =
                format!("it must equal num_nextn_predict_layers, {one}, which means the same");
            Err(keys.refuse("num_mtp_layers", why))
        }
        (one, other) => Ok(one.or(other).unwrap_or(0)),
    }
}

pub(super) fn fp8(keys: &mut Keys<'_>, unknown: &mut Vec<String>) -> Result<Option<Fp8>> {
    let Some(map) = keys.object("quantization_config")? else {
        return Ok(None);
    };
    let mut inner = Keys::new("quantization_config.", map);
    if inner.text("quant_method")? != Some("fp8") {
        let why =
            "fp8 (e4m3 with 128x128 blocks) is supported; take the fp8 or bf16 files of this model";
        return Err(inner.refuse("quant_method", why));
    }
    if !matches!(inner.text("fmt")?, None | Some("e4m3")) {
        return Err(inner.refuse("fmt", "only e4m3 is supported"));
    }
    if !matches!(inner.text("activation_scheme")?, None | Some("dynamic")) {
        return Err(inner.refuse("activation_scheme", "only dynamic is supported"));
    }
    let block = inner
        .value("weight_block_size")
        .and_then(|value| value.as_array());
    let block = block.map(|list| list.iter().map(|edge| edge.as_u64()).collect::<Vec<_>>());
    if block.as_deref() != Some(&[Some(128), Some(128)]) {
        return Err(inner.refuse("weight_block_size", "only [128, 128] is supported"));
    }
    let power_of_two_scales = match inner.text("scale_fmt")? {
        None | Some("float") => false,
        Some("ue8m0") => true,
        Some(_) => return Err(inner.refuse("scale_fmt", "ue8m0, or no such key, is supported")),
    };
    unknown.extend(rest::check_within(&inner, rest::HARMLESS_IN_QUANTISATION)?);
    Ok(Some(Fp8 {
        power_of_two_scales,
    }))
}

/// Rules between keys.
pub(super) fn whole(config: &Config) -> Result<()> {
    let refuse = |key: &str, found: u32, why: String| Err(ConfigError::new(key, &found, why));
    if !config.qk_rope_head_dim.is_multiple_of(2) {
        let why = "it must be even: rotation works on pairs".to_string();
        return refuse("qk_rope_head_dim", config.qk_rope_head_dim, why);
    }
    let (experts, groups, kept) = (
        config.n_routed_experts,
        config.groups(),
        config.kept_groups(),
    );
    if !experts.is_multiple_of(groups) {
        let why = format!("the {experts} experts of n_routed_experts cannot be split evenly");
        return refuse("n_group", groups, why);
    }
    let members = experts / groups;
    if config.topk_method == TopkMethod::NoauxTc && groups > 1 && members < 2 {
        let why = format!(
            "a group's score needs two experts, but {experts} experts in {groups} groups leave {members}"
        );
        return refuse("n_group", groups, why);
    }
    if kept > groups {
        return refuse(
            "topk_group",
            kept,
            format!("there are only {groups} groups (n_group)"),
        );
    }
    if config.num_experts_per_tok > members * kept {
        let why = format!(
            "only {} experts are in the kept groups ({kept} of {groups}, {members} each)",
            members * kept
        );
        return refuse("num_experts_per_tok", config.num_experts_per_tok, why);
    }
    let vocab = config.vocab_size;
    let why = || format!("it is no token: vocab_size is {vocab}; take config.json as published");
    if let Some(id) = config.bos_token_id.filter(|id| *id >= vocab) {
        return refuse("bos_token_id", id, why());
    }
    if let Some(id) = config.eos_token_ids.iter().find(|id| **id >= vocab) {
        return refuse("eos_token_id", *id, why());
    }
    size(config)
}

fn size(config: &Config) -> Result<()> {
    let total = Counts::of(config).total();
    if total >= MAX_PARAMETERS {
        let why = format!(
            "the numbers of this file make a model of {total} parameters; fewer than 2^50 are supported"
        );
        return Err(ConfigError::new("hidden_size", &config.hidden_size, why));
    }
    Ok(())
}
