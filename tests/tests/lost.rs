//! A device that goes away in the middle of an answer: the same generation continues on a
//! fresh one, with the same tokens and the same drafts accepted.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hadal_device::{Access, Backend, Bind, BufferDesc, Device, Error, Program, Slot, Step};
use hadal_engine::{
    Batch, Cancel, Decoder, DraftCounts, Engine, EngineError, EngineOptions, Model, Observe,
    SamplingOptions, Session, perplexity,
};
use hadal_tests::checkpoint::Family;
use hadal_tests::shipped::trained;
use hadal_vulkan::{VulkanBackend, VulkanOptions};
use hadal_weights::Checkpoint;
use hadal_wgpu::{WgpuBackend, WgpuOptions};

/// Opens a device that is lost after so many submits.
type Open = fn(Option<u64>) -> hadal_device::Result<Arc<dyn Device>>;

/// Backends with fault injection.
const BACKENDS: [(&str, Open); 2] = [
    ("wgpu", |lose_after_submits| {
        let options = WgpuOptions {
            lose_after_submits,
            ..WgpuOptions::default()
        };
        WgpuBackend::new(options).open(0)
    }),
    ("vulkan", |lose_after_submits| {
        let options = VulkanOptions {
            lose_after_submits,
            ..VulkanOptions::default()
        };
        VulkanBackend::new(options).open(0)
    }),
];

/// The backends that open here.
fn backends() -> Vec<(&'static str, Open)> {
    let opens = |(name, open): &(&str, Open)| match open(None) {
        Ok(_) => true,
        Err(error) => {
            println!("NOT RUN on {name}: {error}");
            false
        }
    };
    BACKENDS.into_iter().filter(opens).collect()
}

/// Submits come one a step, so that losses can be counted by them.
fn options() -> EngineOptions {
    EngineOptions {
        context: Some(128),
        batch: 3,
        chunk: 16,
        dispatch_budget: None,
        ..EngineOptions::default()
    }
}

/// An engine whose devices are lost after the submits of `losses`, one after the other; also
/// how many devices were opened again.
fn engine(model: &Arc<Model>, open: Open, losses: &[u64]) -> (Arc<Engine>, Arc<AtomicU32>) {
    let device = open(losses.first().copied()).expect("it opened before");
    let mut quiet = |_| ControlFlow::Continue(());
    let engine = Engine::load(model.clone(), device, options(), &mut quiet).expect("it loads");
    let reopened = Arc::new(AtomicU32::new(0));
    let (count, losses) = (reopened.clone(), losses.to_vec());
    let engine = engine.with_recovery(move |lost: &Error| {
        assert!(matches!(lost, Error::Lost { .. }), "{lost}");
        let next = count.fetch_add(1, Ordering::Relaxed) as usize + 1;
        Ok(open(losses.get(next).copied())?)
    });
    (Arc::new(engine), reopened)
}

const PROMPT: [u32; 21] = [
    0, 300, 17, 802, 45, 1200, 9, 77, 512, 33, 1024, 5, 61, 700, 20, 90, 41, 333, 8, 15, 260,
];

fn sampled() -> SamplingOptions {
    SamplingOptions {
        temperature: 0.8,
        seed: 11,
        ..SamplingOptions::default()
    }
}

/// One that small vocabularies have.
const SHORT: [u32; 21] = [
    3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6,
];

/// `count` tokens after `prompt`, and the drafts among them.
fn answer(
    session: &mut Session,
    prompt: &[u32],
    sampling: SamplingOptions,
    count: usize,
) -> Result<(Vec<u32>, DraftCounts), EngineError> {
    let cancel = Cancel::new();
    let mut decoder = Decoder::start(session, prompt, sampling, &cancel, &mut |_, _| {})?;
    let mut out = vec![decoder.newest()];
    while out.len() < count {
        out.extend(decoder.advance()?);
    }
    Ok((out, decoder.draft_counts()))
}

#[test]
fn an_answer_goes_on_with_the_same_tokens_after_the_device_is_lost() {
    let model = trained();
    for (name, open) in backends() {
        let (calm, _) = engine(&model, open, &[]);
        for (drafts, sampling) in [
            (false, SamplingOptions::greedy()),
            (true, SamplingOptions::greedy()),
            (true, sampled()),
        ] {
            let session = |engine: &Arc<Engine>| Session::new(engine, drafts).expect("a session");
            let expected = answer(&mut session(&calm), &PROMPT, sampling.clone(), 40);
            let expected = expected.expect("nothing happens");
            assert!(!drafts || expected.1.accepted > 4, "{:?}", expected.1);
            // In the prompt, in the first steps, far into the answer, and twice.
            for losses in [&[1][..], &[2], &[3], &[4], &[5], &[24], &[25], &[9, 30]] {
                let label = format!("{name}, drafts {drafts}, lost after {losses:?}");
                let (engine, reopened) = engine(&model, open, losses);
                let found = answer(&mut session(&engine), &PROMPT, sampling.clone(), 40);
                let found = found.unwrap_or_else(|error| panic!("{label}: {error}"));
                assert_eq!(found, expected, "{label}");
                let reopened = reopened.load(Ordering::Relaxed) as usize;
                assert_eq!(reopened, losses.len(), "{label}");
            }
        }
    }
}

