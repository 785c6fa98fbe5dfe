//! What stands around every page: conversations and pages at the side, the model below, notices
//! above, and keys that work everywhere.

use eframe::egui::{
    Align, Button, Frame, Key, Layout, Margin, Modifiers, Panel, ProgressBar, RichText, ScrollArea,
    Sides, Ui,
};

use crate::figures;
use crate::state::{Action, Engine, Page, State};
use crate::theme;

/// Conversations and pages.
pub fn side(ui: &mut Ui, state: &State, actions: &mut Vec<Action>) {
    let palette = theme::of(ui);
    let frame = Frame::new()
        .fill(palette.side)
        .inner_margin(Margin::symmetric(12, 14));
    let panel = Panel::left("side").exact_size(236.0).resizable(false);
    panel
        .frame(frame)
        .show_separator_line(false)
        .show(ui, |ui| {
            ui.label(
                RichText::new("Hadal")
                    .size(20.0)
                    .strong()
                    .color(palette.accent),
            );
            ui.add_space(6.0);
            for (page, name) in [
                (Page::Chat, "Chat"),
                (Page::Inside, "Inside"),
                (Page::Models, "Models"),
                (Page::Settings, "Settings"),
            ] {
                if row(ui, name, state.page == page) {
                    actions.push(Action::Go(page));
                }
            }
            ui.add_space(8.0);
            ui.separator();
            Sides::new().show(
                ui,
                |ui| ui.label(RichText::new("Conversations").small().color(palette.weak)),
                |ui| {
                    let new = ui
                        .small_button(RichText::new("+ New").small())
                        .on_hover_text("Ctrl+N");
                    if new.clicked() {
                        actions.push(Action::New);
                    }
                },
            );
            let list = ScrollArea::vertical().auto_shrink(false);
            list.show(ui, |ui| conversations(ui, state, actions));
        });
}

fn conversations(ui: &mut Ui, state: &State, actions: &mut Vec<Action>) {
    for (index, conversation) in state.conversations.iter().enumerate() {
        let open = state.page == Page::Chat && index == state.current;
        ui.push_id(&conversation.id, |ui| {
            let response = ui.add(entry(ui, &conversation.title(), open));
            if response.clicked() {
                actions.push(Action::Open(index));
            }
            response.context_menu(|ui| {
                let delete = Button::new("Delete");
                if ui.add_enabled(!conversation.is_writing(), delete).clicked() {
                    actions.push(Action::Delete(index));
                    ui.close();
                }
            });
        });
    }
}

fn entry<'a>(ui: &Ui, name: &str, chosen: bool) -> Button<'a> {
    let palette = theme::of(ui);
    let fill = match chosen {
        true => palette.raised,
        false => palette.side,
    };
    let text = RichText::new(name).color(match chosen {
        true => ui.visuals().strong_text_color(),
        false => ui.visuals().text_color(),
    });
    Button::new(text)
        .fill(fill)
        .truncate()
        .right_text("")
        .min_size([ui.available_width(), 28.0].into())
}

/// A line that can be clicked.
fn row(ui: &mut Ui, name: &str, chosen: bool) -> bool {
    ui.add(entry(ui, name, chosen)).clicked()
}

/// The model, below.
pub fn status(ui: &mut Ui, state: &State) {
    let palette = theme::of(ui);
    let frame = Frame::new()
        .fill(palette.side)
        .inner_margin(Margin::symmetric(16, 5));
    Panel::bottom("status")
        .frame(frame)
        .show_separator_line(false)
        .show(ui, |ui| {
            ui.horizontal(|ui| {
                let small = |text: String| RichText::new(text).small().color(palette.weak);
                match &state.engine {
                    Engine::None => ui.label(small("no model is loaded".to_string())),
                    Engine::Failed(_) => {
                        ui.label(small("the model could not be loaded".to_string()))
                    }
                    Engine::Loading(share) => {
                        ui.label(small("loading".to_string()));
                        ui.add(
                            ProgressBar::new(*share)
                                .desired_width(160.0)
                                .desired_height(6.0),
                        )
                    }
                    Engine::Ready(loaded) => ui.label(small(format!(
                        "{} on {} ({})",
                        loaded.name, loaded.device, loaded.device_name
                    ))),
                };
                ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                    ui.label(small(figures_of(state)));
                });
            });
        });
}

fn figures_of(state: &State) -> String {
    let mut parts = Vec::new();
    let now = state.activity.tokens_per_second(state.now());
    match (state.answering.is_some(), state.last_speed) {
        (true, _) if now > 0.0 => {
            parts.push(format!("{} tokens/s", figures::rate(f64::from(now))));
        }
        (false, Some(speed)) => parts.push(format!("{} tokens/s", figures::rate(speed))),
        _ => {}
    }
    if let Some(loaded) = state.loaded() {
        let (used, context) = (state.context_tokens as u64, u64::from(loaded.context));
        parts.push(format!(
            "context {} of {}",
            figures::count(used),
            figures::count(context)
        ));
    }
    if let Some(bytes) = state.process_bytes {
        parts.push(format!("process {}", figures::bytes(bytes)));
    }
    parts.join("  ·  ")
}

/// What the person should know, until it is closed.
pub fn notices(ui: &mut Ui, state: &mut State) {
    if state.notices.is_empty() {
        return;
    }
    let palette = theme::of(ui);
    let frame = Frame::new()
        .fill(palette.reject.gamma_multiply(0.18))
        .inner_margin(Margin::symmetric(16, 6));
    let mut closed = None;
    Panel::top("notices").frame(frame).show(ui, |ui| {
        for (index, notice) in state.notices.iter().enumerate() {
            ui.horizontal_wrapped(|ui| {
                if ui.small_button("Close").clicked() {
                    closed = Some(index);
                }
                ui.label(notice);
            });
        }
    });
    if let Some(index) = closed {
        state.notices.remove(index);
    }
}

/// Keys that work on every page.
pub fn keys(ui: &Ui, state: &State, actions: &mut Vec<Action>) {
    ui.input_mut(|input| {
        if input.consume_key(Modifiers::COMMAND, Key::N) {
            actions.push(Action::New);
        }
        if input.consume_key(Modifiers::COMMAND, Key::Comma) {
            actions.push(Action::Go(Page::Settings));
        }
        if state.answering.is_some() && input.consume_key(Modifiers::NONE, Key::Escape) {
            actions.push(Action::Stop);
        }
    });
}
