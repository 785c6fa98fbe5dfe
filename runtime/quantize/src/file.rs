//! The header of a GGUF file, version 3.
//!
//! Decides how values lie in bytes; must not know what keys mean. Source: the GGUF
//! specification (ggml repository, docs/gguf.md).

use hadal_device::DType;

/// Where tensors begin: multiples of this.
pub const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    U32(u32),
    /// A number.
    F32(f32),
    /// A flag.
    Flag(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of small numbers.
    Numbers(Vec<i32>),
}

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its dimensions, the length of rows first.
    pub dims: Vec<u64>,
    /// Its format.
    pub format: DType,
    /// Its first byte, counted from the end of the header.
    pub offset: u64,
}

/// The header with its padding: data follows at once.
pub fn header(metadata: &[(String, Value)], tensors: &[Described]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        put(&mut out, value);
    }
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.dims.len() as u32).to_le_bytes());
        for edge in &tensor.dims {
            out.extend(edge.to_le_bytes());
        }
        out.extend(kind(tensor.format).to_le_bytes());
        out.extend(tensor.offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

const TEXT: u32 = 8;
const LIST: u32 = 9;

fn put(out: &mut Vec<u8>, value: &Value) {
    let mut tag = |number: u32| out.extend(number.to_le_bytes());
    match value {
        Value::U32(number) => {
            tag(4);
            out.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            tag(6);
            out.extend(number.to_le_bytes());
        }
        Value::Flag(flag) => {
            tag(7);
            out.push(u8::from(*flag));
        }
        Value::Text(words) => {
            tag(TEXT);
            text(out, words);
        }
        Value::Texts(list) => {
            tag(LIST);
            tag(TEXT);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|words| text(out, words));
        }
        Value::Numbers(list) => {
            tag(LIST);
            tag(5);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
    }
}

/// The number of a format in GGUF files.
fn kind(format: DType) -> u32 {
    match format {
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q5_0 => 6,
        DType::Q5_1 => 7,
        DType::Q8_0 => 8,
        DType::Q2K => 10,
        DType::Q3K => 11,
        DType::Q4K => 12,
        DType::Q5K => 13,
        DType::Q6K => 14,
        DType::Iq2Xxs => 16,
        DType::Iq2Xs => 17,
        DType::Iq3Xxs => 18,
        DType::Iq1S => 19,
        DType::Iq4Nl => 20,
        DType::Iq3S => 21,
        DType::Iq2S => 22,
        DType::Iq4Xs => 23,
        DType::U32 => 26,
        DType::Iq1M => 29,
        DType::Bf16 => 30,
        DType::Tq1_0 => 34,
        DType::Tq2_0 => 35,
        // FP8 has no number; a plan never asks for it.
        DType::F32 | DType::F8E4M3 => 0,
    }
}
