//! No dispatch and no submit longer than a budget: long work is cut, and what comes out stays
//! the same.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hadal_conformance::pass_on;
use hadal_device::{BufferId, Device, DeviceKind, Executable, Features, Program, Result, Ticket};
use hadal_engine::{
    Cancel, Decoder, Engine, EngineError, EngineOptions, ForwardOptions, Model, MoeForm,
    SamplingOptions, Session, forward,
};
use hadal_models::Config;
use hadal_tests::checkpoint::Family;
use hadal_tests::devices;
use hadal_tests::golden::{find, values, worst};
use hadal_tests::small::model;
use hadal_weights::Checkpoint;

const PROMPT: [u32; 19] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8];

fn options(dispatch_budget: Option<Duration>) -> EngineOptions {
    EngineOptions {
        // Enough for attention in parts.
        context: Some(256),
        chunk: 16,
        dispatch_budget,
        ..EngineOptions::default()
    }
}

fn engine(model: &Arc<Model>, device: &Arc<dyn Device>, options: EngineOptions) -> Arc<Engine> {
    let mut quiet = |_| ControlFlow::Continue(());
    let engine = Engine::load(model.clone(), device.clone(), options, &mut quiet);
    Arc::new(engine.expect("it loads"))
}

#[test]
fn logits_stay_the_same_where_everything_is_cut() {
    for family in [Family::V3Fp8, Family::Moonlight] {
        let model = model(family);
        for named in devices::all() {
            let device = &named.device;
            let run = |budget| {
                let engine = engine(&model, device, named.fit(options(budget)));
                let wanted = ForwardOptions {
                    all: false,
                    greedy: 4,
                };
                let before = device.submit_cost().submits;
                let found = forward(&engine, &PROMPT, wanted, &Cancel::new(), &mut |_, _| {});
                let submits = device.submit_cost().submits - before;
                (found.expect("it runs"), submits)
            };
            let (whole, few) = run(None);
            let (cut, many) = run(Some(Duration::from_nanos(1)));
            let label = format!("{family:?} on {}", named.name);
            let difference = worst(
                &values(find(&cut, "logits")),
                &values(find(&whole, "logits")),
            );
            assert!(difference < 2e-3, "{label}: off by {difference}");
            let tokens = |found| find(found, "greedy_ids").clone();
            assert_eq!(tokens(&cut), tokens(&whole), "{label}");
            match device.info().kind {
                DeviceKind::Cpu => assert_eq!(many, few, "{label}: the host is never cut"),
                _ => assert!(few == 0 || many > 20 * few, "{label}: {many} after {few}"),
            }
        }
    }
}

/// The model that ships: its weights are used where they lie, in whatever order they have.
#[test]
fn expert_tables_that_lie_in_place_are_cut_too() {
    let config = Config::from_json(hadal_tiny::CONFIG).expect("it is legal");
    let source = Checkpoint::from_static(&[("model", hadal_tiny::WEIGHTS)]).expect("it opens");
    let text = Err("not needed".to_string());
    let model = Arc::new(Model::new(config, Arc::new(source), text).expect("it binds"));
    let mut seen = false;
    for named in devices::all() {
        let features = named.device.info().features;
        if !features.has(Features::IN_PLACE) {
            continue;
        }
        seen = true;
        let run = |dispatch_budget| {
            let options = EngineOptions {
                moe: MoeForm::Grouped,
                ..options(dispatch_budget)
            };
            let engine = engine(&model, &named.device, named.fit(options));
            let wanted = ForwardOptions {
                all: false,
                greedy: 1,
            };
            let found = forward(&engine, &PROMPT, wanted, &Cancel::new(), &mut |_, _| {});
            values(find(&found.expect("it runs"), "logits"))
        };
        // Into pieces of one expert, of which every second begins where no binding may.
        let cut = run(Some(Duration::from_nanos(1)));
        let difference = worst(&cut, &run(None));
        assert!(difference < 2e-3, "{}: off by {difference}", named.name);
    }
    if !seen {
        println!("NOT RUN: expert_tables_that_lie_in_place_are_cut_too, no device reads in place");
    }
}

/// A device on which every step of a program takes as long by its clock.
struct Slow {
    inner: Arc<dyn Device>,
    step: Duration,
    steps: Arc<Mutex<BTreeMap<Ticket, usize>>>,
    longest: Arc<AtomicU64>,
    /// Told the number of submits after each.
    submitted: Arc<dyn Fn(usize) + Send + Sync>,
    /// The newest submit that somebody waited for, and the most that nobody had.
    waited: Arc<Mutex<Option<Ticket>>>,
    queued: Arc<AtomicU64>,
}

