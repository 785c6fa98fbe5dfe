//! What the window shows, and how replies of the working threads change it.
//!
//! Decides what follows from what; must not know how it is painted or who works. Pages read it
//! and answer with [`Action`]s.

use std::time::Instant;

use hadal::{Event, Finish, Generated, MemoryUse};

use crate::activity::Activity;
use crate::conversation::{Conversation, Ending, Figures};
use crate::planner::{DeviceRow, Planned};
use crate::settings::Settings;
use crate::worker::{Failure, Loaded, Reply};

/// A page of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Page {
    /// Conversations.
    #[default]
    Chat,
    /// What the model does as it writes.
    Inside,
    /// Models, plans and devices.
    Models,
    /// Settings.
    Settings,
}

/// What a person wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Say what is in the field.
    Ask,
    /// Stop the answer.
    Stop,
    /// Another answer instead of the last.
    Regenerate,
    /// A new conversation.
    New,
    /// The conversation at this place of the list.
    Open(usize),
    /// Delete it.
    Delete(usize),
    /// Show a page.
    Go(Page),
    /// Plan the model of the settings.
    Plan,
    /// Load it.
    Load,
    /// Stop loading.
    CancelLoad,
    /// List devices again.
    Survey,
    /// Settings were changed.
    Settings,
    /// Settings of a running engine were changed too.
    Courtesy,
    /// To the clipboard.
    Copy(String),
}

/// The model.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Engine {
    /// None is loaded.
    #[default]
    None,
    /// One is being loaded: the share that is done.
    Loading(f32),
    /// It can write.
    Ready(Loaded),
    /// It could not be loaded.
    Failed(String),
}

/// The plan of the model in the settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Plan {
    /// Nobody asked.
    #[default]
    None,
    /// It is being made.
    Making,
    /// Here it is.
    Made(Planned),
    /// It cannot be made: why.
    Failed(String),
}

/// All that is shown.
pub struct State {
    /// The page.
    pub page: Page,
    /// Settings.
    pub settings: Settings,
    /// The newest first; never empty.
    pub conversations: Vec<Conversation>,
    /// Which of them is open.
    pub current: usize,
    /// What the person is writing.
    pub field: String,
    /// The field wants the keyboard.
    pub focus_field: bool,
    /// The model.
    pub engine: Engine,
    /// Its plan.
    pub plan: Plan,
    /// Devices, once they are known.
    pub devices: Option<Vec<DeviceRow>>,
    /// Why the window's device cannot be shared; `None`: it can.
    pub window_refused: Option<String>,
    /// What the engine holds.
    pub memory: Option<MemoryUse>,
    /// Bytes of the process.
    pub process_bytes: Option<u64>,
    /// What the model does.
    pub activity: Activity,
    /// Whether the newest answer tells which experts it asks.
    pub watched: bool,
    /// The layer whose load is shown; `None`: all.
    pub load_of: Option<usize>,
    /// Number of the answer being written, and the conversation it belongs to.
    pub answering: Option<(u64, String)>,
    /// Prompt tokens read, and in all, while a prompt is being read.
    pub prompt: Option<(usize, usize)>,
    /// Tokens in the context: the prompt's and those written.
    pub context_tokens: usize,
    /// Tokens a second of the last answer.
    pub last_speed: Option<f64>,
    /// Things to tell the person, each until it is closed.
    pub notices: Vec<String>,
    /// When the program began: the clock of [`Activity`].
    pub began: Instant,
}

/// What has to be saved after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing that is saved.
    Nothing,
    /// The conversation at this place.
    Conversation(usize),
    /// Settings.
    Settings,
}

impl State {
    /// With `conversations` as found; `id` names a new one.
    pub fn new(settings: Settings, mut conversations: Vec<Conversation>, id: String) -> State {
        conversations.insert(0, Conversation::new(id));
        State {
            page: Page::default(),
            settings,
            conversations,
            current: 0,
            field: String::new(),
            focus_field: true,
            engine: Engine::None,
            plan: Plan::None,
            devices: None,
            window_refused: None,
            memory: None,
            process_bytes: None,
            activity: Activity::default(),
            watched: true,
            load_of: None,
            answering: None,
            prompt: None,
            context_tokens: 0,
            last_speed: None,
            notices: Vec::new(),
            began: Instant::now(),
        }
    }

    /// Seconds since the program began.
    pub fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// The open conversation.
    pub fn conversation(&self) -> &Conversation {
        &self.conversations[self.current]
    }

    /// The same, to change.
    pub fn conversation_mut(&mut self) -> &mut Conversation {
        &mut self.conversations[self.current]
    }

    /// The loaded model.
    pub fn loaded(&self) -> Option<&Loaded> {
        match &self.engine {
            Engine::Ready(loaded) => Some(loaded),
            _ => None,
        }
    }

