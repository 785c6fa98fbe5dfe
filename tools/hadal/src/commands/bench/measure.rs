//! The measuring itself: prompts and single tokens at one depth of the cache.

use std::sync::Arc;
use std::time::Instant;

use hadal_engine::{Cancel, Decoder, Engine, EngineError, Model, SamplingOptions, Session};

use super::together::{self, Together};
use crate::failure::Result;

/// What to measure at each depth.
pub struct Plan {
    /// Tokens of a prompt.
    pub prefill: usize,
    /// Tokens to decode.
    pub decode: usize,
    /// Samples.
    pub repeat: usize,
    /// Counts of sequences to decode together.
    pub batch: Vec<usize>,
    /// Weights mean nothing, so drafts are not worth measuring.
    pub made_up: bool,
}

impl Plan {
    /// Runs that [`at_depth`] does with so many engines.
    pub fn runs(&self, engines: usize) -> usize {
        (3 + self.batch.len()) * (self.repeat + 1) * engines
    }
}

/// Tokens per second, run by run.
#[derive(Debug, Default)]
pub struct Rates {
    /// In the order measured.
    pub samples: Vec<f64>,
}

impl Rates {
    /// The middle one; `None` where nothing was measured.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(sorted[middle]),
            _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        }
    }
}

/// Decoding with the model's own drafts.
#[derive(Debug)]
pub struct Drafted {
    /// Median.
    pub tokens_per_second: f64,
    /// Share of drafts that became output.
    pub acceptance: f64,
}

/// Figures of one depth.
#[derive(Debug)]
pub struct Measured {
    /// Tokens in the cache.
    pub depth: usize,
    /// Reading prompts.
    pub prefill: Rates,
    /// Decoding a token a step, greedily.
    pub decode: Rates,
    /// Decoding with drafts, where the model has a next-token module.
    pub drafted: Option<Drafted>,
    /// Decoding several sequences together.
    pub together: Vec<Together>,
    /// What `hadal plan` expects of decoding, in tokens a second, of the memory as it was measured
    /// in this run; `None` until that is known, and where a plan tells nothing.
    pub forecast: Option<f64>,
    /// Weights and cache that one decoded token reads.
    pub bytes_per_token: u64,
    /// What submitting one decoded token cost the processor, run by run; empty where the
    /// device does not measure it.
    pub submitting: Vec<Submitting>,
}

/// Processor time for submitting a step, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Submitting {
    /// All of it.
    pub total: f64,
    /// Inside the driver.
    pub driver: f64,
}

impl Measured {
    /// The cheapest run: everything else that runs on the machine only makes it dearer.
    pub fn cheapest_submit(&self) -> Option<Submitting> {
        let runs = self.submitting.iter().copied();
        runs.min_by(|a, b| a.total.total_cmp(&b.total))
    }

    /// Bytes that decoding reads a second.
    pub fn decode_bytes_per_second(&self) -> Option<f64> {
        self.decode
            .median()
            .map(|rate| rate * self.bytes_per_token as f64)
    }
}

