//! The thread `hadal-work`, which loads models and writes answers, and what it is told and tells.
//!
//! Decides in which order things are done; must not know a window. Stopping does not wait in the
//! order: it reaches the work that runs.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use hadal::{
    Cancel, Engine, Error, Event, Generated, LoadOptions, MemoryUse, Model, Request, Session,
    SessionOptions,
};

use crate::planner::{DeviceRow, Planned};

/// What the working threads tell the window.
pub enum Reply {
    /// Share of a load that is done, 0 to 1.
    Loading(f32),
    /// A load ended.
    Loaded(Box<Result<Loaded, String>>),
    /// What an answer, by its number, comes to.
    Wrote(u64, Event),
    /// An answer is over. [`Generated`] is figures; its text came before.
    Ended(u64, Box<Result<Generated, Failure>>),
    /// What the engine holds, and the process.
    Memory(MemoryUse, Option<u64>),
    /// All devices.
    Devices(Vec<DeviceRow>),
    /// A plan.
    Planned(Box<Result<Planned, String>>),
    /// Something to tell the person.
    Notice(String),
}

/// Why there is no answer.
pub struct Failure {
    /// What happened and what to do.
    pub message: String,
    /// It was stopped before its first token.
    pub stopped: bool,
    /// There is no room left.
    pub context_full: bool,
}

/// A model that is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// Name of its device: `host`.
    pub device: String,
    /// What the vendor calls it.
    pub device_name: String,
    /// Tokens a session holds.
    pub context: u32,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Layers with experts.
    pub layers: Vec<u32>,
    /// Experts of each.
    pub experts: u32,
    /// Experts that a token asks.
    pub experts_per_token: u32,
    /// It answers conversations; else it continues texts.
    pub chats: bool,
    /// How long opening and loading took.
    pub took: Duration,
}

/// What to load.
pub struct Load {
    /// `None`: the model that ships.
    pub path: Option<PathBuf>,
    /// How.
    pub options: LoadOptions,
    /// Stops it.
    pub cancel: Cancel,
}

enum Command {
    Load(Box<Load>),
    Answer(u64, Box<Request>),
    Budget(Option<u64>),
    LowPriority(bool),
}

/// Sends replies and wakes the window.
#[derive(Clone)]
pub struct Teller {
    sender: Sender<Reply>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Teller {
    /// And where they come out.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> (Teller, Receiver<Reply>) {
        let (sender, receiver) = mpsc::channel();
        let wake = Arc::new(wake);
        (Teller { sender, wake }, receiver)
    }

    /// Tells; a window that is gone needs to know nothing.
    pub fn tell(&self, reply: Reply) {
        if self.sender.send(reply).is_ok() {
            (self.wake)();
        }
    }
}

/// How stopping reaches what runs.
#[derive(Default)]
struct Stops {
    /// Answers up to this number are not wanted.
    answers: AtomicU64,
    /// The session that writes.
    session: Mutex<Option<Session>>,
}

impl Stops {
    fn session(&self) -> std::sync::MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self, number: u64) -> bool {
        self.answers.load(Ordering::Relaxed) >= number
    }
}

/// The window's end of the thread.
pub struct Worker {
    commands: Option<Sender<Command>>,
    stops: Arc<Stops>,
    over: Receiver<()>,
}

impl Worker {
    /// Begins the thread.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn start(teller: Teller) -> std::io::Result<Worker> {
        let (commands, todo) = mpsc::channel();
        let (ended, over) = mpsc::channel();
        let stops = Arc::new(Stops::default());
        let mut work = Work {
            teller,
            stops: stops.clone(),
            loaded: None,
        };
        Builder::new()
            .name("hadal-work".to_string())
            .spawn(move || {
                for command in todo {
                    work.run(command);
                }
                *work.stops.session() = None;
                drop(work);
                let _ = ended.send(());
            })?;
        Ok(Worker {
            commands: Some(commands),
            stops,
            over,
        })
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }

    /// Loads, after what runs; the model before goes first.
    pub fn load(&self, load: Load) {
        self.send(Command::Load(Box::new(load)));
    }

    /// Writes an answer. Numbers grow.
    pub fn answer(&self, number: u64, request: Request) {
        self.send(Command::Answer(number, Box::new(request)));
    }

    /// Stops answers up to `number`.
    pub fn stop(&self, number: u64) {
        self.stops.answers.fetch_max(number, Ordering::Relaxed);
        if let Some(session) = self.stops.session().as_ref() {
            session.cancel();
        }
    }

    /// Another memory budget.
    pub fn set_budget(&self, bytes: Option<u64>) {
        self.send(Command::Budget(bytes));
    }

    /// Leave room for others, or no longer.
    pub fn set_low_priority(&self, low: bool) {
        self.send(Command::LowPriority(low));
    }
}

