//! What products read while a text goes through the model, step by step: for measuring how
//! much each column of each weight matters.

use std::sync::Arc;

use hadal_models::Outputs;

use crate::step::Done;
use crate::{Cancel, Engine, EngineError, Numbers, Result, Session, Tensor};

/// Runs the model, and its first next-token module where there is one, over `ids` in windows
/// of `window` tokens, each with BOS in front. After each step `visit` sees the values that
/// products read, `layer.{i}.in.*`, `layer.{i}.kv_latent`, `layer.{i}.router_idx`,
/// `final_hidden` and the same of `mtp.0`, then how many of the `ids` are done.
///
/// # Errors
/// A window that the context does not hold, ids that the model does not have, those of the
/// device.
pub fn activations(
    engine: &Arc<Engine>,
    ids: &[u32],
    window: u32,
    cancel: &Cancel,
    visit: &mut dyn FnMut(&[Tensor], usize) -> Result<()>,
) -> Result<()> {
    let bos = engine.model().text()?.bos();
    if window < 2 || window > engine.context() {
        return Err(EngineError::Option(format!(
            "a window of {window} tokens is not possible; choose 2 to {}",
            engine.context()
        )));
    }
    let mut session = Session::new(engine, true)?;
    let room = window as usize - usize::from(bos.is_some());
    let mut done = 0;
    for window in ids.chunks(room) {
        let mut fed: Vec<u32> = bos.into_iter().collect();
        fed.extend(window);
        session.clear();
        session.check(&fed)?;
        // The module reads each token together with the one after it, so the last one is only
        // that.
        let end = fed.len() - usize::from(session.drafts() && fed.len() > 1);
        let mut first = 0;
        while first < end {
            cancel.check()?;
            let piece = session.next_piece(&fed[..end], first)?;
            first += piece.len();
            let next = fed.get(first).copied();
            let main = session.surviving(Some(cancel), |session| {
                let outcome = session.feed(piece, &[], Outputs::Inputs)?;
                read(&outcome)
            })?;
            let behind = fed.len() - first;
            visit(&main, done + window.len().saturating_sub(behind))?;
            if let Some(next) = next.filter(|_| session.drafts()) {
                let module = session.surviving(Some(cancel), |session| {
                    read(&session.run_next(next, &[], Outputs::Inputs)?)
                })?;
                visit(&module, done + window.len().saturating_sub(behind))?;
            }
        }
        done += window.len();
    }
    Ok(())
}

/// The values of a step, rows first.
fn read(done: &Done<'_>) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    for place in done.outputs() {
        if matches!(place.name.as_str(), "logits" | "ids" | "hidden") {
            continue;
        }
        let (words, width) = (done.words(&place.name)?, place.width as usize);
        tensors.push(Tensor {
            shape: vec![words.len() / width.max(1), width],
            numbers: Numbers::of(place.dtype, words),
            name: place.name,
        });
    }
    Ok(tensors)
}
