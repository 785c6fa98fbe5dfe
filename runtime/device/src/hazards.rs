//! Which steps of a program must wait for which: for backends that set barriers or graph
//! edges themselves.

use std::collections::HashMap;

use crate::{Access, Bind, BufferId, Operand, Program, Slot, Step};

fn overlap(a: &Bind, b: &Bind) -> bool {
    // Ranges may still be absurd here.
    a.slot == b.slot
        && a.offset < b.offset.saturating_add(b.bytes)
        && b.offset < a.offset.saturating_add(a.bytes)
}

fn conflict(a: &[Bind], b: &[Bind]) -> bool {
    a.iter().any(|x| {
        b.iter()
            .any(|y| (x.access == Access::Write || y.access == Access::Write) && overlap(x, y))
    })
}

/// Level of each step: a step comes after every earlier step that it conflicts with (one of
/// the two writes bytes the other touches), and steps of one level may run at once. A
/// barrier is needed exactly where the level rises.
///
/// Steps are kept in order: a step never has a lower level than the one before it.
pub fn levels(program: &Program) -> Vec<u32> {
    let binds: Vec<Vec<Bind>> = program.steps.iter().map(|step| step.binds()).collect();
    let mut levels = Vec::with_capacity(binds.len());
    let (mut level, mut first) = (0u32, 0usize);
    for (index, step) in binds.iter().enumerate() {
        if binds[first..index]
            .iter()
            .any(|before| conflict(before, step))
        {
            level += 1;
            first = index;
        }
        levels.push(level);
    }
    levels
}

/// [`levels`] of a program submitted with `table`, in which slots may hold the same buffer.
pub fn levels_with(program: &Program, table: &[BufferId]) -> Vec<u32> {
    levels(&canonical(program, table))
}

/// The program with one slot for each distinct buffer, so that hazards between slots that
/// hold the same buffer are seen.
fn canonical(program: &Program, table: &[BufferId]) -> Program {
    let mut first = HashMap::new();
    for (slot, buffer) in table.iter().enumerate() {
        first.entry(*buffer).or_insert(slot as u16);
    }
    let rename = |bind: &mut Bind| {
        if let Some(buffer) = table.get(usize::from(bind.slot.0)) {
            bind.slot = Slot(first[buffer]);
        }
    };
    let mut program = program.clone();
    for step in &mut program.steps {
        match step {
            Step::Dispatch(dispatch) => {
                for operand in &mut dispatch.operands {
                    match operand {
                        Operand::Range(bind) => rename(bind),
                        Operand::Table(binds) => binds.iter_mut().for_each(rename),
                    }
                }
            }
            Step::Copy { from, to } => {
                rename(from);
                rename(to);
            }
            Step::Fill { to, .. } => rename(to),
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Slot, Step};

    fn bind(slot: u16, offset: u64, bytes: u64, access: Access) -> Bind {
        Bind {
            slot: Slot(slot),
            offset,
            bytes,
            access,
        }
    }

    fn copy(from: (u16, u64), to: (u16, u64)) -> Step {
        Step::Copy {
            from: bind(from.0, from.1, 4, Access::Read),
            to: bind(to.0, to.1, 4, Access::Write),
        }
    }

    #[test]
    fn a_level_rises_only_where_bytes_are_shared_with_a_writer() {
        let program = Program {
            slots: 3,
            steps: vec![
                copy((0, 0), (1, 0)),
                copy((0, 0), (1, 4)),
                copy((1, 4), (2, 0)),
                copy((0, 4), (2, 4)),
                copy((0, 8), (2, 4)),
            ],
        };
        assert_eq!(levels(&program), [0, 0, 1, 1, 2]);
    }

    #[test]
    fn a_level_rises_where_bytes_that_were_read_are_written() {
        let program = Program {
            slots: 3,
            steps: vec![copy((0, 0), (1, 0)), copy((2, 0), (0, 0))],
        };
        assert_eq!(levels(&program), [0, 1]);
    }
}
