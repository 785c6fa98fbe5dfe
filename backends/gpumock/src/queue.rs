//! Streams and events. Work waits in its stream until somebody waits for it; then whatever
//! may run of all streams runs in an order of the seed's. So a missing wait shows.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::codes::*;
use crate::graph::{Run, Work};
use crate::memory::Place;
use crate::module::Launch;
use crate::product::Product;
use crate::state::{State, object};

/// A stream.
#[derive(Default)]
pub(crate) struct Stream {
    queue: VecDeque<Op>,
    /// The graph that is made of its work instead of doing it.
    pub recorded: Option<u64>,
    /// Destroyed; it is gone once its work is done.
    pub destroyed: bool,
}

/// An event: how often it was recorded, how often that was reached, and when last.
#[derive(Default)]
pub(crate) struct Event {
    timed: bool,
    recorded: u64,
    reached: u64,
    at: f64,
}

/// Where an upload's bytes come from: memory as it is when the copy runs, or, for memory that
/// is not pinned, as it was when the copy was asked for.
pub(crate) enum Source {
    Pinned(u64),
    Staged(Vec<u8>),
}

/// What waits in a stream.
pub(crate) enum Op {
    Upload {
        to: u64,
        from: Source,
        bytes: usize,
    },
    /// From device memory to the host or a device.
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Launch(Arc<Launch>),
    Product(Product),
    Graph(Run),
    Record {
        event: u64,
        version: u64,
    },
    Wait {
        event: u64,
        version: u64,
    },
}

impl Op {
    fn touches(&self, start: u64, end: u64) -> bool {
        let within = |at: u64, bytes: usize| at < end && at + bytes as u64 > start;
        match self {
            Op::Upload { to, from, bytes } => {
                let is_from = matches!(from, Source::Pinned(at) if within(*at, *bytes));
                is_from || within(*to, *bytes)
            }
            Op::Copy { to, from, bytes } => within(*to, *bytes) || within(*from, *bytes),
            _ => false,
        }
    }
}

impl State {
    /// A stream with the flags of its creation: none or non-blocking.
    pub fn add_stream(&mut self, flags: u32) -> Result<u64> {
        let device = self.device()?;
        if flags > 1 {
            return self.refuse(INVALID_VALUE, format!("stream flags {flags}"));
        }
        Ok(self.streams.add(device, Stream::default()))
    }

    pub fn enqueue(&mut self, stream: u64, op: Op) -> Result {
        let device = self.device()?;
        let stream = object!(self.streams[stream], device);
        if stream.destroyed {
            return self.refuse(INVALID_HANDLE, "the stream was destroyed");
        }
        match (stream.recorded, op) {
            (None, op) => stream.queue.push_back(op),
            (Some(graph), Op::Product(product)) => {
                return self.add_recorded(graph, Work::Product(product));
            }
            (Some(_), _) => {
                return self.refuse(INVALID_VALUE, "only products are known to be recorded");
            }
        }
        Ok(())
    }

    pub fn destroy_stream(&mut self, handle: u64) -> Result {
        let device = self.device_or_lost()?;
        let stream = object!(self.streams[handle], device);
        if stream.destroyed {
            return self.refuse(INVALID_HANDLE, "the stream was destroyed before");
        }
        stream.destroyed = true;
        // What is being recorded ends with its stream.
        if let Some(graph) = stream.recorded.take() {
            self.graphs.items.remove(&graph);
            self.nodes.items.retain(|_, (_, of)| *of != graph);
        }
        self.drop_done_streams();
        self.recover(device);
        self.devices[device].sticky.map_or(Ok(()), Err)
    }

    fn drop_done_streams(&mut self) {
        self.streams
            .items
            .retain(|_, (_, stream)| !stream.destroyed || !stream.queue.is_empty());
    }

    pub fn synchronise_stream(&mut self, handle: u64) -> Result {
        let device = self.device()?;
        object!(self.streams[handle], device);
        self.run_until(|state| match state.streams.items.get(&handle) {
            Some((_, stream)) => stream.queue.is_empty(),
            None => true,
        })?;
        self.device().map(|_| ())
    }

