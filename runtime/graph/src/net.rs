//! The builder models are written in: lines of a model append nodes, and shapes are checked
//! as the lines run.
//!
//! Decides names (scope path + name, as in the published files) and order; knows no model.
//! The first violation is kept and returned by [`Net::finish`]; later lines do nothing, so
//! that a model reads as mathematics and no bad configuration panics.

use std::cell::RefCell;

use hadal_device::DType;

use crate::{
    ActScale, Dim, Fact, Graph, Node, Op, RouteRule, ValueId, Verified, Violation, infer, verify,
};

/// Dtype of a tensor of the checkpoint, `None` if there is no such tensor.
pub type Dtypes<'d> = dyn Fn(&str) -> Option<DType> + 'd;

/// A graph being written.
pub struct Net<'d> {
    dtypes: &'d Dtypes<'d>,
    probes: bool,
    graph: RefCell<Graph>,
    scope: RefCell<String>,
    broken: RefCell<Option<Violation>>,
}

/// A value of a [`Net`]: the handle that lines of a model chain.
#[derive(Clone, Copy)]
pub struct Val<'g> {
    net: &'g Net<'g>,
    id: ValueId,
}

impl<'d> Net<'d> {
    /// An empty graph over a checkpoint's weights. With `probes`, values named by
    /// [`Val::probe`] become outputs.
    pub fn new(dtypes: &'d Dtypes<'d>, probes: bool) -> Net<'d> {
        Net {
            dtypes,
            probes,
            graph: RefCell::default(),
            scope: RefCell::default(),
            broken: RefCell::default(),
        }
    }

    /// The graph, proved; or the first rule a line broke.
    pub fn finish(self) -> Result<Verified<Graph>, Violation> {
        match self.broken.into_inner() {
            Some(violation) => Err(violation),
            None => verify(self.graph.into_inner()),
        }
    }

    /// Runs lines whose names begin with the current path and `name`.
    pub fn within<T>(&self, name: impl AsRef<str>, lines: impl FnOnce() -> T) -> T {
        let outer = self.path(name.as_ref());
        let outer = self.scope.replace(outer);
        let value = lines();
        self.scope.replace(outer);
        value
    }

    /// The token ids of the step, `u32[T]`.
    pub fn tokens(&self) -> Val<'_> {
        self.push(Op::Tokens, &[], "tokens")
    }

    /// Rows handed in from outside, `[T, width]`.
    pub fn hidden(&self, width: u32) -> Val<'_> {
        self.push(Op::Hidden { width }, &[], "hidden")
    }

    /// The rotary table, `[P, rope]`.
    pub fn rope_table(&self, rope: u32) -> Val<'_> {
        self.push(Op::RopeTable { rope }, &[], "rope_table")
    }

    /// The tensor `path.name` of the checkpoint (`name` with its `.weight`).
    pub fn weight(&self, name: &str, shape: &[u32]) -> Val<'_> {
        let name = self.path(name);
        let dtype = self.dtype(&name, &name);
        let shape = shape.to_vec();
        let op = Op::Weight {
            name: name.clone(),
            dtype,
            shape,
        };
        self.push(op, &[], "")
    }

    /// The tensors `path.name`, one for each expert, whose index stands for `{}`.
    pub fn expert_weights(&self, name: &str, shape: [u32; 3]) -> Val<'_> {
        let name = self.path(name);
        let dtype = self.dtype(&name, &name.replace("{}", "0"));
        let op = Op::ExpertWeights {
            name: name.clone(),
            dtype,
            shape,
        };
        self.push(op, &[], "")
    }

    fn dtype(&self, name: &str, example: &str) -> DType {
        (self.dtypes)(example).unwrap_or_else(|| {
            let text = format!(
                "the checkpoint has no tensor `{example}`; its files are incomplete or do not \
                 belong to this config.json"
            );
            self.keep(name, "weight_exists", text);
            DType::F32
        })
    }

    fn path(&self, name: &str) -> String {
        let scope = self.scope.borrow();
        match (scope.is_empty(), name.is_empty()) {
            (true, _) => name.to_string(),
            (_, true) => scope.clone(),
            _ => format!("{scope}.{name}"),
        }
    }

    fn push(&self, op: Op, inputs: &[Val<'_>], name: &str) -> Val<'_> {
        let scope = self.path(name);
        let mut id = ValueId(0);
        if self.broken.borrow().is_none() {
            let inputs: Vec<ValueId> = inputs.iter().map(|val| val.id).collect();
            match self.node(op, inputs, &scope) {
                Ok(node) => {
                    let mut graph = self.graph.borrow_mut();
                    id = ValueId(graph.nodes.len() as u32);
                    graph.nodes.push(node);
                }
                Err((rule, text)) => self.keep(&scope, rule, text),
            }
        }
        Val { net: self, id }
    }

    fn node(
        &self,
        op: Op,
        inputs: Vec<ValueId>,
        scope: &str,
    ) -> Result<Node, (&'static str, String)> {
        let graph = self.graph.borrow();
        let facts: Vec<&Fact> = inputs.iter().map(|v| &graph.node(*v).fact).collect();
        let fact = infer(&op, &facts).map_err(|refusal| (refusal.rule, refusal.text))?;
        crate::verify::experts_match(&graph, &op, &inputs)
            .map_err(|text| ("experts_match_router", text))?;
        Ok(Node {
            op,
            inputs,
            fact,
            scope: scope.to_string(),
        })
    }

    fn keep(&self, scope: &str, rule: &'static str, text: String) {
        self.broken.borrow_mut().get_or_insert_with(|| Violation {
            phase: "build",
            rule,
            node: self.graph.borrow().nodes.len(),
            scope: scope.to_string(),
            text,
        });
    }
}

impl<'g> Val<'g> {
    /// `x w^T` with the weight `name.weight` of `[out, in]`: `[rows, in]` -> `[rows, out]`.
    pub fn linear(self, name: &str, out: u32) -> Val<'g> {
        let w = self
            .net
            .weight(&format!("{name}.weight"), &[out, self.width()]);
        self.net.push(Op::Linear, &[self, w], name)
    }

    /// `x w^T` with a weight at hand.
    pub fn linear_with(self, w: Val<'g>, name: &str) -> Val<'g> {
        self.net.push(Op::Linear, &[self, w], name)
    }

    /// Root mean square norm over the last axis with the weight `name.weight`.
    pub fn norm(self, name: &str, eps: f32) -> Val<'g> {
        let w = self.net.weight(&format!("{name}.weight"), &[self.width()]);
        self.net.push(Op::Norm { eps }, &[self, w], name)
    }

    /// Rows of `table` for the token ids: `u32[T]` -> `[T, H]`.
    pub fn embed(self, table: Val<'g>) -> Val<'g> {
        self.net.push(Op::Embed, &[self, table], "embed_tokens")
    }

    /// `[T, A * n]` -> `[T, A, n]`.
    pub fn heads(self, heads: u32) -> Val<'g> {
        self.net.push(Op::Heads { heads }, &[self], "")
    }

    /// `[T, A, n]` -> `[T, A * n]`.
    pub fn flat(self) -> Val<'g> {
        self.net.push(Op::Flat, &[self], "")
    }

    /// The first `count` values of the last axis, and the rest.
    pub fn split(self, count: u32) -> (Val<'g>, Val<'g>) {
        let rest = self.width().saturating_sub(count);
        let piece = |first, count| self.net.push(Op::Slice { first, count }, &[self], "");
        (piece(0, count), piece(count, rest))
    }

    /// `self` and then `other` along the last axis.
    pub fn concat(self, other: Val<'g>) -> Val<'g> {
        self.net.push(Op::Concat, &[self, other], "")
    }

    /// Interleaved rotation by each token's position.
    pub fn rope(self, table: Val<'g>) -> Val<'g> {
        self.net.push(Op::Rope, &[self, table], "rope")
    }

    /// Writes the keys `[T, n]` to the layer's cache and gives the cache, `[K, n]`.
    pub fn cache_append(self, layer: u32) -> Val<'g> {
        self.net.push(Op::CacheAppend { layer }, &[self], "cache")
    }

    /// Attention of the queries `[T, A, dn + dr]` over a latent cache, keys and values
    /// expanded by `name.weight`: `[T, A, dv]`.
    pub fn attend_expanded(
        self,
        cache: Val<'g>,
        name: &str,
        scale: f32,
        nope: u32,
        value: u32,
    ) -> Val<'g> {
        let heads = self.axis(|shape| shape.get(1));
        let rope = self.width().saturating_sub(nope);
        let latent = cache.width().saturating_sub(rope);
        let rows = heads.saturating_mul(nope.saturating_add(value));
        let kv_b = self.net.weight(&format!("{name}.weight"), &[rows, latent]);
        let op = Op::AttendExpanded { scale, nope, value };
        self.net.push(op, &[self, cache, kv_b], "attend")
    }

    /// The same attention with the expanding weight in two parts: `names` are those of keys,
    /// `[A * dc, dn]` with each head's transposed, and of values, `[A * dv, dc]`.
    pub fn attend_split(
        self,
        cache: Val<'g>,
        [keys, values]: [&str; 2],
        scale: f32,
        nope: u32,
        value: u32,
    ) -> Val<'g> {
        let heads = self.axis(|shape| shape.get(1));
        let rope = self.width().saturating_sub(nope);
        let latent = cache.width().saturating_sub(rope);
        let weight = |name, rows: u32, k| {
            let rows = heads.saturating_mul(rows);
            self.net.weight(&format!("{name}.weight"), &[rows, k])
        };
        let (k_b, v_b) = (weight(keys, latent, nope), weight(values, value, latent));
        let op = Op::AttendExpanded { scale, nope, value };
        self.net.push(op, &[self, cache, k_b, v_b], "attend")
    }

    /// `self + other`.
    #[expect(
        clippy::should_implement_trait,
        reason = "a builder line, not arithmetic"
    )]
    pub fn add(self, other: Val<'g>) -> Val<'g> {
        self.net.push(Op::Add, &[self, other], "")
    }

    /// `silu(self) * up`.
    pub fn swiglu(self, up: Val<'g>) -> Val<'g> {
        self.net.push(Op::SwiGlu, &[self, up], "")
    }

    /// Chooses experts by the logits `[T, E]`; `bias` takes part in the choice only.
    pub fn route(self, rule: RouteRule, bias: Option<Val<'g>>) -> Val<'g> {
        match bias {
            Some(bias) => self.net.push(Op::Route(rule), &[self, bias], "route"),
            None => self.net.push(Op::Route(rule), &[self], "route"),
        }
    }

    /// `base` plus the weighted sum of the routed experts `experts.{}.*` of `self`; each
    /// is a gated MLP of `width`.
    pub fn experts(self, route: Val<'g>, experts: u32, width: u32, base: Val<'g>) -> Val<'g> {
        let hidden = self.width();
        let table = |name, shape| self.net.expert_weights(name, shape);
        let gate = table("experts.{}.gate_proj.weight", [experts, width, hidden]);
        let up = table("experts.{}.up_proj.weight", [experts, width, hidden]);
        let down = table("experts.{}.down_proj.weight", [experts, hidden, width]);
        let op = Op::Experts {
            quantise: None::<ActScale>,
        };
        self.net
            .push(op, &[self, route, gate, up, down, base], "experts")
    }

    /// The rows whose logits are wanted: `[T, n]` -> `[R, n]`.
    pub fn gather(self) -> Val<'g> {
        self.net.push(Op::Gather, &[self], "gather")
    }

    /// Index of each row's largest value.
    pub fn argmax(self) -> Val<'g> {
        self.net.push(Op::Argmax, &[self], "argmax")
    }

    /// Names an output.
    pub fn output(self, name: impl Into<String>) -> Val<'g> {
        if self.net.broken.borrow().is_none() {
            let mut graph = self.net.graph.borrow_mut();
            graph.outputs.push((name.into(), self.id));
        }
        self
    }

    /// Names an output that is only wanted for inspection.
    pub fn probe(self, name: impl Into<String>) -> Val<'g> {
        if self.net.probes {
            self.output(name);
        }
        self
    }

    /// Length of the last axis; 0 once a line is broken.
    pub fn width(self) -> u32 {
        self.axis(|shape| shape.last())
    }

    fn axis(self, of: fn(&[Dim]) -> Option<&Dim>) -> u32 {
        let graph = self.net.graph.borrow();
        let node = graph.nodes.get(self.id.0 as usize);
        match node.and_then(|node| of(&node.fact.shape)) {
            Some(Dim::N(n)) => *n,
            _ => 0,
        }
    }
}
