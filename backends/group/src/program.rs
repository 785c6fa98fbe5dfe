//! Programs of the group: on one member, after what it needs of another was copied there, or on
//! each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hadal_device::{
    Access, Bind, BufferId, Device, Error, Executable, Program, Result, Slot, Span, Stage, Ticket,
    check_table,
};

use crate::buffers::Buffer;
use crate::device::Shared;

/// Bytes that go through the host's memory at once, where there is no shorter way.
const PIECE: u64 = 8 << 20;

/// The slots that a program touches, and whether it writes them.
fn touched(program: &Program) -> BTreeMap<Slot, bool> {
    let mut slots = BTreeMap::new();
    for bind in program.steps.iter().flat_map(|step| step.binds()) {
        *slots.entry(bind.slot).or_default() |= bind.access == Access::Write;
    }
    slots
}

/// A program of a member.
struct Part {
    member: usize,
    executable: Box<dyn Executable>,
}

impl Part {
    fn new(shared: &Shared, program: &Program, member: usize) -> Result<Part> {
        let device = shared.member(member)?;
        let executable = device.prepare(&shared.program_of(program, member)?)?;
        Ok(Part { member, executable })
    }

    /// Submits it with what the member has of `buffers`. Slots that it does not touch may have
    /// buffers elsewhere: another one of the member's stands there.
    fn submit(&mut self, buffers: &[Option<Buffer>]) -> Result<Ticket> {
        let own = |buffer: &Option<Buffer>| buffer.as_ref()?.on(self.member);
        let any = buffers.iter().find_map(own).unwrap_or(BufferId(u64::MAX));
        let table: Vec<BufferId> = buffers.iter().map(|it| own(it).unwrap_or(any)).collect();
        self.executable.submit(&table)
    }
}

/// What every program of the group needs.
struct Common {
    shared: Arc<Shared>,
    slots: u16,
    touched: BTreeMap<Slot, bool>,
}

impl Common {
    fn new(shared: &Arc<Shared>, program: &Program) -> Common {
        Common {
            shared: shared.clone(),
            slots: program.slots,
            touched: touched(program),
        }
    }

    /// The buffers of the slots; `None` for those that are not touched and not there.
    fn buffers(&self, table: &[BufferId]) -> Result<Vec<Option<Buffer>>> {
        check_table(self.slots, table)?;
        let slots = table.iter().zip(0u16..);
        let buffers = slots.map(|(id, slot)| match self.shared.buffers.get(*id) {
            Err(unknown) if self.is_touched(slot) => Err(unknown),
            found => Ok(found.ok()),
        });
        buffers.collect()
    }

    fn is_touched(&self, slot: u16) -> bool {
        self.touched.contains_key(&Slot(slot))
    }

    /// The buffers that are touched, and whether they are written.
    fn used<'b>(
        &'b self,
        buffers: &'b [Option<Buffer>],
    ) -> impl Iterator<Item = (&'b Buffer, bool)> {
        let slots = self.touched.iter();
        slots.filter_map(|(slot, writes)| {
            let buffer = buffers.get(usize::from(slot.0))?.as_ref()?;
            Some((buffer, *writes))
        })
    }

    /// `member` wrote what the program writes.
    fn written(&self, table: &[BufferId], member: usize) {
        let slots = self.touched.iter().filter(|(_, writes)| **writes);
        let ids = slots.filter_map(|(slot, _)| table.get(usize::from(slot.0)).copied());
        self.shared.buffers.written(ids, member);
    }
}

/// A program on one member.
pub(crate) struct OnOne {
    common: Common,
    part: Part,
    carried: Vec<Bind>,
}

impl OnOne {
    pub fn new(shared: &Arc<Shared>, program: &Program, stage: &Stage) -> Result<OnOne> {
        let mut common = Common::new(shared, program);
        for bind in &stage.carried {
            common.touched.entry(bind.slot).or_default();
        }
        Ok(OnOne {
            common,
            part: Part::new(shared, program, stage.member.into())?,
            carried: stage.carried.clone(),
        })
    }
}