/// Measures each engine at `depth`, taking turns, so that what disturbs the machine disturbs
/// all of them; the first run of each kind only warms up.
pub fn at_depth(
    engines: &[Arc<Engine>],
    depth: usize,
    plan: &Plan,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Measured>> {
    let Some(first) = engines.first() else {
        return Ok(Vec::new());
    };
    let ids = tokens(first.model(), depth + plan.prefill.max(1));
    let mut run = 0;
    let mut tick = || {
        run += 1;
        progress(run);
    };
    let empty = |engine: &Arc<Engine>| Measured {
        depth,
        prefill: Rates::default(),
        decode: Rates::default(),
        drafted: None,
        together: Vec::new(),
        forecast: None,
        bytes_per_token: bytes_per_token(engine, depth + plan.decode / 2),
        submitting: Vec::new(),
    };
    let mut measured: Vec<Measured> = engines.iter().map(empty).collect();
    let filled_one = |engine| filled(engine, false, &ids[..depth], cancel);
    let mut sessions: Vec<Session> = engines.iter().map(filled_one).collect::<Result<_>>()?;
    for sample in 0..=plan.repeat {
        for (session, found) in sessions.iter_mut().zip(&mut measured) {
            prefill_once(session, &ids, plan, sample > 0, found, cancel)?;
            tick();
        }
    }
    for sample in 0..=plan.repeat {
        for (session, found) in sessions.iter_mut().zip(&mut measured) {
            decode_once(session, &ids, plan, sample > 0, found, cancel)?;
            tick();
        }
    }
    drop(sessions);
    for (engine, found) in engines.iter().zip(&mut measured) {
        if plan.decode > 0 && !plan.made_up && engine.model().config.num_nextn_predict_layers > 0 {
            found.drafted = drafted(engine, depth, &ids, plan, cancel, &mut tick)?;
        }
        if plan.decode > 0 {
            found.together = together::measure(engine, depth, plan, cancel, &mut tick)?;
        }
    }
    Ok(measured)
}

fn prefill_once(
    session: &mut Session,
    ids: &[u32],
    plan: &Plan,
    counts: bool,
    found: &mut Measured,
    cancel: &Cancel,
) -> Result<()> {
    if plan.prefill == 0 {
        return Ok(());
    }
    session.keep(found.depth);
    let started = Instant::now();
    start(session, &ids[found.depth..][..plan.prefill], cancel)?;
    let rate = plan.prefill as f64 / started.elapsed().as_secs_f64();
    found.prefill.samples.extend(counts.then_some(rate));
    Ok(())
}

fn decode_once(
    session: &mut Session,
    ids: &[u32],
    plan: &Plan,
    counts: bool,
    found: &mut Measured,
    cancel: &Cancel,
) -> Result<()> {
    if plan.decode == 0 {
        return Ok(());
    }
    session.keep(found.depth);
    let device = session.engine().device();
    let (before, position) = (device.submit_cost(), session.position());
    let prompt = &ids[found.depth..=found.depth];
    let (rate, _) = decode(session, prompt, plan.decode, cancel)?;
    if !counts {
        return Ok(());
    }
    found.decode.samples.push(rate);
    let after = device.submit_cost();
    if after.submits > before.submits {
        let steps = f64::from(session.position() - position);
        found.submitting.push(Submitting {
            total: (after.total - before.total).as_secs_f64() / steps,
            driver: (after.driver - before.driver).as_secs_f64() / steps,
        });
    }
    Ok(())
}

fn drafted(
    engine: &Arc<Engine>,
    depth: usize,
    ids: &[u32],
    plan: &Plan,
    cancel: &Cancel,
    tick: &mut dyn FnMut(),
) -> Result<Option<Drafted>> {
    let mut rates = Rates::default();
    let mut acceptance = None;
    for sample in 0..=plan.repeat {
        // Fresh, because the module's cache must belong to these tokens.
        let mut session = filled(engine, true, &ids[..depth], cancel)?;
        let (rate, share) = decode(&mut session, &ids[depth..=depth], plan.decode, cancel)?;
        rates.samples.extend((sample > 0).then_some(rate));
        acceptance = share;
        tick();
    }
    Ok(rates
        .median()
        .zip(acceptance)
        .map(|(tokens_per_second, acceptance)| Drafted {
            tokens_per_second,
            acceptance,
        }))
}

/// A session with `ids` in its cache.
fn filled(engine: &Arc<Engine>, drafts: bool, ids: &[u32], cancel: &Cancel) -> Result<Session> {
    let mut session = Session::new(engine, drafts)?;
    if !ids.is_empty() {
        start(&mut session, ids, cancel)?;
    }
    Ok(session)
}

pub fn start<'s>(session: &'s mut Session, ids: &[u32], cancel: &Cancel) -> Result<Decoder<'s>> {
    let greedy = SamplingOptions::greedy();
    Ok(Decoder::start(
        session,
        ids,
        greedy,
        cancel,
        &mut |_, _| {},
    )?)
}

/// Tokens per second after the first, and the share of drafts accepted.
fn decode(
    session: &mut Session,
    prompt: &[u32],
    count: usize,
    cancel: &Cancel,
) -> Result<(f64, Option<f64>)> {
    let mut decoder = start(session, prompt, cancel)?;
    let started = Instant::now();
    let mut made = 0;
    while made < count {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled.into());
        }
        let tokens = decoder.advance()?.len();
        if tokens == 0 {
            break;
        }
        made += tokens;
    }
    let rate = made as f64 / started.elapsed().as_secs_f64();
    Ok((rate, decoder.draft_counts().acceptance()))
}

/// What one token reads: the active weights once, and the cache so far.
fn bytes_per_token(engine: &Engine, position: usize) -> u64 {
    let config = &engine.model().config;
    let row = 4 * u64::from(config.kv_lora_rank + config.qk_rope_head_dim);
    let cache = row * position as u64 * u64::from(config.num_hidden_layers);
    engine.bytes_per_token() + cache
}

/// A text for models that have one: drafts of noise would tell nothing.
const PASSAGE: &str = "Once upon a time there was a poor miller who had three sons. When he \
    felt that his end was near, he called them to his side and said that he had nothing to \
    leave them but the mill, the ass and the cat. The eldest took the mill, the second took \
    the ass, and nothing was left for the youngest but the cat. ";

/// `count` ids: of a text, or evenly spread where there is no tokenizer.
pub fn tokens(model: &Model, count: usize) -> Vec<u32> {
    let passage = model
        .text
        .as_ref()
        .ok()
        .and_then(|text| text.encode_prompt(PASSAGE).ok());
    let vocab = model.config.vocab_size;
    match passage.filter(|ids| ids.iter().all(|id| *id < vocab)) {
        Some(ids) if !ids.is_empty() => ids.iter().copied().cycle().take(count).collect(),
        // A step prime to the vocabulary's usual factors visits all of it.
        _ => (0..count as u64)
            .map(|i| (i * 7919 % u64::from(vocab)) as u32)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        let rates = |samples: &[f64]| Rates {
            samples: samples.to_vec(),
        };
        assert_eq!(rates(&[3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(rates(&[4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(rates(&[]).median(), None);
    }
}
