//! What the person chose, as it is saved.
//!
//! Decides defaults and how choices become the engine's options; must not know a window.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hadal::{Budget, Device, DeviceChoice, LoadOptions, SamplingOptions};
use serde::{Deserialize, Serialize};

/// Dark, light, or as the system has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Theme {
    /// As the system has it.
    #[default]
    System,
    /// Light on dark.
    Dark,
    /// Dark on light.
    Light,
}

/// Name of the choice that leaves the device to the engine.
pub const BEST: &str = "best";
/// Name of the device that draws the window.
pub const WINDOW: &str = "window";
/// How many models are remembered.
const RECENT: usize = 8;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Folder or file of the model; empty: the one that ships.
    pub model: String,
    /// Those used before, the newest first.
    pub recent: Vec<String>,
    /// `best`, `window`, or a device's name.
    pub device: String,
    /// Sampling as the model's publisher recommends; else by the two numbers below.
    pub recommended: bool,
    /// 0 is greedy.
    pub temperature: f32,
    /// Probability mass kept.
    pub top_p: f32,
    /// `None`: another one for each answer.
    pub seed: Option<u64>,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Tokens a session holds; `None`: what fits.
    pub context: Option<u32>,
    /// Memory that may be used, in GiB.
    pub budget_gib: Option<f64>,
    /// Threads of the processor that the engine has; `None`: all but one, which draws.
    pub threads: Option<usize>,
    /// Longest slice of work on a GPU, in milliseconds.
    pub slice_ms: u64,
    /// Leave room for others.
    pub low_priority: bool,
    /// Let models that can choose reason first.
    pub thinking: bool,
    /// How the window looks.
    pub theme: Theme,
    /// How much larger than the screen's own scale everything is.
    #[serde(deserialize_with = "zoom")]
    pub zoom: f32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            model: String::new(),
            recent: Vec::new(),
            device: BEST.to_string(),
            recommended: true,
            temperature: 0.8,
            top_p: 0.95,
            seed: None,
            max_tokens: 512,
            context: None,
            budget_gib: None,
            threads: None,
            slice_ms: 8,
            low_priority: false,
            thinking: true,
            theme: Theme::System,
            zoom: 1.0,
        }
    }
}

impl Settings {
    /// The model's path; `None`: the one that ships.
    pub fn path(&self) -> Option<PathBuf> {
        let path = self.model.trim();
        (!path.is_empty()).then(|| PathBuf::from(path))
    }

    /// Remembers the model.
    pub fn remember(&mut self) {
        let path = self.model.trim().to_string();
        if path.is_empty() {
            return;
        }
        self.recent.retain(|old| *old != path);
        self.recent.insert(0, path);
        self.recent.truncate(RECENT);
    }

    /// How the engine is to load; `window`: the device that draws, where it can be shared.
    pub fn load_options(&self, window: Option<&Arc<dyn Device>>) -> LoadOptions {
        let bytes = self.budget_gib.map(|gib| (gib * f64::from(1 << 30)) as u64);
        let mut options = LoadOptions::default()
            .with_dispatch_budget(Duration::from_millis(self.slice_ms))
            .with_budget(Budget {
                device: bytes,
                host: bytes,
            });
        options.engine.context = self.context;
        options.device_options.threads = Some(self.threads.unwrap_or_else(all_but_one));
        options.low_priority = self.low_priority;
        options.device = match (self.device.as_str(), window) {
            (WINDOW, Some(device)) => DeviceChoice::Open(device.clone()),
            (BEST | WINDOW, _) => DeviceChoice::Best,
            (name, _) => DeviceChoice::Named(name.to_string()),
        };
        options
    }

    /// How tokens are chosen; `None`: as recommended.
    pub fn sampling(&self) -> Option<SamplingOptions> {
        (!self.recommended).then(|| SamplingOptions {
            temperature: self.temperature,
            top_p: self.top_p,
            ..SamplingOptions::default()
        })
    }
}

/// A file that somebody wrote by hand must not make a window in which nothing can be read.
fn zoom<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(clamped(f32::deserialize(from)?))
}

/// A zoom at which everything can be read and something fits into the window.
pub fn clamped(zoom: f32) -> f32 {
    zoom.clamp(0.2, 4.0)
}

fn all_but_one() -> usize {
    let all = std::thread::available_parallelism();
    all.map_or(1, |all| all.get().saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_an_older_version_are_read_and_others_get_defaults() {
        let read: Settings = serde_json::from_str(r#"{"max_tokens": 7, "gone": 1}"#).unwrap();
        let expected = Settings {
            max_tokens: 7,
            ..Settings::default()
        };
        assert_eq!(read, expected);
        let text = serde_json::to_string(&expected).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), expected);
    }

    #[test]
    fn a_saved_zoom_can_be_read() {
        let zoom = |text| serde_json::from_str::<Settings>(text).unwrap().zoom;
        assert_eq!(zoom(r#"{"zoom": 1.5}"#), 1.5);
        assert_eq!(zoom(r#"{"zoom": 0.0}"#), 0.2);
        assert_eq!(zoom(r#"{"zoom": 50}"#), 4.0);
        assert_eq!(zoom("{}"), 1.0);
    }

    #[test]
    fn a_model_is_remembered_once_and_only_some_are() {
        let mut settings = Settings::default();
        settings.remember();
        assert!(settings.recent.is_empty());
        for name in ["a", "b", "a", "c", "d", "e", "f", "g", "h", "i"] {
            settings.model = name.to_string();
            settings.remember();
        }
        assert_eq!(settings.recent, ["i", "h", "g", "f", "e", "d", "c", "a"]);
    }

    #[test]
    fn choices_become_options() {
        let settings = Settings {
            budget_gib: Some(2.0),
            context: Some(512),
            device: "vulkan:1".to_string(),
            slice_ms: 4,
            threads: Some(3),
            recommended: false,
            temperature: 0.0,
            ..Settings::default()
        };
        let options = settings.load_options(None);
        assert_eq!(options.engine.budget.host, Some(2 << 30));
        assert_eq!(options.engine.context, Some(512));
        assert_eq!(options.device_options.threads, Some(3));
        assert_eq!(
            options.engine.dispatch_budget,
            Some(Duration::from_millis(4))
        );
        assert!(matches!(options.device, DeviceChoice::Named(name) if name == "vulkan:1"));
        assert_eq!(settings.sampling().unwrap().temperature, 0.0);
        assert_eq!(Settings::default().sampling(), None);
    }
}
