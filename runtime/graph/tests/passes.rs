//! Passes keep what a graph means: the reference evaluator gives the same values before and
//! after each, on made-up models of the family.

mod common;

use hadal_device::{DType, OpKind, Problem, flags};
use hadal_graph::{
    ActScale, Dim, Draft, Form, Graph, Kind, Net, Op, Patch, Rule, Target, ValueId, Verified,
    absorb, apply, fold, fuse, optimise, quantise, remove_dead, rewrite,
};
use hadal_models::{Outputs, build, build_mtp};
use proptest::prelude::*;
use serde_json::json;

/// `f64` sums in another order: a few thousand terms of size 1.
const REORDERED: f64 = 1e-9;

/// A model of the family with sizes and switches taken from `seed`, and its module.
fn some_models(seed: u64) -> [Verified<Graph>; 2] {
    let pick = |shift: u32, choices: u64| (seed >> shift) % choices;
    let groups = [1, 2, 4][pick(0, 3) as usize];
    let mut config = common::config_with(&[
        ("num_attention_heads", json!(1 + pick(2, 3))),
        ("qk_nope_head_dim", json!(3 + pick(4, 4))),
        ("qk_rope_head_dim", json!(2 + 2 * pick(6, 2))),
        ("v_head_dim", json!(4 + pick(8, 5))),
        (
            "q_lora_rank",
            if pick(11, 2) == 0 {
                json!(null)
            } else {
                json!(9)
            },
        ),
        ("n_shared_experts", json!(pick(13, 3))),
        ("n_group", json!(groups)),
        ("topk_group", json!(1 + groups / 2)),
        ("num_experts_per_tok", json!(2)),
        ("tie_word_embeddings", json!(pick(15, 2) == 0)),
        (
            "topk_method",
            json!(if pick(17, 2) == 0 {
                "noaux_tc"
            } else {
                "group_limited_greedy"
            }),
        ),
    ]);
    config.split_kv_b = pick(21, 2) == 0;
    let dtypes = |name: &str| match pick(19, 2) {
        0 => Some(DType::Bf16),
        _ => common::dtypes(name),
    };
    [
        build(&config, &dtypes, Outputs::All).expect("a legal model"),
        build_mtp(&config, 0, &dtypes, Outputs::All).expect("a legal module"),
    ]
}

const TARGET: Target<'static> = Target {
    form: Form::Absorbed,
    quantise: None,
    rows: 4,
    runs: &|_| true,
};

