//! A sequence of tokens on an engine: prompts in, streams out, history.

use std::ops::{ControlFlow, Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use hadal_device::Span;
use hadal_engine::{
    Cancel, EngineError, Finish, GenerateOptions, Generated, Observe, SamplingOptions, generate,
};
use hadal_tokens::RenderOptions;
use serde_json::Value;

use crate::chat::Splitter;
use crate::guard::{Caught, guarded, guarded_telling};
use crate::stream::Teller;
use crate::{Engine, Error, ErrorCode, Event, Prompt, Request, Result, Stream};

/// How a session works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Let the model's next-token module draft, if it has one. Greedy text is the same either
    /// way, sampled text is distributed the same.
    pub drafts: bool,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions { drafts: true }
    }
}

/// One sequence with its cache. It writes one answer at a time; what is asked meanwhile is
/// [`ErrorCode::Busy`]. Cloning shares the sequence; [`Session::fork`] copies it.
#[derive(Clone)]
pub struct Session {
    engine: Engine,
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// The thread that holds `inner`.
    holder: Mutex<Option<ThreadId>>,
    newest: Mutex<Newest>,
}

/// The sequence, which nobody else has meanwhile.
struct Entered<'s> {
    holder: &'s Mutex<Option<ThreadId>>,
    inner: MutexGuard<'s, Inner>,
}

impl Deref for Entered<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Entered<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Entered<'_> {
    /// Before it leaves the sequence to others.
    fn drop(&mut self) {
        *lock(self.holder) = None;
    }
}

/// The newest answer.
#[derive(Default)]
struct Newest {
    /// Counts answers.
    number: u64,
    is_running: bool,
    cancel: Cancel,
}

impl Newest {
    fn blocks(&self) -> bool {
        self.is_running && !self.cancel.is_cancelled()
    }
}

/// The right to write an answer; given back when dropped, also by a panic.
struct Turn {
    shared: Arc<Shared>,
    number: u64,
    cancel: Cancel,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut newest = lock(&self.shared.newest);
        if newest.number == self.number {
            newest.is_running = false;
        }
    }
}

struct Inner {
    session: hadal_engine::Session,
    /// Tokens of the sequence that are not in the cache yet: the last of an answer.
    unfed: Vec<u32>,
}

/// Where an answer begins.
struct Start {
    ids: Vec<u32>,
    splitter: Splitter,
}

impl Session {
    pub(crate) fn new(engine: &Engine, options: SessionOptions) -> Result<Session> {
        let session = hadal_engine::Session::new(&engine.inner, options.drafts)?;
        Ok(Session::of(engine, session, Vec::new()))
    }

