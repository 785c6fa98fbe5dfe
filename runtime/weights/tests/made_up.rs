//! Made-up weights repeat, are finite, and keep activations near one.

use hadal_device::{DType, e4m3_to_f32};
use hadal_weights::{
    Declared, DummySource, DummyTensor, FileType, TensorSource, WeightsError, bind,
};

fn tensor(name: &str, shape: &[u64], dtype: DType) -> DummyTensor {
    DummyTensor {
        name: name.into(),
        shape: shape.to_vec(),
        dtype,
    }
}

fn list() -> Vec<DummyTensor> {
    vec![
        tensor("model.embed_tokens.weight", &[100, 64], DType::Bf16),
        tensor("model.layers.0.input_layernorm.weight", &[64], DType::Bf16),
        tensor(
            "model.layers.0.mlp.gate.e_score_correction_bias",
            &[33],
            DType::F32,
        ),
        tensor("model.layers.0.o_proj.weight", &[4096, 4096], DType::F8E4M3),
        tensor(
            "model.layers.0.o_proj.weight_scale_inv",
            &[32, 32],
            DType::F32,
        ),
        tensor("model.layers.1.half", &[64, 1024], DType::F16),
    ]
}

fn floats(source: &DummySource, name: &str) -> Vec<f32> {
    let words = source.bytes(name).unwrap().chunks_exact(4);
    words
        .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

fn bf16(source: &DummySource, name: &str) -> Vec<f32> {
    let words = source.bytes(name).unwrap().chunks_exact(2);
    words
        .map(|word| f32::from_le_bytes([0, 0, word[0], word[1]]))
        .collect()
}

fn rms(values: &[f32]) -> f32 {
    (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
}

#[test]
fn the_same_seed_gives_the_same_numbers_and_another_gives_others() {
    let (one, two, other) = (
        DummySource::new(list(), 7).unwrap(),
        DummySource::new(list(), 7).unwrap(),
        DummySource::new(list(), 8).unwrap(),
    );
    for tensor in list() {
        assert_eq!(
            one.bytes(&tensor.name).unwrap(),
            two.bytes(&tensor.name).unwrap()
        );
        assert_ne!(
            one.bytes(&tensor.name).unwrap(),
            other.bytes(&tensor.name).unwrap()
        );
        assert_eq!(
            one.get(&tensor.name).unwrap().dtype,
            FileType::Weight(tensor.dtype)
        );
    }
    // A tensor's numbers depend on its name, not on its neighbours.
    let few = DummySource::new(list().into_iter().skip(3), 7).unwrap();
    let name = "model.layers.0.o_proj.weight";
    assert_eq!(few.bytes(name).unwrap(), one.bytes(name).unwrap());
}

#[test]
fn there_is_one_shard_a_layer_and_everything_binds() {
    let source = DummySource::new(list(), 1).unwrap();
    assert_eq!(source.shards().len(), 3);
    let declared: Vec<Declared> = list()
        .iter()
        .filter(|tensor| !tensor.name.ends_with("_scale_inv"))
        .map(|tensor| {
            Declared::new(
                &tensor.name,
                &tensor.shape.iter().map(|e| *e as u32).collect::<Vec<_>>(),
            )
        })
        .collect();
    bind(&declared, &source)
        .unwrap()
        .check_values(&source)
        .unwrap();
}

#[test]
fn products_with_made_up_weights_keep_their_size() {
    let source = DummySource::new(list(), 3).unwrap();
    let codes = source.bytes("model.layers.0.o_proj.weight").unwrap();
    assert!(codes.iter().all(|code| code & 0x7F != 0x7F));
    let values: Vec<f32> = codes.iter().map(|code| e4m3_to_f32(*code)).collect();
    let scales = floats(&source, "model.layers.0.o_proj.weight_scale_inv");
    let gain = rms(&values) * rms(&scales) * 4096f32.sqrt();
    assert!((0.7..1.5).contains(&gain), "{gain}");
    let embedding = rms(&bf16(&source, "model.embed_tokens.weight")) * 64f32.sqrt();
    assert!((0.5..2.0).contains(&embedding), "{embedding}");
    let norm = bf16(&source, "model.layers.0.input_layernorm.weight");
    assert!(norm.iter().all(|value| (1.0..1.2).contains(value)));
    let bias = floats(&source, "model.layers.0.mlp.gate.e_score_correction_bias");
    assert!(bias.iter().all(|value| value.abs() < 0.02));
    let half = source.bytes("model.layers.1.half").unwrap();
    // 2^-5 = 1 / sqrt(1024): exponent field 10.
    assert!(half.chunks_exact(2).all(|word| (word[1] & 0x7C) >> 2 == 10));
}

#[test]
fn impossible_lists_are_refused() {
    let twice = [tensor("a", &[1], DType::F32), tensor("a", &[1], DType::F32)];
    assert!(
        DummySource::new(twice, 0)
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
    let huge = [tensor("a", &[u64::MAX, 2], DType::F32)];
    assert!(
        DummySource::new(huge, 0)
            .unwrap_err()
            .to_string()
            .contains("not possible")
    );
}

#[test]
fn weights_larger_than_any_memory_are_refused_at_once() {
    let large = (0..8).map(|layer| {
        let name = format!("model.layers.{layer}.weight");
        tensor(&name, &[1 << 57], DType::F32)
    });
    let error = DummySource::new(large, 0).unwrap_err();
    // Where the system does not say what is left, the first allocation fails.
    let text = error.to_string();
    assert!(
        text.contains("4611686018427387904 bytes, but only") || text.contains("out of host memory"),
        "{text}"
    );
    assert!(
        cfg!(not(target_os = "linux")) || matches!(error, WeightsError::NoMemory { .. }),
        "{text}"
    );
}
