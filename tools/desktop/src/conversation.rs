//! A conversation as data and as a state machine: asking, writing, stopping, asking again.
//!
//! Decides which turns there are and what of an answer is kept; must not know a window, a
//! thread or an engine. `regenerate_drops_the_last_answer` would break first.

use serde::{Deserialize, Serialize};

/// Who said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The model ended it.
    Whole,
    /// As many tokens as the settings allow.
    Length,
    /// The context is full.
    ContextFull,
    /// The person stopped it, or the program ended.
    Stopped,
    /// It failed: why, and what to do.
    Failed(String),
}

/// Figures of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Tokens written.
    pub tokens: usize,
    /// Tokens a second after the first.
    pub tokens_per_second: Option<f64>,
    /// Share of drafts that became output, 0 to 1.
    pub acceptance: Option<f64>,
}

/// One thing said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// By whom.
    pub role: Role,
    /// The words.
    pub text: String,
    /// What the model wrote before its answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// How it ended; `None` for a person's turn, and while it is being written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// Figures of an answer that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
}

impl Turn {
    fn new(role: Role, text: &str) -> Turn {
        Turn {
            role,
            text: text.to_string(),
            reasoning: String::new(),
            ending: None,
            figures: None,
        }
    }
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// Names its file: seconds since 1970 and a counter, so that a list sorts by age.
    pub id: String,
    /// All that was said.
    pub turns: Vec<Turn>,
}

/// Characters of a title.
const TITLE_CHARS: usize = 40;

impl Conversation {
    /// An empty one.
    pub fn new(id: impl Into<String>) -> Conversation {
        Conversation {
            id: id.into(),
            turns: Vec::new(),
        }
    }

    /// What a list calls it: the beginning of what was said first.
    pub fn title(&self) -> String {
        let Some(turn) = self.turns.first() else {
            return "New conversation".to_string();
        };
        let words = turn.text.split_whitespace().collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(TITLE_CHARS) {
            Some((at, _)) => format!("{}…", words[..at].trim_end()),
            None => words,
        }
    }

    /// Whether an answer is being written.
    pub fn is_writing(&self) -> bool {
        let last = self.turns.last();
        last.is_some_and(|turn| turn.role == Role::Assistant && turn.ending.is_none())
    }

    /// The person says `text`, and an answer begins. False, and nothing changes, where there is
    /// nothing to say or an answer is being written.
    pub fn ask(&mut self, text: &str) -> bool {
        if self.is_writing() || text.trim().is_empty() {
            return false;
        }
        self.turns.push(Turn::new(Role::User, text));
        self.turns.push(Turn::new(Role::Assistant, ""));
        true
    }

    /// Drops the last answer and begins another. False where there is none to drop, or it is
    /// being written.
    pub fn regenerate(&mut self) -> bool {
        let last = self.turns.last();
        if self.is_writing() || last.is_none_or(|turn| turn.role != Role::Assistant) {
            return false;
        }
        self.turns.pop();
        self.turns.push(Turn::new(Role::Assistant, ""));
        true
    }

    /// More of the answer that is being written.
    pub fn append(&mut self, text: &str, reasoning: bool) {
        if !self.is_writing() {
            return;
        }
        if let Some(turn) = self.turns.last_mut() {
            match reasoning {
                true => turn.reasoning.push_str(text),
                false => turn.text.push_str(text),
            }
        }
    }

    /// The answer is over; what was written of it stays.
    pub fn end(&mut self, ending: Ending, figures: Option<Figures>) {
        if !self.is_writing() {
            return;
        }
        if let Some(turn) = self.turns.last_mut() {
            turn.ending = Some(ending);
            turn.figures = figures;
        }
    }

    /// As read from a file: an answer that was being written when the program ended is over.
    pub fn restored(mut self) -> Conversation {
        self.end(Ending::Stopped, None);
        self
    }

    /// What the model is asked: all turns that have words, without the answer being written.
    pub fn asked(&self) -> &[Turn] {
        match self.is_writing() {
            true => &self.turns[..self.turns.len() - 1],
            false => &self.turns,
        }
    }

    /// The same as one text, for a model that continues texts.
    pub fn as_text(&self) -> String {
        self.asked().iter().map(|turn| turn.text.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Conversation {
        let mut conversation = Conversation::new("1");
        assert!(conversation.ask("Why?"));
        conversation.append("Because", false);
        conversation
    }

    #[test]
    fn stopping_keeps_the_partial_answer() {
        let mut conversation = asked();
        conversation.end(Ending::Stopped, None);
        // What comes late belongs to nothing.
        conversation.append(" late", false);
        conversation.end(Ending::Whole, None);
        let turn = &conversation.turns[1];
        assert_eq!(
            (turn.text.as_str(), turn.ending.clone()),
            ("Because", Some(Ending::Stopped))
        );
        assert!(!conversation.is_writing());
    }

    #[test]
    fn regenerate_drops_the_last_answer() {
        let mut conversation = asked();
        assert!(!conversation.regenerate(), "it is being written");
        conversation.end(Ending::Whole, None);
        assert!(conversation.regenerate());
        assert!(conversation.is_writing());
        assert_eq!(conversation.turns.len(), 2);
        assert_eq!(conversation.turns[1].text, "");
        assert_eq!(conversation.as_text(), "Why?");
        assert!(!Conversation::new("2").regenerate());
    }

    #[test]
    fn nothing_is_asked_twice_or_without_words() {
        let mut conversation = asked();
        assert!(!conversation.ask("And?"));
        conversation.end(Ending::Whole, None);
        assert!(!conversation.ask(" \n"));
        assert!(conversation.ask("And?"));
        assert_eq!(conversation.as_text(), "Why?BecauseAnd?");
        assert_eq!(conversation.asked().len(), 3);
    }

    #[test]
    fn reasoning_stays_apart() {
        let mut conversation = Conversation::new("1");
        conversation.ask("Why?");
        conversation.append("well", true);
        conversation.append("so", false);
        assert_eq!((conversation.turns[1].reasoning.as_str()), "well");
        assert_eq!(conversation.turns[1].text, "so");
    }

    #[test]
    fn a_title_is_short_and_an_interrupted_answer_is_over_when_read() {
        let mut conversation = Conversation::new("1");
        assert_eq!(conversation.title(), "New conversation");
        conversation.ask(&"wörd \n".repeat(30));
        assert_eq!(conversation.title().chars().count(), TITLE_CHARS);
        assert!(conversation.is_writing());
        let restored = conversation.restored();
        assert_eq!(restored.turns[1].ending, Some(Ending::Stopped));
    }
}