    fn of(engine: &Engine, session: hadal_engine::Session, unfed: Vec<u32>) -> Session {
        Session {
            engine: engine.clone(),
            shared: Arc::new(Shared {
                inner: Mutex::new(Inner { session, unfed }),
                holder: Mutex::default(),
                newest: Mutex::default(),
            }),
        }
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Continues on a thread `hadal-generate` and returns at once. Errors of the request come
    /// out of the stream.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`]; the system refuses the thread.
    pub fn stream(&self, request: Request) -> Result<Stream> {
        let turn = self.begin()?;
        let (session, cancel) = (self.clone(), turn.cancel.clone());
        let stream = Stream::begin(cancel, move |on_event| {
            session.answer(&request, &turn.cancel, on_event)
        });
        stream.map_err(|error| {
            let why = format!("the system refuses a thread to write on: {error}");
            Error::new(ErrorCode::OutOfMemory, why)
        })
    }

    /// Continues on this thread and tells of it; [`ControlFlow::Break`] ends the answer as
    /// cancelled, and so does [`Session::cancel`] on another thread. [`Event::End`] is not
    /// told but returned.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`]; what is wrong with the request; those of the device.
    /// [`ErrorCode::Cancelled`] before the first token.
    pub fn generate(
        &self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generated> {
        guarded_telling(on_event, |on_event| {
            let turn = self.begin()?;
            self.answer(request, &turn.cancel, on_event)
        })
    }

    /// Reads `ids` after the sequence and shows where the logits of the last lie on the device,
    /// `vocab_size` values of `f32`, without reading them: for a program that goes on there, on a
    /// device that it shares ([`crate::DeviceChoice::Open`]). What it submits within `show` comes
    /// before whatever overwrites them, which is the engine's next step, of any session; `show`
    /// must not call the engine, and is called again where the device was lost meanwhile.
    /// `hadal_wgpu::WgpuDevice::buffer` has wgpu's handle of the buffer.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`]; ids that are none; [`ErrorCode::Cancelled`] by [`Session::cancel`];
    /// those of the device.
    pub fn logits_on_device<T>(&self, ids: &[u32], mut show: impl FnMut(Span) -> T) -> Result<T> {
        let mut caught = Caught::default();
        let shown = guarded(|| {
            let turn = self.begin()?;
            let mut inner = self.enter()?;
            let Inner { session, unfed } = &mut *inner;
            let before = session.tokens().len();
            let ids = [unfed.as_slice(), ids].concat();
            let show = |span| caught.call(|| show(span));
            let shown = session.logits_on_device(&ids, &turn.cancel, show);
            let fed = session.tokens().len().saturating_sub(before);
            unfed.drain(..fed.min(unfed.len()));
            Ok(shown?)
        });
        caught.go_on();
        let nothing = || Error::new(ErrorCode::Internal, "the logits were not shown");
        shown?.ok_or_else(nothing)
    }

    /// Claims the session for an answer.
    fn begin(&self) -> Result<Turn> {
        let mut newest = lock(&self.shared.newest);
        if newest.blocks() {
            return Err(busy());
        }
        *newest = Newest {
            number: newest.number + 1,
            is_running: true,
            cancel: Cancel::new(),
        };
        Ok(Turn {
            shared: self.shared.clone(),
            number: newest.number,
            cancel: newest.cancel.clone(),
        })
    }

    /// The sequence, once a cancelled answer has left it.
    fn inner(&self) -> Result<Entered<'_>> {
        if lock(&self.shared.newest).blocks() {
            return Err(busy());
        }
        self.enter()
    }

    /// The sequence, once whoever has it leaves it. What an answer that was cancelled tells on this
    /// thread would wait for itself.
    fn enter(&self) -> Result<Entered<'_>> {
        let (holder, own) = (&self.shared.holder, thread::current().id());
        if *lock(holder) == Some(own) {
            return Err(busy());
        }
        let inner = lock(&self.shared.inner);
        *lock(holder) = Some(own);
        Ok(Entered { holder, inner })
    }

