//! Single operations of the reference evaluator against the golden vectors: routing with
//! exact ties, quantisation, rotation, norms, one group of attention heads.

mod golden_files;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Arc;

use golden_files::{Stored, numbers, read};
use hadal_device::{DType, e4m3_to_f32};
use hadal_graph::reference::{Caches, Routes, Step, Value, evaluate, round_to_e4m3};
use hadal_graph::{ActScale, Form, Net, RouteRule, Target, Val, absorb, optimise};

/// Both sides compute in `f64`; the vectors are given in full.
const EXACT: f64 = 1e-12;
/// Vectors stored as `f32`.
const SINGLE: f64 = 1e-6;

struct Unit {
    tensors: BTreeMap<String, Stored>,
    json: serde_json::Value,
}

impl Unit {
    fn open() -> Option<Unit> {
        let folder = golden_files::folder("unit")?;
        let json = fs::read_to_string(folder.join("unit.json")).unwrap();
        Some(Unit {
            tensors: read(&folder.join("unit.safetensors")),
            json: serde_json::from_str(&json).unwrap(),
        })
    }

    fn data(&self, name: &str) -> &[f64] {
        &self.tensors[name].data
    }

    fn shape(&self, name: &str) -> Vec<u32> {
        self.tensors[name].shape.iter().map(|n| *n as u32).collect()
    }
}

/// What a few lines make of rows given as hidden states, one sequence, at `positions`.
fn run(
    lines: &dyn for<'g> Fn(&'g Net<'g>) -> Val<'g>,
    rows: &[f64],
    positions: &[u32],
    rope: &[f64],
    weights: &[(&str, &[f64])],
) -> Value {
    let dtypes = |_: &str| Some(DType::F32);
    let net = Net::new(&dtypes, false);
    let _ = lines(&net).output("y");
    let graph = net.finish().unwrap();
    let zeros = vec![0; positions.len()];
    let step = Step {
        ids: &zeros,
        positions,
        sequences: &zeros,
        hidden: rows,
        logit_rows: &[],
        rope,
    };
    let weights: HashMap<&str, Arc<[f64]>> = weights
        .iter()
        .map(|(name, data)| (*name, Arc::from(*data)))
        .collect();
    let weights = |name: &str| weights.get(name).cloned();
    evaluate(&graph, &step, &weights, &mut Caches::default())
        .unwrap()
        .remove("y")
        .unwrap()
}

fn assert_close(ours: &[f64], theirs: &[f64], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * b.abs().max(1.0),
            "{what} [{index}]: {a} {b}"
        );
    }
}

fn positions(count: usize) -> Vec<u32> {
    (0..count as u32).collect()
}

#[test]
fn every_routing_case_chooses_the_same_experts_in_the_same_order() {
    let Some(unit) = Unit::open() else { return };
    let cases = unit.json["routing"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let name = format!("route.{}", case["name"].as_str().unwrap());
        let number = |key: &str| case[key].as_u64().unwrap_or(1) as u32;
        let greedy = case["topk_method"] == "greedy";
        let rule = RouteRule {
            experts: number("n_routed_experts"),
            top_k: number("num_experts_per_tok"),
            groups: if greedy { 1 } else { number("n_group") },
            kept_groups: if greedy { 1 } else { number("topk_group") },
            softmax: case["scoring_func"] == "softmax",
            group_max: case["topk_method"] != "noaux_tc",
            normalise: case["norm_topk_prob"] == true,
            scale: case["routed_scaling_factor"].as_f64().unwrap() as f32,
        };
        let bias = case["has_bias"] == true;
        let bias_name = format!("{name}.bias");
        let weights: Vec<(&str, &[f64])> = match bias {
            true => vec![("bias", unit.data(&bias_name))],
            false => vec![],
        };
        let logits = unit.data(&format!("{name}.logits"));
        let rows = logits.len() / rule.experts as usize;
        let value = run(
            &|net| {
                let bias = bias.then(|| net.weight("bias", &[rule.experts]));
                net.hidden(rule.experts).route(rule, bias)
            },
            logits,
            &positions(rows),
            &[],
            &weights,
        );
        let Value::Routes(Routes {
            experts, weights, ..
        }) = value
        else {
            panic!("{name}")
        };
        let theirs: Vec<u32> = unit
            .data(&format!("{name}.idx"))
            .iter()
            .map(|i| *i as u32)
            .collect();
        assert_eq!(experts, theirs, "{name}");
        // The factor is an f32 in the graph.
        assert_close(
            &weights,
            unit.data(&format!("{name}.weight_f64")),
            SINGLE,
            &name,
        );
    }
}

