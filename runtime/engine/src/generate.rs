//! Text from a prompt: decoding, stop rules and streaming, with the figures people ask for.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use hadal_tokens::{SamplingOptions, StopStrings, Stream, TokensError};

use crate::decode::{Decoder, DraftCounts};
use crate::observe::{Chosen, Observe, Route};
use crate::{Cancel, Engine, EngineError, Result, Session};

/// What to generate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens of output; `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Strings that end the output; they are not part of it.
    pub stop: Vec<String>,
    /// Go on after an end-of-text token.
    pub ignore_end: bool,
    /// What to tell of each token beside its text.
    pub observe: Observe,
}

/// Something to show while generating.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Prompt tokens read, and in all.
    Prompt {
        /// Read so far.
        done: usize,
        /// In all.
        total: usize,
    },
    /// The next output token; the text that it completes comes after it.
    Token(Chosen),
    /// More text: whole characters, no part of a stop string.
    Text(String),
    /// Drafts of the next-token module so far, after a step that judged one.
    Drafts(DraftCounts),
    /// Which experts a step asked, if observed.
    Routes(Vec<Route>),
}

/// Why the output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its text.
    End,
    /// A stop string.
    Stop,
    /// `max_tokens`.
    Length,
    /// The context is full.
    Context,
    /// The event function asked to stop, or the request was cancelled.
    Cancelled,
}

impl Finish {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Finish::End => "end",
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Output tokens, an end-of-text token included.
    pub ids: Vec<u32>,
    /// Their text, without end-of-text and stop strings.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// From the start to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Steps of the main model after the first token.
    pub steps: usize,
    /// Drafts of the next-token module.
    pub drafts: DraftCounts,
}

impl Generated {
    /// Output tokens a second after the first; `None` for fewer than two tokens.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.decode.as_secs_f64();
        (self.ids.len() > 1 && seconds > 0.0).then(|| (self.ids.len() - 1) as f64 / seconds)
    }
}

/// Text under construction: decides what may be shown and when it is over.
struct Writer<'e> {
    stream: Option<Stream>,
    stops: StopStrings,
    end_ids: Vec<u32>,
    on_event: &'e mut dyn FnMut(Event) -> ControlFlow<()>,
    out: Generated,
    limit: usize,
    /// The event function asked to stop: it is not called again.
    refused: bool,
}

impl Writer<'_> {
    fn tell(&mut self, event: Event) {
        if !self.refused {
            self.refused = (self.on_event)(event).is_break();
        }
    }

    fn show(&mut self, piece: &str) -> Option<Finish> {
        let pushed = self.stops.push(piece);
        let mut stopped = pushed.stopped_by.map(|_| Finish::Stop);
        if !pushed.text.is_empty() {
            self.out.text.push_str(&pushed.text);
            self.tell(Event::Text(pushed.text));
            if self.refused {
                stopped = Some(Finish::Cancelled);
            }
        }
        stopped
    }

    /// Takes the next token; tells if it was the last.
    fn take(&mut self, token: &Chosen) -> Result<Option<Finish>> {
        let id = token.id;
        self.out.ids.push(id);
        self.tell(Event::Token(token.clone()));
        if self.end_ids.contains(&id) {
            return Ok(Some(Finish::End));
        }
        let piece = match &mut self.stream {
            // The embedding may have more rows than the tokenizer has tokens; such a row has
            // no text.
            Some(stream) => match stream.push(id) {
                Err(TokensError::UnknownId { .. }) => None,
                piece => piece?,
            },
            None => None,
        };
        let finish = piece.and_then(|piece| self.show(&piece));
        let finish = finish.or(self.refused.then_some(Finish::Cancelled));
        Ok(finish.or((self.out.ids.len() >= self.limit).then_some(Finish::Length)))
    }

    fn close(mut self, finish: Finish) -> Generated {
        if finish != Finish::Stop {
            let rest = self.stream.as_mut().and_then(Stream::finish);
            if let Some(rest) = rest {
                self.show(&rest);
            }
            let held = self.stops.finish();
            if !held.is_empty() {
                self.out.text.push_str(&held);
                self.tell(Event::Text(held));
            }
        }
        self.out.finish = finish;
        self.out
    }
}

/// Continues the session with `prompt` and what the model says to it.
///
/// Cancelling ends the output with [`Finish::Cancelled`] and keeps what there is; the session
/// can go on. A cancel before the first token is [`EngineError::Cancelled`]. `on_event` cancels by
/// breaking off, and is not called again.
pub fn generate(
    session: &mut Session,
    prompt: &[u32],
    options: &GenerateOptions,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Generated> {
    if options.max_tokens == Some(0) {
        return Err(EngineError::Option(
            "max_tokens is 0; ask for at least one token".to_string(),
        ));
    }
    let engine = session.engine().clone();
    let model = engine.model().clone();
    let text = model.text.as_ref().ok();
    let mut end_ids = model.config.eos_token_ids.clone();
    end_ids.extend(text.iter().flat_map(|text| text.stop_ids()));
    let stops = StopStrings::new(options.stop.clone())?;
    let started = Instant::now();
    let mut progress = |done, total| {
        if !cancel.is_cancelled() && on_event(Event::Prompt { done, total }).is_break() {
            cancel.cancel();
        }
    };
    let sampling = options.sampling.clone();
    let observe = options.observe;
    let mut decoder =
        Decoder::observing(session, prompt, sampling, observe, cancel, &mut progress)?;
    cancel.check()?;
    let first_token = started.elapsed();
    let mut writer = Writer {
        stream: text.map(|text| text.tokenizer().stream(true)),
        stops,
        refused: false,
        end_ids: if options.ignore_end {
            Vec::new()
        } else {
            end_ids
        },
        on_event,
        limit: options.max_tokens.unwrap_or(usize::MAX),
        out: Generated {
            ids: Vec::new(),
            text: String::new(),
            finish: Finish::End,
            prompt_tokens: prompt.len(),
            first_token,
            decode: Duration::ZERO,
            steps: 0,
            drafts: DraftCounts::default(),
        },
    };
    let finish = run(&mut decoder, &mut writer, &engine, cancel)?;
    writer.out.decode = started.elapsed() - first_token;
    writer.out.drafts = decoder.draft_counts();
    Ok(writer.close(finish))
}

fn run(
    decoder: &mut Decoder<'_>,
    writer: &mut Writer<'_>,
    engine: &Engine,
    cancel: &Cancel,
) -> Result<Finish> {
    if let Some(finish) = writer.take(decoder.newest_chosen())? {
        return Ok(finish);
    }
    loop {
        if engine.gate.pass(cancel).is_err() {
            return Ok(Finish::Cancelled);
        }
        let before = decoder.draft_counts();
        let tokens = match decoder.advance_observed() {
            Err(EngineError::Cancelled) => return Ok(Finish::Cancelled),
            advanced => advanced?,
        };
        if tokens.is_empty() {
            return Ok(Finish::Context);
        }
        writer.out.steps += 1;
        if !decoder.routes().is_empty() {
            writer.tell(Event::Routes(decoder.routes().to_vec()));
        }
        if decoder.draft_counts() != before {
            writer.tell(Event::Drafts(decoder.draft_counts()));
        }
        for token in &tokens {
            if let Some(finish) = writer.take(token)? {
                return Ok(finish);
            }
        }
    }
}
