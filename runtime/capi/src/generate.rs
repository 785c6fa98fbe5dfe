//! One answer: a request in, events out.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::ptr;

use hadal::{Event, Finish, Generated, Message, Prompt, Request, Result, SamplingOptions};

use crate::call::{call, invalid, list, needed, owned_string, put_sized, sized, text};
use crate::{
    HadalError, HadalEvent, HadalEventKind, HadalFinish, HadalGenerated, HadalLogprob,
    HadalMessage, HadalOnEvent, HadalRequest, HadalRoute, HadalSampling, HadalSession, HadalStatus,
    HadalToken,
};

/// Writes an answer on this thread and tells of it while it does; returns when it is over.
/// `on_event` may be NULL, and so may `generated`, which gets the figures. A session writes one
/// answer at a time, others meanwhile are HADAL_STATUS_BUSY. That the callback or
/// hadal_session_cancel ended it is no failure, unless it was before the first token.
///
/// # Safety
/// Pointers are NULL or valid; sizes are set; the callback may be called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_generate(
    session: *const HadalSession,
    request: *const HadalRequest,
    on_event: HadalOnEvent,
    user: *mut c_void,
    generated: *mut HadalGenerated,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let body = || {
        // SAFETY: the caller's promise.
        let session = unsafe { needed(session, "session") }?;
        // The callback may free its handle.
        let session = session.0.clone();
        // SAFETY: the caller's promise.
        let asked = unsafe { read(request) }?;
        if !generated.is_null() {
            // Before anything is written that could not be told.
            // SAFETY: the caller's promise.
            unsafe { sized(generated.cast_const(), "generated") }?;
        }
        let mut tell = |event: Event| match on_event {
            None => ControlFlow::Continue(()),
            // SAFETY: the caller's promise.
            Some(on_event) => unsafe { told(on_event, user, &event) },
        };
        let made = session.generate(&asked, &mut tell)?;
        match generated.is_null() {
            true => Ok(()),
            // SAFETY: the caller's promise.
            false => unsafe { put_sized(generated, "generated", figures(&made)) },
        }
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, body) }
}

/// # Safety
/// As [`hadal_generate`].
unsafe fn read(request: *const HadalRequest) -> Result<Request> {
    // SAFETY: the caller's promise, of all pointers inside too.
    unsafe {
        let given = sized(request, "request")?.ok_or_else(|| invalid("request is NULL"))?;
        let mut made = Request::new(prompt(&given)?);
        made.max_tokens =
            (given.max_tokens > 0).then(|| usize::try_from(given.max_tokens).unwrap_or(usize::MAX));
        made.sampling = sized(given.sampling, "request.sampling")?.map(|it| sampling(&it));
        made.seed = Some(given.seed);
        for &stop in list(given.stop, given.stop_len, "request.stop")? {
            let stop = text(stop, "request.stop")?.ok_or_else(|| invalid("a stop is NULL"))?;
            made.stop.push(stop.to_string());
        }
        made.ignore_end = given.ignore_end != 0;
        made.thinking = match given.thinking {
            0 => None,
            1 => Some(true),
            2 => Some(false),
            other => {
                return Err(invalid(format!(
                    "request.thinking is {other}; choose 0, 1 or 2"
                )));
            }
        };
        made.logprobs = (given.logprobs != 0).then_some(given.top_logprobs as usize);
        made.watch_experts = given.watch_experts != 0;
        Ok(made)
    }
}

/// # Safety
/// As [`hadal_generate`].
unsafe fn prompt(given: &HadalRequest) -> Result<Prompt> {
    // SAFETY: the caller's promise, of all pointers inside too.
    unsafe {
        let mut prompts = Vec::new();
        if let Some(text) = text(given.text, "request.text")? {
            prompts.push(Prompt::Text(text.to_string()));
        }
        if !given.ids.is_null() {
            let ids = list(given.ids, given.ids_len, "request.ids")?;
            prompts.push(Prompt::Ids(ids.to_vec()));
        }
        if !given.messages.is_null() {
            let messages = list(given.messages, given.messages_len, "request.messages")?;
            let messages = messages.iter().map(|given| message(given));
            prompts.push(Prompt::Messages(messages.collect::<Result<_>>()?));
        }
        if let Some(json) = text(given.messages_json, "request.messages_json")? {
            let value = serde_json::from_str(json);
            let wrong = |error| invalid(format!("request.messages_json is no JSON: {error}"));
            prompts.push(Prompt::Json(value.map_err(wrong)?));
        }
        let count = prompts.len();
        match (prompts.pop(), count) {
            (Some(prompt), 1) => Ok(prompt),
            _ => Err(invalid(format!(
                "request has {count} prompts; give one of text, ids, messages, messages_json"
            ))),
        }
    }
}

