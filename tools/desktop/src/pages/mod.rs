//! What is painted: a page a file, and the frame around them.
//!
//! Pages read the state, change what is being typed and chosen, and answer with actions; they
//! must not know threads or files.

mod chat;
mod inside;
mod models;
mod settings;
mod shell;

#[cfg(test)]
mod tests;

use eframe::egui::{CentralPanel, Frame, Margin, Ui};

use crate::state::{Action, Page, State};

/// The whole window.
pub fn show(ui: &mut Ui, state: &mut State) -> Vec<Action> {
    let mut actions = Vec::new();
    shell::side(ui, state, &mut actions);
    shell::status(ui, state);
    shell::notices(ui, state);
    match state.page {
        // Has panels of its own.
        Page::Chat => chat::show(ui, state, &mut actions),
        page => {
            let frame = Frame::new().inner_margin(Margin::same(14));
            CentralPanel::no_frame()
                .frame(frame)
                .show(ui, |ui| match page {
                    Page::Inside => inside::show(ui, state),
                    Page::Models => models::show(ui, state, &mut actions),
                    _ => settings::show(ui, state, &mut actions),
                });
        }
    }
    shell::keys(ui, state, &mut actions);
    models::dropped(ui, state, &mut actions);
    actions
}
