//! What threads do while there is nothing to do: a process of its own, since it looks at all of
//! its threads.
#![cfg(all(feature = "tiny", target_os = "linux"))]

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hadal::{
    Engine, ErrorCode, Event, LoadOptions, Model, Request, Session, SessionOptions, Stream,
};

/// Name and context switches of every thread but the one that asks: the library's, and of the
/// drivers that it uses.
fn threads() -> BTreeMap<u64, (String, u64)> {
    let own = fs::read_link("/proc/thread-self").expect("this thread");
    let own: u64 = own
        .file_name()
        .and_then(|id| id.to_str()?.parse().ok())
        .expect("a number");
    let mut found = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").expect("this process") {
        let path = task.expect("a thread").path();
        let id = path.file_name().expect("a number").to_string_lossy();
        let id = id.parse().expect("a number");
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(path.join("status")) else {
            continue;
        };
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_string()
        };
        let name = value("Name:");
        if id != own {
            let count = |key| value(key).parse::<u64>().expect("a count");
            let switches = count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:");
            found.insert(id, (name, switches));
        }
    }
    found
}

/// Names of the library's threads.
fn names() -> Vec<String> {
    let names = threads().into_values().map(|(name, _)| name);
    names.filter(|name| name.starts_with("hadal-")).collect()
}

/// No thread wakes up for two seconds, sooner or later: on a busy machine some are late with what
/// they had to do.
fn assert_asleep() {
    let quiet = || {
        sleep(Duration::from_millis(200));
        let before = threads();
        sleep(Duration::from_secs(2));
        (before, threads())
    };
    let (mut before, mut after) = quiet();
    for _ in 0..4 {
        if before != after {
            (before, after) = quiet();
        }
    }
    assert_eq!(before, after);
}

/// The engine on a device; `None` where there is none, which is told.
fn loaded(device: &str) -> Option<Engine> {
    let model = Model::shipped().expect("the shipped model");
    let options = LoadOptions::on(device).with_context(512).with_threads(3);
    // On this thread, whose name those of drivers begin with.
    match model.load(options) {
        Ok(engine) => Some(engine),
        Err(error) if error.code() == ErrorCode::NoDevice => {
            println!("NOT RUN: idle threads on {device}, {error}");
            None
        }
        Err(error) => panic!("{device}: {error}"),
    }
}

fn request() -> Request {
    let mut request = Request::text("Once upon a time").with_seed(4);
    request.ignore_end = true;
    request.max_tokens = Some(300);
    request
}

fn last(stream: Stream) -> String {
    match stream.last() {
        Some(Ok(Event::End(made))) => made.text,
        other => panic!("no end but {other:?}"),
    }
}

/// Idle after work, and paused in the middle of an answer, no thread wakes up; `own`: the threads
/// that the device keeps.
fn sleeps(engine: &Engine, session: &Session, own: &[&str]) {
    let whole = last(session.stream(request()).expect("a thread"));
    assert_asleep();
    assert_eq!(names(), own);

    session.clear().expect("it is over");
    let mut stream = session.stream(request()).expect("a thread");
    for event in stream.by_ref().take(6) {
        event.expect("no failure");
    }
    engine.pause();
    assert!(engine.is_paused());
    assert_asleep();
    assert!(names().contains(&"hadal-generate".to_string()));
    assert!(!stream.is_over());
    engine.resume();
    assert_eq!(last(stream), whole, "a pause changes nothing");
    session.clear().expect("it is over");
}

/// What is asked during a pause waits for its end, and can be cancelled meanwhile.
fn cancels_in_a_pause(engine: &Engine, session: &Session) {
    engine.pause();
    let stream = session.stream(request()).expect("a thread");
    sleep(Duration::from_millis(50));
    let started = Instant::now();
    stream.cancel();
    let end = stream.last().expect("an end");
    let end = end.expect_err("nothing was read");
    assert_eq!(end.code(), ErrorCode::Cancelled);
    assert!(started.elapsed() < Duration::from_secs(1));
    engine.resume();
    session.clear().expect("it is over");
}

/// With the engine go its threads.
fn gone() {
    let waited = Instant::now();
    while !names().is_empty() && waited.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(5));
    }
    assert!(names().is_empty(), "{:?}", names());
}

#[test]
fn threads_are_named_and_none_wakes_up_while_there_is_nothing_to_do() {
    let engine = loaded("host").expect("the host");
    let session = engine.session(SessionOptions::default()).expect("room");
    // The pool of three, of which the caller's thread is one.
    sleeps(&engine, &session, &["hadal-host-1", "hadal-host-2"]);
    cancels_in_a_pause(&engine, &session);

    // A thread of the program that panics in the middle of an answer takes its handles along.
    let (other, asked) = (session.clone(), request());
    let panicked = std::thread::spawn(move || {
        let mut stream = other.stream(asked).expect("a thread");
        assert!(stream.next().is_none(), "on purpose: it has more to say");
    });
    assert!(panicked.join().is_err());
    session.clear().expect("the answer is cancelled");
    drop((session, engine));
    gone();

    for device in ["wgpu", "vulkan"] {
        let Some(engine) = loaded(device) else {
            continue;
        };
        let session = engine.session(SessionOptions::default()).expect("room");
        sleeps(&engine, &session, &[]);
        cancels_in_a_pause(&engine, &session);
        drop((session, engine));
        gone();
    }
}
