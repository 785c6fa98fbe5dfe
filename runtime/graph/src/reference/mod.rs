//! The slow meaning of every operation, in `f64` and obvious loops: the oracle that kernels
//! are compared with.
//!
//! Decides what a graph means; shares no code with any kernel and knows no device. Read
//! [`evaluate`] first. Pinned from outside by the golden cases in `models/tests/golden.rs`.
//! The meaning of a single row is public too, for whoever checks kernels one by one.

mod attention;
mod dense;
mod moe;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use attention::{attend_expanded, attend_latent, rotate};
pub use dense::{act_quant, argmax, dot, head_slice, linear, norm, round_to_e4m3, silu};
pub use moe::route;

use crate::{Graph, Node, Op, ValueId, Verified};

/// One step's inputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step<'a> {
    /// Token ids, `[T]`.
    pub ids: &'a [u32],
    /// Position of each token in its sequence, `[T]`.
    pub positions: &'a [u32],
    /// Sequence of each token, `[T]`.
    pub sequences: &'a [u32],
    /// Rows for the operation `Hidden`, `[T, width]`; empty where the graph has none.
    pub hidden: &'a [f64],
    /// Tokens whose logits are wanted, `[R]`.
    pub logit_rows: &'a [u32],
    /// Cosine and sine of each position and pair, interleaved, `[P, rope]`.
    pub rope: &'a [f64],
}

/// Values of a weight by tensor name, scales applied, row by row; `None` if there is none.
pub type Weights<'w> = dyn Fn(&str) -> Option<Arc<[f64]>> + 'w;

/// Numbers with dimensions, slowest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Values, row by row.
    pub data: Vec<f64>,
}

impl Tensor {
    /// Length of the last axis.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1).max(1)
    }

    /// The pieces along the last axis.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.width())
    }

    /// The same leading dimensions over other last rows, each of `width` values.
    fn with_rows(&self, width: usize, rows: impl Iterator<Item = Vec<f64>>) -> Tensor {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        Tensor {
            shape,
            data: rows.flatten().collect(),
        }
    }
}

/// The router's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Routes {
    /// Experts a token.
    pub top_k: usize,
    /// Chosen experts in descending order of selection score, `[T, k]`.
    pub experts: Vec<u32>,
    /// Their weights, `[T, k]`.
    pub weights: Vec<f64>,
}

/// What a node makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An activation.
    Numbers(Tensor),
    /// Token ids.
    Ids(Vec<u32>),
    /// Experts of each token.
    Routes(Routes),
    /// A weight.
    Weight(Arc<[f64]>),
    /// Expert weights: the name with `{}`, and the size of one matrix.
    Experts(String, usize),
    /// The cache of this layer.
    Cache(u32),
}

/// The latent caches: one row a position, for each layer and sequence.
#[derive(Clone, Debug, Default)]
pub struct Caches {
    rows: HashMap<(u32, u32), Vec<Option<Vec<f64>>>>,
}

impl Caches {
    /// Forgets the positions of a sequence from `length` on.
    pub fn truncate(&mut self, sequence: u32, length: usize) {
        for ((_, of), rows) in &mut self.rows {
            if *of == sequence {
                rows.truncate(length);
            }
        }
    }
}

/// Why a graph cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A weight is missing or has another size.
    #[error("weight `{name}`: {why}")]
    Weight {
        /// Tensor name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The inputs of the step do not fit.
    #[error("the step cannot be evaluated: {0}")]
    Step(String),
}

type Result<T> = std::result::Result<T, ReferenceError>;

