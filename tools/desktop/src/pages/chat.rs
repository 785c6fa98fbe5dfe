//! The open conversation and the field below it.

use eframe::egui::{
    Button, CentralPanel, CollapsingHeader, CornerRadius, Event, Frame, Id, InputState, Key,
    KeyboardShortcut, Label, Margin, Modifiers, Panel, RichText, ScrollArea, Spinner, TextEdit,
    TextStyle, TextWrapMode, Ui, WidgetText,
};

use crate::conversation::{Ending, Role, Turn};
use crate::figures;
use crate::state::{Action, Engine, State};
use crate::theme;

/// Lines are not longer than the eye follows.
const WIDTH: f32 = 760.0;
/// Around the column.
const MARGIN: f32 = 24.0;
/// Lines of the field before it scrolls.
const FIELD_HEIGHT: f32 = 132.0;

/// The page.
pub fn show(ui: &mut Ui, state: &mut State, actions: &mut Vec<Action>) {
    let below = Frame::new().inner_margin(Margin::symmetric(0, 14));
    Panel::bottom("field")
        .frame(below)
        .show_separator_line(false)
        .show(ui, |ui| {
            column(ui, |ui| field(ui, state, actions));
        });
    CentralPanel::no_frame().show(ui, |ui| {
        let id = &state.conversation().id;
        let area = ScrollArea::vertical().id_salt(id).auto_shrink(false);
        area.stick_to_bottom(true).show(ui, |ui| {
            ui.add_space(18.0);
            column(ui, |ui| turns(ui, state, actions));
            ui.add_space(8.0);
        });
    });
}

/// In the middle, not too wide.
fn column(ui: &mut Ui, add: impl FnOnce(&mut Ui)) {
    let width = WIDTH.min(ui.available_width() - 2.0 * MARGIN);
    let left = (ui.available_width() - width) / 2.0;
    ui.horizontal_top(|ui| {
        ui.spacing_mut().item_spacing.x = 0.0;
        ui.add_space(left);
        ui.vertical(|ui| {
            ui.set_width(width);
            ui.spacing_mut().item_spacing.x = 8.0;
            add(ui);
        });
    });
}

fn turns(ui: &mut Ui, state: &State, actions: &mut Vec<Action>) {
    let turns = &state.conversation().turns;
    if turns.is_empty() {
        return welcome(ui, state);
    }
    for (index, turn) in turns.iter().enumerate() {
        ui.push_id(index, |ui| match turn.role {
            Role::User => bubble(ui, &turn.text),
            Role::Assistant => answer(ui, state, turn, index + 1 == turns.len(), actions),
        });
        ui.add_space(10.0);
    }
}

fn welcome(ui: &mut Ui, state: &State) {
    let palette = theme::of(ui);
    ui.add_space(90.0);
    ui.vertical_centered(|ui| {
        let (heading, text) = match &state.engine {
            Engine::Ready(loaded) if loaded.chats => {
                (loaded.name.clone(), "Ask something.".to_string())
            }
            Engine::Ready(loaded) => (
                loaded.name.clone(),
                "This model continues texts. Begin a story, and it goes on.".to_string(),
            ),
            Engine::Loading(share) => ("Loading".to_string(), figures::percent(f64::from(*share))),
            Engine::Failed(why) => ("The model could not be loaded".to_string(), why.clone()),
            Engine::None => (
                "No model".to_string(),
                "Load one on the page Models.".to_string(),
            ),
        };
        ui.heading(heading);
        ui.label(RichText::new(text).color(palette.weak));
        ui.add_space(14.0);
        let keys = "Enter sends · Shift+Enter begins a line · Esc stops · Ctrl+N · Ctrl+,";
        ui.label(RichText::new(keys).small().color(palette.weak));
    });
}

/// What the person said, at the right.
fn bubble(ui: &mut Ui, text: &str) {
    let palette = theme::of(ui);
    let margin = Margin::symmetric(14, 9);
    let most = 0.82 * ui.available_width() - margin.sum().x;
    let text = WidgetText::from(text);
    let galley = text.into_galley(ui, Some(TextWrapMode::Wrap), most, TextStyle::Body);
    ui.horizontal_top(|ui| {
        ui.spacing_mut().item_spacing.x = 0.0;
        ui.add_space(ui.available_width() - galley.size().x - margin.sum().x);
        let frame = Frame::new().fill(palette.raised).inner_margin(margin);
        frame
            .corner_radius(CornerRadius::same(14))
            .show(ui, |ui| ui.label(galley));
    });
}

