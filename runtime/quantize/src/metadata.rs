//! The metadata of the file: the configuration under the keys of GGUF, then the text side.
//!
//! What the keys cannot say is refused: the metadata is read back and compared before a byte
//! is written.

use std::collections::BTreeMap;

use hadal_models::Config;
use hadal_models::config::{ScoringFunc, TopkMethod};
use hadal_models::gguf;
use hadal_weights::{FileType, GgufValue, Metadata, Shard, TensorInfo, TensorSource};

use crate::file::{ALIGNMENT, Value};
use crate::{Plan, QuantizeError, Result};

const ARCHITECTURE: &str = "deepseek2";

/// Version of the block formats, which `general.quantization_version` names.
const QUANTIZATION_VERSION: u32 = 2;

/// All keys of the file; `text` are those of its text side ([`crate::TextFiles::keys`],
/// [`crate::text_keys`]).
///
/// # Errors
/// A configuration that these keys cannot express.
pub fn metadata(
    config: &Config,
    name: &str,
    text: Vec<(String, Value)>,
    plan: &Plan,
) -> Result<Vec<(String, Value)>> {
    let mut list = List(Vec::new());
    list.put("general.architecture", Value::Text(ARCHITECTURE.into()));
    list.put("general.type", Value::Text("model".into()));
    list.put("general.name", Value::Text(name.into()));
    list.put("general.file_type", Value::U32(plan.file_type));
    list.put(
        "general.quantization_version",
        Value::U32(QUANTIZATION_VERSION),
    );
    list.put("general.alignment", Value::U32(ALIGNMENT as u32));
    sizes(&mut list, config);
    experts(&mut list, config);
    rope(&mut list, config)?;
    list.0.extend(text);
    check(config, &list.0, plan)?;
    Ok(list.0)
}

struct List(Vec<(String, Value)>);

impl List {
    fn put(&mut self, key: &str, value: Value) {
        self.0.push((key.to_string(), value));
    }

    fn own(&mut self, key: &str, value: Value) {
        self.0.push((format!("{ARCHITECTURE}.{key}"), value));
    }

    fn number(&mut self, key: &str, number: u32) {
        self.own(key, Value::U32(number));
    }

    fn real(&mut self, key: &str, number: f64) {
        self.own(key, Value::F32(number as f32));
    }
}

