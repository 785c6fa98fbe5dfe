//! Legality as a list: for each operation its operands, their kinds and shapes, and what
//! must hold between them.
//!
//! Decides what an operation makes of its operands; knows nothing of graphs. Read [`RULES`]
//! first: the sentence printed when a rule is broken. The model builder and
//! [`crate::verify`] both call [`infer`], so that a shape has one definition.

use hadal_device::DType;

use crate::{Dim, Fact, Kind, Op};

/// A rule's name and its sentence. `rows` is `T` or `R`; `w` names are weights.
const RULES: &[(&str, &str)] = &[
    ("tokens", "has no operands"),
    ("hidden", "has no operands and a width above 0"),
    (
        "weight",
        "has a name, a float dtype and 1 or 2 dimensions above 0",
    ),
    (
        "expert_weights",
        "has a name with {}, a float dtype and 3 dimensions above 0",
    ),
    ("rope_table", "has no operands and an even width above 0"),
    ("embed", "ids u32[T], w table [V, H]"),
    (
        "norm",
        "x [rows, .., n], w [n], eps finite and not negative",
    ),
    ("linear", "x [rows, in], w [out, in]"),
    (
        "linear_add",
        "x [rows, in], w [out, in], residual [rows, out]",
    ),
    (
        "gate_up",
        "x [rows, in], w gate [m, in], w up [m, in] of the same dtype",
    ),
    (
        "head_linear",
        "x [rows, A, in], w [A * head_rows, dc], head_first + count <= head_rows; \
         plain: in = dc, transposed: in = count",
    ),
    ("add", "a and b activations of the same shape"),
    ("swiglu", "gate and up activations of the same shape"),
    (
        "slice",
        "x [rows, .., n], count above 0, first + count <= n",
    ),
    ("heads", "x [rows, n], n a multiple of heads"),
    ("flat", "x [rows, A, n]"),
    (
        "concat",
        "a and b activations that agree in all but the last dimension",
    ),
    ("rope", "x [T, dr] or [T, A, dr], table f32[P, dr]"),
    ("cache_append", "key [T, n]"),
    (
        "attend_expanded",
        "q [T, A, dn + dr], cache f32[K, dc + dr], w [A * (dn + dv), dc] or both \
         w [A * dc, dn] and w [A * dv, dc], scale finite and above 0",
    ),
    (
        "attend_latent",
        "q [T, A, n], cache f32[K, n], 0 < latent <= n, scale finite and above 0",
    ),
    (
        "route",
        "logits [T, E], optional w bias [E], E a multiple of groups, kept_groups of groups, \
         top_k experts left in the kept groups, two experts a group where the two best count",
    ),
    (
        "experts",
        "x [T, H], route[T, k], w gate and w up [E, m, H], w down [E, H, m], base [T, H]",
    ),
    ("gather", "x [T, n]"),
    ("argmax", "logits [rows, V]"),
    ("act_quant", "x an activation"),
];

/// Why [`infer`] refused: the rule and what it met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the rule: the operation's printed name.
    pub rule: &'static str,
    /// The rule's sentence and the operands that break it.
    pub text: String,
}

/// What `op` makes of operands with these facts, or the rule that they break.
pub fn infer(op: &Op, inputs: &[&Fact]) -> Result<Fact, Refusal> {
    outcome(op, inputs).ok_or_else(|| {
        let name = op.name();
        let sentence = RULES.iter().find(|(rule, _)| *rule == name);
        let met: Vec<String> = inputs.iter().map(|fact| fact.to_string()).collect();
        let attributes: Vec<String> = crate::text::attributes(op)
            .into_iter()
            .map(|(key, value)| format!(" {key}={value}"))
            .collect();
        Refusal {
            rule: name,
            text: format!(
                "{name} needs {}, but is {name}{} of ({})",
                sentence.map_or("?", |(_, text)| text),
                attributes.concat(),
                met.join(", ")
            ),
        }
    })
}

/// What an operation without operands makes.
fn source(op: &Op) -> Option<Fact> {
    match op {
        Op::Tokens => Some(Fact {
            shape: vec![Dim::T],
            kind: Kind::Tensor(DType::U32),
        }),
        Op::Hidden { width } => (*width > 0).then(|| Fact::f32([Dim::T, Dim::N(*width)])),
        Op::Weight { name, dtype, shape } => {
            let legal = !name.is_empty() && (1..=2).contains(&shape.len());
            stored(*dtype, shape).filter(|_| legal)
        }
        Op::ExpertWeights { name, dtype, shape } => {
            stored(*dtype, shape).filter(|_| name.contains("{}"))
        }
        Op::RopeTable { rope } => {
            let legal = *rope > 0 && rope % 2 == 0;
            legal.then(|| Fact::f32([Dim::P, Dim::N(*rope)]))
        }
        _ => None,
    }
}

