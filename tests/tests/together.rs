//! Sequences decoded together give what each gives alone: on every device, with prompts of
//! different lengths, while some end and others begin.

use std::ops::ControlFlow;
use std::sync::Arc;

use hadal_engine::{
    Batch, Cancel, Chosen, Decoder, Engine, EngineError, EngineOptions, Form, Model, MoeForm,
    Observe, Route, SamplingOptions, Session,
};
use hadal_tests::Random;
use hadal_tests::checkpoint::Family;
use hadal_tests::devices::{self, Named};
use hadal_tests::small::model;

const TOLERANCE: f32 = 2e-3;
const SEED: u64 = 7;

/// Prompts and the tokens that follow: the first passes the end of a page, the second begins with
/// next to nothing, the last waits for a place.
const REQUESTS: [(usize, usize); 6] = [(47, 16), (1, 16), (23, 3), (9, 9), (30, 7), (18, 5)];

/// Places, one less than there are requests.
const PLACES: u32 = 5;

fn options() -> EngineOptions {
    EngineOptions {
        context: Some(128),
        chunk: 32,
        batch: PLACES,
        ..EngineOptions::default()
    }
}

fn engine(model: &Arc<Model>, named: &Named, options: EngineOptions) -> Arc<Engine> {
    let mut quiet = |_| ControlFlow::Continue(());
    let engine = Engine::load(
        model.clone(),
        named.device.clone(),
        named.fit(options),
        &mut quiet,
    );
    Arc::new(engine.unwrap_or_else(|e| panic!("{}: {e}", named.name)))
}

fn prompt(family: Family, request: usize) -> Vec<u32> {
    let mut random = Random::new(SEED, &format!("prompt {request}"));
    let vocab = family.config().vocab_size;
    let count = REQUESTS[request].0;
    (0..count).map(|_| random.below(vocab)).collect()
}

/// Every second request is sampled, every third one tells which experts it asks.
fn sampling(request: usize) -> SamplingOptions {
    match request % 2 {
        0 => SamplingOptions::greedy(),
        _ => SamplingOptions {
            temperature: 0.8,
            seed: request as u64,
            presence_penalty: 0.3,
            ..SamplingOptions::default()
        },
    }
}

fn observe(request: usize) -> Observe {
    Observe {
        logprobs: Some(8),
        routes: request.is_multiple_of(3),
    }
}

fn start(session: Session, family: Family, request: usize) -> Decoder<'static> {
    let (ids, cancel) = (prompt(family, request), Cancel::new());
    let (sampling, observe) = (sampling(request), observe(request));
    let mut quiet = |_, _| {};
    Decoder::owning(session, &ids, sampling, observe, &cancel, &mut quiet).expect("a prompt")
}

/// What a request gave.
#[derive(Default)]
struct Given {
    tokens: Vec<Chosen>,
    routes: Vec<Route>,
}

impl Given {
    fn take(&mut self, token: Chosen, decoder: &Decoder<'_>) {
        self.tokens.push(token);
        self.routes.extend_from_slice(decoder.routes());
    }

    fn is_over(&self, request: usize) -> bool {
        self.tokens.len() >= REQUESTS[request].1
    }
}

fn alone(engine: &Arc<Engine>, family: Family, request: usize) -> Given {
    let session = Session::new(engine, false).expect("a session");
    let mut decoder = start(session, family, request);
    let mut given = Given::default();
    while !given.is_over(request) {
        let tokens = decoder.advance_observed().expect("a step");
        given.take(tokens[0].clone(), &decoder);
    }
    given
}

