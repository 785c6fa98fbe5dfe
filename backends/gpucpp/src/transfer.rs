//! Bytes between host and device, through pinned memory of bounded size.
//!
//! A short write goes down the compute lane. A long one, of weights most likely, goes down
//! the transfer lane and runs beside programs that do not touch its buffer.

use std::sync::{Arc, Mutex, PoisonError};

use hadal_device::Result;

use crate::gpu::{Gpu, Object};
use crate::lanes::Lanes;
use crate::memory::Memory;

/// Writes up to this length are short.
const SHORT: usize = 64 << 10;

/// Short writes that may be under way.
const SHORTS: usize = 16;

/// Bytes of a piece of a long write or a read. Two are under way: one is filled or emptied,
/// one is copied.
const PIECE: usize = 4 << 20;

/// Pinned memory in equal slots that are used in turn.
struct Ring {
    pinned: Object,
    slot: usize,
    /// The point that each slot was last used for.
    points: Vec<u64>,
    next: usize,
}

impl Ring {
    fn new(gpu: &Arc<Gpu>, slot: usize, slots: usize) -> Result<Ring> {
        Ok(Ring {
            pinned: Object::pinned(gpu, slot * slots)?,
            slot,
            points: vec![0; slots],
            next: 0,
        })
    }

    /// The next slot's number and memory, which is free when its point is reached.
    fn turn(&mut self) -> (usize, *mut u8) {
        let number = self.next;
        self.next = (number + 1) % self.points.len();
        (number, self.at(number))
    }

    fn at(&self, number: usize) -> *mut u8 {
        self.pinned
            .handle()
            .cast::<u8>()
            .wrapping_add(number * self.slot)
    }
}

/// The ring in `place`, made when first needed.
fn made<'r>(
    place: &'r mut Option<Ring>,
    gpu: &Arc<Gpu>,
    slot: usize,
    slots: usize,
) -> Result<&'r mut Ring> {
    let found = match place.take() {
        Some(found) => found,
        None => Ring::new(gpu, slot, slots)?,
    };
    Ok(place.insert(found))
}

/// Staging memory for writes, with a lock for each kind: a step's inputs do not wait for an
/// upload of weights. Whoever drops it has waited for the lanes.
#[derive(Default)]
pub struct Up {
    short: Mutex<Option<Ring>>,
    long: Mutex<Option<Ring>>,
}

impl Up {
    /// Writes `bytes` at `offset` of `to`, which has room for them, in order with submits.
    /// Returns before the device has copied the last piece.
    pub fn write(
        &self,
        (gpu, lanes): (&Arc<Gpu>, &Lanes),
        to: &Memory,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        let is_long = bytes.len() > SHORT;
        let (place, slot, slots) = match is_long {
            true => (&self.long, PIECE, 2),
            false => (&self.short, SHORT, SHORTS),
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = made(&mut place, gpu, slot, slots)?;
        let mut address = to.address + offset;
        for piece in bytes.chunks(ring.slot) {
            let (number, slot) = ring.turn();
            match is_long {
                true => lanes.wait_upload(ring.points[number])?,
                false => lanes.wait(hadal_device::Ticket(ring.points[number]))?,
            }
            // SAFETY: the slot has room for a piece, its last copy is done, and nobody else
            // has its ring.
            unsafe { slot.copy_from_nonoverlapping(piece.as_ptr(), piece.len()) };
            let copy = |stream| {
                let up = gpu.driver.calls.copy_up;
                let _entered = gpu.enter()?;
                // SAFETY: the caller says that the range lies in the buffer; the slot is not
                // touched before the point is reached.
                let status = unsafe { up(address, slot.cast(), piece.len(), stream) };
                gpu.done(status, "writing")
            };
            ring.points[number] = match is_long {
                true => lanes.upload(&to.marks, copy)?,
                false => lanes.submit(&to.marks, copy)?,
            };
            address += piece.len() as u64;
        }
        Ok(())
    }
}

/// Staging memory for reads.
#[derive(Default)]
pub struct Down(Option<Ring>);

impl Down {
    /// Reads `bytes.len()` bytes at `offset` of `from`, which has as many, after everything
    /// submitted before.
    pub fn read(
        &mut self,
        (gpu, lanes): (&Arc<Gpu>, &Lanes),
        from: &Memory,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        let ring = made(&mut self.0, gpu, PIECE, 2)?;
        let mut address = from.address + offset;
        // One piece is copied by the device while the one before is taken out of its slot.
        let mut before: Option<(&mut [u8], usize)> = None;
        for piece in bytes.chunks_mut(PIECE) {
            // Free: the piece that it was used for has been taken out.
            let (number, slot) = ring.turn();
            let copy = |stream| {
                let down = gpu.driver.calls.copy_down;
                let _entered = gpu.enter()?;
                // SAFETY: the caller says that the range lies in the buffer; the slot has
                // room for a piece, and is not touched before the point is reached.
                let status = unsafe { down(slot.cast(), address, piece.len(), stream) };
                gpu.done(status, "reading")
            };
            ring.points[number] = lanes.submit(&from.marks, copy)?;
            address += piece.len() as u64;
            if let Some((piece, number)) = before.replace((piece, number)) {
                take_out(lanes, ring, piece, number)?;
            }
        }
        match before {
            Some((piece, number)) => take_out(lanes, ring, piece, number),
            None => Ok(()),
        }
    }
}

/// Waits for the copy into slot `number`, and takes `piece` out of it.
fn take_out(lanes: &Lanes, ring: &Ring, piece: &mut [u8], number: usize) -> Result<()> {
    lanes.wait(hadal_device::Ticket(ring.points[number]))?;
    // SAFETY: the slot has room for a piece, and its copy is done.
    unsafe {
        ring.at(number)
            .copy_to_nonoverlapping(piece.as_mut_ptr(), piece.len());
    }
    Ok(())
}
