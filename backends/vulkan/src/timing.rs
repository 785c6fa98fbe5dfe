//! What a submit takes: on the device by timestamps, on the processor by its clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ash::vk;
use vulkano::device::Device;
use vulkano::query::{QueryPool, QueryPoolCreateInfo, QueryType};
use vulkano::{Validated, VulkanError, VulkanObject};

use crate::fault::raw;
use crate::record::Commands;

/// Tickets whose time is kept.
const KEPT: usize = 16;

/// Timestamps around submits, by short command buffers of their own: a program's commands
/// stay as recorded, however many of its submits are under way.
pub struct Clock {
    device: Arc<Device>,
    pool: Arc<QueryPool>,
    begin: Vec<Commands>,
    end: Vec<Commands>,
    /// The ticket that each pair of queries was last used for.
    tickets: [AtomicU64; KEPT],
    /// Bits of a timestamp that count.
    mask: u64,
    period_ns: f64,
}

impl Clock {
    /// The clock of queues of `family`; `None` if they have none.
    pub fn new(device: &Arc<Device>, family: u32) -> Result<Option<Clock>, Validated<VulkanError>> {
        let physical = device.physical_device();
        let bits = physical.queue_family_properties()[family as usize].timestamp_valid_bits;
        let Some(bits @ 1..) = bits else {
            return Ok(None);
        };
        let info = QueryPoolCreateInfo {
            query_count: 2 * KEPT as u32,
            ..QueryPoolCreateInfo::query_type(QueryType::Timestamp)
        };
        let pool = QueryPool::new(device.clone(), info)?;
        let mut begin = Commands::several(device, family, KEPT as u32)?;
        let mut end = Commands::several(device, family, KEPT as u32)?;
        for (query, (begin, end)) in (0u32..).step_by(2).zip(begin.iter_mut().zip(&mut end)) {
            // SAFETY: new commands; the pool lives beside them and has these queries.
            unsafe {
                begin.record(|commands| {
                    commands.reset_queries(pool.handle(), query, 2);
                    commands.timestamp(pool.handle(), query);
                })?;
                end.record(|commands| commands.timestamp(pool.handle(), query + 1))?;
            }
        }
        Ok(Some(Clock {
            device: device.clone(),
            pool,
            begin,
            end,
            tickets: Default::default(),
            mask: u64::MAX >> (64 - bits.min(64)),
            period_ns: f64::from(physical.properties().timestamp_period),
        }))
    }

    /// `commands`, which will be submitted as `ticket`, between two timestamps.
    pub fn around(&self, commands: vk::CommandBuffer, ticket: u64) -> [vk::CommandBuffer; 3] {
        let place = ticket as usize % KEPT;
        self.tickets[place].store(ticket, Ordering::Release);
        [
            self.begin[place].handle(),
            commands,
            self.end[place].handle(),
        ]
    }

    /// Time between the timestamps of a finished ticket, if they are still there.
    pub fn time(&self, ticket: u64) -> Option<Duration> {
        let place = ticket as usize % KEPT;
        let is_kept = || self.tickets[place].load(Ordering::Acquire) == ticket;
        if !is_kept() {
            return None;
        }
        let mut stamps = [0u64; 2];
        let get = self.device.fns().v1_0.get_query_pool_results;
        // SAFETY: the pool has these two queries, and both results fit.
        raw(unsafe {
            get(
                self.device.handle(),
                self.pool.handle(),
                2 * place as u32,
                2,
                size_of_val(&stamps),
                stamps.as_mut_ptr().cast(),
                size_of::<u64>() as u64,
                vk::QueryResultFlags::TYPE_64,
            )
        })
        .ok()?;
        // A submit in between took the queries over.
        if !is_kept() {
            return None;
        }
        let ticks = stamps[1].wrapping_sub(stamps[0]) & self.mask;
        Some(Duration::from_nanos((ticks as f64 * self.period_ns) as u64))
    }
}
