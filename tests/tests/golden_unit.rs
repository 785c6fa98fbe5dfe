//! The published model's numbers for single operations: every unit case that a kernel can
//! do, as the kernel that selection gives on every device.
//!
//! Needs the folder of golden cases (HADAL_GOLDEN); each test says so when it is missing.
//! The logits' tolerance of the golden README is what a whole model may add up to; a single
//! operation must be as near as `f32` comes, and chosen experts must be equal.

use hadal_device::{DType, OpKind, PAGE, Params, Problem, e4m3_to_f32, f32_to_e4m3, flags};
use hadal_tests::devices;
use hadal_tests::dispatch::Argument;
use hadal_tests::golden::worst;
use hadal_tests::unit::{DEVICES, Unit, dense, inputs, judge, ratio, share};

/// Largest difference of a value, as a share of the case's largest.
const SINGLE: f64 = 1e-6;

#[test]
fn every_routing_case_takes_the_same_experts_with_the_same_weights() {
    let test = "every_routing_case_takes_the_same_experts_with_the_same_weights";
    let Some(unit) = Unit::open(test) else { return };
    for case in unit.cases["routing"].as_array().expect("routing") {
        let number = |key: &str| case[key].as_u64().expect("a number") as u32;
        let name = format!("route.{}", case["name"].as_str().expect("a name"));
        let bits = [
            (case["has_bias"] == true, flags::BIAS),
            (case["scoring_func"] == "softmax", flags::SOFTMAX),
            (case["topk_method"] != "noaux_tc", flags::GROUP_MAX),
            (case["norm_topk_prob"] == true, flags::NORMALISE),
        ];
        let [rows, experts] = *unit.shape(&format!("{name}.logits")) else {
            panic!("{name} has rows of logits")
        };
        let params = Params {
            experts: number("n_routed_experts"),
            groups: number("n_group"),
            kept_groups: number("topk_group"),
            top_k: number("num_experts_per_tok"),
            scale: case["routed_scaling_factor"].as_f64().expect("a factor") as f32,
            flags: bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum(),
            ..dense(rows, experts, 0)
        };
        let mut arguments = vec![inputs(rows), unit.floats(&format!("{name}.logits"))];
        if case["has_bias"] == true {
            arguments.push(unit.floats(&format!("{name}.bias")));
        }
        let chosen = unit.values(&format!("{name}.idx"));
        let weights = unit.values(&format!("{name}.weight_f64"));
        arguments.extend([Argument::Out(chosen.len()), Argument::Out(weights.len())]);
        let problem = (OpKind::Route, DType::F32, params);
        unit.check(&name, problem, &arguments, SINGLE, |place, done| {
            let found: Vec<_> = done.outputs[0].iter().map(|&e| f64::from(e)).collect();
            assert_eq!(found, chosen, "{place}: other experts");
            share(&done.floats(1), weights)
        });
    }
}

#[test]
fn norms_and_gates_agree() {
    let Some(unit) = Unit::open("norms_and_gates_agree") else {
        return;
    };
    let [rows, width] = *unit.shape("rmsnorm.x") else {
        panic!("rmsnorm.x has rows")
    };
    let out = Argument::Out(rows * width);
    for (name, eps) in [("rmsnorm.eps1e-5_f64", 1e-5), ("rmsnorm.eps1e-6_f64", 1e-6)] {
        let params = Params {
            eps,
            ..dense(rows, width, width)
        };
        let [x, w] = ["rmsnorm.x", "rmsnorm.w"].map(|name| unit.floats(name));
        let arguments = [inputs(rows), x, w, out.clone()];
        let problem = (OpKind::Norm, DType::F32, params);
        unit.check(name, problem, &arguments, SINGLE, |_, done| {
            share(&done.floats(0), unit.values(name))
        });
    }
    let [gate, up] = ["swiglu.gate", "swiglu.up"].map(|name| unit.floats(name));
    let problem = (OpKind::SwiGlu, DType::F32, dense(rows, width, width));
    let arguments = [inputs(rows), gate, up, out];
    unit.check("swiglu", problem, &arguments, SINGLE, |_, done| {
        share(&done.floats(0), unit.values("swiglu.out_f64"))
    });
}

