//! Device memory: an allocation of the driver's each, or a piece of one for what is small.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hadal_device::{Error, Result};

use crate::driver::status;
use crate::driver::table::Address;
use crate::gpu::{Entered, Gpu};
use crate::lanes::Marks;

/// How much of the device's memory is in use, and may be.
pub struct Budget {
    limit: Option<u64>,
    taken: AtomicU64,
}

impl Budget {
    /// At most `limit`, or what the driver has.
    pub fn new(limit: Option<u64>) -> Budget {
        Budget {
            limit,
            taken: AtomicU64::new(0),
        }
    }

    /// Takes `bytes`, if there are as many left.
    fn take(&self, bytes: u64) -> bool {
        let limit = self.limit.unwrap_or(u64::MAX);
        let more = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= limit);
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
            .is_ok()
    }

    fn give(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// Bytes that nobody has of the memory of `gpu`.
pub fn free(gpu: &Gpu, entered: &Entered) -> Result<usize> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the places live.
    let status = unsafe { (entered.calls().mem_info)(&mut free, &mut total) };
    gpu.done(status, "asking for free memory")?;
    Ok(free)
}

/// An allocation.
pub struct Memory {
    /// Where it begins.
    pub address: Address,
    /// Its length.
    pub bytes: u64,
    /// What of it is under way.
    pub marks: Arc<Marks>,
    budget: Arc<Budget>,
    gpu: Arc<Gpu>,
}

impl Memory {
    /// `bytes` bytes for `label`.
    pub fn new(gpu: &Arc<Gpu>, budget: &Arc<Budget>, label: &str, bytes: u64) -> Result<Memory> {
        let entered = gpu.enter()?;
        let full = || Error::OutOfMemory {
            what: label.into(),
            memory: gpu.name.clone(),
            wanted_bytes: bytes,
        };
        let length = usize::try_from(bytes.max(1)).map_err(|_| full())?;
        // Some drivers give more than there is and are slow from then on.
        if length > free(gpu, &entered)? || !budget.take(bytes) {
            return Err(full());
        }
        let mut address = 0;
        // SAFETY: `address` lives.
        let status = unsafe { (entered.calls().mem_alloc)(&mut address, length) };
        if status != status::OK {
            budget.give(bytes);
            return Err(gpu.error(status, label, bytes));
        }
        gpu.count_buffer();
        Ok(Memory {
            address,
            bytes,
            marks: Arc::default(),
            budget: budget.clone(),
            gpu: gpu.clone(),
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let (entered, _) = self.gpu.enter_lost();
        // SAFETY: it was allocated once, and nothing that uses it is under way: whoever
        // drops it has waited.
        unsafe { (entered.calls().mem_free)(self.address) };
        self.budget.give(self.bytes);
    }
}

/// Bytes of a block.
const BLOCK: u64 = 1 << 20;

/// Pieces begin at multiples of this: a line of every device's caches.
const ALIGN: u64 = 256;

/// Blocks that pieces are cut from.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Block>>);

struct Block {
    memory: Arc<Memory>,
    /// Free ranges in order, none beside another: begin and length.
    free: Vec<(u64, u64)>,
}

/// A range of a block; given back when it goes.
pub struct Piece {
    /// The block's memory.
    pub memory: Arc<Memory>,
    /// Where it begins there.
    pub offset: u64,
    bytes: u64,
    pool: Arc<Pool>,
}

impl Piece {
    /// Where it begins.
    pub fn address(&self) -> Address {
        self.memory.address + self.offset
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut blocks = self.pool.lock();
        let is_it = |block: &Block| Arc::ptr_eq(&block.memory, &self.memory);
        if let Some(place) = blocks.iter().position(is_it) {
            blocks[place].give((self.offset, self.bytes));
            // One empty block is kept, so that the same work again allocates nothing.
            let is_empty = |block: &Block| block.is_empty();
            if is_empty(&blocks[place])
                && (self.memory.bytes > BLOCK || blocks.iter().filter(|b| is_empty(b)).count() > 1)
            {
                blocks.remove(place);
            }
        }
    }
}

impl Block {
    fn is_empty(&self) -> bool {
        self.free == [(0, self.memory.bytes)]
    }

    /// The first free range of `bytes` bytes.
    fn take(&mut self, bytes: u64) -> Option<u64> {
        take(&mut self.free, bytes)
    }

    fn give(&mut self, range: (u64, u64)) {
        give(&mut self.free, range);
    }
}

/// The beginning of the first of the ranges `free` that has `bytes` bytes, which it loses.
fn take(free: &mut Vec<(u64, u64)>, bytes: u64) -> Option<u64> {
    let place = free.iter().position(|(_, length)| *length >= bytes)?;
    let (begin, length) = free[place];
    match length - bytes {
        0 => {
            free.remove(place);
        }
        rest => free[place] = (begin + bytes, rest),
    }
    Some(begin)
}

/// Puts a range back in its place, grown together with its neighbours.
fn give(free: &mut Vec<(u64, u64)>, (begin, bytes): (u64, u64)) {
    let place = free.partition_point(|(other, _)| *other < begin);
    free.insert(place, (begin, bytes));
    if free
        .get(place + 1)
        .is_some_and(|(next, _)| *next == begin + bytes)
    {
        free[place].1 += free.remove(place + 1).1;
    }
    if place > 0 && free[place - 1].0 + free[place - 1].1 == begin {
        free[place - 1].1 += free.remove(place).1;
    }
}

impl Pool {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Block>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bytes` bytes of a block; a block of its own for what is long.
    pub fn piece(
        self: &Arc<Self>,
        gpu: &Arc<Gpu>,
        budget: &Arc<Budget>,
        bytes: u64,
    ) -> Result<Piece> {
        let bytes = bytes.max(1).next_multiple_of(ALIGN);
        let mut blocks = self.lock();
        let piece = |block: &mut Block| {
            let offset = block.take(bytes)?;
            Some(Piece {
                memory: block.memory.clone(),
                offset,
                bytes,
                pool: self.clone(),
            })
        };
        if let Some(piece) = blocks.iter_mut().find_map(piece) {
            return Ok(piece);
        }
        let memory = Memory::new(gpu, budget, "tables of addresses", bytes.max(BLOCK))?;
        let mut block = Block {
            free: vec![(0, memory.bytes)],
            memory: Arc::new(memory),
        };
        let made = piece(&mut block);
        blocks.push(block);
        made.ok_or_else(|| Error::Invalid("a new block is too short".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, give, take};

    #[test]
    fn ranges_given_back_grow_together() {
        let mut free = vec![(0, 1000)];
        let pieces: Vec<_> = (0..10).map(|_| take(&mut free, 100)).collect();
        assert_eq!(pieces, (0..10).map(|n| Some(100 * n)).collect::<Vec<_>>());
        assert_eq!((take(&mut free, 1), free.len()), (None, 0));
        for begin in [300, 100, 700, 200, 0, 900, 800, 500] {
            give(&mut free, (begin, 100));
        }
        assert_eq!(free, [(0, 400), (500, 100), (700, 300)]);
        assert_eq!(take(&mut free, 300), Some(0));
        assert_eq!(take(&mut free, 300), Some(700));
        give(&mut free, (400, 100));
        assert_eq!(free, [(300, 300)]);
    }

    #[test]
    fn a_budget_is_never_overdrawn() {
        let budget = Budget::new(Some(100));
        assert!(budget.take(60) && !budget.take(41) && budget.take(40));
        assert!(!budget.take(u64::MAX));
        budget.give(60);
        assert!(budget.take(60));
    }
}