/// # Safety
/// As [`hadal_generate`].
unsafe fn message(given: &HadalMessage) -> Result<Message> {
    let missing = || invalid("a message has no role or no content");
    // SAFETY: the caller's promise.
    let (role, content) = unsafe {
        let role = text(given.role, "a role")?.ok_or_else(missing)?;
        (role, text(given.content, "a content")?.ok_or_else(missing)?)
    };
    Ok(Message::new(role, content))
}

fn sampling(given: &HadalSampling) -> SamplingOptions {
    let or_1 = |value: f32| if value == 0.0 { 1.0 } else { value };
    SamplingOptions {
        temperature: given.temperature,
        top_k: given.top_k,
        top_p: or_1(given.top_p),
        min_p: given.min_p,
        repetition_penalty: or_1(given.repetition_penalty),
        presence_penalty: given.presence_penalty,
        frequency_penalty: given.frequency_penalty,
        ..SamplingOptions::default()
    }
}

type Callback = unsafe extern "C" fn(user: *mut c_void, event: *const HadalEvent) -> i32;

/// Tells the caller of an event; what it points to lives until the callback returns.
///
/// # Safety
/// The callback may be called with its own `user`.
unsafe fn told(on_event: Callback, user: *mut c_void, event: &Event) -> ControlFlow<()> {
    let mut text = CString::default();
    let (mut tops, mut tokens, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    let mut told = nothing();
    match event {
        Event::Prompt { done, total } => {
            told.kind = HadalEventKind::Prompt as u32;
            (told.done, told.total) = (*done as u64, *total as u64);
        }
        Event::Text {
            text: piece,
            tokens: seen,
            reasoning,
        } => {
            told.kind = HadalEventKind::Text as u32;
            told.reasoning = u32::from(*reasoning);
            text = owned_string(piece);
            (told.text, told.text_len) = (text.as_ptr(), text.as_bytes().len());
            tops.extend(seen.iter().map(likeliest));
            tokens.extend(seen.iter().zip(&tops).map(|(token, top)| HadalToken {
                id: token.id,
                logprob: token.logprobs.as_ref().map_or(f32::NAN, |it| it.chosen),
                top: top.as_ptr(),
                top_len: top.len(),
            }));
            (told.tokens, told.tokens_len) = (tokens.as_ptr(), tokens.len());
        }
        Event::Drafts(counts) => {
            told.kind = HadalEventKind::Drafts as u32;
            (told.drafted, told.accepted) = (counts.drafted, counts.accepted);
        }
        Event::Routes(routes) => {
            told.kind = HadalEventKind::Routes as u32;
            lists.extend(routes.iter().map(|route| HadalRoute {
                layer: route.layer,
                position: route.position,
                token: route.token,
                experts_len: route.experts.len() as u32,
                experts: route.experts.as_ptr(),
                weights: route.weights.as_ptr(),
            }));
            (told.routes, told.routes_len) = (lists.as_ptr(), lists.len());
        }
        // The end is what the function returns; others are not for C yet.
        _ => return ControlFlow::Continue(()),
    }
    // SAFETY: the caller's promise; all of it lives to the end of this function.
    let answer = unsafe { on_event(user, &raw const told) };
    drop(text);
    match answer {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    }
}

fn likeliest(token: &hadal::Token) -> Vec<HadalLogprob> {
    let top = token.logprobs.iter().flat_map(|it| &it.top);
    top.map(|&(id, logprob)| HadalLogprob { id, logprob })
        .collect()
}

fn nothing() -> HadalEvent {
    HadalEvent {
        size: size_of::<HadalEvent>(),
        kind: 0,
        reasoning: 0,
        done: 0,
        total: 0,
        text: ptr::null::<c_char>(),
        text_len: 0,
        tokens: ptr::null(),
        tokens_len: 0,
        drafted: 0,
        accepted: 0,
        routes: ptr::null(),
        routes_len: 0,
    }
}

fn figures(made: &Generated) -> HadalGenerated {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let finish = match made.finish {
        Finish::End => HadalFinish::End,
        Finish::Stop => HadalFinish::Stop,
        Finish::Length => HadalFinish::Length,
        Finish::Context => HadalFinish::Context,
        Finish::Cancelled => HadalFinish::Cancelled,
    };
    HadalGenerated {
        size: size_of::<HadalGenerated>(),
        finish: finish as u32,
        reserved: 0,
        prompt_tokens: made.prompt_tokens as u64,
        output_tokens: made.ids.len() as u64,
        first_token_ns: nanos(made.first_token),
        decode_ns: nanos(made.decode),
        steps: made.steps as u64,
        drafted: made.drafts.drafted,
        accepted: made.drafts.accepted,
    }
}