/// All requests, as many at a time as there are places, and how many each step had.
fn together(engine: &Arc<Engine>, family: Family) -> (Vec<Given>, Vec<usize>) {
    let (batch, cancel) = (Batch::new(engine).expect("there is room"), Cancel::new());
    let mut given: Vec<Given> = REQUESTS.iter().map(|_| Given::default()).collect();
    let mut waiting = 0..REQUESTS.len();
    let mut running: Vec<(usize, Decoder<'static>)> = Vec::new();
    let mut sizes = Vec::new();
    loop {
        while running.len() < engine.options().batch as usize
            && let Some(request) = waiting.next()
        {
            let session = batch.session().expect("a free place");
            running.push((request, start(session, family, request)));
        }
        if running.is_empty() {
            return (given, sizes);
        }
        let mut decoders: Vec<_> = running.iter_mut().map(|(_, decoder)| decoder).collect();
        let tokens = batch.advance(&mut decoders, &cancel).expect("a step");
        sizes.push(tokens.len());
        for ((request, decoder), token) in running.iter().zip(tokens) {
            let token = token.expect("a choice").expect("there is room");
            given[*request].take(token, decoder);
        }
        running.retain(|(request, _)| !given[*request].is_over(*request));
    }
}

/// Where both told of the same tokens, how far their probabilities are apart.
fn apart(one: &Chosen, other: &Chosen) -> f32 {
    let (one, other) = (one.logprobs.as_ref(), other.logprobs.as_ref());
    let (one, other) = one.zip(other).expect("both were asked for");
    let of = |id: u32| other.top.iter().find(|(it, _)| *it == id);
    let shared = one.top.iter().filter_map(|(id, it)| Some((it, of(*id)?.1)));
    let top = shared.map(|(one, other)| (one - other).abs());
    top.fold((one.chosen - other.chosen).abs(), f32::max)
}

fn agree(label: &str, found: &Given, expected: &Given) {
    let ids = |given: &Given| -> Vec<u32> { given.tokens.iter().map(|it| it.id).collect() };
    assert_eq!(ids(found), ids(expected), "{label}");
    let pairs = found.tokens.iter().zip(&expected.tokens);
    let worst = pairs.map(|(a, b)| apart(a, b)).fold(0.0, f32::max);
    assert!(worst < TOLERANCE, "{label}: off by {worst}");
    assert_eq!(found.routes.len(), expected.routes.len(), "{label}");
    for (found, expected) in found.routes.iter().zip(&expected.routes) {
        let of = |it: &Route| (it.layer, it.position, it.token, it.experts.clone());
        assert_eq!(of(found), of(expected), "{label}");
    }
}

#[test]
fn sequences_decoded_together_give_what_each_gives_alone() {
    for family in [Family::V3Fp8, Family::Moonlight] {
        let model = model(family);
        for named in devices::of_golden_cases() {
            let engine = engine(&model, &named, options());
            let (given, sizes) = together(&engine, family);
            // The third request ends first, and the last takes its place.
            let wanted = [5, 5, 5, 5, 5, 5, 5, 4, 3, 2, 2, 2, 2, 2, 2, 2];
            if engine.options().batch == PLACES {
                assert_eq!(sizes, wanted, "{}", named.name);
            }
            for (request, found) in given.iter().enumerate() {
                let label = format!("{family:?} on {}, request {request}", named.name);
                agree(&label, found, &alone(&engine, family, request));
            }
        }
    }
}

#[test]
fn forms_pieces_and_routes_change_nothing() {
    let (family, named) = (Family::V3, devices::host());
    let model = model(family);
    let base = engine(&model, &named, options());
    let expected: Vec<Given> = (0..REQUESTS.len())
        .map(|request| alone(&base, family, request))
        .collect();
    for (form, moe, chunk) in [
        (Form::Expanded, MoeForm::Direct, 32),
        (Form::Absorbed, MoeForm::Grouped, 32),
        // Five sequences are two steps, and four.
        (Form::Absorbed, MoeForm::Auto, 3),
    ] {
        let options = EngineOptions {
            form: Some(form),
            moe,
            chunk,
            ..options()
        };
        let (given, _) = together(&engine(&model, &named, options), family);
        for (request, found) in given.iter().enumerate() {
            let label = format!("{form:?} {moe:?}, chunk {chunk}, request {request}");
            agree(&label, found, &expected[request]);
        }
    }
}

fn greedy(session: Session, ids: &[u32]) -> Decoder<'static> {
    let (greedy, cancel) = (SamplingOptions::greedy(), Cancel::new());
    let observe = Observe::default();
    Decoder::owning(session, ids, greedy, observe, &cancel, &mut |_, _| {}).expect("a prompt")
}