#[test]
fn every_session_of_an_engine_goes_on_after_one_of_them_met_the_loss() {
    let model = trained();
    for (name, open) in backends() {
        let (calm, _) = engine(&model, open, &[]);
        let greedy = SamplingOptions::greedy;
        let mut session = Session::new(&calm, true).expect("a session");
        let expected = answer(&mut session, &PROMPT, greedy(), 30).expect("nothing happens");
        let (engine, reopened) = engine(&model, open, &[40]);
        std::thread::scope(|scope| {
            let run = || {
                let mut session = Session::new(&engine, true).expect("a session");
                answer(&mut session, &PROMPT, greedy(), 30)
            };
            let threads = [(); 3].map(|()| scope.spawn(run));
            for thread in threads {
                let found = thread.join().expect("no panic");
                assert_eq!(found.expect("it goes on"), expected, "{name}");
            }
        });
        assert_eq!(reopened.load(Ordering::Relaxed), 1, "{name}");
    }
}

/// Some tokens of three sequences that decode together.
fn together(engine: &Arc<Engine>) -> Vec<Vec<u32>> {
    let (batch, cancel) = (Batch::new(engine).expect("there is room"), Cancel::new());
    let start = |(length, sampling): (usize, SamplingOptions)| {
        let (session, observe) = (batch.session().expect("a place"), Observe::default());
        let (prompt, quiet) = (&PROMPT[..length], &mut |_, _| {});
        Decoder::owning(session, prompt, sampling, observe, &cancel, quiet).expect("a prompt")
    };
    let requests = [
        (21, SamplingOptions::greedy()),
        (3, sampled()),
        (8, SamplingOptions::greedy()),
    ];
    let mut decoders = requests.map(start);
    let mut out = vec![Vec::new(); decoders.len()];
    for _ in 0..20 {
        let mut all: Vec<_> = decoders.iter_mut().collect();
        let tokens = batch.advance(&mut all, &cancel).expect("it goes on");
        for (out, token) in out.iter_mut().zip(tokens) {
            out.extend(token.expect("a choice").map(|token| token.id));
        }
    }
    out
}

#[test]
fn sequences_decoded_together_go_on_after_a_loss() {
    let model = trained();
    for (name, open) in backends() {
        let (calm, _) = engine(&model, open, &[]);
        let expected = together(&calm);
        // In a prompt, in the first step of all, far into the answers, and twice.
        for losses in [&[2][..], &[5], &[6], &[15], &[9, 14]] {
            let (engine, reopened) = engine(&model, open, losses);
            assert_eq!(together(&engine), expected, "{name}, lost after {losses:?}");
            let reopened = reopened.load(Ordering::Relaxed) as usize;
            assert_eq!(reopened, losses.len(), "{name}, lost after {losses:?}");
        }
    }
}

#[test]
fn a_conversation_cut_back_to_its_beginning_goes_on_as_undisturbed() {
    // Random weights: every row of a cache counts, and a draft is a matter of chance.
    let file = ("m".to_string(), Arc::new(Family::V3.safetensors(7)) as _);
    let source = Checkpoint::from_pages(vec![file]).expect("it opens");
    let text = Err("not needed".to_string());
    let model = Model::new(Family::V3.config(), Arc::new(source), text).expect("it binds");
    let model = Arc::new(model);
    for (name, open) in backends() {
        let talk = |losses: &[u64]| {
            let (engine, reopened) = engine(&model, open, losses);
            let mut session = Session::new(&engine, true).expect("a session");
            answer(&mut session, &SHORT, SamplingOptions::greedy(), 12).expect("the first answer");
            // No row waits for the module any more, whose newest row has read a token that is
            // gone.
            session.keep(2);
            let second =
                answer(&mut session, &SHORT[..3], sampled(), 30).expect("the second answer");
            (second, reopened.load(Ordering::Relaxed))
        };
        let (expected, _) = talk(&[]);
        // At the end of the first answer, between the two, in the second prompt and after it.
        for loss in 14..30 {
            let (found, reopened) = talk(&[loss]);
            assert_eq!(found, expected, "{name}, lost after {loss}");
            assert_eq!(reopened, 1, "{name}, lost after {loss}");
        }
    }
}

