//! Sessions of the facade on the shipped model and the host: what is written, what is told of
//! it, and who may stop it.
#![cfg(feature = "tiny")]

use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hadal::{
    Engine, ErrorCode, Event, Finish, Generated, LoadOptions, Model, Prompt, Request,
    SamplingOptions, Session, SessionOptions, Stream, Token,
};
use hadal_device::Backend;
use hadal_host::HostBackend;

/// One engine for all tests of this file.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let options = LoadOptions::on("host").with_context(512).with_threads(2);
        let model = Model::shipped().expect("the shipped model");
        model.load(options).expect("it loads")
    })
}

fn session() -> Session {
    let session = engine().session(SessionOptions::default());
    session.expect("there is room")
}

/// Reads a stream to its end.
fn read(stream: Stream) -> (String, Vec<Token>, Generated) {
    let (mut text, mut seen, mut end) = (String::new(), Vec::new(), None);
    for event in stream {
        match event.expect("no failure") {
            Event::Text {
                text: more, tokens, ..
            } => {
                text += &more;
                seen.extend(tokens);
            }
            Event::End(made) => end = Some(*made),
            _ => {}
        }
    }
    (text, seen, end.expect("an end"))
}

fn story(seed: u64) -> Request {
    Request::text("Once upon a time")
        .with_seed(seed)
        .with_max_tokens(24)
}

#[test]
fn public_types_may_go_where_users_expect() {
    fn send<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    shared::<Model>();
    shared::<Engine>();
    shared::<Session>();
    shared::<hadal::Loading>();
    shared::<hadal::Error>();
    shared::<hadal::Cancel>();
    shared::<LoadOptions>();
    shared::<Request>();
    send::<Stream>();
    send::<Event>();
}

#[test]
fn a_stream_tells_text_with_its_tokens_and_the_same_for_the_same_seed() {
    let (text, tokens, end) = read(session().stream(story(7)).unwrap());
    assert_eq!(end.finish, Finish::Length);
    assert_eq!(text, end.text);
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    assert_eq!(ids, end.ids);
    assert_eq!(ids.len(), 24);
    let (again, ..) = read(session().stream(story(7)).unwrap());
    let (other, ..) = read(session().stream(story(8)).unwrap());
    assert_eq!(again, text);
    assert_ne!(other, text);
    let foreground = session().generate(&story(7), &mut |_| ControlFlow::Continue(()));
    assert_eq!(foreground.unwrap().text, text);
}

#[test]
fn a_task_reads_the_same_stream() {
    use std::future::poll_fn;
    use std::pin::Pin;

    let (text, ..) = read(session().stream(story(3)).unwrap());
    let mut stream = session().stream(story(3)).unwrap();
    let read = async {
        let mut text = String::new();
        loop {
            let next =
                poll_fn(|context| futures_core::Stream::poll_next(Pin::new(&mut stream), context));
            match next.await {
                Some(event) => {
                    if let Event::Text { text: more, .. } = event.expect("no failure") {
                        text += &more;
                    }
                }
                None => return text,
            }
        }
    };
    assert_eq!(pollster::block_on(read), text);
}

#[test]
fn log_probabilities_are_of_the_models_own_distribution() {
    // Sampling does not change them; greedy text is the likeliest of each row.
    let request = Request::text("Once upon a time")
        .greedy()
        .with_max_tokens(16);
    let (_, plain, _) = read(session().stream(request.clone()).unwrap());
    let (_, seen, _) = read(session().stream(request.with_logprobs(3)).unwrap());
    assert!(plain.iter().all(|token| token.logprobs.is_none()));
    assert_eq!(plain.len(), seen.len());
    for (plain, token) in plain.iter().zip(&seen) {
        assert_eq!(plain.id, token.id);
        let logprobs = token.logprobs.as_ref().expect("asked for");
        assert_eq!(logprobs.top.len(), 3);
        assert_eq!(logprobs.top[0], (token.id, logprobs.chosen));
        assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(logprobs.chosen <= 0.0);
    }
}

