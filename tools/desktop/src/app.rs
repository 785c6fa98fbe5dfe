//! The application: takes what working threads tell, shows pages, does what they ask.
//!
//! Decides nothing that a page or the state decides. No call of this thread waits for a model, a
//! device or a disk.

use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use eframe::egui::{Context, Ui, ViewportCommand, Visuals};
use eframe::{CreationContext, Frame};
use hadal::{Cancel, Device, Message, Request};
use hadal_wgpu::wgpu;

use crate::conversation::{Ending, Role};
use crate::frames::DUE;
use crate::planner::Planner;
use crate::script::{Script, Wish};
use crate::settings::{Settings, WINDOW, clamped};
use crate::state::{Action, Changed, Engine, Page, Plan, State};
use crate::store::{self, Store};
use crate::window::Loss;
use crate::worker::{Load, Reply, Teller, Worker};
use crate::{Args, pages, theme, window};

/// How often an answer is saved while it is written.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// The application.
pub struct App {
    state: State,
    replies: Receiver<Reply>,
    worker: Worker,
    planner: Planner,
    store: Store,
    /// The window's device for the engine.
    shared: Option<Arc<dyn Device>>,
    load: Cancel,
    /// Of the newest answer.
    number: u64,
    saved: Instant,
    script: Option<Script>,
    loss: Arc<Loss>,
    /// What draws.
    drawing: Option<wgpu::Device>,
}

impl App {
    /// With the window of `creation`; begins to load the model. `loss` hears of the window's device.
    ///
    /// # Errors
    /// The system refuses threads.
    pub fn new(
        creation: &CreationContext<'_>,
        args: Args,
        loss: Arc<Loss>,
    ) -> Result<App, Box<dyn Error + Send + Sync>> {
        let context = creation.egui_ctx.clone();
        let (teller, replies) = Teller::new(move || context.request_repaint_after(DUE));
        let complain = teller.clone();
        let complain = move |why| complain.tell(Reply::Notice(why));
        let store = Store::open(args.data_folder(), complain)?;
        let (settings, trouble) = match store::read::<Settings>(&store.settings()) {
            Ok(settings) => (settings.unwrap_or_default(), None),
            Err(why) => (Settings::default(), Some(why)),
        };
        let found = store.find();
        let mut state = State::new(settings, found.conversations, store.new_id());
        state.notices = trouble.into_iter().chain(found.complaints).collect();
        args.override_settings(&mut state.settings);
        state.notices.extend(args.lost.as_ref().map(|why| {
            format!(
                "The GPU that drew the window was lost ({}); this is another window. A model that \
                 shared it is on the processor now.",
                why.trim()
            )
        }));
        let drawing = creation.wgpu_render_state.as_ref();
        if let Some(window) = drawing {
            loss.watch(window, &creation.egui_ctx);
        }
        let drawing = drawing.map(|window| window.device.clone());
        let shared = window::share(creation.wgpu_render_state.as_ref());
        let shared = shared.map_err(|why| state.window_refused = Some(why)).ok();
        theme::install(&creation.egui_ctx);
        theme::choose(&creation.egui_ctx, state.settings.theme);
        creation.egui_ctx.set_zoom_factor(state.settings.zoom);
        let mut app = App {
            state,
            replies,
            worker: Worker::start(teller.clone())?,
            planner: Planner::start(teller)?,
            store,
            shared,
            load: Cancel::new(),
            number: 0,
            saved: Instant::now(),
            script: Script::new(args),
            loss,
            drawing,
        };
        app.begin_load();
        Ok(app)
    }

    fn hear(&mut self) {
        while let Ok(reply) = self.replies.try_recv() {
            match self.state.apply(reply) {
                Changed::Nothing => {}
                Changed::Settings => self.save_settings(),
                Changed::Conversation(place) => self.store.save(&self.state.conversations[place]),
            }
        }
        if self.saved.elapsed() < SAVE_EVERY {
            return;
        }
        self.saved = Instant::now();
        let (Some((_, id)), all) = (&self.state.answering, &self.state.conversations) else {
            return;
        };
        if let Some(writing) = all.iter().find(|conversation| conversation.id == *id) {
            self.store.save(writing);
        }
    }

    fn save_settings(&self) {
        // What a script chose is nobody's choice.
        if self.script.is_none() {
            self.store
                .write(self.store.settings(), &self.state.settings);
        }
    }

    fn act(&mut self, context: &Context, action: Action) {
        match action {
            Action::Ask => self.ask(),
            Action::Regenerate => {
                if self.can_write() && self.state.conversation_mut().regenerate() {
                    self.begin_answer();
                }
            }
            Action::Stop => {
                if let Some((number, _)) = &self.state.answering {
                    self.worker.stop(*number);
                }
            }
            Action::New => self.state.open_new(self.store.new_id()),
            Action::Open(index) => {
                self.state.current = index;
                self.state.page = Page::Chat;
                self.state.focus_field = true;
            }
            Action::Delete(index) => {
                if let Some(id) = self.state.delete(index, self.store.new_id()) {
                    self.store.remove(&id);
                }
            }
            Action::Go(page) => self.go(page),
            Action::Plan => self.plan(),
            Action::Load => self.begin_load(),
            Action::CancelLoad => self.load.cancel(),
            Action::Survey => {
                self.state.devices = None;
                self.planner.survey();
            }
            Action::Settings => {
                theme::choose(context, self.state.settings.theme);
                self.save_settings();
            }
            Action::Courtesy => {
                let options = self.state.settings.load_options(None);
                self.worker.set_budget(options.engine.budget.host);
                self.worker.set_low_priority(options.low_priority);
            }
            Action::Copy(text) => context.copy_text(text),
        }
    }

