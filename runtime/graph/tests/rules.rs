//! The rule of every operation: what it makes of legal operands, and that it refuses the
//! nearest illegal ones by its name.

use hadal_device::DType;
use hadal_graph::{ActScale, Dim, Fact, Kind, Net, Op, RouteRule, infer};

const T: Dim = Dim::T;

fn n(n: u32) -> Dim {
    Dim::N(n)
}

fn weight(shape: &[u32]) -> Fact {
    Fact {
        shape: shape.iter().map(|dim| n(*dim)).collect(),
        kind: Kind::Tensor(DType::Bf16),
    }
}

fn of(kind: Kind, shape: &[Dim]) -> Fact {
    Fact {
        shape: shape.to_vec(),
        kind,
    }
}

const RULE: RouteRule = RouteRule {
    experts: 8,
    top_k: 4,
    groups: 4,
    kept_groups: 2,
    softmax: false,
    group_max: false,
    normalise: true,
    scale: 2.5,
};

fn expanded(scale: f32, nope: u32, value: u32) -> Op {
    Op::AttendExpanded { scale, nope, value }
}

fn head_linear(transposed: bool, head_first: u32, count: u32) -> Op {
    Op::HeadLinear {
        transposed,
        head_rows: 14,
        head_first,
        count,
    }
}

fn weight_op(name: &str, dtype: DType, shape: &[u32]) -> Op {
    Op::Weight {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
    }
}

fn table_op(name: &str, shape: [u32; 3]) -> Op {
    Op::ExpertWeights {
        name: name.into(),
        dtype: DType::F8E4M3,
        shape,
    }
}

/// Legal operations on operands, and what comes out.
fn legal() -> Vec<(Op, Vec<Fact>, Fact)> {
    let f = |shape: &[Dim]| Fact::f32(shape);
    let route = of(Kind::Route, &[T, n(4)]);
    let ids = |dim| of(Kind::Tensor(DType::U32), &[dim]);
    let x = f(&[T, n(24)]);
    let q = f(&[T, n(2), n(10)]);
    vec![
        (Op::Tokens, vec![], ids(T)),
        (Op::Hidden { width: 24 }, vec![], x.clone()),
        (
            weight_op("w", DType::Bf16, &[3, 4]),
            vec![],
            weight(&[3, 4]),
        ),
        (
            table_op("e.{}.w", [8, 3, 4]),
            vec![],
            of(Kind::Tensor(DType::F8E4M3), &[n(8), n(3), n(4)]),
        ),
        (Op::RopeTable { rope: 4 }, vec![], f(&[Dim::P, n(4)])),
        (Op::Embed, vec![ids(T), weight(&[32, 24])], x.clone()),
        (
            Op::Norm { eps: 0.0 },
            vec![q.clone(), weight(&[10])],
            q.clone(),
        ),
        (
            Op::Linear,
            vec![f(&[Dim::R, n(24)]), weight(&[32, 24])],
            f(&[Dim::R, n(32)]),
        ),
        (
            Op::LinearAdd,
            vec![x.clone(), weight(&[6, 24]), f(&[T, n(6)])],
            f(&[T, n(6)]),
        ),
        (
            Op::GateUp,
            vec![x.clone(), weight(&[6, 24]), weight(&[6, 24])],
            f(&[T, n(6)]),
        ),
        (
            head_linear(true, 0, 6),
            vec![f(&[T, n(2), n(6)]), weight(&[28, 12])],
            f(&[T, n(2), n(12)]),
        ),
        (
            head_linear(false, 6, 8),
            vec![f(&[T, n(2), n(12)]), weight(&[28, 12])],
            f(&[T, n(2), n(8)]),
        ),
        (Op::Add, vec![x.clone(), x.clone()], x.clone()),
        (Op::SwiGlu, vec![q.clone(), q.clone()], q.clone()),
        (
            Op::Slice { first: 6, count: 4 },
            vec![q.clone()],
            f(&[T, n(2), n(4)]),
        ),
        (Op::Heads { heads: 3 }, vec![x.clone()], f(&[T, n(3), n(8)])),
        (Op::Flat, vec![q.clone()], f(&[T, n(20)])),
        (
            Op::Concat,
            vec![q.clone(), f(&[T, n(2), n(1)])],
            f(&[T, n(2), n(11)]),
        ),
        (Op::Rope, vec![q.clone(), f(&[Dim::P, n(10)])], q.clone()),
        (
            Op::CacheAppend { layer: 7 },
            vec![f(&[T, n(16)])],
            f(&[Dim::K, n(16)]),
        ),
        (
            expanded(0.3, 6, 8),
            vec![q.clone(), f(&[Dim::K, n(16)]), weight(&[28, 12])],
            f(&[T, n(2), n(8)]),
        ),
        (
            expanded(0.3, 6, 8),
            vec![
                q.clone(),
                f(&[Dim::K, n(16)]),
                weight(&[24, 6]),
                weight(&[16, 12]),
            ],
            f(&[T, n(2), n(8)]),
        ),
        (
            Op::AttendLatent {
                scale: 0.3,
                latent: 8,
            },
            vec![q.clone(), f(&[Dim::K, n(10)])],
            f(&[T, n(2), n(8)]),
        ),
        (
            Op::Route(RULE),
            vec![f(&[T, n(8)]), weight(&[8])],
            route.clone(),
        ),
        (
            Op::Experts { quantise: None },
            vec![
                x.clone(),
                route,
                weight(&[8, 6, 24]),
                weight(&[8, 6, 24]),
                weight(&[8, 24, 6]),
                x.clone(),
            ],
            x.clone(),
        ),
        (Op::Gather, vec![x.clone()], f(&[Dim::R, n(24)])),
        (Op::Argmax, vec![f(&[Dim::R, n(32)])], ids(Dim::R)),
        (Op::ActQuant(ActScale::Ue8m0), vec![x.clone()], x),
    ]
}