impl Drop for Worker {
    /// Stops what runs and waits a little for it, so that a device is not used while the
    /// program goes away.
    fn drop(&mut self) {
        self.stop(u64::MAX);
        self.commands = None;
        let _ = self.over.recv_timeout(Duration::from_secs(2));
    }
}

struct Work {
    teller: Teller,
    stops: Arc<Stops>,
    loaded: Option<(Engine, Session)>,
}

impl Work {
    fn run(&mut self, command: Command) {
        match command {
            Command::Load(load) => {
                // Its memory is wanted by the next one.
                *self.stops.session() = None;
                self.loaded = None;
                let result = self.load(*load).map_err(|error| explain(&error));
                self.teller.tell(Reply::Loaded(Box::new(result)));
                self.tell_memory();
            }
            Command::Answer(number, request) => {
                let result = self.answer(number, &request);
                self.tell_memory();
                self.teller.tell(Reply::Ended(number, Box::new(result)));
            }
            Command::Budget(bytes) => self.set_budget(bytes),
            Command::LowPriority(low) => {
                if let Some((engine, _)) = &self.loaded {
                    engine.set_low_priority(low);
                }
            }
        }
    }

    fn load(&mut self, load: Load) -> hadal::Result<Loaded> {
        let start = Instant::now();
        let model = match &load.path {
            None => Model::shipped()?,
            Some(path) => Model::open(path)?,
        };
        let teller = self.teller.clone();
        let mut told = 0.0;
        let mut progress = |so_far: hadal::Progress| {
            let share = so_far.bytes_done as f32 / so_far.bytes_total.max(1) as f32;
            // A bar has no more steps than that.
            if share - told >= 0.005 || share >= 1.0 {
                told = share;
                teller.tell(Reply::Loading(share));
            }
            ControlFlow::Continue(())
        };
        let engine = model.load_with(load.options, &load.cancel, &mut progress)?;
        let session = engine.session(SessionOptions::default())?;
        let config = model.config();
        let layers = 0..config.num_hidden_layers;
        let device = engine.device();
        let loaded = Loaded {
            name: model.name().to_string(),
            device: device.id(),
            device_name: device.name,
            context: engine.context(),
            weight_bytes: engine.weight_bytes(),
            layers: layers.filter(|&layer| config.is_moe(layer)).collect(),
            experts: config.n_routed_experts,
            experts_per_token: config.num_experts_per_tok,
            // The one that ships tells stories, whatever template it has.
            chats: load.path.is_some() && model.can_chat(),
            took: start.elapsed(),
        };
        *self.stops.session() = Some(session.clone());
        self.loaded = Some((engine, session));
        Ok(loaded)
    }

