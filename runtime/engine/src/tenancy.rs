//! A device that its home can leave, whoever still knows the home.
//!
//! A driver may take its device up again only when everybody has given it back: the memory of a CUDA
//! device that failed stays broken while its context is held. Sessions know their home until their
//! next step, so it is not enough that the home goes.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, Pages, PipelineId, Program,
    Result, SetupCounts, Span, Stage, SubmitCost, Ticket,
};

/// A device, or what is said of one that was left.
pub(crate) struct Tenancy {
    info: DeviceInfo,
    device: RwLock<Option<Arc<dyn Device>>>,
}

impl Tenancy {
    pub fn of(device: Arc<dyn Device>) -> Tenancy {
        Tenancy {
            info: device.info().clone(),
            device: RwLock::new(Some(device)),
        }
    }

    /// The device.
    ///
    /// # Errors
    /// [`Error::Lost`] once it was left.
    pub fn device(&self) -> Result<Arc<dyn Device>> {
        let device = self.device.read().unwrap_or_else(PoisonError::into_inner);
        device.clone().ok_or_else(|| lost_by_another(&self.info))
    }

    /// Gives the device back: it is closed unless others have it, too.
    pub fn leave(&self) {
        let mut device = self.device.write().unwrap_or_else(PoisonError::into_inner);
        *device = None;
    }
}

/// What a session hears whose memory lay in a home that was left.
pub(crate) fn lost_by_another(info: &DeviceInfo) -> Error {
    Error::Lost {
        device: info.id(),
        why: "another session met the loss".to_string(),
    }
}

impl Device for Tenancy {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        self.device()?.alloc(desc)
    }

    fn free(&self, buffer: BufferId) {
        if let Ok(device) = self.device() {
            device.free(buffer);
        }
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        self.device()?.write(to, bytes)
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        self.device()?.read(from, bytes)
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        self.device()?.pipeline(name, body, constants)
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        self.device()?.prepare(program)
    }

    fn prepare_stage(&self, program: &Program, stage: &Stage) -> Result<Box<dyn Executable>> {
        self.device()?.prepare_stage(program, stage)
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        self.device()?.wait(ticket)
    }

    fn completed(&self) -> Ticket {
        self.device().map_or(Ticket::default(), |it| it.completed())
    }

    fn adopt(&self, pages: Pages) -> Option<BufferId> {
        self.device().ok()?.adopt(pages)
    }

    fn setup_counts(&self) -> SetupCounts {
        self.device()
            .map_or(SetupCounts::default(), |it| it.setup_counts())
    }

    fn set_courteous(&self, courteous: bool) {
        if let Ok(device) = self.device() {
            device.set_courteous(courteous);
        }
    }

    fn gpu_time(&self, ticket: Ticket) -> Option<Duration> {
        self.device().ok()?.gpu_time(ticket)
    }

    fn submit_cost(&self) -> SubmitCost {
        self.device()
            .map_or(SubmitCost::default(), |it| it.submit_cost())
    }

    fn notes(&self) -> Vec<String> {
        self.device().map_or(Vec::new(), |it| it.notes())
    }
}
