//! Checkpoints written in code, and a device of plain memory that holds callers to the
//! contract of `hadal_device`.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, DeviceKind, Error, Executable, Features,
    Limits, Pages, PipelineId, Program, SetupCounts, Span, Ticket,
};
use hadal_weights::Checkpoint;

/// A tensor to be written: name, format, shape, data.
pub type Tensor = (String, &'static str, Vec<u64>, Vec<u8>);

/// A tensor of the given shape whose bytes count up from `first`.
pub fn tensor(name: &str, dtype: &'static str, shape: &[u64], first: u8) -> Tensor {
    let size = match dtype {
        "F8_E4M3" | "U8" => 1,
        "BF16" | "F16" => 2,
        "F32" => 4,
        "I64" => 8,
        other => panic!("no size for {other}"),
    };
    let bytes = shape.iter().product::<u64>() * size;
    // Below 0x40 no pattern of two or four bytes is an infinity or a NaN.
    let data = (0..bytes)
        .map(|i| (first.wrapping_add(i as u8)) & 0x3F)
        .collect();
    (name.to_string(), dtype, shape.to_vec(), data)
}

/// An f32 tensor.
pub fn scales(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    let data = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    (name.to_string(), "F32", shape.to_vec(), data)
}

/// A header around raw JSON.
pub fn file_of(json: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.extend_from_slice(data);
    file
}

/// A whole safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut json, mut data) = (
        String::from("{\"__metadata__\":{\"format\":\"pt\"}"),
        Vec::new(),
    );
    for (name, dtype, shape, bytes) in tensors {
        let first = data.len();
        data.extend_from_slice(bytes);
        json.push_str(&format!(
            ",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{first},{}]}}",
            data.len()
        ));
    }
    file_of(&(json + "}"), &data)
}

pub fn open(files: &[(&str, Vec<u8>)]) -> Result<Checkpoint, hadal_weights::WeightsError> {
    let pages = |bytes: &Vec<u8>| -> Pages { Arc::new(bytes.clone()) };
    let files = files
        .iter()
        .map(|(name, bytes)| (name.to_string(), pages(bytes)));
    Checkpoint::from_pages(files.collect())
}

pub fn checkpoint(tensors: &[Tensor]) -> Checkpoint {
    open(&[("model.safetensors", safetensors(tensors))]).unwrap()
}

/// Limits small enough that toy weights meet them.
pub fn info(max_binding_bytes: u64, max_buffer_bytes: u64, features: Features) -> DeviceInfo {
    DeviceInfo {
        backend: "memory",
        ordinal: 0,
        name: "plain memory".into(),
        driver: String::new(),
        kind: DeviceKind::Cpu,
        features,
        limits: Limits {
            max_binding_bytes,
            max_buffer_bytes,
            offset_align: 256,
            max_operands: 8,
            max_workgroup: 256,
            max_grid: 65535,
            shared_bytes: 16384,
            subgroup: (0, 0),
            matrix: None,
        },
        memory_bytes: None,
        expand_from_tokens: None,
        members: Vec::new(),
    }
}

/// What a host device says of itself.
pub fn host_info() -> DeviceInfo {
    info(
        u64::MAX,
        u64::MAX,
        Features::HOST.with(Features::POINTER_TABLES),
    )
}

/// Plain memory as a device.
pub struct MemoryDevice {
    pub info: DeviceInfo,
    /// Whether pages can be adopted.
    pub adopts: bool,
    /// Allocations that succeed before memory is full.
    pub allocations: usize,
    pub state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub made: usize,
    pub largest_write: usize,
    pub live: HashMap<u64, Memory>,
}

pub enum Memory {
    Own(Vec<u8>),
    Adopted(Pages),
}

impl Memory {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Memory::Own(bytes) => bytes,
            Memory::Adopted(pages) => (**pages).as_ref(),
        }
    }
}

impl MemoryDevice {
    pub fn new(info: DeviceInfo) -> MemoryDevice {
        MemoryDevice {
            info,
            adopts: false,
            allocations: usize::MAX,
            state: Mutex::default(),
        }
    }

    pub fn live(&self) -> usize {
        self.state.lock().unwrap().live.len()
    }

    pub fn bytes(&self, buffer: BufferId, offset: u64, bytes: u64) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        state.live[&buffer.0].bytes()[offset as usize..(offset + bytes) as usize].to_vec()
    }

    fn keep(&self, memory: Memory) -> BufferId {
        let mut state = self.state.lock().unwrap();
        state.made += 1;
        let id = state.made as u64;
        state.live.insert(id, memory);
        BufferId(id)
    }
}

impl Device for MemoryDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, desc: &BufferDesc) -> hadal_device::Result<BufferId> {
        assert!(
            (1..=self.info.limits.max_buffer_bytes).contains(&desc.bytes),
            "{desc:?}"
        );
        if self.state.lock().unwrap().made >= self.allocations {
            return Err(Error::OutOfMemory {
                what: desc.label.clone(),
                memory: "toy".into(),
                wanted_bytes: desc.bytes,
            });
        }
        // 0xEE shows in a comparison where a byte was not written.
        Ok(self.keep(Memory::Own(vec![0xEE; desc.bytes as usize])))
    }

    fn free(&self, buffer: BufferId) {
        self.state.lock().unwrap().live.remove(&buffer.0);
    }

    fn write(&self, to: Span, bytes: &[u8]) -> hadal_device::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.largest_write = state.largest_write.max(bytes.len());
        assert_eq!(to.bytes, bytes.len() as u64);
        assert!(
            to.offset.is_multiple_of(4) && to.bytes.is_multiple_of(4),
            "{to:?}"
        );
        match state.live.get_mut(&to.buffer.0) {
            Some(Memory::Own(own)) => {
                own[to.offset as usize..][..bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            _ => Err(Error::Invalid("write to no buffer of this device".into())),
        }
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> hadal_device::Result<()> {
        bytes.copy_from_slice(&self.bytes(from.buffer, from.offset, from.bytes));
        Ok(())
    }

    fn pipeline(
        &self,
        _: &str,
        _: &Body,
        _: &[(&'static str, u32)],
    ) -> hadal_device::Result<PipelineId> {
        Err(Error::Invalid("plain memory runs nothing".into()))
    }

    fn prepare(&self, _: &Program) -> hadal_device::Result<Box<dyn Executable>> {
        Err(Error::Invalid("plain memory runs nothing".into()))
    }

    fn wait(&self, _: Ticket) -> hadal_device::Result<()> {
        Ok(())
    }

    fn completed(&self) -> Ticket {
        Ticket(0)
    }

    fn adopt(&self, pages: Pages) -> Option<BufferId> {
        self.adopts.then(|| self.keep(Memory::Adopted(pages)))
    }

    fn setup_counts(&self) -> SetupCounts {
        SetupCounts::default()
    }
}