#[test]
fn rounding_to_e4m3_agrees_for_every_code_and_every_crafted_value() {
    let Some(unit) = Unit::open() else { return };
    for (value, code) in unit
        .data("e4m3.encode_in")
        .iter()
        .zip(unit.data("e4m3.encode_out"))
    {
        let expected = f64::from(e4m3_to_f32(*code as u8));
        let ours = round_to_e4m3(*value);
        assert!(
            ours == expected || ours.is_nan() && expected.is_nan(),
            "{value}: {ours} {expected}"
        );
    }
}

#[test]
fn quantised_activations_agree_in_ragged_groups() {
    let Some(unit) = Unit::open() else { return };
    for (name, scale) in [("f32", ActScale::F32), ("ue8m0", ActScale::Ue8m0)] {
        let x = unit.data("act_quant.x");
        let dtypes = |_: &str| Some(DType::F8E4M3);
        let net = Net::new(&dtypes, false);
        net.hidden(200).linear("w", 200).output("y");
        let target = Target {
            form: Form::Expanded,
            quantise: Some(scale),
            rows: 5,
            runs: &|_| false,
        };
        let graph = optimise(net.finish().unwrap(), &target).unwrap();
        let identity: Vec<f64> = (0..200 * 200)
            .map(|i| if i / 200 == i % 200 { 1.0 } else { 0.0 })
            .collect();
        let identity: Arc<[f64]> = identity.into();
        let zeros = [0; 5];
        let step = Step {
            ids: &zeros,
            positions: &[0, 1, 2, 3, 4],
            sequences: &zeros,
            hidden: x,
            ..Step::default()
        };
        let outputs = evaluate(
            &graph,
            &step,
            &|_| Some(identity.clone()),
            &mut Caches::default(),
        );
        let outputs = outputs.unwrap();
        let (codes, scales) = (
            unit.data(&format!("act_quant.{name}.q")),
            unit.data(&format!("act_quant.{name}.scale")),
        );
        let expected: Vec<f64> = codes
            .iter()
            .enumerate()
            .map(|(i, code)| {
                f64::from(e4m3_to_f32(*code as u8)) * scales[i / 200 * 2 + i % 200 / 128]
            })
            .collect();
        assert_close(numbers(&outputs["y"]), &expected, SINGLE, name);
    }
}

#[test]
fn norms_gates_and_rotations_agree() {
    let Some(unit) = Unit::open() else { return };
    for (name, eps) in [("rmsnorm.eps1e-5_f64", 1e-5), ("rmsnorm.eps1e-6_f64", 1e-6)] {
        let weights = [("norm.weight", unit.data("rmsnorm.w"))];
        let y = run(
            &|net| net.hidden(96).norm("norm", eps),
            unit.data("rmsnorm.x"),
            &positions(4),
            &[],
            &weights,
        );
        // The epsilon is an f32 in the graph.
        assert_close(numbers(&y), unit.data(name), SINGLE, name);
    }
    let rows: Vec<f64> = unit
        .data("swiglu.gate")
        .chunks(96)
        .zip(unit.data("swiglu.up").chunks(96))
        .flat_map(|(gate, up)| [gate, up].concat())
        .collect();
    fn gated<'g>(net: &'g Net<'g>) -> Val<'g> {
        let (gate, up) = net.hidden(192).split(96);
        gate.swiglu(up)
    }
    let y = run(&gated, &rows, &positions(4), &[], &[]);
    assert_close(numbers(&y), unit.data("swiglu.out_f64"), EXACT, "swiglu");

    for (index, name) in ["deepseek_v3", "unequal_mscale"].into_iter().enumerate() {
        let yarn = unit.json["yarn"].as_array().unwrap();
        let yarn = yarn.iter().find(|case| case["name"] == name).unwrap();
        let gain = yarn["cos_sin_multiplier"].as_f64().unwrap();
        let frequencies: Vec<f64> = yarn["inv_freq"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f.as_f64().unwrap())
            .collect();
        let at: Vec<u32> = unit
            .data(&format!("rope.{name}.pos"))
            .iter()
            .map(|p| *p as u32)
            .collect();
        let table: Vec<f64> = (0..=*at.iter().max().unwrap())
            .flat_map(|p| frequencies.iter().map(move |f| f64::from(p) * f))
            .flat_map(|angle| [angle.cos() * gain, angle.sin() * gain])
            .collect();
        let rope = 2 * frequencies.len() as u32;
        assert_eq!(rope, [64, 32][index]);
        let lines: &dyn for<'g> Fn(&'g Net<'g>) -> Val<'g> =
            &|net| net.hidden(2 * rope).heads(2).rope(net.rope_table(rope));
        let y = run(
            lines,
            unit.data(&format!("rope.{name}.x")),
            &at,
            &table,
            &[],
        );
        // Angles reach 1e5 radians, where f64 cosines of different libraries differ by 1e-11.
        let golden = unit.data(&format!("rope.{name}.interleaved_f64"));
        assert_close(numbers(&y), golden, 1e-9, name);
    }
}

