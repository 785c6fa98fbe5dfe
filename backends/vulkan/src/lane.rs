//! A queue and its timeline: every submit is a point of it, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ash::vk;
use vulkano::device::{Device, Queue};
use vulkano::sync::semaphore::{Semaphore, SemaphoreCreateInfo, SemaphoreType, SemaphoreWaitInfo};
use vulkano::{Validated, VulkanError, VulkanObject};

use crate::fault::raw;

/// A queue and its timeline.
pub struct Lane {
    device: Arc<Device>,
    queue: Arc<Queue>,
    timeline: Semaphore,
    /// The last point submitted. Changes only in `submit`, whose callers take turns.
    last: AtomicU64,
    /// A point known to be reached, so that the driver need not be asked.
    known: AtomicU64,
}

impl Lane {
    /// The lane of `queue`. Two lanes may share a queue.
    pub fn new(device: &Arc<Device>, queue: Arc<Queue>) -> Result<Lane, Validated<VulkanError>> {
        let timeline = SemaphoreCreateInfo {
            semaphore_type: SemaphoreType::Timeline,
            ..Default::default()
        };
        Ok(Lane {
            timeline: Semaphore::new(device.clone(), timeline)?,
            device: device.clone(),
            queue,
            last: AtomicU64::new(0),
            known: AtomicU64::new(0),
        })
    }

    /// The family that commands are recorded for.
    pub fn family(&self) -> u32 {
        self.queue.queue_family_index()
    }

    /// The last point submitted; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The last point reached.
    pub fn reached(&self) -> Result<u64, Validated<VulkanError>> {
        let reached = self.timeline.counter_value()?;
        self.known.fetch_max(reached, Ordering::AcqRel);
        Ok(reached)
    }

    /// Whether `point` is reached; asks the driver only if that is not known.
    pub fn is_reached(&self, point: u64) -> bool {
        point <= self.known.load(Ordering::Acquire)
            || self.reached().is_ok_and(|reached| point <= reached)
    }

    /// Hands recorded commands to the queue, to begin when `after` is reached.
    ///
    /// # Safety
    /// The commands were recorded to their end for [`Lane::family`]; they and all that they
    /// name live until the point is reached. One call of a lane at a time.
    pub unsafe fn submit(
        &self,
        commands: &[vk::CommandBuffer],
        after: Option<(&Lane, u64)>,
    ) -> Result<u64, VulkanError> {
        // A point nobody reaches after a failure would make waiting endless, so the count
        // rises only with success.
        let point = self.last() + 1;
        let (signals, values) = ([self.timeline.handle()], [point]);
        let (waits, wait_values) = match after {
            Some((lane, point)) => ([lane.timeline.handle()], [point]),
            None => ([vk::Semaphore::null()], [0]),
        };
        let waiting = usize::from(after.is_some());
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let mut points = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&wait_values[..waiting])
            .signal_semaphore_values(&values);
        let info = vk::SubmitInfo::default()
            .wait_semaphores(&waits[..waiting])
            .wait_dst_stage_mask(&stages[..waiting])
            .command_buffers(commands)
            .signal_semaphores(&signals)
            .push_next(&mut points);
        let submit = self.device.fns().v1_0.queue_submit;
        self.queue.with(|_order| {
            // SAFETY: the guard gives the queue to this thread; the caller's promise.
            raw(unsafe { submit(self.queue.handle(), 1, &info, vk::Fence::null()) })
        })?;
        self.last.store(point, Ordering::Release);
        Ok(point)
    }

    /// Waits until `point` is reached, not longer than `timeout`; false if it is not yet.
    pub fn wait(&self, point: u64, timeout: Duration) -> Result<bool, Validated<VulkanError>> {
        if point <= self.known.load(Ordering::Acquire) {
            return Ok(true);
        }
        let until = SemaphoreWaitInfo {
            value: point,
            ..Default::default()
        };
        match self.timeline.wait(until, Some(timeout)) {
            Ok(()) => {
                self.known.fetch_max(point, Ordering::AcqRel);
                Ok(true)
            }
            Err(Validated::Error(VulkanError::Timeout)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
