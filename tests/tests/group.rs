//! A model on several devices gives what it gives on one of them, bit for bit: its layers are
//! somewhere else, the kernels are the same.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use hadal_cuda::{CudaBackend, CudaOptions};
use hadal_device::{Backend, Device, Error, Result};
use hadal_engine::plan::{Ask, PartKind};
use hadal_engine::{
    Batch, Cancel, Decoder, Engine, EngineOptions, ForwardOptions, Model, Observe, Plan,
    SamplingOptions, Session, Tensor, forward,
};
use hadal_gpumock::Steer;
use hadal_host::HostBackend;
use hadal_models::Config;
use hadal_models::manifest::official_manifest;
use hadal_rocm::{RocmBackend, RocmOptions};
use hadal_tests::checkpoint::Family;
use hadal_tests::counting::Counting;
use hadal_tests::devices::no_complaints;
use hadal_tests::shipped::trained;
use hadal_tests::small::model;
use hadal_weights::{DummySource, DummyTensor};
use hadal_wgpu::{WgpuBackend, WgpuOptions};

/// One whose head is its embedding, which lies where the first layer does.
fn tied() -> Arc<Model> {
    let mut config: serde_json::Value =
        serde_json::from_str(&Family::V3.config_json()).expect("it is JSON");
    config["tie_word_embeddings"] = true.into();
    let config = Config::from_json(&config.to_string()).expect("it is legal");
    let tensors = official_manifest(&config)
        .into_iter()
        .map(|tensor| DummyTensor {
            name: tensor.name,
            shape: tensor.shape,
            dtype: tensor.dtype,
        });
    let source = DummySource::new(tensors, 7).expect("there is room");
    let text = Err("a small checkpoint has no tokenizer".to_string());
    Arc::new(Model::new(config, Arc::new(source), text).expect("it binds"))
}

/// Steps of the same cuts on every device, whatever else the machine does.
fn options() -> EngineOptions {
    EngineOptions {
        context: Some(128),
        chunk: 8,
        batch: 3,
        dispatch_budget: None,
        ..EngineOptions::default()
    }
}

fn load(model: &Arc<Model>, device: Arc<dyn Device>) -> Engine {
    let mut quiet = |_| ControlFlow::Continue(());
    Engine::load(model.clone(), device, options(), &mut quiet).expect("it loads")
}

fn cuda() -> CudaBackend {
    CudaBackend::new(CudaOptions {
        library: Some(hadal_gpumock::library()),
        ..CudaOptions::default()
    })
}

/// Three of the mock drivers' devices for each vendor, who may copy between them.
fn steer() -> Steer {
    let mock = Steer::open().expect("the mock drivers");
    mock.configure("devices=3").expect("a configuration");
    mock
}

fn rocm() -> RocmBackend {
    RocmBackend::new(RocmOptions {
        library: Some(hadal_gpumock::library()),
        ..RocmOptions::default()
    })
}

/// The first `count` devices of `backend` together; `one`: the first one as often.
fn group(backend: &dyn Backend, count: usize, one: bool) -> Result<Arc<dyn Device>> {
    let ordinals = 0..count;
    let devices = ordinals.map(|ordinal| backend.open(if one { 0 } else { ordinal }));
    hadal_group::join(devices.collect::<Result<_>>()?)
}

/// So many tokens: of more than a chunk.
fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|number| (number * 37 + 5) % 150).collect()
}

/// Everything that a step computes, of a prompt in chunks and of tokens after it.
fn everything(engine: &Arc<Engine>, length: u32) -> Vec<Tensor> {
    let options = ForwardOptions {
        all: true,
        greedy: 2,
    };
    let quiet = &mut |_, _| {};
    forward(engine, &prompt(length), options, &Cancel::new(), quiet).expect("it runs")
}

fn answer(session: &mut Session, length: u32, count: usize) -> (Vec<u32>, u64) {
    let (greedy, cancel) = (SamplingOptions::greedy(), Cancel::new());
    let decoder = Decoder::start(session, &prompt(length), greedy, &cancel, &mut |_, _| {});
    let mut decoder = decoder.expect("a prompt");
    let mut out = vec![decoder.newest()];
    while out.len() < count {
        out.extend(decoder.advance().expect("a step"));
    }
    (out, decoder.draft_counts().accepted)
}

