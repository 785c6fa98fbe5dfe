//! Tests of configurations: what is read, what is refused and by which name.

use super::*;
use serde_json::json;

#[path = "rest/tests.rs"]
mod rest;

pub(crate) fn fixture(name: &str) -> String {
    let path = format!(
        "{}/fixtures/configs/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path).unwrap()
}

fn published(name: &str) -> Config {
    Config::from_json(&fixture(name)).unwrap()
}

/// V3's configuration with some keys replaced; a `null` removes nothing but reads as missing.
fn v3_with(changes: Value) -> std::result::Result<Config, ConfigError> {
    let mut map: Map<String, Value> = serde_json::from_str(&fixture("deepseek_v3")).unwrap();
    map.extend(changes.as_object().unwrap().clone());
    Config::from_json(&Value::Object(map).to_string())
}

fn refused(changes: Value) -> ConfigError {
    v3_with(changes.clone()).expect_err(&changes.to_string())
}

#[test]
fn published_files_give_published_values() {
    let v3 = published("deepseek_v3");
    assert_eq!((v3.num_hidden_layers, v3.num_nextn_predict_layers), (61, 1));
    assert_eq!(
        (v3.groups(), v3.kept_groups(), v3.num_experts_per_tok),
        (8, 4, 8)
    );
    assert_eq!(
        v3.fp8,
        Some(Fp8 {
            power_of_two_scales: false
        })
    );
    assert_eq!((v3.routing_scale(), v3.normalises()), (2.5, true));
    assert!(!v3.is_moe(2) && v3.is_moe(3) && v3.is_moe(61));
    assert_eq!(v3.unknown_keys, [""; 0]);
    assert!(published("deepseek_v31").fp8.unwrap().power_of_two_scales);
    let moonlight = published("moonlight_16b");
    assert_eq!((moonlight.q_lora_rank, moonlight.fp8), (None, None));
    assert_eq!(moonlight.shared_intermediate_size(), 2816);
    let glm = published("glm_47_flash");
    assert_eq!(
        (glm.v_head_dim, glm.eos_token_ids.len(), glm.bos_token_id),
        (256, 3, None)
    );
    assert_eq!(glm.scoring_func, ScoringFunc::Sigmoid);
}

#[test]
fn the_second_version_scales_only_weights_it_does_not_normalise() {
    let v2 = published("deepseek_v2");
    assert_eq!(v2.topk_method, TopkMethod::GroupLimitedGreedy);
    assert_eq!((v2.groups(), v2.kept_groups()), (8, 3));
    assert_eq!((v2.normalises(), v2.routing_scale()), (false, 16.0));
    let mut normalised = v2.clone();
    normalised.norm_topk_prob = true;
    assert_eq!(
        (normalised.normalises(), normalised.routing_scale()),
        (true, 1.0)
    );
    normalised.num_experts_per_tok = 1;
    assert_eq!(
        (normalised.normalises(), normalised.routing_scale()),
        (false, 16.0)
    );
    let lite = published("deepseek_v2_lite");
    assert_eq!((lite.topk_method, lite.groups()), (TopkMethod::Greedy, 1));
}

#[test]
fn softmax_scales_are_the_published_ones() {
    for (name, scale) in [
        ("deepseek_v3", 0.135_233_778_860_880_1),
        ("kimi_k2", 0.130_860_799_962_950_05),
        ("kimi_k2_0905", 0.144_679_625_802_689_23),
        ("deepseek_v2", 0.114_721_386_792_926_11),
        ("deepseek_v2_lite", 0.114_721_386_792_926_11),
        ("moonlight_16b", 0.072_168_783_648_703_22),
        ("glm_47_flash", 0.0625),
    ] {
        let config = published(name);
        assert!((config.softmax_scale() - scale).abs() < 1e-15, "{name}");
        assert_eq!(config.rope_multiplier(), 1.0, "{name}");
        assert_eq!(config.inv_freq().len(), 32, "{name}");
    }
}

#[test]
fn yarn_blends_frequencies_as_published() {
    let table = published("deepseek_v3").inv_freq();
    for (pair, value) in [
        (0, 1.0),
        (10, 0.0562341325),
        (11, 0.0390069265),
        (12, 0.0268793601),
        (31, 3.33380358e-6),
    ] {
        assert!(
            (table[pair] / value - 1.0).abs() < 2e-9,
            "pair {pair}: {}",
            table[pair]
        );
    }
    // Kimi's ramp is one step wide: unscaled up to pair 19, divided by 32 from pair 20 on.
    let kimi = published("kimi_k2").inv_freq();
    let plain = |j: f64| 50000f64.powf(-j / 32.0);
    assert!((kimi[19] / plain(19.0) - 1.0).abs() < 1e-12);
    assert!((kimi[20] / (plain(20.0) / 32.0) - 1.0).abs() < 1e-12);
}

#[test]
fn unequal_or_missing_mscale_moves_the_multiplier() {
    let yarn = |more: Value| {
        let mut map =
            json!({"type": "yarn", "factor": 16, "original_max_position_embeddings": 512});
        map.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        v3_with(json!({"rope_scaling": map, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32}))
            .unwrap()
    };
    let unequal = yarn(json!({"mscale": 0.8, "mscale_all_dim": 0.5}));
    assert!((unequal.rope_multiplier() - 1.073_050_686_227_834_8).abs() < 1e-15);
    assert!((unequal.softmax_scale() - 0.162_059_624_097_588_27).abs() < 1e-15);
    let bare = yarn(json!({}));
    assert_eq!(bare.softmax_scale(), 0.125);
    assert!((bare.rope_multiplier() - (0.1 * 16f64.ln() + 1.0)).abs() < 1e-15);
}

#[test]
fn newer_and_older_spellings_mean_the_same() {
    let older = published("deepseek_v3");
    let mut map: Map<String, Value> = serde_json::from_str(&fixture("deepseek_v3")).unwrap();
    let Some(Value::Object(mut rope)) = map.remove("rope_scaling") else {
        panic!()
    };
    let kind = rope.remove("type").unwrap();
    rope.insert("rope_type".into(), kind);
    rope.insert("rope_theta".into(), map.remove("rope_theta").unwrap());
    map.insert("rope_parameters".into(), Value::Object(rope));
    let layers = map.remove("num_nextn_predict_layers").unwrap();
    map.insert("num_mtp_layers".into(), layers);
    map.remove("model_type");
    map.insert("eos_token_id".into(), json!([1]));
    assert_eq!(
        Config::from_json(&Value::Object(map.clone()).to_string()).unwrap(),
        older
    );
    map.insert("model_type".into(), json!("kimi_k2"));
    let wrapped = json!({"model_type": "kimi_k25", "text_config": map, "vision_config": {}});
    let inner = Config::from_json(&wrapped.to_string()).unwrap();
    assert_eq!(
        (inner.model_type.as_str(), inner.hidden_size),
        ("kimi_k2", 7168)
    );
}

#[test]
fn a_query_rank_of_zero_means_none_and_defaults_hold() {
    let config = v3_with(json!({
        "q_lora_rank": 0, "rope_scaling": null, "quantization_config": null,
        "num_key_value_heads": null, "n_shared_experts": null, "n_group": null,
        "topk_group": null, "routed_scaling_factor": null, "moe_layer_freq": null,
        "first_k_dense_replace": null, "rms_norm_eps": null, "hidden_act": null,
    }))
    .unwrap();
    assert_eq!(
        (config.q_lora_rank, config.yarn, config.n_shared_experts),
        (None, None, 0)
    );
    assert_eq!(
        (config.groups(), config.routing_scale(), config.rms_norm_eps),
        (1, 1.0, 1e-6)
    );
    assert!(config.is_moe(0));
}

/// Each change is refused under its key.
fn refused_by_name(cases: &[(&str, Value)]) {
    for (key, changes) in cases {
        let error = refused(changes.clone());
        assert_eq!(error.key, *key, "{error}");
        assert!(!error.why.is_empty() && error.to_string().contains(key));
    }
}

#[test]
fn unsupported_models_and_routing_are_refused_by_the_name_of_their_key() {
    refused_by_name(&[
        ("model_type", json!({"model_type": "deepseek_v4"})),
        ("model_type", json!({"model_type": "deepseek_v32"})),
        ("model_type", json!({"model_type": "llama"})),
        ("attention_bias", json!({"attention_bias": true})),
        ("mlp_bias", json!({"mlp_bias": true})),
        ("hidden_act", json!({"hidden_act": "gelu"})),
        ("num_key_value_heads", json!({"num_key_value_heads": 1})),
        ("scoring_func", json!({"scoring_func": "sqrtsoftplus"})),
        ("topk_method", json!({"topk_method": "aux"})),
        ("num_mtp_layers", json!({"num_mtp_layers": 2})),
        ("n_group", json!({"n_group": 7})),
        ("n_group", json!({"n_group": 256})),
        ("topk_group", json!({"topk_group": 9})),
        ("num_experts_per_tok", json!({"num_experts_per_tok": 129})),
    ]);
}

#[test]
fn unsupported_quantisation_is_refused_by_the_name_of_its_key() {
    for (key, value) in [
        ("quant_method", json!("compressed-tensors")),
        ("fmt", json!("e5m2")),
        ("activation_scheme", json!("static")),
        ("weight_block_size", json!([64, 64])),
        ("weight_block_size", json!([128, 128, 128])),
        ("weight_block_size", Value::Null),
        ("scale_fmt", json!("e5m3")),
    ] {
        let mut map =
            json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]});
        map[key] = value;
        let name = format!("quantization_config.{key}");
        refused_by_name(&[(&name, json!({"quantization_config": map}))]);
    }
}

