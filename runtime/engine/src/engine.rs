//! A model on a device: weights in place, programs prepared on demand, one step at a time.
//!
//! Decides which program a step takes (token bucket, form of attention) and owns what all
//! sessions share: weights, rotary table, scratch. The only file that submits. Read
//! [`Engine::step`] first.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hadal_device::{
    Access, Bind, BufferId, Device, DeviceInfo, Features, Inputs, KernelRow, PAGE, Span,
};
use hadal_graph::{Form, Graph, Lowered, MoeForm, Verified, WorkLimit};
use hadal_weights::{Moving, Progress, move_into_memory};

use crate::courtesy::dispatch_budget;
use crate::gate::Gate;
use crate::home::Home;
use crate::ledger::Ledger;
use crate::pace::Pace;
use crate::plan::{Ask, Budget, Planned, bytes_per_token};
use crate::prepared::{Prepared, Running};
use crate::programs::{ProgramKey, Programs};
use crate::seat::{Seat, seat_bytes};
use crate::stage::{bind, program};
use crate::step::{Done, Rows, Step};
use crate::tenancy::lost_by_another;
use crate::{EngineError, Model, Recovery, Result};

/// How a model is put on a device. The default suits nearly everyone.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Tokens a session holds; `None`: what fits, up to 16,384 (or `least_context`) and to
    /// what the model allows.
    pub context: Option<u32>,
    /// Where `context` is `None`: tokens that a session must hold at least.
    pub least_context: u32,
    /// Memory that may be used; the default is what there is.
    pub budget: Budget,
    /// Sessions that are to have room, 1 to 4096; more than one decode together
    /// ([`crate::Batch`]).
    pub batch: u32,
    /// Most tokens a step works on: prompts are fed in pieces of this size.
    pub chunk: u32,
    /// Form of attention; `None`: by token count, as the device prefers.
    pub form: Option<Form>,
    /// How experts read their tokens.
    pub moe: MoeForm,
    /// Round activations to FP8 before FP8 products, as the training did (W8A8).
    pub quantise_activations: bool,
    /// Round activations to 8 bits or a little more where products and attention are faster then
    /// ([`hadal_device::flags::ROUGH`]). Routers see them exactly.
    pub rough_activations: bool,
    /// Longest time that one dispatch and one submit may take on a device other than the
    /// host: longer work is cut, by its measured cost. `None`: as long as they like. On a
    /// device that draws the program's interface too, at most [`SHARED_BUDGET`].
    pub dispatch_budget: Option<Duration>,
}

impl EngineOptions {
    /// Most tokens of any step: a chunk, and at least a token with its draft.
    pub(crate) fn step_tokens(&self) -> u32 {
        self.chunk.max(2)
    }
}

/// What a step works on at most unless told otherwise: with half of it, experts of a large model get
/// so few tokens each that taking their weights apart costs a tenth of a prompt (host, 128 experts,
/// 8 chosen).
pub const CHUNK: u32 = 512;

/// Far below the two seconds after which Windows takes a GPU for hung, and short enough that
/// a desktop stays usable.
pub const DISPATCH_BUDGET: Duration = Duration::from_millis(100);

/// The longest slice where frames of the program's own wait in the same queue: half of one at
/// 60 Hz, so that the frame is still drawn in time.
pub const SHARED_BUDGET: Duration = Duration::from_millis(8);

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            context: None,
            least_context: 1,
            budget: Budget::default(),
            batch: 1,
            chunk: CHUNK,
            form: None,
            moe: MoeForm::Auto,
            quantise_activations: false,
            rough_activations: false,
            dispatch_budget: Some(DISPATCH_BUDGET),
        }
    }
}

/// A model on a device.
pub struct Engine {
    pub(crate) model: Arc<Model>,
    options: EngineOptions,
    pub(crate) context: u32,
    // Before `home`, so that programs go before what they use.
    state: Mutex<State>,
    /// Replaced when its device is lost, by whoever holds `state`.
    home: RwLock<Arc<Home>>,
    pub(crate) recovery: Option<Box<dyn Recovery>>,
    pub(crate) gate: Gate,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) low_priority: AtomicBool,
    /// The files that the host reads in place on their way into memory and its large pages.
    moving: Mutex<Option<Moving>>,
}

