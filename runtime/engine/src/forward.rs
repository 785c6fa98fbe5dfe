//! One pass over given tokens with every intermediate kept: for comparing with another
//! implementation, value by value.

use std::collections::BTreeMap;
use std::sync::Arc;

use hadal_device::DType;
use hadal_models::Outputs;
use hadal_models::config::ScoringFunc;

use crate::decode::Decoder;
use crate::step::Done;
use crate::{Cancel, Engine, Result, SamplingOptions, Session};

/// Numbers of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Activations.
    F32(Vec<f32>),
    /// What the config alone decides.
    F64(Vec<f64>),
    /// Ids, indices and counts.
    I64(Vec<i64>),
}

impl Numbers {
    /// The words of a device.
    pub(crate) fn of(dtype: DType, words: Vec<u32>) -> Numbers {
        match dtype {
            DType::U32 => Numbers::I64(words.into_iter().map(i64::from).collect()),
            _ => Numbers::F32(words.into_iter().map(f32::from_bits).collect()),
        }
    }
}

/// A named tensor of a forward pass, rows first.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name, as in the golden data.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Content.
    pub numbers: Numbers,
}

/// What a forward pass gives beside the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardOptions {
    /// Every intermediate, and the next-token module's.
    pub all: bool,
    /// Tokens of greedy continuation.
    pub greedy: usize,
}

/// Tensors under construction: width, type, words row after row.
#[derive(Default)]
struct Collected(BTreeMap<String, (usize, DType, Vec<u32>)>);

impl Collected {
    fn add(&mut self, name: String, width: usize, dtype: DType, words: Vec<u32>) {
        let entry = self.0.entry(name).or_insert((width, dtype, Vec::new()));
        entry.2.extend(words);
    }

    /// Adds every output of a step under the name `rename` gives it; all or nothing.
    fn step(&mut self, done: &Done<'_>, rename: impl Fn(&str) -> Option<String>) -> Result<()> {
        let mut read = Vec::new();
        for place in done.outputs() {
            if let Some(name) = rename(&place.name) {
                read.push((name, done.words(&place.name)?, place));
            }
        }
        for (name, words, place) in read {
            self.add(name, place.width as usize, place.dtype, words);
        }
        Ok(())
    }

    /// Puts the router's scores, before any bias, in the place of its logits.
    fn score(&mut self, scoring: ScoringFunc) {
        const LOGITS: &str = ".router_logits";
        let names: Vec<String> = self
            .0
            .keys()
            .filter(|n| n.ends_with(LOGITS))
            .cloned()
            .collect();
        for name in names {
            if let Some((width, dtype, mut words)) = self.0.remove(&name) {
                words
                    .chunks_mut(width)
                    .for_each(|row| score_row(row, scoring));
                let name = name.replace(LOGITS, ".router_scores");
                self.0.insert(name, (width, dtype, words));
            }
        }
    }

    fn tensors(self) -> Vec<Tensor> {
        let tensor = |(name, (width, dtype, words)): (String, (usize, DType, Vec<u32>))| Tensor {
            name,
            shape: if width == 1 {
                vec![words.len()]
            } else {
                vec![words.len() / width, width]
            },
            numbers: Numbers::of(dtype, words),
        };
        self.0.into_iter().map(tensor).collect()
    }
}

/// Report, section 2.1.2, equation 15; the softmax of V2.
fn score_row(row: &mut [u32], scoring: ScoringFunc) {
    let logits: Vec<f64> = row
        .iter()
        .map(|word| f32::from_bits(*word).into())
        .collect();
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| (z - most).exp()).sum();
    for (word, z) in row.iter_mut().zip(logits) {
        let score = match scoring {
            ScoringFunc::Sigmoid => 1.0 / (1.0 + (-z).exp()),
            ScoringFunc::Softmax => (z - most).exp() / sum,
        };
        *word = (score as f32).to_bits();
    }
}

