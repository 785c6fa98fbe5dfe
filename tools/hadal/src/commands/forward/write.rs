//! A safetensors file: header length, header, numbers; all little-endian.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use hadal_engine::{Numbers, Tensor};
use serde_json::{Map, Value, json};

use crate::failure::Result;
use crate::output::Output;

/// Writes `tensors` and gives the file its name.
pub fn write(output: Output, tensors: &[Tensor]) -> Result<()> {
    output.finish(|file| write_to(file, tensors))
}

fn write_to(file: &File, tensors: &[Tensor]) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    // Wide numbers first, so that every number lies at a multiple of its size.
    let mut tensors: Vec<&Tensor> = tensors.iter().collect();
    tensors.sort_by_key(|tensor| matches!(tensor.numbers, Numbers::F32(_)));
    let header = header(&tensors);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for tensor in tensors {
        match &tensor.numbers {
            Numbers::F32(values) => {
                values
                    .iter()
                    .try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
            }
            Numbers::F64(values) => {
                values
                    .iter()
                    .try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
            }
            Numbers::I64(values) => {
                values
                    .iter()
                    .try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
            }
        }
    }
    out.flush()
}

/// The header, padded so that the numbers begin at a multiple of eight.
fn header(tensors: &[&Tensor]) -> String {
    let mut entries = Map::new();
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        let (dtype, bytes) = match &tensor.numbers {
            Numbers::F32(values) => ("F32", 4 * values.len()),
            Numbers::F64(values) => ("F64", 8 * values.len()),
            Numbers::I64(values) => ("I64", 8 * values.len()),
        };
        end += bytes;
        let entry = json!({
            "dtype": dtype,
            "shape": tensor.shape,
            "data_offsets": [start, end],
        });
        entries.insert(tensor.name.clone(), entry);
    }
    let mut text = Value::Object(entries).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_weights::{Checkpoint, TensorSource};

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let tensors = [
            Tensor {
                name: "a".into(),
                shape: vec![1, 2],
                numbers: Numbers::F32(vec![1.5, -2.0]),
            },
            Tensor {
                name: "b".into(),
                shape: vec![1],
                numbers: Numbers::I64(vec![-7]),
            },
        ];
        write(Output::create("--out", &path).unwrap(), &tensors).unwrap();
        let read = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(read.get("a").unwrap().shape, [1, 2]);
        assert_eq!(
            read.bytes("a").unwrap(),
            [1.5f32, -2.0].map(f32::to_le_bytes).concat()
        );
        assert_eq!(read.bytes("b").unwrap(), (-7i64).to_le_bytes());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
