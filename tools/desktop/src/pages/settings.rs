//! Settings.

use eframe::egui::{ComboBox, DragValue, Grid, RichText, ScrollArea, Slider, Ui};
use hadal_engine::{DISPATCH_BUDGET, SHARED_BUDGET};

use crate::settings::{Settings, Theme, WINDOW};
use crate::state::{Action, State};
use crate::theme;

/// The page.
pub fn show(ui: &mut Ui, state: &mut State, actions: &mut Vec<Action>) {
    let before = state.settings.clone();
    let area = ScrollArea::vertical().auto_shrink(false);
    area.show(ui, |ui| {
        section(ui, "Answers", |ui| answers(ui, &mut state.settings));
        section(ui, "While it works", |ui| courtesy(ui, &mut state.settings));
        section(ui, "From the next load on", |ui| {
            loading(ui, &mut state.settings)
        });
        section(ui, "Window", |ui| window(ui, &mut state.settings));
    });
    let after = &state.settings;
    if *after != before {
        actions.push(Action::Settings);
    }
    if (after.budget_gib, after.low_priority) != (before.budget_gib, before.low_priority) {
        actions.push(Action::Courtesy);
    }
}

fn section(ui: &mut Ui, title: &str, add: impl FnOnce(&mut Ui)) {
    ui.heading(title);
    let grid = Grid::new(title).num_columns(2).spacing([24.0, 10.0]);
    grid.min_col_width(170.0).show(ui, add);
    ui.add_space(14.0);
}

fn name(ui: &mut Ui, text: &str) {
    let colour = theme::of(ui).weak;
    ui.label(RichText::new(text).color(colour));
}

fn answers(ui: &mut Ui, settings: &mut Settings) {
    name(ui, "Sampling");
    ui.checkbox(
        &mut settings.recommended,
        "as the model's publisher recommends",
    );
    ui.end_row();
    name(ui, "Temperature");
    let own = !settings.recommended;
    ui.add_enabled(own, Slider::new(&mut settings.temperature, 0.0..=2.0));
    ui.end_row();
    name(ui, "Top-p");
    ui.add_enabled(own, Slider::new(&mut settings.top_p, 0.05..=1.0));
    ui.end_row();
    name(ui, "Seed");
    optional(
        ui,
        &mut settings.seed,
        1,
        "another one each time",
        |ui, seed| {
            ui.add(DragValue::new(seed));
        },
    );
    ui.end_row();
    name(ui, "Most tokens");
    ui.add(DragValue::new(&mut settings.max_tokens).range(1..=1_000_000));
    ui.end_row();
    name(ui, "Reasoning");
    ui.checkbox(
        &mut settings.thinking,
        "first, where the model lets one choose",
    );
    ui.end_row();
}

fn courtesy(ui: &mut Ui, settings: &mut Settings) {
    name(ui, "Memory budget");
    optional(
        ui,
        &mut settings.budget_gib,
        4.0,
        "as much as there is",
        |ui, gib| {
            ui.add(
                DragValue::new(gib)
                    .range(0.01..=4096.0)
                    .speed(0.05)
                    .suffix(" GiB"),
            );
        },
    );
    ui.end_row();
    name(ui, "Priority");
    ui.checkbox(
        &mut settings.low_priority,
        "low: leave room for other programs",
    );
    ui.end_row();
}

fn loading(ui: &mut Ui, settings: &mut Settings) {
    name(ui, "Context");
    optional(
        ui,
        &mut settings.context,
        2048,
        "what fits",
        |ui, tokens| {
            ui.add(
                DragValue::new(tokens)
                    .range(16..=1_048_576)
                    .suffix(" tokens"),
            );
        },
    );
    ui.end_row();
    name(ui, "Threads of the processor");
    let without = "all but one, which draws";
    optional(ui, &mut settings.threads, 1, without, |ui, threads| {
        ui.add(DragValue::new(threads).range(1..=1024));
    });
    ui.end_row();
    name(ui, "Slice of work on a GPU");
    // On the window's device the engine takes no longer ones, whatever is set.
    let longest = match settings.device == WINDOW {
        true => SHARED_BUDGET,
        false => DISPATCH_BUDGET,
    };
    let slice = Slider::new(&mut settings.slice_ms, 1..=longest.as_millis() as u64);
    ui.add(slice.suffix(" ms"));
    ui.end_row();
}

fn window(ui: &mut Ui, settings: &mut Settings) {
    name(ui, "Theme");
    let text = |theme| match theme {
        Theme::System => "as the system",
        Theme::Dark => "dark",
        Theme::Light => "light",
    };
    let combo = ComboBox::from_id_salt("theme").selected_text(text(settings.theme));
    combo.show_ui(ui, |ui| {
        for theme in [Theme::System, Theme::Dark, Theme::Light] {
            ui.selectable_value(&mut settings.theme, theme, text(theme));
        }
    });
    ui.end_row();
    name(ui, "Size");
    ui.label("Ctrl and + or − make everything larger or smaller");
    ui.end_row();
}

/// A value that can be left out.
fn optional<T: Copy>(
    ui: &mut Ui,
    value: &mut Option<T>,
    first: T,
    without: &str,
    add: impl FnOnce(&mut Ui, &mut T),
) {
    ui.horizontal(|ui| {
        let mut out = value.is_none();
        if ui.checkbox(&mut out, without).changed() {
            *value = (!out).then_some(first);
        }
        if let Some(value) = value {
            add(ui, value);
        }
    });
}
