//! The thread `hadal-plan`, which lists devices and plans models while the other one works.
//!
//! Decides how a plan is said; must not know a window. Opening a device and measuring its
//! memory can take a second, so neither happens where frames are drawn.

use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::thread::Builder;

use hadal::{DeviceChoice, DeviceKind, DeviceOptions, LoadOptions, Model, Nearest, Plan};
use hadal_engine::bandwidth::Store;
use hadal_engine::plan::Ask;
use hadal_engine::{EngineError, registry};

use crate::figures;
use crate::worker::{Reply, Teller, explain};

/// A line of the list of devices.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceRow {
    /// What settings call it; a backend where it has no device.
    pub id: String,
    /// What it is, or why there is none.
    pub text: String,
    /// Whether it can be chosen.
    pub present: bool,
}

/// A plan as the window shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Which model.
    pub model: String,
    /// On which device.
    pub device: String,
    /// It fits.
    pub fits: bool,
    /// In a sentence.
    pub sentence: String,
    /// Where time goes, where it is known.
    pub reason: Option<String>,
    /// What would fit.
    pub nearest: Vec<String>,
}

enum Command {
    Survey,
    Plan(Option<PathBuf>, Box<LoadOptions>),
}

/// The window's end of the thread.
pub struct Planner(Sender<Command>);

impl Planner {
    /// Begins the thread.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn start(teller: Teller) -> std::io::Result<Planner> {
        let (commands, todo) = mpsc::channel();
        Builder::new()
            .name("hadal-plan".to_string())
            .spawn(move || {
                for command in todo {
                    teller.tell(match command {
                        Command::Survey => Reply::Devices(devices()),
                        Command::Plan(path, options) => {
                            Reply::Planned(Box::new(plan(path, &options)))
                        }
                    });
                }
            })?;
        Ok(Planner(commands))
    }

    /// Lists devices.
    pub fn survey(&self) {
        let _ = self.0.send(Command::Survey);
    }

    /// Plans a model; `None`: the one that ships.
    pub fn plan(&self, path: Option<PathBuf>, options: LoadOptions) {
        let _ = self.0.send(Command::Plan(path, Box::new(options)));
    }
}

fn devices() -> Vec<DeviceRow> {
    let mut rows = Vec::new();
    for survey in hadal::devices(&DeviceOptions::default()) {
        match survey.devices {
            Ok(infos) => rows.extend(infos.into_iter().map(|info| {
                let kind = match info.kind {
                    DeviceKind::Software => ", a software adapter",
                    _ => "",
                };
                DeviceRow {
                    id: info.id(),
                    text: format!("{} ({}){kind}", info.name, info.driver),
                    present: true,
                }
            })),
            Err(error) => rows.push(DeviceRow {
                id: survey.backend.to_string(),
                text: error.to_string(),
                present: false,
            }),
        }
    }
    rows
}

fn plan(path: Option<PathBuf>, options: &LoadOptions) -> Result<Planned, String> {
    let explained = |error: hadal::Error| explain(&error);
    let of_engine = |error: EngineError| explain(&hadal::Error::from(error));
    let model = match path {
        None => Model::shipped(),
        Some(path) => Model::open(path),
    };
    let model = model.map_err(explained)?;
    let device = match &options.device {
        DeviceChoice::Open(device) => device.clone(),
        DeviceChoice::Named(name) => {
            let opened = registry::open(Some(name), &options.device_options);
            opened.map_err(of_engine)?.device
        }
        DeviceChoice::Best => {
            let opened = registry::open(None, &options.device_options);
            opened.map_err(of_engine)?.device
        }
    };
    // A plan without a forecast is still a plan.
    let threads = options.device_options.threads;
    let bandwidth = Store::of_the_user().measured(device.as_ref(), threads).ok();
    let ask = Ask {
        bandwidth,
        threads,
        ..Ask::default()
    };
    let plan = Plan::of(model.engine_model(), device.info(), &options.engine, &ask);
    Ok(say(model.name(), &plan.map_err(of_engine)?))
}

fn say(model: &str, plan: &Plan) -> Planned {
    let forecast = plan.decoding.first();
    let speed = forecast.map_or(String::new(), |decoding| {
        format!(
            ", about {} tokens/s",
            figures::rate(decoding.tokens_per_second)
        )
    });
    let sentence = match plan.fits {
        true => format!(
            "fits: {} of weights, {} for {} tokens of context{speed}",
            figures::bytes(plan.weight_bytes()),
            figures::bytes(plan.part(hadal::PartKind::Cache)),
            figures::count(u64::from(plan.context)),
        ),
        false => plan.verdict(),
    };
    let sentence = match &plan.obstacle {
        Some(obstacle) => format!("cannot run on {}: {obstacle}", plan.device.id),
        None => sentence,
    };
    Planned {
        model: model.to_string(),
        device: format!("{} ({})", plan.device.id, plan.device.name),
        fits: plan.fits && plan.obstacle.is_none(),
        sentence,
        reason: forecast.map(|decoding| decoding.reason.clone()),
        nearest: plan.nearest.iter().map(say_nearest).collect(),
    }
}

fn say_nearest(nearest: &Nearest) -> String {
    match nearest {
        Nearest::Context { tokens } => {
            format!("a context of {} tokens", figures::count(u64::from(*tokens)))
        }
        Nearest::Batch { sequences } => format!("{sequences} conversations at a time"),
        Nearest::Quantisation {
            format,
            bits,
            weight_bytes,
        } => format!(
            "a GGUF file by the recipe {format}, {bits} bits a weight, {} in all",
            figures::bytes(*weight_bytes)
        ),
        Nearest::SmallestQuantisation {
            format,
            bits,
            needed_bytes,
            ..
        } => format!(
            "{} of memory and the smallest GGUF file, by the recipe {format}, {bits} bits a weight",
            figures::bytes(*needed_bytes)
        ),
        Nearest::Budget { memory, bytes } => {
            format!("{} of {} memory", figures::bytes(*bytes), memory.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_model_fits_and_a_tiny_budget_is_told_what_would() {
        let options = LoadOptions::on("host").with_context(512);
        let planned = plan(None, &options).unwrap();
        assert!(planned.fits && planned.nearest.is_empty(), "{planned:?}");
        assert!(
            planned.sentence.starts_with("fits: 10.7 MB of weights"),
            "{planned:?}"
        );
        assert!(planned.sentence.contains("tokens/s"), "{planned:?}");

        let small = hadal::Budget {
            device: None,
            host: Some(1 << 20),
        };
        let planned = plan(None, &options.with_budget(small)).unwrap();
        assert!(!planned.fits && !planned.nearest.is_empty(), "{planned:?}");
        assert!(planned.sentence.contains("does not fit"), "{planned:?}");
    }

    #[test]
    fn every_backend_is_a_line_with_a_device_or_a_reason() {
        let rows = devices();
        for backend in hadal::BACKENDS {
            let row = rows.iter().find(|row| row.id.starts_with(backend));
            assert!(
                row.is_some_and(|row| !row.text.is_empty()),
                "{backend}: {rows:?}"
            );
        }
        assert!(rows.iter().any(|row| row.id == "host" && row.present));
    }
}
