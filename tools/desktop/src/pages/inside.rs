//! What the model does as it writes: experts layer by layer, their load, drafts, speed, memory.

use eframe::egui::epaint::Mesh;
use eframe::egui::{
    Align2, ComboBox, CornerRadius, FontId, Frame, Margin, Painter, Pos2, Rect, RichText,
    ScrollArea, Sense, Shape, Sides, Stroke, Ui, Vec2, pos2, vec2,
};

use crate::figures;
use crate::state::State;
use crate::theme::{self, Palette};

/// Room for the names of layers.
const GUTTER: f32 = 64.0;
/// Height of the smaller pictures.
const SMALL: f32 = 118.0;

/// The page.
pub fn show(ui: &mut Ui, state: &mut State) {
    let area = ScrollArea::vertical().auto_shrink(false);
    area.show(ui, |ui| {
        tiles(ui, state);
        ui.add_space(6.0);
        if state.activity.experts() == 0 {
            let palette = theme::of(ui);
            let text = "A loaded model shows here which experts it asks while it writes.";
            ui.label(RichText::new(text).color(palette.weak));
            return;
        }
        let title = format!(
            "Experts asked, layer by layer ({} of {} for each token)",
            state.loaded().map_or(0, |loaded| loaded.experts_per_token),
            state.activity.experts()
        );
        let title = match state.answering.is_some() && !state.watched {
            true => {
                "Experts asked: from the next answer on, since this page was closed".to_string()
            }
            false => title,
        };
        card(ui, &title, |ui| grid(ui, state));
        card_of_loads(ui, state);
        ui.columns(2, |columns| {
            card(&mut columns[0], &drafts_title(state), |ui| {
                drafts(ui, state)
            });
            card(&mut columns[1], "Tokens a second", |ui| curve(ui, state));
        });
    });
}

fn card(ui: &mut Ui, title: &str, add: impl FnOnce(&mut Ui)) {
    let palette = theme::of(ui);
    framed(&palette).show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.label(RichText::new(title).small().color(palette.weak));
        add(ui);
    });
    ui.add_space(2.0);
}

fn framed(palette: &Palette) -> Frame {
    let frame = Frame::new().stroke(Stroke::new(1.0, palette.unlit));
    frame
        .corner_radius(CornerRadius::same(10))
        .inner_margin(Margin::same(12))
}

fn tiles(ui: &mut Ui, state: &State) {
    let palette = theme::of(ui);
    let tiles = [
        ("Tokens a second", speed(state)),
        ("Drafts accepted", acceptance(state)),
        ("Context", context(state)),
        ("Memory", memory(state)),
    ];
    ui.columns(tiles.len(), |columns| {
        for (ui, (name, (value, detail))) in columns.iter_mut().zip(tiles) {
            framed(&palette).fill(palette.side).show(ui, |ui| {
                ui.set_width(ui.available_width());
                ui.label(RichText::new(name).small().color(palette.weak));
                ui.label(RichText::new(value).size(23.0).strong());
                ui.label(RichText::new(detail).small().color(palette.weak));
            });
        }
    });
}

fn speed(state: &State) -> (String, String) {
    let last = state.last_speed.map(figures::rate);
    match (state.answering.is_some(), last) {
        (true, last) => {
            let now = f64::from(state.activity.tokens_per_second(state.now()));
            let before = last.map_or(String::new(), |last| format!("{last} in the last answer"));
            (figures::rate(now), before)
        }
        (false, Some(last)) => (last, "in the last answer".to_string()),
        (false, None) => ("–".to_string(), "nothing was written yet".to_string()),
    }
}

fn acceptance(state: &State) -> (String, String) {
    let counts = state.activity.draft_counts();
    match counts.acceptance() {
        Some(share) => (
            figures::percent(share),
            format!(
                "{} of {}",
                figures::count(counts.accepted),
                figures::count(counts.drafted)
            ),
        ),
        None => ("–".to_string(), "no drafts yet".to_string()),
    }
}

fn context(state: &State) -> (String, String) {
    let of = state.loaded().map_or(0, |loaded| u64::from(loaded.context));
    let used = state.context_tokens as u64;
    (
        figures::count(used),
        format!("of {} tokens", figures::count(of)),
    )
}

