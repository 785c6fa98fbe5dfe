//! What measurements of a device itself need: buffers, programs of one step, and the time of
//! a submit.

use std::time::Instant;

use hadal_device::{
    Access, Bind, BufferDesc, BufferId, Device, Executable, Program, Result, Slot, Span, Step,
};

/// Buffers of a measurement, freed with it.
pub struct Buffers<'d> {
    device: &'d dyn Device,
    ids: Vec<BufferId>,
}

impl<'d> Buffers<'d> {
    /// None yet.
    pub fn new(device: &'d dyn Device) -> Buffers<'d> {
        Buffers {
            device,
            ids: Vec::new(),
        }
    }

    /// One more, for the next slot.
    ///
    /// # Errors
    /// Those of the device.
    pub fn add(&mut self, label: &str, bytes: u64) -> Result<()> {
        self.ids
            .push(self.device.alloc(&BufferDesc::new(label, bytes))?);
        Ok(())
    }

    /// One more of `bytes` bytes, `content` again and again.
    ///
    /// # Errors
    /// Those of the device.
    pub fn add_filled(&mut self, label: &str, bytes: u64, content: &[u8]) -> Result<()> {
        let buffer = self.device.alloc(&BufferDesc::new(label, bytes))?;
        self.ids.push(buffer);
        let mut offset = 0;
        while offset < bytes {
            let piece = (bytes - offset).min(content.len() as u64);
            let span = Span {
                buffer,
                offset,
                bytes: piece,
            };
            self.device.write(span, &content[..piece as usize])?;
            offset += piece;
        }
        Ok(())
    }

    /// The table of a submit.
    pub fn ids(&self) -> &[BufferId] {
        &self.ids
    }

    /// Seconds of a submit: by the device's clock, or by this processor's where it has none.
    ///
    /// # Errors
    /// Those of the device.
    pub fn seconds(&self, executable: &mut dyn Executable) -> Result<f64> {
        let started = Instant::now();
        let ticket = executable.submit(&self.ids)?;
        self.device.wait(ticket)?;
        let waited = started.elapsed();
        let time = self.device.gpu_time(ticket).unwrap_or(waited);
        Ok(time.as_secs_f64())
    }
}

impl Drop for Buffers<'_> {
    fn drop(&mut self) {
        self.ids.iter().for_each(|id| self.device.free(*id));
    }
}

/// The whole of the buffer of a slot.
pub fn bind(slot: usize, bytes: u64, access: Access) -> Bind {
    Bind {
        slot: Slot(slot as u16),
        offset: 0,
        bytes,
        access,
    }
}

/// A program of one step.
pub fn program(slots: usize, step: Step) -> Program {
    Program {
        slots: slots as u16,
        steps: vec![step],
    }
}