fn outcome(op: &Op, inputs: &[&Fact]) -> Option<Fact> {
    match (op, inputs) {
        (_, []) => source(op),
        (Op::Embed, [ids, table]) => {
            let ids_fit = ids.kind == Kind::Tensor(DType::U32) && ids.shape == [Dim::T];
            let (_, width) = matrix(table)?;
            ids_fit.then(|| Fact::f32([Dim::T, Dim::N(width)]))
        }
        (Op::Norm { eps }, [x, w]) => {
            let legal = eps.is_finite() && *eps >= 0.0 && last(x)? == vector(w)?;
            legal.then(|| (*x).clone())
        }
        (Op::Linear, [x, w]) => linear(x, w),
        (Op::LinearAdd, [x, w, residual]) => linear(x, w).filter(|y| y == *residual),
        (Op::GateUp, [x, gate, up]) => linear(x, gate).filter(|_| gate == up),
        (Op::HeadLinear { .. }, [x, w]) => head_linear(op, x, w),
        (Op::Add | Op::SwiGlu, [a, b]) => (last(a).is_some() && a == b).then(|| (*a).clone()),
        (Op::Slice { first, count }, [x]) => {
            let fits = *count > 0 && first.checked_add(*count)? <= last(x)?;
            fits.then(|| with_last(x, *count))
        }
        (Op::Heads { heads }, [x]) => {
            let (rows, n) = flat(x)?;
            let fits = *heads > 0 && n % heads == 0;
            fits.then(|| Fact::f32([rows, Dim::N(*heads), Dim::N(n / heads)]))
        }
        (Op::Flat, [x]) => {
            let (rows, heads, n) = headed(x)?;
            Some(Fact::f32([rows, Dim::N(heads.checked_mul(n)?)]))
        }
        (Op::Concat, [a, b]) => {
            let n = last(a)?.checked_add(last(b)?)?;
            let agree = with_last(a, n) == with_last(b, n);
            agree.then(|| with_last(a, n))
        }
        (Op::Rope, [x, table]) => {
            let table_fits = **table == Fact::f32([Dim::P, Dim::N(last(x)?)]);
            (table_fits && x.shape[0] == Dim::T).then(|| (*x).clone())
        }
        (Op::CacheAppend { .. }, [key]) => match flat(key)? {
            (Dim::T, n) => Some(Fact::f32([Dim::K, Dim::N(n)])),
            _ => None,
        },
        (Op::AttendExpanded { .. } | Op::AttendLatent { .. }, _) => attend(op, inputs),
        (Op::Route(_), _) => route(op, inputs),
        (Op::Experts { .. }, _) => experts(inputs),
        (Op::Gather, [x]) => match flat(x)? {
            (Dim::T, n) => Some(Fact::f32([Dim::R, Dim::N(n)])),
            _ => None,
        },
        (Op::Argmax, [logits]) => Some(Fact {
            shape: vec![flat(logits)?.0],
            kind: Kind::Tensor(DType::U32),
        }),
        (Op::ActQuant(_), [x]) => last(x).map(|_| (*x).clone()),
        _ => None,
    }
}

fn linear(x: &Fact, w: &Fact) -> Option<Fact> {
    let ((rows, n), (out, k)) = (flat(x)?, matrix(w)?);
    (n == k).then(|| Fact::f32([rows, Dim::N(out)]))
}

fn head_linear(op: &Op, x: &Fact, w: &Fact) -> Option<Fact> {
    let Op::HeadLinear {
        transposed,
        head_rows,
        head_first,
        count,
    } = *op
    else {
        return None;
    };
    let ((rows, heads, n), (w_rows, latent)) = (headed(x)?, matrix(w)?);
    let (n_in, n_out) = if transposed {
        (count, latent)
    } else {
        (latent, count)
    };
    let fits = count > 0
        && head_first.checked_add(count)? <= head_rows
        && heads.checked_mul(head_rows)? == w_rows
        && n == n_in;
    fits.then(|| Fact::f32([rows, Dim::N(heads), Dim::N(n_out)]))
}