fn memory(state: &State) -> (String, String) {
    let weights = state.loaded().map_or(0, |loaded| loaded.weight_bytes);
    let Some(memory) = state.memory else {
        return ("–".to_string(), String::new());
    };
    let all = weights.max(memory.fixed_bytes) + memory.session_bytes;
    let detail = format!(
        "weights {}, cache {}",
        figures::bytes(weights),
        figures::bytes(memory.session_bytes)
    );
    (figures::bytes(all), detail)
}

/// Layers down, experts across.
fn grid(ui: &mut Ui, state: &State) {
    let palette = theme::of(ui);
    let (activity, now) = (&state.activity, state.now());
    let (rows, experts) = (activity.layers().len(), activity.experts());
    let width = (ui.available_width() - GUTTER) / experts as f32;
    let height = (280.0 / rows as f32).clamp(3.0, 30.0).min(width.max(6.0));
    let size = vec2(ui.available_width(), height * rows as f32);
    let (response, painter) = ui.allocate_painter(size, Sense::hover());
    let origin = response.rect.min + vec2(GUTTER, 0.0);
    let gap = match width.min(height) > 6.0 {
        true => 2.0,
        false => 0.0,
    };
    let bright = activity.brightness(now);
    let mut mesh = Mesh::default();
    for row in 0..rows {
        for expert in 0..experts {
            let at = origin + vec2(expert as f32 * width, row as f32 * height);
            let cell = Rect::from_min_size(at, vec2(width - gap, height - gap));
            mesh.add_colored_rect(cell, palette.lit(bright[row * experts + expert]));
        }
    }
    painter.add(Shape::mesh(mesh));
    names(
        &painter,
        response.rect.min,
        height,
        activity.layers(),
        &palette,
    );
    if let Some(pointer) = response.hover_pos() {
        let (row, expert) = place(pointer - origin, width, height);
        if let Some(layer) = activity.layers().get(row).filter(|_| expert < experts) {
            let asked = activity.loads(Some(row))[expert];
            let text = format!(
                "layer {layer}, expert {expert}: asked {} times",
                figures::count(asked)
            );
            response.on_hover_text(text);
        }
    }
}

fn place(offset: Vec2, width: f32, height: f32) -> (usize, usize) {
    // Left of the first is nowhere.
    let index = |value: f32, size: f32| match value < 0.0 {
        true => usize::MAX,
        false => (value / size) as usize,
    };
    (index(offset.y, height), index(offset.x, width))
}

/// As many names of layers as there is room for.
fn names(painter: &Painter, at: Pos2, height: f32, layers: &[u32], palette: &Palette) {
    let every = (14.0 / height).ceil().max(1.0) as usize;
    for (row, layer) in layers.iter().enumerate().step_by(every) {
        let middle = at + vec2(0.0, (row as f32 + 0.5) * height - 1.0);
        let text = format!("layer {layer}");
        let font = FontId::proportional(11.5);
        painter.text(middle, Align2::LEFT_CENTER, text, font, palette.weak);
    }
}

fn card_of_loads(ui: &mut Ui, state: &mut State) {
    let palette = theme::of(ui);
    framed(&palette).show(ui, |ui| {
        ui.set_width(ui.available_width());
        let layers = state.activity.layers().to_vec();
        let name = |row: Option<usize>| match row.and_then(|row| layers.get(row)) {
            Some(layer) => format!("layer {layer}"),
            None => "all layers".to_string(),
        };
        Sides::new().show(
            ui,
            |ui| {
                ui.label(
                    RichText::new("How often each expert was asked")
                        .small()
                        .color(palette.weak),
                )
            },
            |ui| {
                let combo = ComboBox::from_id_salt("load of").width(110.0);
                combo.selected_text(name(state.load_of)).show_ui(ui, |ui| {
                    ui.selectable_value(&mut state.load_of, None, name(None));
                    for row in 0..layers.len() {
                        ui.selectable_value(&mut state.load_of, Some(row), name(Some(row)));
                    }
                });
            },
        );
        loads(ui, &state.activity.loads(state.load_of), &palette);
    });
    ui.add_space(2.0);
}

