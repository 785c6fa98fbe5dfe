//! Loading: options, progress, cancelling, and a load on a thread of its own.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use hadal_device::{Device, DeviceInfo, Error as DeviceError};
use hadal_engine::registry::{self, Options, Reopening};
use hadal_engine::{Budget, Cancel, EngineError, EngineOptions, Progress, Recovery};

use crate::guard::{Caught, guarded};
use crate::{DeviceChoice, Engine, Error, ErrorCode, Model, Result};

/// How a model is put on a device. The default suits nearly everyone.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Which device.
    pub device: DeviceChoice,
    /// Options of backends: threads and instruction set of the host, checks.
    pub device_options: Options,
    /// Memory, context, pieces of prompts, dispatch budget.
    pub engine: EngineOptions,
    /// Begin in low-priority mode ([`Engine::set_low_priority`]).
    pub low_priority: bool,
}

impl LoadOptions {
    /// The default on the device called `name`: `host`, `wgpu:1`; on several together:
    /// `cuda:0+cuda:1`, `cuda:all`.
    pub fn on(name: impl Into<String>) -> LoadOptions {
        LoadOptions {
            device: DeviceChoice::Named(name.into()),
            ..LoadOptions::default()
        }
    }

    /// With a device that the program opened.
    pub fn on_open(device: Arc<dyn Device>) -> LoadOptions {
        LoadOptions {
            device: DeviceChoice::Open(device),
            ..LoadOptions::default()
        }
    }

    /// With sessions of `tokens` tokens.
    pub fn with_context(mut self, tokens: u32) -> LoadOptions {
        self.engine.context = Some(tokens);
        self
    }

    /// Using at most so much memory; of several devices together, of each.
    pub fn with_budget(mut self, budget: Budget) -> LoadOptions {
        self.engine.budget = budget;
        self
    }

    /// With so many threads of the host, the caller's included.
    pub fn with_threads(mut self, threads: usize) -> LoadOptions {
        self.device_options.threads = Some(threads);
        self
    }

    /// Reading prompts in pieces of at most `tokens` tokens: shorter ones are cancelled sooner.
    pub fn with_chunk(mut self, tokens: u32) -> LoadOptions {
        self.engine.chunk = tokens;
        self
    }

    /// With dispatches of at most so long on devices other than the host.
    pub fn with_dispatch_budget(mut self, longest: Duration) -> LoadOptions {
        self.engine.dispatch_budget = Some(longest);
        self
    }

    pub(crate) fn engine_options(&self) -> EngineOptions {
        self.engine.clone()
    }
}

/// What an engine's recovery shares with it.
#[derive(Default)]
pub(crate) struct Losses(AtomicU32);

impl Losses {
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Opens a lost device again.
struct Again {
    reopening: Reopening,
    losses: Arc<Losses>,
}

impl Recovery for Again {
    fn reopen(&self, lost: &DeviceError) -> hadal_engine::Result<Arc<dyn Device>> {
        self.losses.0.fetch_add(1, Ordering::Relaxed);
        self.reopening.reopen(lost)
    }