    pub fn stream_wait(&mut self, stream: u64, event: u64) -> Result {
        let device = self.device()?;
        // Events of other devices may be waited for.
        let Some(version) = self.events.items.get(&event).map(|e| e.1.recorded) else {
            return self.refuse(INVALID_HANDLE, format!("{event:#x} is no event"));
        };
        object!(self.streams[stream], device);
        if version == 0 {
            self.complain("an event that was never recorded is waited for");
        }
        self.enqueue(stream, Op::Wait { event, version })
    }

    /// An event with the flags of its creation; 2 is without timing.
    pub fn add_event(&mut self, flags: u32) -> Result<u64> {
        let device = self.device()?;
        let event = Event {
            timed: flags & 2 == 0,
            ..Event::default()
        };
        Ok(self.events.add(device, event))
    }

    pub fn destroy_event(&mut self, handle: u64) -> Result {
        let device = self.device_or_lost()?;
        object!(self.events[handle], device);
        self.events.items.remove(&handle);
        self.recover(device);
        self.devices[device].sticky.map_or(Ok(()), Err)
    }

    pub fn record(&mut self, handle: u64, stream: u64) -> Result {
        let device = self.device()?;
        object!(self.streams[stream], device);
        let event = object!(self.events[handle], device);
        event.recorded += 1;
        let version = event.recorded;
        self.enqueue(
            stream,
            Op::Record {
                event: handle,
                version,
            },
        )
    }

    fn reached(&self, event: u64, version: u64) -> bool {
        // A destroyed event keeps nobody waiting.
        let event = self.events.items.get(&event);
        event.is_none_or(|(_, event)| event.reached >= version)
    }

    /// Whether an event was reached; a little work is done on the way.
    pub fn query_event(&mut self, handle: u64) -> Result {
        let device = self.device()?;
        let version = object!(self.events[handle], device).recorded;
        if !self.reached(handle, version) {
            for _ in 0..=self.random.next() % 3 {
                self.step();
            }
        }
        self.device()?;
        match self.reached(handle, version) {
            true => Ok(()),
            false => Err(NOT_READY),
        }
    }

    pub fn synchronise_event(&mut self, handle: u64) -> Result {
        let device = self.device()?;
        let version = object!(self.events[handle], device).recorded;
        self.run_until(|state| state.reached(handle, version))?;
        self.device().map(|_| ())
    }

    /// Milliseconds from one event to another.
    pub fn elapsed(&mut self, from: u64, to: u64) -> Result<f32> {
        let device = self.device()?;
        let mut times = [0.0; 2];
        for (handle, time) in [from, to].into_iter().zip(&mut times) {
            let event = object!(self.events[handle], device);
            if !event.timed || event.recorded == 0 {
                return self.refuse(INVALID_HANDLE, "an event without a time");
            }
            if event.reached < event.recorded {
                return Err(NOT_READY);
            }
            *time = event.at;
        }
        Ok((times[1] - times[0]) as f32)
    }

    /// Runs work of any stream until the condition holds.
    pub fn run_until(&mut self, done: impl Fn(&State) -> bool) -> Result {
        while !done(self) {
            if !self.step() {
                return self.refuse(UNKNOWN, "work waits for an event that nothing reaches");
            }
        }
        Ok(())
    }

    /// Does all work of a device.
    pub fn drain(&mut self, device: usize) {
        // What remains then was complained about.
        let _ = self.run_until(|state| {
            let mut streams = state.streams.items.values();
            streams.all(|(owner, stream)| *owner != device || stream.queue.is_empty())
        });
    }

    /// Whether queued copies of a device touch a range.
    pub fn copies_touch(&self, device: usize, start: u64, bytes: u64) -> bool {
        let mut streams = self.streams.items.values();
        streams.any(|(owner, stream)| {
            *owner == device
                && stream
                    .queue
                    .iter()
                    .any(|op| op.touches(start, start + bytes))
        })
    }

    /// Whether queued work uses a module's functions.
    pub fn launches_use(&self, module: u64) -> bool {
        let mut streams = self.streams.items.values();
        streams.any(|(_, stream)| {
            stream.queue.iter().any(|op| match op {
                Op::Launch(launch) => launch.module == module,
                Op::Graph(run) => run
                    .nodes
                    .iter()
                    .any(|node| node.work.module() == Some(module)),
                _ => false,
            })
        })
    }

