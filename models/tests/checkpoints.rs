//! The published lists of tensors bind to published checkpoints: to all of the 671B one from
//! its headers alone, and to the golden files where they are at hand.

use std::collections::BTreeMap;
use std::path::Path;

use hadal_device::{DType, DeviceInfo, DeviceKind, Features, Limits};
use hadal_models::Config;
use hadal_models::manifest::{mtp_copies, official_manifest};
use hadal_weights::{
    Checkpoint, Declared, FileType, Placement, Shard, TensorInfo, TensorSource, WeightsError, bind,
};

/// A checkpoint of which only the headers are known.
struct Headers(BTreeMap<String, TensorInfo>);

impl Headers {
    fn of(config: &Config) -> Headers {
        let mut offset = 0;
        let tensors = official_manifest(config).into_iter().map(|tensor| {
            let bytes = tensor.bytes();
            let dtype = FileType::Weight(tensor.dtype);
            let info = TensorInfo {
                dtype,
                shape: tensor.shape,
                shard: 0,
                offset,
                bytes,
            };
            offset += bytes;
            (tensor.name, info)
        });
        Headers(tensors.collect())
    }
}

impl TensorSource for Headers {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.keys().map(String::as_str))
    }

    fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.0.get(name)
    }

    fn shards(&self) -> &[Shard] {
        &[]
    }
}

fn published(name: &str) -> Config {
    let path = format!(
        "{}/fixtures/configs/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    Config::from_json(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The published list as a model would declare it: experts as tables, copies as aliases.
fn declared(config: &Config) -> Vec<Declared> {
    let copies = mtp_copies(config);
    let mut list: Vec<Declared> = copies
        .iter()
        .map(|copy| Declared::alias(&copy.name, copy.of, &copy.shape))
        .collect();
    for tensor in official_manifest(config) {
        let shape: Vec<u32> = tensor.shape.iter().map(|edge| *edge as u32).collect();
        let copy = copies.iter().any(|copy| copy.name == tensor.name);
        if copy || tensor.name.ends_with("_scale_inv") {
            continue;
        }
        match tensor.name.split_once(".experts.") {
            None => list.push(Declared::new(tensor.name, &shape)),
            Some((before, after)) if after.starts_with("0.") => {
                let name = format!("{before}.experts.{{}}{}", &after[1..]);
                list.push(Declared::table(
                    name,
                    config.n_routed_experts,
                    [shape[0], shape[1]],
                ));
            }
            Some(_) => {}
        }
    }
    list
}

/// A device with the least that WebGPU promises.
fn least_webgpu() -> DeviceInfo {
    DeviceInfo {
        backend: "wgpu",
        ordinal: 0,
        name: "least".into(),
        driver: String::new(),
        kind: DeviceKind::IntegratedGpu,
        features: Features::WGSL,
        limits: Limits {
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
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

#[test]
fn every_published_checkpoint_fits_the_least_webgpu_limits() {
    for name in [
        "deepseek_v3",
        "kimi_k2",
        "moonlight_16b",
        "glm_47_flash",
        "deepseek_v2_lite",
        "deepseek_v2",
    ] {
        let config = published(name);
        let (headers, info) = (Headers::of(&config), least_webgpu());
        let placement = Placement::plan(&declared(&config), &headers, &info).unwrap();
        let needed = hadal_models::counts::Counts::of(&config).bytes();
        let padding = placement.total_bytes() - needed;
        assert!(
            padding * 1000 < needed,
            "{name}: {padding} bytes of padding for {needed}"
        );
        assert!(
            placement
                .buffer_bytes()
                .iter()
                .all(|bytes| *bytes <= 256 << 20),
            "{name}"
        );
    }
}

#[test]
fn a_checkpoint_with_a_module_that_the_configuration_omits_names_the_key() {
    let config = published("deepseek_v3");
    let mut without = config.clone();
    without.num_nextn_predict_layers = 0;
    let error = bind(&declared(&without), &Headers::of(&config)).unwrap_err();
    let WeightsError::Mismatch { problems, more } = &error else {
        panic!("{error}")
    };
    assert_eq!((problems.len(), *more), (1, 0), "{error}");
    assert!(
        problems[0].what.contains("num_nextn_predict_layers"),
        "{error}"
    );
    // The other way round the module's tensors are missing, each by name.
    let error = bind(&declared(&config), &Headers::of(&without)).unwrap_err();
    assert!(error.to_string().contains("model.layers.61."), "{error}");
}

/// Converted copies keep the published `config.json`, or lose its `quantization_config`.
#[test]
fn the_files_and_not_the_configuration_decide_the_number_format() {
    let fp8 = published("deepseek_v3").cut(Some(4), Some(16)).unwrap();
    let mut bf16 = fp8.clone();
    bf16.fp8 = None;
    for (config, files, dtype) in [(&fp8, &bf16, DType::Bf16), (&bf16, &fp8, DType::F8E4M3)] {
        let bound = bind(&declared(config), &Headers::of(files)).unwrap();
        let matrix = bound
            .weights
            .iter()
            .find(|weight| weight.name.ends_with("o_proj.weight"));
        assert_eq!(matrix.unwrap().dtype, dtype);
        assert_eq!(matrix.unwrap().scales.is_empty(), dtype == DType::Bf16);
    }
}

#[test]
fn the_golden_checkpoints_bind() {
    let Some(dir) = std::env::var_os("HADAL_GOLDEN") else {
        return println!("not run: the_golden_checkpoints_bind (HADAL_GOLDEN is not set)");
    };
    for case in ["p01_v3_groups", "p02_fp8_ragged_mtp", "p03_moonlight"] {
        let folder = Path::new(&dir).join(case);
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config = Config::from_json(&text).unwrap();
        assert!(
            config.unknown_keys.is_empty(),
            "{case}: {:?}",
            config.unknown_keys
        );
        let source = Checkpoint::open(&folder).unwrap();
        let bound = bind(&declared(&config), &source).unwrap();
        bound.check_values(&source).unwrap();
        for tensor in official_manifest(&config) {
            let found = source.get(&tensor.name).unwrap();
            assert_eq!(found.shape, tensor.shape, "{case}: {}", tensor.name);
            assert_eq!(
                found.dtype,
                FileType::Weight(tensor.dtype),
                "{case}: {}",
                tensor.name
            );
        }
        Placement::plan(&declared(&config), &source, &least_webgpu()).unwrap();
    }
}