    fn answer(&self, number: u64, request: &Request) -> Result<Generated, Failure> {
        let stopped = || Failure {
            message: "stopped".to_string(),
            stopped: true,
            context_full: false,
        };
        if self.stops.is_stopped(number) {
            return Err(stopped());
        }
        let Some((_, session)) = &self.loaded else {
            return Err(Failure {
                message: "No model is loaded. Load one on the page Models.".to_string(),
                stopped: false,
                context_full: false,
            });
        };
        let mut on_event = |event| {
            self.teller.tell(Reply::Wrote(number, event));
            match self.stops.is_stopped(number) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let continues = matches!(request.prompt, hadal::Prompt::Text(_));
        let cleared = match continues {
            // The request has the whole text.
            true => session.clear(),
            false => Ok(()),
        };
        let made = cleared.and_then(|()| session.generate(request, &mut on_event));
        made.map_err(|error| Failure {
            stopped: error.code() == hadal::ErrorCode::Cancelled,
            context_full: error.code() == hadal::ErrorCode::ContextFull,
            message: explain(&error),
        })
    }

    fn set_budget(&self, bytes: Option<u64>) {
        let Some((engine, _)) = &self.loaded else {
            return;
        };
        match engine.set_budget(bytes) {
            Ok(_) => self.tell_memory(),
            Err(error) => self.teller.tell(Reply::Notice(explain(&error))),
        }
    }

    fn tell_memory(&self) {
        if let Some((engine, _)) = &self.loaded {
            let memory = engine.memory();
            self.teller.tell(Reply::Memory(memory, process_bytes()));
        }
    }
}

/// An error and its cure.
pub fn explain(error: &Error) -> String {
    let message = error.to_string();
    let end = match message.ends_with(['.', '!', '?']) {
        true => "",
        false => ".",
    };
    format!("{message}{end} {}", error.cure())
}

/// Bytes of this process in memory, where the system tells.
fn process_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> (Worker, Receiver<Reply>) {
        let (teller, replies) = Teller::new(|| {});
        let worker = Worker::start(teller).unwrap();
        (worker, replies)
    }

    fn load(worker: &Worker) {
        worker.load(Load {
            path: None,
            options: LoadOptions::on("host").with_context(512).with_threads(1),
            cancel: Cancel::new(),
        });
    }

    /// Replies to an answer: its text, and how it ended.
    fn read(
        replies: &Receiver<Reply>,
        mut on_text: impl FnMut(),
    ) -> (String, Result<Generated, Failure>) {
        let mut all = String::new();
        for reply in replies {
            match reply {
                Reply::Wrote(_, Event::Text { text, .. }) => {
                    all += &text;
                    on_text();
                }
                Reply::Ended(_, result) => return (all, *result),
                _ => {}
            }
        }
        panic!("the worker went away");
    }

    #[test]
    fn an_answer_comes_in_pieces_and_a_stop_keeps_what_came() {
        let (worker, replies) = start();
        load(&worker);
        let request = Request::text("Once upon a time")
            .with_max_tokens(400)
            .with_seed(5);
        worker.answer(1, request.clone());
        let mut pieces = 0;
        let (text, made) = read(&replies, || {
            pieces += 1;
            if pieces == 3 {
                worker.stop(1);
            }
        });
        let made = made.ok().unwrap();
        assert_eq!(made.finish, hadal::Finish::Cancelled);
        assert!(!text.is_empty() && made.ids.len() < 400);
        // And the next one is not stopped by it.
        worker.answer(2, request.with_max_tokens(8));
        let (again, made) = read(&replies, || {});
        assert_eq!(made.ok().unwrap().ids.len(), 8);
        let shorter = again.len().min(text.len());
        assert_eq!(
            again[..shorter],
            text[..shorter],
            "the same seed and prompt"
        );
    }

    #[test]
    fn an_answer_stopped_before_it_begins_never_begins() {
        let (worker, replies) = start();
        load(&worker);
        worker.stop(1);
        worker.answer(1, Request::text("Once"));
        let (text, made) = read(&replies, || {});
        assert!(text.is_empty() && made.err().unwrap().stopped);
    }

    #[test]
    fn a_failed_load_says_what_to_do() {
        let (worker, replies) = start();
        worker.load(Load {
            path: Some(PathBuf::from("no such folder")),
            options: LoadOptions::on("host"),
            cancel: Cancel::new(),
        });
        let loaded = replies.iter().find_map(|reply| match reply {
            Reply::Loaded(result) => Some(*result),
            _ => None,
        });
        let why = loaded.unwrap().unwrap_err();
        assert!(
            why.contains("no such folder") && why.ends_with("may be read."),
            "{why}"
        );
        worker.answer(1, Request::text("Once"));
        let (_, made) = read(&replies, || {});
        assert!(made.err().unwrap().message.contains("No model is loaded"));
    }
}