/// Compares everything on one device and on several, for a prompt of so many tokens.
fn compare(label: &str, model: &Arc<Model>, devices: [Arc<dyn Device>; 2], length: u32) {
    let count = devices[1].info().members.len();
    assert!(count > 1, "{label}: {:?}", devices[1].info());
    let [one, several] = devices.map(|device| Arc::new(load(model, device)));
    let (expected, found) = (everything(&one, length), everything(&several, length));
    assert_eq!(found.len(), expected.len(), "{label}");
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found == expected, "{label}: {} differs", expected.name);
    }
    let session = |engine| Session::new(engine, true).expect("a session");
    let expected = answer(&mut session(&one), length, 5);
    let mut talking = session(&several);
    assert_eq!(answer(&mut talking, length, 5), expected, "{label}");
    // The caches of all members go along.
    let mut fork = talking.fork().expect("there is room");
    let expected = answer(&mut talking, 2, 4);
    assert_eq!(answer(&mut fork, 2, 4), expected, "{label}");
}

#[test]
fn host_devices_together_give_what_one_gives() {
    for model in [model(Family::V3Fp8), model(Family::Moonlight), trained()] {
        for count in [2, 3, 7] {
            let host = HostBackend::new().with_threads(1);
            let several = group(&host, count, true).expect("it opens");
            let ids = vec!["host"; count].join("+");
            assert_eq!(several.info().id(), ids);
            let label = format!("{count} of host");
            let one = host.open(0).expect("it opens");
            compare(&label, &model, [one, several], 21);
        }
    }
}

#[test]
fn devices_of_wgpu_together_give_what_one_gives() {
    let backend = WgpuBackend::new(WgpuOptions::default());
    match (backend.open(0), group(&backend, 2, true)) {
        (Ok(one), Ok(several)) => {
            compare("two of wgpu", &model(Family::V3Fp8), [one, several], 21);
        }
        (Err(error), _) | (_, Err(error)) => println!("NOT RUN on wgpu: {error}"),
    }
}

/// One test, since the mock drivers are one process's.
#[test]
fn gpus_of_a_vendor_together_give_what_one_gives_and_hold_what_was_planned() {
    let mock = steer();
    let model = model(Family::V3Fp8);
    let (cuda, rocm) = (cuda(), rocm());
    let vendors: [(&str, &dyn Backend); 2] = [("cuda", &cuda), ("rocm", &rocm)];
    for (vendor, backend) in vendors {
        for model in [&model, &tied()] {
            let several = group(backend, 3, false).expect("it opens");
            let one = backend.open(0).expect("it opens");
            compare(vendor, model, [one, several], 9);
        }
        planned(&model, backend);
    }
    lost(&mock, "cuGraphLaunch", || Box::new(self::cuda()));
    lost(&mock, "hipModuleLaunchKernel", || Box::new(self::rocm()));
    for backend in [&cuda as &dyn Backend, &rocm] {
        let twice = group(backend, 2, true).err();
        assert!(
            matches!(twice, Some(Error::Unsupported { .. })),
            "{twice:?}"
        );
    }
    no_complaints();
    assert_eq!(mock.live().expect("the mock drivers"), 0);
}

/// What a launch answers that broke the device until its context is given back.
const LAUNCH_FAILED: u32 = 719;

/// A session goes on after one of several devices, or the only one, is lost: what they held is given
/// back before they are opened again.
fn lost(mock: &Steer, launch: &str, backend: fn() -> Box<dyn Backend>) {
    let model = model(Family::V3);
    for count in [1, 2] {
        let open = move || group(backend().as_ref(), count, false);
        let calm = Arc::new(load(&model, open().expect("it opens")));
        let expected = answer(&mut Session::new(&calm, true).expect("a session"), 9, 5);
        drop(calm);
        let engine = load(&model, open().expect("it opens"));
        let again = Arc::new(Mutex::new(0));
        let counted = again.clone();
        let engine = engine.with_recovery(move |_: &Error| {
            *counted.lock().expect("no test panics inside") += 1;
            Ok(open()?)
        });
        let engine = Arc::new(engine);
        // Another session knows the home that is left.
        let _other = Session::new(&engine, true).expect("a session");
        let mut session = Session::new(&engine, true).expect("a session");
        mock.fail_call(launch, 6, LAUNCH_FAILED)
            .expect("the mock drivers");
        assert_eq!(answer(&mut session, 9, 5), expected, "{launch}, {count}");
        assert_eq!(*again.lock().expect("no test panics inside"), 1);
    }
}

