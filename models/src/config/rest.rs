//! The keys of `config.json` that nothing else reads: harmless ones pass, others are refused.
//!
//! Decides which further keys a file may have. A key that could change the arithmetic and is
//! not implemented must never run unnoticed, so one that is not on a list here is refused
//! unless its value switches it off. Must not read keys that mean something to the model.

use serde_json::Value;

use super::Config;
use super::keys::{Keys, Result};

/// Keys that say nothing about inference, or repeat what others say. Keys that begin with an
/// underscore are notes of the program that wrote the file.
const HARMLESS: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "aux_loss_alpha",
    "dtype",
    "embd_pdrop",
    "ep_size",
    "head_dim",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "max_sequence_length",
    "max_window_layers",
    "model_max_length",
    "model_type",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "qk_head_dim",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "seq_aux",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Defaults of text generation, which older files keep here; generation_config.json counts.
const GENERATION: &[&str] = &[
    "do_sample",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Harmless keys of `rope_scaling` and `rope_parameters`.
pub(super) const HARMLESS_IN_ROPE: &[&str] = &["finetuned"];

/// Harmless keys of `quantization_config`: each weight's own format is in its file.
pub(super) const HARMLESS_IN_QUANTISATION: &[&str] = &["ignored_layers", "modules_to_not_convert"];

/// Parts of other models, as several keys spell them. None of them is implemented.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    (
        "windowed attention is not supported: every token attends to all before it",
        &[
            "attention_chunk_size",
            "sliding_window",
            "sliding_window_pattern",
            "sliding_window_size",
            "use_sliding_window",
        ],
    ),
    (
        "sparse attention (the indexer) is not supported; take a release of this model without it, V3.1 for V3.2",
        &[
            "index_head_dim",
            "index_n_heads",
            "index_topk",
            "index_topk_freq",
            "index_topk_pattern",
            "indexer_rope_interleave",
            "indexer_types",
        ],
    ),
    (
        "soft caps on logits are not supported",
        &[
            "attn_logit_softcap",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "logit_softcap",
            "logits_soft_cap",
            "router_logit_softcapping",
        ],
    ),
    (
        "biases are not supported: linear layers have none in this family",
        &["add_bias_linear", "lm_head_bias", "qkv_bias", "use_bias"],
    ),
    (
        "norms of queries and keys are not supported, apart from those of the latents",
        &["qk_layernorm", "qk_norm", "use_qk_norm"],
    ),
    (
        "attention sinks are not supported",
        &["attention_sink", "attention_sinks", "num_sink_tokens"],
    ),
    (
        "limits on the activation are not supported",
        &["swiglu_alpha", "swiglu_limit"],
    ),
    (
        "layers without rotation are not supported",
        &[
            "no_rope_layer_interval",
            "no_rope_layers",
            "nope_layer_interval",
        ],
    ),
    (
        "this architecture is not supported: hyper-connections, compressed attention or hashed experts",
        &[
            "compress_ratios",
            "hc_mult",
            "num_hash_layers",
            "o_lora_rank",
        ],
    ),
];

/// Factors that only a model without them, or with 1, can do without.
const FACTORS: &[&str] = &[
    "embedding_multiplier",
    "lm_head_multiplier",
    "logit_scale",
    "logits_scaling",
    "residual_multiplier",
];

/// Why a key that nobody knows is refused, and the cure.
const UNKNOWN: &str = "this key is not known and may change the results, so the model is not run; \
     if it says nothing about inference, remove it from the file";

/// Goes through all keys that were not read. Gives the names of unknown ones whose value
/// switches them off.
pub(super) fn check(keys: &mut Keys<'_>) -> Result<Vec<String>> {
    for &key in FACTORS {
        if !matches!(keys.real(key, f64::MIN..=f64::MAX)?, None | Some(1.0)) {
            return Err(keys.refuse(key, "only 1 is supported: there is no such factor here"));
        }
    }
    for (why, names) in UNSUPPORTED {
        for &key in *names {
            if keys.value(key).is_some_and(is_set) {
                return Err(keys.refuse(key, *why));
            }
        }
    }
    unread(keys, &[HARMLESS, GENERATION])
}

/// As [`check`] for an object within the file, whose unread keys must be in `harmless`.
pub(super) fn check_within(keys: &Keys<'_>, harmless: &[&str]) -> Result<Vec<String>> {
    unread(keys, &[harmless])
}

fn unread(keys: &Keys<'_>, harmless: &[&[&str]]) -> Result<Vec<String>> {
    let mut off = Vec::new();
    for (key, value) in keys.unasked() {
        if key.starts_with('_') || harmless.iter().any(|list| list.contains(&key)) {
            continue;
        }
        if is_set(value) {
            return Err(keys.refuse(key, UNKNOWN));
        }
        off.push(keys.full_name(key));
    }
    Ok(off)
}

/// False for the values that switch a key off: null, false, 0 and whatever is empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Lists with an entry for each layer must say what the other keys say.
pub(super) fn layer_lists(keys: &mut Keys<'_>, config: &Config) -> Result<()> {
    let kinds = keys.list("layer_types")?;
    if kinds.iter().any(|kind| kind != "full_attention") {
        let why = "only full_attention is supported: every token attends to all before it";
        return Err(keys.refuse("layer_types", why));
    }
    let kind = |layer| match config.is_moe(layer) {
        true => "sparse",
        false => "dense",
    };
    let mut found = (0..config.num_hidden_layers).zip(keys.list("mlp_layer_types")?);
    if found.all(|(layer, found)| found == kind(layer)) {
        Ok(())
    } else {
        let why = "it must be dense before first_k_dense_replace and sparse from there on";
        Err(keys.refuse("mlp_layer_types", why))
    }
}