#[test]
fn rotations_agree() {
    let Some(unit) = Unit::open("rotations_agree") else {
        return;
    };
    for name in ["deepseek_v3", "unequal_mscale"] {
        let cases = unit.cases["yarn"].as_array().expect("yarn");
        let yarn = cases.iter().find(|case| case["name"] == name);
        let yarn = yarn.expect("the rotation's frequencies");
        let gain = yarn["cos_sin_multiplier"].as_f64().expect("a multiplier");
        let frequencies = yarn["inv_freq"].as_array().expect("frequencies");
        // Row r of the table is the position of row r: whole tables reach 1e5 positions.
        let positions = unit.values(&format!("rope.{name}.pos"));
        let table: Vec<f32> = positions
            .iter()
            .flat_map(|p| {
                frequencies
                    .iter()
                    .map(move |f| p * f.as_f64().expect("f64"))
            })
            .flat_map(|angle| [(angle.cos() * gain) as f32, (angle.sin() * gain) as f32])
            .collect();
        let [rows, heads, rope] = *unit.shape(&format!("rope.{name}.x")) else {
            panic!("rope.{name}.x has heads")
        };
        let params = Params {
            rope: rope as u32,
            heads: heads as u32,
            x_head_stride: rope as u32,
            y_head_stride: rope as u32,
            ..dense(rows, heads * rope, heads * rope)
        };
        let arguments = [
            inputs(rows),
            unit.floats(&format!("rope.{name}.x")),
            Argument::floats(&table),
            Argument::Out(rows * heads * rope),
        ];
        let problem = (OpKind::Rope, DType::F32, params);
        let want = unit.values(&format!("rope.{name}.interleaved_f64"));
        let case = format!("rope.{name}");
        unit.check(&case, problem, &arguments, SINGLE, |_, done| {
            share(&done.floats(0), want)
        });
    }
}

#[test]
fn quantised_activations_agree_in_ragged_groups() {
    let test = "quantised_activations_agree_in_ragged_groups";
    let Some(unit) = Unit::open(test) else { return };
    for (name, bits) in [("f32", 0), ("ue8m0", flags::UE8M0)] {
        let [rows, k] = *unit.shape("act_quant.x") else {
            panic!("act_quant.x has rows")
        };
        let want = quantised(&unit, name);
        let params = Params {
            flags: bits,
            ..dense(rows, k, k)
        };
        let x = unit.floats("act_quant.x");
        let arguments = [inputs(rows), x, Argument::Out(rows * k)];
        let problem = (OpKind::ActQuant, DType::F32, params);
        // A neighbouring code would be off by a sixteenth.
        let case = format!("act_quant.{name}");
        unit.check(&case, problem, &arguments, SINGLE, |_, done| {
            ratio(&done.floats(0), &want)
        });
    }
}

/// What the codes of `act_quant` stand for.
fn quantised(unit: &Unit, name: &str) -> Vec<f64> {
    let k = unit.shape("act_quant.x")[1];
    let scales = unit.values(&format!("act_quant.{name}.scale"));
    let codes = unit.codes(&format!("act_quant.{name}.q"));
    let value = |(i, code): (usize, &u8)| {
        let scale = scales[i / k * k.div_ceil(128) + i % k / 128];
        f64::from((f64::from(e4m3_to_f32(*code)) * scale) as f32)
    };
    codes.iter().enumerate().map(value).collect()
}