impl Executable for OnOne {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        let OnOne {
            common,
            part,
            carried,
        } = self;
        let buffers = common.buffers(table)?;
        let member = part.member;
        let mut used = common.used(&buffers);
        if used.any(|(buffer, _)| buffer.on(member).is_none()) {
            return Err(Error::Invalid(format!(
                "a program on member {member} touches a buffer of another"
            )));
        }
        let ticket = common
            .shared
            .tickets
            .submit(&common.shared.members, |own| {
                for bind in carried.iter() {
                    if let Some(Some(buffer)) = buffers.get(usize::from(bind.slot.0)) {
                        carry(&common.shared, buffer, member, bind)?;
                    }
                }
                own.push((member, part.submit(&buffers)?));
                Ok(())
            })?;
        common.written(table, member);
        Ok(ticket)
    }
}

/// Copies a range of a buffer to `to` from the member that wrote to it last.
fn carry(shared: &Shared, buffer: &Buffer, to: usize, bind: &Bind) -> Result<()> {
    let (Some((from, source)), Some(target)) = (buffer.newest(), buffer.on(to)) else {
        return Ok(());
    };
    if from == to {
        return Ok(());
    }
    let span = |buffer| Span {
        buffer,
        offset: bind.offset,
        bytes: bind.bytes,
    };
    let (source, target) = (span(source), span(target));
    let (there, here) = (shared.member(from)?, shared.member(to)?);
    if let Some(copied) = here.copy_from(there.as_ref(), source, target) {
        return copied.map(drop);
    }
    through_host((there.as_ref(), source), (here.as_ref(), target))
}

fn through_host(from: (&dyn Device, Span), to: (&dyn Device, Span)) -> Result<()> {
    let mut bytes = vec![0; from.1.bytes.min(PIECE) as usize];
    let mut done = 0;
    while done < from.1.bytes {
        let length = (from.1.bytes - done).min(PIECE);
        let piece = &mut bytes[..length as usize];
        let part = |span: Span| Span {
            offset: span.offset + done,
            bytes: length,
            ..span
        };
        from.0.read(part(from.1), piece)?;
        to.0.write(part(to.1), piece)?;
        done += length;
    }
    Ok(())
}

/// A program on whichever member has its buffers: on each where each has them.
pub(crate) struct OnEach {
    common: Common,
    parts: Vec<Part>,
}

impl OnEach {
    pub fn new(shared: &Arc<Shared>, program: &Program) -> Result<OnEach> {
        let members = 0..shared.members.len();
        let parts = members.map(|member| Part::new(shared, program, member));
        Ok(OnEach {
            common: Common::new(shared, program),
            parts: parts.collect::<Result<_>>()?,
        })
    }

    /// The one member that can run it; `None`: each.
    fn place(&self, buffers: &[Option<Buffer>]) -> Result<Option<usize>> {
        let own = self
            .common
            .used(buffers)
            .filter_map(|(buffer, _)| match buffer {
                Buffer::On(member, _) => Some(*member),
                Buffer::Each { .. } => None,
            });
        let own: BTreeSet<usize> = own.collect();
        // Others would not have what is written.
        let is_shared =
            |(buffer, writes): (&Buffer, bool)| writes && matches!(buffer, Buffer::Each { .. });
        let is_mixed = !own.is_empty() && self.common.used(buffers).any(is_shared);
        match own.len() > 1 || is_mixed {
            true => Err(Error::Invalid(
                "a program without a stage touches buffers of several members".into(),
            )),
            false => Ok(own.first().copied()),
        }
    }
}

impl Executable for OnEach {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        let buffers = self.common.buffers(table)?;
        let place = self.place(&buffers)?;
        let parts = &mut self.parts;
        let shared = &self.common.shared;
        let ticket = shared.tickets.submit(&shared.members, |own| {
            let is_here = |part: &&mut Part| place.is_none_or(|it| it == part.member);
            for part in parts.iter_mut().filter(is_here) {
                own.push((part.member, part.submit(&buffers)?));
            }
            Ok(())
        })?;
        // Copies on each member are as new as what was copied.
        let mut read = self.common.used(&buffers).filter(|(_, writes)| !writes);
        let read = read.find_map(|(buffer, _)| buffer.newest());
        if let Some(member) = place.or(read.map(|(member, _)| member)) {
            self.common.written(table, member);
        }
        Ok(ticket)
    }
}