#[test]
fn watched_experts_are_those_of_every_expert_layer_and_token() {
    let config = engine().model().config().clone();
    let mut request = story(5).watching_experts();
    request.ignore_end = true;
    let (mut routes, mut drafts, mut end) = (Vec::new(), None, None);
    for event in session().stream(request).unwrap() {
        match event.unwrap() {
            Event::Routes(more) => routes.extend(more),
            Event::Drafts(counts) => drafts = Some(counts),
            Event::End(made) => end = Some(made),
            _ => {}
        }
    }
    let (end, plain) = (end.unwrap(), read(session().stream(story(5)).unwrap()));
    assert_eq!(end.ids, plain.2.ids, "watching changes nothing");
    assert_eq!(drafts, Some(end.drafts));
    let layers = config.first_k_dense_replace..config.num_hidden_layers;
    let per_token = layers.len();
    assert_eq!(routes.len() % per_token, 0);
    // The newest token is not fed, and the last step may have given a token too many.
    let tokens = routes.len() / per_token;
    assert!((23..=24).contains(&tokens), "{tokens}");
    for (index, route) in routes.iter().enumerate() {
        assert_eq!(route.layer, layers.start + (index % per_token) as u32);
        assert_eq!(route.token, end.ids[index / per_token]);
        assert_eq!(route.experts.len() as u32, config.num_experts_per_tok);
        assert!(
            route
                .experts
                .iter()
                .all(|&expert| expert < config.n_routed_experts)
        );
        let sum: f32 = route.weights.iter().sum();
        let scale = config.routed_scaling_factor as f32;
        assert!((sum - scale).abs() < 1e-3 * scale, "{sum} of {scale}");
    }
}

#[test]
fn text_goes_on_where_it_ended_as_if_it_had_not() {
    let greedy = |tokens| {
        Request::text("Once upon a time")
            .greedy()
            .with_max_tokens(tokens)
    };
    let whole = read(session().stream(greedy(20)).unwrap()).2;
    let halves = session();
    let first = read(halves.stream(greedy(9)).unwrap()).2;
    let more = Request::ids([]).greedy().with_max_tokens(11);
    let second = read(halves.stream(more).unwrap()).2;
    assert_eq!([first.ids, second.ids].concat(), whole.ids);
    assert!(halves.tokens().unwrap().ends_with(&whole.ids));
}

#[test]
fn a_fork_goes_on_like_its_origin_and_leaves_it_alone() {
    let origin = session();
    read(origin.stream(story(1)).unwrap());
    let fork = origin.fork().unwrap();
    assert_eq!(fork.tokens().unwrap(), origin.tokens().unwrap());
    let more = || Request::text(" Then").greedy().with_max_tokens(12);
    let forked = read(fork.stream(more()).unwrap()).2;
    fork.clear().unwrap();
    read(fork.stream(story(2)).unwrap());
    assert_eq!(read(origin.stream(more()).unwrap()).2.ids, forked.ids);
}

