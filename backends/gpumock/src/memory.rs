//! Memory of the mock devices, and pinned memory: on the host, between guard bytes, full of
//! what is not a number when it is new and when it is freed.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, VecDeque};

const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;
const POISON: u8 = 0xff;
/// Freed memory that is kept to be found again, at most.
const QUARANTINE: usize = 64 << 20;

/// Where memory belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The device of this number.
    Device(usize),
    /// Pinned memory of the host, made for this device's context.
    Pinned(usize),
}

/// One allocation.
pub(crate) struct Block {
    base: *mut u8,
    layout: Layout,
    /// Bytes that were asked for.
    pub bytes: usize,
    pub place: Place,
}

// SAFETY: a block owns its memory; the driver's lock orders every access to it.
unsafe impl Send for Block {}

impl Block {
    fn new(bytes: usize, place: Place) -> Option<Block> {
        let size = bytes.checked_add(2 * GUARD)?;
        let layout = Layout::from_size_align(size, GUARD).ok()?;
        // SAFETY: the size is not zero.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            return None;
        }
        let block = Block {
            base,
            layout,
            bytes,
            place,
        };
        // SAFETY: both ranges lie within the allocation of `bytes` and two guards.
        unsafe {
            base.write_bytes(GUARD_BYTE, size);
            base.add(GUARD).write_bytes(POISON, bytes);
        }
        Some(block)
    }

    pub fn address(&self) -> u64 {
        self.base as u64 + GUARD as u64
    }

    fn slice(&self, from: usize, bytes: usize) -> &[u8] {
        // SAFETY: callers name ranges of the allocation, which was filled when it was made.
        unsafe { std::slice::from_raw_parts(self.base.add(from), bytes) }
    }

    /// Whether the bytes around the block were written; they are mended.
    fn damaged(&self) -> bool {
        let after = GUARD + self.bytes;
        let whole = |from| is_full_of(self.slice(from, GUARD), GUARD_BYTE);
        if whole(0) && whole(after) {
            return false;
        }
        // SAFETY: both guards lie within the allocation.
        unsafe {
            self.base.write_bytes(GUARD_BYTE, GUARD);
            self.base.add(after).write_bytes(GUARD_BYTE, GUARD);
        }
        true
    }

    fn poison(&self) {
        // SAFETY: the block's own bytes.
        unsafe { self.base.add(GUARD).write_bytes(POISON, self.bytes) }
    }

    fn is_poison(&self) -> bool {
        is_full_of(self.slice(GUARD, self.bytes), POISON)
    }

    fn name(&self) -> String {
        format!(
            "{:?} memory {:#x} of {} bytes",
            self.place,
            self.address(),
            self.bytes
        )
    }
}

/// Whether all bytes are this one. Compared in pieces and not one by one: all that was freed is looked
/// through again and again.
fn is_full_of(bytes: &[u8], byte: u8) -> bool {
    let full = [byte; 1024];
    let mut pieces = bytes.chunks(full.len());
    pieces.all(|piece| *piece == full[..piece.len()])
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed once.
        unsafe { dealloc(self.base, self.layout) }
    }
}

/// All memory of a driver.
#[derive(Default)]
pub(crate) struct Memory {
    live: BTreeMap<u64, Block>,
    freed: VecDeque<Block>,
}

impl Memory {
    /// New memory, full of poison; nothing where the host has none.
    pub fn allocate(&mut self, bytes: usize, place: Place) -> Option<u64> {
        let block = Block::new(bytes, place)?;
        let address = block.address();
        self.live.insert(address, block);
        Some(address)
    }

    /// The live block that an address lies in, or at the end of.
    pub fn find(&self, address: u64) -> Option<&Block> {
        let block = self.live.range(..=address).next_back()?.1;
        (address - block.address() <= block.bytes as u64).then_some(block)
    }

    /// Whether the address was freed not long ago.
    pub fn was_freed(&self, address: u64) -> bool {
        self.freed.iter().any(|block| {
            address >= block.address() && address < block.address() + block.bytes.max(1) as u64
        })
    }

    /// Frees what begins at an address; complaints about it, or why it cannot be.
    pub fn free(&mut self, address: u64, pinned: bool) -> Result<Vec<String>, String> {
        let fits = |block: &Block| matches!(block.place, Place::Pinned(_)) == pinned;
        if !self.live.get(&address).is_some_and(fits) {
            let why = match self.was_freed(address) {
                true => "was freed before",
                false => "is no such allocation",
            };
            return Err(format!("{address:#x} {why}"));
        }
        let mut complaints = Vec::new();
        if let Some(block) = self.live.remove(&address) {
            if block.damaged() {
                complaints.push(format!("bytes around {} were written", block.name()));
            }
            block.poison();
            self.freed.push_back(block);
        }
        while self.freed.iter().map(|block| block.bytes).sum::<usize>() > QUARANTINE {
            complaints.extend(self.freed.pop_front().and_then(written_late));
        }
        Ok(complaints)
    }

    /// What was written where nobody may, all over the memory.
    pub fn check(&mut self) -> Vec<String> {
        let damaged = self.live.values().filter(|block| block.damaged());
        let mut complaints: Vec<String> = damaged
            .map(|block| format!("bytes around {} were written", block.name()))
            .collect();
        for block in &self.freed {
            if !block.is_poison() || block.damaged() {
                block.poison();
                complaints.push(format!("{} was written after it was freed", block.name()));
            }
        }
        complaints
    }

    /// The same of the live blocks of one device.
    pub fn check_block(&self, address: u64) -> Option<String> {
        let block = self.find(address)?;
        block
            .damaged()
            .then(|| format!("bytes around {} were written", block.name()))
    }

    /// Bytes in use on a device.
    pub fn used(&self, device: usize) -> u64 {
        let of = self.live.values();
        of.filter(|block| block.place == Place::Device(device))
            .map(|block| block.bytes as u64)
            .sum()
    }

    /// Live blocks of the kind.
    pub fn count(&self, pinned: bool) -> usize {
        let of = self.live.values();
        of.filter(|block| matches!(block.place, Place::Pinned(_)) == pinned)
            .count()
    }

    /// Drops all that belongs to a device.
    pub fn forget(&mut self, device: usize) {
        self.live
            .retain(|_, b| b.place != Place::Device(device) && b.place != Place::Pinned(device));
    }

    /// Live blocks of a device, its pinned ones too.
    pub fn count_of(&self, device: usize) -> usize {
        let mine =
            |b: &&Block| b.place == Place::Device(device) || b.place == Place::Pinned(device);
        self.live.values().filter(mine).count()
    }
}

fn written_late(block: Block) -> Option<String> {
    (!block.is_poison()).then(|| format!("{} was written after it was freed", block.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_found_around_live_blocks_and_in_freed_ones() {
        let mut memory = Memory::default();
        let at = memory.allocate(10, Place::Device(0)).unwrap();
        assert!(memory.find(at + 10).is_some() && memory.find(at + 11).is_none());
        assert!(memory.check().is_empty());
        // SAFETY: a guard byte behind the block, which is allocated.
        unsafe { *((at + 10) as *mut u8) = 0 };
        assert_eq!(memory.check().len(), 1);
        assert!(memory.check().is_empty());
        assert!(memory.free(at, true).is_err());
        assert!(memory.free(at, false).unwrap().is_empty());
        assert!(memory.free(at, false).unwrap_err().contains("freed before"));
        // SAFETY: freed blocks are kept, so the byte is still allocated.
        unsafe { *(at as *mut u8) = 0 };
        assert_eq!(memory.check().len(), 1);
    }
}
