//! The header of a GGUF file, version 3.
//!
//! Decides how values lie in bytes; must not know what keys mean. Source: the GGUF
//! specification (ggml repository, docs/gguf.md).

use hadal_device::DType;
use hadal_weights::gguf_number;

/// Where tensors begin: multiples of this.
pub const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    U32(u32),
    /// A whole number with a sign.
    I32(i32),
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
    /// A list of numbers.
    Reals(Vec<f32>),
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
        // FP8 has no number; a plan never asks for it.
        out.extend(gguf_number(tensor.format).unwrap_or(0).to_le_bytes());
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
        Value::I32(number) => {
            tag(5);
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
        Value::Reals(list) => {
            tag(LIST);
            tag(6);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
    }
}
