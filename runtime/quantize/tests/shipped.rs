//! The shipped model through every recipe, interrupted, resumed and damaged.

use std::ops::ControlFlow;
use std::path::Path;

use hadal_device::DType;
use hadal_models::Config;
use hadal_quantize::{
    Choice, Importance, Matrix, Options, Plan, Progress, QuantizeError, RECIPES, Recipe, Stage,
    Summed, TextFiles, Value, Written, part_path, quantize, write_importance,
};
use hadal_weights::{Checkpoint, Gguf, Renamed, TensorInfo, TensorSource, WeightsError};

struct Shipped {
    config: Config,
    source: Checkpoint,
}

fn shipped() -> Shipped {
    Shipped {
        config: Config::from_json(hadal_tiny::CONFIG).unwrap(),
        source: Checkpoint::from_static(&[("embedded", hadal_tiny::WEIGHTS)]).unwrap(),
    }
}

fn options(disk_full_after: Option<u64>) -> Options {
    Options {
        threads: 2,
        verify: true,
        disk_full_after,
    }
}

impl Shipped {
    fn plan(&self, choice: &Choice) -> (Plan, Vec<(String, Value)>) {
        let plan = Plan::new(&self.config, &self.source, choice).unwrap();
        let text = TextFiles {
            tokenizer: String::from_utf8(hadal_tiny::TOKENIZER.to_vec()).unwrap(),
            template: Some("{{ messages }}".into()),
            bos: Some(0),
            stops: vec![1],
        };
        let text = text.keys(&self.config).unwrap();
        let metadata = hadal_quantize::metadata(&self.config, "tiny", text, &plan).unwrap();
        (plan, metadata)
    }

