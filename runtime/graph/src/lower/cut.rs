//! Cuts dispatches that would run too long, along axes that every kernel has: weight rows,
//! heads, experts. Each piece writes its own part of the output.
//!
//! Decides where; how much is too much is the request's [`super::WorkLimit`].

use hadal_device::{Bind, DType, OpKind, Params, Problem, SCALE_BLOCK, table_stride};

use super::work::work;
use super::{Arg, Lower};

/// Heads that kernels work on together: more than so many are cut in multiples of it.
const HEAD_BLOCK: u32 = 4;

/// A piece of a dispatch.
pub(super) struct Piece {
    pub params: Params,
    pub args: Vec<Arg>,
}

/// The axis of an operation.
enum Axis {
    /// Rows of the weights at these places among the arguments.
    WeightRows(Vec<usize>),
    /// Heads; the weight at this place has some rows for each.
    Heads(Option<usize>),
    /// Entries of all tables.
    Experts,
}

impl Lower<'_> {
    /// The pieces of a dispatch: one, unless it is too long and can be cut.
    pub(super) fn cut(&self, problem: &Problem, args: Vec<Arg>) -> Vec<Piece> {
        let params = problem.params;
        let whole = |args| vec![Piece { params, args }];
        let Some(limit) = self.request.limit else {
            return whole(args);
        };
        let pieces = work(problem)
            .at(limit.positions)
            .div_ceil(limit.units.max(1));
        let axis = axis(problem).filter(|axis| pieces > 1 && !is_made(axis, &args));
        let Some(axis) = axis else {
            return whole(args);
        };
        let total = match &axis {
            Axis::WeightRows(_) => params.row_count,
            Axis::Heads(_) => params.heads,
            Axis::Experts => params.expert_count,
        };
        let step = u32::try_from(u64::from(total) / pieces).unwrap_or(total);
        let unit = match &axis {
            Axis::WeightRows(_) => self.row_unit(problem),
            Axis::Heads(Some(_)) => self.head_unit(problem),
            Axis::Heads(None) if step >= HEAD_BLOCK => HEAD_BLOCK,
            Axis::Heads(None) => 1,
            Axis::Experts => self.expert_unit(problem.weight, &args),
        };
        let step = (step / unit * unit).max(unit);
        if step >= total {
            return whole(args);
        }
        let firsts = (0..total).step_by(step as usize);
        firsts
            .map(|first| part(problem, &axis, &args, first, step.min(total - first)))
            .collect()
    }

    /// Rows between which a weight may be cut: blocks of scales stay whole, pieces begin
    /// where a binding may.
    fn row_unit(&self, problem: &Problem) -> u32 {
        let row_bytes = problem.weight.row_bytes(problem.params.k.into());
        let begins = |rows: u32| self.may_begin(u64::from(rows) * row_bytes);
        doubled(SCALE_BLOCK, begins)
    }

    /// Heads between which an operation with weights for each may be cut.
    fn head_unit(&self, problem: &Problem) -> u32 {
        let p = &problem.params;
        let row_bytes = problem.weight.row_bytes(p.latent.into());
        let scale_bytes = 4 * u64::from(p.latent.div_ceil(SCALE_BLOCK));
        let fp8 = problem.weight == DType::F8E4M3;
        doubled(1, |heads| {
            let rows = u64::from(heads) * u64::from(p.head_rows);
            let block = u64::from(SCALE_BLOCK);
            let scales_begin =
                rows.is_multiple_of(block) && self.may_begin(rows / block * scale_bytes);
            self.may_begin(rows * row_bytes) && (!fp8 || scales_begin)
        })
    }

    /// Entries between which tables may be cut: any where each is found by its address.
    fn expert_unit(&self, weight: DType, args: &[Arg]) -> u32 {
        let strides = args.iter().filter_map(|arg| match arg {
            Arg::Table(entries) => table_stride(entries),
            _ => None,
        });
        let strides: Vec<u64> = strides.collect();
        let begins = |entries: u32| {
            let begins = |stride: &u64| self.may_begin(u64::from(entries) * stride);
            strides.iter().all(begins)
        };
        match self.info.features.scatters(weight) {
            true => 1,
            false => doubled(1, begins),
        }
    }

    /// Whether this is a table that cannot be bound as one range.
    pub(super) fn is_scattered(&self, arg: &Arg) -> bool {
        let (Arg::Table(entries), limits) = (arg, &self.info.limits) else {
            return false;
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return false;
        };
        let is_one_range = self.may_begin(first.offset)
            && table_stride(entries).is_some_and(|stride| {
                stride.is_multiple_of(4)
                    && last.offset + last.bytes - first.offset <= limits.max_binding_bytes
            });
        !is_one_range
    }

    /// Whether an operand may begin so many bytes after another one.
    fn may_begin(&self, bytes: u64) -> bool {
        bytes.is_multiple_of(self.info.limits.offset_align.max(1))
    }
}

