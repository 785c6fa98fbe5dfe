//! Tests of keys that nothing reads: which pass, and which are refused by name.

use super::*;

#[test]
fn parts_of_other_models_are_refused_by_the_name_of_their_key() {
    for (key, value, word) in [
        ("sliding_window", json!(128), "windowed"),
        ("use_sliding_window", json!(true), "windowed"),
        ("index_topk", json!(2048), "indexer"),
        ("index_n_heads", json!(64), "indexer"),
        ("index_head_dim", json!(128), "indexer"),
        ("attn_logit_softcapping", json!(50.0), "caps"),
        ("final_logit_softcapping", json!(30), "caps"),
        ("qkv_bias", json!(true), "biases"),
        ("use_qk_norm", json!(true), "norms"),
        ("logit_scale", json!(0.0625), "only 1"),
        ("logit_scale", json!(0), "only 1"),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "full_attention",
        ),
        ("layer_types", json!("full_attention"), "a list"),
        (
            "mlp_layer_types",
            json!(["sparse"]),
            "first_k_dense_replace",
        ),
    ] {
        let error = refused(json!({key: value}));
        assert_eq!(error.key, key);
        assert!(error.why.contains(word), "{error}");
    }
}

#[test]
fn a_key_that_nobody_knows_is_refused_by_name_with_the_cure() {
    for value in [
        json!(1),
        json!(-0.5),
        json!(true),
        json!("on"),
        json!([0]),
        json!({"a": 0}),
    ] {
        let error = refused(json!({"flux_capacitor": value}));
        assert_eq!(error.key, "flux_capacitor");
        assert!(error.why.contains("remove it"), "{error}");
    }
    let rope = json!({"type": "yarn", "factor": 2, "original_max_position_embeddings": 4096,
        "low_freq_factor": 1, "finetuned": true});
    let error = refused(json!({"rope_scaling": rope}));
    assert_eq!(error.key, "rope_scaling.low_freq_factor");
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head"], "rotation": "hadamard"});
    let error = refused(json!({"quantization_config": fp8}));
    assert_eq!(error.key, "quantization_config.rotation");
}

#[test]
fn unknown_keys_that_are_switched_off_are_kept_for_the_report() {
    let off = json!({"flux_a": null, "flux_b": false, "flux_c": 0, "flux_d": 0.0, "flux_e": "",
        "flux_f": [], "flux_g": {}, "sliding_window": null, "index_topk": 0, "use_qk_norm": false});
    let config = v3_with(off).unwrap();
    let names = [
        "flux_a", "flux_b", "flux_c", "flux_d", "flux_e", "flux_f", "flux_g",
    ];
    assert_eq!(config.unknown_keys, names);
}

#[test]
fn what_publishers_write_beside_the_model_is_accepted() {
    let plain = published("deepseek_v3");
    let kinds = [vec!["dense"; 3], vec!["sparse"; 58]].concat();
    let config = v3_with(json!({
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "aux_loss_alpha": 0.001, "seq_aux": true, "pretraining_tp": 1, "ep_size": 8,
        "_name_or_path": "model", "_comment": "made up", "pad_token_id": 2, "unk_token_id": 3, "dtype": "bfloat16",
        "head_dim": 64, "qk_head_dim": 192, "attention_dropout": 0.1, "return_dict": true,
        "output_router_logits": true, "temperature": 1.0, "top_k": 50, "max_length": 20,
        "id2label": {"0": "LABEL_0"}, "rope_interleave": true, "attention_bias": false,
        "logit_scale": 1.0, "layer_types": vec!["full_attention"; 61],
        "mlp_layer_types": kinds,
    }));
    assert_eq!(config.unwrap(), plain);
}

#[test]
fn special_tokens_beyond_the_vocabulary_are_refused() {
    for (key, value, found) in [
        ("bos_token_id", json!(129_280), "129280"),
        ("eos_token_id", json!(129_280), "129280"),
        ("eos_token_id", json!([1, 4_000_000]), "4000000"),
    ] {
        let error = refused(json!({key: value}));
        assert_eq!((error.key.as_str(), error.found.as_str()), (key, found));
        assert!(error.why.contains("vocab_size is 129280"), "{error}");
    }
    assert!(v3_with(json!({"bos_token_id": 129_279, "eos_token_id": [129_279]})).is_ok());
}

#[test]
fn every_configuration_of_the_family_opens_and_has_no_unknown_key() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/configs");
    let mut files: Vec<std::path::PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() >= 8);
    files.push(concat!(env!("CARGO_MANIFEST_DIR"), "/tiny/config.json").into());
    match std::env::var_os("HADAL_GOLDEN") {
        Some(dir) => files.extend(
            ["p01_v3_groups", "p02_fp8_ragged_mtp", "p03_moonlight"]
                .map(|case| std::path::Path::new(&dir).join(case).join("config.json")),
        ),
        None => println!("not run on the golden cases: HADAL_GOLDEN is not set"),
    }
    for file in files {
        let config = Config::from_json(&std::fs::read_to_string(&file).unwrap());
        let config = config.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(config.unknown_keys, [""; 0], "{}", file.display());
    }
}
