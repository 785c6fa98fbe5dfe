//! The state without a window: lists, replies that come late, answers that go on elsewhere.

use std::time::Duration;

use hadal::{DraftCounts, Event, Finish, Generated, Token};

use crate::conversation::{Conversation, Ending};
use crate::settings::Settings;
use crate::state::{Changed, Engine, State};
use crate::worker::{Failure, Loaded, Reply};

fn loaded() -> Loaded {
    Loaded {
        name: "tiny".to_string(),
        device: "host".to_string(),
        device_name: "processor".to_string(),
        context: 512,
        weight_bytes: 10_700_000,
        layers: vec![1, 2],
        experts: 4,
        experts_per_token: 2,
        chats: false,
        took: Duration::from_millis(5),
    }
}

pub fn state() -> State {
    let mut state = State::new(Settings::default(), Vec::new(), "1".to_string());
    state.apply(Reply::Loaded(Box::new(Ok(loaded()))));
    state
}

pub fn text(text: &str) -> Event {
    Event::Text {
        text: text.to_string(),
        tokens: vec![Token {
            id: 1,
            logprobs: None,
        }],
        reasoning: false,
    }
}

pub fn made(finish: Finish) -> Generated {
    Generated {
        ids: vec![1, 2, 3],
        text: String::new(),
        finish,
        prompt_tokens: 2,
        first_token: Duration::from_millis(1),
        decode: Duration::from_millis(2),
        steps: 2,
        drafts: DraftCounts {
            drafted: 2,
            accepted: 1,
        },
    }
}

#[test]
fn an_answer_goes_to_its_conversation_whichever_is_open() {
    let mut state = state();
    state.conversation_mut().ask("Why?");
    state.answering = Some((1, "1".to_string()));
    state.apply(Reply::Wrote(1, text("Be")));
    state.open_new("2".to_string());
    state.apply(Reply::Wrote(1, text("cause")));
    assert!(state.conversation().turns.is_empty());
    let end = Reply::Ended(1, Box::new(Ok(made(Finish::Length))));
    assert_eq!(state.apply(end), Changed::Conversation(1));
    let turn = &state.conversations[1].turns[1];
    assert_eq!(
        (turn.text.as_str(), turn.ending.clone()),
        ("Because", Some(Ending::Length))
    );
    let figures = turn.figures.clone().unwrap();
    assert_eq!(figures.tokens_per_second, Some(1000.0));
    assert_eq!(figures.acceptance, Some(0.5));
    assert_eq!(state.answering, None);
}

#[test]
fn what_an_old_answer_still_tells_is_not_heard() {
    let mut state = state();
    state.conversation_mut().ask("Why?");
    state.answering = Some((2, "1".to_string()));
    state.apply(Reply::Wrote(1, text("old")));
    let end = Reply::Ended(1, Box::new(Ok(made(Finish::End))));
    assert_eq!(state.apply(end), Changed::Nothing);
    assert!(state.conversation().is_writing());
    assert_eq!(state.conversation().turns[1].text, "");
}

#[test]
fn a_stop_before_the_first_token_is_no_failure() {
    let mut state = state();
    state.conversation_mut().ask("Why?");
    state.answering = Some((1, "1".to_string()));
    let failure = Failure {
        message: "cancelled".to_string(),
        stopped: true,
        context_full: false,
    };
    state.apply(Reply::Ended(1, Box::new(Err(failure))));
    assert_eq!(state.conversation().turns[1].ending, Some(Ending::Stopped));
}

#[test]
fn a_list_is_never_empty_and_keeps_what_is_open() {
    let old = ["4", "3", "2"].map(|id| {
        let mut conversation = Conversation::new(id);
        conversation.ask(id);
        conversation.restored()
    });
    let mut state = State::new(Settings::default(), old.to_vec(), "9".to_string());
    state.current = 2;
    assert_eq!(state.delete(1, String::new()).as_deref(), Some("4"));
    assert_eq!(state.conversation().id, "3");
    assert_eq!(state.delete(1, String::new()).as_deref(), Some("3"));
    assert_eq!(state.conversation().id, "2");
    assert_eq!(state.delete(1, String::new()).as_deref(), Some("2"));
    assert_eq!(state.conversation().id, "9");
    assert_eq!(state.delete(0, "10".to_string()).as_deref(), Some("9"));
    assert_eq!(state.conversation().id, "10");
    state.conversation_mut().ask("being written");
    assert_eq!(state.delete(0, String::new()), None);
    assert_eq!(state.delete(7, String::new()), None);
}

#[test]
fn a_new_conversation_is_not_made_twice() {
    let mut state = state();
    state.open_new("2".to_string());
    assert_eq!(state.conversations.len(), 1);
    state.conversation_mut().ask("Why?");
    state.open_new("2".to_string());
    assert_eq!(
        (state.conversations.len(), state.conversation().id.as_str()),
        (2, "2")
    );
}

#[test]
fn a_failed_load_is_shown_and_nothing_is_remembered() {
    let mut state = state();
    state.settings.model = "gone".to_string();
    let reply = Reply::Loaded(Box::new(Err("no".to_string())));
    assert_eq!(state.apply(reply), Changed::Nothing);
    assert_eq!(state.engine, Engine::Failed("no".to_string()));
    assert!(state.settings.recent.is_empty());
}
