//! Bytes between host and device, through staging memory of bounded size.

use std::sync::mpsc;
use std::time::Duration;

use hadal_device::{Error, Result};
use hadal_shaders::wgsl_operands::WORD;

use crate::core::{Core, Handed};

/// Bytes written in one piece. wgpu makes staging memory for each piece and gives it back
/// when the device has copied it.
const WRITE_CHUNK: usize = 16 << 20;

/// Largest staging buffer for reading; longer reads take turns.
const READ_CHUNK: u64 = 16 << 20;

/// How long a finished copy may take to be told of. Only a thread that was stopped by a
/// debugger takes longer than an instant.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(60);

/// Writes `bytes` at `offset` (a multiple of 4) of `buffer`. A length that is no multiple
/// of 4 is filled up with zeros: allowed at the end of a buffer, whose true size is one.
pub fn write(core: &Core, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
    let what = "writing a buffer";
    let stage = |at: u64, chunk: &[u8]| {
        core.caught(what, chunk.len() as u64, || {
            core.queue.write_buffer(buffer, at, chunk);
        })
    };
    let whole = bytes.len() - bytes.len() % WORD as usize;
    let mut before: Option<Handed> = None;
    let mut at = offset;
    for chunk in bytes[..whole].chunks(WRITE_CHUNK) {
        stage(at, chunk)?;
        at += chunk.len() as u64;
        if whole > WRITE_CHUNK {
            // At most two pieces are under way.
            let this = core.hand_over(what, None)?;
            if let Some(earlier) = before.replace(this) {
                core.wait_for(&earlier, what)?;
            }
        }
    }
    if whole < bytes.len() {
        let mut last = [0; WORD as usize];
        last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
        stage(at, &last)?;
    }
    Ok(())
}

/// The staging buffer for reading: kept, so that reading the same amount again allocates
/// nothing.
#[derive(Default)]
pub struct ReadStaging(Option<wgpu::Buffer>);

impl ReadStaging {
    /// Reads `bytes.len()` bytes at `offset` of `buffer` (which ends on a word). Returns
    /// how many buffers it made.
    pub fn read(
        &mut self,
        core: &Core,
        buffer: &wgpu::Buffer,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<u64> {
        let mut made = 0;
        let mut at = offset;
        for part in bytes.chunks_mut(READ_CHUNK as usize) {
            let end = at + part.len() as u64;
            let first = at - at % WORD;
            let length = end.next_multiple_of(WORD) - first;
            let staging = match self.0.take() {
                Some(staging) if staging.size() >= length => staging,
                _ => {
                    made += 1;
                    core.caught(READING, length, || staging_buffer(&core.wgpu, length))?
                }
            };
            let index = core.caught(READING, 0, || {
                let mut encoder = core.encoder("reading");
                encoder.copy_buffer_to_buffer(buffer, first, &staging, 0, length);
                core.queue.submit([encoder.finish()])
            })?;
            let skip = (at - first) as usize;
            read_mapped(core, &staging, Some(index), length, skip, part)?;
            // Kept only after success: what happened to it otherwise is unknown.
            self.0 = Some(staging);
            at = end;
        }
        Ok(made)
    }
}

/// What errors of reading say.
const READING: &str = "reading a buffer";

/// Waits for `index`, where what fills `staging` may be under way, then copies `to.len()` bytes
/// at `skip` of it.
pub fn read_mapped(
    core: &Core,
    staging: &wgpu::Buffer,
    index: Option<wgpu::SubmissionIndex>,
    length: u64,
    skip: usize,
    to: &mut [u8],
) -> Result<()> {
    let failed = |why: String| {
        let error = Error::Invalid(format!("{READING}: {why}"));
        core.blamed(error, READING)
    };
    let (send, receive) = mpsc::channel();
    core.caught(READING, 0, || {
        staging.map_async(wgpu::MapMode::Read, 0..length, move |result| {
            // The receiver waits below; it is gone only after an error.
            let _ = send.send(result);
        });
    })?;
    let mut mapped = None;
    core.wait_until(index, READING, || {
        mapped = receive.try_recv().ok();
        mapped.is_some()
    })?;
    // Another thread's poll may be the one that calls back, a little later than our own
    // wait returns.
    let mapped = match mapped {
        Some(mapped) => mapped,
        None => receive
            .recv_timeout(CALLBACK_TIMEOUT)
            .map_err(|e| failed(e.to_string()))?,
    };
    mapped.map_err(|e| failed(e.to_string()))?;
    core.caught(READING, 0, || {
        let view = staging.get_mapped_range(0..length);
        let view = view.map_err(|e| failed(e.to_string()))?;
        to.copy_from_slice(&view[skip..skip + to.len()]);
        drop(view);
        staging.unmap();
        Ok(())
    })?
}

fn staging_buffer(wgpu: &wgpu::Device, bytes: u64) -> wgpu::Buffer {
    wgpu.create_buffer(&wgpu::BufferDescriptor {
        label: Some("hadal reading"),
        // In steps, so that slightly longer reads need no new one.
        size: bytes.next_power_of_two().max(64 << 10),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}
