//! Mutates GGUF files for as long as asked, and opens, loads and runs whatever is accepted.
//!
//! `cargo run --release -p hadal-tests --example fuzz_gguf -- [--seconds N] [--seed N]`
//!
//! Anything but a model or an error is a finding: a panic leaves the input in `fuzz_gguf.failed`
//! in the folder for temporary files. Begins with small models that it quantises itself; needs no
//! network and no nightly compiler.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_device::{Backend, Device, Pages};
use hadal_engine::{Cancel, Engine, EngineOptions, ForwardOptions, forward, gguf_model};
use hadal_host::HostBackend;
use hadal_models::Config;
use hadal_quantize::{Choice, Options, Plan, TextFiles, metadata, quantize};
use hadal_tests::{Random, checkpoint::Family};
use hadal_weights::{Checkpoint, Gguf, TensorSource};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// What numbers of a file are replaced with: edges of what they may hold.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    31,
    32,
    127,
    255,
    256,
    65_535,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x1_0000_0000,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seconds, mut seed) = (60u64, 1u64);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (name.as_str(), value) {
            ("--seconds", Some(value)) => seconds = value,
            ("--seed", Some(value)) => seed = value,
            _ => {
                eprintln!("usage: fuzz_gguf [--seconds N] [--seed N]");
                return ExitCode::from(2);
            }
        }
    }
    match fuzz(Duration::from_secs(seconds), seed) {
        Ok(counts) => {
            println!("no panic in {seconds} s: {counts:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What became of the inputs.
#[derive(Debug, Default)]
struct Counts {
    runs: u64,
    files: u64,
    models: u64,
    loaded: u64,
    answered: u64,
}

fn fuzz(time: Duration, seed: u64) -> Fallible<Counts> {
    let device = HostBackend::new().with_threads(1).open(0)?;
    let files = starting_files()?;
    let (end, mut random) = (Instant::now() + time, Random::new(seed, "gguf"));
    let (mut counts, mut next_report) = (Counts::default(), Instant::now());
    for (file, _) in &files {
        use_file(file.clone(), &device, &mut counts)?;
    }
    let whole = counts.answered as usize == files.len();
    if !whole {
        return Err("a file that nothing was done to does not run".into());
    }
    while Instant::now() < end {
        let (file, header) = &files[random.below(files.len() as u32) as usize];
        let input = mutate(file, *header, &mut random);
        let used = AssertUnwindSafe(|| use_file(input.clone(), &device, &mut counts));
        let outcome = catch_unwind(used).unwrap_or_else(|_| Err("a panic".into()));
        if let Err(error) = outcome {
            let path = std::env::temp_dir().join("fuzz_gguf.failed");
            std::fs::write(&path, &input)?;
            return Err(format!("{error} after {counts:?}: {}", path.display()).into());
        }
        if Instant::now() > next_report {
            eprintln!("{counts:?}");
            next_report = Instant::now() + Duration::from_secs(30);
        }
    }
    Ok(counts)
}

/// Opens, loads and runs a file; an error is that of something it must not say.
fn use_file(bytes: Vec<u8>, device: &Arc<dyn Device>, counts: &mut Counts) -> Fallible<()> {
    counts.runs += 1;
    let pages: Pages = Arc::new(bytes);
    let file = match Gguf::from_pages(vec![("x.gguf".into(), pages)]) {
        Ok(file) => file,
        Err(error) if error.to_string().contains("x.gguf") => return Ok(()),
        Err(error) => return Err(format!("{error} does not name the file").into()),
    };
    counts.files += 1;
    for name in file.names() {
        let info = file.get(name).ok_or("a listed name is not there")?;
        if file.bytes(name)?.len() as u64 != info.bytes {
            return Err(format!("{name} has other bytes than its shape").into());
        }
    }
    let Ok(model) = gguf_model(&file) else {
        return Ok(());
    };
    counts.models += 1;
    let options = EngineOptions {
        context: Some(64),
        chunk: 16,
        ..EngineOptions::default()
    };
    let mut quiet = |_| ControlFlow::Continue(());
    let Ok(engine) = Engine::load(Arc::new(model), device.clone(), options, &mut quiet) else {
        return Ok(());
    };
    counts.loaded += 1;
    let wanted = ForwardOptions {
        all: false,
        greedy: 1,
    };
    let ids = [1, 2, 3];
    let answer = forward(
        &Arc::new(engine),
        &ids,
        wanted,
        &Cancel::new(),
        &mut |_, _| {},
    );
    counts.answered += u64::from(answer.is_ok());
    Ok(())
}

/// Small models in several formats, each with the length of its header.
fn starting_files() -> Fallible<Vec<(Vec<u8>, usize)>> {
    let folder = tempfile::tempdir()?;
    let text = TextFiles {
        tokenizer: String::from_utf8(hadal_tiny::TOKENIZER.to_vec())?,
        template: Some("{{ messages }}".into()),
        bos: Some(0),
        stops: vec![1],
    };
    let mut models: Vec<(Config, Checkpoint, Option<&TextFiles>)> = Vec::new();
    for family in Family::ALL {
        let file = ("m".to_string(), Arc::new(family.safetensors(7)) as Pages);
        models.push((family.config(), Checkpoint::from_pages(vec![file])?, None));
    }
    let tiny = Checkpoint::from_static(&[("m", hadal_tiny::WEIGHTS)])?;
    models.push((Config::from_json(hadal_tiny::CONFIG)?, tiny, Some(&text)));
    let mut files = Vec::new();
    for (config, source, text) in &models {
        for recipe in ["Q8_0", "Q4_K_M"] {
            let plan = Plan::new(config, source, &Choice::new(recipe)?)?;
            // Some configurations cannot be said in a GGUF file.
            let text = text.map_or(Ok(Vec::new()), |text| text.keys(config))?;
            let Ok(metadata) = metadata(config, "fuzz", text, &plan) else {
                continue;
            };
            let header = hadal_quantize::header(&metadata, &plan.described()).len();
            let path = folder.path().join("x.gguf");
            let options = Options {
                threads: 1,
                verify: false,
                disk_full_after: None,
            };
            let mut quiet = |_: hadal_quantize::Progress<'_>| ControlFlow::Continue(());
            quantize(&plan, &metadata, source, None, &path, &options, &mut quiet)?;
            files.push((std::fs::read(&path)?, header));
            std::fs::remove_file(&path)?;
        }
    }
    Ok(files)
}

/// Some changes, most of them to the header.
fn mutate(from: &[u8], header: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = from.to_vec();
    for _ in 0..1 + random.below(4) {
        let range = match random.below(8) {
            0 => bytes.len(),
            1 => 64,
            _ => header,
        };
        let at = random.below(range.min(bytes.len()).max(1) as u32) as usize;
        match random.below(8) {
            0 => bytes.truncate(at),
            1 | 2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            3 => {
                let end = (at + random.below(32) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                // A piece comes a second time: a name, a key, a tensor.
                let start = random.below(header as u32) as usize;
                let end = (start + random.below(96) as usize).min(bytes.len());
                let copy = bytes[start.min(end)..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let number = NUMBERS[random.below(NUMBERS.len() as u32) as usize];
                let width = [1, 4, 8][random.below(3) as usize];
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number.to_le_bytes()[..width].iter().copied());
            }
        }
    }
    bytes
}
