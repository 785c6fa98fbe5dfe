//! One open device and its compute queue: submits in order, each a point of a timeline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;
use hadal_device::{Error, Result, Ticket};
use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;
use vulkano::device::{Device, DeviceCreateInfo, Queue, QueueCreateInfo};
use vulkano::sync::semaphore::{Semaphore, SemaphoreCreateInfo, SemaphoreType, SemaphoreWaitInfo};

use crate::VulkanBackend;
use crate::fault::{Faults, raw};
use crate::instance::{compute_family, needed_features};

/// An open device.
pub struct Gpu {
    /// vulkano's device.
    pub device: Arc<Device>,
    queue: Arc<Queue>,
    /// `vulkan:0`
    pub name: String,
    /// Whether it was lost.
    pub faults: Faults,
    /// Counts finished submits.
    timeline: Semaphore,
    /// Number of the last submit.
    last: Mutex<u64>,
    /// Buffers made.
    pub made_buffers: AtomicU64,
}

impl Gpu {
    /// Opens `physical`, which is called `name`.
    pub fn open(physical: Arc<PhysicalDevice>, name: String) -> Result<Gpu> {
        let unavailable = |why: String| Error::Unavailable {
            backend: VulkanBackend::NAME,
            why: format!("{name} could not be opened: {why}"),
        };
        let family =
            compute_family(&physical).ok_or_else(|| unavailable("it cannot compute".into()))?;
        let info = DeviceCreateInfo {
            queue_create_infos: vec![QueueCreateInfo {
                queue_family_index: family,
                ..Default::default()
            }],
            enabled_features: needed_features(),
            ..Default::default()
        };
        let (device, mut queues) =
            Device::new(physical, info).map_err(|error| unavailable(error.to_string()))?;
        let queue = queues
            .next()
            .ok_or_else(|| unavailable("it has no queue".into()))?;
        let timeline = SemaphoreCreateInfo {
            semaphore_type: SemaphoreType::Timeline,
            ..Default::default()
        };
        let timeline = Semaphore::new(device.clone(), timeline)
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(Gpu {
            device,
            queue,
            name,
            faults: Faults::default(),
            timeline,
            last: Mutex::default(),
            made_buffers: AtomicU64::new(0),
        })
    }

    /// The family that commands are recorded for.
    pub fn family(&self) -> u32 {
        self.queue.queue_family_index()
    }

    /// `Err` if the device is lost.
    pub fn check(&self) -> Result<()> {
        self.faults.check(&self.name)
    }

    /// What `error` is; see [`Faults::error`].
    pub fn error(
        &self,
        error: impl Into<vulkano::Validated<vulkano::VulkanError>>,
        what: &str,
        bytes: u64,
    ) -> Error {
        self.faults.error(error, &self.name, what, bytes)
    }

    /// Counts a buffer.
    pub fn count_buffer(&self) {
        self.made_buffers.fetch_add(1, Ordering::Relaxed);
    }

    /// Hands recorded commands to the queue.
    ///
    /// # Safety
    /// `commands` were recorded to their end for [`Gpu::family`], and they and all that they
    /// name live until the ticket is done.
    pub unsafe fn submit(&self, commands: vk::CommandBuffer) -> Result<Ticket> {
        self.check()?;
        // A number nobody signals after a failure would make waiting endless, so the count
        // rises only with success.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let value = *last + 1;
        let (commands, semaphores, values) = ([commands], [self.timeline.handle()], [value]);
        let mut points =
            vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let info = vk::SubmitInfo::default()
            .command_buffers(&commands)
            .signal_semaphores(&semaphores)
            .push_next(&mut points);
        let submit = self.device.fns().v1_0.queue_submit;
        let result = self.queue.with(|_order| {
            // SAFETY: the guard gives the queue to this thread; the caller's promise.
            raw(unsafe { submit(self.queue.handle(), 1, &info, vk::Fence::null()) })
        });
        result.map_err(|error| self.error(error, "submitting", 0))?;
        *last = value;
        Ok(Ticket(value))
    }

    /// Waits until `ticket` is done.
    pub fn wait(&self, ticket: Ticket) -> Result<()> {
        self.check()?;
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if ticket.0 > last {
            return Err(Error::Invalid(format!(
                "ticket {} was never given",
                ticket.0
            )));
        }
        let until = SemaphoreWaitInfo {
            value: ticket.0,
            ..Default::default()
        };
        self.timeline
            .wait(until, None)
            .map_err(|error| self.error(error, "waiting", 0))
    }

    /// The last finished submit; 0 if the device is lost.
    pub fn completed(&self) -> Ticket {
        Ticket(self.timeline.counter_value().unwrap_or(0))
    }

    /// The last submit so far.
    pub fn last(&self) -> Ticket {
        Ticket(*self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Whatever still runs must end before the timeline goes; after a loss nothing runs.
        let _ = self.wait(self.last());
    }
}
