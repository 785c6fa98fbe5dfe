//! A device that says it has less than it has. A software adapter without
//! [`Features::SOFTWARE`] runs the rows and the lowering that only GPUs take; a GPU without
//! matrix units, those of lesser ones.
//!
//! Changes what the device says of itself and nothing that it does.

use std::sync::Arc;
use std::time::Duration;

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Executable, Features, Pages, PipelineId,
    Program, Result, SetupCounts, Span, SubmitCost, Ticket,
};

/// The device under the changed description.
pub struct Lacking {
    device: Arc<dyn Device>,
    info: DeviceInfo,
}

impl Lacking {
    /// `device` without `features`.
    pub fn new(device: Arc<dyn Device>, features: Features) -> Lacking {
        let info = DeviceInfo {
            features: device.info().features.without(features),
            ..device.info().clone()
        };
        Lacking { device, info }
    }
}

impl Device for Lacking {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        self.device.alloc(desc)
    }

    fn free(&self, buffer: BufferId) {
        self.device.free(buffer);
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        self.device.write(to, bytes)
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        self.device.read(from, bytes)
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        self.device.pipeline(name, body, constants)
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        self.device.prepare(program)
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        self.device.wait(ticket)
    }

    fn completed(&self) -> Ticket {
        self.device.completed()
    }

    fn adopt(&self, pages: Pages) -> Option<BufferId> {
        self.device.adopt(pages)
    }

    fn setup_counts(&self) -> SetupCounts {
        self.device.setup_counts()
    }

    fn gpu_time(&self, ticket: Ticket) -> Option<Duration> {
        self.device.gpu_time(ticket)
    }

    fn submit_cost(&self) -> SubmitCost {
        self.device.submit_cost()
    }
}
