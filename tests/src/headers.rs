//! Checkpoints of the size of published ones without their data: what planning reads.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use hadal_device::DType;
use hadal_models::Config;
use hadal_models::manifest::official_manifest;
use serde_json::json;

/// The published configuration of this name.
///
/// # Panics
/// There is none.
pub fn config(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/fixtures/configs");
    std::fs::read_to_string(format!("{folder}/{name}.json")).expect("it is part of the repository")
}

/// Files of `per_file` tensors each with whole headers and holes for data, and their index; how
/// many tensors there are.
///
/// # Panics
/// Where they cannot be written.
pub fn write(folder: &Path, config: &Config, per_file: usize) -> usize {
    let manifest = official_manifest(config);
    let mut index = serde_json::Map::new();
    for (number, tensors) in manifest.chunks(per_file).enumerate() {
        let name = format!("model-{number:05}.safetensors");
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for tensor in tensors {
            let dtype = match tensor.dtype {
                DType::F8E4M3 => "F8_E4M3",
                DType::Bf16 => "BF16",
                _ => "F32",
            };
            let begin = end;
            end += tensor.bytes();
            let entry =
                json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, end]});
            header.insert(tensor.name.clone(), entry);
            index.insert(tensor.name.clone(), name.clone().into());
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut file = File::create(folder.join(&name)).expect("the folder is new");
        file.write_all(&(header.len() as u64).to_le_bytes())
            .expect("there is room");
        file.write_all(header.as_bytes()).expect("there is room");
        file.set_len(8 + header.len() as u64 + end)
            .expect("holes take no room");
    }
    let index = json!({"metadata": {}, "weight_map": index}).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).expect("there is room");
    manifest.len()
}
