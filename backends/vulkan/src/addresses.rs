//! Expert tables that kernels read through addresses: one buffer with the addresses of all
//! entries of a program, written when its commands are recorded.

use hadal_device::Result;
use hadal_shaders::wgsl_operands::{Table, Work};
use vulkano::buffer::BufferUsage;

use crate::device::Core;
use crate::memory::{Memory, Place, Shared};

/// Bytes of an address.
const ADDRESS: u64 = 8;

/// The addresses of all tables of a program.
pub struct Addresses {
    memory: Memory,
    /// First byte and length of the list of each table, in the order of the program.
    lists: Vec<(u64, u64)>,
}

impl Addresses {
    /// Of the tables of `work` over these buffers; `None` if it has none.
    pub fn new<P>(core: &Core, work: &[Work<P>], buffers: &[Shared]) -> Result<Option<Addresses>> {
        let align = core.info.limits.offset_align as usize;
        let (mut bytes, mut lists) = (Vec::new(), Vec::new());
        for table in work.iter().flat_map(tables) {
            bytes.resize(bytes.len().next_multiple_of(align), 0);
            lists.push((bytes.len() as u64, ADDRESS * table.entries.len() as u64));
            for entry in &table.entries {
                let address = buffers[usize::from(entry.slot.0)].address(&core.gpu) + entry.offset;
                bytes.extend(address.to_le_bytes());
            }
        }
        if lists.is_empty() {
            return Ok(None);
        }
        let usage = BufferUsage::STORAGE_BUFFER;
        let length = bytes.len() as u64;
        let memory = Memory::new(&core.gpu, "table addresses", length, usage, Place::Device)?;
        core.staging().write(&core.gpu, &memory, 0, &bytes)?;
        core.gpu.settle(&memory.marks);
        Ok(Some(Addresses { memory, lists }))
    }

    /// The lists in the order of the program's tables: memory, first byte, length.
    pub fn lists(&self) -> impl Iterator<Item = (&Memory, u64, u64)> {
        let lists = self.lists.iter();
        lists.map(|(offset, bytes)| (&self.memory, *offset, *bytes))
    }
}

/// The tables of a step that are read through addresses.
pub fn tables<P>(work: &Work<P>) -> &[Table] {
    match work {
        Work::Dispatch { tables, .. } => tables,
        _ => &[],
    }
}
