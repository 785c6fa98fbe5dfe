//! From a dispatch as data to what a WGSL kernel binds: checked ranges and the words of its
//! parameter block. The same for every backend that runs WGSL rows.

use hadal_device::{Bind, Dispatch, Error, Limits, Operand, Result, Slot};

use crate::wgsl::{Binding, PARAM_BYTES, TABLES};

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
    pub fn of(bind: &Bind) -> Result<Range> {
        if !bind.offset.is_multiple_of(WORD) {
            return Err(Error::Invalid(format!("{bind} does not begin with a word")));
        }
        Ok(Range {
            slot: bind.slot,
            offset: bind.offset,
            bytes: bind.bytes.next_multiple_of(WORD),
        })
    }

    /// `Err` unless the range lies in a buffer of `bytes` bytes; `what` is for the message.
    pub fn check(&self, bytes: u64, what: &str) -> Result<()> {
        if self.offset + self.bytes > bytes.next_multiple_of(WORD) {
            return Err(Error::Invalid(format!(
                "{what}: bytes {} .. +{} of slot {}, whose buffer has {bytes}",
                self.offset, self.bytes, self.slot.0
            )));
        }
        Ok(())
    }
}

/// `Err` unless `bind` is a range of one of `slots` slots.
pub fn check_bind(bind: &Bind, slots: u16) -> Result<()> {
    let end = bind.offset.checked_add(bind.bytes);
    if bind.slot.0 >= slots || bind.bytes == 0 || end.is_none() {
        return Err(Error::Invalid(format!("{bind} is no range of a slot")));
    }
    Ok(())
}

/// What a dispatch binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operands {
    /// Operands that are bound, in order.
    pub ranges: Vec<Range>,
    /// Words of the parameter block: [`PARAM_BYTES`] bytes, zeros after the last stride.
    pub params: Vec<u32>,
}

/// Checks `dispatch`, which runs the kernel `name` with these bindings (the parameters
/// first), against `limits`.
pub fn operands(
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
    let mut ranges = Vec::new();
    let mut tables = 0;
    for (operand, binding) in dispatch.operands.iter().zip(bindings) {
        let range = match operand {
            Operand::Range(bind) => Range::of(bind)?,
            Operand::Table(entries) => {
                let (range, stride) = table_range(entries)?;
                params.push(stride);
                tables += 1;
                range
            }
        };
        if *binding != Binding::Unused {
            check_limits(&range, limits)?;
            ranges.push(range);
        }
    }
    if tables > TABLES {
        return Err(Error::Invalid(format!("more than {TABLES} tables")));
    }
    params.resize(PARAM_BYTES as usize / 4, 0);
    Ok(Operands { ranges, params })
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
    let stride = match entries {
        [first, second, ..] => second.offset.checked_sub(first.offset),
        _ => Some(0),
    };
    let stride = stride.and_then(|stride| u32::try_from(stride).ok());
    let even = |stride: u32| {
        entries.iter().zip(0u64..).all(|(entry, number)| {
            entry.slot == first.slot
                && entry.bytes == first.bytes
                && entry.offset == first.offset + number * u64::from(stride)
        })
    };
    match stride {
        Some(stride) if u64::from(stride).is_multiple_of(WORD) && even(stride) => {
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