#[test]
fn unsupported_rotation_is_refused_by_the_name_of_its_key() {
    let part = json!({"partial_rotary_factor": 0.5});
    refused_by_name(&[
        ("rope_interleave", json!({"rope_interleave": false})),
        ("partial_rotary_factor", part),
        ("qk_rope_head_dim", json!({"qk_rope_head_dim": 63})),
        ("rope_scaling", json!({"rope_scaling": "yarn"})),
    ]);
    let yarn = |key: &str, value: Value| {
        let mut map =
            json!({"type": "yarn", "factor": 2, "original_max_position_embeddings": 4096});
        map[key] = value;
        map
    };
    for (key, map) in [
        ("type", yarn("type", json!("linear"))),
        ("rope_type", yarn("rope_type", json!("longrope"))),
        ("type", json!({"factor": 2})),
        ("factor", yarn("factor", Value::Null)),
        ("factor", yarn("factor", json!(0.5))),
        ("attention_factor", yarn("attention_factor", json!(2))),
        ("truncate", yarn("truncate", json!(false))),
        ("beta_slow", yarn("beta_slow", json!(33))),
        (
            "original_max_position_embeddings",
            yarn("original_max_position_embeddings", Value::Null),
        ),
    ] {
        let name = format!("rope_scaling.{key}");
        refused_by_name(&[(&name, json!({"rope_scaling": map}))]);
    }
}

