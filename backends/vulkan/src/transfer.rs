//! Bytes between host and device, through mapped memory of bounded size.

use std::sync::Arc;

use hadal_device::{Result, Ticket};
use vulkano::buffer::BufferUsage;

use crate::gpu::Gpu;
use crate::memory::{Memory, Place};
use crate::record::Commands;

/// Bytes of a piece. Two pieces are under way: one being filled, one being copied.
const PIECE: usize = 8 << 20;

/// Mapped memory and the commands that copy it.
struct Stage {
    gpu: Arc<Gpu>,
    memory: Memory,
    commands: Commands,
    /// When its last copy is done.
    ticket: Ticket,
}

impl Stage {
    fn new(gpu: &Arc<Gpu>, what: &str, place: Place) -> Result<Stage> {
        Ok(Stage {
            memory: Memory::new(gpu, what, PIECE as u64, BufferUsage::empty(), place)?,
            commands: Commands::new(gpu)?,
            gpu: gpu.clone(),
            ticket: Ticket(0),
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The commands must not go while they run; after a loss nothing runs.
        let _ = self.gpu.wait(self.ticket);
    }
}

/// Staging memory of a device, made when first needed.
#[derive(Default)]
pub struct Staging {
    up: [Option<Stage>; 2],
    next: usize,
    down: Option<Stage>,
}

fn made<'s>(stage: &'s mut Option<Stage>, gpu: &Arc<Gpu>, place: Place) -> Result<&'s mut Stage> {
    let found = match stage.take() {
        Some(found) => found,
        None => Stage::new(gpu, "staging", place)?,
    };
    Ok(stage.insert(found))
}

impl Staging {
    /// Writes `bytes` at `offset` of `to`, in order with submits. Returns before the device
    /// has copied the last piece.
    pub fn write(&mut self, gpu: &Arc<Gpu>, to: &Memory, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = offset;
        for piece in bytes.chunks(PIECE) {
            let stage = made(&mut self.up[self.next], gpu, Place::Upload)?;
            self.next = 1 - self.next;
            gpu.wait(stage.ticket)?;
            // SAFETY: the last copy from it is done. The copy's ranges lie in the buffers:
            // the device checked `offset` and the length, and a piece fits the stage.
            unsafe {
                stage.memory.bytes_mut()[..piece.len()].copy_from_slice(piece);
                let from = stage.memory.handle();
                stage.commands.record(|commands| {
                    commands.copy((from, 0), (to.handle(), at), piece.len() as u64);
                    Ok(())
                })?;
                stage.ticket = gpu.submit(stage.commands.handle())?;
            }
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
            let stage = made(&mut self.down, gpu, Place::Download)?;
            // SAFETY: as in `write`; each copy is waited for.
            unsafe {
                let to = stage.memory.handle();
                stage.commands.record(|commands| {
                    commands.copy((from.handle(), at), (to, 0), piece.len() as u64);
                    commands.barrier_to_host();
                    Ok(())
                })?;
                stage.ticket = gpu.submit(stage.commands.handle())?;
                gpu.wait(stage.ticket)?;
                piece.copy_from_slice(&stage.memory.bytes_mut()[..piece.len()]);
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}
