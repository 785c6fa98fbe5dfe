//! How well a model predicts a text.
//!
//! The text is encoded once and read in windows: each window begins with BOS (where the model
//! has one) and shares its first half with the one before, so that every token is predicted
//! from at least half a window. Only tokens not scored before count.

use std::sync::Arc;

use hadal_models::Outputs;

use crate::{Cancel, Engine, EngineError, Result, Session};

/// The sum over a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Tokens scored.
    pub tokens: usize,
    /// Sum of `-ln p(token)`.
    pub nats: f64,
    /// Bytes of text they stand for.
    pub bytes: usize,
}

impl Perplexity {
    /// Mean of `-ln p`.
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// Mean of `-log2 p` for each byte of text.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / (self.bytes as f64 * std::f64::consts::LN_2)
    }

    /// `exp` of the mean of `-ln p`.
    pub fn perplexity(&self) -> f64 {
        self.nats_per_token().exp()
    }
}

/// Scores `text` in windows of `window` tokens, BOS included (`None`: the engine's context).
///
/// # Errors
/// An empty text, a window that the engine's context does not hold, no tokenizer.
pub fn perplexity(
    engine: &Arc<Engine>,
    text: &str,
    window: Option<u32>,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, usize, &Perplexity),
) -> Result<Perplexity> {
    let side = engine.model().text()?;
    let ids = side.tokenizer().encode(text)?;
    let bos = side.bos();
    let window = window.unwrap_or(engine.context());
    if window < 4 || window > engine.context() {
        return Err(EngineError::Option(format!(
            "a window of {window} tokens is not possible; choose 4 to {}",
            engine.context()
        )));
    }
    if ids.len() < 2 {
        return Err(EngineError::EmptyPrompt);
    }
    let room = window as usize - usize::from(bos.is_some());
    let mut session = Session::new(engine, false)?;
    let mut sum = Perplexity {
        bytes: text.len(),
        ..Perplexity::default()
    };
    let (mut start, mut scored) = (0, 0);
    while scored < ids.len() {
        let end = (start + room).min(ids.len());
        let mut fed: Vec<u32> = bos.into_iter().collect();
        fed.extend(&ids[start..end]);
        let lead = fed.len() - (end - start);
        session.clear();
        // Without BOS nothing predicts the very first token of the text.
        let from = (lead + scored - start).max(1);
        score(&mut session, &fed, from, cancel, &mut sum)?;
        scored = end;
        start += room / 2;
        progress(scored, ids.len(), &sum);
    }
    Ok(sum)
}

/// Adds `-ln p` of `fed[from..]`.
fn score(
    session: &mut Session,
    fed: &[u32],
    from: usize,
    cancel: &Cancel,
    sum: &mut Perplexity,
) -> Result<()> {
    let vocab = session.engine().model().config.vocab_size as usize;
    let mut first = 0;
    while first < fed.len() {
        cancel.check()?;
        let piece = session.next_piece(fed, first)?;
        // Row r predicts token first + r + 1.
        let rows: Vec<u32> = (0..piece.len())
            .filter(|row| (from..fed.len()).contains(&(first + row + 1)))
            .map(|row| row as u32)
            .collect();
        session.check(piece)?;
        let logits = session.surviving(Some(cancel), |session| {
            session.feed(piece, &rows, Outputs::Logits)?.f32("logits")
        })?;
        for (row, values) in rows.iter().zip(logits.chunks(vocab)) {
            sum.nats += surprise(values, fed[first + *row as usize + 1] as usize);
            sum.tokens += 1;
        }
        first += piece.len();
    }
    Ok(())
}

/// `-ln softmax(logits)[id]`.
fn surprise(logits: &[f32], id: usize) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = logits
        .iter()
        .map(|&value| f64::from(value - max).exp())
        .sum();
    sum.ln() - f64::from(logits[id] - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_the_negative_logarithm_of_the_softmax() {
        let logits = [1.0f32, 2.0, -3.0];
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for (id, &logit) in logits.iter().enumerate() {
            let expected = -(f64::from(logit).exp() / total).ln();
            assert!((surprise(&logits, id) - expected).abs() < 1e-12);
        }
    }
}
