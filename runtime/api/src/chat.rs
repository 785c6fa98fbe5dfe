//! Which part of an answer is reasoning: what lies between `<think>` and `</think>`.
//!
//! Decides by text, since the marks may lie across tokens; they are not shown themselves.

/// What begins reasoning.
const BEGIN: &str = "<think>";
/// What ends it.
const END: &str = "</think>";

/// Splits streamed text into reasoning and answer.
pub(crate) struct Splitter {
    /// Whether marks mean anything.
    marks: bool,
    inside: bool,
    /// Only blank text so far, in this part.
    at_start: bool,
    /// Text that may be the beginning of a mark.
    held: String,
}

impl Splitter {
    /// For an answer after `prompt`; `marks`: the model knows them.
    pub fn new(prompt: &str, marks: bool) -> Splitter {
        Splitter {
            marks,
            inside: marks && prompt.trim_end().ends_with(BEGIN),
            at_start: true,
            held: String::new(),
        }
    }

    /// The parts that one more piece makes certain: text, and whether it is reasoning.
    pub fn push(&mut self, piece: &str) -> Vec<(String, bool)> {
        if !self.marks {
            return vec![(piece.to_string(), false)];
        }
        self.held.push_str(piece);
        let mut parts = Vec::new();
        loop {
            // An answer does not begin to reason again in its middle.
            let mark = match (self.inside, self.at_start) {
                (true, _) => END,
                (false, true) => BEGIN,
                (false, false) => break self.part(&mut parts, self.held.len()),
            };
            if let Some(at) = self.held.find(mark) {
                let before = self.held[..at].trim().is_empty();
                if self.inside || before {
                    self.part(&mut parts, at);
                    self.held.drain(..mark.len());
                    // After the end of reasoning there is only the answer.
                    self.at_start = !self.inside && before;
                    self.inside = !self.inside;
                    continue;
                }
            }
            let certain = self.held.len() - tail_of(&self.held, mark);
            break self.part(&mut parts, certain);
        }
        parts
    }

    /// Moves the first `bytes` of what is held to `parts`.
    fn part(&mut self, parts: &mut Vec<(String, bool)>, bytes: usize) {
        let text: String = self.held.drain(..bytes).collect();
        if !self.inside && !text.trim().is_empty() {
            self.at_start = false;
        }
        if !text.is_empty() {
            parts.push((text, self.inside));
        }
    }

    /// What is held when the text is over.
    pub fn finish(&mut self) -> Option<(String, bool)> {
        let rest = std::mem::take(&mut self.held);
        (!rest.is_empty()).then_some((rest, self.inside))
    }
}

/// Bytes at the end of `text` that are a beginning of `mark`.
fn tail_of(text: &str, mark: &str) -> usize {
    let most = text.len().min(mark.len() - 1);
    let begins = |bytes: &usize| text.ends_with(&mark[..*bytes]);
    (1..=most).rev().find(begins).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(prompt: &str, text: &str, piece: usize) -> (String, String) {
        let mut splitter = Splitter::new(prompt, true);
        let chars: Vec<char> = text.chars().collect();
        let mut parts = Vec::new();
        for piece in chars.chunks(piece) {
            parts.extend(splitter.push(&piece.iter().collect::<String>()));
        }
        parts.extend(splitter.finish());
        let of = |wanted: bool| -> String {
            let parts = parts.iter().filter(|(_, inside)| *inside == wanted);
            parts.map(|(text, _)| text.as_str()).collect()
        };
        (of(true), of(false))
    }

    #[test]
    fn reasoning_is_what_lies_between_the_marks_however_the_text_is_cut() {
        for piece in 1..12 {
            let cut = |prompt, text| split(prompt, text, piece);
            let owned = |a: &str, b: &str| (a.to_string(), b.to_string());
            assert_eq!(
                cut("a<think>\n", "well </thin</think>yes"),
                owned("well </thin", "yes")
            );
            assert_eq!(
                cut("a", "<think>b</think>c <think>"),
                owned("b", "c <think>")
            );
            assert_eq!(cut("a", "\n<think>b"), owned("b", "\n"));
            assert_eq!(
                cut("a", "x<think>b</think>"),
                owned("", "x<think>b</think>")
            );
            assert_eq!(cut("<think>", "never ends </"), owned("never ends </", ""));
        }
        assert_eq!(
            Splitter::new("<think>", false).push("a"),
            [("a".to_string(), false)]
        );
    }
}