fn answer(ui: &mut Ui, state: &State, turn: &Turn, is_last: bool, actions: &mut Vec<Action>) {
    let palette = theme::of(ui);
    if !turn.reasoning.is_empty() {
        let heading = match turn.text.is_empty() && turn.ending.is_none() {
            true => "Reasoning …",
            false => "Reasoning",
        };
        let heading = RichText::new(heading).small().color(palette.weak);
        let fold = CollapsingHeader::new(heading).id_salt("reasoning");
        fold.show(ui, |ui| {
            ui.label(RichText::new(&turn.reasoning).color(palette.weak));
        });
    }
    if !turn.text.is_empty() {
        ui.add(Label::new(turn.text.trim_start()).wrap());
    }
    let Some(ending) = &turn.ending else {
        if turn.text.is_empty() {
            waiting(ui, state);
        }
        return;
    };
    ui.horizontal_wrapped(|ui| {
        let note = RichText::new(note(turn, ending)).small();
        ui.label(note.color(match ending {
            Ending::Failed(_) => palette.reject,
            _ => palette.weak,
        }));
        let button = |text| Button::new(RichText::new(text).small()).frame(false);
        if !turn.text.is_empty() && ui.add(button("Copy")).clicked() {
            actions.push(Action::Copy(turn.text.clone()));
        }
        if is_last && state.answering.is_none() {
            let again = ui.add(button("Regenerate"));
            if again
                .on_hover_text("Drops this answer and writes another")
                .clicked()
            {
                actions.push(Action::Regenerate);
            }
        }
    });
}

fn waiting(ui: &mut Ui, state: &State) {
    let palette = theme::of(ui);
    ui.horizontal(|ui| {
        ui.add(Spinner::new().size(12.0).color(palette.accent));
        let text = match (&state.engine, state.prompt) {
            (Engine::Loading(_), _) => "waiting for the model".to_string(),
            (_, Some((done, total))) => format!("reading the prompt, {done} of {total} tokens"),
            _ => String::new(),
        };
        ui.label(RichText::new(text).small().color(palette.weak));
    });
}

/// How an answer ended, and its figures.
fn note(turn: &Turn, ending: &Ending) -> String {
    let mut parts = Vec::new();
    match ending {
        Ending::Whole => {}
        Ending::Length => parts.push("as long as the settings allow".to_string()),
        Ending::ContextFull => parts.push("the context is full".to_string()),
        Ending::Stopped => parts.push("stopped".to_string()),
        Ending::Failed(why) => parts.push(why.clone()),
    }
    if let Some(figures) = &turn.figures {
        parts.push(format!("{} tokens", figures.tokens));
        if let Some(speed) = figures.tokens_per_second {
            parts.push(format!("{} tokens/s", figures::rate(speed)));
        }
        if let Some(share) = figures.acceptance {
            parts.push(format!("{} of drafts accepted", figures::percent(share)));
        }
    }
    parts.join(" · ")
}

fn field(ui: &mut Ui, state: &mut State, actions: &mut Vec<Action>) {
    let palette = theme::of(ui);
    let id = Id::unique("field of the conversation");
    let frame = Frame::new()
        .fill(palette.raised)
        .inner_margin(Margin::symmetric(12, 9));
    frame.corner_radius(CornerRadius::same(14)).show(ui, |ui| {
        ui.horizontal(|ui| {
            let width = ui.available_width() - 78.0;
            let newline = KeyboardShortcut::new(Modifiers::SHIFT, Key::Enter);
            let hint = match state.loaded().is_some_and(|loaded| !loaded.chats) {
                true => "Begin a story …",
                false => "Ask something …",
            };
            let edit = TextEdit::multiline(&mut state.field)
                .id(id)
                .hint_text(hint)
                .desired_rows(1)
                .desired_width(width)
                .return_key(newline)
                .frame(Frame::NONE);
            let area = ScrollArea::vertical()
                .id_salt("field")
                .min_scrolled_height(22.0)
                .max_height(FIELD_HEIGHT);
            let response = area.show(ui, |ui| ui.add(edit)).inner;
            if state.focus_field {
                response.request_focus();
                state.focus_field = false;
            }
            if response.has_focus() && ui.input(pressed_enter) {
                actions.push(Action::Ask);
            }
            send_or_stop(ui, state, actions);
        });
    });
}

/// Without Shift, which begins a line. The event knows it at the time it happened.
fn pressed_enter(input: &InputState) -> bool {
    let is_enter = |event: &Event| {
        matches!(event, Event::Key { key: Key::Enter, pressed: true, modifiers, .. }
            if !modifiers.shift)
    };
    input.events.iter().any(is_enter)
}

fn send_or_stop(ui: &mut Ui, state: &State, actions: &mut Vec<Action>) {
    let palette = theme::of(ui);
    let button = |text: &str, fill| {
        let text = RichText::new(text).color(palette.on_accent);
        Button::new(text).fill(fill).min_size([66.0, 28.0].into())
    };
    if state.answering.is_some() {
        let stop = ui.add(button("Stop", palette.reject)).on_hover_text("Esc");
        if stop.clicked() {
            actions.push(Action::Stop);
        }
    } else {
        let has_words = !state.field.trim().is_empty();
        let send = ui.add_enabled(has_words, button("Send", palette.accent));
        if send.on_hover_text("Enter").clicked() {
            actions.push(Action::Ask);
        }
    }
}