#[test]
fn fp8_weights_and_their_products_agree() {
    let test = "fp8_weights_and_their_products_agree";
    let Some(unit) = Unit::open(test) else { return };
    for name in ["f32", "ue8m0"] {
        let weight = format!("fp8_weight.{name}");
        let [n, k] = *unit.shape(&format!("{weight}.q")) else {
            panic!("{weight}.q is a matrix")
        };
        let linear = |case: &str, x: &[f32], want: &[f64]| {
            let rows = x.len() / k;
            let arguments = [
                inputs(rows),
                Argument::floats(x),
                Argument::In(unit.codes(&format!("{weight}.q"))),
                unit.floats(&format!("{weight}.scale_inv")),
                Argument::Out(rows * n),
            ];
            let problem = (OpKind::Linear, DType::F8E4M3, dense(rows, k, n));
            unit.check(case, problem, &arguments, SINGLE, |_, done| {
                share(&done.floats(0), want)
            });
        };
        let plain = unit.f32s("act_quant.x");
        let rounded: Vec<f32> = quantised(&unit, name).iter().map(|&v| v as f32).collect();
        for (kind, x) in [("w8a32_f64", &plain), ("w8a8_f64", &rounded)] {
            let case = format!("fp8_gemm.{name}.{kind}");
            linear(&case, x, unit.values(&case));
        }
        // Rows of the identity give the columns of the weight, so many at a time that the
        // smallest bindings hold them.
        let cells = (0..k * k).map(|i| f32::from(u8::from(i / k == i % k)));
        let stored = unit.values(&format!("{weight}.dequant"));
        let columns = (0..k * n).map(|i| stored[i % n * k + i / n]);
        let (cells, columns): (Vec<_>, Vec<_>) = (cells.collect(), columns.collect());
        for (x, want) in cells.chunks(100 * k).zip(columns.chunks(100 * n)) {
            linear(&format!("{weight}.dequant"), x, want);
        }
    }
}

#[test]
fn every_e4m3_code_is_read_and_every_crafted_value_written() {
    let test = "every_e4m3_code_is_read_and_every_crafted_value_written";
    let Some(unit) = Unit::open(test) else { return };
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
    let decoded = unit.values("e4m3.decode");
    let (values, codes) = (unit.f32s("e4m3.encode_in"), unit.codes("e4m3.encode_out"));
    for (code, value) in (0..=255).zip(decoded) {
        assert!(same(e4m3_to_f32(code).into(), *value), "{code:#04x}");
    }
    for (value, code) in values.iter().zip(&codes) {
        // The sign of a NaN means nothing.
        assert_eq!(f32_to_e4m3(*value) & 0x7F, code & 0x7F, "{value}");
    }
    // Kernels decode by themselves: a column of all codes, one input of 1.
    let arguments = [
        inputs(1),
        Argument::floats(&[1.0]),
        Argument::In((0..=255).collect()),
        Argument::floats(&[1.0, 1.0]),
        Argument::Out(256),
    ];
    let problem = (OpKind::Linear, DType::F8E4M3, dense(1, 1, 256));
    unit.check("e4m3.decode", problem, &arguments, 0.0, |place, done| {
        for (code, (found, want)) in done.floats(0).iter().zip(decoded).enumerate() {
            assert!(same(*found, *want), "{place}: {code:#04x} is {found}");
        }
        0.0
    });
    // And encode: beside 448 the scale is 1. Larger values would have another.
    let small = |(value, _): &(&f32, &u8)| value.abs() <= 448.0;
    let (rows, want): (Vec<_>, Vec<_>) = (values.iter().zip(&codes))
        .filter(small)
        .map(|(value, code)| ([*value, 448.0], [decoded[usize::from(*code)], 448.0]))
        .unzip();
    let params = Params {
        flags: flags::UE8M0,
        ..dense(rows.len(), 2, 2)
    };
    let arguments = [
        inputs(rows.len()),
        Argument::floats(&rows.concat()),
        Argument::Out(2 * rows.len()),
    ];
    let problem = (OpKind::ActQuant, DType::F32, params);
    unit.check("e4m3.encode", problem, &arguments, 0.0, |_, done| {
        worst(&done.floats(0), &want.concat())
    });
}

/// Sizes of the attention case, which its file does not say.
const HEADS: usize = 2;
const NOPE: usize = 12;
const ROPE: usize = 8;
const VALUE: usize = 10;
const LATENT: usize = 16;

/// Parameters of heads of `k` values that become heads of `n`.
fn heads(rows: usize, k: usize, n: usize) -> Params {
    Params {
        x_head_stride: k as u32,
        y_head_stride: n as u32,
        heads: HEADS as u32,
        nope: NOPE as u32,
        rope: ROPE as u32,
        value: VALUE as u32,
        latent: LATENT as u32,
        head_rows: (NOPE + VALUE) as u32,
        scale: 0.2,
        page_stride: 1,
        n: n as u32,
        k: k as u32,
        row_count: (HEADS * (NOPE + VALUE)) as u32,
        ..dense(rows, HEADS * k, HEADS * n)
    }
}