/// Evaluates a graph for one step and gives its outputs by name. Rows of this step are
/// written to `caches`, which carry the context from step to step.
///
/// # Errors
/// A weight that is missing or of another size; ids, positions or rows out of range; a
/// context with a hole.
pub fn evaluate(
    graph: &Verified<Graph>,
    step: &Step<'_>,
    weights: &Weights<'_>,
    caches: &mut Caches,
) -> Result<BTreeMap<String, Value>> {
    let tokens = step.ids.len();
    if step.positions.len() != tokens || step.sequences.len() != tokens {
        let text = "ids, positions and sequences have different lengths";
        return Err(ReferenceError::Step(text.into()));
    }
    if let Some(row) = step.logit_rows.iter().find(|row| **row as usize >= tokens) {
        let text = format!("logits of row {row} are wanted, there are {tokens}");
        return Err(ReferenceError::Step(text));
    }
    let mut values = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let value = Evaluator {
            step,
            weights,
            values: &values,
        }
        .node(node, caches)?;
        values.push(value);
    }
    let named =
        |(name, value): &(String, ValueId)| (name.clone(), values[value.0 as usize].clone());
    Ok(graph.outputs.iter().map(named).collect())
}

struct Evaluator<'a> {
    step: &'a Step<'a>,
    weights: &'a Weights<'a>,
    values: &'a [Value],
}

