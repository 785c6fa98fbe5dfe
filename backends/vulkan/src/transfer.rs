//! Bytes between host and device, through mapped memory of bounded size.
//!
//! A short write goes down the compute lane: a queue of its own would cost two semaphores.
//! A long one, of weights most likely, goes down the transfer lane and runs beside programs
//! that do not touch its buffer.

use std::sync::Arc;

use hadal_device::{Result, Ticket};
use vulkano::buffer::BufferUsage;

use crate::gpu::Gpu;
use crate::memory::{Memory, Place};
use crate::record::Commands;

/// Bytes of a piece. Two pieces are under way: one being filled, one being copied.
const PIECE: usize = 8 << 20;

/// Writes from this length on are long.
const LONG: usize = 256 << 10;

/// The way a stage's last copy went.
#[derive(Clone, Copy)]
enum Last {
    Compute(Ticket),
    Transfer(u64),
}

/// Mapped memory and the commands that copy it.
struct Stage {
    gpu: Arc<Gpu>,
    memory: Memory,
    commands: Commands,
    last: Last,
}

impl Stage {
    fn new(gpu: &Arc<Gpu>, place: Place, family: u32) -> Result<Stage> {
        let memory = Memory::new(gpu, "staging", PIECE as u64, BufferUsage::empty(), place)?;
        let commands = Commands::new(&gpu.device, family)
            .map_err(|error| gpu.error(error, "command buffers", 0))?;
        Ok(Stage {
            memory,
            commands,
            last: Last::Compute(Ticket(0)),
            gpu: gpu.clone(),
        })
    }

    fn wait(&self) -> Result<()> {
        match self.last {
            Last::Compute(ticket) => self.gpu.wait(ticket),
            Last::Transfer(point) => self.gpu.wait_upload(point),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The commands must not go while they run.
        if self.wait().is_err() {
            self.gpu.drain();
        }
    }
}

/// Staging memory of a device, made when first needed.
#[derive(Default)]
pub struct Staging {
    short: [Option<Stage>; 2],
    long: [Option<Stage>; 2],
    next: usize,
    down: Option<Stage>,
}

fn made<'s>(
    stage: &'s mut Option<Stage>,
    gpu: &Arc<Gpu>,
    place: Place,
    family: u32,
) -> Result<&'s mut Stage> {
    let found = match stage.take() {
        Some(found) => found,
        None => Stage::new(gpu, place, family)?,
    };
    Ok(stage.insert(found))
}

impl Staging {
    /// Writes `bytes` at `offset` of `to`, in order with submits. Returns before the device
    /// has copied the last piece.
    pub fn write(&mut self, gpu: &Arc<Gpu>, to: &Memory, offset: u64, bytes: &[u8]) -> Result<()> {
        let long = bytes.len() >= LONG;
        let mut at = offset;
        for piece in bytes.chunks(PIECE) {
            self.next = 1 - self.next;
            let (stages, family) = match long {
                true => (&mut self.long, gpu.transfer_family()),
                false => (&mut self.short, gpu.family()),
            };
            let stage = made(&mut stages[self.next], gpu, Place::Upload, family)?;
            stage.wait()?;
            // SAFETY: the last copy from it is done. The copy's ranges lie in the buffers:
            // the device checked `offset` and the length, and a piece fits the stage.
            stage.last = unsafe {
                stage.memory.bytes_mut()[..piece.len()].copy_from_slice(piece);
                let copy = ((stage.memory.handle(), 0), (to.handle(), at));
                let recorded = stage.commands.record(|commands| {
                    match long {
                        // Those of the other lane are waited for by semaphore.
                        true => commands.barrier_between_copies(),
                        false => commands.barrier(),
                    }
                    commands.copy(copy.0, copy.1, piece.len() as u64);
                });
                recorded.map_err(|error| gpu.error(error, "recording", 0))?;
                let commands = stage.commands.handle();
                match long {
                    true => Last::Transfer(gpu.upload(commands, &to.marks)?),
                    false => Last::Compute(gpu.submit(commands, &to.marks)?),
                }
            };
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads `bytes.len()` bytes at `offset` of `from`, after everything submitted before.
    pub fn read(
        &mut self,
        gpu: &Arc<Gpu>,
        from: &Memory,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        let mut at = offset;
        for piece in bytes.chunks_mut(PIECE) {
            let stage = made(&mut self.down, gpu, Place::Download, gpu.family())?;
            // SAFETY: as in `write`; each copy is waited for.
            unsafe {
                let to = stage.memory.handle();
                let recorded = stage.commands.record(|commands| {
                    commands.barrier();
                    commands.copy((from.handle(), at), (to, 0), piece.len() as u64);
                    commands.barrier_to_host();
                });
                recorded.map_err(|error| gpu.error(error, "recording", 0))?;
                let ticket = gpu.submit(stage.commands.handle(), &from.marks)?;
                stage.last = Last::Compute(ticket);
                gpu.wait(ticket)?;
                piece.copy_from_slice(&stage.memory.bytes_mut()[..piece.len()]);
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}
