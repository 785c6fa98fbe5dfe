//! How long submits take on the device, by timestamps around them.
//!
//! Decides how many are kept and when they are read: only when somebody asks, so that a
//! submit costs two timestamps and a copy of sixteen bytes and allocates nothing.

use std::time::Duration;

use hadal_device::{Error, Result, Ticket};

use crate::core::Core;
use crate::transfer;

/// Submits whose times are kept.
const KEPT: u64 = 16;

/// Bytes of the two timestamps of a submit.
const STAMPS: u64 = 16;

/// What a device must offer for [`Timer`].
pub const NEEDED: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

/// A submit whose timestamps were asked for.
struct Timed {
    ticket: Ticket,
    readback: wgpu::Buffer,
    /// Read already.
    time: Option<Duration>,
}

/// Timestamps of the last submits of one device.
pub struct Timer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Nanoseconds a tick.
    period: f64,
    slots: Vec<Timed>,
    used: u64,
}

impl Timer {
    /// `None` if `device` does not offer timestamps.
    pub fn of(device: &wgpu::Device, queue: &wgpu::Queue) -> Option<Timer> {
        if !device.features().contains(NEEDED) {
            return None;
        }
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("hadal submit times"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * KEPT as u32,
        });
        let buffer = |size, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("hadal submit times"),
                size,
                usage: usage | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let resolving = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let slot = |_| Timed {
            ticket: Ticket(0),
            readback: buffer(STAMPS, wgpu::BufferUsages::MAP_READ),
            time: None,
        };
        Some(Timer {
            resolved: buffer(KEPT * wgpu::QUERY_RESOLVE_BUFFER_ALIGNMENT, resolving),
            queries,
            period: f64::from(queue.get_timestamp_period()),
            slots: (0..KEPT).map(slot).collect(),
            used: 0,
        })
    }

    /// The slot of the next submit.
    fn next(&self) -> u32 {
        (self.used % KEPT) as u32
    }

    /// The commands of the next submit begin.
    pub fn begin(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.write_timestamp(&self.queries, 2 * self.next());
    }

    /// They end.
    pub fn end(&self, encoder: &mut wgpu::CommandEncoder) {
        let slot = self.next();
        encoder.write_timestamp(&self.queries, 2 * slot + 1);
        let at = u64::from(slot) * wgpu::QUERY_RESOLVE_BUFFER_ALIGNMENT;
        encoder.resolve_query_set(&self.queries, 2 * slot..2 * slot + 2, &self.resolved, at);
        let readback = &self.slots[slot as usize].readback;
        encoder.copy_buffer_to_buffer(&self.resolved, at, readback, 0, STAMPS);
    }

    /// They were submitted as `ticket`.
    pub fn submitted(&mut self, ticket: Ticket) {
        let slot = self.next() as usize;
        self.slots[slot].ticket = ticket;
        self.slots[slot].time = None;
        self.used += 1;
    }

    /// Device time of `ticket`, which is done; `None` if it is not kept any more.
    pub fn time(&mut self, core: &Core, ticket: Ticket) -> Result<Option<Duration>> {
        let slot = self.slots.iter_mut().find(|slot| slot.ticket == ticket);
        let Some(slot) = slot.filter(|_| ticket.0 > 0) else {
            return Ok(None);
        };
        if slot.time.is_none() {
            let mut stamps = [0u8; STAMPS as usize];
            transfer::read_mapped(core, &slot.readback, None, STAMPS, 0, &mut stamps)?;
            let (first, second) = stamps.split_at(8);
            let tick = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
            let (Ok(first), Ok(second)) = (tick(first), tick(second)) else {
                return Err(Error::Invalid("a timestamp has eight bytes".into()));
            };
            let ticks = second.saturating_sub(first) as f64;
            slot.time = Some(Duration::from_secs_f64(ticks * self.period * 1e-9));
        }
        Ok(slot.time)
    }
}