fn attend(op: &Op, inputs: &[&Fact]) -> Option<Fact> {
    let (q, cache) = (inputs.first()?, inputs.get(1)?);
    let (rows, heads, n) = headed(q)?;
    let (&[Dim::K, Dim::N(cached)], Kind::Tensor(DType::F32)) = (&cache.shape[..], cache.kind)
    else {
        return None;
    };
    let (scale, fits, width) = match (op, inputs) {
        (Op::AttendExpanded { scale, nope, value }, [_, _, expanding @ ..]) => {
            let rope = n.checked_sub(*nope).filter(|rope| *rope > 0)?;
            let latent = cached.checked_sub(rope)?;
            let shaped = |w, rows: u32, k| Some(matrix(w)? == (heads.checked_mul(rows)?, k));
            let fit = match expanding {
                [kv_b] => shaped(kv_b, nope.checked_add(*value)?, latent)?,
                [k_b, v_b] => shaped(k_b, latent, *nope)? && shaped(v_b, *value, latent)?,
                _ => false,
            };
            (*scale, *value > 0 && fit, *value)
        }
        (Op::AttendLatent { scale, latent }, [_, _]) => {
            (*scale, *latent > 0 && *latent <= n && n == cached, *latent)
        }
        _ => return None,
    };
    let legal = fits && rows == Dim::T && scale.is_finite() && scale > 0.0;
    legal.then(|| Fact::f32([rows, Dim::N(heads), Dim::N(width)]))
}

fn route(op: &Op, inputs: &[&Fact]) -> Option<Fact> {
    let Op::Route(rule) = op else { return None };
    let (logits, bias) = match inputs {
        [logits] => (logits, None),
        [logits, bias] => (logits, Some(vector(bias)?)),
        _ => return None,
    };
    let sizes_fit =
        flat(logits)? == (Dim::T, rule.experts) && bias.is_none_or(|n| n == rule.experts);
    let group = rule.experts.checked_div(rule.groups)?;
    let groups_fit = group * rule.groups == rule.experts
        && (1..=rule.groups).contains(&rule.kept_groups)
        && (rule.groups == 1 || rule.group_max || group >= 2);
    let choice_fits = (1..=group * rule.kept_groups).contains(&rule.top_k);
    (sizes_fit && groups_fit && choice_fits && rule.scale.is_finite()).then(|| Fact {
        shape: vec![Dim::T, Dim::N(rule.top_k)],
        kind: Kind::Route,
    })
}

fn experts(inputs: &[&Fact]) -> Option<Fact> {
    let [x, route, gate, up, down, base] = inputs else {
        return None;
    };
    let ((rows, hidden), gate) = (flat(x)?, table(gate)?);
    let fits = rows == Dim::T
        && route.kind == Kind::Route
        && gate[2] == hidden
        && table(up)? == gate
        && table(down)? == [gate[0], hidden, gate[1]]
        && base == x;
    fits.then(|| (*x).clone())
}

/// The fact of a weight in a file.
fn stored(dtype: DType, shape: &[u32]) -> Option<Fact> {
    (dtype != DType::U32 && shape.iter().all(|n| *n > 0)).then(|| Fact {
        shape: shape.iter().map(|n| Dim::N(*n)).collect(),
        kind: Kind::Tensor(dtype),
    })
}

/// Last dimension of an activation: `f32`, rows first, one or two fixed dimensions.
fn last(x: &Fact) -> Option<u32> {
    match (&x.shape[..], x.kind) {
        ([Dim::T | Dim::R, Dim::N(n)], Kind::Tensor(DType::F32)) => Some(*n),
        ([Dim::T | Dim::R, Dim::N(_), Dim::N(n)], Kind::Tensor(DType::F32)) => Some(*n),
        _ => None,
    }
}

fn with_last(x: &Fact, n: u32) -> Fact {
    let mut fact = x.clone();
    if let Some(dim) = fact.shape.last_mut() {
        *dim = Dim::N(n);
    }
    fact
}

/// An activation `[rows, n]`.
fn flat(x: &Fact) -> Option<(Dim, u32)> {
    let n = last(x)?;
    (x.shape.len() == 2).then(|| (x.shape[0], n))
}

/// An activation `[rows, A, n]`.
fn headed(x: &Fact) -> Option<(Dim, u32, u32)> {
    let n = last(x)?;
    match x.shape[..] {
        [rows, Dim::N(heads), _] => Some((rows, heads, n)),
        _ => None,
    }
}

/// A weight `[n]`.
fn vector(w: &Fact) -> Option<u32> {
    match (&w.shape[..], w.kind) {
        ([Dim::N(n)], Kind::Tensor(_)) => Some(*n),
        _ => None,
    }
}

/// A weight `[out, in]`.
fn matrix(w: &Fact) -> Option<(u32, u32)> {
    match (&w.shape[..], w.kind) {
        ([Dim::N(out), Dim::N(n)], Kind::Tensor(_)) => Some((*out, *n)),
        _ => None,
    }
}

/// Expert weights `[E, out, in]`.
fn table(w: &Fact) -> Option<[u32; 3]> {
    match (&w.shape[..], w.kind) {
        ([Dim::N(experts), Dim::N(out), Dim::N(n)], Kind::Tensor(_)) => Some([*experts, *out, *n]),
        _ => None,
    }
}