#[test]
fn one_group_of_latent_attention_heads_agrees_in_both_forms() {
    let Some(unit) = Unit::open() else { return };
    let (q, nope) = (unit.shape("mla.q_nope"), 12);
    let (tokens, heads, rope, value) = (9, q[1], 8, 10);
    let latent = unit.shape("mla.latent")[1];
    let scale = 0.2; // that of the vectors, which do not say it
    // Rows of the queries' tokens, the last ones, hold a query; all hold a key.
    let first = tokens - q[0] as usize;
    let mut rows = Vec::new();
    for token in 0..tokens {
        for head in 0..heads as usize {
            let part = |name: &str, width: usize| match token.checked_sub(first) {
                Some(row) => {
                    unit.data(name)[(row * heads as usize + head) * width..][..width].to_vec()
                }
                None => vec![0.0; width],
            };
            rows.extend(part("mla.q_nope", nope as usize));
            rows.extend(part("mla.q_pe", rope as usize));
        }
        rows.extend(&unit.data("mla.latent")[token * latent as usize..][..latent as usize]);
        rows.extend(&unit.data("mla.k_pe")[token * rope as usize..][..rope as usize]);
    }
    let dtypes = |_: &str| Some(DType::F32);
    let net = Net::new(&dtypes, false);
    let width = heads * (nope + rope);
    let (query, key) = net.hidden(width + latent + rope).split(width);
    let cache = key.cache_append(0);
    query
        .heads(heads)
        .attend_expanded(cache, "kv_b", scale, nope, value)
        .flat()
        .output("y");
    let expanded = net.finish().unwrap();
    let kv_b: Arc<[f64]> = Arc::from(unit.data("mla.kv_b"));
    let target = Target {
        form: Form::Absorbed,
        quantise: None,
        rows: tokens as u32,
        runs: &|_| false,
    };
    for graph in [absorb(expanded.clone(), &target).unwrap(), expanded] {
        let zeros = vec![0; tokens];
        let step = Step {
            ids: &zeros,
            positions: &positions(tokens),
            sequences: &zeros,
            hidden: &rows,
            ..Step::default()
        };
        let outputs = evaluate(
            &graph,
            &step,
            &|_| Some(kv_b.clone()),
            &mut Caches::default(),
        )
        .unwrap();
        let y = &numbers(&outputs["y"])[first * (heads * value) as usize..];
        // The scale is an f32 in the graph.
        assert_close(y, unit.data("mla.out"), SINGLE, "mla");
    }
}

/// Every block format with a vector: decoding is exact but for the order of factors.
#[test]
fn block_formats_decode_as_published() {
    let Some(unit) = Unit::open() else { return };
    let formats = unit.json["gguf"].as_array().unwrap();
    for format in formats {
        let name = format["name"].as_str().unwrap();
        let dtype = DType::from_name(&name.to_lowercase()).unwrap();
        assert_eq!(dtype.block_values(), format["block"].as_u64().unwrap());
        assert_eq!(dtype.block_bytes(), format["bytes"].as_u64().unwrap());
        let stored = unit.data(&format!("gguf.{name}.blocks"));
        let bytes: Vec<u8> = stored.iter().map(|byte| *byte as u8).collect();
        let wanted = unit.data(&format!("gguf.{name}.values"));
        let mut values = vec![f32::NAN; wanted.len()];
        hadal_blocks::decode(dtype, &bytes, &mut values);
        let largest = wanted
            .iter()
            .fold(0f64, |most, value| most.max(value.abs()));
        for (i, (value, wanted)) in values.iter().zip(wanted).enumerate() {
            let error = (f64::from(*value) - wanted).abs();
            assert!(
                error <= SINGLE * largest,
                "{name} {i}: {value} for {wanted}"
            );
        }
    }
    assert_eq!(formats.len(), 19);
}