fn refusal(op: &Op, facts: &[Fact]) -> Option<&'static str> {
    let refusal = infer(op, &facts.iter().collect::<Vec<_>>()).err()?;
    assert!(
        !refusal.text.contains("needs ?"),
        "{} has no sentence",
        op.name()
    );
    Some(refusal.rule)
}

#[test]
fn every_operation_makes_what_its_document_says() {
    for (op, facts, fact) in legal() {
        let inputs: Vec<&Fact> = facts.iter().collect();
        assert_eq!(infer(&op, &inputs), Ok(fact), "{}", op.name());
    }
}

#[test]
fn an_operand_too_many_too_few_or_of_another_shape_breaks_the_rule_of_the_operation() {
    for (op, facts, _) in legal() {
        let mut more = facts.clone();
        more.push(weight(&[5]));
        assert_eq!(refusal(&op, &more), Some(op.name()));
        for index in 0..facts.len() {
            let mut other = facts.clone();
            other.remove(index);
            // A router may go without its bias.
            if !(matches!(op, Op::Route(_)) && index == 1) {
                assert_eq!(refusal(&op, &other), Some(op.name()), "without {index}");
            }
            for stranger in [
                weight(&[5]),
                Fact::f32([T, n(977)]),
                Fact::f32([T, n(1), n(977)]),
            ] {
                let mut other = facts.clone();
                other[index] = stranger;
                // Any width will do for these, on their only or last operand.
                let free = matches!(
                    op.name(),
                    "flat" | "gather" | "argmax" | "act_quant" | "slice"
                ) || matches!(op.name(), "cache_append" | "concat");
                if !free {
                    assert_eq!(
                        refusal(&op, &other),
                        Some(op.name()),
                        "{} {index}",
                        op.name()
                    );
                }
            }
        }
    }
}

/// Widths that an operation reads but that its result does not show.
fn free(op: &Op, operand: usize, axis: usize) -> bool {
    matches!(
        (op.name(), operand, axis),
        ("argmax", 0, 1) | ("slice", 0, 2) | ("embed", 1, 0) | ("experts", 1, 1)
    )
}

#[test]
fn every_dimension_is_tied_to_another_or_shows_in_the_result() {
    for (op, facts, fact) in legal() {
        for (operand, axis) in facts
            .iter()
            .enumerate()
            .flat_map(|(operand, fact)| (0..fact.shape.len()).map(move |axis| (operand, axis)))
        {
            let mut facts = facts.clone();
            let Dim::N(width) = facts[operand].shape[axis] else {
                continue;
            };
            facts[operand].shape[axis] = n(width + 1);
            let made = infer(&op, &facts.iter().collect::<Vec<_>>());
            let unseen = made == Ok(fact.clone());
            assert_eq!(
                unseen,
                free(&op, operand, axis),
                "{} {operand} {axis}",
                op.name()
            );
        }
    }
}

