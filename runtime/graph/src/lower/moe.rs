//! The MoE dispatch, once, for every device (report, section 2.1.2).
//!
//! Few tokens: each choice looks its expert up. Many: choices are sorted by expert, so that
//! an expert's weights are read once. Three parts that share nothing but views, so that a
//! later pass can run the middle one elsewhere: which rows there are (`arrange`), the
//! experts' own products (`expert_rows`), and the sum (`combine`). A table that does not fit
//! one binding comes in chunks of experts; each chunk is a dispatch that writes the rows of
//! its own experts.

use hadal_device::{DType, Error, OpKind, Params, Problem, coded_words, flags};
use hadal_weights::{PlacedTable, TableChunk};

use super::{Arg, Lower, MoeForm, Value, View, invalid, node::xy};
use crate::{ActScale, ValueId};

/// Up to this many tokens a step each choice looks its expert up. Below it most experts have
/// one token at most, and sorting costs more than it saves.
const DIRECT_MAX_TOKENS: u32 = 4;

/// Rows the experts work on.
#[derive(Clone, Copy)]
enum Rows {
    /// `idx[r * top_k + j]` names the expert of row `r * top_k + j`.
    Direct { idx: View },
    /// Expert `e` owns rows `offsets[e] .. offsets[e + 1]`; `place` finds a choice's row.
    Grouped { offsets: View, place: View },
}

