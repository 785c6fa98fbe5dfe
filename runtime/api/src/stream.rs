//! What a session tells while it writes, to be read by a loop or by a task.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hadal_engine::{Cancel, DraftCounts, Event as Told, Generated, Logprobs, Route};

use crate::Result;
use crate::chat::Splitter;
use crate::guard::guarded;
use crate::queue::Queue;

/// An output token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// How likely it was, if asked for.
    pub logprobs: Option<Logprobs>,
}

/// Something to show while the model writes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Prompt tokens read, and to read in all; those that the session had are not among them.
    Prompt {
        /// Read so far.
        done: usize,
        /// In all.
        total: usize,
    },
    /// More text: whole characters, no part of a stop string.
    Text {
        /// The text; empty for tokens at the end that have none.
        text: String,
        /// The tokens that completed it; a token whose text is held back comes with later text.
        tokens: Vec<Token>,
        /// Part of the model's reasoning and not of its answer.
        reasoning: bool,
    },
    /// Drafts made and accepted so far.
    Drafts(DraftCounts),
    /// Which experts each layer asked for the tokens of a step, if asked for.
    Routes(Vec<Route>),
    /// The end, with figures. Nothing comes after it.
    End(Box<Generated>),
}

/// Makes events for a program of those of the engine.
pub(crate) struct Teller<'e> {
    pub splitter: Splitter,
    pub tokens: Vec<Token>,
    pub on_event: &'e mut dyn FnMut(Event) -> ControlFlow<()>,
}

impl Teller<'_> {
    pub fn tell(&mut self, told: Told) -> ControlFlow<()> {
        match told {
            Told::Prompt { done, total } => (self.on_event)(Event::Prompt { done, total }),
            Told::Token(token) => {
                self.tokens.push(Token {
                    id: token.id,
                    logprobs: token.logprobs,
                });
                ControlFlow::Continue(())
            }
            Told::Text(piece) => self.text(&piece),
            Told::Drafts(counts) => (self.on_event)(Event::Drafts(counts)),
            Told::Routes(routes) => (self.on_event)(Event::Routes(routes)),
            // Of a later engine; nothing that a program has to know.
            _ => ControlFlow::Continue(()),
        }
    }

    fn text(&mut self, piece: &str) -> ControlFlow<()> {
        for (text, reasoning) in self.splitter.push(piece) {
            self.part(text, reasoning)?;
        }
        ControlFlow::Continue(())
    }

    fn part(&mut self, text: String, reasoning: bool) -> ControlFlow<()> {
        (self.on_event)(Event::Text {
            text,
            tokens: std::mem::take(&mut self.tokens),
            reasoning,
        })
    }

    /// What is left when the text is over.
    pub fn finish(&mut self) {
        let rest = self.splitter.finish();
        if rest.is_some() || !self.tokens.is_empty() {
            let (text, reasoning) = rest.unwrap_or_default();
            // It is over either way.
            let _ = self.part(text, reasoning);
        }
    }
}

/// Events of an answer that is written on a thread of its own: an [`Iterator`], and a
/// [`futures_core::Stream`] for tasks of any executor.
///
/// The writing thread does not wait for its reader. Dropping the stream cancels the answer and
/// returns at once; the session is free again after the step that runs.
///
/// ```
/// # #[cfg(feature = "tiny")]
/// # fn main() -> hadal::Result<()> {
/// # use hadal::{Event, LoadOptions, Model, Request, SessionOptions};
/// # let engine = Model::shipped()?.load(LoadOptions::on("host").with_context(512))?;
/// # let session = engine.session(SessionOptions::default())?;
/// let mut stream = session.stream(Request::text("Once upon a time").with_seed(5))?;
/// let mut text = String::new();
/// // An interface looks once a frame, and its stop button cancels.
/// while !stream.is_over() {
///     while let Some(event) = stream.try_next() {
///         match event? {
///             Event::Text { text: more, .. } => text += &more,
///             Event::End(end) => println!("{:?} after {} tokens", end.finish, end.ids.len()),
///             _ => {}
///         }
///     }
///     if text.len() > 40 {
///         stream.cancel();
///     }
///     std::thread::sleep(std::time::Duration::from_millis(16));
/// }
/// assert!(text.len() > 40);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "tiny"))]
/// # fn main() {}
/// ```
pub struct Stream {
    queue: Arc<Queue<Result<Event>>>,
    cancel: Cancel,
}

impl Stream {
    /// Begins `work` on a thread of its own.
    pub(crate) fn begin(
        cancel: Cancel,
        work: impl FnOnce(&mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Generated>
        + Send
        + 'static,
    ) -> std::io::Result<Stream> {
        let queue = Arc::new(Queue::new());
        let (mine, asked) = (queue.clone(), cancel.clone());
        let body = move || {
            let mut on_event = |event| {
                mine.push(Ok(event));
                match asked.is_cancelled() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let result = guarded(|| work(&mut on_event));
            mine.push(result.map(|made| Event::End(Box::new(made))));
            mine.close();
        };
        let thread = std::thread::Builder::new().name("hadal-generate".to_string());
        thread.spawn(body)?;
        Ok(Stream { queue, cancel })
    }

    /// Stops after the step that runs; the events so far, and [`Event::End`] with
    /// [`hadal_engine::Finish::Cancelled`], can still be read. Before the first token the
    /// stream ends with [`crate::ErrorCode::Cancelled`] instead.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// A handle to cancel from elsewhere.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The next event, if there is one now: for interfaces that look once a frame.
    pub fn try_next(&mut self) -> Option<Result<Event>> {
        self.queue.try_next()
    }

    /// Whether nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.queue.is_over()
    }
}

impl Iterator for Stream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        self.queue.next()
    }
}

impl futures_core::Stream for Stream {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        self.queue.poll_next(context)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