    fn go(&mut self, page: Page) {
        self.state.page = page;
        self.state.focus_field = page == Page::Chat;
        if page == Page::Models {
            if self.state.devices.is_none() {
                self.planner.survey();
            }
            if self.state.plan == Plan::None {
                self.plan();
            }
        }
    }

    fn plan(&mut self) {
        self.state.plan = Plan::Making;
        let settings = &self.state.settings;
        let options = settings.load_options(self.shared.as_ref());
        self.planner.plan(settings.path(), options);
    }

    fn begin_load(&mut self) {
        if self.state.answering.is_some() {
            return;
        }
        let settings = &self.state.settings;
        if let (WINDOW, Some(why)) = (settings.device.as_str(), &self.state.window_refused) {
            let text = format!("The window's device cannot be shared ({why}); another is taken.");
            self.state.notices.push(text);
        }
        self.load.cancel();
        self.load = Cancel::new();
        self.state.engine = Engine::Loading(0.0);
        self.worker.load(Load {
            path: settings.path(),
            options: settings.load_options(self.shared.as_ref()),
            cancel: self.load.clone(),
        });
    }

    fn can_write(&self) -> bool {
        self.state.answering.is_none() && self.state.loaded().is_some()
    }

    fn ask(&mut self) {
        if !self.can_write() {
            return;
        }
        let text = self.state.field.clone();
        if self.state.conversation_mut().ask(&text) {
            self.state.field.clear();
            self.state.focus_field = true;
            self.begin_answer();
        }
    }

    fn begin_answer(&mut self) {
        let request = request(&self.state);
        self.number += 1;
        let conversation = self.state.conversation();
        self.store.save(conversation);
        self.state.answering = Some((self.number, conversation.id.clone()));
        self.state.watched = request.watch_experts;
        let now = self.state.now();
        self.state.activity.begin(now);
        self.worker.answer(self.number, request);
    }

    /// Lets the script do its part of this frame.
    fn follow_script(&mut self, context: &Context) {
        let Some(script) = &mut self.script else {
            return;
        };
        for wish in script.frame(context, &self.state) {
            match wish {
                Wish::Ask(text) => {
                    let page = self.state.page;
                    self.state.open_new(self.store.new_id());
                    self.state.page = page;
                    self.state.field = text;
                    self.ask();
                }
                Wish::Act(action) => self.act(context, action),
                Wish::LoseDevice => {
                    if let Some(device) = &self.drawing {
                        device.destroy();
                        // Whichever thread asks the device next is told of it.
                        let since = Instant::now();
                        while !self.loss.closes() && since.elapsed() < SAVE_EVERY {
                            let _ = device.poll(wgpu::PollType::Poll);
                        }
                    }
                }
                Wish::Close => context.send_viewport_cmd(ViewportCommand::Close),
            }
        }
    }
}

impl eframe::App for App {
    fn logic(&mut self, context: &Context, _: &mut Frame) {
        self.hear();
        if self.loss.closes() {
            context.send_viewport_cmd(ViewportCommand::Close);
        }
    }

    /// What came of an answer is kept.
    fn on_exit(&mut self) {
        self.hear();
        let Some((number, id)) = self.state.answering.take() else {
            return;
        };
        self.worker.stop(number);
        let all = &mut self.state.conversations;
        if let Some(writing) = all.iter_mut().find(|conversation| conversation.id == id) {
            writing.end(Ending::Stopped, None);
            self.store.save(writing);
        }
    }

    /// Pages have no fill of their own, so that their pixels are written once.
    fn clear_color(&self, visuals: &Visuals) -> [f32; 4] {
        visuals.panel_fill.to_normalized_gamma_f32()
    }

    fn ui(&mut self, ui: &mut Ui, _: &mut Frame) {
        let began = Instant::now();
        let context = ui.ctx().clone();
        self.follow_script(&context);
        // egui's painter panics where a lost device refuses memory for what is drawn.
        if self.loss.closes() {
            return;
        }
        // Keys go further.
        let zoom = context.zoom_factor();
        if zoom != clamped(zoom) {
            context.set_zoom_factor(clamped(zoom));
        }
        for action in pages::show(ui, &mut self.state) {
            self.act(&context, action);
        }
        if context.zoom_factor() != self.state.settings.zoom {
            self.state.settings.zoom = context.zoom_factor();
            self.save_settings();
        }
        // What a thread tells wakes the window by itself; what fades does not.
        let fades = self.state.page == Page::Inside && self.state.activity.is_lit(self.state.now());
        let wanted = self.script.as_ref().map(Script::due);
        if let Some(due) = wanted.or(fades.then_some(DUE)) {
            context.request_repaint_after(due.saturating_sub(began.elapsed()));
        }
    }
}

/// What the model is asked of the open conversation.
fn request(state: &State) -> Request {
    let settings = &state.settings;
    let conversation = state.conversation();
    let chats = state.loaded().is_some_and(|loaded| loaded.chats);
    let mut request = match chats {
        false => Request::text(conversation.as_text()),
        true => {
            let said = conversation.asked().iter();
            let messages = said.map(|turn| match turn.role {
                Role::User => Message::user(&turn.text),
                Role::Assistant => Message::assistant(&turn.text),
            });
            Request::chat(messages.collect::<Vec<_>>())
        }
    };
    request.thinking = chats.then_some(settings.thinking);
    request.sampling = settings.sampling();
    request.watch_experts = state.watches();
    // Another answer to the same question is another one.
    let chance = state.began.elapsed().as_nanos() as u64;
    request
        .with_max_tokens(settings.max_tokens)
        .with_seed(settings.seed.unwrap_or(chance))
}