    fn may_run(&self, op: &Op) -> bool {
        match op {
            Op::Wait { event, version } => self.reached(*event, *version),
            Op::Graph(run) => run.may_go_on(),
            _ => true,
        }
    }

    /// Does one piece of work; whether there was any that may be done.
    fn step(&mut self) -> bool {
        let mut ready = Vec::new();
        for (handle, (_, stream)) in &self.streams.items {
            if stream.queue.front().is_some_and(|op| self.may_run(op)) {
                ready.push(*handle);
            }
        }
        let Some(handle) = self.random.pick(&ready) else {
            return false;
        };
        let front = self.streams.items.get_mut(&handle);
        let Some((device, op)) = front.and_then(|(d, s)| Some((*d, s.queue.pop_front()?))) else {
            return false;
        };
        let rest = self.execute(device, op);
        if let (Some(rest), Some((_, stream))) = (rest, self.streams.items.get_mut(&handle)) {
            stream.queue.push_front(rest);
        }
        self.drop_done_streams();
        true
    }

    /// Does a piece of an operation; what is left of it. A lost device does nothing more.
    fn execute(&mut self, device: usize, op: Op) -> Option<Op> {
        let lost = self.devices[device].sticky.is_some();
        match op {
            Op::Record { event, version } => {
                self.clock += 0.001;
                let now = self.clock;
                if let Some((_, event)) = self.events.items.get_mut(&event) {
                    event.reached = event.reached.max(version);
                    event.at = now;
                }
            }
            Op::Wait { .. } => {}
            Op::Graph(run) => return self.execute_graph(device, lost, run),
            _ if lost => {}
            Op::Upload { to, from, bytes } => {
                let from = match &from {
                    Source::Pinned(at) => *at,
                    Source::Staged(staged) => staged.as_ptr() as u64,
                };
                self.copy(to, from, bytes);
            }
            Op::Copy { to, from, bytes } => self.copy(to, from, bytes),
            Op::Launch(launch) => self.execute_launch(device, &launch),
            Op::Product(product) => self.execute_product(device, &product),
        }
        None
    }

    fn copy(&mut self, to: u64, from: u64, bytes: usize) {
        self.clock += 0.002 + bytes as f64 / 2e9;
        // SAFETY: both ranges were checked when the copy was queued. Freeing either, on the
        // device or pinned, does all queued work first; other host memory is the caller's
        // until the call returns, and is read or written before that. They may overlap.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) }
    }

    /// Checks a range of device memory for a copy.
    pub fn check_range(&mut self, at: u64, bytes: usize, device: usize, what: &str) -> Result {
        let block = self.memory.find(at);
        let problem = match block {
            Some(block) if block.place != Place::Device(device) => {
                format!("is {:?} memory, and not of device {device}", block.place)
            }
            Some(block) if at + bytes as u64 > block.address() + block.bytes as u64 => {
                format!(
                    "ends {} bytes later",
                    block.address() + block.bytes as u64 - at
                )
            }
            Some(_) => return Ok(()),
            None if self.memory.was_freed(at) => "was freed".to_string(),
            None => "is no device memory".to_string(),
        };
        self.refuse(
            INVALID_VALUE,
            format!("{what} {at:#x} of {bytes} bytes: {problem}"),
        )
    }

    /// Whether a range of the host is pinned.
    pub fn is_pinned(&mut self, at: u64, bytes: usize) -> Result<bool> {
        match self.memory.find(at) {
            Some(block) if matches!(block.place, Place::Pinned(_)) => {
                match at + bytes as u64 <= block.address() + block.bytes as u64 {
                    true => Ok(true),
                    false => self.refuse(INVALID_VALUE, "the range ends behind its pinned memory"),
                }
            }
            Some(block) if at < block.address() + block.bytes as u64 => {
                self.refuse(INVALID_VALUE, format!("{at:#x} is not memory of the host"))
            }
            _ if self.memory.was_freed(at) => {
                self.refuse(INVALID_VALUE, format!("{at:#x} was pinned and is freed"))
            }
            _ => Ok(false),
        }
    }
}