/// What steps share, one at a time; all of it lies in the engine's home.
pub(crate) struct State {
    pub programs: HashMap<ProgramKey, Prepared>,
    pub scratch: Option<(BufferId, u64)>,
    pub pace: Pace,
    /// The newest step, until its time is known.
    pub running: Option<(ProgramKey, Running)>,
}

impl State {
    /// Nothing prepared and nothing known yet, in `home`.
    pub fn on(home: &Home, options: &EngineOptions, low_priority: bool) -> State {
        home.device.set_courteous(low_priority);
        State {
            programs: HashMap::new(),
            scratch: None,
            pace: Pace::new(dispatch_budget(home, options, low_priority), options.chunk),
            running: None,
        }
    }

    /// Waits for the newest step and takes note of how long it took.
    pub(crate) fn settle(&mut self, home: &Home) -> Result<()> {
        let waits = home.device.completed() < home.newest();
        home.wait()?;
        let Some((key, running)) = self.running.take() else {
            return Ok(());
        };
        if waits {
            running.ended.set(Some(Instant::now()));
        }
        if self.pace.is_limited()
            && let Some((units, time)) = running.measured(home)
        {
            self.pace.observe(&key, units, time);
        }
        Ok(())
    }
}

impl Engine {
    /// Puts the model on the device, as [`crate::Plan`] says; what does not fit is refused
    /// before any weight is read ([`EngineError::WouldNotFit`]). `progress` sees bytes as they
    /// are uploaded and may stop the load (`EngineError::Cancelled`); nothing stays allocated
    /// then.
    pub fn load(
        model: Arc<Model>,
        device: Arc<dyn Device>,
        options: EngineOptions,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Engine> {
        let planned = Planned::of(&model, device.info(), &options, &Ask::default())?;
        let context = planned.plan.context;
        let ledger = Ledger::new(
            &planned.plan,
            planned.plan.allowed(&options.budget, device.info().kind),
            seat_bytes(
                &model.config,
                &options,
                device.info(),
                context,
                planned.plan.drafts,
                options.batch,
            ),
        );
        let placement = planned.fitting()?;
        let home = Home::open(&model, device, placement, context, progress)?;
        let state = State::on(&home, &options, false);
        let moving = match home.device.info().features.has(Features::HOST) {
            true => move_into_memory(model.source.shards()),
            false => None,
        };
        Ok(Engine {
            model,
            options,
            context,
            state: Mutex::new(state),
            home: RwLock::new(Arc::new(home)),
            recovery: None,
            gate: Gate::default(),
            ledger,
            low_priority: AtomicBool::new(false),
            moving: Mutex::new(moving),
        })
    }

    /// Waits until the host's weights lie as they will stay: it begins to read a large file where
    /// it is mapped, and moves it into large pages meanwhile, which takes a second for 4 GB. For
    /// whoever measures; nobody else needs to wait.
    pub fn wait_for_pages(&self) {
        let moving = self.moving.lock();
        if let Some(moving) = &mut *moving.unwrap_or_else(PoisonError::into_inner) {
            moving.wait();
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The device; another one after a loss (see [`Engine::with_recovery`]).
    pub fn device(&self) -> Arc<dyn Device> {
        let home = self.home();
        // Where another session left it just now, what is said of it is still there.
        home.own_device().unwrap_or_else(|_| home.device.clone())
    }

    /// Where the model is now.
    pub(crate) fn home(&self) -> Arc<Home> {
        let home = self.home.read();
        home.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `home` the engine's. The caller holds `state`.
    pub(crate) fn move_to(&self, home: Home) -> Arc<Home> {
        let home = Arc::new(home);
        *self.home.write().unwrap_or_else(PoisonError::into_inner) = home.clone();
        home
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The options it was loaded with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Tokens a session holds.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Bytes of weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.home().placement.total_bytes()
    }

    /// Bytes of weights that decoding a token reads, as they are stored.
    pub fn bytes_per_token(&self) -> u64 {
        let home = self.home();
        bytes_per_token(&self.model, &home.placement, home.device.info())
    }

    /// Whether a session can hold `wanted` tokens.
    ///
    /// # Errors
    /// [`EngineError::ContextFull`].
    pub fn check_room(&self, wanted: usize) -> Result<()> {
        if wanted <= self.context as usize {
            return Ok(());
        }
        Err(EngineError::ContextFull {
            wanted,
            context: self.context,
            max: self.model.config.max_position_embeddings,
        })
    }

    /// Pages of the caches that the program of `key` reads.
    pub(crate) fn pages(&self, key: &ProgramKey) -> u32 {
        key.sequences.saturating_mul(self.context.div_ceil(PAGE))
    }

    /// Most tokens of any step.
    pub(crate) fn step_tokens(&self) -> u32 {
        self.options.step_tokens()
    }

    /// Tokens a step may have if all of them are to give logits on this device.
    pub(crate) fn logit_chunk(&self) -> usize {
        self.programs(self.device().info()).logit_chunk() as usize
    }

    pub(crate) fn form_for(&self, bucket: u32) -> Form {
        self.programs(self.device().info()).form_for(bucket)
    }

    /// What decides the engine's programs, on the device of `info`.
    fn programs<'a>(&'a self, info: &'a DeviceInfo) -> Programs<'a> {
        Programs {
            model: &self.model,
            info,
            options: &self.options,
            context: self.context,
        }
    }

    fn key(&self, step: &Step<'_>, seat: &Seat) -> ProgramKey {
        let bucket = (step.ids.len() as u32).next_power_of_two();
        let rows = (step.logit_rows.len() as u32).max(1).next_power_of_two();
        let device = self.device();
        let programs = self.programs(device.info());
        ProgramKey {
            kind: step.kind,
            outputs: step.outputs,
            bucket,
            logit_rows: rows.min(bucket),
            form: match step.rows {
                Rows::From(_) => programs.form_for(bucket),
                Rows::Each(_) => programs.together(bucket).form,
            },
            sequences: seat.sequences,
        }
    }

    /// Tokens that the next step of a prompt should have: few while nothing is known of the
    /// device.
    pub(crate) fn next_chunk(&self) -> Result<usize> {
        let mut state = self.state();
        if state.pace.is_limited() {
            state.settle(&self.home())?;
        }
        Ok(state.pace.chunk() as usize)
    }

    /// The graph of a program after all passes.
    pub(crate) fn optimised(&self, key: &ProgramKey) -> Result<Verified<Graph>> {
        self.programs(self.device().info()).optimised(key)
    }

    pub(crate) fn lower(&self, key: &ProgramKey, limit: Option<WorkLimit>) -> Result<Lowered> {
        let home = self.home();
        let device = &home.device;
        let programs = self.programs(device.info());
        let mut pipelines = |row: &KernelRow, constants: &[(&'static str, u32)]| {
            device.pipeline(row.name, &row.body, constants)
        };
        let graph = programs.optimised(key)?;
        programs.lower(&graph, key, limit, &home.placement, &mut pipelines)
    }

    /// Scratch memory of at least `bytes` bytes. The old one goes first, so that growing
    /// needs no room for both.
    pub(crate) fn scratch(&self, home: &Home, state: &mut State, bytes: u64) -> Result<BufferId> {
        match state.scratch {
            Some((buffer, has)) if has >= bytes => return Ok(buffer),
            Some((old, _)) => {
                home.wait()?;
                home.free(old);
                state.scratch = None;
            }
            None => {}
        }
        let buffer = home.alloc("scratch", bytes)?;
        state.scratch = Some((buffer, bytes));
        Ok(buffer)
    }

    /// Prepares the program of `key` unless there is one, and again where what it takes turned
    /// out to be something else than it was cut for.
    fn prepare(
        &self,
        home: &Home,
        state: &mut State,
        key: &ProgramKey,
        positions: u32,
    ) -> Result<()> {
        let wanted = state.pace.limit(key, positions);
        let Some(prepared) = state.programs.get_mut(key) else {
            let lowered = self.lower(key, wanted)?;
            let layout = Inputs { bucket: key.bucket };
            let pages = self.pages(key);
            let prepared = Prepared::new(home, lowered, wanted, layout, pages)?;
            if let Some(limit) = wanted {
                let longest = prepared.longest(positions).0;
                state.pace.prepared(key, limit, longest);
            }
            state.programs.insert(*key, prepared);
            return Ok(());
        };
        let (Some(had), Some(wanted)) = (prepared.limit, wanted) else {
            return Ok(());
        };
        let (dispatch, submit) = prepared.longest(positions);
        let longest = dispatch.max(submit);
        if state.pace.is_worth_cutting(key, had, wanted, longest) {
            let lowered = self.lower(key, Some(wanted))?;
            prepared.cut_anew(home, lowered, wanted)?;
            let longest = prepared.longest(positions).0;
            state.pace.prepared(key, wanted, longest);
        }
        Ok(())
    }

    /// Copies ranges to the beginnings of buffers, all in the home of `seat`.
    pub(crate) fn copy(&self, seat: &Seat, pairs: &[(Span, BufferId)]) -> Result<()> {
        let mut state = self.state();
        let home = self.resting(&mut state, seat)?;
        for &(from, to) in pairs {
            let copy = hadal_device::Step::Copy {
                from: Bind {
                    offset: from.offset,
                    ..bind(0, from.bytes, Access::Read)
                },
                to: bind(1, from.bytes, Access::Write),
            };
            let mut copy = home.device.prepare(&program(2, copy))?;
            let ticket = copy.submit(&[from.buffer, to])?;
            home.started(ticket);
            home.wait()?;
        }
        Ok(())
    }

    /// Waits for the newest step: the home, in which `seat` must be.
    pub(crate) fn resting(&self, state: &mut State, seat: &Seat) -> Result<Arc<Home>> {
        let home = self.home();
        if !Arc::ptr_eq(&home, &seat.home) {
            return Err(left(&seat.home));
        }
        state.settle(&home)?;
        Ok(home)
    }

    /// Starts one step; reading its outputs waits for its end.
    ///
    /// # Errors
    /// Those of the device, also of the step before: the session's cache rows from
    /// `step.position` on are undefined then, earlier rows are untouched. `Lost` too where
    /// `seat` is in a home that the engine left. [`EngineError::ContextFull`] before anything
    /// runs.
    pub(crate) fn step(&self, step: &Step<'_>, seat: &Seat) -> Result<Done<'_>> {
        debug_assert!(!step.ids.is_empty() && step.ids.len() <= self.step_tokens() as usize);
        self.check_room(step.end() as usize)?;
        let mut state = self.state();
        let home = self.resting(&mut state, seat)?;
        let key = self.key(step, seat);
        self.prepare(&home, &mut state, &key, step.end())?;
        let needs = state
            .programs
            .get(&key)
            .map_or(0, |program| program.lowered.scratch_bytes);
        let scratch = self.scratch(&home, &mut state, needs)?;
        if let Some(prepared) = state.programs.get_mut(&key) {
            let running = prepared.submit(step, seat, scratch, self.is_low_priority())?;
            state.running = Some((key, running));
        }
        Ok(Done {
            home,
            vocab: self.model.config.vocab_size as usize,
            state,
            key,
            tokens: step.ids.len() as u32,
            logit_rows: step.logit_rows.len() as u32,
            hidden_out: step.hidden(seat).1,
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Programs go next, and none may run then. An error means that the device is gone.
        let _ = self.home().wait();
    }
}

/// What a session hears that has memory in a home that the engine left.
fn left(home: &Home) -> EngineError {
    lost_by_another(home.device.info()).into()
}
