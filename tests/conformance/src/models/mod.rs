//! Whole blocks and small models on the engine that serves people, against the `f64`
//! evaluator: attention in both forms, the MoE dispatch in both forms, logits, tokens, drafts.

pub mod checkpoint;
pub mod oracle;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use hadal_device::Device;
use hadal_engine::{
    Cancel, Decoder, Engine, EngineOptions, Form, ForwardOptions, Model, MoeForm, Numbers,
    SamplingOptions, Session, Tensor, forward,
};
use hadal_graph::reference::Value;
use hadal_weights::Checkpoint;

use crate::random::Random;
use crate::stage::Fit;
use crate::tolerance;
use checkpoint::Family;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// Everything that a layer's attention makes, in one form.
    Attention(Form),
    /// Routes and outputs of the MoE layers, by one way of dispatch.
    Moe(MoeForm),
    /// Logits of a prompt.
    Logits,
    /// The same logits whatever pieces the prompt is fed in.
    Chunks,
    /// Greedy tokens: those of the evaluator.
    Greedy,
    /// Tokens with the model's own drafts: the same ones.
    Drafts,
}

/// A case of a small model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelCase {
    /// Kind of model.
    pub family: Family,
    /// What of it.
    pub part: Part,
}

/// Tokens of a prompt.
const PROMPT: usize = 21;
/// Tokens that are continued.
const CONTINUED: usize = 6;
/// Binding limit up to which contexts and pieces are small.
const SMALL_BINDING: u64 = 128 << 10;

impl ModelCase {
    /// Every case.
    pub fn all() -> Vec<ModelCase> {
        let mut cases = Vec::new();
        let mut add = |family, part| cases.push(ModelCase { family, part });
        for family in [Family::V3Fp8, Family::Moonlight, Family::Glm] {
            add(family, Part::Attention(Form::Absorbed));
            add(family, Part::Attention(Form::Expanded));
        }
        for family in [Family::V3Fp8, Family::V2] {
            add(family, Part::Moe(MoeForm::Direct));
            add(family, Part::Moe(MoeForm::Grouped));
        }
        for family in Family::ALL {
            add(family, Part::Logits);
            add(family, Part::Greedy);
        }
        add(Family::V3Fp8, Part::Chunks);
        for family in [Family::V3, Family::Glm] {
            add(family, Part::Drafts);
        }
        cases
    }

    /// Its group.
    pub fn group(&self) -> &'static str {
        match self.part {
            Part::Attention(_) => "block.attention",
            Part::Moe(_) => "block.moe",
            _ => "model",
        }
    }

    /// Its name in the group.
    pub fn name(&self) -> String {
        let part = match self.part {
            Part::Attention(Form::Absorbed) => "absorbed",
            Part::Attention(Form::Expanded) => "expanded",
            Part::Moe(MoeForm::Grouped) => "grouped",
            Part::Moe(_) => "direct",
            Part::Logits => "logits",
            Part::Chunks => "chunks",
            Part::Greedy => "greedy_tokens",
            Part::Drafts => "drafts_change_no_token",
        };
        format!("{}.{part}", format!("{:?}", self.family).to_lowercase())
    }

    /// Runs it.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn run(&self, device: &Arc<dyn Device>, seed: u64) -> Result<Fit, String> {
        let model = model(self.family, seed)?;
        let ids = prompt(&model, seed, PROMPT);
        let options = |chunk| EngineOptions {
            context: Some(64),
            chunk,
            ..EngineOptions::default()
        };
        match self.part {
            Part::Attention(form) => {
                let options = EngineOptions {
                    form: Some(form),
                    ..options(16)
                };
                let found = pass(&engine(&model, device, options)?, &ids, true, 0)?;
                block(&found, &model, &ids, &["kv_latent", "k_pe", "attn_out"])
            }
            Part::Moe(moe) => {
                let options = EngineOptions { moe, ..options(16) };
                let found = pass(&engine(&model, device, options)?, &ids, true, 0)?;
                block(
                    &found,
                    &model,
                    &ids,
                    &["router_idx", "router_weight", "out"],
                )
            }
            Part::Logits => {
                let found = pass(&engine(&model, device, options(16))?, &ids, false, 0)?;
                block(&found, &model, &ids, &["logits"])
            }
            Part::Chunks => {
                let mut fit = Fit::default();
                for chunk in [1, 3, 13] {
                    let found = pass(&engine(&model, device, options(chunk))?, &ids, false, 0)?;
                    let one = block(&found, &model, &ids, &["logits"]);
                    let one = one.map_err(|why| format!("in pieces of {chunk}: {why}"))?;
                    fit.worst = fit.worst.max(one.worst);
                }
                Ok(fit)
            }
            Part::Greedy => {
                let engine = engine(&model, device, options(16))?;
                let found = decode(&engine, &ids, false)?;
                same_tokens(&found, &evaluator_tokens(&model, &ids)?)
            }
            Part::Drafts => {
                let engine = engine(&model, device, options(16))?;
                let (with, without) = (decode(&engine, &ids, true)?, decode(&engine, &ids, false)?);
                same_tokens(&with, &without)
            }
        }
    }
}

fn same_tokens(found: &[u32], wanted: &[u32]) -> Result<Fit, String> {
    match found == wanted {
        true => Ok(Fit::default()),
        false => Err(format!("tokens {found:?}, wanted {wanted:?}")),
    }
}

/// A small model of a kind, made in memory.
fn model(family: Family, seed: u64) -> Result<Arc<Model>, String> {
    let file = (
        "model.safetensors".to_string(),
        Arc::new(family.safetensors(seed)) as _,
    );
    let source = Checkpoint::from_pages(vec![file]).map_err(|e| e.to_string())?;
    let text = Err("a small checkpoint has no tokenizer".to_string());
    let model = Model::new(family.config(), Arc::new(source), text);
    Ok(Arc::new(model.map_err(|e| e.to_string())?))
}

