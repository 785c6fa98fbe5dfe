//! Lowering: a verified graph becomes a program for one device.
//!
//! Decides which kernel row runs each operation (the one place that calls `select`), where
//! weights are bound and where temporaries lie. It only appends steps; it never talks to a
//! device. Read [`lower`] first, then `moe.rs`, which holds the MoE dispatch for every
//! device there is. Its golden tests are in `tests/golden`.

mod attention;
mod cut;
mod fuse;
mod linear;
mod moe;
mod node;
mod types;
mod view;
mod work;

pub use types::{Explained, Lowered, MoeForm, OutputPlace, Request, SlotUse, Temporary};
pub use work::{Amount, Work, WorkLimit};

use std::collections::{HashMap, HashSet};

use hadal_device::{
    Access, Bind, COUNT_ALL, DType, DeviceInfo, Dispatch, Error, Inputs, KernelRow, OpKind,
    Operand, Params, PipelineId, Problem, Program, Slot, Step, flags, select,
};
use hadal_weights::Placement;

use crate::plan::Plan;
use crate::{Dim, Graph, Op, ValueId, Verified};
use fuse::CacheRow;
use view::{PendingBind, Place, Scratch, View};

/// Gives the pipeline of a kernel row with constants: a device's `pipeline`, or a counter in
/// tests.
pub type Pipelines<'a> =
    dyn FnMut(&KernelRow, &[(&'static str, u32)]) -> hadal_device::Result<PipelineId> + 'a;

/// Lowers `graph` for a device with these kernels and weights.
///
/// # Errors
/// `Unsupported` if no kernel row does an operation, with every row's reason; the pipeline
/// errors of the device.
pub fn lower(
    graph: &Verified<Graph>,
    request: Request,
    table: &'static [KernelRow],
    info: &DeviceInfo,
    weights: &Placement,
    pipelines: &mut Pipelines<'_>,
) -> hadal_device::Result<Lowered> {
    let mut lower = Lower {
        graph,
        request,
        table,
        info,
        weights,
        pipelines,
        slots: vec![SlotUse::Inputs, SlotUse::Scratch],
        scratch: Scratch::default(),
        steps: Vec::new(),
        explained: Vec::new(),
        values: Vec::with_capacity(graph.nodes.len()),
        destinations: HashMap::new(),
        concats: HashMap::new(),
        cache_rows: HashMap::new(),
        passed_over: HashSet::new(),
        routed: graph
            .nodes
            .iter()
            .filter(|node| matches!(node.op, Op::Route(_)))
            .flat_map(|node| node.inputs.iter().copied())
            .collect(),
        exact: false,
        scope: String::new(),
    };
    lower.find_cache_rows();
    lower.find_destinations();
    for index in 0..graph.nodes.len() {
        let value = ValueId(index as u32);
        lower.exact = lower.routed.contains(&value);
        let value = lower.node(value)?;
        lower.values.push(value);
    }
    lower.finish()
}

/// A value during lowering.
#[derive(Clone, Debug)]
enum Value {
    /// Has no bytes of its own (token ids, the rotary table, what a reader makes itself).
    Implicit,
    /// Activation.
    View(View),
    /// Weight or expert table, by name.
    Weight(String),
    /// The cache of a layer.
    Cache(u32),
    /// The router's choice.
    Route { idx: View, weight: View },
}

struct PendingDispatch {
    pipeline: PipelineId,
    groups: [u32; 3],
    operands: Vec<Vec<PendingBind>>,
    tables: Vec<bool>,
    params: Params,
    label: String,
}

/// An operand as the lowering functions give it.
#[derive(Clone)]
enum Arg {
    Read(View),
    Write(View),
    Bind(Bind),
    Table(Vec<Bind>),
}

struct Lower<'a> {
    graph: &'a Verified<Graph>,
    request: Request,
    table: &'static [KernelRow],
    info: &'a DeviceInfo,
    weights: &'a Placement,
    pipelines: &'a mut Pipelines<'a>,
    slots: Vec<SlotUse>,
    scratch: Scratch,
    steps: Vec<PendingDispatch>,
    explained: Vec<Explained>,
    values: Vec<Value>,
    /// Values written straight into a piece of a concatenation: which one, and where.
    destinations: HashMap<ValueId, (ValueId, u32)>,
    /// Storage of concatenations whose first part has been made.
    concats: HashMap<ValueId, View>,
    /// Appends to the cache that make their row themselves.
    cache_rows: HashMap<ValueId, CacheRow>,
    /// Values that are never made, because their readers do without.
    passed_over: HashSet<ValueId>,
    /// What routers choose by: among scores that lie close to each other rounding would choose
    /// other experts.
    routed: HashSet<ValueId>,
    /// What is being lowered must not be rounded.
    exact: bool,
    scope: String,
}

impl Lower<'_> {
    /// The slot of a use, made on first sight.
    fn slot(&mut self, wanted: SlotUse) -> Slot {
        // From the end: of hundreds of shards a step reads those that the one before it read.
        let found = self.slots.iter().rposition(|slot| *slot == wanted);
        let index = found.unwrap_or_else(|| {
            self.slots.push(wanted);
            self.slots.len() - 1
        });
        Slot(index as u16)
    }

    fn rows_of(&self, value: ValueId) -> Dim {
        self.graph.node(value).fact.shape[0]
    }

    /// Parameters that say which rows are real.
    fn row_params(&self, rows: Dim) -> Params {
        let (rows, count_word) = match rows {
            Dim::R => (self.request.logit_rows, Inputs::LOGIT_ROWS),
            Dim::N(n) => (n, COUNT_ALL),
            _ => (self.request.bucket, Inputs::TOKENS),
        };
        Params {
            rows,
            count_word,
            count_scale: 1,
            heads: 1,
            page_stride: self.request.page_stride,
            ..Params::default()
        }
    }

    /// Dense temporary for `value`, or its piece of a concatenation, or the `hidden` slot.
    fn make(&mut self, value: ValueId) -> View {
        let (rows, heads, width) = self.extent(value);
        if let Some(&(concat, first)) = self.destinations.get(&value) {
            let whole = match self.concats.get(&concat) {
                Some(view) => *view,
                None => {
                    let view = self.make(concat);
                    self.concats.insert(concat, view);
                    view
                }
            };
            return whole.slice(first, width);
        }
        let bytes = 4 * u64::from(rows) * u64::from(heads) * u64::from(width);
        let named_hidden = self
            .graph
            .outputs
            .iter()
            .any(|(name, output)| name == "hidden" && *output == value);
        let place = if named_hidden {
            let slot = self.slot(SlotUse::HiddenOut);
            Place::Slot { slot, bytes }
        } else {
            self.scratch.add(bytes)
        };
        View::dense(place, heads, width)
    }

    /// Rows, heads and width of an activation.
    fn extent(&self, value: ValueId) -> (u32, u32, u32) {
        let node = self.graph.node(value);
        let rows = self.row_params(node.fact.shape[0]).rows;
        let heads = match node.fact.shape.as_slice() {
            [_, Dim::N(heads), _] => *heads,
            _ => 1,
        };
        (rows, heads, last_dim(node))
    }

    fn view(&self, value: ValueId) -> hadal_device::Result<View> {
        match &self.values[value.0 as usize] {
            Value::View(view) => Ok(*view),
            other => Err(invalid(format!("{other:?} is no activation"))),
        }
    }

    fn inputs_bind(&mut self) -> Bind {
        Bind {
            slot: Slot(0),
            offset: 0,
            bytes: Inputs {
                bucket: self.request.bucket,
            }
            .bytes(self.request.sequences, self.request.page_stride),
            access: Access::Read,
        }
    }

    /// Appends the dispatches of an operation: one, or its pieces.
    fn emit(
        &mut self,
        op: OpKind,
        weight: DType,
        params: Params,
        args: Vec<Arg>,
    ) -> hadal_device::Result<()> {
        let mut flags = params.flags | flags::format_bits(weight);
        use OpKind::*;
        let attention = matches!(op, AttendLatent | AttendPart | AttendExpanded);
        let product = matches!(
            op,
            Linear
                | GateUp
                | HeadLinear
                | GroupedLinear
                | GroupedGateUp
                | ExpertLinear
                | ExpertGateUp
                | NormLinear
        );
        let coded = self.request.quantised && weight == DType::F8E4M3;
        if self.request.rough && !self.exact && (attention || product && !coded) {
            flags |= flags::ROUGH;
        }
        let params = Params { flags, ..params };
        let problem = Problem { op, weight, params };
        for piece in self.cut(&problem, args) {
            let mut params = piece.params;
            // A piece may begin where the whole table does not.
            if piece.args.iter().any(|arg| self.is_scattered(arg)) {
                params.flags |= flags::SCATTERED;
            }
            self.emit_whole(Problem { params, ..problem }, piece.args)?;
        }
        Ok(())
    }

    /// Chooses a kernel for the problem and appends its dispatch. Operand 0, the inputs, is
    /// added here.
    fn emit_whole(&mut self, problem: Problem, args: Vec<Arg>) -> hadal_device::Result<()> {
        let Problem { op, weight, params } = problem;
        let choice = select(self.table, self.info, &problem).map_err(|rejected| {
            let reasons: Vec<String> = rejected
                .iter()
                .map(|r| format!("{} ({})", r.row, r.why))
                .collect();
            Error::Unsupported {
                what: format!("{} with {weight} weights at {}", op.name(), self.scope),
                why: if reasons.is_empty() {
                    format!("the {} backend has no kernel for it", self.info.backend)
                } else {
                    format!("no kernel fits: {}", reasons.join(", "))
                },
            }
        })?;
        let launch = (choice.row.launch)(&problem, self.info);
        let pipeline = (self.pipelines)(choice.row, &launch.constants)?;
        let label = format!("{} {}", choice.row.name, self.scope);
        let read_bytes = args.iter().map(read_bytes_of).sum();
        self.explained.push(Explained {
            scope: self.scope.clone(),
            op,
            weight,
            row: choice.row.name,
            rejected: choice.rejected,
            read_bytes,
            work: work::work(&problem),
        });
        let step = self.steps.len();
        let mut operands = vec![vec![PendingBind::Ready(self.inputs_bind())]];
        let mut tables = vec![false];
        for arg in args {
            tables.push(matches!(arg, Arg::Table(_)));
            operands.push(self.pend(arg, step));
        }
        self.steps.push(PendingDispatch {
            pipeline,
            groups: launch.groups,
            operands,
            tables,
            params,
            label,
        });
        Ok(())
    }

    fn pend(&mut self, arg: Arg, step: usize) -> Vec<PendingBind> {
        let (view, access) = match arg {
            Arg::Bind(bind) => return vec![PendingBind::Ready(bind)],
            Arg::Table(binds) => return binds.into_iter().map(PendingBind::Ready).collect(),
            Arg::Read(view) => (view, Access::Read),
            Arg::Write(view) => (view, Access::Write),
        };
        match view.place {
            Place::Scratch(index) => {
                self.scratch.touch(index, step);
                vec![PendingBind::Scratch(index, access)]
            }
            Place::Slot { slot, bytes } => vec![PendingBind::Ready(Bind {
                slot,
                offset: 0,
                bytes,
                access,
            })],
        }
    }

    fn finish(mut self) -> hadal_device::Result<Lowered> {
        let last = self.steps.len();
        let outputs = self.graph.outputs.clone();
        for (_, value) in &outputs {
            for view in self.output_views(*value)? {
                if let Place::Scratch(index) = view.1.place {
                    self.scratch.touch(index, last);
                }
            }
        }
        let align = self.info.limits.offset_align.max(256);
        let plan = self.scratch.plan(align);
        self.check_scratch(&plan)?;
        let mut places = Vec::new();
        for (name, value) in &outputs {
            for (suffix, view, dtype) in self.output_views(*value)? {
                let (slot, base) = match view.place {
                    Place::Scratch(index) => (Slot(1), plan.offsets[index]),
                    Place::Slot { slot, .. } => (slot, 0),
                };
                places.push(OutputPlace {
                    name: format!("{name}{suffix}"),
                    slot,
                    offset: base + 4 * u64::from(view.offset),
                    row_stride: view.row_stride,
                    width: view.heads * view.width,
                    dtype,
                    rows: self.rows_of(*value),
                });
            }
        }
        let scratch = &self.scratch;
        let steps = self
            .steps
            .into_iter()
            .map(|pending| resolve(pending, &plan.offsets, scratch))
            .collect();
        Ok(Lowered {
            program: Program {
                slots: self.slots.len() as u16,
                steps,
            },
            slots: self.slots,
            scratch_bytes: plan.bytes.max(4),
            temporaries: scratch.temporaries(&plan),
            outputs: places,
            explained: self.explained,
        })
    }

    /// Temporaries grow with the tokens of a step, so a device may be too small for them.
    fn check_scratch(&self, plan: &Plan) -> hadal_device::Result<()> {
        let limits = &self.info.limits;
        let largest = self.scratch.largest();
        let why = if largest > limits.max_binding_bytes {
            format!(
                "a temporary takes {largest} bytes, of which the device binds {} at most",
                limits.max_binding_bytes
            )
        } else if plan.bytes > limits.max_buffer_bytes {
            format!(
                "temporaries take {} bytes, and a buffer has {} at most",
                plan.bytes, limits.max_buffer_bytes
            )
        } else {
            return Ok(());
        };
        Err(Error::Unsupported {
            what: format!("a step of {} tokens", self.request.bucket),
            why: format!("{why}; choose a smaller chunk"),
        })
    }

    /// Views behind an output: one, or the two halves of a route.
    fn output_views(
        &self,
        value: ValueId,
    ) -> hadal_device::Result<Vec<(&'static str, View, DType)>> {
        match &self.values[value.0 as usize] {
            Value::Route { idx, weight } => Ok(vec![
                ("_idx", *idx, DType::U32),
                ("_weight", *weight, DType::F32),
            ]),
            Value::View(view) => {
                let dtype = match self.graph.node(value).op {
                    Op::Argmax => DType::U32,
                    _ => DType::F32,
                };
                Ok(vec![("", *view, dtype)])
            }
            other => Err(invalid(format!("{other:?} cannot be an output"))),
        }
    }
}

/// Bytes behind an operand that outlives the step: weights, cache, rotary table.
fn read_bytes_of(arg: &Arg) -> u64 {
    match arg {
        Arg::Bind(bind) if bind.access == Access::Read => bind.bytes,
        Arg::Table(binds) => binds.iter().map(|bind| bind.bytes).sum(),
        _ => 0,
    }
}

fn resolve(pending: PendingDispatch, offsets: &[u64], scratch: &Scratch) -> Step {
    let operands = pending
        .operands
        .into_iter()
        .zip(pending.tables)
        .map(|(binds, table)| {
            let mut ready: Vec<Bind> = binds
                .into_iter()
                .map(|bind| match bind {
                    PendingBind::Ready(bind) => bind,
                    PendingBind::Scratch(index, access) => Bind {
                        slot: Slot(1),
                        offset: offsets[index],
                        bytes: scratch.bytes(index),
                        access,
                    },
                })
                .collect();
            match (table, ready.pop()) {
                (false, Some(bind)) => Operand::Range(bind),
                (_, last) => {
                    ready.extend(last);
                    Operand::Table(ready)
                }
            }
        })
        .collect();
    Step::Dispatch(Dispatch {
        pipeline: pending.pipeline,
        groups: pending.groups,
        operands,
        params: Box::new(pending.params),
        label: pending.label,
    })
}

fn last_dim(node: &crate::Node) -> u32 {
    match node.fact.shape.last() {
        Some(Dim::N(n)) => *n,
        _ => 1,
    }
}

fn invalid(text: String) -> Error {
    Error::Invalid(text)
}
