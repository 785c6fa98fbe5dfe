//! Engines: loading, and what may be changed while they work.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::ptr;
use std::time::Duration;

use hadal::{Cancel, Engine, LoadOptions, MemoryUse, Progress, Result};

use crate::call::{
    ask, call, free, handle, invalid, needed, owned_string, put, put_sized, sized, text,
};
use crate::{HadalError, HadalLoadOptions, HadalMemory, HadalModel, HadalOnProgress, HadalStatus};

/// A model on a device.
pub struct HadalEngine(pub(crate) Engine);

impl HadalEngine {
    /// A handle for an engine that was loaded in Rust.
    pub fn of(engine: Engine) -> HadalEngine {
        HadalEngine(engine)
    }
}

/// Who is told of a load.
pub(crate) struct Watcher {
    on_progress: HadalOnProgress,
    user: *mut c_void,
}

impl Watcher {
    /// # Safety
    /// The callback may be called with its own `user`.
    unsafe fn tell(&self, progress: Progress) -> ControlFlow<()> {
        let Some(on_progress) = self.on_progress else {
            return ControlFlow::Continue(());
        };
        // SAFETY: the caller's promise.
        match unsafe { on_progress(self.user, progress.bytes_done, progress.bytes_total) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}

/// The options that C gave; all defaults for NULL.
///
/// # Safety
/// `options` is NULL or valid, its size set.
pub(crate) unsafe fn load_options(
    options: *const HadalLoadOptions,
) -> Result<(LoadOptions, Watcher)> {
    let mut made = LoadOptions::default();
    // SAFETY: the caller's promise.
    let given = unsafe { sized(options, "options") }?;
    let Some(given) = given else {
        let nobody = Watcher {
            on_progress: None,
            user: ptr::null_mut(),
        };
        return Ok((made, nobody));
    };
    let more_than_0 = |number: u32| (number > 0).then_some(number);
    // SAFETY: the caller's promise.
    if let Some(name) = unsafe { text(given.device, "options.device") }? {
        made.device = hadal::DeviceChoice::Named(name.to_string());
    }
    made.engine.context = more_than_0(given.context);
    made.engine.chunk = more_than_0(given.chunk).unwrap_or(made.engine.chunk);
    if given.threads > MOST_THREADS {
        let why = format!(
            "{} threads are not possible; choose 1 to {MOST_THREADS}, or 0 for one a core",
            given.threads
        );
        return Err(invalid(why));
    }
    made.device_options.threads = more_than_0(given.threads).map(|threads| threads as usize);
    made.low_priority = given.low_priority != 0;
    made.engine.budget.host = (given.host_budget > 0).then_some(given.host_budget);
    made.engine.budget.device = (given.device_budget > 0).then_some(given.device_budget);
    if let Some(longest) = more_than_0(given.dispatch_budget_ms) {
        made.engine.dispatch_budget = Some(Duration::from_millis(longest.into()));
    }
    let watcher = Watcher {
        on_progress: given.on_progress,
        user: given.user,
    };
    Ok((made, watcher))
}

/// More threads than any machine has cores.
const MOST_THREADS: u32 = 4096;

/// Puts a model on a device and waits until it is there; `on_progress` of the options may stop
/// it. The engine keeps the model. `options` may be NULL. To be freed by hadal_engine_free.
///
/// # Safety
/// Pointers are NULL or valid; sizes are set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_load(
    model: *const HadalModel,
    options: *const HadalLoadOptions,
    engine: *mut *mut HadalEngine,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let body = || {
        // SAFETY: the caller's promise.
        let model = unsafe { needed(model, "model") }?;
        // The callback may free its handle.
        let model = model.model.clone();
        if engine.is_null() {
            return Err(invalid("engine is NULL"));
        }
        // SAFETY: the caller's promise.
        let (options, watcher) = unsafe { load_options(options) }?;
        // SAFETY: the caller's promise.
        let mut progress = |so_far| unsafe { watcher.tell(so_far) };
        let loaded = model.load_with(options, &Cancel::new(), &mut progress)?;
        // SAFETY: the caller's promise.
        unsafe { put(engine, "engine", handle(HadalEngine(loaded))) }
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, body) }
}