fn count(graph: &Graph, name: &str) -> usize {
    graph
        .nodes
        .iter()
        .filter(|node| node.op.name() == name)
        .count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pass_keeps_every_output(seed: u64) {
        for built in some_models(seed) {
            let before = common::evaluate_two_steps(&built, seed);
            let folded = fold(built).unwrap();
            prop_assert_eq!(common::difference(&before, &common::evaluate_two_steps(&folded, seed)), 0.0);
            let absorbed = absorb(folded.clone(), &TARGET).unwrap();
            prop_assert_eq!(count(&absorbed, "attend_expanded"), 0);
            let after = common::evaluate_two_steps(&absorbed, seed);
            prop_assert!(common::difference(&before, &after) < REORDERED);
            for graph in [folded, absorbed] {
                let before = common::evaluate_two_steps(&graph, seed);
                let fused = fuse(graph, &TARGET).unwrap();
                let main = count(&fused, "hidden") == 0;
                let fusions = count(&fused, "linear_add").min(count(&fused, "gate_up"));
                prop_assert!(!main || fusions > 0);
                let after = common::evaluate_two_steps(&fused, seed);
                prop_assert!(common::difference(&before, &after) < REORDERED);
            }
        }
    }

    #[test]
    fn folding_and_fusing_keep_what_quantisation_made(seed: u64) {
        for built in some_models(seed | 1 << 19) {
            let rounded = quantise(built, Some(ActScale::Ue8m0)).unwrap();
            let before = common::evaluate_two_steps(&rounded, seed);
            let folded = fold(rounded).unwrap();
            let fused = fuse(folded, &TARGET).unwrap();
            let after = common::evaluate_two_steps(&fused, seed);
            prop_assert!(common::difference(&before, &after) < REORDERED);
        }
    }

    #[test]
    fn random_legal_rewrites_stay_legal_and_mean_the_same(seed: u64, choices: Vec<u8>) {
        for built in some_models(seed) {
            let before = common::evaluate_two_steps(&built, seed);
            let chosen = |root: ValueId| {
                choices.get(root.0 as usize % choices.len().max(1)).copied().unwrap_or(0)
            };
            let rule = Rule {
                name: "random",
                root: |_| true,
                rewrite: &|site| same_value(site.graph, site.root, chosen(site.root), || {
                    Draft::new(site, site.root)
                }),
            };
            let rewritten = rewrite(built, &rule).expect("the rewrites are legal");
            let after = common::evaluate_two_steps(&rewritten, seed);
            prop_assert!(common::difference(&before, &after) < REORDERED);
            let folded = fold(rewritten).unwrap();
            let after = common::evaluate_two_steps(&folded, seed);
            prop_assert!(common::difference(&before, &after) < REORDERED);
        }
    }

    #[test]
    fn a_graph_with_a_wrong_fact_or_operand_is_refused(seed: u64, at: prop::sample::Index) {
        let graph = fold(some_models(seed)[0].clone()).unwrap().into_inner();
        let index = at.index(graph.nodes.len());
        let mut wrong = graph.clone();
        wrong.nodes[index].fact.shape.push(Dim::N(1));
        prop_assert_eq!(hadal_graph::verify(wrong).unwrap_err().rule, "fact");
        let mut wrong = graph.clone();
        wrong.nodes[index].inputs.push(ValueId(index as u32));
        prop_assert_eq!(hadal_graph::verify(wrong).unwrap_err().rule, "operands_first");
        let mut wrong = graph;
        wrong.nodes[index].inputs.insert(0, ValueId(0));
        if index > 0 {
            let violation = hadal_graph::verify(wrong).unwrap_err();
            prop_assert_eq!((violation.node, violation.phase), (index, "verify"));
        }
    }
}

/// Another way to write the value of `root`: its operands swapped, cut and joined, or
/// reshaped there and back.
fn same_value<'g>(
    graph: &'g Graph,
    root: ValueId,
    choice: u8,
    draft: impl FnOnce() -> Draft<'g>,
) -> Option<Patch> {
    let node = graph.node(root);
    let (Kind::Tensor(DType::F32), [Dim::T | Dim::R, .., Dim::N(n)]) =
        (node.fact.kind, &node.fact.shape[..])
    else {
        return None;
    };
    let mut draft = draft();
    let value = match choice % 4 {
        1 if node.op == Op::Add => draft.push(Op::Add, &[node.inputs[1], node.inputs[0]]),
        2 if *n > 1 => {
            let a = draft.push(Op::Slice { first: 0, count: 1 }, &[root]);
            let b = draft.push(
                Op::Slice {
                    first: 1,
                    count: n - 1,
                },
                &[root],
            );
            draft.push(Op::Concat, &[a, b])
        }
        3 if node.fact.shape.len() == 2 => {
            let heads = draft.push(Op::Heads { heads: 1 }, &[root]);
            draft.push(Op::Flat, &[heads])
        }
        _ => return None,
    };
    Some(draft.replace(root, value))
}

#[test]
fn each_weight_and_the_rotary_table_become_one_node() {
    let mut config = common::config();
    config.tie_word_embeddings = true;
    let tied = build(&config, &common::dtypes, Outputs::Logits).unwrap();
    let declared = tied.weights().len();
    let folded = fold(tied).unwrap();
    let weights = count(&folded, "weight") + count(&folded, "expert_weights");
    assert_eq!((weights, count(&folded, "rope_table")), (declared, 1));
}

