//! Latent attention, absorbed or expanded (report, section 2.1.1): the same numbers by two
//! routes. Expanded rebuilds every key and value from its latent, the cheaper way for many
//! tokens; absorbed carries the up-projections to the queries and the results, so that
//! each latent is read once, the cheaper way for few.
//!
//! The caller decides; this page knows no device.

use hadal_device::{DType, OpKind, Params, Problem, flags};

use super::Target;
use crate::patch::{Draft, Patch, Rule, Site, rewrite};
use crate::{Dim, Graph, Kind, Op, ValueId, Verified, Violation};

/// How attention reads the latent cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Queries are projected into the latent space; latents serve as keys and values.
    Absorbed,
    /// Keys and values of every head are rebuilt from the latents, as models are written.
    Expanded,
}

/// Turns every `AttendExpanded` into its absorbed form, or leaves the graph as it is. Where
/// keys and values have weights of their own and the device cannot join them, attention is
/// absorbed in any case.
pub fn absorb(graph: Verified<Graph>, target: &Target<'_>) -> Result<Verified<Graph>, Violation> {
    let rule = Rule {
        name: "absorb",
        root: |op| matches!(op, Op::AttendExpanded { .. }),
        rewrite: &|site| match target.form == Form::Expanded && is_joined(site, target) {
            true => None,
            false => absorbed(site),
        },
    };
    rewrite(graph, &rule)
}

/// Whether keys and values have one weight, or two that the device makes one of.
fn is_joined(site: &Site<'_>, target: &Target<'_>) -> bool {
    let node = site.graph.node(site.root);
    let [_, _, k_b, v_b] = node.inputs[..] else {
        return true;
    };
    let unpacks = |weight: ValueId, flags| {
        let fact = &site.graph.node(weight).fact;
        let (&Kind::Tensor(weight), &[Dim::N(rows), Dim::N(k)], Dim::N(heads)) =
            (&fact.kind, &fact.shape[..], node.fact.shape[1])
        else {
            return false;
        };
        (target.runs)(&unpacking(weight, [rows, k], heads, flags))
    };
    unpacks(k_b, flags::TRANSPOSED) && unpacks(v_b, 0)
}

/// The problem of taking a weight of `[rows, k]` apart for `heads` heads; where the numbers go
/// is left open.
pub(crate) fn unpacking(weight: DType, [rows, k]: [u32; 2], heads: u32, flags: u32) -> Problem {
    Problem {
        op: OpKind::UnpackHeads,
        weight,
        params: Params {
            rows: heads,
            count_word: hadal_device::COUNT_ALL,
            count_scale: 1,
            n: k,
            k,
            heads: 1,
            head_rows: rows / heads.max(1),
            row_count: rows,
            flags,
            ..Params::default()
        },
    }
}

fn absorbed(site: &Site<'_>) -> Option<Patch> {
    let node = site.graph.node(site.root);
    let (&Op::AttendExpanded { scale, nope, value }, &[query, cache, ref expanding @ ..]) =
        (&node.op, &node.inputs[..])
    else {
        return None;
    };
    let width = |value: ValueId| match site.graph.node(value).fact.shape.last() {
        Some(Dim::N(width)) => Some(*width),
        _ => None,
    };
    let rope = width(query)?.checked_sub(nope)?;
    let latent = width(cache)?.checked_sub(rope)?;
    let (keys, values) = match *expanding {
        [kv_b] => {
            let rows = nope + value;
            let keys = slice(true, rows, 0, nope);
            ((keys, kv_b), (slice(false, rows, nope, value), kv_b))
        }
        [k_b, v_b] => {
            let keys = slice(false, latent, 0, latent);
            ((keys, k_b), (slice(false, value, 0, value), v_b))
        }
        _ => return None,
    };
    let mut draft = Draft::new(site, site.root);
    let mut piece = |first, count| draft.push(Op::Slice { first, count }, &[query]);
    let (q_nope, q_rope) = (piece(0, nope), piece(nope, rope));
    let q_latent = draft.push(keys.0, &[q_nope, keys.1]); // [T, A, dc]
    let q = draft.push(Op::Concat, &[q_latent, q_rope]); // [T, A, dc + dr]
    let mixed = draft.push(Op::AttendLatent { scale, latent }, &[q, cache]);
    let result = draft.push(values.0, &[mixed, values.1]); // [T, A, dv]
    Some(draft.replace(site.root, result))
}

fn slice(transposed: bool, head_rows: u32, head_first: u32, count: u32) -> Op {
    Op::HeadLinear {
        transposed,
        head_rows,
        head_first,
        count,
    }
}