/// Each member holds what its part of the plan says.
fn planned(model: &Arc<Model>, backend: &dyn Backend) {
    let counting: Vec<Arc<Counting>> = (0..3)
        .map(|ordinal| Counting::new(backend.open(ordinal).expect("it opens")))
        .collect();
    let members = counting
        .iter()
        .map(|device| device.clone() as Arc<dyn Device>);
    let several = hadal_group::join(members.collect()).expect("they are alike");
    let plan = Plan::of(model, several.info(), &options(), &Ask::default()).expect("a plan");
    let engine = Arc::new(load(model, several));
    let batch = Batch::new(&engine).expect("there is room");
    let cancel = Cancel::new();
    let mut decoders: Vec<Decoder<'_>> = (1..4)
        .map(|length| {
            let (session, ids) = (batch.session().expect("a place"), prompt(length));
            let (greedy, observe) = (SamplingOptions::greedy(), Observe::default());
            let quiet = &mut |_, _| {};
            Decoder::owning(session, &ids, greedy, observe, &cancel, quiet).expect("a prompt")
        })
        .collect();
    for _ in 0..3 {
        let mut all: Vec<_> = decoders.iter_mut().collect();
        batch.advance(&mut all, &cancel).expect("a step");
    }
    assert_eq!(plan.tiers.len(), counting.len());
    for (tier, device) in plan.tiers.iter().zip(&counting) {
        let id = device.info().id();
        assert_eq!(tier.member.as_deref(), Some(id.as_str()));
        let is = |part: &'static str| move |label: &str| label.starts_with(part);
        let weights = device.bytes(is("weights"));
        assert!(weights > 0, "{id}");
        assert_eq!(weights, tier.weight_bytes(), "{id}");
        let cache = device.bytes(is("latent cache"));
        // The next-token module of a batch has none.
        assert_eq!(cache > 0, tier.part(PartKind::Attention) > 0, "{id}");
        assert_eq!(cache, tier.part(PartKind::Cache), "{id}");
        assert_eq!(device.bytes(is("rope")), tier.part(PartKind::RotaryTable));
        let scratch = device.bytes(is("scratch"));
        assert!(scratch > 0 && scratch <= tier.part(PartKind::Scratch));
        let all = device.bytes(|_| true);
        assert!(all <= tier.bytes(), "{id}: {all} of {}", tier.bytes());
    }
    // The sum is the model on one.
    let alone = backend.open(0).expect("it opens");
    let alone = Plan::of(model, alone.info(), &options(), &Ask::default()).expect("a plan");
    for kind in [
        PartKind::RoutedExperts,
        PartKind::Attention,
        PartKind::Cache,
    ] {
        assert_eq!(plan.part(kind), alone.part(kind), "{kind:?}");
    }
}

#[test]
fn an_answer_goes_on_after_one_of_them_is_lost() {
    let open = |lose_after_submits| {
        WgpuBackend::new(WgpuOptions {
            lose_after_submits,
            ..WgpuOptions::default()
        })
        .open(0)
    };
    if let Err(error) = open(None) {
        println!("NOT RUN on wgpu: {error}");
        return;
    }
    let model = trained();
    let join = move |first, second| hadal_group::join(vec![open(first)?, open(second)?]);
    let calm = Arc::new(load(&model, join(None, None).expect("it opens")));
    let expected = answer(&mut Session::new(&calm, true).expect("a session"), 21, 20);
    assert!(expected.1 > 2, "{expected:?}");
    for (first, second) in [(Some(2), None), (None, Some(6)), (None, Some(1))] {
        let engine = load(&model, join(first, second).expect("it opens"));
        let again = Arc::new(Mutex::new(0));
        let count = again.clone();
        let engine = engine.with_recovery(move |_: &Error| {
            *count.lock().expect("no test panics inside") += 1;
            Ok(join(None, None)?)
        });
        let mut session = Session::new(&Arc::new(engine), true).expect("a session");
        assert_eq!(
            answer(&mut session, 21, 20),
            expected,
            "{first:?} {second:?}"
        );
        assert_eq!(*again.lock().expect("no test panics inside"), 1);
    }
}

#[test]
fn devices_that_are_not_alike_are_refused() {
    let host = HostBackend::new().open(0).expect("the host always opens");
    let pair = hadal_group::join(vec![host.clone(), host.clone()]).expect("they are alike");
    let null = hadal_null::NullBackend.open(0).expect("it opens");
    for other in [pair, null] {
        let refused = hadal_group::join(vec![host.clone(), other]).err();
        assert!(
            matches!(refused, Some(Error::Unsupported { .. })),
            "{refused:?}"
        );
    }
    assert!(matches!(
        hadal_group::join(Vec::new()),
        Err(Error::Invalid(_))
    ));
    let alone = hadal_group::join(vec![host.clone()]).expect("one is one");
    assert!(Arc::ptr_eq(&alone, &host));
}
