//! From a program as data to what WGSL kernels bind: checked ranges and the words of their
//! parameter blocks. The same for every backend that runs WGSL rows. Read [`resolve`] first.

use std::sync::Arc;

use hadal_device::{
    Bind, Dispatch, Error, Limits, Operand, PipelineId, Program, Result, Slot, Span, Step,
    table_stride,
};

use crate::wgsl::{Binding, PARAM_BYTES, TABLES};
use crate::wgsl_kernels::Kernel;

/// Buffers are made of words.
pub const WORD: u64 = 4;

/// A byte range of a slot, in whole words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Whose buffer.
    pub slot: Slot,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl Range {
    /// `bind` in whole words. One that ends a buffer may be odd; the buffer's true end is
    /// not.
    fn of(bind: &Bind) -> Result<Range> {
        if !bind.offset.is_multiple_of(WORD) {
            return Err(Error::Invalid(format!("{bind} does not begin with a word")));
        }
        let whole = bind.bytes.checked_next_multiple_of(WORD);
        Ok(Range {
            slot: bind.slot,
            offset: bind.offset,
            bytes: whole.ok_or_else(|| Error::Invalid(format!("{bind} is no range of a slot")))?,
        })
    }

    /// `Err` unless the range lies in a buffer of `bytes` bytes; `what` is for the message.
    fn check(&self, bytes: u64, what: &str) -> Result<()> {
        let end = self.offset.saturating_add(self.bytes);
        if end > bytes.next_multiple_of(WORD) {
            return Err(Error::Invalid(format!(
                "{what}: bytes {} .. +{} of slot {}, whose buffer has {bytes}",
                self.offset, self.bytes, self.slot.0
            )));
        }
        Ok(())
    }
}

/// `Err` unless `bind` is a range of one of `slots` slots.
fn check_bind(bind: &Bind, slots: u16) -> Result<()> {
    let end = bind.offset.checked_add(bind.bytes);
    if bind.slot.0 >= slots || bind.bytes == 0 || end.is_none() {
        return Err(Error::Invalid(format!("{bind} is no range of a slot")));
    }
    Ok(())
}

/// `Err` unless `length` host bytes are as many as `span` names, in a buffer of `bytes`.
pub fn check_span(span: Span, length: usize, bytes: u64) -> Result<()> {
    let end = span.offset.checked_add(span.bytes);
    if length as u64 != span.bytes || end.is_none_or(|end| end > bytes) {
        return Err(Error::Invalid(format!(
            "{length} host bytes for bytes {} .. +{} of a buffer of {bytes}",
            span.offset, span.bytes
        )));
    }
    Ok(())
}

/// `Err` unless `to` is made of words, or ends its buffer of `bytes` bytes.
pub fn check_write(to: Span, bytes: u64) -> Result<()> {
    let ends = to.offset + to.bytes == bytes;
    if !to.offset.is_multiple_of(WORD) || (!to.bytes.is_multiple_of(WORD) && !ends) {
        return Err(Error::Invalid(format!(
            "a write of {} bytes at {} is not made of words",
            to.bytes, to.offset
        )));
    }
    Ok(())
}

/// A table whose entries a kernel reads through their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Binding number of the list of addresses.
    pub binding: u32,
    /// The entries in order.
    pub entries: Vec<Range>,
}

/// A step that was checked against a device's limits.
pub enum Work<P> {
    /// Runs a kernel.
    Dispatch {
        /// The kernel.
        kernel: Arc<Kernel<P>>,
        /// Workgroups along each axis.
        groups: [u32; 3],
        /// Operands that are bound, in order.
        operands: Vec<Range>,
        /// Operands whose addresses are bound, in order, between the others.
        tables: Vec<Table>,
        /// Byte at which its parameters begin.
        params_at: u64,
        /// For messages.
        label: String,
    },
    /// Copies bytes.
    Copy {
        /// Source.
        from: Range,
        /// Destination, as long.
        to: Range,
    },
    /// Fills a range with one byte value.
    Fill {
        /// Destination.
        to: Range,
        /// The value.
        byte: u8,
    },
}

