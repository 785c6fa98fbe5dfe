//! Rotary embedding, the latent cache and attention in both forms (report, section 2.1.1).

use hadal_device::{Access, Bind, DType, DeviceKind, OpKind, Params, Problem, Slot, flags};

use super::{Arg, Lower, SlotUse, Value, View, invalid, node::xy};
use crate::ValueId;
use crate::passes::unpacking;

/// Rows, heads and parts of split attention, multiplied: with 32 heads a workgroup some 256
/// of them, two on each multiprocessor of the largest GPUs, and 17 MB of scratch at a latent
/// of 512.
const MAX_PARTIALS: u64 = 8192;

/// Parts of all rows where threads of a processor share them: each costs sums to write and to
/// read.
const MAX_THREAD_PARTS: u32 = 32;

/// Positions a part has at least: two tiles, a page.
const MIN_PART: u32 = 64;

impl Lower<'_> {
    pub(super) fn rope(&mut self, x: ValueId, y: View) -> hadal_device::Result<()> {
        let rows = self.row_params(self.rows_of(x));
        let view = self.view(x)?;
        let params = Params {
            n: view.width,
            rope: view.width,
            heads: view.heads,
            ..xy(rows, view, y)
        };
        let table = self.rope_bind(view.width);
        let args = vec![Arg::Read(view), Arg::Bind(table), Arg::Write(y)];
        self.emit(OpKind::Rope, DType::F32, params, args)
    }

    /// The rotary table for heads of `width` rotated values.
    pub(super) fn rope_bind(&mut self, width: u32) -> Bind {
        Bind {
            slot: self.slot(SlotUse::RopeTable),
            offset: 0,
            bytes: 4 * u64::from(self.request.context) * u64::from(width),
            access: Access::Read,
        }
    }

    pub(super) fn cache_bind(&mut self, layer: u32, width: u32, access: Access) -> Bind {
        let slot: Slot = self.slot(SlotUse::Cache(layer));
        Bind {
            slot,
            offset: 0,
            bytes: 4 * u64::from(self.request.cache_rows) * u64::from(width),
            access,
        }
    }

    /// `append` writes `key` to the cache, or makes the row itself.
    pub(super) fn cache_append(
        &mut self,
        append: ValueId,
        key: ValueId,
        layer: u32,
    ) -> hadal_device::Result<Value> {
        if let Some(&row) = self.cache_rows.get(&append) {
            return self.latent_append(row);
        }
        let rows = self.row_params(self.rows_of(key));
        let x = self.flat_view(key)?;
        let params = Params {
            n: x.width,
            ..xy(rows, x, x)
        };
        let cache = self.cache_bind(layer, x.width, Access::Write);
        let args = vec![Arg::Read(x), Arg::Bind(cache)];
        self.emit(OpKind::CacheAppend, DType::F32, params, args)?;
        Ok(Value::Cache(layer))
    }

    /// The layer of a cache value and the width of its rows.
    fn cache(&self, value: ValueId) -> hadal_device::Result<(u32, u32)> {
        match self.values[value.0 as usize] {
            Value::Cache(layer) => Ok((layer, super::last_dim(self.graph.node(value)))),
            ref other => Err(invalid(format!("{other:?} is no cache"))),
        }
    }

    pub(super) fn attend_latent(
        &mut self,
        inputs: &[ValueId],
        scale: f32,
        latent: u32,
        y: View,
    ) -> hadal_device::Result<()> {
        let rows = self.row_params(self.rows_of(inputs[0]));
        let q = self.view(inputs[0])?;
        let (layer, width) = self.cache(inputs[1])?;
        let cache = self.cache_bind(layer, width, Access::Read);
        let params = Params {
            heads: q.heads,
            latent,
            rope: width - latent,
            scale,
            n: latent,
            k: width,
            ..xy(rows, q, y)
        };
        if let Some(split) = self.split(params) {
            return self.attend_parts(q, cache, y, split);
        }
        let args = vec![Arg::Read(q), Arg::Bind(cache), Arg::Write(y)];
        self.emit(OpKind::AttendLatent, DType::F32, params, args)
    }

    /// `AttendPart` in place of the attention `whole`, if the rows and heads alone are few
    /// and a kernel row takes the parts. The scratch it takes hangs on [`MAX_PARTIALS`], not
    /// on the context.
    fn split(&self, whole: Params) -> Option<Params> {
        let bound = self.info.limits.max_binding_bytes / (4 * u64::from(whole.latent.max(1)));
        let partials = bound.min(MAX_PARTIALS) as u32 / (whole.rows * whole.heads).max(1);
        let partials = match self.info.kind {
            DeviceKind::Cpu => partials.min(MAX_THREAD_PARTS / whole.rows.max(1)),
            _ => partials,
        };
        let parts = partials.min(self.request.context.div_ceil(MIN_PART));
        let params = Params {
            n: parts,
            k: MIN_PART,
            row_count: parts,
            y_offset: 0,
            y_head_stride: parts * whole.latent,
            y_stride: whole.heads * parts * whole.latent,
            b_offset: 0,
            b_stride: whole.heads * parts * 2,
            ..whole
        };
        let problem = Problem {
            op: OpKind::AttendPart,
            weight: DType::F32,
            params,
        };
        (parts >= 2 && self.runs(&problem)).then_some(params)
    }

    /// Attention in the parts of `split`, and their merge into `y`.
    fn attend_parts(
        &mut self,
        q: View,
        cache: Bind,
        y: View,
        split: Params,
    ) -> hadal_device::Result<()> {
        let heads = split.rows * split.heads;
        let mix = self.temporary(heads, split.n * split.latent);
        let sums = self.temporary(heads, split.n * 2);
        let args = vec![
            Arg::Read(q),
            Arg::Bind(cache),
            Arg::Write(mix),
            Arg::Write(sums),
        ];
        self.emit(OpKind::AttendPart, DType::F32, split, args)?;
        let params = Params {
            x_offset: split.y_offset,
            x_stride: split.y_stride,
            x_head_stride: split.y_head_stride,
            y_offset: y.offset,
            y_stride: y.row_stride,
            y_head_stride: y.head_stride,
            ..split
        };
        let args = vec![Arg::Read(mix), Arg::Read(sums), Arg::Write(y)];
        self.emit(OpKind::AttendMerge, DType::F32, params, args)
    }

    /// `shape` is softmax scale, `dn`, `dv`.
    pub(super) fn attend_expanded(
        &mut self,
        inputs: &[ValueId],
        (scale, nope, value): (f32, u32, u32),
        y: View,
    ) -> hadal_device::Result<()> {
        let rows = self.row_params(self.rows_of(inputs[0]));
        let q = self.view(inputs[0])?;
        let (layer, width) = self.cache(inputs[1])?;
        let rope = q.width - nope;
        let cache = self.cache_bind(layer, width, Access::Read);
        let params = Params {
            heads: q.heads,
            nope,
            rope,
            value,
            latent: width - rope,
            head_rows: nope + value,
            row_count: q.heads * (nope + value),
            scale,
            n: value,
            k: q.width,
            ..xy(rows, q, y)
        };
        let mut args = vec![Arg::Read(q), Arg::Bind(cache)];
        let dtype = match inputs[2..] {
            [k_b, v_b] => {
                args.push(Arg::Read(self.join(k_b, v_b, &params)?));
                DType::F32
            }
            _ => {
                let (placed, piece) = self.whole(inputs[2])?;
                self.weight_args(&piece, placed.scale, &mut args);
                placed.dtype
            }
        };
        args.push(Arg::Write(y));
        self.emit(OpKind::AttendExpanded, dtype, params, args)
    }

    /// The weights of keys (each head's transposed) and values as one, `[A * (dn + dv), dc]`, in
    /// a temporary: cheap beside what many tokens save by expanding.
    fn join(&mut self, k_b: ValueId, v_b: ValueId, p: &Params) -> hadal_device::Result<View> {
        let joined = self.temporary(p.row_count, p.latent);
        let parts = [
            (k_b, p.latent, flags::TRANSPOSED, 0),
            (v_b, p.value, 0, p.nope),
        ];
        for (weight, head_rows, flags, first) in parts {
            let (placed, piece) = self.whole(weight)?;
            let k = super::last_dim(self.graph.node(weight));
            let rows = p.heads * head_rows;
            let problem = unpacking(placed.dtype, [rows, k], p.heads, flags);
            let params = Params {
                y_offset: first * p.latent,
                y_stride: p.head_rows * p.latent,
                y_head_stride: p.latent,
                ..problem.params
            };
            let mut args = Vec::new();
            self.weight_args(&piece, placed.scale, &mut args);
            args.push(Arg::Write(joined));
            self.emit(problem.op, problem.weight, params, args)?;
        }
        Ok(joined)
    }
}
