//! Standard output for results, standard error for notes and progress, and Ctrl-C.
//!
//! Decides where a line goes; must not know what it says.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use hadal_engine::Cancel;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::failure::{Failure, Result};

/// Where a command writes.
#[derive(Clone)]
pub struct Console {
    json: bool,
    quiet: bool,
    printed: Arc<AtomicBool>,
}

impl Console {
    /// A console with the options of the command line.
    pub fn new(json: bool, quiet: bool) -> Console {
        Console {
            json,
            quiet,
            printed: Arc::default(),
        }
    }

    /// True if the report is wanted as JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// True if anything went to standard output.
    pub fn has_printed(&self) -> bool {
        self.printed.load(Ordering::Relaxed)
    }

    /// True if a person watches standard output.
    pub fn watched(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    /// Text on standard output, at once.
    pub fn print(&self, text: &str) -> Result<()> {
        self.printed.store(true, Ordering::Relaxed);
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    /// Text of a model on standard output, at once. A terminal gets no control characters:
    /// a model must not move the cursor.
    pub fn print_model_text(&self, text: &str) -> Result<()> {
        if !self.watched() {
            return self.print(text);
        }
        let harmless = |c: char| match c {
            '\n' | '\t' => c,
            _ if c.is_control() => '\u{FFFD}',
            _ => c,
        };
        self.print(&text.chars().map(harmless).collect::<String>())
    }

    /// The report: JSON if wanted, else what `text` makes.
    pub fn report(
        &self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        let text = if self.json {
            format!("{:#}\n", json())
        } else {
            text()
        };
        self.print(&text)
    }

    /// A note on standard error.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.reply(text);
        }
    }

    /// An answer to what a person asked of the program itself: on standard error even where
    /// notes are not wanted, because standard output belongs to the model.
    pub fn reply(&self, text: &str) {
        // Nobody can be told that standard error is gone.
        let _ = writeln!(anstream::AutoStream::auto(io::stderr().lock()), "{text}");
    }

    /// A progress bar on standard error; invisible unless a person watches.
    pub fn bar(&self, what: &'static str, unit: Unit) -> Bar {
        // Not drawn before it has something to show.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let template = match unit {
            Unit::Bytes => "{msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {eta}",
            Unit::Tokens => "{msg} [{bar:30}] {pos}/{len} tokens {eta}",
            Unit::Runs => "{msg} [{bar:30}] {pos}/{len} runs {eta}",
            Unit::Cases => "{msg} [{bar:30}] {pos}/{len} cases {eta}",
            Unit::Share => "[{bar:30}] {percent} % {eta} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        Bar {
            bar,
            quiet: self.quiet,
        }
    }
}

/// What a bar counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Tokens.
    Tokens,
    /// Runs of a measurement.
    Runs,
    /// Cases of a suite.
    Cases,
    /// Parts of a whole that have no name of their own.
    Share,
}

/// A progress bar, cleared when dropped.
pub struct Bar {
    bar: ProgressBar,
    quiet: bool,
}

impl Bar {
    /// So much is done.
    pub fn set(&self, done: u64, total: u64) {
        if self.bar.length().is_none() && !self.quiet {
            self.bar
                .set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Says more behind the name.
    pub fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Takes the bar off the screen for good.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Ctrl-C as a wish to stop. Pressed again and again, the program ends where it is.
#[derive(Clone)]
pub struct Interrupts {
    /// Set by Ctrl-C.
    pub cancel: Cancel,
    unheard: Arc<AtomicU32>,
}

impl Interrupts {
    /// Presses after which the program does not wait for the running step any more.
    const PATIENCE: u32 = 3;

    /// Takes over Ctrl-C.
    ///
    /// # Errors
    /// The system refuses, or something else took it over.
    pub fn install() -> Result<Interrupts> {
        let interrupts = Interrupts {
            cancel: Cancel::new(),
            unheard: Arc::default(),
        };
        let (cancel, unheard) = (interrupts.cancel.clone(), interrupts.unheard.clone());
        let handler = move || {
            cancel.cancel();
            if unheard.fetch_add(1, Ordering::Relaxed) + 1 >= Interrupts::PATIENCE {
                std::process::exit(130);
            }
        };
        ctrlc::set_handler(handler)
            .map_err(|error| Failure::failed(format!("cannot handle Ctrl-C: {error}")))?;
        Ok(interrupts)
    }

    /// Makes ready for the next request.
    pub fn reset(&self) {
        self.cancel.reset();
        self.unheard.store(0, Ordering::Relaxed);
    }
}

/// Seconds for a report.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