impl<P> Work<P> {
    /// `Err` unless every range lies in the buffer of its slot, which has `bytes` bytes.
    pub fn check(&self, bytes: impl Fn(Slot) -> u64) -> Result<()> {
        let check = |range: &Range, what: &str| range.check(bytes(range.slot), what);
        match self {
            Work::Dispatch {
                operands,
                tables,
                label,
                ..
            } => {
                let entries = tables.iter().flat_map(|table| &table.entries);
                let mut all = operands.iter().chain(entries);
                all.try_for_each(|range| check(range, label))
            }
            Work::Copy { from, to } => {
                check(from, "copy")?;
                check(to, "copy")
            }
            Work::Fill { to, .. } => check(to, "fill"),
        }
    }
}

/// The steps of `program` with their kernels, checked against `limits`, and the bytes of all
/// parameter blocks, each at a multiple of `align`.
pub fn resolve<P>(
    program: &Program,
    limits: &Limits,
    align: u64,
    kernel: impl Fn(PipelineId) -> Result<Arc<Kernel<P>>>,
) -> Result<(Vec<Work<P>>, Vec<u8>)> {
    let mut params: Vec<u8> = Vec::new();
    let mut work = Vec::with_capacity(program.steps.len());
    for (number, step) in program.steps.iter().enumerate() {
        let made = step
            .binds()
            .iter()
            .try_for_each(|bind| check_bind(bind, program.slots))
            .and_then(|()| one(step, limits, &kernel, params.len() as u64));
        let (made, words) = made.map_err(|error| match error {
            Error::Invalid(why) => Error::Invalid(format!("step {number} ({step}): {why}")),
            other => other,
        })?;
        if let Work::Dispatch { kernel, .. } = &made {
            params.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            params.extend(kernel.patterns.iter().flat_map(|it| it.to_le_bytes()));
            params.resize(params.len().next_multiple_of(align as usize), 0);
        }
        work.push(made);
    }
    Ok((work, params))
}

/// A step and the words of its parameter block, which begins at byte `params_at`.
fn one<P>(
    step: &Step,
    limits: &Limits,
    kernel: impl Fn(PipelineId) -> Result<Arc<Kernel<P>>>,
    params_at: u64,
) -> Result<(Work<P>, Vec<u32>)> {
    let work = match step {
        Step::Dispatch(dispatch) => {
            let kernel = kernel(dispatch.pipeline)?;
            let bound = operands(&kernel.name, &kernel.bindings, dispatch, limits)?;
            let work = Work::Dispatch {
                kernel,
                groups: dispatch.groups,
                operands: bound.ranges,
                tables: bound.tables,
                params_at,
                label: dispatch.label.clone(),
            };
            return Ok((work, bound.params));
        }
        Step::Copy { from, to } if from.bytes == to.bytes => Work::Copy {
            from: Range::of(from)?,
            to: Range::of(to)?,
        },
        Step::Copy { .. } => return Err(Error::Invalid("lengths of a copy differ".into())),
        Step::Fill { to, byte } => Work::Fill {
            to: Range::of(to)?,
            byte: *byte,
        },
    };
    Ok((work, Vec::new()))
}

/// What a dispatch binds.
struct Operands {
    /// Operands that are bound, in order.
    ranges: Vec<Range>,
    /// Operands whose addresses are bound, in order.
    tables: Vec<Table>,
    /// Words of the parameter block: [`PARAM_BYTES`] bytes, zeros after the last stride.
    params: Vec<u32>,
}