    fn resumed(&self, _: &DeviceError, _: &DeviceInfo) {}
}

pub(crate) fn run(
    model: &Model,
    options: LoadOptions,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Engine> {
    if options.device_options.threads == Some(0) {
        let why = "0 threads are not possible; choose 1 or more";
        return Err(Error::new(ErrorCode::InvalidArgument, why));
    }
    let engine_options = options.engine_options();
    let (device, why, reopening) = match &options.device {
        DeviceChoice::Open(device) => (device.clone(), "it was given".to_string(), None),
        choice => {
            let wanted = choice.wanted();
            let opened = registry::open(wanted, &options.device_options)?;
            let reopening = Reopening::of(&opened, wanted, &options.device_options);
            (opened.device, opened.why, Some(reopening))
        }
    };
    let mut step = |so_far: Progress| match cancel.is_cancelled() {
        true => ControlFlow::Break(()),
        false => progress(so_far),
    };
    let mut engine =
        hadal_engine::Engine::load(model.inner.clone(), device, engine_options, &mut step)?;
    let losses = Arc::new(Losses::default());
    if let Some(reopening) = reopening {
        engine = engine.with_recovery(Again {
            reopening,
            losses: losses.clone(),
        });
    }
    if options.low_priority {
        engine.set_low_priority(true);
    }
    Ok(Engine::new(model.clone(), engine, why, losses))
}

/// A load in the background. Dropping it cancels the load and waits for nothing.
///
/// ```
/// # #[cfg(feature = "tiny")]
/// # fn main() -> hadal::Result<()> {
/// # use hadal::{LoadOptions, Model};
/// let loading = Model::shipped()?.load_in_background(LoadOptions::on("host").with_context(512))?;
/// while !loading.is_finished() {
///     println!("{:.0} %", 100.0 * loading.fraction());
///     std::thread::sleep(std::time::Duration::from_millis(16));
/// }
/// let engine = loading.join()?;
/// assert_eq!(engine.context(), 512);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "tiny"))]
/// # fn main() {}
/// ```
pub struct Loading(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cancel: Cancel,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    outcome: Mutex<Outcome>,
    over: Condvar,
}

#[derive(Default)]
struct Outcome {
    is_over: bool,
    result: Option<Result<Engine>>,
    /// Told once when the load is over.
    wake: Option<Box<dyn FnOnce() + Send>>,
}

impl Shared {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, model: &Model, options: LoadOptions) {
        let mut progress = |so_far: Progress| {
            self.bytes_total
                .store(so_far.bytes_total, Ordering::Relaxed);
            self.bytes_done.store(so_far.bytes_done, Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        let load = || run(model, options, &self.cancel, &mut progress);
        let result = guarded(load);
        let mut outcome = self.outcome();
        outcome.is_over = true;
        // Nobody would ever take it: an engine goes here and not with the last handle.
        outcome.result = Some(result).filter(|_| !self.cancel.is_cancelled());
        let wake = outcome.wake.take();
        drop(outcome);
        self.over.notify_all();
        if let Some(wake) = wake {
            // What the program does when it hears of it is its own; nobody waits for it here.
            Caught::default().call(wake);
        }
    }
}

impl Loading {
    pub(crate) fn begin(model: Model, options: LoadOptions) -> Result<Loading> {
        let shared = Arc::new(Shared::default());
        let mine = shared.clone();
        let work = move || mine.load(&model, options);
        let thread = Builder::new().name("hadal-load".to_string()).spawn(work);
        thread.map_err(|error| {
            let why = format!("the system refuses a thread to load on: {error}");
            Error::new(ErrorCode::OutOfMemory, why)
        })?;
        Ok(Loading(shared))
    }

    /// Bytes done, and in all; zeros before the first is known.
    pub fn progress(&self) -> (u64, u64) {
        let done = self.0.bytes_done.load(Ordering::Relaxed);
        (done, self.0.bytes_total.load(Ordering::Relaxed))
    }

    /// Share done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        match self.progress() {
            (_, 0) => 0.0,
            (done, total) => done as f64 / total as f64,
        }
    }

    /// Stops it; [`Loading::join`] then says [`ErrorCode::Cancelled`].
    pub fn cancel(&self) {
        self.0.cancel.cancel();
    }

    /// Whether [`Loading::join`] returns at once.
    pub fn is_finished(&self) -> bool {
        self.0.outcome().is_over
    }

    /// Calls `wake` on the loading thread once the load is over, so that an interface that
    /// sleeps looks again. At once, on this thread, where it is over already.
    pub fn when_finished(&self, wake: impl FnOnce() + Send + 'static) {
        let mut outcome = self.0.outcome();
        match outcome.is_over {
            false => outcome.wake = Some(Box::new(wake)),
            true => {
                drop(outcome);
                wake();
            }
        }
    }

    /// The engine; waits for it.
    ///
    /// # Errors
    /// Those of [`Model::load_with`].
    pub fn join(self) -> Result<Engine> {
        let mut outcome = self.0.outcome();
        while !outcome.is_over {
            let woken = self.0.over.wait(outcome);
            outcome = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let cancelled = || Err(EngineError::Cancelled.into());
        outcome.result.take().unwrap_or_else(cancelled)
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.0.cancel.cancel();
    }
}
