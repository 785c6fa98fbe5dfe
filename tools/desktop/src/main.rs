//! Hadal in a window: conversations with a model of the DeepSeek-V3 family, and what it does
//! meanwhile.
//!
//! `app` ties together; `state`, `conversation`, `activity`, `frames`, `settings` and `store`
//! are logic without a window; `worker` and `planner` are threads; `pages` paints.
#![forbid(unsafe_code)]
#![cfg_attr(windows, windows_subsystem = "windows")]

mod activity;
mod app;
mod conversation;
mod figures;
mod frames;
mod pages;
mod planner;
mod script;
mod settings;
mod state;
#[cfg(test)]
mod state_tests;
mod store;
mod theme;
mod window;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::settings::{Settings, Theme, WINDOW};
use crate::state::Page;
use crate::window::Loss;

/// A window to chat with models of the DeepSeek-V3 family and to watch them work.
#[derive(Clone, Debug, Parser)]
#[command(name = "hadal-desktop", version)]
struct Args {
    /// Folder or .gguf file of a model [default: the one used last, at first the one that ships].
    model: Option<String>,
    /// `best`, `window` (the GPU that draws the window), or a name of `hadal devices`.
    #[arg(long)]
    device: Option<String>,
    /// `dark` or `light`.
    #[arg(long, value_parser = theme)]
    theme: Option<Theme>,
    /// Where conversations and settings are kept [default: the user's data folder].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// For developers: write by itself, save a picture of the window, close.
    #[arg(long, value_name = "FILE", help_heading = "For developers")]
    screenshot: Option<PathBuf>,
    /// The page that is shown then.
    #[arg(
        long,
        value_enum,
        default_value = "chat",
        help_heading = "For developers"
    )]
    page: Page,
    /// What is asked then.
    #[arg(
        long,
        default_value = "It was late in the evening when",
        help_heading = "For developers"
    )]
    prompt: String,
    /// Write by itself, save how long frames took, idle and while writing, close.
    #[arg(long, value_name = "FILE", help_heading = "For developers")]
    frames_json: Option<PathBuf>,
    /// How long it is let alone, how long it stands idle and how long it writes.
    #[arg(long, default_value = "5", value_parser = seconds, help_heading = "For developers")]
    seconds: f64,
    /// Destroy the window's device once while it writes.
    #[arg(long, help_heading = "For developers")]
    lose_device: bool,
    /// Why the window before this one was lost.
    #[arg(skip)]
    lost: Option<String>,
    /// When the program began.
    #[arg(skip = Instant::now())]
    started: Instant,
}

fn theme(text: &str) -> Result<Theme, String> {
    match text {
        "dark" => Ok(Theme::Dark),
        "light" => Ok(Theme::Light),
        _ => Err("dark or light".to_string()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let value = text.parse().ok();
    let value = value.filter(|seconds| (0.1..=600.0).contains(seconds));
    value.ok_or_else(|| "seconds from 0.1 to 600".to_string())
}

impl Args {
    /// Where conversations and settings are kept.
    fn data_folder(&self) -> PathBuf {
        let of_the_user = || {
            let folders = directories::ProjectDirs::from("", "", "hadal");
            // Without a home there is still a folder to work in.
            folders.map_or_else(
                || PathBuf::from("hadal-data"),
                |f| f.data_dir().to_path_buf(),
            )
        };
        self.data.clone().unwrap_or_else(of_the_user)
    }

    /// What was typed goes before what was saved.
    fn override_settings(&self, settings: &mut Settings) {
        if let Some(model) = &self.model {
            settings.model = model.clone();
        }
        if let Some(device) = &self.device {
            settings.device = device.clone();
        }
        if let Some(theme) = self.theme {
            settings.theme = theme;
        }
        // Whatever took the device may take the next one: the model does without.
        if self.lost.is_some() && settings.device == WINDOW {
            settings.device = "host".to_string();
        }
    }
}

/// A window that is lost sooner than this is not opened again.
const LASTS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let mut args = Args::parse();
    // A model's file that is cut short ends an answer and not the program. Without it all else works.
    let _ = hadal::survive_lost_pages();
    loop {
        let opened = Instant::now();
        let loss = Arc::new(Loss::default());
        let (args_then, loss_then) = (args.clone(), loss.clone());
        let create = |creation: &eframe::CreationContext<'_>| {
            let app = app::App::new(creation, args_then, loss_then)?;
            Ok(Box::new(app) as Box<dyn eframe::App>)
        };
        if let Err(error) = eframe::run_native("Hadal", window::options(), Box::new(create)) {
            eprintln!("hadal-desktop: the window cannot be opened: {error}");
            return ExitCode::FAILURE;
        }
        let Some(why) = loss.closed_by() else {
            return ExitCode::SUCCESS;
        };
        if opened.elapsed() < LASTS {
            eprintln!("hadal-desktop: the device that draws the window is lost: {why}");
            return ExitCode::FAILURE;
        }
        args.lost = Some(why);
        args.lose_device = false;
    }
}