/// Checks `dispatch`, which runs the kernel `name` with these bindings (the parameters
/// first), against `limits`.
fn operands(
    name: &str,
    bindings: &[Binding],
    dispatch: &Dispatch,
    limits: &Limits,
) -> Result<Operands> {
    // The parameters are no operand.
    let bindings = bindings.get(1..).unwrap_or_default();
    if bindings.len() != dispatch.operands.len() {
        return Err(Error::Invalid(format!(
            "{name} takes {} operands, not {}",
            bindings.len(),
            dispatch.operands.len()
        )));
    }
    let groups = dispatch.groups;
    if groups.iter().any(|g| *g == 0 || *g > limits.max_grid) {
        return Err(Error::Invalid(format!(
            "grid {groups:?} is empty or above {} workgroups along an axis",
            limits.max_grid
        )));
    }
    let mut params = dispatch.params.words().to_vec();
    let (mut ranges, mut tables) = (Vec::new(), Vec::new());
    // Binding numbers count the operands that are bound, after the parameters.
    let bound = |ranges: &[Range], tables: &[Table]| (1 + ranges.len() + tables.len()) as u32;
    for (operand, binding) in dispatch.operands.iter().zip(bindings) {
        let range = match (operand, binding) {
            (Operand::Table(entries), Binding::Addresses { align }) => {
                let binding = bound(&ranges, &tables);
                let entries = addressed(entries, dispatch.params.expert_count, u64::from(*align))?;
                tables.push(Table { binding, entries });
                continue;
            }
            (_, Binding::Addresses { .. }) => {
                return Err(Error::Invalid(format!("{name} takes a table, not a range")));
            }
            (Operand::Range(bind), _) => Range::of(bind)?,
            (Operand::Table(entries), _) => {
                let (range, stride) = table_range(entries)?;
                params.push(stride);
                range
            }
        };
        if *binding != Binding::Unused {
            check_limits(&range, limits)?;
            ranges.push(range);
        }
    }
    if params.len() > PARAM_BYTES as usize / 4 {
        return Err(Error::Invalid(format!("more than {TABLES} tables")));
    }
    params.resize(PARAM_BYTES as usize / 4, 0);
    Ok(Operands {
        ranges,
        tables,
        params,
    })
}

/// The entries of a table of `count` experts that is bound as a list of addresses, which are
/// multiples of `align`.
fn addressed(entries: &[Bind], count: u32, align: u64) -> Result<Vec<Range>> {
    if entries.len() != count as usize {
        return Err(Error::Invalid(format!(
            "a table of {} entries for {count} experts",
            entries.len()
        )));
    }
    let entries = entries.iter().map(|entry| match entry.offset % align {
        0 => Range::of(entry),
        _ => Err(Error::Invalid(format!(
            "offset {} of an entry of a table is no multiple of {align}",
            entry.offset
        ))),
    });
    entries.collect()
}

fn check_limits(range: &Range, limits: &Limits) -> Result<()> {
    if !range.offset.is_multiple_of(limits.offset_align) {
        return Err(Error::Invalid(format!(
            "offset {} is no multiple of {}",
            range.offset, limits.offset_align
        )));
    }
    if range.bytes > limits.max_binding_bytes {
        return Err(Error::Invalid(format!(
            "an operand of {} bytes is above the limit of {}",
            range.bytes, limits.max_binding_bytes
        )));
    }
    Ok(())
}

/// The range of a table from its first entry to its last, and the stride in bytes.
fn table_range(entries: &[Bind]) -> Result<(Range, u32)> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Err(Error::Invalid("a table without entries".into()));
    };
    match table_stride(entries).and_then(|stride| u32::try_from(stride).ok()) {
        Some(stride) if u64::from(stride).is_multiple_of(WORD) => {
            let range = Bind {
                bytes: last.offset + last.bytes - first.offset,
                ..*first
            };
            Ok((Range::of(&range)?, stride))
        }
        _ => Err(Error::Invalid(
            "entries of a table do not lie in one slot at a constant stride".into(),
        )),
    }
}