#[test]
fn a_truncated_session_goes_on_like_a_shorter_one() {
    let session = session();
    let before = session.tokens().unwrap().len();
    read(session.stream(story(1)).unwrap());
    session.truncate(before + 6).unwrap();
    let kept = session.tokens().unwrap();
    assert_eq!(kept.len(), 6);
    let more = || Request::text(" and").greedy().with_max_tokens(8);
    let told = read(session.stream(more()).unwrap()).2;
    session.clear().unwrap();
    let ids = Request::ids(kept).greedy().with_max_tokens(1);
    read(session.stream(ids).unwrap());
    session.truncate(6).unwrap();
    assert_eq!(read(session.stream(more()).unwrap()).2.ids, told.ids);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let whole = read(session().stream(story(7)).unwrap()).0;
    let stop: String = whole.chars().skip(20).take(4).collect();
    let (text, _, end) = read(session().stream(story(7).with_stop(stop.clone())).unwrap());
    assert_eq!(end.finish, Finish::Stop);
    assert_eq!(text, whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn an_answer_is_cancelled_from_any_thread_and_the_session_is_free_again() {
    let session = session();
    let endless = || {
        let mut request = Request::text("Once").with_seed(1);
        request.ignore_end = true;
        request
    };
    let mut stream = session.stream(endless()).unwrap();
    let busy = session.stream(story(1)).err().expect("it writes already");
    assert_eq!(busy.code(), ErrorCode::Busy);
    assert_eq!(session.clear().unwrap_err().code(), ErrorCode::Busy);
    stream
        .by_ref()
        .take(8)
        .for_each(|event| drop(event.unwrap()));
    let other = session.clone();
    std::thread::spawn(move || other.cancel()).join().unwrap();
    let end = stream.last().expect("an end").expect("no failure");
    assert!(matches!(end, Event::End(made) if made.finish == Finish::Cancelled));
    session.clear().unwrap();

    // Dropping waits for nothing.
    let stream = session.stream(endless()).unwrap();
    let started = Instant::now();
    drop(stream);
    assert!(started.elapsed() < Duration::from_millis(500));
    session.clear().unwrap();
    let (text, ..) = read(session.stream(story(1)).unwrap());
    assert!(!text.is_empty());

    // What is told may end it too.
    let made = session.generate(&endless(), &mut |event| match event {
        Event::Text { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(made.unwrap().finish, Finish::Cancelled);
}

#[test]
fn what_is_told_may_cancel_and_ask_without_waiting_for_itself() {
    let session = session();
    let other = session.clone();
    let made = session.generate(&story(1), &mut |event| {
        if let Event::Text { .. } = event {
            other.cancel();
            let codes = [
                other.clear().unwrap_err().code(),
                other.tokens().unwrap_err().code(),
                other.fork().err().unwrap().code(),
                other
                    .generate(&story(2), &mut |_| ControlFlow::Continue(()))
                    .unwrap_err()
                    .code(),
            ];
            assert_eq!(codes, [ErrorCode::Busy; 4]);
        }
        ControlFlow::Continue(())
    });
    assert_eq!(made.unwrap().finish, Finish::Cancelled);
    session.clear().unwrap();
}

#[test]
fn a_prompt_is_broken_off_by_what_is_told_of_it() {
    let options = LoadOptions::on("host").with_context(512).with_chunk(16);
    let engine = Model::shipped().unwrap().load(options).unwrap();
    let session = engine.session(SessionOptions::default()).unwrap();
    let request = Request::ids(vec![7; 200]).greedy().with_max_tokens(4);
    for most in [1, 3] {
        let mut events = 0;
        let broken = session.generate(&request, &mut |_| {
            events += 1;
            match events < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        assert_eq!(broken.unwrap_err().code(), ErrorCode::Cancelled);
        assert_eq!(events, most);
        assert!(session.tokens().unwrap().len() < 200);
        session.clear().unwrap();
    }
}

#[test]
fn a_text_that_no_context_holds_is_refused_before_it_is_made_tokens() {
    // Making tokens of it would take minutes.
    let endless = Request::text("Once upon a time. ".repeat(4 << 20));
    let refused = session().generate(&endless, &mut |_| ControlFlow::Continue(()));
    assert_eq!(refused.unwrap_err().code(), ErrorCode::ContextFull);
}

#[test]
fn wrong_requests_say_what_is_wrong() {
    let code = |request: Request| {
        let result = session().generate(&request, &mut |_| ControlFlow::Continue(()));
        result.unwrap_err().code()
    };
    assert_eq!(code(Request::ids([])), ErrorCode::InvalidArgument);
    assert_eq!(code(Request::ids([u32::MAX])), ErrorCode::InvalidArgument);
    assert_eq!(code(Request::ids(vec![5; 600])), ErrorCode::ContextFull);
    assert_eq!(
        code(story(1).with_max_tokens(0)),
        ErrorCode::InvalidArgument
    );
    assert_eq!(code(story(1).with_stop("")), ErrorCode::InvalidArgument);
    let chat = Request::chat([hadal::Message::user("Hello")]);
    if !engine().model().can_chat() {
        assert_eq!(code(chat), ErrorCode::NoText);
    }
}

#[test]
fn logits_may_stay_on_the_device() {
    let device = HostBackend::new()
        .open(0)
        .expect("the host is always there");
    let model = Model::shipped().expect("the shipped model");
    let options = LoadOptions::on_open(device.clone()).with_context(512);
    let engine = model.load(options).expect("it loads");
    let session = || {
        let session = engine.session(SessionOptions::default());
        session.expect("there is room")
    };
    let ids = vec![1, 300, 20, 7];
    let mut request = Request::new(Prompt::Ids(ids.clone())).with_max_tokens(2);
    request.sampling = Some(SamplingOptions::greedy());
    let (_, _, written) = read(session().stream(request).expect("a stream"));
    // The prompt, then what was chosen for it: each time the likeliest is the next token.
    let shown = session();
    let mut fed = ids;
    for next in written.ids {
        let likeliest = shown.logits_on_device(&fed, |span| {
            let mut bytes = vec![0; span.bytes as usize];
            device.read(span, &mut bytes).expect("it is read");
            let logits: Vec<f32> = bytes
                .chunks_exact(4)
                .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                .collect();
            assert_eq!(logits.len(), model.config().vocab_size as usize);
            let ranked = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            ranked.expect("a vocabulary").0 as u32
        });
        assert_eq!(likeliest.expect("a step"), next);
        fed = vec![next];
    }
    let refused = shown.logits_on_device(&[u32::MAX], |_| ()).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument);
}

#[test]
fn a_panic_of_the_program_comes_out_and_the_session_goes_on() {
    let session = session();
    let mut events = 0;
    let call = || {
        session.generate(&story(3), &mut |_| {
            events += 1;
            if events == 3 {
                panic!("mine");
            }
            ControlFlow::Continue(())
        })
    };
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"mine"));
    assert_eq!(events, 3);
    let made = session.generate(&story(3), &mut |_| ControlFlow::Continue(()));
    assert!(!made.expect("it goes on").ids.is_empty());
}