struct SlowExecutable {
    inner: Box<dyn Executable>,
    length: usize,
    steps: Arc<Mutex<BTreeMap<Ticket, usize>>>,
    longest: Arc<AtomicU64>,
    submitted: Arc<dyn Fn(usize) + Send + Sync>,
    waited: Arc<Mutex<Option<Ticket>>>,
    queued: Arc<AtomicU64>,
}

impl Executable for SlowExecutable {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        let ticket = self.inner.submit(table)?;
        let mut steps = self.steps.lock().unwrap();
        steps.insert(ticket, self.length);
        let waited = *self.waited.lock().unwrap();
        let queued = steps.keys().filter(|ticket| Some(**ticket) > waited);
        self.queued
            .fetch_max(queued.count() as u64, Ordering::Relaxed);
        (self.submitted)(steps.len());
        self.longest
            .fetch_max(self.length as u64, Ordering::Relaxed);
        Ok(ticket)
    }
}

impl Device for Slow {
    pass_on!(inner: info alloc free write read pipeline completed setup_counts submit_cost);

    fn wait(&self, ticket: Ticket) -> Result<()> {
        self.inner.wait(ticket)?;
        let mut waited = self.waited.lock().unwrap();
        *waited = Some(ticket).max(*waited);
        Ok(())
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        Ok(Box::new(SlowExecutable {
            inner: self.inner.prepare(program)?,
            length: program.steps.len(),
            steps: self.steps.clone(),
            longest: self.longest.clone(),
            submitted: self.submitted.clone(),
            waited: self.waited.clone(),
            queued: self.queued.clone(),
        }))
    }
    fn gpu_time(&self, ticket: Ticket) -> Option<Duration> {
        let length = *self.steps.lock().unwrap().get(&ticket)?;
        Some(self.step * length as u32)
    }
}

#[test]
fn on_a_slow_device_submits_become_short_and_stay_so() {
    let model = model(Family::V3);
    let gpus = devices::all().into_iter();
    for named in gpus.filter(|named| named.device.info().kind != DeviceKind::Cpu) {
        let decode = |device: &Arc<dyn Device>, longest: &AtomicU64| {
            let engine = engine(&model, device, options(Some(Duration::from_millis(100))));
            let mut session = Session::new(&engine, false).expect("a session");
            let (greedy, cancel) = (SamplingOptions::greedy(), Cancel::new());
            let decoder = Decoder::start(&mut session, &PROMPT, greedy, &cancel, &mut |_, _| {});
            let mut decoder = decoder.expect("a prompt");
            let mut ids = vec![decoder.newest()];
            let mut counts = vec![(longest.load(Ordering::Relaxed), device.setup_counts())];
            for _ in 0..16 {
                longest.store(0, Ordering::Relaxed);
                ids.extend(decoder.advance().expect("a step"));
                counts.push((longest.load(Ordering::Relaxed), device.setup_counts()));
            }
            (ids, counts)
        };
        let longest = Arc::new(AtomicU64::new(0));
        let slow: Arc<dyn Device> = Arc::new(Slow {
            inner: named.device.clone(),
            step: Duration::from_millis(10),
            steps: Arc::default(),
            longest: longest.clone(),
            submitted: Arc::new(|_| {}),
            waited: Arc::default(),
            queued: Arc::default(),
        });
        let (expected, _) = decode(&named.device, &AtomicU64::new(0));
        let (found, counts) = decode(&slow, &longest);
        assert_eq!(found, expected, "{}", named.name);
        // The prompt began with a step that nothing was known of. Work is estimated, so that
        // ten steps a submit are a wish and no promise.
        let first = counts[0].0;
        let last = counts[1..].iter().map(|(longest, _)| *longest).max();
        let last = last.unwrap_or(0);
        assert!(
            first > 40 && last <= 25,
            "{}: {first} to {last} steps",
            named.name
        );
        assert_eq!(counts[10].1, counts[16].1, "{}: settled", named.name);
    }
}

/// Cancels `0` when as many submits as `1` were made, of which `2` counts.
type Trap = (Cancel, Arc<AtomicU64>, Arc<AtomicU64>);

