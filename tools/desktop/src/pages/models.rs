//! Models, plans and devices.

use std::ffi::OsStr;

use eframe::egui::{
    Button, ComboBox, CornerRadius, Frame, Margin, ProgressBar, RichText, ScrollArea, Spinner,
    TextEdit, Ui,
};

use crate::figures;
use crate::planner::Planned;
use crate::settings::{BEST, WINDOW};
use crate::state::{Action, Engine, Page, Plan, State};
use crate::theme;

/// The page.
pub fn show(ui: &mut Ui, state: &mut State, actions: &mut Vec<Action>) {
    let area = ScrollArea::vertical().auto_shrink(false);
    area.show(ui, |ui| {
        ui.set_max_width(ui.available_width().min(820.0));
        ui.heading("Model");
        model(ui, state, actions);
        ui.add_space(10.0);
        ui.heading("Device");
        devices(ui, state, actions);
        ui.add_space(10.0);
        ui.heading("Plan");
        plan(ui, state, actions);
        ui.add_space(6.0);
        load(ui, state, actions);
    });
}

/// What was planned before belongs to what was chosen before.
fn changed(state: &mut State, actions: &mut Vec<Action>) {
    state.plan = Plan::None;
    actions.push(Action::Settings);
    actions.push(Action::Plan);
}

/// A file or folder that was dropped on the window, on whatever page, is the model that is planned.
pub fn dropped(ui: &Ui, state: &mut State, actions: &mut Vec<Action>) {
    let Some(path) = ui.input(|input| {
        let first = input.raw.dropped_files.first()?;
        Some(first.path().to_path_buf())
    }) else {
        return;
    };
    // Of a checkpoint any file will do: the folder is the model.
    let of_folder = |end: &OsStr| end == "safetensors" || end == "json";
    let path = match path.extension().is_some_and(of_folder) {
        true => path.parent().unwrap_or(&path),
        false => &path,
    };
    state.settings.model = path.to_string_lossy().into_owned();
    state.plan = Plan::None;
    // The page plans what has no plan.
    actions.extend([Action::Settings, Action::Go(Page::Models)]);
}

fn model(ui: &mut Ui, state: &mut State, actions: &mut Vec<Action>) {
    let shipped = state.settings.path().is_none();
    if ui
        .radio(shipped, "The model that ships: small, starts at once")
        .clicked()
        && !shipped
    {
        state.settings.model.clear();
        changed(state, actions);
    }
    ui.horizontal(|ui| {
        ui.label("Folder or .gguf file");
        let edit = TextEdit::singleline(&mut state.settings.model);
        let response = ui.add(
            edit.hint_text("path of a checkpoint; or drop it here")
                .desired_width(430.0),
        );
        if response.lost_focus() {
            changed(state, actions);
        }
        if !state.settings.recent.is_empty() {
            let combo = ComboBox::from_id_salt("recent").selected_text("Recent");
            combo.show_ui(ui, |ui| {
                for path in state.settings.recent.clone() {
                    if ui
                        .selectable_label(path == state.settings.model, &path)
                        .clicked()
                    {
                        state.settings.model = path;
                        changed(state, actions);
                    }
                }
            });
        }
    });
}

fn devices(ui: &mut Ui, state: &mut State, actions: &mut Vec<Action>) {
    let palette = theme::of(ui);
    let mut rows = vec![(
        BEST.to_string(),
        "a GPU if there is one, else the processor".to_string(),
        true,
    )];
    rows.push(match &state.window_refused {
        None => (
            WINDOW.to_string(),
            "the GPU that draws this window, shared with it".to_string(),
            true,
        ),
        Some(why) => (WINDOW.to_string(), why.clone(), false),
    });
    let found = state.devices.iter().flatten();
    rows.extend(found.map(|row| (row.id.clone(), row.text.clone(), row.present)));
    for (id, text, present) in rows {
        ui.horizontal_wrapped(|ui| {
            let chosen = state.settings.device == id;
            let radio = eframe::egui::RadioButton::new(chosen, &id);
            if ui.add_enabled(present, radio).clicked() && !chosen {
                state.settings.device = id;
                changed(state, actions);
            }
            let text = match present {
                true => text,
                false => format!("absent: {text}"),
            };
            ui.label(RichText::new(text).small().color(palette.weak));
        });
    }
    if state.devices.is_none() {
        ui.add(Spinner::new().size(14.0));
    } else if ui.small_button("Look again").clicked() {
        actions.push(Action::Survey);
    }
}

fn plan(ui: &mut Ui, state: &State, actions: &mut Vec<Action>) {
    let palette = theme::of(ui);
    let frame = Frame::new()
        .fill(palette.raised)
        .inner_margin(Margin::same(12));
    frame.corner_radius(CornerRadius::same(10)).show(ui, |ui| {
        ui.set_width(ui.available_width());
        match &state.plan {
            Plan::None => {
                if ui.button("Plan it").clicked() {
                    actions.push(Action::Plan);
                }
            }
            Plan::Making => {
                ui.horizontal(|ui| {
                    ui.add(Spinner::new().size(14.0));
                    ui.label("reading the model's headers, measuring memory");
                });
            }
            Plan::Failed(why) => {
                ui.label(RichText::new(why).color(palette.reject));
            }
            Plan::Made(planned) => sentence(ui, planned),
        }
    });
}

fn sentence(ui: &mut Ui, planned: &Planned) {
    let palette = theme::of(ui);
    let place = format!("{} on {}", planned.model, planned.device);
    ui.label(RichText::new(place).small().color(palette.weak));
    let text = RichText::new(&planned.sentence).strong();
    ui.label(text.color(match planned.fits {
        true => palette.accent,
        false => palette.reject,
    }));
    if let Some(reason) = &planned.reason {
        ui.label(RichText::new(reason).small().color(palette.weak));
    }
    if !planned.nearest.is_empty() {
        ui.label("What would fit:");
        for nearest in &planned.nearest {
            ui.label(format!("• {nearest}"));
        }
    }
}

fn load(ui: &mut Ui, state: &State, actions: &mut Vec<Action>) {
    let palette = theme::of(ui);
    match &state.engine {
        Engine::Loading(share) => {
            ui.horizontal(|ui| {
                ui.add(
                    ProgressBar::new(*share)
                        .desired_width(360.0)
                        .show_percentage(),
                );
                if ui.button("Cancel").clicked() {
                    actions.push(Action::CancelLoad);
                }
            });
        }
        engine => {
            ui.horizontal_wrapped(|ui| {
                let refused = matches!(&state.plan, Plan::Made(planned) if !planned.fits);
                let idle = state.answering.is_none() && !refused;
                let text = RichText::new("Load").color(palette.on_accent);
                let button = Button::new(text).fill(palette.accent);
                if ui
                    .add_enabled(idle, button.min_size([96.0, 30.0].into()))
                    .clicked()
                {
                    actions.push(Action::Load);
                }
                let (text, colour) = match engine {
                    Engine::Ready(loaded) => (
                        format!(
                            "{} is loaded on {} ({} ms)",
                            loaded.name,
                            loaded.device,
                            figures::count(loaded.took.as_millis() as u64)
                        ),
                        palette.weak,
                    ),
                    Engine::Failed(why) => (why.clone(), palette.reject),
                    _ => (String::new(), palette.weak),
                };
                ui.label(RichText::new(text).color(colour));
            });
        }
    }
}