fn ids_tensor(name: &str, ids: impl Iterator<Item = i64>) -> Tensor {
    let numbers: Vec<i64> = ids.collect();
    Tensor {
        name: name.to_string(),
        shape: vec![numbers.len()],
        numbers: Numbers::I64(numbers),
    }
}

/// Runs the model over `ids`: `logits` `[T, V]`; with `all` also `embed`,
/// `layer.{i}.{out,attn_out,kv_latent,k_pe,router_idx,router_weight,router_scores}`,
/// `final_hidden`, `rope_inv_freq_f64` (radians a position, `[rope / 2]`) and, where the model
/// has a next-token module, `mtp.0.*` over prompt and continuation; with
/// `greedy` also `greedy_ids` and `greedy_logits`, and for such models
/// `spec_tokens_per_step`, `mtp_chain_ids` and `mtp_chain_logits`.
///
/// `progress` sees tokens done and in all.
pub fn forward(
    engine: &Arc<Engine>,
    ids: &[u32],
    options: ForwardOptions,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Tensor>> {
    let mut session = Session::new(engine, false)?;
    session.check(ids)?;
    // The last token of the continuation is chosen and not fed.
    engine.check_room(ids.len().saturating_add(options.greedy.saturating_sub(1)))?;
    let mut collected = Collected::default();
    let outputs = if options.all {
        Outputs::All
    } else {
        Outputs::Hidden
    };
    let mut fed = 0;
    while fed < ids.len() {
        cancel.check()?;
        let piece = session.next_piece(ids, fed)?;
        let rows: Vec<u32> = (0..piece.len() as u32).collect();
        session.surviving(Some(cancel), |session| {
            let done = session.feed(piece, &rows, outputs)?;
            collected.step(&done, |name| {
                (name != "hidden" && name != "ids").then(|| name.to_string())
            })
        })?;
        fed += piece.len();
        progress(fed, ids.len());
    }
    let has_next = engine.model().config.num_nextn_predict_layers > 0;
    let mut tensors = Vec::new();
    let mut sequence = ids.to_vec();
    if options.greedy > 0 {
        let continuation = greedy(engine, ids, options.greedy, cancel, &mut collected)?;
        tensors.push(ids_tensor(
            "greedy_ids",
            continuation.iter().map(|&id| i64::from(id)),
        ));
        if has_next {
            let steps = speculative_steps(engine, ids, options.greedy, cancel)?;
            tensors.push(ids_tensor(
                "spec_tokens_per_step",
                steps.iter().map(|&count| count as i64),
            ));
            tensors.push(chain(engine, ids, continuation[0], cancel, &mut collected)?);
        }
        sequence.extend(continuation);
    }
    if options.all && has_next && sequence.len() > 1 {
        next_rows(engine, &sequence, cancel, &mut collected)?;
    }
    if options.all {
        let config = &engine.model().config;
        collected.score(config.scoring_func);
        let frequencies = config.inv_freq();
        tensors.push(Tensor {
            name: "rope_inv_freq_f64".to_string(),
            shape: vec![frequencies.len()],
            numbers: Numbers::F64(frequencies),
        });
    }
    tensors.extend(collected.tensors());
    Ok(tensors)
}

/// Plain greedy decoding, a token a step, keeping each step's logits.
fn greedy(
    engine: &Arc<Engine>,
    ids: &[u32],
    count: usize,
    cancel: &Cancel,
    collected: &mut Collected,
) -> Result<Vec<u32>> {
    let mut session = Session::new(engine, false)?;
    let mut chosen = Vec::with_capacity(count);
    let mut keep = |done: &Done<'_>| -> Result<u32> {
        let (logits, ids) = (done.words("logits")?, done.u32("ids")?);
        collected.add("greedy_logits".into(), logits.len(), DType::F32, logits);
        Ok(ids[0])
    };
    let mut next = session.prefill(ids, cancel, &mut |_, _| {}, &mut keep)?;
    chosen.push(next);
    while chosen.len() < count {
        next = session.prefill(&[next], cancel, &mut |_, _| {}, &mut keep)?;
        chosen.push(next);
    }
    Ok(chosen)
}