#[test]
fn nothing_is_fused_where_the_target_has_no_kernel_or_the_value_is_an_output() {
    let none = Target {
        runs: &|_| false,
        ..TARGET
    };
    let graph = common::main_model(Outputs::Hidden);
    let fused = fuse(graph.clone(), &none).unwrap();
    assert_eq!(fused, graph);

    let residual = Target {
        runs: &|problem| problem.op == OpKind::Linear && problem.params.flags == flags::RESIDUAL,
        ..TARGET
    };
    let fused = fuse(graph.clone(), &residual).unwrap();
    assert_eq!(
        (count(&fused, "gate_up"), count(&fused, "linear_add")),
        (0, 4)
    );

    // `layer.{i}.attn_out` is the output projection itself, which must then stay.
    let watched = fuse(common::main_model(Outputs::All), &TARGET).unwrap();
    assert_eq!(
        (count(&watched, "gate_up"), count(&watched, "linear_add")),
        (2, 2)
    );
}

#[test]
fn a_gate_and_an_up_projection_of_different_inputs_are_not_fused() {
    let dtypes = |_: &str| Some(DType::Bf16);
    let gated = |up_of_gate: bool| {
        let net = Net::new(&dtypes, false);
        let (x, z) = (net.hidden(6), net.hidden(6).norm("norm", 1e-6));
        let up = if up_of_gate { x } else { z }.linear("up", 4);
        x.linear("gate", 4).swiglu(up).output("y");
        let folded = fold(net.finish().unwrap()).unwrap();
        count(&fuse(folded, &TARGET).unwrap(), "gate_up")
    };
    assert_eq!((gated(true), gated(false)), (1, 0));
}

#[test]
fn only_fp8_linears_and_experts_are_quantised_and_never_the_latent_up_projection() {
    let graph = quantise(common::main_model(Outputs::Logits), Some(ActScale::F32)).unwrap();
    for node in &graph.nodes {
        let Some(weight) = node.inputs.get(1).map(|w| &graph.node(*w).op) else {
            continue;
        };
        let fp8 = matches!(
            weight,
            Op::Weight {
                dtype: DType::F8E4M3,
                ..
            }
        );
        if node.op == Op::Linear {
            let rounded = matches!(graph.node(node.inputs[0]).op, Op::ActQuant(_));
            assert_eq!(rounded, fp8, "{}", node.scope);
        }
        if matches!(node.op, Op::AttendExpanded { .. }) {
            assert!(!matches!(graph.node(node.inputs[0]).op, Op::ActQuant(_)));
        }
    }
    let quantised = |node: &hadal_graph::Node| matches!(node.op, Op::Experts { quantise: Some(_) });
    assert_eq!(graph.nodes.iter().filter(|node| quantised(node)).count(), 1);
    let again = quantise(graph.clone(), Some(ActScale::F32)).unwrap();
    assert_eq!(again, graph, "quantising twice changes nothing");
}

#[test]
fn a_patch_is_applied_whole_or_not_at_all() {
    let graph = common::main_model(Outputs::Logits);
    let target = ValueId(graph.outputs[0].1.0);
    let patch = |op: Op, inputs: Vec<ValueId>, replace: ValueId| Patch {
        label: "test_patch",
        add: vec![hadal_graph::Node {
            fact: graph.node(replace).fact.clone(),
            op,
            inputs,
            scope: String::new(),
        }],
        replace: vec![(replace, ValueId(graph.nodes.len() as u32))],
    };
    let illegal = patch(Op::Gather, vec![target], target);
    let violation = apply(&graph, &[illegal]).unwrap_err();
    assert_eq!((violation.phase, violation.rule), ("test_patch", "gather"));

    let twice = patch(Op::Add, vec![target, target], target);
    let violation = apply(&graph, &[twice.clone(), twice]).unwrap_err();
    assert_eq!(violation.rule, "one_replacement");

    // The residual stream after layer 0 in place of the embedding it is computed from.
    let embed = graph
        .nodes
        .iter()
        .position(|node| node.op == Op::Embed)
        .unwrap();
    let add = graph
        .nodes
        .iter()
        .position(|node| node.op == Op::Add)
        .unwrap();
    let cycle = Patch {
        label: "test_patch",
        add: Vec::new(),
        replace: vec![(ValueId(embed as u32), ValueId(add as u32))],
    };
    assert_eq!(apply(&graph, &[cycle]).unwrap_err().rule, "no_cycle");
}

