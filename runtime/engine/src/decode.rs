//! Decoding: one verified step after the other, with or without the model's own drafts.
//!
//! Decides which token comes next; knows no text. The invariant: with drafts the output is
//! the same (greedy) or distributed the same (sampled) as without. Source: DeepSeek-V3
//! report, section 2.2; the rule of acceptance is that of `hadal_tokens::accept_draft`.

use hadal_device::NO_ARGMAX;
use hadal_models::Outputs;
use hadal_tokens::{Sampler, SamplingOptions, TokensError, Verdict, accept_draft, draw};

use crate::step::Done;
use crate::{Cancel, Result, Session};

/// Drafts made and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Tokens the next-token module proposed.
    pub drafted: u64,
    /// Proposals that became output.
    pub accepted: u64,
}

impl DraftCounts {
    /// Share of proposals that became output; `None` without proposals.
    pub fn acceptance(self) -> Option<f64> {
        (self.drafted > 0).then(|| self.accepted as f64 / self.drafted as f64)
    }
}

/// A sequence being continued. The newest token is chosen but not fed.
pub struct Decoder<'s> {
    session: &'s mut Session,
    sampler: Sampler,
    /// Greedy and nothing else: the device's own choice is the answer, no logits are read.
    plain_greedy: bool,
    /// Prompt and output, for penalties.
    history: Vec<u32>,
    next: u32,
    counts: DraftCounts,
}

impl<'s> Decoder<'s> {
    /// Feeds the prompt and chooses the first token, which [`Decoder::newest`] gives.
    pub fn start(
        session: &'s mut Session,
        prompt: &[u32],
        sampling: SamplingOptions,
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Decoder<'s>> {
        let plain_greedy = is_plain_greedy(&sampling);
        let mut sampler = Sampler::new(sampling)?;
        let mut history = session.tokens().to_vec();
        history.extend_from_slice(prompt);
        let next = session.prefill(prompt, cancel, progress, |done| {
            choose(done, plain_greedy, &mut sampler, &history)
        })?;
        history.push(next);
        Ok(Decoder {
            session,
            sampler,
            plain_greedy,
            history,
            next,
            counts: DraftCounts::default(),
        })
    }

    /// The newest token.
    pub fn newest(&self) -> u32 {
        self.next
    }

    /// Drafts so far.
    pub fn draft_counts(&self) -> DraftCounts {
        self.counts
    }

    /// Tokens the session could still take.
    pub fn room(&self) -> u32 {
        self.session.engine().context() - self.session.position()
    }

    /// One step of the main model: one token, or two where a draft was right. Empty when the
    /// context is full.
    pub fn advance(&mut self) -> Result<Vec<u32>> {
        let tokens = match self.room() {
            0 => Vec::new(),
            room => match self.session.draft_row() {
                Some(row) if self.session.drafts() && room >= 2 => self.advance_with_draft(row)?,
                _ => vec![self.advance_plainly()?],
            },
        };
        if let Some(&last) = tokens.last() {
            self.next = last;
        }
        self.history.extend(&tokens);
        Ok(tokens)
    }

    fn advance_plainly(&mut self) -> Result<u32> {
        let (next, greedy) = (self.next, self.plain_greedy);
        let (sampler, history) = (&mut self.sampler, &self.history);
        self.session.surviving(|session| {
            let done = session.feed(&[next], &[0], Outputs::Hidden)?;
            choose(&done, greedy, sampler, history)
        })
    }

    fn advance_with_draft(&mut self, row: u32) -> Result<Vec<u32>> {
        let (next, greedy) = (self.next, self.plain_greedy);
        let (sampler, history) = (&mut self.sampler, &self.history);
        let judged = self.session.surviving(|session| {
            let drafted = session
                .run_next(next, &[row], Outputs::Hidden)?
                .u32("ids")?[0];
            if drafted == NO_ARGMAX {
                return Ok(None);
            }
            let done = session.feed(&[next, drafted], &[0, 1], Outputs::Hidden)?;
            judge(&done, drafted, greedy, sampler, history).map(Some)
        })?;
        let Some(judged) = judged else {
            return Ok(vec![self.advance_plainly()?]);
        };
        self.counts.drafted += 1;
        Ok(match judged {
            (first, Some(second)) => {
                self.counts.accepted += 1;
                vec![first, second]
            }
            (first, None) => {
                let kept = self.session.tokens().len() - 1;
                self.session.keep(kept);
                vec![first]
            }
        })
    }
}

fn is_plain_greedy(sampling: &SamplingOptions) -> bool {
    sampling.temperature == 0.0
        && sampling.logit_bias.is_empty()
        && sampling.repetition_penalty == 1.0
        && sampling.presence_penalty == 0.0
        && sampling.frequency_penalty == 0.0
}

/// The device's choice, unless the logits had none.
fn chosen(done: &Done<'_>, id: u32) -> Result<u32> {
    match id {
        NO_ARGMAX => Err(TokensError::NoCandidate { vocab: done.vocab }.into()),
        id => Ok(id),
    }
}

/// The token for the only row of logits. The sampler is touched after all reading is done.
fn choose(
    done: &Done<'_>,
    plain_greedy: bool,
    sampler: &mut Sampler,
    history: &[u32],
) -> Result<u32> {
    if plain_greedy {
        return chosen(done, done.u32("ids")?[0]);
    }
    let logits = done.f32("logits")?;
    Ok(sampler.sample(&logits, history)?)
}

/// The token for row 0 and, if that is the draft, the token for row 1. The sampler is touched
/// after all reading is done.
fn judge(
    done: &Done<'_>,
    drafted: u32,
    plain_greedy: bool,
    sampler: &mut Sampler,
    history: &[u32],
) -> Result<(u32, Option<u32>)> {
    if plain_greedy {
        let ids = done.u32("ids")?;
        let second = match ids[0] == drafted {
            true => Some(chosen(done, ids[1])?),
            false => None,
        };
        return Ok((chosen(done, ids[0])?, second));
    }
    let logits = done.f32("logits")?;
    judge_rows(logits.split_at(done.vocab), drafted, sampler, history)
}

/// [`judge`] by the probabilities of both rows.
fn judge_rows(
    logits: (&[f32], &[f32]),
    drafted: u32,
    sampler: &mut Sampler,
    history: &[u32],
) -> Result<(u32, Option<u32>)> {
    let target = sampler.probabilities(logits.0, history)?;
    match accept_draft(&target, &[(drafted, 1.0)], drafted, sampler.rng())? {
        Verdict::Resample(token) => Ok((token, None)),
        Verdict::Accept => {
            let mut longer = history.to_vec();
            longer.push(drafted);
            let target = sampler.probabilities(logits.1, &longer)?;
            let second = draw(&target, sampler.rng()).unwrap_or(drafted);
            Ok((drafted, Some(second)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_draft_counts_for_the_penalties_of_the_token_after_it() {
        let rows: (&[f32], &[f32]) = (&[0.0, 1.0, 9.0], &[0.0, 4.0, 5.0]);
        let judged = |presence_penalty: f32| {
            let options = SamplingOptions {
                presence_penalty,
                ..SamplingOptions::greedy()
            };
            let mut sampler = Sampler::new(options).expect("legal options");
            judge_rows(rows, 2, &mut sampler, &[0]).expect("judged")
        };
        assert_eq!(judged(0.0), (2, Some(2)));
        assert_eq!(judged(1.5), (2, Some(1)));
    }
}