#[test]
fn absurd_numbers_are_refused_by_the_name_of_their_key() {
    for key in [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "kv_lora_rank",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "intermediate_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "max_position_embeddings",
        "num_nextn_predict_layers",
        "moe_layer_freq",
        "n_shared_experts",
        "first_k_dense_replace",
        "rms_norm_eps",
        "rope_theta",
        "routed_scaling_factor",
    ] {
        for value in [
            json!(-1),
            json!(u64::MAX),
            json!(1e300),
            json!("7168"),
            json!([1]),
            json!(0.5e-40),
        ] {
            assert_eq!(refused(json!({key: value})).key, key, "{value}");
        }
    }
    for key in [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "moe_layer_freq",
        "n_group",
    ] {
        assert_eq!(refused(json!({key: 0})).key, key);
    }
    for key in [
        "vocab_size",
        "hidden_size",
        "kv_lora_rank",
        "n_routed_experts",
    ] {
        assert_eq!(refused(json!({key: null})).found, "null");
    }
    // Each number is possible alone; together they are not a model.
    let giant = json!({"hidden_size": 1 << 20, "moe_intermediate_size": 1 << 20,
        "n_routed_experts": 4096, "num_hidden_layers": 1024, "vocab_size": 1 << 24});
    assert!(refused(giant).why.contains("2^50"));
}

