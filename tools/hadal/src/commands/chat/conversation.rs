//! What was said so far, as messages or as one text, and the prompt it makes.
//!
//! Decides what the model sees; must not know a terminal or a session.

use hadal_engine::{Finish, Generated};
use hadal_tokens::{RenderOptions, Result, TextModel};
use serde_json::{Value, json};

/// A conversation.
pub struct Conversation {
    text: TextModel,
    options: RenderOptions,
    system: Option<String>,
    so_far: SoFar,
}

/// What was said.
enum SoFar {
    /// Turns of a chat.
    Messages(Vec<Value>),
    /// One text that both sides write, with the ids it was written in. The ids are kept
    /// because encoding the whole text anew may cut it differently.
    Story {
        text: String,
        ids: Vec<u32>,
        /// Lengths of text and ids before the last line and before the last answer.
        before_line: (usize, usize),
        before_answer: (usize, usize),
    },
}

const NOTHING: SoFar = SoFar::Story {
    text: String::new(),
    ids: Vec::new(),
    before_line: (0, 0),
    before_answer: (0, 0),
};

impl Conversation {
    /// An empty conversation; as a `story` both sides continue one text.
    pub fn new(
        text: TextModel,
        story: bool,
        options: RenderOptions,
        system: Option<String>,
    ) -> Conversation {
        let so_far = if story {
            NOTHING
        } else {
            SoFar::Messages(Vec::new())
        };
        Conversation {
            text,
            options,
            system,
            so_far,
        }
    }

    /// Forgets what was said.
    pub fn clear(&mut self) {
        match &mut self.so_far {
            SoFar::Messages(messages) => messages.clear(),
            story => *story = NOTHING,
        }
    }

    /// Begins anew with another system message.
    pub fn set_system(&mut self, system: Option<String>) {
        self.clear();
        self.system = system;
    }

    /// Adds what the person said.
    pub fn say(&mut self, line: &str) -> Result<()> {
        match &mut self.so_far {
            SoFar::Messages(messages) => {
                messages.push(json!({"role": "user", "content": line}));
            }
            SoFar::Story {
                text,
                ids,
                before_line,
                before_answer,
            } => {
                let before = (text.len(), ids.len());
                if text.is_empty() {
                    let system = self.system.iter().map(|system| format!("{system}\n\n"));
                    let start = system.chain([line.to_string()]).collect::<String>();
                    *ids = self.text.encode_prompt(&start)?;
                    text.push_str(&start);
                } else {
                    let gap = if text.ends_with(char::is_whitespace) {
                        ""
                    } else {
                        " "
                    };
                    let more = format!("{gap}{line}");
                    ids.extend(self.text.tokenizer().encode(&more)?);
                    text.push_str(&more);
                }
                *before_line = before;
                *before_answer = (text.len(), ids.len());
            }
        }
        Ok(())
    }

    /// The prompt for the next answer.
    pub fn prompt(&self) -> Result<Vec<u32>> {
        match &self.so_far {
            SoFar::Story { ids, .. } => Ok(ids.clone()),
            SoFar::Messages(_) => Ok(self.text.render(&self.messages(), &self.options)?.ids),
        }
    }

    /// Adds what the model said.
    pub fn answered(&mut self, prompt: &[u32], made: &Generated) {
        match &mut self.so_far {
            SoFar::Messages(messages) => {
                messages.push(json!({"role": "assistant", "content": made.text}));
            }
            SoFar::Story { text, ids, .. } => {
                text.push_str(&made.text);
                *ids = prompt.to_vec();
                match made.finish {
                    Finish::End => ids.extend(&made.ids[..made.ids.len() - 1]),
                    // The ids hold the stop string, the text does not.
                    Finish::Stop => {
                        let kept = self.text.tokenizer().encode(&made.text);
                        ids.extend(kept.unwrap_or_default());
                    }
                    _ => ids.extend(&made.ids),
                }
            }
        }
    }

    /// Takes the last line back: it got no answer.
    pub fn unsay(&mut self) {
        match &mut self.so_far {
            SoFar::Messages(messages) => {
                messages.pop();
            }
            SoFar::Story {
                text,
                ids,
                before_line,
                ..
            } => {
                text.truncate(before_line.0);
                ids.truncate(before_line.1);
            }
        }
    }

    /// Takes the last answer back; false if there is none.
    pub fn take_answer_back(&mut self) -> bool {
        match &mut self.so_far {
            SoFar::Messages(messages) => {
                let answered = messages
                    .last()
                    .is_some_and(|last| last["role"] == "assistant");
                if answered {
                    messages.pop();
                }
                answered
            }
            SoFar::Story {
                text,
                ids,
                before_answer,
                ..
            } => {
                let answered = ids.len() > before_answer.1;
                text.truncate(before_answer.0);
                ids.truncate(before_answer.1);
                answered
            }
        }
    }

    /// What `/save` writes: messages that `hadal render` reads, or the text.
    pub fn saved(&self) -> String {
        match &self.so_far {
            SoFar::Messages(_) => format!("{:#}\n", self.messages()),
            SoFar::Story { text, .. } => format!("{text}\n"),
        }
    }

    fn messages(&self) -> Value {
        let system = self.system.iter();
        let system = system.map(|text| json!({"role": "system", "content": text}));
        let turns = match &self.so_far {
            SoFar::Messages(messages) => messages.as_slice(),
            SoFar::Story { .. } => &[],
        };
        system.chain(turns.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_engine::DraftCounts;
    use std::time::Duration;

    fn tiny() -> TextModel {
        let config = Some(hadal_tiny::TOKENIZER_CONFIG);
        TextModel::from_bytes(hadal_tiny::TOKENIZER, config, None).unwrap()
    }

    fn made(text: &str, finish: Finish) -> Generated {
        let mut ids = tiny().tokenizer().encode(text).unwrap();
        if finish == Finish::End {
            ids.push(tiny().stop_ids()[0]);
        }
        Generated {
            ids,
            text: text.to_string(),
            finish,
            prompt_tokens: 0,
            first_token: Duration::ZERO,
            decode: Duration::ZERO,
            steps: 0,
            drafts: DraftCounts::default(),
        }
    }

    #[test]
    fn a_story_grows_from_both_sides_and_ends_nowhere() {
        let mut story = Conversation::new(tiny(), true, RenderOptions::default(), None);
        story.say("Once upon a time").unwrap();
        let prompt = story.prompt().unwrap();
        story.answered(&prompt, &made(" there was a fox.", Finish::End));
        story.say("It was hungry.").unwrap();
        let ids = story.prompt().unwrap();
        assert!(ids.starts_with(&prompt));
        let text = tiny().tokenizer().decode_without_special(&ids).unwrap();
        assert_eq!(text, "Once upon a time there was a fox. It was hungry.");
        assert_eq!(
            ids.iter()
                .filter(|id| tiny().stop_ids().contains(id))
                .count(),
            0
        );
    }

    #[test]
    fn a_line_or_an_answer_can_be_taken_back() {
        for story in [true, false] {
            let mut talk = Conversation::new(tiny(), story, RenderOptions::default(), None);
            assert!(!talk.take_answer_back());
            talk.say("Hello").unwrap();
            let prompt = talk.prompt().unwrap();
            talk.answered(&prompt, &made(" you", Finish::Length));
            assert!(talk.take_answer_back());
            assert_eq!(talk.prompt().unwrap(), prompt);
            talk.answered(&prompt, &made(" you", Finish::Length));
            let saved = talk.saved();
            talk.say("Again").unwrap();
            talk.unsay();
            assert_eq!(talk.saved(), saved);
        }
    }
}
