//! Pages without a window: what they show and what they answer, on the state of the state's
//! tests.

use eframe::egui::{Context, Event, FullOutput, Key, Modifiers, RawInput, Rect, Shape, pos2, vec2};

use crate::conversation::Ending;
use crate::pages;
use crate::planner::{DeviceRow, Planned};
use crate::state::{Action, Engine, Page, Plan, State};
use crate::state_tests::{made, state, text};
use crate::theme;
use crate::worker::Reply;

/// A window of its own for each test.
struct Screen {
    context: Context,
    time: f64,
}

impl Screen {
    fn new() -> Screen {
        let context = Context::default();
        theme::install(&context);
        Screen { context, time: 0.0 }
    }

    /// Some frames, the last with `events`; what is written on the screen, and what was asked.
    fn show(&mut self, state: &mut State, events: Vec<Event>) -> (String, Vec<Action>) {
        let mut actions = Vec::new();
        let mut shown = String::new();
        for turn in 0..3 {
            self.time += 0.1;
            let input = RawInput {
                screen_rect: Some(Rect::from_min_size(pos2(0.0, 0.0), vec2(1180.0, 780.0))),
                time: Some(self.time),
                events: if turn == 2 {
                    events.clone()
                } else {
                    Vec::new()
                },
                ..RawInput::default()
            };
            let output = self.context.run_ui(input, |ui| {
                actions.extend(pages::show(ui, state));
            });
            shown = words(&output);
            output.drop_without_applying_deltas();
        }
        (shown, actions)
    }
}

fn words(output: &FullOutput) -> String {
    let mut all = String::new();
    for clipped in &output.shapes {
        collect(&clipped.shape, &mut all);
    }
    all
}

fn collect(shape: &Shape, all: &mut String) {
    match shape {
        Shape::Text(text) => {
            all.push_str(text.galley.text());
            all.push('\n');
        }
        Shape::Vec(shapes) => shapes.iter().for_each(|shape| collect(shape, all)),
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

/// With an answer being written.
fn writing() -> State {
    let mut state = state();
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