impl Evaluator<'_> {
    fn node(&self, node: &Node, caches: &mut Caches) -> Result<Value> {
        Ok(match &node.op {
            Op::Tokens => Value::Ids(self.step.ids.to_vec()),
            Op::Weight { name, shape, .. } => {
                let size = shape.iter().map(|n| *n as usize).product();
                Value::Weight(self.weight(name, size)?)
            }
            Op::ExpertWeights { name, shape, .. } => {
                Value::Experts(name.clone(), shape[1] as usize * shape[2] as usize)
            }
            Op::Route(rule) => {
                let bias = (node.inputs.len() > 1).then(|| self.weight_of(node, 1));
                let logits = self.numbers(node, 0)?;
                Value::Routes(moe::route(rule, logits, bias.transpose()?.as_deref()))
            }
            Op::Argmax => Value::Ids(dense::argmax(self.numbers(node, 0)?)),
            Op::CacheAppend { layer } => {
                attention::append(*layer, self.numbers(node, 0)?, self.step, caches);
                Value::Cache(*layer)
            }
            _ => Value::Numbers(self.activation(node, caches)?),
        })
    }

    fn activation(&self, node: &Node, caches: &Caches) -> Result<Tensor> {
        let x = |operand| self.numbers(node, operand);
        let w = |operand| self.weight_of(node, operand);
        Ok(match &node.op {
            Op::Hidden { width } => self.hidden(*width as usize)?,
            Op::RopeTable { rope } => self.rope_table(*rope as usize),
            Op::Embed => self.embed(node)?,
            Op::Norm { eps } => dense::norm(x(0)?, &w(1)?, *eps),
            Op::Linear => dense::linear(x(0)?, &w(1)?),
            Op::LinearAdd => dense::add(x(2)?, &dense::linear(x(0)?, &w(1)?)),
            Op::GateUp => {
                dense::swiglu(&dense::linear(x(0)?, &w(1)?), &dense::linear(x(0)?, &w(2)?))
            }
            Op::HeadLinear { .. } => dense::head_linear(&node.op, x(0)?, &w(1)?),
            Op::Add => dense::add(x(0)?, x(1)?),
            Op::SwiGlu => dense::swiglu(x(0)?, x(1)?),
            Op::Slice { first, count } => dense::slice(x(0)?, *first as usize, *count as usize),
            Op::Heads { .. } | Op::Flat => dense::reshaped(x(0)?, node),
            Op::Concat => dense::concat(x(0)?, x(1)?),
            Op::Rope => attention::rope(x(0)?, x(1)?, self.step)?,
            Op::AttendExpanded { .. } | Op::AttendLatent { .. } => self.attend(node, caches)?,
            Op::Experts { quantise } => self.experts(node, *quantise)?,
            Op::Gather => dense::gather(x(0)?, self.step.logit_rows),
            Op::ActQuant(scale) => dense::act_quant(x(0)?, *scale),
            _ => return Err(misuse(node)),
        })
    }

    fn attend(&self, node: &Node, caches: &Caches) -> Result<Tensor> {
        let q = self.numbers(node, 0)?;
        let Some(Value::Cache(layer)) = self.input(node, 1) else {
            return Err(misuse(node));
        };
        let contexts = attention::Contexts {
            layer: *layer,
            step: self.step,
            caches,
        };
        match &node.op {
            Op::AttendLatent { scale, latent } => {
                attention::latent(q, &contexts, *latent as usize, f64::from(*scale))
            }
            Op::AttendExpanded { scale, nope, value } => {
                let head = (*nope as usize, *value as usize);
                let kv_b = match node.inputs.len() {
                    3 => self.weight_of(node, 2)?,
                    _ => {
                        let parts = [self.weight_of(node, 2)?, self.weight_of(node, 3)?];
                        attention::joined(q.shape[1], &parts, head).into()
                    }
                };
                attention::expanded(q, &contexts, &kv_b, head, f64::from(*scale))
            }
            _ => Err(misuse(node)),
        }
    }

    fn weight(&self, name: &str, size: usize) -> Result<Arc<[f64]>> {
        let fail = |why: String| ReferenceError::Weight {
            name: name.to_string(),
            why,
        };
        let values = (self.weights)(name).ok_or_else(|| fail("there is none".into()))?;
        match values.len() == size {
            true => Ok(values),
            false => Err(fail(format!("{} values, {size} are needed", values.len()))),
        }
    }

    fn hidden(&self, width: usize) -> Result<Tensor> {
        let shape = vec![self.step.ids.len(), width];
        if self.step.hidden.len() != shape[0] * width {
            let text = format!("{} hidden values for {shape:?}", self.step.hidden.len());
            return Err(ReferenceError::Step(text));
        }
        Ok(Tensor {
            shape,
            data: self.step.hidden.to_vec(),
        })
    }

    fn rope_table(&self, rope: usize) -> Tensor {
        let positions = self.step.rope.len() / rope;
        let data = self.step.rope[..positions * rope].to_vec();
        Tensor {
            shape: vec![positions, rope],
            data,
        }
    }

    fn embed(&self, node: &Node) -> Result<Tensor> {
        let Some(Value::Ids(ids)) = self.input(node, 0) else {
            return Err(misuse(node));
        };
        let (table, width) = (self.weight_of(node, 1)?, node_width(node));
        let mut data = Vec::with_capacity(ids.len() * width);
        for id in ids {
            let row = table.chunks_exact(width).nth(*id as usize).ok_or_else(|| {
                ReferenceError::Step(format!("token id {id} is beyond the vocabulary"))
            })?;
            data.extend_from_slice(row);
        }
        Ok(Tensor {
            shape: vec![ids.len(), width],
            data,
        })
    }

    fn experts(&self, node: &Node, quantise: Option<crate::ActScale>) -> Result<Tensor> {
        let (x, base) = (self.numbers(node, 0)?, self.numbers(node, 5)?);
        let Some(Value::Routes(routes)) = self.input(node, 1) else {
            return Err(misuse(node));
        };
        let matrix = |operand: usize, expert: u32| match self.input(node, operand) {
            Some(Value::Experts(name, size)) => {
                self.weight(&name.replace("{}", &expert.to_string()), *size)
            }
            _ => Err(misuse(node)),
        };
        moe::experts(x, routes, &matrix, base, quantise)
    }

    fn input(&self, node: &Node, operand: usize) -> Option<&Value> {
        self.values.get(node.inputs.get(operand)?.0 as usize)
    }

    fn numbers(&self, node: &Node, operand: usize) -> Result<&Tensor> {
        match self.input(node, operand) {
            Some(Value::Numbers(tensor)) => Ok(tensor),
            _ => Err(misuse(node)),
        }
    }

    fn weight_of(&self, node: &Node, operand: usize) -> Result<Arc<[f64]>> {
        match self.input(node, operand) {
            Some(Value::Weight(values)) => Ok(values.clone()),
            _ => Err(misuse(node)),
        }
    }
}

/// Width of a node's last axis.
fn node_width(node: &Node) -> usize {
    match node.fact.shape.last() {
        Some(crate::Dim::N(n)) => *n as usize,
        _ => 1,
    }
}

/// An operand of a kind that the rules allow by shape but that has no meaning here.
fn misuse(node: &Node) -> ReferenceError {
    ReferenceError::Step(format!("`{}` has an operand of another kind", node.scope))
}