#[test]
fn text_that_is_no_configuration_is_refused() {
    let deep = "[".repeat(100_000);
    let long = " ".repeat(Config::MAX_JSON_BYTES as usize + 1);
    for text in [
        "",
        "{",
        "[]",
        "null",
        "{\"model_type\": 3}",
        "{}",
        deep.as_str(),
        long.as_str(),
    ] {
        Config::from_json(text).unwrap_err();
    }
}

#[test]
fn a_cut_model_keeps_the_rules() {
    let v3 = published("deepseek_v3");
    let cut = v3.cut(Some(4), Some(16)).unwrap();
    assert_eq!(
        (
            cut.num_hidden_layers,
            cut.n_routed_experts,
            cut.num_nextn_predict_layers
        ),
        (4, 16, 0)
    );
    assert_eq!(v3.cut(None, None).unwrap(), v3);
    assert_eq!(v3.cut(Some(62), None).unwrap_err().key, "num_hidden_layers");
    assert_eq!(v3.cut(None, Some(8)).unwrap_err().key, "n_group");
    assert_eq!(v3.cut(None, Some(257)).unwrap_err().key, "n_routed_experts");
}

#[test]
fn the_seven_golden_tables_agree() {
    let Some(dir) = std::env::var_os("HADAL_GOLDEN") else {
        return println!("not run: the_seven_golden_tables_agree (HADAL_GOLDEN is not set)");
    };
    let path = std::path::Path::new(&dir).join("unit/unit.json");
    let unit: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = unit["yarn"].as_array().unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let config = v3_with(json!({
            "rope_theta": case["rope_theta"], "rope_scaling": case["rope_scaling"],
            "qk_rope_head_dim": case["qk_rope_head_dim"], "qk_nope_head_dim": case["qk_nope_head_dim"],
        }))
        .unwrap();
        let close = |found: f64, wanted: &Value, what: &str| {
            let wanted = wanted.as_f64().unwrap();
            assert!(
                (found / wanted - 1.0).abs() < 1e-13,
                "{} {what}: {found} {wanted}",
                case["name"]
            );
        };
        close(config.softmax_scale(), &case["softmax_scale"], "scale");
        close(
            config.rope_multiplier(),
            &case["cos_sin_multiplier"],
            "multiplier",
        );
        let table = config.inv_freq();
        assert_eq!(table.len(), case["inv_freq"].as_array().unwrap().len());
        for (j, value) in table.iter().enumerate() {
            close(*value, &case["inv_freq"][j], "frequency");
        }
    }
}

mod random {
    use super::*;
    use proptest::prelude::*;

    /// Whatever was accepted can be derived from without overflow or panic.
    fn derive(config: &Config) {
        let counts = crate::counts::Counts::of(config);
        assert!(counts.total() < 1 << 50);
        assert!(config.inv_freq().iter().all(|f| f.is_finite()));
        assert!(config.softmax_scale().is_finite() && config.rope_multiplier().is_finite());
        assert!(config.kept_groups() <= config.groups());
    }

    proptest! {
        #[test]
        fn any_text_is_a_configuration_or_an_error(text in "\\PC{0,200}") {
            let _ = Config::from_json(&text);
        }

        #[test]
        fn a_published_file_with_damaged_bytes_never_panics(
            hits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8)
        ) {
            let mut bytes = fixture("deepseek_v3").into_bytes();
            for (at, byte) in hits {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            if let Ok(config) = Config::from_json(&String::from_utf8_lossy(&bytes)) {
                derive(&config);
            }
        }

        #[test]
        fn a_published_file_with_other_numbers_never_panics(
            which in any::<prop::sample::Index>(), number in any::<u64>(), shift in 0u32..64
        ) {
            let mut map: Map<String, Value> = serde_json::from_str(&fixture("deepseek_v3")).unwrap();
            let keys: Vec<String> = map.keys().cloned().collect();
            map.insert(which.get(&keys).clone(), json!(number >> shift));
            if let Ok(config) = Config::from_json(&Value::Object(map).to_string()) {
                derive(&config);
            }
        }
    }
}
