//! Decoding: one verified step after the other, with or without the model's own drafts.
//!
//! Decides which token comes next; knows no text. The invariant: with drafts the output is
//! the same (greedy) or distributed the same (sampled) as without. Source: DeepSeek-V3
//! report, section 2.2; the rule of acceptance is that of `hadal_tokens::accept_draft`.

use std::ops::{Deref, DerefMut};

use hadal_device::NO_ARGMAX;
use hadal_models::Outputs;
use hadal_tokens::{Sampler, SamplingOptions, TokensError, Verdict, accept_draft, draw};

use crate::observe::{Chosen, Logprobs, Observe, Route, routes};
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

/// The session of a decoder.
enum Held<'s> {
    Lent(&'s mut Session),
    Own(Session),
}

impl Deref for Held<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        match self {
            Held::Lent(session) => session,
            Held::Own(session) => session,
        }
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        match self {
            Held::Lent(session) => session,
            Held::Own(session) => session,
        }
    }
}

/// A sequence being continued. The newest token is chosen but not fed.
pub struct Decoder<'s> {
    session: Held<'s>,
    /// The one it was started with: it stops steps between their submits.
    cancel: Cancel,
    chooser: Chooser,
    observe: Observe,
    routes: Vec<Route>,
    /// Prompt and output, for penalties.
    history: Vec<u32>,
    next: Chosen,
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
        Decoder::observing(
            session,
            prompt,
            sampling,
            Observe::default(),
            cancel,
            progress,
        )
    }

    /// [`Decoder::start`] with a look at each choice.
    pub fn observing(
        session: &'s mut Session,
        prompt: &[u32],
        sampling: SamplingOptions,
        observe: Observe,
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Decoder<'s>> {
        let session = Held::Lent(session);
        Decoder::of(session, prompt, sampling, observe, cancel, progress)
    }

    /// [`Decoder::observing`] with a session that ends with the decoder: for whoever keeps many of
    /// both, as those of a [`crate::Batch`].
    pub fn owning(
        session: Session,
        prompt: &[u32],
        sampling: SamplingOptions,
        observe: Observe,
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Decoder<'static>> {
        let session = Held::Own(session);
        Decoder::of(session, prompt, sampling, observe, cancel, progress)
    }

    fn of(
        mut session: Held<'s>,
        prompt: &[u32],
        sampling: SamplingOptions,
        observe: Observe,
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Decoder<'s>> {
        let mut chooser = Chooser {
            plain_greedy: is_plain_greedy(&sampling),
            logprobs: observe.logprobs,
            sampler: Sampler::new(sampling)?,
        };
        let mut history = session.tokens().to_vec();
        history.extend_from_slice(prompt);
        let next = session.prefill(prompt, cancel, progress, |done| {
            chooser.choose(done, &history)
        })?;
        history.push(next.id);
        Ok(Decoder {
            session,
            cancel: cancel.clone(),
            chooser,
            observe,
            routes: Vec::new(),
            history,
            next,
            counts: DraftCounts::default(),
        })
    }

    /// The newest token.
    pub fn newest(&self) -> u32 {
        self.next.id
    }

    /// The newest token, and what was seen of its choice.
    pub fn newest_chosen(&self) -> &Chosen {
        &self.next
    }

    /// What the routers chose for the tokens that the newest step fed and kept, if observed:
    /// a token's layers in order.
    pub fn routes(&self) -> &[Route] {
        &self.routes
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
    ///
    /// # Errors
    /// Those of the device; [`crate::EngineError::Cancelled`] by what the decoder was started
    /// with, and the session can go on from where it was.
    pub fn advance(&mut self) -> Result<Vec<u32>> {
        let chosen = self.advance_observed()?;
        Ok(chosen.into_iter().map(|token| token.id).collect())
    }

    /// [`Decoder::advance`] with what was seen of each choice.
    pub fn advance_observed(&mut self) -> Result<Vec<Chosen>> {
        let tokens = match self.room() {
            0 => Vec::new(),
            room => match self.session.draft_row() {
                Some(row) if self.session.drafts() && room >= 2 => self.advance_with_draft(row)?,
                _ => vec![self.advance_plainly()?],
            },
        };
        if let Some(last) = tokens.last() {
            self.next = last.clone();
        }
        self.history.extend(tokens.iter().map(|token| token.id));
        Ok(tokens)
    }

    fn advance_plainly(&mut self) -> Result<Chosen> {
        let (fed, observe) = ([self.next.id], self.observe);
        let (chooser, history) = (&mut self.chooser, &self.history);
        let (chosen, seen) = self.session.surviving(Some(&self.cancel), |session| {
            let position = session.position();
            let done = session.feed(&fed, &[0], observe.outputs())?;
            let seen = routes(&done, &[(fed[0], position)])?;
            Ok((chooser.choose(&done, history)?, seen))
        })?;
        self.routes = seen.concat();
        Ok(chosen)
    }

    fn advance_with_draft(&mut self, row: u32) -> Result<Vec<Chosen>> {
        let (next, observe) = (self.next.id, self.observe);
        let (chooser, history) = (&mut self.chooser, &self.history);
        let judged = self.session.surviving(Some(&self.cancel), |session| {
            let drafted = session
                .run_next(next, &[row], Outputs::Hidden)?
                .u32("ids")?[0];
            if drafted == NO_ARGMAX {
                return Ok(None);
            }
            let (fed, position) = ([next, drafted], session.position());
            let done = session.feed(&fed, &[0, 1], observe.outputs())?;
            let seen = routes(&done, &[(next, position), (drafted, position + 1)])?;
            Ok(Some((chooser.judge(&done, drafted, history)?, seen)))
        })?;
        let Some(((first, second), seen)) = judged else {
            return Ok(vec![self.advance_plainly()?]);
        };
        let mut seen = seen.concat();
        self.counts.drafted += 1;
        Ok(match second {
            Some(second) => {
                self.counts.accepted += 1;
                self.routes = seen;
                vec![first, second]
            }
            None => {
                let kept = self.session.tokens().len() - 1;
                self.session.keep(kept);
                seen.retain(|route| (route.position as usize) < kept);
                self.routes = seen;
                vec![first]
            }
        })
    }
}