/// The first of `unit`, twice it, four times it, ... that will do; more than there is of
/// anything where none does.
fn doubled(unit: u32, will_do: impl Fn(u32) -> bool) -> u32 {
    let mut units = (0..16).map(|shift| unit << shift);
    units.find(|unit| will_do(*unit)).unwrap_or(u32::MAX)
}

fn axis(problem: &Problem) -> Option<Axis> {
    // An FP8 weight is followed by its scales.
    let scaled = usize::from(problem.weight == DType::F8E4M3);
    Some(match problem.op {
        OpKind::Linear => Axis::WeightRows(vec![1]),
        OpKind::GateUp => Axis::WeightRows(vec![1, 2 + scaled]),
        OpKind::NormLinear => Axis::WeightRows(vec![2]),
        OpKind::HeadLinear => Axis::Heads(Some(1)),
        OpKind::AttendLatent | OpKind::AttendPart => Axis::Heads(None),
        OpKind::AttendExpanded => Axis::Heads(Some(2)),
        // Rows of other experts are left alone.
        OpKind::GroupedLinear
        | OpKind::GroupedGateUp
        | OpKind::ExpertLinear
        | OpKind::ExpertGateUp => Axis::Experts,
        _ => return None,
    })
}

/// Whether the weight of each head is a temporary, which is bound whole.
fn is_made(axis: &Axis, args: &[Arg]) -> bool {
    matches!(axis, Axis::Heads(Some(weight)) if matches!(args[*weight], Arg::Read(_)))
}

/// `count` units of the axis from `first` on.
fn part(problem: &Problem, axis: &Axis, args: &[Arg], first: u32, count: u32) -> Piece {
    let mut params = problem.params;
    let mut args = args.to_vec();
    match axis {
        Axis::WeightRows(weights) => {
            params.row_first += first;
            params.row_count = count;
            let row_bytes = problem.weight.row_bytes(params.k.into());
            for &weight in weights {
                slice(&mut args[weight], row_bytes, first, count);
            }
        }
        Axis::Heads(weight) => {
            params.heads = count;
            params.x_offset += first * params.x_head_stride;
            params.y_offset += first * params.y_head_stride;
            if problem.op == OpKind::AttendPart {
                // The sums: two numbers for each part of a head.
                params.b_offset += first * params.n * 2;
            }
            if let Some(weight) = *weight {
                let row_bytes = problem.weight.row_bytes(params.latent.into());
                let rows = params.head_rows;
                params.row_count = count * rows;
                slice(&mut args[weight], row_bytes, first * rows, count * rows);
                if problem.weight == DType::F8E4M3 {
                    let scale_bytes = 4 * u64::from(params.latent.div_ceil(SCALE_BLOCK));
                    let blocks = |rows: u32| rows.div_ceil(SCALE_BLOCK);
                    let (first, count) = (blocks(first * rows), blocks(count * rows));
                    slice(&mut args[weight + 1], scale_bytes, first, count);
                }
            }
        }
        Axis::Experts => {
            params.expert_first += first;
            params.expert_count = count;
            for arg in &mut args {
                if let Arg::Table(entries) = arg {
                    *entries = entries[first as usize..][..count as usize].to_vec();
                }
            }
        }
    }
    Piece { params, args }
}

/// Rows `first .. first + count` of a bound matrix.
fn slice(arg: &mut Arg, row_bytes: u64, first: u32, count: u32) {
    if let Arg::Bind(bind) = arg {
        *bind = Bind {
            offset: bind.offset + u64::from(first) * row_bytes,
            bytes: u64::from(count) * row_bytes,
            ..*bind
        };
    }
}
