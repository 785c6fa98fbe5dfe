//! Whether a program is one that this device can run: by its limits and its kernels when it
//! is prepared, by its buffers when it meets them.

use hadal_device::{Access, Bind, Dispatch, Error, Limits, Operand, Program, Result, Slot, Step};

use crate::kernel::Kernel;
use crate::lists::Matrix;

/// Entries of tables begin at multiples of this: block scales have no more.
const ENTRY_ALIGN: u64 = 4;

fn invalid(why: String) -> Error {
    Error::Invalid(why)
}

/// Calls `check` with each step; an error says which step it was.
fn each_step(program: &Program, check: impl Fn(usize, &Step) -> Result<()>) -> Result<()> {
    for (number, step) in program.steps.iter().enumerate() {
        check(number, step).map_err(|error| match error {
            Error::Invalid(why) => invalid(format!("step {number} ({step}): {why}")),
            other => other,
        })?;
    }
    Ok(())
}

/// `Err` unless every step has ranges of its slots and what its kernel, `kernel(number)`,
/// takes.
pub fn check_program<'k>(
    program: &Program,
    limits: &Limits,
    kernel: impl Fn(usize) -> Option<&'k Kernel>,
) -> Result<()> {
    each_step(program, |number, step| {
        for bind in step.binds() {
            let end = bind.offset.checked_add(bind.bytes);
            if bind.slot.0 >= program.slots || bind.bytes == 0 || end.is_none() {
                return Err(invalid(format!("{bind} is no range of a slot")));
            }
        }
        match step {
            Step::Dispatch(dispatch) => {
                let kernel = kernel(number);
                let kernel = kernel.ok_or_else(|| invalid("it has no kernel".into()))?;
                check_dispatch(dispatch, kernel, limits)
            }
            Step::Copy { from, to } if from.bytes != to.bytes => {
                Err(invalid("lengths of a copy differ".into()))
            }
            Step::Copy { to, .. } | Step::Fill { to, .. } if to.access != Access::Write => {
                Err(invalid(format!("{to} is written but does not say so")))
            }
            Step::Copy { .. } | Step::Fill { .. } => Ok(()),
        }
    })
}

/// `Err` unless every range lies in the buffer of its slot, which has `bytes` bytes.
pub fn check_ranges(program: &Program, bytes: impl Fn(Slot) -> u64) -> Result<()> {
    each_step(program, |_, step| {
        for bind in step.binds() {
            let has = bytes(bind.slot);
            // It was checked that the sum is a number.
            if bind.offset + bind.bytes > has {
                return Err(invalid(format!(
                    "bytes {} .. +{} of slot {}, whose buffer has {has}",
                    bind.offset, bind.bytes, bind.slot.0
                )));
            }
        }
        Ok(())
    })
}

fn check_dispatch(dispatch: &Dispatch, kernel: &Kernel, limits: &Limits) -> Result<()> {
    let name = &kernel.name;
    let (takes, given) = (kernel.operands.len(), dispatch.operands.len());
    if takes != given {
        return Err(invalid(format!(
            "{name} takes {takes} operands, not {given}"
        )));
    }
    let groups = dispatch.groups;
    if groups
        .iter()
        .any(|count| *count == 0 || *count > limits.max_grid)
    {
        return Err(invalid(format!(
            "grid {groups:?} is empty or above {} blocks along an axis",
            limits.max_grid
        )));
    }
    for (letter, operand) in kernel.operands.chars().zip(&dispatch.operands) {
        match (letter, operand) {
            ('t' | 'M', Operand::Table(entries)) => {
                check_table(entries, dispatch.params.expert_count, limits)?;
            }
            ('t' | 'M', _) => return Err(invalid(format!("{name} takes a table, not a range"))),
            (_, Operand::Table(_)) => {
                return Err(invalid(format!("{name} takes a range, not a table")));
            }
            ('w', Operand::Range(bind)) if bind.access != Access::Write => {
                return Err(invalid(format!(
                    "{name} writes {bind}, which does not say so"
                )));
            }
            (_, Operand::Range(bind)) => check_bind(bind, limits.offset_align, limits)?,
        }
        if "mMx".contains(letter) {
            for bind in operand.binds() {
                Matrix::of(letter, &dispatch.params, bind)?;
            }
        }
    }
    Ok(())
}

/// The entries of a table for `count` experts.
fn check_table(entries: &[Bind], count: u32, limits: &Limits) -> Result<()> {
    let first = entries.first();
    if entries.len() != count as usize || first.is_none() {
        return Err(invalid(format!(
            "a table of {} entries for {count} experts",
            entries.len()
        )));
    }
    let length = first.map(|first| first.bytes);
    for entry in entries {
        if Some(entry.bytes) != length || entry.access != Access::Read {
            return Err(invalid(
                "entries of a table are not of one length and read only".into(),
            ));
        }
        check_bind(entry, ENTRY_ALIGN, limits)?;
    }
    Ok(())
}

fn check_bind(bind: &Bind, align: u64, limits: &Limits) -> Result<()> {
    if !bind.offset.is_multiple_of(align) {
        return Err(invalid(format!(
            "offset {} is no multiple of {align}",
            bind.offset
        )));
    }
    if bind.bytes > limits.max_binding_bytes {
        return Err(invalid(format!(
            "an operand of {} bytes is above the limit of {}",
            bind.bytes, limits.max_binding_bytes
        )));
    }
    Ok(())
}