/// A row of a step that fed the newest tokens of several decoders.
pub(crate) struct SharedRow {
    /// The device's choice.
    pub id: u32,
    /// Empty where the decoder reads none.
    pub logits: Vec<f32>,
    pub routes: Vec<Route>,
}

/// What a step that feeds several decoders asks of each.
impl Decoder<'_> {
    pub(crate) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    pub(crate) fn observe(&self) -> Observe {
        self.observe
    }

    /// Whether its choice takes logits.
    pub(crate) fn reads_logits(&self) -> bool {
        self.chooser.reads_logits()
    }

    /// The newest token was fed and gave `row`: chooses the next one.
    pub(crate) fn take(&mut self, row: SharedRow) -> Result<Chosen> {
        self.session.tokens.push(self.next.id);
        self.session.waiting = 1;
        self.routes = row.routes;
        let vocab = self.session.engine().model().config.vocab_size as usize;
        let greedy = || chosen(vocab, row.id);
        self.next = self.chooser.choose_of(greedy, &row.logits, &self.history)?;
        self.history.push(self.next.id);
        Ok(self.next.clone())
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
fn chosen(vocab: usize, id: u32) -> Result<u32> {
    match id {
        NO_ARGMAX => Err(TokensError::NoCandidate { vocab }.into()),
        id => Ok(id),
    }
}

/// How tokens are chosen. The sampler is touched after all reading is done.
struct Chooser {
    sampler: Sampler,
    /// Greedy and nothing else: the device's own choice is the answer, and logits are read
    /// only where somebody wants to see them.
    plain_greedy: bool,
    /// Log probabilities are wanted, with so many of the likeliest.
    logprobs: Option<usize>,
}

impl Chooser {
    fn seen(&self, id: u32, logits: &[f32]) -> Chosen {
        let logprobs = self.logprobs;
        Chosen {
            id,
            logprobs: logprobs.map(|count| Logprobs::of(logits, id, count)),
        }
    }

    fn reads_logits(&self) -> bool {
        !self.plain_greedy || self.logprobs.is_some()
    }

    /// The logits, if anybody looks at them.
    fn logits(&self, done: &Done<'_>) -> Result<Vec<f32>> {
        match self.reads_logits() {
            true => done.f32("logits"),
            false => Ok(Vec::new()),
        }
    }

    /// The token for the only row of logits.
    fn choose(&mut self, done: &Done<'_>, history: &[u32]) -> Result<Chosen> {
        let logits = self.logits(done)?;
        let greedy = || chosen(done.vocab, done.u32("ids")?[0]);
        self.choose_of(greedy, &logits, history)
    }

    /// The token for a row of `logits`; `greedy`: the device's choice.
    fn choose_of(
        &mut self,
        greedy: impl FnOnce() -> Result<u32>,
        logits: &[f32],
        history: &[u32],
    ) -> Result<Chosen> {
        let id = match self.plain_greedy {
            true => greedy()?,
            false => self.sampler.sample(logits, history)?,
        };
        Ok(self.seen(id, logits))
    }

    /// The token for row 0 and, if that is the draft, the token for row 1.
    fn judge(
        &mut self,
        done: &Done<'_>,
        drafted: u32,
        history: &[u32],
    ) -> Result<(Chosen, Option<Chosen>)> {
        let logits = self.logits(done)?;
        let rows = logits.split_at(logits.len().min(done.vocab));
        let (first, second) = if self.plain_greedy {
            let ids = done.u32("ids")?;
            let second = match ids[0] == drafted {
                true => Some(chosen(done.vocab, ids[1])?),
                false => None,
            };
            (chosen(done.vocab, ids[0])?, second)
        } else {
            judge_rows(rows, drafted, &mut self.sampler, history)?
        };
        Ok((
            self.seen(first, rows.0),
            second.map(|id| self.seen(id, rows.1)),
        ))
    }
}

/// [`Chooser::judge`] by the probabilities of both rows.
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