    fn run(
        &self,
        choice: &Choice,
        importance: Option<&Importance>,
        path: &Path,
        options: &Options,
        watch: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Written, QuantizeError> {
        let (plan, metadata) = self.plan(choice);
        quantize(
            &plan,
            &metadata,
            &self.source,
            importance,
            path,
            options,
            watch,
        )
    }
}

/// The file of any source.
fn made(
    plan: &Plan,
    metadata: &[(String, Value)],
    source: &dyn TensorSource,
    path: &Path,
    watch: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Written, QuantizeError> {
    quantize(plan, metadata, source, None, path, &options(None), watch)
}

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn every_recipe_and_every_format_reads_back() {
    let mut shipped = shipped();
    // Two layers have every kind of tensor but the next-token module's.
    shipped.config = shipped.config.cut(Some(2), None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    // Embedding and head are half of the model, and no different from other tensors.
    let ends = [
        ("token_embd*".to_string(), DType::F16),
        ("output*".to_string(), DType::F16),
    ];
    let named = |recipe: &Recipe| Choice {
        tensors: ends.to_vec(),
        ..Choice::new(recipe.name).unwrap()
    };
    let mut choices: Vec<Choice> = RECIPES.iter().map(named).collect();
    for format in DType::BLOCKS {
        let mut choice = Choice::new("BF16").unwrap();
        choice.tensors = vec![("blk.*".into(), format)];
        choices.push(choice);
    }
    for choice in &choices {
        let written = shipped
            .run(choice, None, &path, &options(None), &mut go_on)
            .unwrap();
        assert_eq!(written.bytes, path.metadata().unwrap().len(), "{choice:?}");
        assert!(!part_path(&path).exists());
        let file = Gguf::open(&path).unwrap();
        let read = hadal_models::gguf::config(file.metadata(), &file).unwrap();
        assert_eq!(read.kept_groups(), shipped.config.kept_groups());
        assert_eq!(written.compared.len(), file.names().count());
        for tensor in &written.compared {
            let most = match tensor.format {
                DType::F32 => 1e-9,
                DType::Bf16 | DType::F16 | DType::Q8_0 => 0.01,
                DType::Q6K | DType::Q5K | DType::Q5_0 | DType::Q5_1 => 0.06,
                DType::Q4K | DType::Q4_0 | DType::Q4_1 | DType::Iq4Nl | DType::Iq4Xs => 0.12,
                DType::Q3K | DType::Iq3S | DType::Iq3Xxs => 0.22,
                _ => 0.7,
            };
            assert!(tensor.error <= most, "{tensor:?}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_was_interrupted_goes_on_and_ends_with_the_same_bytes() {
    let shipped = shipped();
    let folder = tempfile::tempdir().unwrap();
    let (whole, path) = (
        folder.path().join("whole.gguf"),
        folder.path().join("cut.gguf"),
    );
    let choice = Choice::new("Q4_K_M").unwrap();
    shipped
        .run(&choice, None, &whole, &options(None), &mut go_on)
        .unwrap();
    let mut calls = 0;
    let mut stop = |_: Progress<'_>| {
        calls += 1;
        match calls < 40 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let stopped = shipped.run(&choice, None, &path, &options(None), &mut stop);
    assert!(matches!(stopped, Err(QuantizeError::Cancelled)));
    assert!(!path.exists() && part_path(&path).exists());
    // Then the disk is full, twice.
    let mut before = 0;
    for room in [100_000, 2_000_000] {
        let full = shipped.run(&choice, None, &path, &options(Some(room)), &mut go_on);
        match full {
            Err(QuantizeError::DiskFull {
                tensors,
                of,
                needed,
                ..
            }) => {
                assert!(tensors > before && tensors < of && needed > 0);
                before = tensors;
            }
            other => panic!("{other:?}"),
        }
    }
    let written = shipped
        .run(&choice, None, &path, &options(None), &mut go_on)
        .unwrap();
    assert_eq!(written.resumed, before);
    assert_eq!(
        std::fs::read(&whole).unwrap(),
        std::fs::read(&path).unwrap()
    );
}

#[test]
fn another_recipe_or_a_damaged_part_begins_anew() {
    let shipped = shipped();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let begin = |recipe: &str| {
        let choice = Choice::new(recipe).unwrap();
        let full = shipped.run(&choice, None, &path, &options(Some(3_000_000)), &mut go_on);
        assert!(
            matches!(full, Err(QuantizeError::DiskFull { .. })),
            "{full:?}"
        );
    };
    let finish = |recipe: &str| {
        let choice = Choice::new(recipe).unwrap();
        shipped
            .run(&choice, None, &path, &options(None), &mut go_on)
            .unwrap()
            .resumed
    };
    begin("Q8_0");
    assert_eq!(finish("Q4_0"), 0);
    begin("Q8_0");
    assert!(finish("Q8_0") > 0);
    begin("Q8_0");
    let part = part_path(&path);
    let bytes = std::fs::read(&part).unwrap();
    std::fs::write(&part, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(finish("Q8_0"), 0);
}

#[test]
fn importance_is_read_and_must_fit() {
    let shipped = shipped();
    let folder = tempfile::tempdir().unwrap();
    let (file, path) = (
        folder.path().join("imatrix.gguf"),
        folder.path().join("out.gguf"),
    );
    let experts = shipped.config.n_routed_experts as usize;
    let hidden = shipped.config.hidden_size as usize;
    let make = |columns: usize| {
        let mut sums: Vec<f32> = (0..experts * columns).map(|i| (i % 7) as f32).collect();
        // An expert that no token went to.
        sums[..columns].fill(0.0);
        let mut counts = vec![3.0; experts];
        counts[0] = 0.0;
        let tensors = [Summed {
            name: "blk.1.ffn_gate_exps.weight".to_string(),
            sums: &sums,
            counts: &counts,
        }];
        let to = std::fs::File::create(&file).unwrap();
        write_importance(&to, &tensors, "text", 12).unwrap();
        Importance::open(&file).unwrap()
    };
    let choice = Choice::new("Q4_0").unwrap();
    let run = |importance: Option<&Importance>| {
        let mut watch = go_on;
        let outcome = shipped.run(&choice, importance, &path, &options(None), &mut watch);
        outcome.map(|_| std::fs::read(&path).unwrap())
    };
    let (plain, weighed) = (run(None).unwrap(), run(Some(&make(hidden))).unwrap());
    assert!(plain.len() == weighed.len() && plain != weighed);
    let refused = run(Some(&make(hidden / 2)));
    assert!(
        matches!(refused, Err(QuantizeError::Importance { .. })),
        "{refused:?}"
    );
}

#[test]
fn sizes_are_known_without_a_checkpoint() {
    let shipped = shipped();
    let choice = Choice::new("IQ2_XS").unwrap();
    let (of, new) = (
        Plan::of(&shipped.config, &choice).unwrap(),
        shipped.plan(&choice).0,
    );
    assert_eq!(of, new);
    let other = Choice::new("Q8_0").unwrap();
    assert_eq!(of.with(&other), shipped.plan(&other).0);
}

/// A file as older programs wrote them: keys and values of the latent expansion in one tensor.
fn old_file(shipped: &Shipped, path: &Path) -> Gguf {
    let choice = Choice::new("Q8_0").unwrap();
    let (plan, metadata) = shipped.plan(&choice);
    let new = path.with_extension("new");
    shipped
        .run(&choice, None, &new, &options(None), &mut go_on)
        .unwrap();
    let new = Gguf::open(new).unwrap();
    let (mut tensors, mut data) = (Vec::new(), Vec::new());
    for mut tensor in plan.described() {
        let mut bytes = new.bytes(&tensor.name).unwrap().to_vec();
        if tensor.name.ends_with("attn_v_b.weight") {
            continue;
        }
        if let Some(layer) = tensor.name.strip_suffix(".attn_k_b.weight") {
            let layer = layer.trim_start_matches("blk.");
            let whole = format!("model.layers.{layer}.self_attn.kv_b_proj.weight");
            let whole = Matrix::open(&shipped.source, &whole).unwrap();
            let mut values = vec![0f32; whole.rows * whole.columns];
            let rows = values.chunks_mut(whole.columns);
            rows.enumerate().for_each(|(row, to)| whole.row(row, to));
            let size = DType::Q8_0.row_bytes(values.len() as u64) as usize;
            bytes = vec![0; size];
            hadal_blocks::encode(DType::Q8_0, &values, None, &mut bytes).unwrap();
            tensor.name = format!("blk.{layer}.attn_kv_b.weight");
            tensor.format = DType::Q8_0;
            tensor.dims = vec![whole.columns as u64, whole.rows as u64];
        }
        tensor.offset = data.len() as u64;
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
        tensors.push(tensor);
    }
    let mut file = hadal_quantize::header(&metadata, &tensors);
    file.extend(data);
    std::fs::write(path, file).unwrap();
    Gguf::open(path).unwrap()
}

#[test]
fn old_files_serve_as_sources_and_their_expansion_is_split() {
    let mut shipped = shipped();
    shipped.config = shipped.config.cut(Some(2), None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let old = old_file(&shipped, &folder.path().join("old.gguf"));
    let config = hadal_models::gguf::config(old.metadata(), &old).unwrap();
    assert!(!config.split_kv_b);
    let published =
        |name: &str, info: &TensorInfo| hadal_models::gguf::published(name, info, false);
    let source = Renamed::new(&old, &published).unwrap();
    let mut choice = Choice::new("Q8_0").unwrap();
    choice.tensors = vec![("*_b.weight".into(), DType::F32)];
    let plan = Plan::new(&config, &source, &choice).unwrap();
    let text = hadal_quantize::text_keys(old.metadata()).unwrap();
    let metadata = hadal_quantize::metadata(&config, "old", text, &plan).unwrap();
    let path = folder.path().join("split.gguf");
    made(&plan, &metadata, &source, &path, &mut go_on).unwrap();
    let new = Gguf::open(&path).unwrap();
    assert!(
        hadal_models::gguf::config(new.metadata(), &new)
            .unwrap()
            .split_kv_b
    );
    let whole = Matrix::open(&old, "blk.0.attn_kv_b.weight").unwrap();
    let (keys, values) = (
        Matrix::open(&new, "blk.0.attn_k_b.weight").unwrap(),
        Matrix::open(&new, "blk.0.attn_v_b.weight").unwrap(),
    );
    let (nope, value) = (config.qk_nope_head_dim as usize, config.v_head_dim as usize);
    let latent = config.kv_lora_rank as usize;
    let row = |matrix: &Matrix<'_>, row: usize| {
        let mut to = vec![0f32; matrix.columns];
        matrix.row(row, &mut to);
        to
    };
    for head in 0..config.num_attention_heads as usize {
        for j in 0..nope {
            let stored = row(&whole, head * (nope + value) + j);
            let split: Vec<f32> = (0..latent)
                .map(|r| row(&keys, head * latent + r)[j])
                .collect();
            assert_eq!(stored, split, "head {head}, column {j}");
        }
        for j in 0..value {
            let stored = row(&whole, head * (nope + value) + nope + j);
            assert_eq!(
                stored,
                row(&values, head * value + j),
                "head {head}, row {j}"
            );
        }
    }
    // What stays as it is has its bytes.
    let name = "blk.0.attn_q_a.weight";
    assert_eq!(old.bytes(name).unwrap(), new.bytes(name).unwrap());
}

#[cfg(unix)]
#[test]
fn a_source_that_shrinks_is_an_error_and_its_zeros_are_no_file() {
    hadal_weights::survive_lost_pages().unwrap();
    for stage in [Stage::Writing, Stage::Verifying] {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        std::fs::write(&weights, hadal_tiny::WEIGHTS).unwrap();
        let config = shipped().config;
        let source = Checkpoint::open(folder.path()).unwrap();
        let choice = Choice::new("Q8_0").unwrap();
        let plan = Plan::new(&config, &source, &choice).unwrap();
        let metadata = hadal_quantize::metadata(&config, "tiny", Vec::new(), &plan).unwrap();
        let path = folder.path().join("out.gguf");
        let mut cut = |progress: Progress<'_>| {
            if progress.stage == stage {
                let file = std::fs::OpenOptions::new().write(true).open(&weights);
                file.unwrap().set_len(1 << 20).unwrap();
            }
            ControlFlow::Continue(())
        };
        let outcome = made(&plan, &metadata, &source, &path, &mut cut);
        assert!(
            matches!(
                outcome,
                Err(QuantizeError::Weights(WeightsError::PagesLost { .. }))
            ),
            "{stage:?}: {outcome:?}"
        );
        assert!(!path.exists());
    }
}

#[test]
fn what_is_not_our_unfinished_file_is_left_alone() {
    let shipped = shipped();
    let folder = tempfile::tempdir().unwrap();
    let (path, part) = (
        folder.path().join("x.gguf"),
        folder.path().join("x.gguf.part"),
    );
    let choice = Choice::new("Q4_0").unwrap();
    let refused = |source: &dyn TensorSource, why: &str| {
        let (plan, metadata) = shipped.plan(&choice);
        let kept = std::fs::read(&part).unwrap();
        let outcome = made(&plan, &metadata, source, &path, &mut go_on);
        let error = outcome.unwrap_err().to_string();
        assert!(
            error.contains("x.gguf.part is in the way") && error.contains(why),
            "{error}"
        );
        assert!(std::fs::read(&part).unwrap() == kept && !path.exists());
    };
    std::fs::write(&part, "somebody's own").unwrap();
    refused(&shipped.source, "no run of this program");
    // The model itself, under the name of the unfinished file.
    let model = folder.path().join("model.safetensors");
    std::fs::write(&model, hadal_tiny::WEIGHTS).unwrap();
    let source = Checkpoint::open(folder.path()).unwrap();
    std::fs::remove_file(&part).unwrap();
    std::fs::hard_link(&model, &part).unwrap();
    refused(&source, "no run of this program");
}
