//! What threads do while there is nothing to do: a process of its own, since it looks at all of
//! its threads.
#![cfg(all(feature = "tiny", target_os = "linux"))]

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hadal::{ErrorCode, Event, LoadOptions, Model, Request, SessionOptions};

/// Name and context switches of every thread of the library.
fn threads() -> BTreeMap<u64, (String, u64)> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").expect("this process") {
        let path = task.expect("a thread").path();
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(path.join("status")) else {
            continue;
        };
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_string()
        };
        let name = value("Name:");
        if name.starts_with("hadal-") {
            let count = |key| value(key).parse::<u64>().expect("a count");
            let switches = count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:");
            let id = path
                .file_name()
                .expect("a number")
                .to_string_lossy()
                .parse();
            found.insert(id.expect("a number"), (name, switches));
        }
    }
    found
}

fn names() -> Vec<String> {
    threads().into_values().map(|(name, _)| name).collect()
}

fn assert_asleep() {
    sleep(Duration::from_millis(200));
    let before = threads();
    sleep(Duration::from_secs(2));
    assert_eq!(before, threads());
}

#[test]
fn threads_are_named_and_none_wakes_up_while_there_is_nothing_to_do() {
    let model = Model::shipped().expect("the shipped model");
    let options = LoadOptions::on("host").with_context(512).with_threads(3);
    let loading = model.load_in_background(options).expect("a thread");
    let engine = loading.join().expect("it loads");
    let session = engine.session(SessionOptions::default()).expect("room");
    let request = || {
        let mut request = Request::text("Once upon a time").with_seed(4);
        request.ignore_end = true;
        request.max_tokens = Some(300);
        request
    };
    let last = |stream: hadal::Stream| match stream.last() {
        Some(Ok(Event::End(made))) => made.text,
        other => panic!("no end but {other:?}"),
    };
    let whole = last(session.stream(request()).expect("a thread"));

    // Idle after work: the pool of three, of which the caller's thread is one.
    assert_asleep();
    assert_eq!(names(), ["hadal-host-1", "hadal-host-2"]);

    // Paused in the middle of an answer.
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

    // What is asked during a pause waits for its end, and can be cancelled meanwhile.
    engine.pause();
    session.clear().expect("it is over");
    let stream = session.stream(request()).expect("a thread");
    sleep(Duration::from_millis(50));
    let started = Instant::now();
    stream.cancel();
    let end = stream
        .last()
        .expect("an end")
        .expect_err("nothing was read");
    assert_eq!(end.code(), ErrorCode::Cancelled);
    assert!(started.elapsed() < Duration::from_millis(100));
    engine.resume();

    // A thread of the program that panics in the middle of an answer takes its handles along.
    session.clear().expect("it is over");
    let (other, asked) = (session.clone(), request());
    let panicked = std::thread::spawn(move || {
        let mut stream = other.stream(asked).expect("a thread");
        assert!(stream.next().is_none(), "on purpose: it has more to say");
    });
    assert!(panicked.join().is_err());
    session.clear().expect("the answer is cancelled");

    // With the engine go its threads.
    drop((session, engine));
    let waited = Instant::now();
    while !names().is_empty() && waited.elapsed() < Duration::from_secs(2) {
        sleep(Duration::from_millis(5));
    }
    assert!(names().is_empty(), "{:?}", names());
}