fn sizes(list: &mut List, c: &Config) {
    list.number("block_count", c.all_layers());
    if c.num_nextn_predict_layers > 0 {
        list.number("nextn_predict_layers", c.num_nextn_predict_layers);
    }
    list.number("context_length", c.max_position_embeddings);
    list.number("embedding_length", c.hidden_size);
    list.number("feed_forward_length", c.intermediate_size);
    list.number("vocab_size", c.vocab_size);
    list.number("attention.head_count", c.num_attention_heads);
    // One key-value head: keys are the latents with the rotated part, values the latents.
    list.number("attention.head_count_kv", 1);
    list.number("attention.key_length", c.kv_lora_rank + c.qk_rope_head_dim);
    list.number("attention.value_length", c.kv_lora_rank);
    list.number(
        "attention.key_length_mla",
        c.qk_nope_head_dim + c.qk_rope_head_dim,
    );
    list.number("attention.value_length_mla", c.v_head_dim);
    if let Some(rank) = c.q_lora_rank {
        list.number("attention.q_lora_rank", rank);
    }
    list.number("attention.kv_lora_rank", c.kv_lora_rank);
    list.real("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
}

fn experts(list: &mut List, c: &Config) {
    list.number("leading_dense_block_count", c.first_k_dense_replace);
    list.number("expert_count", c.n_routed_experts);
    list.number("expert_used_count", c.num_experts_per_tok);
    list.number("expert_shared_count", c.n_shared_experts);
    list.number("expert_feed_forward_length", c.moe_intermediate_size);
    list.real("expert_weights_scale", c.routed_scaling_factor);
    list.own("expert_weights_norm", Value::Flag(c.norm_topk_prob));
    let function = match c.scoring_func {
        ScoringFunc::Softmax => 1,
        ScoringFunc::Sigmoid => 2,
    };
    list.number("expert_gating_func", function);
    list.number("expert_group_count", c.groups());
    list.number("expert_group_used_count", c.kept_groups());
}

/// What readers take for the turns of YaRN where nothing is said.
const USUAL_BETA: [f64; 2] = [32.0, 1.0];

fn rope(list: &mut List, c: &Config) -> Result<()> {
    list.number("rope.dimension_count", c.qk_rope_head_dim);
    list.real("rope.freq_base", c.rope_theta);
    let Some(yarn) = &c.yarn else {
        return Ok(());
    };
    if yarn.mscale != yarn.mscale_all_dim {
        let why = format!(
            "mscale is {} and mscale_all_dim {}: it has one number for both",
            yarn.mscale, yarn.mscale_all_dim
        );
        return Err(QuantizeError::Config(why));
    }
    list.own("rope.scaling.type", Value::Text("yarn".into()));
    list.real("rope.scaling.factor", yarn.factor);
    list.number(
        "rope.scaling.original_context_length",
        yarn.original_max_position_embeddings,
    );
    list.real(
        "rope.scaling.yarn_log_multiplier",
        0.1 * yarn.mscale_all_dim,
    );
    // Readers that know a model by its experts may expect other numbers than the usual ones.
    if [yarn.beta_fast, yarn.beta_slow] != USUAL_BETA || c.n_routed_experts == 384 {
        list.real("rope.scaling.yarn_beta_fast", yarn.beta_fast);
        list.real("rope.scaling.yarn_beta_slow", yarn.beta_slow);
    }
    Ok(())
}

/// Reads the keys as any reader does, and compares what comes out.
fn check(config: &Config, keys: &[(String, Value)], plan: &Plan) -> Result<()> {
    let metadata = Metadata(
        keys.iter()
            .map(|(key, value)| (key.clone(), read(value)))
            .collect(),
    );
    let tensors = Names::of(plan);
    let read = gguf::config(&metadata, &tensors);
    let read = read.map_err(|error| QuantizeError::Config(error.to_string()))?;
    if let Some(difference) = difference(config, &read) {
        return Err(QuantizeError::Config(difference));
    }
    Ok(())
}

/// Keys, what readers see under them, in the reader's own types.
fn read(value: &Value) -> GgufValue {
    match value {
        Value::U32(number) => GgufValue::Unsigned((*number).into()),
        Value::I32(number) => GgufValue::Signed((*number).into()),
        Value::F32(number) => GgufValue::Float((*number).into()),
        Value::Flag(flag) => GgufValue::Flag(*flag),
        Value::Text(text) => GgufValue::Text(text.clone()),
        // Long, and nothing of the configuration.
        Value::Texts(_) | Value::Numbers(_) | Value::Reals(_) => GgufValue::List(Vec::new()),
    }
}

/// The first thing that makes two configurations different models.
fn difference(a: &Config, b: &Config) -> Option<String> {
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(b.abs());
    let whole = [
        ("vocab_size", a.vocab_size, b.vocab_size),
        (
            "num_hidden_layers",
            a.num_hidden_layers,
            b.num_hidden_layers,
        ),
        ("moe_layer_freq", a.moe_layer_freq, b.moe_layer_freq),
        (
            "first_k_dense_replace",
            a.first_k_dense_replace,
            b.first_k_dense_replace,
        ),
        ("n_group", a.groups(), b.groups()),
        ("topk_group", a.kept_groups(), b.kept_groups()),
        ("qk_nope_head_dim", a.qk_nope_head_dim, b.qk_nope_head_dim),
        ("v_head_dim", a.v_head_dim, b.v_head_dim),
    ];
    for (key, a, b) in whole {
        if a != b {
            return Some(format!("{key} is {a}"));
        }
    }
    let flags = [
        ("scoring_func", a.scoring_func == b.scoring_func),
        ("norm_topk_prob", a.normalises() == b.normalises()),
        (
            "tie_word_embeddings",
            a.tie_word_embeddings == b.tie_word_embeddings,
        ),
        ("topk_method", method(a) == method(b)),
    ];
    for (key, same) in flags {
        if !same {
            return Some(format!("{key} is what config.json says"));
        }
    }
    let reals = [
        ("rms_norm_eps", a.rms_norm_eps, b.rms_norm_eps),
        (
            "routed_scaling_factor",
            a.routing_scale(),
            b.routing_scale(),
        ),
        ("softmax scale", a.softmax_scale(), b.softmax_scale()),
        (
            "rotary multiplier",
            a.rope_multiplier(),
            b.rope_multiplier(),
        ),
    ];
    for (key, a, b) in reals {
        if !close(a, b) {
            return Some(format!("{key} is {a}"));
        }
    }
    let (f, g) = (a.inv_freq(), b.inv_freq());
    let same = f.len() == g.len() && f.iter().zip(&g).all(|(f, g)| close(*f, *g));
    (!same).then(|| "rotary frequencies are as in config.json".to_string())
}

/// The method of choice, as far as there is one: without groups all but one are the same.
fn method(config: &Config) -> TopkMethod {
    match config.topk_method {
        TopkMethod::GroupLimitedGreedy if config.groups() == 1 => TopkMethod::Greedy,
        other => other,
    }
}

/// The plan's tensors, as far as a reader of the configuration asks for them.
struct Names(BTreeMap<String, TensorInfo>);

impl Names {
    fn of(plan: &Plan) -> Names {
        let info = |tensor: &crate::Planned| TensorInfo {
            dtype: FileType::Weight(tensor.format),
            shape: tensor.described().dims.into_iter().rev().collect(),
            shard: 0,
            offset: tensor.offset,
            bytes: tensor.bytes(),
        };
        let all = plan.tensors.iter();
        Names(
            all.map(|tensor| (tensor.name.clone(), info(tensor)))
                .collect(),
        )
    }
}

impl TensorSource for Names {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.keys().map(String::as_str))
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.0.get(name)
    }

    fn shards(&self) -> &[Shard] {
        &[]
    }
}
