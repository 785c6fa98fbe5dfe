//! Pages without a window: what they show and what they answer, on the state of the state's
//! tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui::{
    Context, DroppedFile, DroppedFileHandle, Event, FullOutput, Key, Modifiers, RawInput, Rect,
    Shape, Vec2, pos2, vec2,
};

use crate::conversation::Ending;
use crate::pages;
use crate::planner::{DeviceRow, Planned};
use crate::settings::{BEST, WINDOW};
use crate::state::{Action, Engine, Page, Plan, State};
use crate::state_tests::{made, state, text};
use crate::theme;
use crate::worker::Reply;

/// A window of its own for each test.
struct Screen {
    context: Context,
    time: f64,
    /// In points.
    size: Vec2,
    /// Pixels of the screen a point.
    scale: f32,
    dropped: Vec<DroppedFileHandle>,
    /// Texts with where they are and where they are seen.
    texts: Vec<(String, Rect, Rect)>,
}

impl Screen {
    fn new() -> Screen {
        let context = Context::default();
        theme::install(&context);
        Screen {
            context,
            time: 0.0,
            size: vec2(1180.0, 780.0),
            scale: 1.0,
            dropped: Vec::new(),
            texts: Vec::new(),
        }
    }

    /// Some frames, the last with `events`; what is written on the screen, and what was asked.
    fn show(&mut self, state: &mut State, events: Vec<Event>) -> (String, Vec<Action>) {
        let mut actions = Vec::new();
        let mut shown = String::new();
        for turn in 0..3 {
            self.time += 0.1;
            let mut input = RawInput {
                screen_rect: Some(Rect::from_min_size(pos2(0.0, 0.0), self.size)),
                time: Some(self.time),
                events: if turn == 2 {
                    events.clone()
                } else {
                    Vec::new()
                },
                ..RawInput::default()
            };
            if let Some(window) = input.viewports.get_mut(&input.viewport_id) {
                window.native_pixels_per_point = Some(self.scale);
            }
            if turn == 2 {
                input.dropped_files = std::mem::take(&mut self.dropped);
            }
            let output = self.context.run_ui(input, |ui| {
                actions.extend(pages::show(ui, state));
            });
            assert_eq!(output.pixels_per_point, self.scale);
            self.texts = texts(&output);
            let words: Vec<&str> = self.texts.iter().map(|(text, ..)| text.as_str()).collect();
            shown = words.join("\n");
            output.drop_without_applying_deltas();
        }
        (shown, actions)
    }
}

fn texts(output: &FullOutput) -> Vec<(String, Rect, Rect)> {
    let mut all = Vec::new();
    for clipped in &output.shapes {
        collect(&clipped.shape, clipped.clip_rect, &mut all);
    }
    all
}

fn collect(shape: &Shape, seen: Rect, all: &mut Vec<(String, Rect, Rect)>) {
    match shape {
        Shape::Text(text) => {
            let place = text.galley.rect.translate(text.pos.to_vec2());
            all.push((text.galley.text().to_string(), place, seen));
        }
        Shape::Vec(shapes) => shapes.iter().for_each(|shape| collect(shape, seen, all)),
        _ => {}
    }
}

fn press(key: Key, modifiers: Modifiers) -> Event {
    Event::Key {
        key,
        physical_key: None,
        pressed: true,
        repeat: false,
        modifiers,
    }
}

/// With an answer being written, at one moment: speeds are the same on every screen.
fn writing() -> State {
    let mut state = state();
    // Time since a moment to come is none.
    state.began = Instant::now() + Duration::from_secs(3600);
    state.conversation_mut().ask("Why is the sky blue?");
    state.answering = Some((1, "1".to_string()));
    state.apply(Reply::Wrote(1, text("Because of the water.")));
    state
}