/// `inputs` of the queries of the last positions, a page with the keys of all, and how many
/// queries there are.
fn attention(unit: &Unit) -> (Argument, Argument, usize) {
    let (cached, rows) = (unit.shape("mla.latent")[0], unit.shape("mla.q_nope")[0]);
    let positions: Vec<u32> = (cached - rows..cached).map(|p| p as u32).collect();
    let mut page = joined(unit.values("mla.latent"), LATENT, unit.values("mla.k_pe"));
    // Positions that no query sees must not count.
    page.resize(PAGE as usize * (LATENT + ROPE), f32::NAN);
    (
        Argument::inputs(&positions, &[0]),
        Argument::floats(&page),
        rows,
    )
}

/// Rows of `width` values, each followed by its rotated part.
fn joined(first: &[f64], width: usize, rotated: &[f64]) -> Vec<f32> {
    let rows = first.chunks(width).zip(rotated.chunks(ROPE));
    rows.flat_map(|(a, b)| a.iter().chain(b))
        .map(|&v| v as f32)
        .collect()
}

#[test]
fn latent_attention_on_expanded_keys_agrees() {
    let test = "latent_attention_on_expanded_keys_agrees";
    let Some(unit) = Unit::open(test) else { return };
    let (inputs, page, rows) = attention(&unit);
    let q = joined(unit.values("mla.q_nope"), NOPE, unit.values("mla.q_pe"));
    let arguments = [
        inputs,
        Argument::floats(&q),
        page,
        unit.floats("mla.kv_b"),
        Argument::Out(rows * HEADS * VALUE),
    ];
    let params = heads(rows, NOPE + ROPE, VALUE);
    let problem = (OpKind::AttendExpanded, DType::F32, params);
    unit.check("mla expanded", problem, &arguments, SINGLE, |_, done| {
        share(&done.floats(0), unit.values("mla.out"))
    });
}

#[test]
fn latent_attention_with_absorbed_projections_agrees() {
    let test = "latent_attention_with_absorbed_projections_agrees";
    let Some(unit) = Unit::open(test) else { return };
    let (inputs, page, rows) = attention(&unit);
    let problem = |op, params| Problem {
        op,
        weight: DType::F32,
        params,
    };
    let keys = Params {
        flags: flags::TRANSPOSED,
        ..heads(rows, NOPE, LATENT)
    };
    let values = Params {
        head_first: NOPE as u32,
        ..heads(rows, LATENT, VALUE)
    };
    let latent = heads(rows, LATENT + ROPE, LATENT);
    let out = |width| Argument::Out(rows * HEADS * width);
    for on in DEVICES.iter() {
        let mut taken = Vec::new();
        let mut step = |op, params, mut arguments: Vec<Argument>, width: usize| {
            arguments.insert(0, inputs.clone());
            arguments.push(out(width));
            let done = unit.run(on, &problem(op, params), &arguments);
            let done = done.expect("only expanded attention may be missing");
            taken.push(done.row);
            done.floats(0)
        };
        let single = |values: &[f64]| {
            Argument::floats(&values.iter().map(|&v| v as f32).collect::<Vec<_>>())
        };
        let kv_b = || unit.floats("mla.kv_b");
        let q = vec![unit.floats("mla.q_nope"), kv_b()];
        let q = step(OpKind::HeadLinear, keys, q, LATENT);
        let q = Argument::floats(&joined(&q, LATENT, unit.values("mla.q_pe")));
        let mixed = step(OpKind::AttendLatent, latent, vec![q, page.clone()], LATENT);
        let y = vec![single(&mixed), kv_b()];
        let y = step(OpKind::HeadLinear, values, y, VALUE);
        let place = format!("mla absorbed on {} by {}", on.name, taken.join(", "));
        judge(&place, share(&y, unit.values("mla.out")), SINGLE);
    }
    devices::no_complaints();
}
