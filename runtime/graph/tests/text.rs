//! The text form prints and parses back exactly, for any graph, legal or not.

mod common;

use hadal_device::DType;
use hadal_graph::{ActScale, Dim, Fact, Graph, Kind, Node, Op, RouteRule, ValueId};
use proptest::collection::vec;
use proptest::prelude::*;

fn names() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ a-z@%=:\\\\\"(){}\n\t.]{0,12}"]
}

fn floats() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("a NaN is not equal to itself", |x| !x.is_nan())
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::all().collect::<Vec<_>>())
}

fn scales() -> impl Strategy<Value = ActScale> {
    prop::sample::select(vec![ActScale::F32, ActScale::Ue8m0])
}

fn plain_ops() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![
        Op::Tokens,
        Op::Embed,
        Op::Linear,
        Op::LinearAdd,
        Op::GateUp,
        Op::Add,
        Op::SwiGlu,
        Op::Flat,
        Op::Concat,
        Op::Rope,
        Op::Gather,
        Op::Argmax,
        Op::Experts { quantise: None },
    ])
}

fn ops() -> impl Strategy<Value = Op> {
    let rule =
        (any::<[u32; 4]>(), any::<[bool; 3]>(), floats()).prop_map(|(n, b, scale)| RouteRule {
            experts: n[0],
            top_k: n[1],
            groups: n[2],
            kept_groups: n[3],
            softmax: b[0],
            group_max: b[1],
            normalise: b[2],
            scale,
        });
    prop_oneof![
        plain_ops(),
        any::<u32>().prop_map(|width| Op::Hidden { width }),
        (names(), dtypes(), vec(any::<u32>(), 0..4)).prop_map(|(name, dtype, shape)| Op::Weight {
            name,
            dtype,
            shape
        }),
        (names(), dtypes(), any::<[u32; 3]>()).prop_map(|(name, dtype, shape)| Op::ExpertWeights {
            name,
            dtype,
            shape
        }),
        any::<u32>().prop_map(|rope| Op::RopeTable { rope }),
        floats().prop_map(|eps| Op::Norm { eps }),
        (any::<bool>(), any::<[u32; 3]>()).prop_map(
            |(transposed, [head_rows, head_first, count])| {
                Op::HeadLinear {
                    transposed,
                    head_rows,
                    head_first,
                    count,
                }
            }
        ),
        any::<[u32; 2]>().prop_map(|[first, count]| Op::Slice { first, count }),
        any::<u32>().prop_map(|heads| Op::Heads { heads }),
        any::<u32>().prop_map(|layer| Op::CacheAppend { layer }),
        (floats(), any::<[u32; 2]>()).prop_map(|(scale, [nope, value])| Op::AttendExpanded {
            scale,
            nope,
            value
        }),
        (floats(), any::<u32>()).prop_map(|(scale, latent)| Op::AttendLatent { scale, latent }),
        rule.prop_map(Op::Route),
        scales().prop_map(|scale| Op::Experts {
            quantise: Some(scale)
        }),
        scales().prop_map(Op::ActQuant),
    ]
}

fn facts() -> impl Strategy<Value = Fact> {
    let dim = prop_oneof![
        any::<u32>().prop_map(Dim::N),
        prop::sample::select(vec![Dim::T, Dim::R, Dim::K, Dim::P]),
    ];
    let kind = prop_oneof![Just(Kind::Route), dtypes().prop_map(Kind::Tensor)];
    (vec(dim, 0..4), kind).prop_map(|(shape, kind)| Fact { shape, kind })
}

fn graphs() -> impl Strategy<Value = Graph> {
    let ids = || any::<u32>().prop_map(ValueId);
    let node =
        (ops(), vec(ids(), 0..4), facts(), names()).prop_map(|(op, inputs, fact, scope)| Node {
            op,
            inputs,
            fact,
            scope,
        });
    (vec(node, 0..8), vec((names(), ids()), 0..4))
        .prop_map(|(nodes, outputs)| Graph { nodes, outputs })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_graph_prints_and_parses_back_exactly(graph in graphs()) {
        let text = graph.to_string();
        prop_assert_eq!(text.parse::<Graph>(), Ok(graph), "{}", text);
    }

    #[test]
    fn damaged_text_is_an_error_and_not_a_panic(cut: prop::sample::Index, noise in ".{0,6}") {
        let mut text = common::main_model(hadal_models::Outputs::All).to_string();
        let at = cut.index(text.len());
        text.replace_range(at..text.len().min(at + 3), &noise);
        let _ = text.parse::<Graph>();
    }
}

#[test]
fn a_line_that_cannot_be_read_is_named() {
    let text = "%0 = tokens() : u32[T] @ model\n%1 = frobnicate(%0) : u32[T] @ model\n";
    let error = text.parse::<Graph>().unwrap_err();
    assert_eq!((error.line, error.text.contains("frobnicate")), (2, true));
    for wrong in [
        "%1 = tokens() : u32[T] @ ",
        "%0 = tokens() extra=1 : u32[T] @ ",
        "output x = %0",
    ] {
        assert!(wrong.parse::<Graph>().is_err(), "{wrong}");
    }
}

#[test]
fn the_drawing_shows_every_operation_once_and_no_weight_as_a_box() {
    let graph = common::main_model(hadal_models::Outputs::Hidden);
    let dot = graph.dot();
    let weights = graph
        .nodes
        .iter()
        .filter(|node| node.op.name().contains("weight"))
        .count();
    assert_eq!(
        dot.matches("label=").count(),
        graph.nodes.len() - weights + graph.outputs.len()
    );
    assert!(dot.contains("linear\\nlm_head.weight\\nf32[R,32]"), "{dot}");
    assert!(dot.starts_with("digraph") && dot.ends_with("}\n"));
}