impl Lower<'_> {
    /// `inputs` are x, route, gate, up, down, base of `Op::Experts`.
    pub(super) fn experts(
        &mut self,
        inputs: &[ValueId],
        quantise: Option<ActScale>,
        y: View,
    ) -> hadal_device::Result<()> {
        let Value::Route { idx, weight } = self.values[inputs[1].0 as usize].clone() else {
            return Err(invalid("experts without a route".to_string()));
        };
        let top_k = idx.width;
        let tokens = Params {
            top_k,
            ..self.row_params(self.rows_of(inputs[0]))
        };
        let mut x = self.flat_view(inputs[0])?;
        let tables = [
            self.placed_table(inputs[2])?,
            self.placed_table(inputs[3])?,
            self.placed_table(inputs[4])?,
        ];
        if let Some(scale) = quantise {
            let coded = self.experts_take_codes(&tables, tokens);
            let quantised = self.temporary(tokens.rows, x.width).coded(coded);
            self.act_quant(x, quantised, scale, tokens)?;
            x = quantised;
        }
        let (x, rows) = self.arrange(x, idx, tables[0].shape[0], tokens)?;
        let out = self.expert_rows(x, rows, &tables, tokens, quantise)?;
        let base = self.flat_view(inputs[5])?;
        self.combine(out, rows, weight, base, tokens, y)
    }

    fn placed_table(&self, value: ValueId) -> hadal_device::Result<PlacedTable> {
        let name = self.weight_name(value)?;
        self.weights
            .table(name)
            .cloned()
            .ok_or_else(|| invalid(format!("{name} was not placed")))
    }

    /// Whether each choice looks its expert up.
    fn is_direct(&self, tokens: Params) -> bool {
        match self.request.moe {
            MoeForm::Auto => tokens.rows <= DIRECT_MAX_TOKENS,
            MoeForm::Direct => true,
            MoeForm::Grouped => false,
        }
    }

    /// Whether the products of sorted choices run on codes, all of them.
    fn experts_take_codes(&self, tables: &[PlacedTable; 3], tokens: Params) -> bool {
        let [gate, up, down] = tables;
        if self.is_direct(tokens) || gate.dtype != up.dtype {
            return false;
        }
        [(OpKind::GroupedGateUp, gate), (OpKind::GroupedLinear, down)]
            .into_iter()
            .all(|(op, table)| {
                let [experts, n, k] = table.shape;
                table.chunks.iter().all(|chunk| {
                    self.runs(&Problem {
                        op,
                        weight: table.dtype,
                        params: Params {
                            n,
                            k,
                            experts,
                            expert_first: chunk.expert_first,
                            expert_count: chunk.entries.len() as u32,
                            x_stride: k,
                            y_stride: n,
                            flags: flags::CODED,
                            ..choice_rows(tokens)
                        },
                    })
                })
            })
    }

    /// Decides the form and sorts the choices where it pays.
    fn arrange(
        &mut self,
        x: View,
        idx: View,
        experts: u32,
        tokens: Params,
    ) -> hadal_device::Result<(View, Rows)> {
        if self.is_direct(tokens) {
            return Ok((x, Rows::Direct { idx }));
        }
        let choices = tokens.rows * tokens.top_k;
        let offsets = self.indices(experts + 1);
        let order = self.indices(choices);
        let place = self.indices(choices);
        let params = Params {
            experts,
            n: tokens.top_k,
            ..xy(tokens, idx, order)
        };
        let args = vec![
            Arg::Read(idx),
            Arg::Write(offsets),
            Arg::Write(order),
            Arg::Write(place),
        ];
        self.emit(OpKind::ExpertOffsets, DType::F32, params, args)?;
        let rows = self.temporary(choices, x.width).coded(x.coded);
        let params = Params {
            n: match x.coded {
                true => coded_words(x.width),
                false => x.width,
            },
            ..xy(choice_rows(tokens), x, rows)
        };
        let args = vec![Arg::Read(x), Arg::Read(order), Arg::Write(rows)];
        self.emit(OpKind::Permute, DType::F32, params, args)?;
        Ok((rows, Rows::Grouped { offsets, place }))
    }

    /// Gate, up and down projection of every choice: `[rows * top_k, H]`.
    fn expert_rows(
        &mut self,
        x: View,
        rows: Rows,
        [gate, up, down]: &[PlacedTable; 3],
        tokens: Params,
        quantise: Option<ActScale>,
    ) -> hadal_device::Result<View> {
        let choices = tokens.rows * tokens.top_k;
        let mut act = self.temporary(choices, gate.shape[1]);
        if gate.dtype == up.dtype {
            self.expert_product(x, rows, &[gate, up], tokens, true, act)?;
        } else {
            let (g, u) = (act, self.temporary(choices, up.shape[1]));
            self.expert_product(x, rows, &[gate], tokens, true, g)?;
            self.expert_product(x, rows, &[up], tokens, true, u)?;
            act = self.temporary(choices, gate.shape[1]);
            self.swiglu_rows(choice_rows(tokens), g, u, act)?;
        }
        if let Some(scale) = quantise {
            let quantised = self.temporary(choices, act.width).coded(x.coded);
            self.act_quant(act, quantised, scale, choice_rows(tokens))?;
            act = quantised;
        }
        let out = self.temporary(choices, down.shape[1]);
        self.expert_product(act, rows, &[down], tokens, false, out)?;
        Ok(out)
    }

    /// One product with one table, or gate and up together with two. `from_tokens`: in the
    /// direct form the input has one row a token.
    fn expert_product(
        &mut self,
        x: View,
        rows: Rows,
        tables: &[&PlacedTable],
        tokens: Params,
        from_tokens: bool,
        y: View,
    ) -> hadal_device::Result<()> {
        let (op, index, flags) = match (rows, tables.len()) {
            (Rows::Direct { idx }, 1) => (OpKind::ExpertLinear, idx, from_tokens),
            (Rows::Direct { idx }, _) => (OpKind::ExpertGateUp, idx, from_tokens),
            (Rows::Grouped { offsets, .. }, 1) => (OpKind::GroupedLinear, offsets, false),
            (Rows::Grouped { offsets, .. }, _) => (OpKind::GroupedGateUp, offsets, false),
        };
        let [experts, n, k] = tables[0].shape;
        for chunk in 0..tables[0].chunks.len() {
            let first = &tables[0].chunks[chunk];
            let params = Params {
                n,
                k,
                experts,
                expert_first: first.expert_first,
                expert_count: first.entries.len() as u32,
                flags: x.flags() | if flags { flags::ROW_PER_TOKEN } else { 0 },
                ..xy(choice_rows(tokens), x, y)
            };
            let mut args = vec![Arg::Read(x), Arg::Read(index)];
            for table in tables {
                let part = matching_chunk(table, chunk, first)?;
                for entries in [&part.entries, &part.scales] {
                    if entries.is_empty() {
                        continue;
                    }
                    let binds = entries.iter().map(|entry| self.piece_bind(entry));
                    args.push(Arg::Table(binds.collect()));
                }
            }
            args.push(Arg::Write(y));
            self.emit(op, tables[0].dtype, params, args)?;
        }
        Ok(())
    }

    /// The weighted sum of each token's experts, on top of `base`.
    fn combine(
        &mut self,
        out: View,
        rows: Rows,
        weight: View,
        base: View,
        tokens: Params,
        y: View,
    ) -> hadal_device::Result<()> {
        let (place, flags) = match rows {
            Rows::Direct { idx } => (idx, 0),
            Rows::Grouped { place, .. } => (place, flags::PLACED),
        };
        let params = Params {
            n: y.width,
            flags,
            b_offset: base.offset,
            b_stride: base.row_stride,
            ..xy(tokens, out, y)
        };
        let args = vec![
            Arg::Read(out),
            Arg::Read(weight),
            Arg::Read(place),
            Arg::Read(base),
            Arg::Write(y),
        ];
        self.emit(OpKind::Combine, DType::F32, params, args)
    }
}

/// Rows counted in choices instead of tokens.
fn choice_rows(tokens: Params) -> Params {
    Params {
        rows: tokens.rows * tokens.top_k,
        count_scale: tokens.top_k,
        ..tokens
    }
}

/// Gate and up tables have the same shape and so are cut alike.
fn matching_chunk<'t>(
    table: &'t PlacedTable,
    index: usize,
    like: &TableChunk,
) -> hadal_device::Result<&'t TableChunk> {
    table
        .chunks
        .get(index)
        .filter(|c| c.expert_first == like.expert_first && c.entries.len() == like.entries.len())
        .ok_or_else(|| Error::Invalid("tables of one layer are cut differently".to_string()))
}