#[test]
fn attributes_that_cannot_be_break_the_rule_of_the_operation() {
    let operands = |name: &str| {
        let found = legal().into_iter().find(|(op, _, _)| op.name() == name);
        found.expect("every operation is in the list").1
    };
    let route = |change: fn(&mut RouteRule)| {
        let mut rule = RULE;
        change(&mut rule);
        Op::Route(rule)
    };
    let illegal = [
        Op::Hidden { width: 0 },
        weight_op("", DType::Bf16, &[3]),
        weight_op("w", DType::U32, &[3]),
        weight_op("w", DType::Bf16, &[3, 0]),
        weight_op("w", DType::Bf16, &[]),
        weight_op("w", DType::Bf16, &[1, 1, 1]),
        table_op("no place for the index", [8, 3, 4]),
        table_op("e.{}", [0, 3, 4]),
        Op::RopeTable { rope: 5 },
        Op::RopeTable { rope: 0 },
        Op::Norm { eps: -1.0 },
        Op::Norm { eps: f32::NAN },
        head_linear(true, 9, 6),
        head_linear(true, 0, 0),
        head_linear(true, u32::MAX, 6),
        Op::Slice { first: 0, count: 0 },
        Op::Slice { first: 7, count: 4 },
        Op::Slice {
            first: u32::MAX,
            count: 4,
        },
        Op::Heads { heads: 0 },
        Op::Heads { heads: 5 },
        expanded(0.0, 6, 8),
        expanded(f32::INFINITY, 6, 8),
        expanded(0.3, 10, 4),
        expanded(0.3, 11, 3),
        expanded(0.3, 6, 0),
        Op::AttendLatent {
            scale: 0.3,
            latent: 11,
        },
        Op::AttendLatent {
            scale: 0.3,
            latent: 0,
        },
        route(|rule| rule.groups = 0),
        route(|rule| rule.groups = 3),
        route(|rule| rule.groups = 8),
        route(|rule| rule.kept_groups = 5),
        route(|rule| rule.kept_groups = 0),
        route(|rule| rule.top_k = 5),
        route(|rule| rule.top_k = 0),
        route(|rule| rule.experts = 9),
        route(|rule| rule.scale = f32::NAN),
    ];
    for op in illegal {
        assert_eq!(
            refusal(&op, &operands(op.name())),
            Some(op.name()),
            "{op:?}"
        );
    }
    let one_best = route(|rule| (rule.groups, rule.kept_groups, rule.group_max) = (8, 4, true));
    assert_eq!(refusal(&one_best, &operands("route")), None);
}

#[test]
fn the_builder_keeps_the_first_broken_line_and_never_panics() {
    let dtypes = |name: &str| (name != "absent.weight").then_some(DType::Bf16);
    let net = Net::new(&dtypes, false);
    let x = net.hidden(10).heads(3).flat().linear("later", 4).split(9).1;
    x.gather().argmax().output("ids");
    let violation = net.finish().unwrap_err();
    assert_eq!(
        (violation.rule, violation.phase, violation.node),
        ("heads", "build", 1)
    );

    let net = Net::new(&dtypes, false);
    let x = net.hidden(u32::MAX);
    x.concat(x).output("y");
    assert_eq!(net.finish().unwrap_err().rule, "concat");

    let net = Net::new(&dtypes, false);
    let deep = net.hidden(4).linear("absent", 4);
    deep.attend_expanded(deep, "kv_b", 1.0, u32::MAX, u32::MAX);
    let violation = net.finish().unwrap_err();
    assert_eq!(
        (violation.rule, violation.scope.as_str()),
        ("weight_exists", "absent.weight")
    );
}

#[test]
fn rules_between_nodes_are_kept() {
    let dtypes = |_: &str| Some(DType::Bf16);
    let verdict = |lines: &dyn Fn(&Net<'_>)| {
        let net = Net::new(&dtypes, true);
        lines(&net);
        net.finish().err().map(|violation| violation.rule)
    };
    assert_eq!(
        verdict(&|net| {
            net.hidden(4).output("a").probe("b");
        }),
        None
    );
    assert_eq!(
        verdict(&|net| {
            net.hidden(4).output("a").output("a");
        }),
        Some("outputs_unique")
    );
    let twice = |net: &Net<'_>| {
        net.hidden(4).cache_append(0);
        net.hidden(4).cache_append(0);
    };
    assert_eq!(verdict(&twice), Some("one_append_a_layer"));
    let shapes = |net: &Net<'_>| {
        net.weight("w", &[4]);
        net.weight("w", &[5]);
    };
    assert_eq!(verdict(&shapes), Some("one_weight_one_shape"));
    let strangers = |net: &Net<'_>| {
        let x = net.hidden(8);
        x.experts(x.route(RULE, None), 7, 6, x);
    };
    assert_eq!(verdict(&strangers), Some("experts_match_router"));
}