    fn answer(
        &self,
        request: &Request,
        cancel: &Cancel,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generated> {
        let mut inner = self.enter()?;
        let inner = &mut *inner;
        let start = self.start(inner, request)?;
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled.into());
        }
        let before = inner.session.tokens().len();
        let mut teller = Teller {
            splitter: start.splitter,
            tokens: Vec::new(),
            on_event,
        };
        let options = self.options(request);
        let told = &mut |event| teller.tell(event);
        let result = generate(&mut inner.session, &start.ids, &options, cancel, told);
        let fed = inner.session.tokens().len().saturating_sub(before);
        let made = result.inspect_err(|_| {
            // Those of the answer before that were read again are in the cache now.
            inner.unfed.drain(..fed.min(inner.unfed.len()));
        })?;
        teller.finish();
        // The newest token was chosen and not read, or read as a draft whose successor was not
        // wanted: either way it is read with what comes next.
        let kept = before + start.ids.len() + made.ids.len().saturating_sub(1);
        inner.session.keep(kept);
        // A token that ends a text is not part of what is continued.
        let newest = made.ids.last().filter(|_| made.finish != Finish::End);
        inner.unfed = newest.copied().into_iter().collect();
        Ok(made)
    }

    fn options(&self, request: &Request) -> GenerateOptions {
        let recommended = || match self.engine.model().text() {
            Ok(text) => text.generation().sampling(),
            Err(_) => SamplingOptions::default(),
        };
        let mut sampling = request.sampling.clone().unwrap_or_else(recommended);
        sampling.seed = request.seed.unwrap_or(sampling.seed);
        GenerateOptions {
            max_tokens: request.max_tokens,
            sampling,
            stop: request.stop.clone(),
            ignore_end: request.ignore_end,
            observe: Observe {
                logprobs: request.logprobs,
                routes: request.watch_experts,
            },
        }
    }

    /// What has to be read for `request`; forgets what the conversation does not have.
    fn start(&self, inner: &mut Inner, request: &Request) -> Result<Start> {
        let messages = match &request.prompt {
            Prompt::Ids(ids) => return Ok(continued(inner, ids.clone(), "")),
            Prompt::Text(text) => {
                let model = self.engine.model().text()?;
                let fewest = model.tokenizer().fewest_tokens(text.len());
                self.engine.inner.check_room(fewest)?;
                let begins = inner.session.tokens().is_empty() && inner.unfed.is_empty();
                let ids = match begins {
                    true => model.encode_prompt(text)?,
                    false => model.tokenizer().encode(text)?,
                };
                return Ok(continued(inner, ids, text));
            }
            Prompt::Messages(messages) => messages.iter().map(crate::Message::json).collect(),
            Prompt::Json(messages) => messages.clone(),
        };
        self.conversation(inner, request, &messages)
    }

    fn conversation(
        &self,
        inner: &mut Inner,
        request: &Request,
        messages: &Value,
    ) -> Result<Start> {
        let model = self.engine.model().text()?;
        let variables = request.template_variables.clone().into_iter().collect();
        let render = RenderOptions {
            thinking: request.thinking,
            variables,
            ..RenderOptions::default()
        };
        let rendered = model.render(messages, &render)?;
        let known = inner.session.tokens().iter().zip(&rendered.ids);
        let shared = known.take_while(|(old, new)| old == new).count();
        // At least one token must be read, to go on from.
        let shared = shared.min(rendered.ids.len().saturating_sub(1));
        inner.session.keep(shared);
        inner.unfed.clear();
        let tokenizer = model.tokenizer();
        let marks = ["<think>", "</think>"];
        let marks = marks.iter().any(|mark| tokenizer.token_id(mark).is_some());
        Ok(Start {
            ids: rendered.ids[shared..].to_vec(),
            splitter: Splitter::new(&rendered.text, marks),
        })
    }

    /// All tokens of the sequence.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`].
    pub fn tokens(&self) -> Result<Vec<u32>> {
        let inner = self.inner()?;
        Ok([inner.session.tokens(), &inner.unfed].concat())
    }

    /// Keeps the first `count` tokens.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`].
    pub fn truncate(&self, count: usize) -> Result<()> {
        let mut inner = self.inner()?;
        let fed = inner.session.tokens().len();
        inner.unfed.truncate(count.saturating_sub(fed));
        inner.session.keep(count);
        Ok(())
    }

    /// Forgets everything; the memory stays.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`].
    pub fn clear(&self) -> Result<()> {
        let mut inner = self.inner()?;
        inner.unfed.clear();
        inner.session.clear();
        Ok(())
    }

    /// Another session with the same tokens; nothing is computed again.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`]; [`ErrorCode::OutOfMemory`]; those of the device.
    pub fn fork(&self) -> Result<Session> {
        guarded(|| {
            let mut inner = self.inner()?;
            let fork = inner.session.fork()?;
            Ok(Session::of(&self.engine, fork, inner.unfed.clone()))
        })
    }

    /// Stops the answer that is being written, if one is: whoever reads it sees its end.
    pub fn cancel(&self) {
        lock(&self.shared.newest).cancel.cancel();
    }

    /// Bytes of cache it holds.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`].
    pub fn cache_bytes(&self) -> Result<u64> {
        Ok(self.inner()?.session.cache_bytes())
    }
}

/// `ids` after what the sequence has.
fn continued(inner: &Inner, ids: Vec<u32>, prompt: &str) -> Start {
    Start {
        ids: [inner.unfed.as_slice(), &ids].concat(),
        splitter: Splitter::new(prompt, false),
    }
}

fn busy() -> Error {
    Error::new(ErrorCode::Busy, "the session is writing an answer")
}

/// A thread that died left what it guarded whole: tokens are kept after they were computed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
