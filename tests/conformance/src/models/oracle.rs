//! The `f64` evaluator over a whole model: expected values for models that no golden file
//! covers. It reads weights from the checkpoint by itself and shares no code with kernels.

use std::collections::BTreeMap;
use std::sync::Arc;

use hadal_device::{DType, e4m3_to_f32};
use hadal_engine::Model;
use hadal_graph::reference::{Caches, Step, Value, evaluate};
use hadal_models::Outputs;
use hadal_weights::{FileType, TensorSource};

/// Values of a tensor of the checkpoint, scales applied.
pub fn dequantise(source: &dyn TensorSource, name: &str) -> Option<Arc<[f64]>> {
    let info = source.get(name)?;
    let bytes = source.bytes(name).ok()?;
    let FileType::Weight(dtype) = info.dtype else {
        return None;
    };
    let two = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    let plain: Vec<f64> = match dtype {
        DType::F32 => bytes
            .chunks(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
            .collect(),
        DType::Bf16 => bytes
            .chunks(2)
            .map(|b| f32::from_bits(u32::from(two(b)) << 16).into())
            .collect(),
        DType::F8E4M3 => bytes.iter().map(|&code| e4m3_to_f32(code).into()).collect(),
        blocks if blocks.is_blocks() => {
            let mut values = vec![0.0; info.shape.iter().product::<u64>() as usize];
            hadal_blocks::decode(blocks, bytes, &mut values);
            values.into_iter().map(f64::from).collect()
        }
        _ => return None,
    };
    if dtype != DType::F8E4M3 {
        return Some(plain.into());
    }
    let columns = *info.shape.last()? as usize;
    let scales = dequantise(source, &name.replace(".weight", ".weight_scale_inv"))?;
    let across = columns.div_ceil(128);
    let scaled = plain.iter().enumerate().map(|(index, value)| {
        let (row, column) = (index / columns, index % columns);
        value * scales[row / 128 * across + column / 128]
    });
    Some(scaled.collect())
}

/// Everything the main model makes of `ids`, by the names of a forward pass.
///
/// # Errors
/// A checkpoint that lacks something, as a sentence.
pub fn forward(model: &Model, ids: &[u32]) -> Result<BTreeMap<String, Value>, String> {
    let source = model.source.as_ref();
    let dtypes = |name: &str| {
        let info = source.get(&name.replace("{}", "0"))?;
        match info.dtype {
            FileType::Weight(dtype) => Some(dtype),
            FileType::Other(_) => None,
        }
    };
    let graph = hadal_models::build(&model.config, &dtypes, Outputs::All);
    let graph = graph.map_err(|e| format!("the model's graph: {e}"))?;
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let frequencies = model.config.inv_freq();
    let multiplier = model.config.rope_multiplier();
    let angles = positions
        .iter()
        .flat_map(|&p| frequencies.iter().map(move |f| f64::from(p) * f));
    let rope: Vec<f64> = angles
        .flat_map(|angle| [angle.cos() * multiplier, angle.sin() * multiplier])
        .collect();
    let step = Step {
        ids,
        positions: &positions,
        sequences: &vec![0; ids.len()],
        hidden: &[],
        logit_rows: &positions,
        rope: &rope,
    };
    let weights = |name: &str| dequantise(source, name);
    let values = evaluate(&graph, &step, &weights, &mut Caches::default());
    values.map_err(|e| format!("the evaluator: {e}"))
}