/// Tokens each step of greedy decoding with drafts gives, until there are `count` tokens with
/// the first one, which the prompt gives.
fn speculative_steps(
    engine: &Arc<Engine>,
    ids: &[u32],
    count: usize,
    cancel: &Cancel,
) -> Result<Vec<usize>> {
    let mut session = Session::new(engine, true)?;
    let greedy = SamplingOptions::greedy();
    let mut decoder = Decoder::start(&mut session, ids, greedy, cancel, &mut |_, _| {})?;
    let (mut steps, mut made) = (Vec::new(), 1);
    while made < count {
        cancel.check()?;
        let tokens = decoder.advance()?;
        if tokens.is_empty() {
            break;
        }
        made += tokens.len();
        steps.push(tokens.len());
    }
    Ok(steps)
}

/// Three drafts in a row from the end of the prompt, each fed back to the module; fewer where
/// the context ends.
fn chain(
    engine: &Arc<Engine>,
    ids: &[u32],
    first: u32,
    cancel: &Cancel,
    collected: &mut Collected,
) -> Result<Tensor> {
    const DRAFTS: usize = 3;
    let mut session = Session::new(engine, true)?;
    session.prefill(ids, cancel, &mut |_, _| {}, |_| Ok(()))?;
    let count = DRAFTS.min(engine.context() as usize - ids.len() + 1);
    // One piece of work: what a chained draft reads cannot be computed from tokens alone.
    let made = session.surviving(Some(cancel), |session| {
        chained(session, ids.len(), first, count)
    })?;
    let mut drafts = Vec::with_capacity(count);
    for (draft, logits) in made {
        drafts.push(i64::from(draft));
        collected.add("mtp_chain_logits".into(), logits.len(), DType::F32, logits);
    }
    Ok(ids_tensor("mtp_chain_ids", drafts.into_iter()))
}

/// `count` drafts after `prompt` tokens and the token `first`, each with its logits.
fn chained(
    session: &mut Session,
    prompt: usize,
    first: u32,
    count: usize,
) -> Result<Vec<(u32, Vec<u32>)>> {
    let row = session.draft_row().unwrap_or(0);
    let hidden_size = session.engine().model().config.hidden_size as usize;
    let mut made: Vec<(u32, Vec<u32>)> = Vec::with_capacity(count);
    let mut hidden: Vec<f32> = Vec::new();
    for index in 0..count {
        let done = match made.last() {
            None => session.run_next(first, &[row], Outputs::Hidden)?,
            Some(&(id, _)) => {
                let position = (prompt + index - 1) as u32;
                session.run_chained(&hidden, id, position)?
            }
        };
        made.push((done.u32("ids")?[0], done.words("logits")?));
        let rows = done.f32("hidden")?;
        hidden = rows[rows.len() - hidden_size..].to_vec();
    }
    Ok(made)
}

/// The next-token module over a whole sequence: row `i` reads position `i` and token `i + 1`.
fn next_rows(
    engine: &Arc<Engine>,
    sequence: &[u32],
    cancel: &Cancel,
    collected: &mut Collected,
) -> Result<()> {
    let mut session = Session::new(engine, true)?;
    let mut fed = 0;
    while fed + 1 < sequence.len() {
        cancel.check()?;
        let piece = session.next_piece(&sequence[..sequence.len() - 1], fed)?;
        let rows: Vec<u32> = (0..piece.len() as u32).collect();
        fed += piece.len();
        let next = sequence[fed];
        session.surviving(Some(cancel), |session| {
            session.feed(piece, &[], Outputs::Hidden)?;
            let done = session.run_next(next, &rows, Outputs::All)?;
            collected.step(&done, |name| match name {
                "hidden" => None,
                "logits" => Some("mtp.0.logits".to_string()),
                "ids" => Some("mtp.0.draft_ids".to_string()),
                other => Some(other.to_string()),
            })
        })?;
    }
    Ok(())
}