/// Frees an engine; NULL is allowed. Its sessions go on; its memory goes with the last of them.
///
/// # Safety
/// `engine` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_free(engine: *mut HadalEngine) {
    // SAFETY: the caller's promise.
    unsafe { free(engine) };
}

/// Tokens a session of an engine holds; 0 for NULL.
///
/// # Safety
/// `engine` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_context(engine: *const HadalEngine) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ask(engine, 0, |engine| engine.0.context()) }
}

/// The device an engine is on ("wgpu:0"), another one after a loss; to be freed by
/// hadal_string_free. NULL for NULL.
///
/// # Safety
/// `engine` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_device(engine: *const HadalEngine) -> *mut c_char {
    let name = |engine: &HadalEngine| owned_string(&engine.0.device().id()).into_raw();
    // SAFETY: the caller's promise.
    unsafe { ask(engine, ptr::null_mut(), name) }
}

/// How often an engine's device was lost and opened again; 0 for NULL.
///
/// # Safety
/// `engine` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_losses(engine: *const HadalEngine) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ask(engine, 0, |engine| engine.0.losses()) }
}

/// Does something with an engine.
///
/// # Safety
/// Pointers are NULL or valid.
unsafe fn with(
    engine: *const HadalEngine,
    error: *mut *mut HadalError,
    work: impl FnOnce(&Engine) -> Result<()>,
) -> HadalStatus {
    // SAFETY: the caller's promise.
    unsafe { call(error, || work(&needed(engine, "engine")?.0)) }
}

/// Lets running answers finish their step and then sleep, until hadal_engine_resume. Returns
/// at once.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_pause(
    engine: *const HadalEngine,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let pause = |engine: &Engine| {
        engine.pause();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with(engine, error, pause) }
}

/// Ends a pause.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_resume(
    engine: *const HadalEngine,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let resume = |engine: &Engine| {
        engine.resume();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with(engine, error, resume) }
}

/// 1 from hadal_engine_pause to hadal_engine_resume, else 0.
///
/// # Safety
/// `engine` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_is_paused(engine: *const HadalEngine) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { ask(engine, 0, |engine| i32::from(engine.0.is_paused())) }
}

/// Leaves room for others (`low` other than 0) or no longer. Waits for the step that runs.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_set_low_priority(
    engine: *const HadalEngine,
    low: i32,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let set = |engine: &Engine| {
        engine.set_low_priority(low != 0);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with(engine, error, set) }
}

/// Changes how many bytes an engine may hold; UINT64_MAX: as many as there are. What exists
/// goes on, new sessions are refused; `memory`, which may be NULL, says by how much it is over.
///
/// # Safety
/// Pointers are NULL or valid; sizes are set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_set_budget(
    engine: *const HadalEngine,
    bytes: u64,
    memory: *mut HadalMemory,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let set = |engine: &Engine| {
        let told = engine.set_budget((bytes != u64::MAX).then_some(bytes))?;
        match memory.is_null() {
            true => Ok(()),
            // SAFETY: the caller's promise.
            false => unsafe { put_sized(memory, "memory", books(&told)) },
        }
    };
    // SAFETY: the caller's promise.
    unsafe { with(engine, error, set) }
}

/// What an engine holds.
///
/// # Safety
/// Pointers are NULL or valid; sizes are set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_memory(
    engine: *const HadalEngine,
    memory: *mut HadalMemory,
    error: *mut *mut HadalError,
) -> HadalStatus {
    // SAFETY: the caller's promise.
    let tell = |engine: &Engine| unsafe { put_sized(memory, "memory", books(&engine.memory())) };
    // SAFETY: the caller's promise.
    unsafe { with(engine, error, tell) }
}

/// Gives back what the next step makes again: scratch and prepared programs. Waits for the
/// step that runs.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_engine_trim(
    engine: *const HadalEngine,
    error: *mut *mut HadalError,
) -> HadalStatus {
    // SAFETY: the caller's promise.
    unsafe { with(engine, error, Engine::trim) }
}

fn books(memory: &MemoryUse) -> HadalMemory {
    HadalMemory {
        size: size_of::<HadalMemory>(),
        budget_bytes: memory.budget_bytes.unwrap_or(u64::MAX),
        fixed_bytes: memory.fixed_bytes,
        session_bytes: memory.session_bytes,
        over_bytes: memory.over_bytes(),
        sessions: memory.sessions,
        reserved: 0,
    }
}