    /// Whether an answer that begins now is to tell which experts it asks. Each layer's choice is
    /// read back, which on a GPU takes a turn in its queue: only where somebody looks.
    pub fn watches(&self) -> bool {
        let on_host = self.loaded().is_some_and(|loaded| loaded.device == "host");
        on_host || self.page == Page::Inside
    }

    /// A new conversation is open: the one without words, if there is one.
    pub fn open_new(&mut self, id: String) {
        let empty = self.conversations.iter().position(|c| c.turns.is_empty());
        self.current = empty.unwrap_or_else(|| {
            self.conversations.insert(0, Conversation::new(id));
            0
        });
        self.page = Page::Chat;
        self.focus_field = true;
    }

    /// Deletes the conversation at `index`, and says its name; another one is open then. One
    /// that is being written stays.
    pub fn delete(&mut self, index: usize, new_id: String) -> Option<String> {
        if self.conversations.get(index)?.is_writing() {
            return None;
        }
        let gone = self.conversations.remove(index);
        if self.conversations.is_empty() {
            self.conversations.push(Conversation::new(new_id));
        }
        if self.current > index || self.current == self.conversations.len() {
            self.current = self.current.saturating_sub(1);
        }
        Some(gone.id)
    }

    /// What a reply changes.
    pub fn apply(&mut self, reply: Reply) -> Changed {
        match reply {
            Reply::Loading(share) => {
                if let Engine::Loading(done) = &mut self.engine {
                    *done = share;
                }
            }
            Reply::Loaded(result) => return self.apply_loaded(*result),
            Reply::Wrote(number, event) => self.apply_event(number, event),
            Reply::Ended(number, result) => return self.apply_end(number, *result),
            Reply::Memory(memory, process) => {
                self.memory = Some(memory);
                self.process_bytes = process;
            }
            Reply::Devices(rows) => self.devices = Some(rows),
            Reply::Planned(result) => {
                self.plan = match *result {
                    Ok(planned) => Plan::Made(planned),
                    Err(why) => Plan::Failed(why),
                }
            }
            Reply::Notice(text) => self.notices.push(text),
        }
        Changed::Nothing
    }

    fn apply_loaded(&mut self, result: Result<Loaded, String>) -> Changed {
        self.context_tokens = 0;
        self.last_speed = None;
        self.load_of = None;
        match result {
            Ok(loaded) => {
                self.activity = Activity::new(loaded.layers.clone(), loaded.experts as usize);
                self.engine = Engine::Ready(loaded);
                self.settings.remember();
                Changed::Settings
            }
            Err(why) => {
                self.memory = None;
                self.engine = Engine::Failed(why);
                Changed::Nothing
            }
        }
    }

    /// Where the conversation of an answer is now.
    fn place_of(&self, number: u64) -> Option<usize> {
        let (_, id) = self.answering.as_ref().filter(|(n, _)| *n == number)?;
        self.conversations.iter().position(|c| c.id == *id)
    }

    fn apply_event(&mut self, number: u64, event: Event) {
        let Some(place) = self.place_of(number) else {
            return;
        };
        let now = self.now();
        match event {
            Event::Prompt { done, total } => {
                self.context_tokens = done;
                self.prompt = (done < total).then_some((done, total));
            }
            Event::Text {
                text,
                tokens,
                reasoning,
            } => {
                self.prompt = None;
                self.context_tokens += tokens.len();
                self.activity.tokens(tokens.len(), now);
                self.conversations[place].append(&text, reasoning);
            }
            Event::Drafts(counts) => self.activity.drafts(counts),
            Event::Routes(routes) => self.activity.routes(&routes, now),
            // Of a later library; nothing that is shown.
            _ => {}
        }
    }

    fn apply_end(&mut self, number: u64, result: Result<Generated, Failure>) -> Changed {
        let Some(place) = self.place_of(number) else {
            return Changed::Nothing;
        };
        self.answering = None;
        self.prompt = None;
        let (ending, figures) = match result {
            Ok(made) => (ending(made.finish), Some(figures(&made))),
            Err(failure) if failure.stopped => (Ending::Stopped, None),
            Err(failure) if failure.context_full => (Ending::ContextFull, None),
            Err(failure) => (Ending::Failed(failure.message), None),
        };
        if let Some(figures) = &figures {
            self.last_speed = figures.tokens_per_second;
        }
        self.conversations[place].end(ending, figures);
        Changed::Conversation(place)
    }
}

fn ending(finish: Finish) -> Ending {
    match finish {
        Finish::End | Finish::Stop => Ending::Whole,
        Finish::Length => Ending::Length,
        Finish::Context => Ending::ContextFull,
        Finish::Cancelled => Ending::Stopped,
    }
}

fn figures(made: &Generated) -> Figures {
    Figures {
        tokens: made.ids.len(),
        tokens_per_second: made.tokens_per_second(),
        acceptance: made.drafts.acceptance(),
    }
}
