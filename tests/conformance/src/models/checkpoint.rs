//! Small seeded checkpoints in the official format, made in memory: one for each kind of
//! model the family has. Weights are a function of seed, name and shape alone.

use hadal_device::{DType, SCALE_BLOCK, f32_to_e4m3};
use hadal_models::Config;
use hadal_models::manifest::{ManifestTensor, official_manifest};
use serde_json::{Value, json};

use crate::random::Random;

/// A kind of model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// q_lora, groups, sigmoid and bias, YaRN, BF16, one next-token module.
    V3,
    /// The same with FP8 weights whose blocks do not divide the shapes, and with head and
    /// expert tables larger than the smallest bindings tested.
    V3Fp8,
    /// No q_lora, one group, two shared experts, no YaRN, epsilon 1e-5.
    Moonlight,
    /// Value heads wider than key heads, one next-token module.
    Glm,
    /// Softmax scores, group-limited greedy choice, weights not normalised, rotary parts
    /// scaled (`mscale` unlike `mscale_all_dim`).
    V2,
}

impl Family {
    /// All kinds.
    pub const ALL: [Family; 5] = [
        Family::V3,
        Family::V3Fp8,
        Family::Moonlight,
        Family::Glm,
        Family::V2,
    ];

    /// The text of its `config.json`.
    pub fn config_json(self) -> String {
        let mut config = json!({
            "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
            "vocab_size": 152, "hidden_size": 72, "num_hidden_layers": 3,
            "num_attention_heads": 3, "num_key_value_heads": 3, "q_lora_rank": 40,
            "kv_lora_rank": 48, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8,
            "v_head_dim": 24, "intermediate_size": 88, "moe_intermediate_size": 24,
            "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_routed_experts": 16,
            "n_shared_experts": 1, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2,
            "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
            "routed_scaling_factor": 2.5, "hidden_act": "silu", "rms_norm_eps": 1e-6,
            "rope_theta": 10000, "max_position_embeddings": 4096,
            "num_nextn_predict_layers": 1, "bos_token_id": 0, "eos_token_id": 1,
            "rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 32, "beta_slow": 1,
                "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 1024},
        });
        let changes = match self {
            Family::V3 => json!({}),
            Family::V3Fp8 => json!({
                "vocab_size": 352, "n_routed_experts": 32,
                "hidden_size": 200, "kv_lora_rank": 136, "intermediate_size": 136,
                "moe_intermediate_size": 40, "q_lora_rank": 72,
                "quantization_config": {"quant_method": "fp8", "fmt": "e4m3",
                    "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
            }),
            Family::Moonlight => json!({
                "q_lora_rank": null, "n_group": 1, "topk_group": 1, "n_shared_experts": 2,
                "rope_scaling": null, "rope_theta": 50000.0, "rms_norm_eps": 1e-5,
                "routed_scaling_factor": 2.446, "num_nextn_predict_layers": 0,
            }),
            Family::Glm => json!({
                "v_head_dim": 40, "n_group": 1, "topk_group": 1, "rope_scaling": null,
                "rope_theta": 1e6, "routed_scaling_factor": 1.8,
            }),
            Family::V2 => json!({
                "model_type": "deepseek_v2", "topk_method": "group_limited_greedy",
                "scoring_func": "softmax", "norm_topk_prob": false,
                "routed_scaling_factor": 16.0, "num_nextn_predict_layers": 0,
                "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32,
                    "beta_slow": 1, "mscale": 0.9, "mscale_all_dim": 0.707,
                    "original_max_position_embeddings": 100},
            }),
        };
        if let (Value::Object(to), Value::Object(from)) = (&mut config, changes) {
            to.extend(from);
        }
        config.to_string()
    }

    /// Its configuration.
    pub fn config(self) -> Config {
        Config::from_json(&self.config_json()).expect("the small configurations are legal")
    }

    /// The bytes of its `model.safetensors`.
    pub fn safetensors(self, seed: u64) -> Vec<u8> {
        let tensors = official_manifest(&self.config());
        let mut data = Vec::new();
        let mut header = serde_json::Map::new();
        let mut scales = Vec::new();
        for tensor in &tensors {
            let start = data.len();
            if tensor.name.ends_with("weight_scale_inv") {
                // An FP8 matrix comes right before its scales and has computed them.
                for scale in std::mem::take(&mut scales) {
                    data.extend(f32::to_le_bytes(scale));
                }
            } else {
                scales = write_tensor(tensor, seed, &mut data);
            }
            let entry = json!({"dtype": file_name(tensor.dtype), "shape": tensor.shape,
                "data_offsets": [start, data.len()]});
            header.insert(tensor.name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    /// Writes config and weights into a folder.
    pub fn write(self, seed: u64, dir: &std::path::Path) -> std::io::Result<()> {
        std::fs::write(dir.join("config.json"), self.config_json())?;
        std::fs::write(dir.join("model.safetensors"), self.safetensors(seed))
    }
}

/// The name of a format in a safetensors header.
pub fn file_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
        DType::F8E4M3 => "F8_E4M3",
        other => unreachable!("{other} is no format of safetensors"),
    }
}

/// Values that keep activations of order one: norms near 1, matrices by their input width,
/// biases small but large enough to change choices.
fn write_tensor(tensor: &ManifestTensor, seed: u64, data: &mut Vec<u8>) -> Vec<f32> {
    let mut random = Random::new(seed, &tensor.name);
    let count = tensor.shape.iter().product::<u64>() as usize;
    let inputs = *tensor.shape.last().unwrap_or(&1) as usize;
    let (centre, spread) = if tensor.name.contains("norm") {
        (1.0, 0.2)
    } else if tensor.name.ends_with("bias") {
        (0.0, 0.2)
    } else if tensor.name.contains("embed_tokens") {
        (0.0, 1.7)
    } else {
        (0.0, 2.6 / (inputs as f32).sqrt())
    };
    let values: Vec<f32> = (0..count)
        .map(|_| centre + spread * random.unit())
        .collect();
    match tensor.dtype {
        DType::F8E4M3 => return write_fp8(&values, inputs, data),
        DType::Bf16 => data.extend(
            values
                .iter()
                .flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()),
        ),
        _ => data.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
    Vec::new()
}

/// Codes of 128x128 blocks scaled so that the largest value of a block is 448; gives the
/// scales.
fn write_fp8(values: &[f32], columns: usize, data: &mut Vec<u8>) -> Vec<f32> {
    let block = SCALE_BLOCK as usize;
    let rows = values.len() / columns;
    let across = columns.div_ceil(block);
    let mut largest = vec![0f32; rows.div_ceil(block) * across];
    let at = |index: usize| (index / columns / block) * across + (index % columns) / block;
    for (index, value) in values.iter().enumerate() {
        largest[at(index)] = largest[at(index)].max(value.abs());
    }
    let scales: Vec<f32> = largest.iter().map(|max| max.max(1e-6) / 448.0).collect();
    let codes = values.iter().enumerate();
    data.extend(codes.map(|(index, value)| f32_to_e4m3(value / scales[at(index)])));
    scales
}
