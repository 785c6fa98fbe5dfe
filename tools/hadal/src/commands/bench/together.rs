//! Several sequences decoded together, at one depth of their caches.

use std::sync::Arc;
use std::time::Instant;

use hadal_engine::{Batch, Cancel, Decoder, Engine, Session};

use super::measure::{Plan, Rates, start, tokens};
use crate::failure::Result;

/// Figures of so many sequences.
#[derive(Debug)]
pub struct Together {
    /// How many.
    pub sequences: usize,
    /// Tokens a second of all of them.
    pub rates: Rates,
}

/// Measures each count of sequences that `plan` names. Caches are filled once.
pub fn measure(
    engine: &Arc<Engine>,
    depth: usize,
    plan: &Plan,
    cancel: &Cancel,
    tick: &mut dyn FnMut(),
) -> Result<Vec<Together>> {
    let Some(&most) = plan.batch.iter().max() else {
        return Ok(Vec::new());
    };
    let batch = Batch::new(engine)?;
    // Each begins at another place of the text, so that they ask different experts.
    let ids = tokens(engine.model(), depth + 1 + SHIFT * most);
    let mut sessions = Vec::with_capacity(most);
    for index in 0..most {
        let mut session = batch.session()?;
        if depth > 0 {
            start(&mut session, &ids[SHIFT * index..][..depth], cancel)?;
        }
        sessions.push(session);
    }
    let mut measured = Vec::with_capacity(plan.batch.len());
    for &sequences in &plan.batch {
        let mut rates = Rates::default();
        for sample in 0..=plan.repeat {
            let sessions = &mut sessions[..sequences];
            let rate = decode(&batch, sessions, &ids, depth, plan.decode, cancel)?;
            // The first run only warms up.
            rates.samples.extend((sample > 0).then_some(rate));
            tick();
        }
        measured.push(Together { sequences, rates });
    }
    Ok(measured)
}

/// Tokens between the beginnings of two sequences.
const SHIFT: usize = 7;

/// Tokens a second of all sessions, each after its first.
fn decode(
    batch: &Batch,
    sessions: &mut [Session],
    ids: &[u32],
    depth: usize,
    count: usize,
    cancel: &Cancel,
) -> Result<f64> {
    let mut decoders = Vec::with_capacity(sessions.len());
    for (index, session) in sessions.iter_mut().enumerate() {
        session.keep(depth);
        decoders.push(start(session, &ids[SHIFT * index + depth..][..1], cancel)?);
    }
    let mut decoders: Vec<&mut Decoder<'_>> = decoders.iter_mut().collect();
    let started = Instant::now();
    let mut made = 0;
    for _ in 0..count {
        for token in batch.advance(&mut decoders, cancel)? {
            made += usize::from(token?.is_some());
        }
    }
    Ok(made as f64 / started.elapsed().as_secs_f64())
}