fn prompt(model: &Model, seed: u64, count: usize) -> Vec<u32> {
    let mut random = Random::new(seed, "prompt");
    let vocabulary = model.config.vocab_size;
    (0..count).map(|_| random.below(vocabulary)).collect()
}

/// An engine with options that fit bindings made small on purpose.
fn engine(
    model: &Arc<Model>,
    device: &Arc<dyn Device>,
    options: EngineOptions,
) -> Result<Arc<Engine>, String> {
    let small = device.info().limits.max_binding_bytes <= SMALL_BINDING;
    let options = match small {
        true => EngineOptions {
            context: options.context.map(|context| context.min(64)),
            chunk: options.chunk.min(16),
            ..options
        },
        false => options,
    };
    let mut quiet = |_| ControlFlow::Continue(());
    let engine = Engine::load(model.clone(), device.clone(), options, &mut quiet);
    Ok(Arc::new(engine.map_err(|e| format!("loading: {e}"))?))
}

fn pass(
    engine: &Arc<Engine>,
    ids: &[u32],
    all: bool,
    greedy: usize,
) -> Result<Vec<Tensor>, String> {
    let options = ForwardOptions { all, greedy };
    let found = forward(engine, ids, options, &Cancel::new(), &mut |_, _| {});
    found.map_err(|e| format!("running: {e}"))
}

fn decode(engine: &Arc<Engine>, ids: &[u32], drafts: bool) -> Result<Vec<u32>, String> {
    let fail = |e: hadal_engine::EngineError| format!("running: {e}");
    let mut session = Session::new(engine, drafts).map_err(fail)?;
    let (greedy, cancel) = (SamplingOptions::greedy(), Cancel::new());
    let decoder = Decoder::start(&mut session, ids, greedy, &cancel, &mut |_, _| {});
    let mut decoder = decoder.map_err(fail)?;
    let mut out = vec![decoder.newest()];
    while out.len() < CONTINUED {
        out.extend(decoder.advance().map_err(fail)?);
    }
    out.truncate(CONTINUED);
    Ok(out)
}

/// The greedy continuation by the evaluator, token by token.
fn evaluator_tokens(model: &Model, ids: &[u32]) -> Result<Vec<u32>, String> {
    let mut ids = ids.to_vec();
    let first = ids.len();
    while ids.len() < first + CONTINUED {
        let values = oracle::forward(model, &ids)?;
        let Some(Value::Numbers(logits)) = values.get("logits") else {
            return Err("the evaluator gave no logits".to_string());
        };
        let last = logits.rows().last().unwrap_or(&[]);
        let best = (0..last.len()).fold(0, |best, i| if last[i] > last[best] { i } else { best });
        ids.push(best as u32);
    }
    Ok(ids.split_off(first))
}

/// Compares the tensors whose names end in one of `names` with the evaluator's.
fn block(found: &[Tensor], model: &Model, ids: &[u32], names: &[&str]) -> Result<Fit, String> {
    let wanted = |tensor: &&Tensor| {
        let last = tensor.name.rsplit('.').next().unwrap_or_default();
        names.contains(&last)
    };
    let found: Vec<Tensor> = found.iter().filter(wanted).cloned().collect();
    let expected = oracle::forward(model, ids)?;
    let compared = compare(&found, &expected, tolerance::MODEL)?;
    match compared.tensors {
        0 => Err(format!("nothing to compare: no {names:?}")),
        _ => Ok(compared.fit),
    }
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Tensors that both sides had.
    pub tensors: usize,
    /// How near they are.
    pub fit: Fit,
}

/// Values of a tensor as `f64`.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    match &tensor.numbers {
        Numbers::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Numbers::F64(v) => v.clone(),
        Numbers::I64(v) => v.iter().map(|&x| x as f64).collect(),
    }
}

/// Compares every tensor that both sides have: routes and tokens exactly, numbers within
/// `share` of the largest of their tensor.
///
/// # Errors
/// The first tensor that is off, as a sentence.
pub fn compare(
    found: &[Tensor],
    expected: &BTreeMap<String, Value>,
    share: f64,
) -> Result<Compared, String> {
    let mut all = Compared::default();
    let (mut error, mut energy) = (0.0, 0.0);
    for tensor in found {
        let base = tensor
            .name
            .trim_end_matches("_idx")
            .trim_end_matches("_weight");
        let (exact, want) = match expected.get(base) {
            Some(Value::Numbers(numbers)) => (false, numbers.data.clone()),
            Some(Value::Routes(routes)) if tensor.name.ends_with("_idx") => {
                (true, routes.experts.iter().map(|&e| f64::from(e)).collect())
            }
            Some(Value::Routes(routes)) => (false, routes.weights.clone()),
            _ => continue,
        };
        let got = values(tensor);
        if got.len() != want.len() {
            let sizes = (got.len(), want.len());
            return Err(format!(
                "{}: {} values, wanted {}",
                tensor.name, sizes.0, sizes.1
            ));
        }
        let largest = want.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        let limit = if exact { 0.0 } else { share * largest };
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            let off = (got - want).abs();
            if off.is_nan() || off > limit {
                return Err(format!(
                    "{}: value {index} is {got:e}, wanted {want:e} within {limit:.1e}",
                    tensor.name
                ));
            }
            if !exact {
                all.fit.worst = all.fit.worst.max(if off > 0.0 { off / limit } else { 0.0 });
                error += off * off;
                energy += want * want;
            }
        }
        all.tensors += 1;
    }
    all.fit.normalised = if energy > 0.0 { error / energy } else { 0.0 };
    Ok(all)
}
