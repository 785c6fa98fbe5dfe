//! Embedding, norm and the linear family. Matrices larger than a binding come in pieces of
//! rows; each piece is a dispatch that writes its own columns of the output.

use hadal_device::{DType, Error, OpKind, Params, flags};

use super::{Arg, Lower, View, node::xy};
use crate::ValueId;

impl Lower<'_> {
    pub(super) fn embed(&mut self, table: ValueId, y: View) -> hadal_device::Result<()> {
        let placed = self.placed(table)?;
        for piece in &placed.pieces {
            let params = Params {
                n: y.width,
                row_first: piece.row_first,
                row_count: piece.row_count,
                ..xy(self.row_params(crate::Dim::T), y, y)
            };
            let mut args = Vec::new();
            self.weight_args(piece, placed.scale, &mut args);
            args.push(Arg::Write(y));
            self.emit(OpKind::Embed, placed.dtype, params, args)?;
        }
        Ok(())
    }

    /// A `Norm`, or a `NormQuant` with its flags: their operands are the same.
    pub(super) fn norm(
        &mut self,
        (op, flags): (OpKind, u32),
        inputs: &[ValueId],
        eps: f32,
        y: View,
    ) -> hadal_device::Result<()> {
        let x = self.flat_view(inputs[0])?;
        let (placed, piece) = self.whole(inputs[1])?;
        let params = Params {
            n: x.width,
            eps,
            flags,
            ..xy(self.row_params(self.rows_of(inputs[0])), x, y)
        };
        let weight = Arg::Bind(self.piece_bind(&piece));
        let args = vec![Arg::Read(x), weight, Arg::Write(y)];
        self.emit(op, placed.dtype, params, args)
    }

    pub(super) fn linear(
        &mut self,
        x: ValueId,
        w: ValueId,
        residual: Option<ValueId>,
        y: View,
    ) -> hadal_device::Result<()> {
        if self.passed_over.contains(&x) {
            return self.norm_linear(x, w, y);
        }
        let rows = self.row_params(self.rows_of(x));
        let x = self.flat_view(x)?;
        let residual = residual.map(|value| self.flat_view(value)).transpose()?;
        let placed = self.placed(w)?;
        for piece in &placed.pieces {
            let params = Params {
                n: y.width,
                k: x.width,
                row_first: piece.row_first,
                row_count: piece.row_count,
                flags: x.flags()
                    | match residual {
                        Some(_) => flags::RESIDUAL,
                        None => 0,
                    },
                b_offset: residual.map_or(0, |view| view.offset),
                b_stride: residual.map_or(0, |view| view.row_stride),
                ..xy(rows, x, y)
            };
            let mut args = vec![Arg::Read(x)];
            self.weight_args(piece, placed.scale, &mut args);
            args.extend(residual.map(Arg::Read));
            args.push(Arg::Write(y));
            self.emit(OpKind::Linear, placed.dtype, params, args)?;
        }
        Ok(())
    }

    pub(super) fn gate_up(&mut self, inputs: &[ValueId], y: View) -> hadal_device::Result<()> {
        let rows = self.row_params(self.rows_of(inputs[0]));
        let x = self.flat_view(inputs[0])?;
        let (gate, up) = (self.placed(inputs[1])?, self.placed(inputs[2])?);
        if gate.dtype != up.dtype || gate.pieces.len() != up.pieces.len() {
            return Err(Error::Unsupported {
                what: format!("gate and up projection as one kernel at {}", self.scope),
                why: "the two weights have different formats".to_string(),
            });
        }
        for (gate_piece, up_piece) in gate.pieces.iter().zip(&up.pieces) {
            let params = Params {
                n: y.width,
                k: x.width,
                row_first: gate_piece.row_first,
                row_count: gate_piece.row_count,
                flags: x.flags(),
                ..xy(rows, x, y)
            };
            let mut args = vec![Arg::Read(x)];
            self.weight_args(gate_piece, gate.scale, &mut args);
            self.weight_args(up_piece, up.scale, &mut args);
            args.push(Arg::Write(y));
            self.emit(OpKind::GateUp, gate.dtype, params, args)?;
        }
        Ok(())
    }

    /// `slice` is transposed, head_rows, head_first, count of the operation.
    pub(super) fn head_linear(
        &mut self,
        inputs: &[ValueId],
        (transposed, head_rows, head_first, count): (bool, u32, u32, u32),
        y: View,
    ) -> hadal_device::Result<()> {
        let rows = self.row_params(self.rows_of(inputs[0]));
        let x = self.view(inputs[0])?;
        let (placed, piece) = self.whole(inputs[1])?;
        let latent = if transposed { y.width } else { x.width };
        debug_assert_eq!(if transposed { x.width } else { y.width }, count);
        let params = Params {
            n: y.width,
            k: x.width,
            heads: x.heads,
            latent,
            head_rows,
            head_first,
            row_count: piece.row_count,
            flags: if transposed { flags::TRANSPOSED } else { 0 },
            ..xy(rows, x, y)
        };
        let mut args = vec![Arg::Read(x)];
        self.weight_args(&piece, placed.scale, &mut args);
        args.push(Arg::Write(y));
        self.emit(OpKind::HeadLinear, placed.dtype, params, args)
    }

    /// A dense temporary of `rows` rows.
    pub(super) fn temporary(&mut self, rows: u32, width: u32) -> View {
        let bytes = 4 * u64::from(rows) * u64::from(width);
        View::dense(self.scratch.add(bytes), 1, width)
    }

    /// A temporary of unsigned numbers, in one row.
    pub(super) fn indices(&mut self, count: u32) -> View {
        View::dense(self.scratch.add(4 * u64::from(count)), 1, count)
    }

    /// `swiglu` over dense rows.
    pub(super) fn swiglu_rows(
        &mut self,
        rows: Params,
        gate: View,
        up: View,
        y: View,
    ) -> hadal_device::Result<()> {
        let params = Params {
            n: gate.width,
            b_offset: up.offset,
            b_stride: up.row_stride,
            ..xy(rows, gate, y)
        };
        let args = vec![Arg::Read(gate), Arg::Read(up), Arg::Write(y)];
        self.emit(OpKind::SwiGlu, DType::F32, params, args)
    }
}