/// A bar an expert; the line is where all would be if all were asked as often.
fn loads(ui: &mut Ui, loads: &[u64], palette: &Palette) {
    let size = vec2(ui.available_width(), 92.0);
    let (response, painter) = ui.allocate_painter(size, Sense::hover());
    let area = response.rect.with_min_x(response.rect.min.x + GUTTER);
    let most = loads.iter().copied().max().unwrap_or(0).max(1) as f32;
    let mean = loads.iter().sum::<u64>() as f32 / loads.len().max(1) as f32;
    let width = area.width() / loads.len().max(1) as f32;
    let gap = if width > 6.0 { 2.0 } else { 0.0 };
    let mut mesh = Mesh::default();
    for (expert, &load) in loads.iter().enumerate() {
        let left = area.min.x + expert as f32 * width;
        let top = area.max.y - (load as f32 / most * area.height()).max(1.0);
        let bar = Rect::from_min_max(pos2(left, top), pos2(left + width - gap, area.max.y));
        mesh.add_colored_rect(bar, palette.lit(0.75));
    }
    painter.add(Shape::mesh(mesh));
    if mean > 0.0 {
        let y = area.max.y - mean / most * area.height();
        painter.hline(area.x_range(), y, Stroke::new(1.0, palette.reject));
        let at = pos2(response.rect.min.x, y);
        let font = FontId::proportional(11.5);
        painter.text(at, Align2::LEFT_CENTER, "evenly", font, palette.weak);
    }
}

fn drafts_title(state: &State) -> String {
    let shown = state.activity.steps();
    let accepted: u64 = shown.iter().map(|step| step.accepted).sum();
    let rejected: u64 = shown.iter().map(|step| step.rejected).sum();
    match shown.is_empty() {
        true => "Drafts of the next-token module".to_string(),
        false => format!("Drafts of the latest steps: {accepted} accepted, {rejected} rejected"),
    }
}

/// A column a step: up what was accepted, down what was rejected.
fn drafts(ui: &mut Ui, state: &State) {
    let palette = theme::of(ui);
    let steps = state.activity.steps();
    let size = vec2(ui.available_width(), SMALL);
    let (response, painter) = ui.allocate_painter(size, Sense::hover());
    let area = response.rect;
    let middle = area.center().y;
    let most = steps.iter().map(|step| step.accepted.max(step.rejected));
    let unit = (area.height() / 2.0 - 2.0) / most.max().unwrap_or(1).max(1) as f32;
    let width = (area.width() / 160.0).max(2.0);
    let mut mesh = Mesh::default();
    for (index, step) in steps.iter().rev().enumerate() {
        let right = area.max.x - index as f32 * width;
        let columns = [
            (step.accepted, -1.0, palette.accent),
            (step.rejected, 1.0, palette.reject),
        ];
        for (count, way, colour) in columns {
            let end = middle + way * unit * count as f32;
            let corners = [pos2(right - width + 0.6, middle), pos2(right, end)];
            mesh.add_colored_rect(Rect::from_points(&corners), colour);
        }
    }
    painter.add(Shape::mesh(mesh));
    painter.hline(area.x_range(), middle, Stroke::new(1.0, palette.unlit));
}

/// Speed over time.
fn curve(ui: &mut Ui, state: &State) {
    let palette = theme::of(ui);
    let size = vec2(ui.available_width(), SMALL);
    let (response, painter) = ui.allocate_painter(size, Sense::hover());
    let area = response.rect;
    let points = state.activity.curve();
    let most = points.iter().copied().fold(1.0, f32::max);
    let at = |(index, &speed): (usize, &f32)| {
        let x = area.max.x - index as f32 * (area.width() / 240.0);
        pos2(x, area.max.y - 2.0 - speed / most * (area.height() - 18.0))
    };
    let line: Vec<Pos2> = points.iter().rev().enumerate().map(at).collect();
    painter.add(Shape::line(line, Stroke::new(1.6, palette.accent)));
    painter.hline(
        area.x_range(),
        area.max.y - 1.0,
        Stroke::new(1.0, palette.unlit),
    );
    if points.len() > 1 {
        let font = FontId::proportional(11.5);
        let text = format!("{} at most", figures::rate(f64::from(most)));
        painter.text(area.min, Align2::LEFT_TOP, text, font, palette.weak);
    }
}