fn springs(trap: &Trap) -> Arc<dyn Fn(usize) + Send + Sync> {
    let (cancel, at, submits) = trap.clone();
    Arc::new(move |number| {
        submits.store(number as u64, Ordering::Relaxed);
        if number as u64 == at.load(Ordering::Relaxed) {
            cancel.cancel();
        }
    })
}

#[test]
fn a_cancel_comes_before_the_next_submit_of_a_prompt_and_of_a_token() {
    let model = model(Family::V3);
    for named in devices::all() {
        if named.device.info().kind == DeviceKind::Cpu {
            // It has no budget: below.
            continue;
        }
        let trap: Trap = (Cancel::new(), Arc::new(AtomicU64::new(10)), Arc::default());
        let (cancel, at, submits) = &trap;
        let queued = Arc::new(AtomicU64::new(0));
        let device: Arc<dyn Device> = Arc::new(Slow {
            inner: named.device.clone(),
            step: Duration::from_millis(1),
            steps: Arc::default(),
            longest: Arc::default(),
            submitted: springs(&trap),
            waited: Arc::default(),
            queued: queued.clone(),
        });
        let engine = engine(&model, &device, options(Some(Duration::from_nanos(1))));
        let mut session = Session::new(&engine, false).expect("a session");
        let mut other = Session::new(&engine, false).expect("a session");
        let stopped = |result: hadal_engine::Result<Vec<u32>>| {
            let is_cancelled = matches!(result, Err(EngineError::Cancelled));
            assert!(is_cancelled, "{}: {result:?}", named.name);
            let made = submits.load(Ordering::Relaxed);
            assert_eq!(made, at.load(Ordering::Relaxed), "{}", named.name);
        };
        stopped(start(&mut session, &PROMPT, cancel).map(|decoder| vec![decoder.newest()]));
        assert_eq!(session.position(), 0, "{}", named.name);
        // The session goes on as if nothing had been, until it is stopped in its next token.
        let never = Cancel::new();
        let mut expected = start(&mut other, &PROMPT, &never).expect("a prompt");
        cancel.reset();
        let mut decoder = start(&mut session, &PROMPT, cancel).expect("a prompt");
        let newest = decoder.newest();
        assert_eq!(newest, expected.newest(), "{}", named.name);
        at.store(submits.load(Ordering::Relaxed) + 4, Ordering::Relaxed);
        stopped(decoder.advance());
        assert_eq!(session.position() as usize, PROMPT.len(), "{}", named.name);
        let second = expected.advance().expect("a token");
        let decoder = start(&mut session, &[newest], &never).expect("a token");
        assert_eq!([decoder.newest()], second[..], "{}", named.name);
        // One that runs, and one that follows it.
        assert_eq!(queued.load(Ordering::Relaxed), 2, "{}", named.name);
    }
}

#[test]
fn a_long_prompt_on_the_host_is_cancelled_between_its_operations() {
    let trap: Trap = (Cancel::new(), Arc::new(AtomicU64::new(5)), Arc::default());
    let (cancel, at, submits) = &trap;
    let longest = Arc::new(AtomicU64::new(0));
    let device: Arc<dyn Device> = Arc::new(Slow {
        inner: devices::scalar().device,
        step: Duration::ZERO,
        steps: Arc::default(),
        longest: longest.clone(),
        submitted: springs(&trap),
        waited: Arc::default(),
        queued: Arc::default(),
    });
    let options = EngineOptions {
        chunk: 64,
        ..options(None)
    };
    let engine = engine(&model(Family::V3), &device, options);
    let mut session = Session::new(&engine, false).expect("a session");
    let prompt = PROMPT.repeat(3);
    let stopped = start(&mut session, &prompt, cancel);
    assert!(matches!(stopped, Err(EngineError::Cancelled)));
    assert_eq!(submits.load(Ordering::Relaxed), at.load(Ordering::Relaxed));
    assert!(longest.load(Ordering::Relaxed) <= 4);
    // A token is one submit.
    let mut decoder = start(&mut session, &prompt, &Cancel::new()).expect("a prompt");
    let before = submits.load(Ordering::Relaxed);
    decoder.advance().expect("a token");
    assert_eq!(submits.load(Ordering::Relaxed), before + 1);
}

fn start<'s>(
    session: &'s mut Session,
    prompt: &[u32],
    cancel: &Cancel,
) -> hadal_engine::Result<Decoder<'s>> {
    let greedy = SamplingOptions::greedy();
    Decoder::start(session, prompt, greedy, cancel, &mut |_, _| {})
}
