//! Sessions: their beginning, history and end.

use hadal::{Result, Session, SessionOptions};

use crate::call::{call, free, handle, invalid, needed, put, sized};
use crate::{HadalEngine, HadalError, HadalSessionOptions, HadalStatus};

/// A sequence of tokens with its cache.
pub struct HadalSession(pub(crate) Session);

/// Does something with a session.
///
/// # Safety
/// Pointers are NULL or valid.
unsafe fn with(
    session: *const HadalSession,
    error: *mut *mut HadalError,
    work: impl FnOnce(&Session) -> Result<()>,
) -> HadalStatus {
    // SAFETY: the caller's promise.
    unsafe { call(error, || work(&needed(session, "session")?.0)) }
}

/// Begins an empty session; it keeps the engine. `options` may be NULL. To be freed by
/// hadal_session_free.
///
/// # Safety
/// Pointers are NULL or valid; sizes are set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_session_new(
    engine: *const HadalEngine,
    options: *const HadalSessionOptions,
    session: *mut *mut HadalSession,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let body = || {
        // SAFETY: the caller's promise.
        let engine = unsafe { needed(engine, "engine") }?;
        if session.is_null() {
            return Err(invalid("session is NULL"));
        }
        // SAFETY: the caller's promise.
        let given = unsafe { sized(options, "options") }?;
        let drafts = given.is_none_or(|given| given.no_drafts == 0);
        let begun = engine.0.session(SessionOptions { drafts })?;
        // SAFETY: the caller's promise.
        unsafe { put(session, "session", handle(HadalSession(begun))) }
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, body) }
}

/// Frees a session; NULL is allowed. No other thread may be using it: cancel its answer and
/// wait for hadal_generate to return first. The callback of hadal_generate may free it; the answer
/// goes on.
///
/// # Safety
/// `session` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_session_free(session: *mut HadalSession) {
    // SAFETY: the caller's promise.
    unsafe { free(session) };
}

/// Ends the answer that another thread is writing, after the step that runs, and at once where
/// the engine is paused. Returns at once; does nothing where there is none.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_session_cancel(
    session: *const HadalSession,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let cancel = |session: &Session| {
        session.cancel();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with(session, error, cancel) }
}

/// Forgets everything; the memory stays.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_session_clear(
    session: *const HadalSession,
    error: *mut *mut HadalError,
) -> HadalStatus {
    // SAFETY: the caller's promise.
    unsafe { with(session, error, Session::clear) }
}

/// Keeps the first `count` tokens.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_session_truncate(
    session: *const HadalSession,
    count: usize,
    error: *mut *mut HadalError,
) -> HadalStatus {
    // SAFETY: the caller's promise.
    unsafe { with(session, error, |session| session.truncate(count)) }
}

/// Another session with the same tokens; nothing is computed again. To be freed by
/// hadal_session_free.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_session_fork(
    session: *const HadalSession,
    fork: *mut *mut HadalSession,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let body = |session: &Session| {
        if fork.is_null() {
            return Err(invalid("fork is NULL"));
        }
        let made = handle(HadalSession(session.fork()?));
        // SAFETY: the caller's promise.
        unsafe { put(fork, "fork", made) }
    };
    // SAFETY: the caller's promise.
    unsafe { with(session, error, body) }
}

/// The tokens of a session. Writes the first `capacity` of them to `ids`, which may be NULL if
/// that is 0, and their number to `len`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_session_tokens(
    session: *const HadalSession,
    ids: *mut u32,
    capacity: usize,
    len: *mut usize,
    error: *mut *mut HadalError,
) -> HadalStatus {
    // SAFETY: the caller's promise.
    let tell = |session: &Session| unsafe { put_ids(&session.tokens()?, ids, capacity, len) };
    // SAFETY: the caller's promise.
    unsafe { with(session, error, tell) }
}

/// Writes ids to an array of the caller's, and how many there are.
///
/// # Safety
/// `ids` is NULL or has room for `capacity`, `len` is NULL or may be written.
pub(crate) unsafe fn put_ids(
    made: &[u32],
    ids: *mut u32,
    capacity: usize,
    len: *mut usize,
) -> Result<()> {
    let written = made.len().min(capacity);
    // SAFETY: the caller's promise, here and below.
    unsafe {
        if ids.is_null() && capacity > 0 {
            return Err(invalid(format!("ids is NULL and has room for {capacity}")));
        }
        put(len, "len", made.len())?;
        std::ptr::copy_nonoverlapping(made.as_ptr(), ids, written);
    }
    Ok(())
}
