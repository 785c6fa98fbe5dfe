//! One arm for each operation of a graph: which file lowers it.

use hadal_device::{Bind, DType, Error, OpKind, Params, flags};
use hadal_weights::{Piece, Placed};

use super::{Arg, Lower, Value, View, invalid, view::Place};
use crate::{ActScale, Op, RouteRule, ValueId};

impl Lower<'_> {
    /// Lowers one node; what it makes is remembered under the node's value.
    pub(super) fn node(&mut self, value: ValueId) -> hadal_device::Result<Value> {
        let graph = self.graph;
        let node = graph.node(value);
        self.scope = node.scope.clone();
        let inputs = &node.inputs;
        match &node.op {
            Op::Tokens | Op::RopeTable { .. } => return Ok(Value::Implicit),
            Op::Hidden { .. } => return Ok(Value::View(self.hidden_in(value))),
            Op::Weight { name, .. } | Op::ExpertWeights { name, .. } => {
                return Ok(Value::Weight(name.clone()));
            }
            Op::Slice { first, count } => {
                return Ok(Value::View(self.view(inputs[0])?.slice(*first, *count)));
            }
            Op::Heads { heads } => {
                return Ok(Value::View(self.view(inputs[0])?.split_heads(*heads)));
            }
            Op::Flat => return self.flat(inputs[0]),
            _ if self.passed_over.contains(&value) => return Ok(Value::Implicit),
            Op::CacheAppend { layer } => return self.cache_append(value, inputs[0], *layer),
            Op::Norm { .. } if self.norm_is_fused(value)? || self.norm_is_quantised(value)? => {
                self.passed_over.insert(value);
                return Ok(Value::Implicit);
            }
            Op::Route(rule) => return self.route(value, inputs, rule),
            _ => {}
        }
        let y = match self.concats.get(&value) {
            Some(view) => *view,
            None => self.make(value),
        };
        match &node.op {
            Op::Embed => self.embed(inputs[1], y)?,
            Op::Norm { eps } => self.norm((OpKind::Norm, 0), inputs, *eps, y)?,
            Op::Linear => self.linear(inputs[0], inputs[1], None, y)?,
            Op::LinearAdd => self.linear(inputs[0], inputs[1], Some(inputs[2]), y)?,
            Op::GateUp => self.gate_up(inputs, y)?,
            Op::HeadLinear {
                transposed,
                head_rows,
                head_first,
                count,
            } => {
                let slice = (*transposed, *head_rows, *head_first, *count);
                self.head_linear(inputs, slice, y)?;
            }
            Op::Add => self.binary(OpKind::Add, inputs, y)?,
            Op::SwiGlu => self.binary(OpKind::SwiGlu, inputs, y)?,
            Op::Concat => self.concat(inputs, y)?,
            Op::Rope => self.rope(inputs[0], y)?,
            Op::AttendExpanded {
                scale,
                nope,
                value: width,
            } => self.attend_expanded(inputs, (*scale, *nope, *width), y)?,
            Op::AttendLatent { scale, latent } => {
                self.attend_latent(inputs, *scale, *latent, y)?;
            }
            Op::Experts { quantise } => self.experts(inputs, *quantise, y)?,
            Op::Gather => self.gather(inputs[0], y)?,
            Op::Argmax => self.unary(OpKind::Argmax, inputs[0], y)?,
            Op::ActQuant(scale) => return self.act_quant_node(value, inputs[0], *scale, y),
            other => return Err(invalid(format!("{other:?} has no lowering"))),
        }
        Ok(Value::View(y))
    }

    fn hidden_in(&mut self, value: ValueId) -> View {
        let (rows, _, width) = self.extent(value);
        let slot = self.slot(super::SlotUse::HiddenIn);
        let bytes = 4 * u64::from(rows) * u64::from(width);
        View::dense(Place::Slot { slot, bytes }, 1, width)
    }

    fn flat(&mut self, x: ValueId) -> hadal_device::Result<Value> {
        let flat = self.view(x)?.flat();
        flat.map(Value::View)
            .ok_or_else(|| invalid(format!("the heads joined at {} do not touch", self.scope)))
    }

    pub(super) fn weight_name(&self, value: ValueId) -> hadal_device::Result<&str> {
        match &self.values[value.0 as usize] {
            Value::Weight(name) => Ok(name),
            other => Err(invalid(format!("{other:?} is no weight"))),
        }
    }

    /// Where a weight lies.
    pub(super) fn placed(&self, value: ValueId) -> hadal_device::Result<Placed> {
        let name = self.weight_name(value)?;
        self.weights
            .matrix(name)
            .cloned()
            .ok_or_else(|| invalid(format!("{name} was not placed")))
    }

    /// Where a weight that must not be cut lies.
    pub(super) fn whole(&self, value: ValueId) -> hadal_device::Result<(Placed, Piece)> {
        let placed = self.placed(value)?;
        match placed.pieces.as_slice() {
            [piece] => Ok((placed.clone(), *piece)),
            pieces => Err(Error::Unsupported {
                what: format!("{} in {} pieces", self.weight_name(value)?, pieces.len()),
                why: format!(
                    "this operation needs it in one binding, and the device binds at most {} bytes",
                    self.info.limits.max_binding_bytes
                ),
            }),
        }
    }

    pub(super) fn piece_bind(&mut self, piece: &Piece) -> Bind {
        Bind {
            slot: self.slot(super::SlotUse::Weights(piece.buffer as u32)),
            offset: piece.offset,
            bytes: piece.bytes,
            access: hadal_device::Access::Read,
        }
    }

    /// A weight operand and, for FP8, its scales.
    pub(super) fn weight_args(&mut self, piece: &Piece, scale: Option<Piece>, args: &mut Vec<Arg>) {
        args.push(Arg::Bind(self.piece_bind(piece)));
        if let Some(scale) = scale {
            args.push(Arg::Bind(self.piece_bind(&scale)));
        }
    }

    fn binary(&mut self, op: OpKind, inputs: &[ValueId], y: View) -> hadal_device::Result<()> {
        let (a, b) = (self.flat_view(inputs[0])?, self.flat_view(inputs[1])?);
        let params = Params {
            n: a.width,
            b_offset: b.offset,
            b_stride: b.row_stride,
            ..xy(self.row_params(self.rows_of(inputs[0])), a, y)
        };
        let args = vec![Arg::Read(a), Arg::Read(b), Arg::Write(y)];
        self.emit(op, DType::F32, params, args)
    }

    fn unary(&mut self, op: OpKind, x: ValueId, y: View) -> hadal_device::Result<()> {
        let view = self.flat_view(x)?;
        let params = Params {
            n: view.width,
            ..xy(self.row_params(self.rows_of(x)), view, y)
        };
        self.emit(op, DType::F32, params, vec![Arg::Read(view), Arg::Write(y)])
    }

    /// As codes where all readers take them.
    fn act_quant_node(
        &mut self,
        value: ValueId,
        x: ValueId,
        scale: ActScale,
        y: View,
    ) -> hadal_device::Result<Value> {
        let rows = self.row_params(self.rows_of(x));
        let y = y.coded(self.readers_take_codes(value, y)?);
        let norm = self.graph.node(x);
        match norm.op {
            Op::Norm { eps } if self.passed_over.contains(&x) => {
                let op = (OpKind::NormQuant, quantised(y, scale));
                self.norm(op, &norm.inputs, eps, y)?;
            }
            _ => self.act_quant(self.view(x)?, y, scale, rows)?,
        }
        Ok(Value::View(y))
    }

    pub(super) fn act_quant(
        &mut self,
        x: View,
        y: View,
        scale: ActScale,
        rows: Params,
    ) -> hadal_device::Result<()> {
        let params = Params {
            n: x.width,
            flags: quantised(y, scale),
            ..xy(rows, x, y)
        };
        let args = vec![Arg::Read(x), Arg::Write(y)];
        self.emit(OpKind::ActQuant, DType::F32, params, args)
    }

    fn gather(&mut self, x: ValueId, y: View) -> hadal_device::Result<()> {
        let view = self.flat_view(x)?;
        let params = Params {
            n: view.width,
            ..xy(self.row_params(crate::Dim::R), view, y)
        };
        let args = vec![Arg::Read(view), Arg::Write(y)];
        self.emit(OpKind::Gather, DType::F32, params, args)
    }

    /// Parts that were not written in place are copied there.
    fn concat(&mut self, inputs: &[ValueId], y: View) -> hadal_device::Result<()> {
        let mut first = 0;
        for &part in inputs {
            let x = self.view(part)?;
            if !self.destinations.contains_key(&part) {
                let to = y.slice(first, x.width);
                let params = Params {
                    n: x.width,
                    heads: x.heads,
                    ..xy(self.row_params(self.rows_of(part)), x, to)
                };
                self.emit(
                    OpKind::Copy,
                    DType::F32,
                    params,
                    vec![Arg::Read(x), Arg::Write(to)],
                )?;
            }
            first += x.width;
        }
        Ok(())
    }

    /// The router: scores, groups and choice (section 2.1.2).
    fn route(
        &mut self,
        value: ValueId,
        inputs: &[ValueId],
        rule: &RouteRule,
    ) -> hadal_device::Result<Value> {
        let logits = self.flat_view(inputs[0])?;
        let rows = self.row_params(self.rows_of(value));
        let bytes = 4 * u64::from(rows.rows) * u64::from(rule.top_k);
        let idx = View::dense(self.scratch.add(bytes), 1, rule.top_k);
        let weight = View::dense(self.scratch.add(bytes), 1, rule.top_k);
        let mut flags = 0;
        for (on, flag) in [
            (rule.softmax, flags::SOFTMAX),
            (rule.group_max, flags::GROUP_MAX),
            (rule.normalise, flags::NORMALISE),
            (inputs.len() > 1, flags::BIAS),
        ] {
            flags |= if on { flag } else { 0 };
        }
        let params = Params {
            n: rule.experts,
            experts: rule.experts,
            groups: rule.groups,
            kept_groups: rule.kept_groups,
            top_k: rule.top_k,
            scale: rule.scale,
            flags,
            ..xy(rows, logits, idx)
        };
        let mut args = vec![Arg::Read(logits)];
        let mut dtype = DType::F32;
        if let Some(&bias) = inputs.get(1) {
            let (placed, piece) = self.whole(bias)?;
            dtype = placed.dtype;
            args.push(Arg::Bind(self.piece_bind(&piece)));
        }
        args.extend([Arg::Write(idx), Arg::Write(weight)]);
        self.emit(OpKind::Route, dtype, params, args)?;
        Ok(Value::Route { idx, weight })
    }

    /// A view with its heads joined.
    pub(super) fn flat_view(&self, value: ValueId) -> hadal_device::Result<View> {
        let flat = self.view(value)?.flat();
        flat.ok_or_else(|| invalid(format!("heads read at {} do not touch", self.scope)))
    }
}

/// How values are quantised into `y`.
fn quantised(y: View, scale: ActScale) -> u32 {
    y.flags()
        | match scale {
            ActScale::Ue8m0 => flags::UE8M0,
            ActScale::F32 => 0,
        }
}

/// Fills in where `x` and `y` lie.
pub(super) fn xy(params: Params, x: View, y: View) -> Params {
    Params {
        x_offset: x.offset,
        x_stride: x.row_stride,
        x_head_stride: x.head_stride,
        y_offset: y.offset,
        y_stride: y.row_stride,
        y_head_stride: y.head_stride,
        ..params
    }
}
