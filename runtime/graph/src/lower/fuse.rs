//! Nodes that one dispatch does together, where a device has a kernel row for that.
//!
//! Decides which nodes are passed over because a later one does their work: a norm whose
//! readers are all linears, one that is quantised, and what makes a row of the latent cache. A node whose value is
//! read elsewhere, or is an output, stays.

use hadal_device::{DType, Inputs, OpKind, Params, Problem, flags, select};

use super::{Arg, Lower, Value, View, last_dim, node::xy};
use crate::{Node, Op, ValueId};

/// Up to this many rows a norm is done anew for each output of the linear behind it, which
/// reads the row anyway; above it a dispatch of its own costs less.
const FUSED_NORM_MAX_ROWS: u32 = 4;

/// What a row of the cache is made of: `[norm(x[..latent]), rope(x[latent..])]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheRow {
    x: ValueId,
    norm: ValueId,
    eps: f32,
    latent: u32,
    rope: u32,
    layer: u32,
}

impl Lower<'_> {
    /// Parts of a concatenation that are made by a kernel and read by nobody else need no
    /// copy: their kernel writes into the concatenation.
    pub(super) fn find_destinations(&mut self) {
        let uses = self.graph.uses();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            if node.op != Op::Concat {
                continue;
            }
            let mut first = 0;
            for &part in &node.inputs {
                let made = self.graph.node(part);
                let kernel = matches!(
                    made.op,
                    Op::Norm { .. } | Op::Rope | Op::HeadLinear { .. } | Op::Linear
                );
                if kernel && uses[part.0 as usize] == 1 {
                    self.destinations
                        .insert(part, (ValueId(index as u32), first));
                }
                first += last_dim(made);
            }
        }
    }

    pub(super) fn runs(&self, problem: &Problem) -> bool {
        select(self.table, self.info, problem).is_ok()
    }

    /// Cache rows that one dispatch can make; the nodes in between have no kernels then.
    pub(super) fn find_cache_rows(&mut self) {
        let graph = self.graph;
        let uses = graph.uses();
        for (index, node) in graph.nodes.iter().enumerate() {
            let Op::CacheAppend { layer } = node.op else {
                continue;
            };
            let Some((row, inner)) = self.cache_row(node, layer, &uses) else {
                continue;
            };
            let weight = match graph.node(row.norm).op {
                Op::Weight { dtype, .. } => dtype,
                _ => continue,
            };
            let problem = Problem {
                op: OpKind::LatentAppend,
                weight,
                params: self.cache_row_params(&row),
            };
            if self.runs(&problem) {
                self.cache_rows.insert(ValueId(index as u32), row);
                self.passed_over.extend(inner);
            }
        }
    }

    /// The row that `append` writes, and the nodes between its projection and the cache, if
    /// nothing else reads these.
    fn cache_row(
        &self,
        append: &Node,
        layer: u32,
        uses: &[u32],
    ) -> Option<(CacheRow, [ValueId; 3])> {
        let own =
            |value: ValueId| (uses[value.0 as usize] == 1).then(|| (value, self.graph.node(value)));
        let (
            concat,
            Node {
                op: Op::Concat,
                inputs,
                ..
            },
        ) = own(append.inputs[0])?
        else {
            return None;
        };
        let &[latent, key] = &inputs[..] else {
            return None;
        };
        let ((latent, normed), (key, rotated)) = (own(latent)?, own(key)?);
        let (Op::Norm { eps }, Op::Rope) = (&normed.op, &rotated.op) else {
            return None;
        };
        let (from, first, width) = self.slice_of(normed.inputs[0])?;
        let (key_from, key_first, rope) = self.slice_of(rotated.inputs[0])?;
        let touch = from == key_from && first == 0 && key_first == width;
        let whole = last_dim(self.graph.node(from)) == width + rope;
        let row = CacheRow {
            x: from,
            norm: normed.inputs[1],
            eps: *eps,
            latent: width,
            rope,
            layer,
        };
        (touch && whole).then_some((row, [concat, latent, key]))
    }

    fn slice_of(&self, value: ValueId) -> Option<(ValueId, u32, u32)> {
        let node = self.graph.node(value);
        match node.op {
            Op::Slice { first, count } => Some((node.inputs[0], first, count)),
            _ => None,
        }
    }

    fn cache_row_params(&self, row: &CacheRow) -> Params {
        Params {
            n: row.latent + row.rope,
            latent: row.latent,
            rope: row.rope,
            eps: row.eps,
            ..self.row_params(self.rows_of(row.x))
        }
    }

    pub(super) fn latent_append(&mut self, row: CacheRow) -> hadal_device::Result<Value> {
        let x = self.flat_view(row.x)?;
        let (placed, piece) = self.whole(row.norm)?;
        let params = xy(self.cache_row_params(&row), x, x);
        let args = vec![
            Arg::Read(x),
            Arg::Bind(self.piece_bind(&piece)),
            Arg::Bind(self.rope_bind(row.rope)),
            Arg::Bind(self.cache_bind(row.layer, params.n, hadal_device::Access::Write)),
        ];
        self.emit(OpKind::LatentAppend, placed.dtype, params, args)?;
        Ok(Value::Cache(row.layer))
    }

    /// The nodes that read `value`; `None` if somebody outside the graph does, too.
    fn readers(&self, value: ValueId) -> Option<Vec<&Node>> {
        let outputs = &self.graph.outputs;
        let is_output = outputs.iter().any(|(_, output)| *output == value);
        let nodes = self.graph.nodes.iter();
        let readers = nodes.filter(|node| node.inputs.contains(&value));
        (!is_output).then(|| readers.collect())
    }

    /// Whether every reader of the norm `value` is a linear that can do the norm itself.
    pub(super) fn norm_is_fused(&self, value: ValueId) -> hadal_device::Result<bool> {
        let graph = self.graph;
        let (x, norm) = match graph.node(value).inputs[..] {
            [x, norm] => (self.flat_view(x)?, norm),
            _ => return Ok(false),
        };
        let Some(readers) = self.readers(value) else {
            return Ok(false);
        };
        let Op::Norm { eps } = graph.node(value).op else {
            return Ok(false);
        };
        let Some(params) = self.norm_linear_params(value, x, norm, eps)? else {
            return Ok(false);
        };
        for reader in readers {
            let (Op::Linear, [_, w]) = (&reader.op, &reader.inputs[..]) else {
                return Ok(false);
            };
            let Op::Weight { name, .. } = &graph.node(*w).op else {
                return Ok(false);
            };
            let Some(weight) = self.weights.matrix(name) else {
                return Ok(false);
            };
            let fits = weight.pieces.iter().all(|piece| {
                self.runs(&Problem {
                    op: OpKind::NormLinear,
                    weight: weight.dtype,
                    params: Params {
                        row_count: piece.row_count,
                        ..params
                    },
                })
            });
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the norm `value` is read by nothing but an `ActQuant` that can do the norm itself.
    pub(super) fn norm_is_quantised(&self, value: ValueId) -> hadal_device::Result<bool> {
        let node = self.graph.node(value);
        match self.readers(value).as_deref() {
            Some([reader]) if matches!(reader.op, Op::ActQuant(_)) => {}
            _ => return Ok(false),
        }
        let x = self.flat_view(node.inputs[0])?;
        Ok(self.runs(&Problem {
            op: OpKind::NormQuant,
            weight: self.placed(node.inputs[1])?.dtype,
            params: Params {
                n: x.width,
                ..xy(self.row_params(self.rows_of(value)), x, x)
            },
        }))
    }

    /// Whether every reader of the quantised activation `value`, which lies at `x`, multiplies
    /// codes as they are: then it is made as codes.
    pub(super) fn readers_take_codes(&self, value: ValueId, x: View) -> hadal_device::Result<bool> {
        let graph = self.graph;
        let Some(readers) = self.readers(value) else {
            return Ok(false);
        };
        for reader in readers {
            let (op, added, weights) = match (&reader.op, &reader.inputs[..]) {
                (Op::Linear, [_, w]) => (OpKind::Linear, 0, vec![*w]),
                (Op::LinearAdd, [_, w, added]) if *added != value => {
                    (OpKind::Linear, flags::RESIDUAL, vec![*w])
                }
                (Op::GateUp, [_, gate, up]) => (OpKind::GateUp, 0, vec![*gate, *up]),
                _ => return Ok(false),
            };
            for weight in weights {
                // A reader comes later, so its weight may have no value yet.
                let Op::Weight { name, .. } = &graph.node(weight).op else {
                    return Ok(false);
                };
                let Some(weight) = self.weights.matrix(name) else {
                    return Ok(false);
                };
                let runs = weight.pieces.iter().all(|piece| {
                    self.runs(&Problem {
                        op,
                        weight: weight.dtype,
                        params: Params {
                            k: x.width,
                            row_first: piece.row_first,
                            row_count: piece.row_count,
                            flags: flags::CODED | added,
                            ..xy(self.row_params(self.rows_of(value)), x, x)
                        },
                    })
                });
                if !runs {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What all pieces of all readers of the norm `value` share; `None` if its rows are too
    /// many or its weight `norm` has a format that the fused operation does not know.
    fn norm_linear_params(
        &self,
        value: ValueId,
        x: View,
        norm: ValueId,
        eps: f32,
    ) -> hadal_device::Result<Option<Params>> {
        let rows = self.row_params(self.rows_of(value));
        let flags = match self.placed(norm)?.dtype {
            DType::F32 => 0,
            DType::Bf16 => flags::NORM_BF16,
            _ => return Ok(None),
        };
        let few = rows.rows <= FUSED_NORM_MAX_ROWS && rows.count_word != Inputs::LOGIT_ROWS;
        Ok(few.then_some(Params {
            k: x.width,
            eps,
            flags,
            ..xy(rows, x, x)
        }))
    }

    /// A linear `w` of the norm `value`, which was passed over.
    pub(super) fn norm_linear(
        &mut self,
        value: ValueId,
        w: ValueId,
        y: View,
    ) -> hadal_device::Result<()> {
        let node = self.graph.node(value);
        let (Op::Norm { eps }, &[x, norm]) = (&node.op, &node.inputs[..]) else {
            return Err(super::invalid(format!("{value:?} is no norm")));
        };
        let x = self.flat_view(x)?;
        let shared = self.norm_linear_params(value, x, norm, *eps)?;
        let shared = shared.ok_or_else(|| super::invalid(format!("{value:?} cannot be fused")))?;
        let (_, norm) = self.whole(norm)?;
        let placed = self.placed(w)?;
        for piece in &placed.pieces {
            let params = Params {
                n: y.width,
                row_first: piece.row_first,
                row_count: piece.row_count,
                y_offset: y.offset,
                y_stride: y.row_stride,
                y_head_stride: y.head_stride,
                ..shared
            };
            let mut args = vec![Arg::Read(x), Arg::Bind(self.piece_bind(&norm))];
            self.weight_args(piece, placed.scale, &mut args);
            args.push(Arg::Write(y));
            self.emit(OpKind::NormLinear, placed.dtype, params, args)?;
        }
        Ok(())
    }
}
