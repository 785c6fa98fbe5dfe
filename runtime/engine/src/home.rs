//! Where a model lives: an open device with the model's weights on it, and every buffer
//! that was made there.
//!
//! Decides what is freed when; must not know steps. A lost device takes its home with it,
//! and the engine opens another.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hadal_device::{BufferDesc, BufferId, Device, Span, Ticket};
use hadal_models::Config;
use hadal_weights::{Placement, Progress, TensorSource};

use crate::tenancy::Tenancy;
use crate::{Model, Result};

/// An open device with a model's weights.
pub(crate) struct Home {
    pub device: Arc<dyn Device>,
    /// The same, which can be left.
    tenancy: Arc<Tenancy>,
    /// Where the weights came from, and on some devices still lie.
    pub source: Arc<dyn TensorSource>,
    pub placement: Placement,
    pub weights: Vec<BufferId>,
    pub rope_table: BufferId,
    /// Everything made here and not freed.
    owned: Mutex<HashSet<BufferId>>,
    newest: AtomicU64,
}

impl Home {
    /// Uploads the weights of `model` to where `placement` says, and the rotary table of
    /// `context` positions. Nothing stays allocated on an error.
    pub fn open(
        model: &Model,
        device: Arc<dyn Device>,
        placement: Placement,
        context: u32,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Home> {
        let source = model.source.as_ref();
        let rope_table = upload_rope_table(model, device.as_ref(), context)?;
        let weights = placement
            .load(device.as_ref(), source, progress)
            .inspect_err(|_| device.free(rope_table))?;
        let owned = weights.iter().copied().chain([rope_table]).collect();
        let tenancy = Arc::new(Tenancy::of(device));
        Ok(Home {
            device: tenancy.clone(),
            tenancy,
            source: model.source.clone(),
            placement,
            weights,
            rope_table,
            owned: Mutex::new(owned),
            newest: AtomicU64::new(0),
        })
    }

    fn owned(&self) -> std::sync::MutexGuard<'_, HashSet<BufferId>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for `label`, on each member of the device.
    pub fn alloc(&self, label: impl Into<String>, bytes: u64) -> Result<BufferId> {
        self.alloc_on(None, label, bytes)
    }

    /// The same on `member`.
    pub fn alloc_on(
        &self,
        member: Option<u16>,
        label: impl Into<String>,
        bytes: u64,
    ) -> Result<BufferId> {
        let buffer = self
            .device
            .alloc(&BufferDesc::new(label, bytes).on(member))?;
        self.owned().insert(buffer);
        Ok(buffer)
    }

    /// The device itself.
    ///
    /// # Errors
    /// That it was left.
    pub fn own_device(&self) -> Result<Arc<dyn Device>> {
        Ok(self.tenancy.device()?)
    }

    /// Frees everything and gives the device back, so that it can be opened again.
    pub fn leave(&self) {
        self.release();
        self.tenancy.leave();
    }

    /// Gives memory back that no unfinished submit uses.
    pub fn free(&self, buffer: BufferId) {
        if self.owned().remove(&buffer) {
            self.device.free(buffer);
        }
    }

    /// Something was submitted.
    pub fn started(&self, ticket: Ticket) {
        self.newest.store(ticket.0, Ordering::Release);
    }

    /// The newest submit.
    pub fn newest(&self) -> Ticket {
        Ticket(self.newest.load(Ordering::Acquire))
    }

    /// Waits for the newest submit. Each step does so before its own, so that a cancelled
    /// request stops soon.
    pub fn wait(&self) -> Result<()> {
        Ok(self.device.wait(self.newest())?)
    }

    /// Frees everything: nothing that was made here is used again. Sessions may still name
    /// their buffers; the memory must not wait for them.
    pub fn release(&self) {
        // An error means that the device is gone, and its memory with it.
        let _ = self.wait();
        for buffer in self.owned().drain() {
            self.device.free(buffer);
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.release();
    }
}

/// Positions of the rotary table that are made at a time.
const ROPE_BLOCK: usize = 4096;

/// Bytes of the rotary table of `context` positions.
pub(crate) fn rope_table_bytes(config: &Config, context: u32) -> u64 {
    4 * u64::from(context) * u64::from(config.qk_rope_head_dim)
}

/// Cosine and sine of every position and pair, computed in `f64`: `[context, rope]`,
/// interleaved, times the YaRN multiplier.
fn upload_rope_table(model: &Model, device: &dyn Device, context: u32) -> Result<BufferId> {
    let frequencies = model.config.inv_freq();
    let multiplier = model.config.rope_multiplier();
    let row_bytes = 8 * frequencies.len() as u64;
    let bytes = rope_table_bytes(&model.config, context);
    let buffer = device.alloc(&BufferDesc::new("rope table", bytes))?;
    for first in (0..context).step_by(ROPE_BLOCK) {
        let positions = first..context.min(first.saturating_add(ROPE_BLOCK as u32));
        let rows = positions.len() as u64;
        let angles = positions.flat_map(|p| frequencies.iter().map(move |f| f64::from(p) * f));
        let block: Vec<f32> = angles
            .flat_map(|angle| [angle.cos(), angle.sin()])
            .map(|value| (value * multiplier) as f32)
            .collect();
        let span = Span {
            buffer,
            offset: u64::from(first) * row_bytes,
            bytes: rows * row_bytes,
        };
        let written = device.write(span, bytemuck::cast_slice(&block));
        written.inspect_err(|_| device.free(buffer))?;
    }
    Ok(buffer)
}
