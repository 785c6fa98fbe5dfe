//! `hadal devices`: every backend and device, and why others are absent.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::Args;
use hadal_device::{DeviceInfo, DeviceKind};
use hadal_engine::registry::{self, Options, Survey};
use serde_json::{Value, json};

use crate::console::Console;
use crate::failure::Result;
use crate::{figures, open};

/// The devices of this machine, and why others are absent.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  hadal devices\n  hadal devices --json")]
pub struct DevicesArgs {}

/// Runs the command.
pub fn run(_args: &DevicesArgs, console: &Console) -> Result<()> {
    let found = registry::survey(&Options::default());
    let default = default_device(&found);
    console.report(
        || {
            json!({
                "default": default,
                "backends": found.iter().map(backend_json).collect::<Vec<_>>(),
            })
        },
        || text(&found, default.as_deref()),
    )
}

/// The device that is taken where none is asked for: as the registry chooses.
pub fn default_device(found: &[Survey]) -> Option<String> {
    let devices = || {
        found
            .iter()
            .filter_map(|s| s.devices.as_ref().ok())
            .flatten()
    };
    let gpu = |info: &&DeviceInfo| !matches!(info.kind, DeviceKind::Software | DeviceKind::Cpu);
    let host = || devices().find(|info| info.kind == DeviceKind::Cpu);
    devices().find(gpu).or_else(host).map(DeviceInfo::id)
}

fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Cpu => "processor",
        DeviceKind::DiscreteGpu => "discrete GPU",
        DeviceKind::IntegratedGpu => "integrated GPU",
        DeviceKind::VirtualGpu => "virtual GPU",
        DeviceKind::Software => "software adapter (no GPU)",
    }
}

fn text(found: &[Survey], default: Option<&str>) -> String {
    let mut out = String::new();
    for survey in found {
        match &survey.devices {
            Ok(devices) => {
                for info in devices {
                    device_text(&mut out, info, default);
                }
            }
            // Writing to a String does not fail.
            Err(error) => {
                let _ = writeln!(
                    out,
                    "{:<8} {}",
                    survey.backend,
                    absent(survey.backend, error)
                );
            }
        }
    }
    out
}

/// The message, without saying the backend's name twice.
fn absent(backend: &str, error: &hadal_device::Error) -> String {
    let text = error.to_string();
    let short = text.strip_prefix(backend).map(str::trim_start);
    short.unwrap_or(&text).to_string()
}

fn device_text(out: &mut String, info: &DeviceInfo, default: Option<&str>) {
    let id = info.id();
    let mark = if default == Some(&id) {
        "  (used by default)"
    } else {
        ""
    };
    let limits = &info.limits;
    let size = |bytes: u64| match bytes {
        0x4000_0000_0000_0000.. => "unlimited".to_string(),
        _ => figures::bytes(bytes),
    };
    let memory = info
        .memory_bytes
        .map_or("unknown".to_string(), figures::bytes);
    let _ = writeln!(out, "{id:<8} {}{mark}", info.name);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "           {name:<10} {value}");
    };
    line("kind", kind(info.kind).to_string());
    line("driver", info.driver.clone());
    line("memory", memory);
    line("features", info.features.names().join(", "));
    line(
        "limits",
        format!(
            "binding {}, buffer {}, operands {}",
            size(limits.max_binding_bytes),
            size(limits.max_buffer_bytes),
            limits.max_operands
        ),
    );
    if info.kind != DeviceKind::Cpu {
        let (least, most) = limits.subgroup;
        line(
            "workgroup",
            format!(
                "{} invocations, {} shared, subgroups {least} to {most}",
                limits.max_workgroup,
                figures::bytes(limits.shared_bytes.into()),
            ),
        );
    }
    for (element, size) in matrices(info) {
        if let Some([m, n, k]) = size {
            line(
                "matrices",
                format!("{m} x {k} times {k} x {n} of {element}"),
            );
        }
    }
}

/// The types of elements that matrix units may multiply, and the sizes of the device's.
fn matrices(info: &DeviceInfo) -> [(&'static str, Option<[u32; 3]>); 4] {
    let sizes = info.limits.matrix;
    [
        ("f16", sizes.and_then(|sizes| sizes.f16)),
        ("bf16", sizes.and_then(|sizes| sizes.bf16)),
        ("e4m3", sizes.and_then(|sizes| sizes.e4m3)),
        ("int8", sizes.and_then(|sizes| sizes.int8)),
    ]
}

fn backend_json(survey: &Survey) -> Value {
    match &survey.devices {
        Ok(devices) => json!({
            "backend": survey.backend,
            "available": true,
            "devices": devices.iter().map(device_json).collect::<Vec<_>>(),
        }),
        Err(error) => json!({
            "backend": survey.backend,
            "available": false,
            "why": error.to_string(),
        }),
    }
}

fn device_json(info: &DeviceInfo) -> Value {
    let limits = &info.limits;
    let mut json = open::device_json(info);
    json["kind"] = kind(info.kind).into();
    json["memory_bytes"] = info.memory_bytes.into();
    json["features"] = info.features.names().into();
    json["expand_from_tokens"] = info.expand_from_tokens.into();
    json["limits"] = json!({
        "max_binding_bytes": limits.max_binding_bytes,
        "max_buffer_bytes": limits.max_buffer_bytes,
        "offset_align": limits.offset_align,
        "max_operands": limits.max_operands,
        "max_workgroup": limits.max_workgroup,
        "max_grid": limits.max_grid,
        "shared_bytes": limits.shared_bytes,
        "subgroup": [limits.subgroup.0, limits.subgroup.1],
        "matrix": matrices(info).into_iter().collect::<BTreeMap<_, _>>(),
    });
    json
}