#[test]
fn the_conversation_is_shown_and_can_be_stopped_while_it_is_written() {
    let mut state = writing();
    let (shown, _) = Screen::new().show(&mut state, Vec::new());
    for expected in [
        "Why is the sky blue?",
        "Because of the water.",
        "Stop",
        "tiny on host",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(!shown.contains("Regenerate"));
    let escape = vec![press(Key::Escape, Modifiers::NONE)];
    let (_, actions) = Screen::new().show(&mut state, escape);
    assert_eq!(actions, [Action::Stop]);

    state.apply(Reply::Ended(
        1,
        Box::new(Ok(made(hadal::Finish::Cancelled))),
    ));
    assert_eq!(state.conversation().turns[1].ending, Some(Ending::Stopped));
    let (shown, _) = Screen::new().show(&mut state, Vec::new());
    for expected in [
        "stopped · 3 tokens",
        "50 % of drafts accepted",
        "Regenerate",
        "Send",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn enter_sends_and_shift_enter_begins_a_line() {
    let mut state = state();
    let mut screen = Screen::new();
    screen.show(&mut state, Vec::new());
    let (_, actions) = screen.show(&mut state, vec![Event::Text("once".to_string())]);
    assert!(actions.is_empty());
    let (_, actions) = screen.show(&mut state, vec![press(Key::Enter, Modifiers::SHIFT)]);
    assert!(actions.is_empty());
    assert_eq!(state.field, "once\n");
    let (_, actions) = screen.show(&mut state, vec![press(Key::Enter, Modifiers::NONE)]);
    assert_eq!(actions, [Action::Ask]);
    assert_eq!(state.field, "once\n");
}

#[test]
fn keys_work_on_every_page() {
    for page in [Page::Chat, Page::Inside, Page::Models, Page::Settings] {
        let mut state = state();
        state.page = page;
        let keys = [Key::N, Key::Comma].map(|key| press(key, Modifiers::COMMAND));
        let (_, actions) = Screen::new().show(&mut state, keys.to_vec());
        assert_eq!(
            actions,
            [Action::New, Action::Go(Page::Settings)],
            "{page:?}"
        );
    }
}

#[test]
fn reasoning_is_folded() {
    let mut state = writing();
    state.conversation_mut().append("a secret thought", true);
    let (shown, _) = Screen::new().show(&mut state, Vec::new());
    assert!(
        shown.contains("Reasoning") && !shown.contains("a secret thought"),
        "{shown}"
    );
}

#[test]
fn inside_shows_what_was_asked() {
    let mut state = writing();
    state.page = Page::Inside;
    let route = hadal::Route {
        layer: 2,
        position: 0,
        token: 1,
        experts: vec![1, 3],
        weights: vec![1.0, 0.5],
    };
    state.apply(Reply::Wrote(1, hadal::Event::Routes(vec![route])));
    let drafts = hadal::DraftCounts {
        drafted: 3,
        accepted: 2,
    };
    state.apply(Reply::Wrote(1, hadal::Event::Drafts(drafts)));
    let (shown, _) = Screen::new().show(&mut state, Vec::new());
    for expected in [
        "layer 2",
        "2 of 4 for each token",
        "67 %",
        "2 accepted, 1 rejected",
        "evenly",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn a_plan_that_does_not_fit_says_what_would_and_cannot_be_loaded() {
    let mut state = state();
    state.page = Page::Models;
    let absent = DeviceRow {
        id: "cuda".to_string(),
        text: "no driver".to_string(),
        present: false,
    };
    state.apply(Reply::Devices(vec![absent]));
    state.plan = Plan::Made(Planned {
        model: "big".to_string(),
        device: "host (processor)".to_string(),
        fits: false,
        sentence: "the model does not fit".to_string(),
        reason: None,
        nearest: vec!["a context of 512 tokens".to_string()],
    });
    let (shown, actions) = Screen::new().show(&mut state, Vec::new());
    for expected in [
        "absent: no driver",
        "does not fit",
        "• a context of 512 tokens",
        "Load",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(actions.is_empty(), "{actions:?}");
    state.engine = Engine::Loading(0.5);
    let (shown, _) = Screen::new().show(&mut state, Vec::new());
    assert!(shown.contains("50%") && shown.contains("Cancel"), "{shown}");
}

#[test]
fn a_screen_of_twice_the_pixels_shows_the_same_and_nothing_is_cut_off() {
    for size in [vec2(1180.0, 780.0), vec2(720.0, 480.0)] {
        for page in [Page::Chat, Page::Inside, Page::Models, Page::Settings] {
            let [coarse, fine] = [1.0, 2.0].map(|scale| {
                let mut state = writing();
                state.page = page;
                state.apply(Reply::Devices(vec![DeviceRow {
                    id: "cuda".to_string(),
                    text: "no driver, and a reason that is longer than a window. ".repeat(4),
                    present: false,
                }]));
                state.notices = vec!["a long thing to tell a person. ".repeat(8)];
                state.engine = Engine::Failed("a long reason of a failure. ".repeat(8));
                let mut screen = Screen {
                    size,
                    scale,
                    ..Screen::new()
                };
                screen.show(&mut state, Vec::new());
                screen.texts
            });
            assert_eq!(coarse.len(), fine.len(), "{page:?}");
            for ((text, at, _), (same, place, seen)) in coarse.iter().zip(&fine) {
                assert_eq!(text, same, "{page:?}");
                // Glyphs are as wide as pixels let them be.
                let moved = (at.min - place.min).abs().max_elem();
                assert!(moved < 4.0, "{page:?}, {text}: {at:?}, {place:?}");
                // What is below can be scrolled to; what is at the side cannot.
                let cut = place.right() > seen.right() + 1.0 || place.left() < seen.left() - 1.0;
                assert!(!cut, "{page:?} at {size:?}: {text}: {place:?} in {seen:?}");
            }
        }
    }
}

#[derive(Debug)]
struct Dropped(PathBuf);

impl DroppedFile for Dropped {
    fn path(&self) -> &Path {
        &self.0
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        Err("a model is not read by the window".to_string())
    }
}

#[test]
fn a_dropped_file_or_folder_is_the_model_that_is_planned() {
    for (path, model) in [
        (
            "/models/r1-00001-of-00003.gguf",
            "/models/r1-00001-of-00003.gguf",
        ),
        ("/models/v3.1", "/models/v3.1"),
        ("/models/v3/config.json", "/models/v3"),
        ("/models/v3/model-1.safetensors", "/models/v3"),
    ] {
        let mut state = writing();
        state.plan = Plan::Failed("of another model".to_string());
        let mut screen = Screen::new();
        screen.dropped = vec![Arc::new(Dropped(PathBuf::from(path)))];
        let (_, actions) = screen.show(&mut state, Vec::new());
        assert_eq!(state.settings.model, model);
        assert_eq!(state.plan, Plan::None);
        assert_eq!(actions, [Action::Settings, Action::Go(Page::Models)]);
    }
}

#[test]
fn a_slice_is_no_longer_than_the_device_takes() {
    for (device, longest) in [(WINDOW, 8), ("vulkan:0", 60), (BEST, 60)] {
        let mut state = state();
        state.page = Page::Settings;
        state.settings.device = device.to_string();
        state.settings.slice_ms = 60;
        Screen::new().show(&mut state, Vec::new());
        assert_eq!(state.settings.slice_ms, longest, "{device}");
    }
}
