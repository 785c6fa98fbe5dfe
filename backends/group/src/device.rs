//! The group as a device.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, Pages, PipelineId, Program,
    Result, SetupCounts, Span, Stage, SubmitCost, Ticket,
};

use crate::buffers::{Buffer, Buffers};
use crate::program::{OnEach, OnOne};
use crate::tickets::Tickets;

/// What programs need, too.
pub(crate) struct Shared {
    pub members: Vec<Arc<dyn Device>>,
    pub buffers: Buffers,
    pub tickets: Tickets,
    /// The members' names of each kernel.
    pipelines: Mutex<Vec<Vec<PipelineId>>>,
}

/// Several devices as one.
pub(crate) struct Group {
    info: DeviceInfo,
    shared: Arc<Shared>,
}

impl Group {
    pub fn new(members: Vec<Arc<dyn Device>>, info: DeviceInfo) -> Group {
        let shared = Shared {
            members,
            buffers: Buffers::default(),
            tickets: Tickets::default(),
            pipelines: Mutex::default(),
        };
        Group {
            info,
            shared: Arc::new(shared),
        }
    }

    fn members(&self) -> &[Arc<dyn Device>] {
        &self.shared.members
    }

    /// A buffer that `make` makes on each member; on none where one cannot.
    fn on_each<E>(
        &self,
        make: impl Fn(&dyn Device) -> std::result::Result<BufferId, E>,
    ) -> std::result::Result<Buffer, E> {
        let mut ids = Vec::new();
        for member in self.members() {
            match make(member.as_ref()) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    let made = self.members().iter().zip(ids);
                    made.for_each(|(member, id)| member.free(id));
                    return Err(error);
                }
            }
        }
        Ok(Buffer::Each { ids, newest: 0 })
    }
}

impl Shared {
    /// The member of that number.
    pub fn member(&self, number: usize) -> Result<&Arc<dyn Device>> {
        let missing = || {
            Error::Invalid(format!(
                "a group of {} has no member {number}",
                self.members.len()
            ))
        };
        self.members.get(number).ok_or_else(missing)
    }

    /// `program` with the kernels of `member`.
    pub fn program_of(&self, program: &Program, member: usize) -> Result<Program> {
        let pipelines = self
            .pipelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut program = program.clone();
        for step in &mut program.steps {
            if let hadal_device::Step::Dispatch(dispatch) = step {
                let ids = pipelines.get(dispatch.pipeline.0 as usize);
                let unknown =
                    || Error::Invalid(format!("there is no pipeline {}", dispatch.pipeline.0));
                dispatch.pipeline = *ids.and_then(|ids| ids.get(member)).ok_or_else(unknown)?;
            }
        }
        Ok(program)
    }
}

impl Device for Group {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        let buffer = match desc.member {
            Some(member) => {
                let member = usize::from(member);
                Buffer::On(member, self.shared.member(member)?.alloc(desc)?)
            }
            None => self.on_each(|member| member.alloc(desc))?,
        };
        Ok(self.shared.buffers.add(buffer))
    }

    fn free(&self, buffer: BufferId) {
        let parts = self.shared.buffers.remove(buffer).map(|it| it.parts());
        for (member, id) in parts.into_iter().flatten() {
            self.members()[member].free(id);
        }
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        for (member, buffer) in self.shared.buffers.get(to.buffer)?.parts() {
            self.members()[member].write(Span { buffer, ..to }, bytes)?;
        }
        Ok(())
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        let newest = self.shared.buffers.get(from.buffer)?.newest();
        let (member, buffer) =
            newest.ok_or_else(|| Error::Invalid("a buffer of no member".into()))?;
        self.members()[member].read(Span { buffer, ..from }, bytes)
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let members = self.members().iter();
        let ids = members.map(|member| member.pipeline(name, body, constants));
        let ids = ids.collect::<Result<Vec<_>>>()?;
        let mut known = self
            .shared
            .pipelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|it| *it == ids).unwrap_or_else(|| {
            known.push(ids);
            known.len() - 1
        });
        Ok(PipelineId(place as u32))
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        Ok(Box::new(OnEach::new(&self.shared, program)?))
    }

    fn prepare_stage(&self, program: &Program, stage: &Stage) -> Result<Box<dyn Executable>> {
        Ok(Box::new(OnOne::new(&self.shared, program, stage)?))
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        let newest = self.shared.tickets.newest(ticket)?;
        let members = self.members().iter().zip(newest);
        // All of them, whatever one says.
        let waited: Vec<Result<()>> = members.map(|(member, it)| member.wait(it)).collect();
        waited.into_iter().collect()
    }

    fn completed(&self) -> Ticket {
        self.shared.tickets.completed(self.members())
    }

    fn adopt(&self, pages: Pages) -> Option<BufferId> {
        let adopted = self.on_each(|member| member.adopt(pages.clone()).ok_or(()));
        Some(self.shared.buffers.add(adopted.ok()?))
    }

    fn setup_counts(&self) -> SetupCounts {
        let counts = self.members().iter().map(|member| member.setup_counts());
        counts.fold(SetupCounts::default(), |sum, it| SetupCounts {
            buffers: sum.buffers + it.buffers,
            pipelines: sum.pipelines + it.pipelines,
            bind_groups: sum.bind_groups + it.bind_groups,
            programs: sum.programs + it.programs,
        })
    }

    fn set_courteous(&self, courteous: bool) {
        let members = self.members().iter();
        members.for_each(|member| member.set_courteous(courteous));
    }

    fn gpu_time(&self, ticket: Ticket) -> Option<Duration> {
        self.shared.tickets.time(ticket, self.members())
    }

    fn submit_cost(&self) -> SubmitCost {
        let costs = self.members().iter().map(|member| member.submit_cost());
        costs.fold(SubmitCost::default(), |sum, it| SubmitCost {
            submits: sum.submits + it.submits,
            total: sum.total + it.total,
            driver: sum.driver + it.driver,
        })
    }

    fn notes(&self) -> Vec<String> {
        let notes = self.members().iter().flat_map(|member| {
            let id = member.info().id();
            let named = move |note| format!("{id}: {note}");
            member.notes().into_iter().map(named)
        });
        notes.collect()
    }
}
