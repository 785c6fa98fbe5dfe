//! Colours and sizes, dark and light.
//!
//! Decides how things look and nothing else.

use eframe::egui::{
    Color32, Context, CornerRadius, FontId, Stroke, Style, TextStyle, Theme as EguiTheme,
    ThemePreference, Ui, Visuals,
};

use crate::settings::Theme;

/// Colours that egui has no name for.
#[derive(Clone, Copy)]
pub struct Palette {
    /// What is alive: buttons that matter, experts, what was accepted.
    pub accent: Color32,
    /// What was rejected, and what went wrong.
    pub reject: Color32,
    /// What lies above the page: bubbles, tiles.
    pub raised: Color32,
    /// The list at the side.
    pub side: Color32,
    /// Text of less weight.
    pub weak: Color32,
    /// Cells and bars that are dark.
    pub unlit: Color32,
    /// Text on `accent`.
    pub on_accent: Color32,
    page: Color32,
    text: Color32,
    line: Color32,
}

const DARK: Palette = Palette {
    accent: Color32::from_rgb(0x3f, 0xc1, 0xc9),
    reject: Color32::from_rgb(0xf0, 0x8a, 0x5d),
    raised: Color32::from_rgb(0x1b, 0x26, 0x33),
    side: Color32::from_rgb(0x0b, 0x11, 0x19),
    weak: Color32::from_rgb(0x8d, 0x9d, 0xac),
    unlit: Color32::from_rgb(0x1d, 0x29, 0x36),
    on_accent: Color32::from_rgb(0x06, 0x1d, 0x20),
    page: Color32::from_rgb(0x11, 0x19, 0x22),
    text: Color32::from_rgb(0xdd, 0xe6, 0xee),
    line: Color32::from_rgb(0x27, 0x34, 0x42),
};

const LIGHT: Palette = Palette {
    accent: Color32::from_rgb(0x0b, 0x7f, 0x86),
    reject: Color32::from_rgb(0xc2, 0x5a, 0x1f),
    raised: Color32::from_rgb(0xe9, 0xef, 0xf2),
    side: Color32::from_rgb(0xf1, 0xf4, 0xf6),
    weak: Color32::from_rgb(0x5b, 0x69, 0x76),
    unlit: Color32::from_rgb(0xe3, 0xea, 0xee),
    on_accent: Color32::WHITE,
    page: Color32::from_rgb(0xfd, 0xfe, 0xfe),
    text: Color32::from_rgb(0x18, 0x22, 0x2c),
    line: Color32::from_rgb(0xd3, 0xdb, 0xe1),
};

/// The colours of `ui`.
pub fn of(ui: &Ui) -> Palette {
    match ui.visuals().dark_mode {
        true => DARK,
        false => LIGHT,
    }
}

impl Palette {
    /// From dark to shining, `brightness` 0 to 1.
    pub fn lit(&self, brightness: f32) -> Color32 {
        self.unlit
            .lerp_to_gamma(self.accent, brightness.clamp(0.0, 1.0))
    }
}

/// Follows the settings.
pub fn choose(context: &Context, theme: Theme) {
    context.set_theme(match theme {
        Theme::System => ThemePreference::System,
        Theme::Dark => ThemePreference::Dark,
        Theme::Light => ThemePreference::Light,
    });
}

/// Once, at the beginning.
pub fn install(context: &Context) {
    for (theme, palette) in [(EguiTheme::Dark, DARK), (EguiTheme::Light, LIGHT)] {
        context.style_mut_of(theme, |style| adapt(style, &palette));
    }
}

fn adapt(style: &mut Style, palette: &Palette) {
    let sizes = [
        (TextStyle::Small, FontId::proportional(12.0)),
        (TextStyle::Body, FontId::proportional(15.0)),
        (TextStyle::Button, FontId::proportional(14.0)),
        (TextStyle::Heading, FontId::proportional(21.0)),
        (TextStyle::Monospace, FontId::monospace(13.0)),
    ];
    style.text_styles = sizes.into();
    style.spacing.item_spacing = [8.0, 7.0].into();
    style.spacing.button_padding = [10.0, 5.0].into();
    style.spacing.interact_size.y = 26.0;
    paint(&mut style.visuals, palette);
}

fn paint(visuals: &mut Visuals, palette: &Palette) {
    let round = CornerRadius::same(7);
    visuals.panel_fill = palette.page;
    visuals.window_fill = palette.page;
    visuals.extreme_bg_color = palette.side;
    visuals.text_edit_bg_color = Some(palette.side);
    visuals.faint_bg_color = palette.raised;
    visuals.window_stroke = Stroke::new(1.0, palette.line);
    visuals.selection.bg_fill = palette.accent.gamma_multiply(0.35);
    visuals.selection.stroke = Stroke::new(1.0, palette.text);
    visuals.hyperlink_color = palette.accent;
    visuals.warn_fg_color = palette.reject;
    visuals.error_fg_color = palette.reject;
    visuals.weak_text_color = Some(palette.weak);
    visuals.slider_trailing_fill = true;
    let widgets = &mut visuals.widgets;
    widgets.noninteractive.fg_stroke = Stroke::new(1.0, palette.text);
    widgets.noninteractive.bg_stroke = Stroke::new(1.0, palette.line);
    let fills = [
        (&mut widgets.noninteractive, palette.page),
        (&mut widgets.inactive, palette.raised),
        (
            &mut widgets.hovered,
            palette.raised.lerp_to_gamma(palette.accent, 0.2),
        ),
        (
            &mut widgets.active,
            palette.raised.lerp_to_gamma(palette.accent, 0.4),
        ),
        (&mut widgets.open, palette.raised),
    ];
    for (widget, fill) in fills {
        widget.corner_radius = round;
        widget.bg_fill = fill;
        widget.weak_bg_fill = fill;
        widget.fg_stroke.color = palette.text;
    }
    // Rings, boxes and rails, which lie on the page itself.
    widgets.inactive.bg_fill = palette.line;
}
