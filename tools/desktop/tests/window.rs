//! The program in a real window: a display server without a screen, a software GPU.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hadal::{DeviceOptions, devices};
use serde_json::Value;

/// A display that goes with the test.
struct Display {
    server: Child,
    name: String,
}

impl Display {
    /// The reason where there is none.
    fn start() -> Result<Display, String> {
        let mut server = Command::new("Xvfb")
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                "1280x900x24",
                "-nolisten",
                "tcp",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("Xvfb cannot be started: {error}"))?;
        let mut line = String::new();
        if let Some(out) = server.stdout.take() {
            BufReader::new(out)
                .read_line(&mut line)
                .map_err(|error| error.to_string())?;
        }
        let name = format!(":{}", line.trim());
        let display = Display { server, name };
        match line.trim().is_empty() {
            true => Err("Xvfb opens no display".to_string()),
            false => Ok(display),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn has_gpu() -> Result<(), String> {
    let all = devices(&DeviceOptions::default());
    let wgpu = all.into_iter().find(|survey| survey.backend == "wgpu");
    match wgpu.map(|survey| survey.devices) {
        Some(Ok(found)) if !found.is_empty() => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        _ => Err("wgpu finds no device to draw with".to_string()),
    }
}

fn run(display: &Display, folder: &Path, device: &str, page: &str) -> Value {
    let (picture, report) = (folder.join("window.png"), folder.join("frames.json"));
    let out = Command::new(env!("CARGO_BIN_EXE_hadal-desktop"))
        .env("DISPLAY", &display.name)
        .env_remove("WAYLAND_DISPLAY")
        .args([
            "--device",
            device,
            "--page",
            page,
            "--theme",
            "dark",
            "--seconds",
            "1.5",
        ])
        .arg("--data")
        .arg(folder.join("data"))
        .arg("--screenshot")
        .arg(&picture)
        .arg("--frames-json")
        .arg(&report)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "{device}, {page}: {}: {told}",
        out.status
    );
    picture_is_drawn(&picture);
    serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap()
}

/// A window that shows something has more than a few colours.
fn picture_is_drawn(path: &Path) {
    let file = BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (1180, 780));
    let colours: std::collections::HashSet<&[u8]> = pixels.chunks(3).collect();
    assert!(colours.len() > 50, "{} colours", colours.len());
}

#[test]
fn the_program_opens_writes_saves_and_closes() {
    const NAME: &str = "the_program_opens_writes_saves_and_closes";
    if let Err(why) = has_gpu() {
        return println!("NOT RUN: {NAME}, {why}");
    }
    let display = match Display::start() {
        Ok(display) => display,
        Err(why) => return println!("NOT RUN: {NAME}, {why}"),
    };
    for (device, page) in [("host", "chat"), ("window", "inside")] {
        let folder = tempfile::tempdir().unwrap();
        let report = run(&display, folder.path(), device, page);
        for phase in ["idle", "generating"] {
            let frames = report[phase]["frames"].as_u64().unwrap();
            assert!(frames > 5, "{device}: {frames} frames {phase}: {report}");
        }
        let on = report["device"].as_str().unwrap();
        let expected = if device == "host" { "host" } else { "wgpu:" };
        assert!(on.starts_with(expected), "{report}");
        let saved = folder.path().join("data/conversations");
        let files: Vec<_> = std::fs::read_dir(saved).unwrap().collect();
        assert_eq!(files.len(), 1);
        let path = files[0].as_ref().unwrap().path();
        let saved: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(saved["turns"][0]["role"], "user");
        let answer = saved["turns"][1]["text"].as_str().unwrap();
        // A software GPU may compile kernels for longer than the run.
        assert!(answer.len() > 10 || device == "window", "{saved}");
        assert_eq!(saved["turns"][1]["ending"], "stopped");
    }
}

#[test]
fn the_desktop_entry_is_valid_and_names_what_is_installed() {
    const NAME: &str = "the_desktop_entry_is_valid_and_names_what_is_installed";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entry = folder.join("hadal.desktop");
    let text = std::fs::read_to_string(&entry).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_hadal-desktop"));
    let program = program.file_stem().unwrap().to_str().unwrap();
    assert!(text.contains(&format!("\nExec={program} %f\n")), "{text}");
    // tools/package.sh installs icon.svg under this name.
    assert!(text.contains("\nIcon=hadal\n") && folder.join("icon.svg").exists());
    match Command::new("desktop-file-validate").arg(&entry).output() {
        Err(error) => println!("NOT RUN: {NAME}, desktop-file-validate: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.is_empty(), "{said}");
        }
    }
}
