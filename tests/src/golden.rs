//! Expected values in safetensors form, and comparison with what an engine gives.
//!
//! The folder of golden cases is named by the environment variable `HADAL_GOLDEN`; without
//! it the cases that need it say so and do not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hadal_engine::{Numbers, Tensor};

/// A tensor of expected values.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Values; integers are exact in `f64`.
    pub values: Vec<f64>,
}

/// The golden folder, or `None` after saying that `test` did not run.
pub fn folder(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("HADAL_GOLDEN").map(PathBuf::from);
    if found.is_none() {
        println!("NOT RUN: {test}: set HADAL_GOLDEN to the folder of golden cases");
    }
    found
}

/// Reads a safetensors file of F32, F64, I64, U8 and FP8 tensors; of the last the codes.
pub fn read(path: &Path) -> BTreeMap<String, Expected> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let mut tensors = BTreeMap::new();
    for (name, entry) in header.as_object().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
        let offsets: Vec<usize> = entry["data_offsets"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        let raw = &data[offsets[0]..offsets[1]];
        let values = match entry["dtype"].as_str().unwrap() {
            "F64" => raw
                .chunks(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            "F32" => raw
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
                .collect(),
            "I64" => raw
                .chunks(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
                .collect(),
            "U8" | "F8_E4M3" => raw.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("{name}: dtype {other}"),
        };
        let shape = entry["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        tensors.insert(name.clone(), Expected { shape, values });
    }
    tensors
}

/// The tensor of this name.
pub fn find<'t>(tensors: &'t [Tensor], name: &str) -> &'t Tensor {
    tensors
        .iter()
        .find(|tensor| tensor.name == name)
        .unwrap_or_else(|| panic!("the forward pass gave no {name}"))
}

/// Values of a tensor as `f64`.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    match &tensor.numbers {
        Numbers::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Numbers::F64(v) => v.clone(),
        Numbers::I64(v) => v.iter().map(|&x| x as f64).collect(),
    }
}

/// Largest difference; NaN counts as infinite.
pub fn worst(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "different sizes");
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| {
            if (a - b).is_nan() {
                f64::INFINITY
            } else {
                (a - b).abs()
            }
        })
        .fold(0.0, f64::max)
}

/// Each row's members in ascending order: chosen experts are compared as sets.
pub fn sorted_rows(values: &[f64], width: usize) -> Vec<f64> {
    let mut sorted = values.to_vec();
    for row in sorted.chunks_mut(width) {
        row.sort_by(f64::total_cmp);
    }
    sorted
}

/// Whether the forward pass gave the expected tensor `name`, or need not.
fn is_given(name: &str, found: &[Tensor]) -> bool {
    ["input_ids", "positions"].contains(&name)
        || name.starts_with("logits_")
        || found.iter().any(|tensor| tensor.name == name)
}

/// Compares everything a forward pass gave with the expected values of a case: floats within
/// `tolerance`, ids and routes exactly. `logits` is the name of the expected logits. Gives
/// the largest difference of the logits.
pub fn compare(
    label: &str,
    found: &[Tensor],
    expected: &BTreeMap<String, Expected>,
    logits: &str,
    tolerance: f64,
) -> f64 {
    let mut compared = 0;
    for tensor in found {
        let wanted = if tensor.name == "logits" {
            logits
        } else {
            &tensor.name
        };
        let Some(want) = expected.get(wanted) else {
            continue;
        };
        compared += 1;
        let got = values(tensor);
        assert_eq!(
            got.len(),
            want.values.len(),
            "{label}: size of {}",
            tensor.name
        );
        if tensor.name.ends_with("router_idx") {
            let width = want.shape[1];
            assert_eq!(
                sorted_rows(&got, width),
                sorted_rows(&want.values, width),
                "{label}: {}",
                tensor.name
            );
        } else if tensor.name.ends_with("router_weight") {
            let width = want.shape[1];
            let difference = worst(&sorted_rows(&got, width), &sorted_rows(&want.values, width));
            assert!(
                difference <= tolerance,
                "{label}: {} off by {difference}",
                tensor.name
            );
        } else {
            let exact = matches!(tensor.numbers, Numbers::I64(_));
            let limit = if exact { 0.0 } else { tolerance };
            let difference = worst(&got, &want.values);
            assert!(
                difference <= limit,
                "{label}: {} off by {difference}",
                tensor.name
            );
        }
    }
    let missing: Vec<_> = expected
        .keys()
        .filter(|name| !is_given(name, found))
        .collect();
    assert!(
        missing.is_empty(),
        "{label}: no {missing:?} ({compared} compared)"
    );
    worst(&values(find(found, "logits")), &expected[logits].values)
}