#[test]
fn perplexity_is_the_same_after_a_loss() {
    let model = trained();
    let text = "Once upon a time there was a miller who had three sons, a mill and a cat.";
    for (name, open) in backends() {
        let score = |losses: &[u64]| {
            let (engine, reopened) = engine(&model, open, losses);
            let quiet = &mut |_, _, _: &_| {};
            let sum = perplexity(&engine, text, Some(16), &Cancel::new(), quiet);
            (sum.expect("a score"), reopened.load(Ordering::Relaxed))
        };
        let (expected, _) = score(&[]);
        let (found, reopened) = score(&[1]);
        assert_eq!(reopened, 1, "{name}");
        assert_eq!(found.tokens, expected.tokens, "{name}");
        assert!((found.nats - expected.nats).abs() < 1e-3, "{name}");
    }
}

#[test]
fn a_device_that_is_lost_again_and_again_ends_with_an_error_that_says_so() {
    let model = trained();
    for (name, open) in backends() {
        let (engine, reopened) = engine(&model, open, &[1; 9]);
        let mut session = Session::new(&engine, true).expect("a session");
        let ended =
            answer(&mut session, &PROMPT, SamplingOptions::greedy(), 5).expect_err("given up");
        let EngineError::LostAgain { losses, .. } = &ended else {
            panic!("{name}: {ended}");
        };
        assert_eq!(*losses, 3, "{name}");
        assert_eq!(reopened.load(Ordering::Relaxed), 2, "{name}");
    }
}

/// A device that is lost before anything is put on it.
fn lost_already(open: Open) -> Arc<dyn Device> {
    let device = open(Some(1)).expect("it opened before");
    let buffer = device.alloc(&BufferDesc::new("test", 4)).expect("memory");
    let fill = Step::Fill {
        to: Bind {
            slot: Slot(0),
            offset: 0,
            bytes: 4,
            access: Access::Write,
        },
        byte: 1,
    };
    let program = Program {
        slots: 1,
        steps: vec![fill],
    };
    let mut executable = device.prepare(&program).expect("a valid program");
    while !matches!(executable.submit(&[buffer]), Err(Error::Lost { .. })) {}
    device
}

#[test]
fn a_device_that_is_lost_while_the_weights_go_there_is_opened_once_more() {
    let model = trained();
    for (name, open) in backends() {
        let (calm, _) = engine(&model, open, &[]);
        let greedy = SamplingOptions::greedy;
        let mut session = Session::new(&calm, true).expect("a session");
        let expected = answer(&mut session, &PROMPT, greedy(), 12).expect("nothing happens");
        let device = open(Some(5)).expect("it opened before");
        let mut quiet = |_| ControlFlow::Continue(());
        let engine = Engine::load(model.clone(), device, options(), &mut quiet).expect("it loads");
        let opened = Arc::new(AtomicU32::new(0));
        let count = opened.clone();
        let engine = engine.with_recovery(move |_: &Error| {
            Ok(match count.fetch_add(1, Ordering::Relaxed) {
                0 => lost_already(open),
                _ => open(None)?,
            })
        });
        let mut session = Session::new(&Arc::new(engine), true).expect("a session");
        let found = answer(&mut session, &PROMPT, greedy(), 12).expect("it goes on");
        assert_eq!(found, expected, "{name}");
        assert_eq!(opened.load(Ordering::Relaxed), 2, "{name}");
    }
}

#[test]
fn without_recovery_a_loss_ends_the_request_and_nothing_else() {
    let model = trained();
    for (name, open) in backends() {
        let device = open(Some(6)).expect("it opened before");
        let mut quiet = |_| ControlFlow::Continue(());
        let engine = Engine::load(model.clone(), device, options(), &mut quiet).expect("it loads");
        let mut session = Session::new(&Arc::new(engine), true).expect("a session");
        let ended = answer(&mut session, &PROMPT, SamplingOptions::greedy(), 20).expect_err("lost");
        let lost = matches!(ended, EngineError::Device(Error::Lost { .. }));
        assert!(lost, "{name}: {ended}");
        assert!(session.tokens().starts_with(&PROMPT), "{name}");
    }
}

#[test]
fn a_device_that_cannot_be_opened_again_is_told_of_with_the_loss() {
    let model = trained();
    for (name, open) in backends() {
        let device = open(Some(3)).expect("it opened before");
        let mut quiet = |_| ControlFlow::Continue(());
        let engine = Engine::load(model.clone(), device, options(), &mut quiet).expect("it loads");
        let engine = engine.with_recovery(|_: &Error| {
            let why = "it was unplugged".to_string();
            Err(Error::Unavailable { backend: "x", why }.into())
        });
        let mut session = Session::new(&Arc::new(engine), true).expect("a session");
        let ended = answer(&mut session, &PROMPT, SamplingOptions::greedy(), 20).expect_err("gone");
        let told = ended.to_string();
        assert!(told.contains("was lost"), "{name}: {told}");
        assert!(told.contains("it was unplugged"), "{name}: {told}");
    }
}