#[test]
fn a_warm_loop_sets_nothing_up() {
    let model = model(Family::V3Fp8);
    for named in devices::all() {
        // On a machine with other work a budget cuts programs anew at any time.
        let options = EngineOptions {
            dispatch_budget: None,
            ..options()
        };
        let batch = Batch::new(&engine(&model, &named, options)).expect("there is room");
        let session = || batch.session().expect("a free place");
        let mut decoders = [greedy(session(), &[1, 2]), greedy(session(), &[3])];
        let mut advance = || {
            let mut decoders: Vec<_> = decoders.iter_mut().collect();
            batch
                .advance(&mut decoders, &Cancel::new())
                .expect("a step");
        };
        advance();
        let before = named.device.setup_counts();
        (0..8).for_each(|_| advance());
        assert_eq!(named.device.setup_counts(), before, "{}", named.name);
    }
}

#[test]
fn a_cancel_and_a_full_context_leave_the_others_as_they_are() {
    let model = model(Family::V3);
    let short = EngineOptions {
        context: Some(6),
        ..options()
    };
    let engine = engine(&model, &devices::scalar(), short);
    let batch = Batch::new(&engine).expect("there is room");
    let session = || batch.session().expect("a free place");
    let (mut long, mut brief) = (greedy(session(), &[1, 2, 3, 4]), greedy(session(), &[9]));
    let cancel = Cancel::new();
    cancel.cancel();
    let ended = batch.advance(&mut [&mut long, &mut brief], &cancel);
    assert!(matches!(ended, Err(EngineError::Cancelled)));
    let mut both = || {
        let tokens = batch.advance(&mut [&mut long, &mut brief], &Cancel::new());
        let tokens = tokens.expect("a step").into_iter();
        let ids = tokens.map(|token| token.expect("a choice").map(|token| token.id));
        ids.collect::<Vec<_>>()
    };
    let steps = [both(), both(), both(), both(), both(), both()];
    for (request, ids) in [&[1, 2, 3, 4][..], &[9]].into_iter().enumerate() {
        let mut alone = greedy(Session::new(&engine, false).expect("a session"), ids);
        for step in &steps {
            let expected = alone.advance().expect("a step").first().copied();
            assert_eq!(step[request], expected, "request {request}");
        }
        assert_eq!(steps[5][request], None);
    }
    assert!(steps[3][0].is_none() && steps[3][1].is_some());
}

#[test]
fn a_batch_has_so_many_places_and_takes_none_but_its_own() {
    let engine = engine(&model(Family::V3), &devices::scalar(), options());
    let batch = Batch::new(&engine).expect("there is room");
    let mut sessions: Vec<Session> = (0..PLACES)
        .map(|_| batch.session().expect("a free place"))
        .collect();
    let full = batch.session().err();
    assert!(matches!(
        full,
        Some(EngineError::BatchFull { sequences: PLACES })
    ));
    assert_eq!(engine.memory().sessions, PLACES);
    drop(sessions.remove(1));
    let mut decoder = greedy(batch.session().expect("it is free again"), &[5, 6, 7]);

    // A fork goes on where its origin is, outside of the batch.
    let mut origin = sessions.pop().expect("the last place");
    let quiet = &mut |_, _| {};
    let greedily = SamplingOptions::greedy;
    Decoder::start(&mut origin, &[8, 9], greedily(), &Cancel::new(), quiet).expect("a prompt");
    let mut fork = greedy(origin.fork().expect("there is room"), &[10]);
    assert_eq!(fork.newest(), greedy(origin, &[10]).newest());
    for stranger in [
        &mut fork,
        &mut greedy(Session::new(&engine, false).expect("a session"), &[1]),
    ] {
        let refused = batch.advance(&mut [&mut decoder, stranger], &Cancel::new());
        assert!(matches!(refused, Err(EngineError::Option(_))));
    }
    assert_eq!(
        batch
            .advance(&mut [], &Cancel::new())
            .expect("nothing")
            .len(),
        0
    );
    drop((batch, sessions, decoder, fork));
    assert_eq!(engine.memory().sessions, 0);
}
