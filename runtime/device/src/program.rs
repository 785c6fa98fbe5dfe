//! Work as data: a program is a list of steps over numbered slots.
//!
//! Lowering writes it, a device prepares it once and submits it often with a table of
//! buffers. A program holds no addresses, no handles and nothing that changes from step to
//! step. Its text form (`Display`) is what golden tests compare.

use std::fmt;

use crate::Params;

/// A numbered place in the buffer table of a submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// What a step does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Writes it, or part of it; may read it too.
    Write,
}

/// A byte range of a slot's buffer. `offset` is a multiple of `Limits::offset_align` on
/// devices without `POINTER_TABLES`; on the host it may be any byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bind {
    /// Whose buffer.
    pub slot: Slot,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// What is done with it.
    pub access: Access,
}

/// One operand of a dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A range.
    Range(Bind),
    /// A table with one entry an expert, all of the same length and read only. Unless the
    /// dispatch says `flags::SCATTERED`, for which the device must have
    /// `Features::POINTER_TABLES`, all entries lie in one slot at a constant stride, the
    /// first begins at `Limits::offset_align`, and first to last fit
    /// `Limits::max_binding_bytes` (a host takes any table). Weights begin
    /// at multiples of 16 bytes, block scales at multiples of 4; on the host anywhere.
    Table(Vec<Bind>),
}

/// Bytes from one entry of a table to the next, if they all lie in one slot at a constant
/// stride.
pub fn table_stride(entries: &[Bind]) -> Option<u64> {
    let first = entries.first()?;
    let stride = match entries {
        [first, second, ..] => second.offset.checked_sub(first.offset)?,
        _ => 0,
    };
    let is_at = |(number, entry): (u64, &Bind)| {
        entry.slot == first.slot
            && entry.bytes == first.bytes
            && entry.offset - first.offset == number * stride
    };
    let after = entries.iter().all(|entry| entry.offset >= first.offset);
    (after && (0..).zip(entries).all(is_at)).then_some(stride)
}

impl Operand {
    /// The ranges of the operand.
    pub fn binds(&self) -> &[Bind] {
        match self {
            Operand::Range(bind) => std::slice::from_ref(bind),
            Operand::Table(binds) => binds,
        }
    }
}

/// A compiled kernel of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PipelineId(pub u32);

/// A kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// The kernel.
    pub pipeline: PipelineId,
    /// Workgroups along each axis.
    pub groups: [u32; 3],
    /// Operands in the order of the operation's sentence in `OpKind`.
    pub operands: Vec<Operand>,
    /// Parameters.
    pub params: Box<Params>,
    /// Kernel row and place in the model, for traces: `linear_fp8 layers.3.o_proj`.
    pub label: String,
}

/// One step of a program. Steps behave as if run one after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Runs a kernel.
    Dispatch(Dispatch),
    /// Copies bytes; both ranges have the same length and do not overlap.
    Copy {
        /// Source.
        from: Bind,
        /// Destination.
        to: Bind,
    },
    /// Fills a range with one byte value.
    Fill {
        /// Destination.
        to: Bind,
        /// The value.
        byte: u8,
    },
}

impl Step {
    /// Every range the step touches.
    pub fn binds(&self) -> Vec<Bind> {
        match self {
            Step::Dispatch(d) => d.operands.iter().flat_map(|o| o.binds().to_vec()).collect(),
            Step::Copy { from, to } => vec![*from, *to],
            Step::Fill { to, .. } => vec![*to],
        }
    }
}

/// Steps over slots.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Program {
    /// Length of the buffer table of a submit.
    pub slots: u16,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// Where a program runs on a device that is made of several.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Stage {
    /// The member that runs it.
    pub member: u16,
    /// Ranges of buffers that lie on each member, copied before from the member whose program
    /// wrote to the buffer last. What else the program reads of such buffers the host wrote, or a
    /// program on the same member.
    pub carried: Vec<Bind>,
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.access == Access::Write {
            "!"
        } else {
            ""
        };
        write!(f, "{mark}s{}[{}+{}]", self.slot.0, self.offset, self.bytes)
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Range(bind) => bind.fmt(f),
            Operand::Table(binds) => match binds.as_slice() {
                [] => f.write_str("table()"),
                [only] => write!(f, "table({only})"),
                [first, .., last] => write!(f, "table({} of {first} .. {last})", binds.len()),
            },
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Dispatch(d) => {
                let [x, y, z] = d.groups;
                write!(f, "{} <{x},{y},{z}>", d.label)?;
                for operand in &d.operands {
                    write!(f, " {operand}")?;
                }
                Ok(())
            }
            Step::Copy { from, to } => write!(f, "copy {from} {to}"),
            Step::Fill { to, byte } => write!(f, "fill {to} {byte:#04x}"),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "program {} slots, {} steps",
            self.slots,
            self.steps.len()
        )?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "{index:4} {step}")?;
        }
        Ok(())
    }
}
