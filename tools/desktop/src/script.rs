//! A run without hands, for developers: waits for the model, lets the window alone, stands idle
//! with frames asked for, lets the model write, takes a picture of the window, writes down how long
//! frames took, closes.
//!
//! Decides when what happens; frames are timed from one to the next.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eframe::egui::{ColorImage, Context, ScreenshotCallback, ViewportCommand};
use serde_json::json;

use crate::Args;
use crate::frames::{DUE, Frames};
use crate::state::{Action, Engine, State};
use crate::store::write_atomically;

/// What the script wants done.
pub enum Wish {
    /// Ask this in a new conversation.
    Ask(String),
    /// As if somebody had clicked.
    Act(Action),
    /// Destroy the device that draws.
    LoseDevice,
    /// Close the window.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    /// Nothing asks for frames but the window itself.
    Still,
    Idle,
    Writing,
    Picture,
    Ending,
    Over,
}

/// The run.
pub struct Script {
    args: Args,
    phase: Phase,
    since: Instant,
    last: Instant,
    loading: Frames,
    still: Frames,
    idle: Frames,
    writing: Frames,
    first_frame: Option<Duration>,
    ready: Option<Duration>,
    asked_picture: bool,
    picture: Arc<Mutex<Option<Arc<ColorImage>>>>,
}

/// A page that was opened fades in, and memory is told, before nothing happens.
const SETTLE: Duration = Duration::from_millis(500);
/// Bytes of an answer that a picture shows.
const ENOUGH: usize = 500;
/// Bytes of an answer that tell that it has begun.
const BEGUN: usize = 16;
/// An answer that has not begun by then is not waited for: a software GPU compiles for longer.
const PATIENCE: Duration = Duration::from_secs(15);

impl Script {
    /// `None` where the arguments ask for none.
    pub fn new(args: Args) -> Option<Script> {
        let wanted = args.screenshot.is_some() || args.frames_json.is_some();
        wanted.then(|| Script {
            args,
            phase: Phase::Loading,
            since: Instant::now(),
            last: Instant::now(),
            loading: Frames::default(),
            still: Frames::default(),
            idle: Frames::default(),
            writing: Frames::default(),
            first_frame: None,
            ready: None,
            asked_picture: false,
            picture: Arc::default(),
        })
    }

    /// A frame begins.
    pub fn frame(&mut self, context: &Context, state: &State) -> Vec<Wish> {
        let time = self.last.elapsed();
        self.last = Instant::now();
        match self.phase {
            // Before the first frame there is a window to be opened.
            Phase::Loading if self.first_frame.is_some() => self.loading.push(time),
            Phase::Still if self.since.elapsed() >= SETTLE => self.still.push(time),
            Phase::Idle => self.idle.push(time),
            Phase::Writing => self.writing.push(time),
            _ => {}
        }
        let started = self.args.started.elapsed();
        self.first_frame.get_or_insert(started);
        let passed = self.since.elapsed() >= self.lasts();
        match self.phase {
            Phase::Loading => match &state.engine {
                Engine::Ready(_) => {
                    self.ready = Some(started);
                    self.go(Phase::Still);
                    vec![Wish::Act(Action::Go(self.args.page))]
                }
                Engine::Failed(why) => {
                    eprintln!("hadal-desktop: {why}");
                    self.go(Phase::Over);
                    vec![Wish::Close]
                }
                _ => Vec::new(),
            },
            Phase::Still if passed => {
                self.go(Phase::Idle);
                Vec::new()
            }
            Phase::Idle if passed => {
                self.go(Phase::Writing);
                vec![Wish::Ask(self.args.prompt.clone())]
            }
            Phase::Writing if passed && self.args.lose_device && self.begun(state) => {
                // What comes is another window, with a script of its own.
                self.go(Phase::Over);
                vec![Wish::LoseDevice]
            }
            Phase::Writing if passed && !self.args.lose_device => {
                self.go(Phase::Picture);
                again(state)
            }
            Phase::Writing => again(state),
            Phase::Picture if self.has_picture() && self.begun(state) => {
                self.go(Phase::Ending);
                vec![Wish::Act(Action::Stop)]
            }
            Phase::Picture => {
                // With something to read on it, if that comes in time.
                if !self.asked_picture && (passed || written(state) >= ENOUGH) {
                    self.asked_picture = true;
                    self.take_picture(context);
                }
                again(state)
            }
            Phase::Ending if state.answering.is_none() => {
                self.go(Phase::Over);
                if let Err(error) = self.write(state) {
                    eprintln!("hadal-desktop: {error}");
                }
                vec![Wish::Close]
            }
            _ => Vec::new(),
        }
    }

    /// When the next frame is wanted.
    pub fn due(&self) -> Duration {
        match self.phase {
            Phase::Still => self.lasts().saturating_sub(self.since.elapsed()),
            _ => DUE,
        }
    }

    /// How long a phase is.
    fn lasts(&self) -> Duration {
        let seconds = Duration::from_secs_f64(self.args.seconds);
        match self.phase {
            Phase::Still => SETTLE + seconds,
            _ => seconds,
        }
    }

    /// Whether an answer is being written and there is something of it.
    fn begun(&self, state: &State) -> bool {
        let something = state.answering.is_some() && written(state) >= BEGUN;
        something || self.since.elapsed() >= PATIENCE
    }

    fn go(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    fn take_picture(&self, context: &Context) {
        let (picture, context_then) = (self.picture.clone(), context.clone());
        let keep = ScreenshotCallback::new(move |image| {
            *picture.lock().unwrap_or_else(PoisonError::into_inner) = Some(image);
            context_then.request_repaint();
        });
        context.send_viewport_cmd(ViewportCommand::Screenshot(keep));
    }

    fn has_picture(&self) -> bool {
        let picture = self.picture.lock();
        picture.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn write(&self, state: &State) -> io::Result<()> {
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(path), Some(image)) = (&self.args.screenshot, picture.as_ref()) {
            write_png(path, image)?;
        }
        let Some(path) = &self.args.frames_json else {
            return Ok(());
        };
        let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
        let loaded = state.loaded();
        let report = json!({
            "device": loaded.map(|loaded| format!("{} ({})", loaded.device, loaded.device_name)),
            "chosen": state.settings.device,
            "page": format!("{:?}", self.args.page).to_lowercase(),
            "slice_ms": state.settings.slice_ms,
            "low_priority": state.settings.low_priority,
            "first_frame_ms": ms(self.first_frame),
            "ready_ms": ms(self.ready),
            "loading": self.loading.summary(),
            "still_frames": self.still.summary().frames,
            "lost": self.args.lost,
            "idle": self.idle.summary(),
            "generating": self.writing.summary(),
            "tokens_per_second": state.last_speed,
        });
        write_atomically(path, &serde_json::to_vec_pretty(&report)?)
    }
}

/// Bytes of the answer that is being written.
fn written(state: &State) -> usize {
    let last = state.conversation().turns.last();
    last.map_or(0, |turn| turn.text.len())
}

/// An answer that is over is written again.
fn again(state: &State) -> Vec<Wish> {
    match state.answering.is_none() {
        true => vec![Wish::Act(Action::Regenerate)],
        false => Vec::new(),
    }
}

fn write_png(path: &Path, image: &ColorImage) -> io::Result<()> {
    let [width, height] = image.size;
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    let rows = image.pixels.iter().flat_map(|p| [p.r(), p.g(), p.b()]);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&rows.collect::<Vec<u8>>())?;
    writer.finish()?;
    Ok(())
}