#[test]
fn dead_nodes_go_but_cache_writes_stay() {
    let mut graph = common::main_model(Outputs::Hidden).into_inner();
    let caches = count(&graph, "cache_append");
    graph.outputs.retain(|(name, _)| name == "hidden");
    let alive = remove_dead(hadal_graph::verify(graph.clone()).unwrap()).unwrap();
    assert_eq!((count(&alive, "argmax"), count(&alive, "gather")), (0, 0));
    graph.outputs.clear();
    let alive = remove_dead(hadal_graph::verify(graph).unwrap()).unwrap();
    assert_eq!(
        (count(&alive, "cache_append"), count(&alive, "experts")),
        (caches, 0)
    );
}

#[test]
fn a_replaced_cache_write_is_no_longer_done() {
    let rule = Rule {
        name: "rewrites_keys",
        root: |op| matches!(op, Op::CacheAppend { .. }),
        rewrite: &|site| {
            let node = site.graph.node(site.root);
            let mut draft = Draft::new(site, site.root);
            let rounded = draft.push(Op::ActQuant(ActScale::F32), &node.inputs);
            let append = draft.push(node.op.clone(), &[rounded]);
            Some(draft.replace(site.root, append))
        },
    };
    let graph = common::main_model(Outputs::Logits);
    let rewritten = rewrite(graph.clone(), &rule).expect("each layer is still written once");
    assert_eq!(
        count(&rewritten, "cache_append"),
        count(&graph, "cache_append")
    );
}

#[test]
fn a_broken_pass_is_named() {
    let rule = Rule {
        name: "swaps_weights",
        root: |op| *op == Op::Linear,
        rewrite: &|site| {
            let inputs = &site.graph.node(site.root).inputs;
            let mut draft = Draft::new(site, site.root);
            let wrong = draft.push(Op::Linear, &[inputs[1], inputs[0]]);
            Some(draft.replace(site.root, wrong))
        },
    };
    let violation = rewrite(common::main_model(Outputs::Logits), &rule).unwrap_err();
    assert_eq!(
        (violation.phase, violation.rule),
        ("swaps_weights", "linear")
    );
}

#[test]
fn weights_in_two_parts_are_expanded_where_a_device_joins_them() {
    let mut config = common::config();
    config.split_kv_b = true;
    let graph = build(&config, &common::dtypes, Outputs::Logits).expect("a legal model");
    let expanded = |runs: &dyn Fn(&Problem) -> bool| {
        let form = Form::Expanded;
        let target = Target {
            form,
            runs,
            ..TARGET
        };
        count(&absorb(graph.clone(), &target).unwrap(), "attend_expanded")
    };
    assert_eq!(expanded(&|_| true), 2);
    for part in [0, flags::TRANSPOSED] {
        let lacks = |problem: &Problem| {
            assert_eq!(problem.op, OpKind::UnpackHeads);
            problem.params.flags != part
        };
        assert_eq!(expanded(&lacks), 0);
    }
}

#[test]
fn optimising_twice_changes_nothing() {
    let graph = common::main_model(Outputs::Logits);
    for form in [Form::Absorbed, Form::Expanded] {
        let target = Target { form, ..TARGET };
        let once = optimise(graph.clone(), &target).unwrap();
        assert_eq!(optimise(once.clone(), &target).unwrap(), once);
    }
}
