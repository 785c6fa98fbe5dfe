//! Groups of cases in processes of their own: a hang, a crash or a lost device costs one
//! group, and every case of it is accounted for.
//!
//! A child writes one line of JSON for each event: which case begins, what came of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hadal_device::DeviceInfo;
use serde::{Deserialize, Serialize};

use crate::execute::{CaseResult, Status};
use crate::failure::{Failure, execute_and_keep, keep};
use crate::plan::Case;
use crate::suite::{Options, Suite};

/// A line of a child.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// A case begins.
    Begin(String),
    /// It ended.
    Result(CaseResult),
    /// The device could not be opened.
    Error(String),
    /// All cases ended and the device is closed; what the backend's own checks said.
    End(Vec<String>),
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Cases done.
    pub done: usize,
    /// Cases in all.
    pub all: usize,
    /// Of those done, how many a suite must not end with.
    pub bad: usize,
}

/// Runs the cases of the group that the options name here and writes a line for each to `out`.
///
/// # Errors
/// `out` is closed: the parent is gone.
pub fn run_group(suite: &Suite, options: &Options, out: &mut dyn Write) -> std::io::Result<()> {
    let mut tell = |line: &Line| {
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")?;
        out.flush()
    };
    let device = match suite.open(options) {
        Ok(device) => device,
        Err(error) => return tell(&Line::Error(error.to_string())),
    };
    for case in suite.cases(&*device, options) {
        tell(&Line::Begin(case.id.clone()))?;
        let result = execute_and_keep(suite, options, &case, &device);
        tell(&Line::Result(result))?;
    }
    drop(device);
    tell(&Line::End(suite.backend.complaints()))
}

/// Runs every group of the cases in a process of its own, one after the other.
///
/// # Errors
/// No process can be started.
pub fn run_all(
    suite: &Suite,
    options: &Options,
    info: &DeviceInfo,
    cases: &[Case],
    progress: &mut dyn FnMut(&str, Progress),
) -> std::io::Result<Vec<CaseResult>> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for case in cases {
        match groups.last_mut() {
            Some((group, ids)) if *group == case.group => ids.push(case.id.clone()),
            _ => groups.push((case.group.clone(), vec![case.id.clone()])),
        }
    }
    let mut results = Vec::new();
    let mut at = Progress {
        all: cases.len(),
        ..Progress::default()
    };
    for (group, ids) in groups {
        progress(&group, at);
        let mut seen = |result: &CaseResult| {
            at.done += 1;
            at.bad += usize::from(!result.status.is_good());
            progress(&group, at);
        };
        results.extend(one_group(suite, options, info, &group, &ids, &mut seen)?);
    }
    Ok(results)
}

fn one_group(
    suite: &Suite,
    options: &Options,
    info: &DeviceInfo,
    group: &str,
    ids: &[String],
    seen: &mut dyn FnMut(&CaseResult),
) -> std::io::Result<Vec<CaseResult>> {
    let mut child = command(suite, options, group)?.spawn()?;
    let lines = lines_of(&mut child);
    // Of a case, not of the group: a slow device takes long for many cases, a hang for one.
    let limit = Duration::from_secs(options.time_limit.max(1));
    let mut known: BTreeMap<String, CaseResult> = BTreeMap::new();
    let mut running = None;
    let mut complaints = Vec::new();
    let mut ended = loop {
        match lines.recv_timeout(limit) {
            Ok(Line::Begin(case)) => running = Some(case),
            Ok(Line::Result(result)) => {
                running = None;
                seen(&result);
                known.insert(result.case.clone(), result);
            }
            Ok(Line::End(all)) => complaints = all,
            Ok(Line::Error(why)) => break format!("the device could not be opened: {why}"),
            Err(RecvTimeoutError::Disconnected) => break "its process ended".to_string(),
            Err(RecvTimeoutError::Timeout) => {
                // It may end by itself at this very moment.
                let _ = child.kill();
                break format!("{} seconds were not enough", options.time_limit);
            }
        }
    };
    let status = end(&mut child, limit)?;
    if !status.success() {
        ended += &format!(" ({status})");
    }
    let mut results: Vec<CaseResult> = Vec::new();
    for id in ids {
        results.push(known.remove(id).unwrap_or_else(|| {
            let why = match running.as_deref() {
                Some(case) if case == id => {
                    let why = format!("its group ended in the middle of this case: {ended}");
                    keep(options, Failure::whole(options, info, id, &why))
                }
                _ => format!("its group ended before this case: {ended}"),
            };
            let result = CaseResult {
                case: id.clone(),
                status: Status::Failed { why },
            };
            seen(&result);
            result
        }));
    }
    // Whatever happens while the device is closed belongs to some case before.
    let why = match complaints.into_iter().next() {
        None if status.success() => return Ok(results),
        None => ended,
        Some(complaint) => complaint,
    };
    if let Some(last) = results.last_mut()
        && last.status.is_good()
    {
        last.status = Status::Failed {
            why: format!("it went well, but then its group ended badly: {why}"),
        };
    }
    Ok(results)
}

/// Waits for the end of a child that has no more to say, and stops it after `limit`.
fn end(child: &mut Child, limit: Duration) -> std::io::Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    child.wait()
}

/// This program, told to run a group. `HADAL_RUNNER` names a program that starts programs
/// (an emulator, a loader), under which this one runs.
fn command(suite: &Suite, options: &Options, group: &str) -> std::io::Result<Command> {
    let mut command = match std::env::var_os("HADAL_RUNNER") {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.args(std::env::args_os().next());
            command
        }
        None => Command::new(std::env::current_exe()?),
    };
    command
        .args(&suite.arguments)
        .args(options.arguments())
        .args(["--child", group])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Ok(command)
}

/// The child's lines as they come; whatever else it prints is left out.
fn lines_of(child: &mut Child) -> Receiver<Line> {
    let (sender, receiver) = channel();
    if let Some(out) = child.stdout.take() {
        std::thread::spawn(move || {
            // Drivers print what they like, not always text.
            for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
                if let Ok(line) = serde_json::from_slice(&line)
                    && sender.send(line).is_err()
                {
                    break;
                }
            }
        });
    }
    receiver
}
