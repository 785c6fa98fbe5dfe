//! Mutates a valid GGUF file for as long as asked, and uses whatever is accepted: metadata as
//! a configuration, tensors under published names, every tensor's bytes.
//!
//! `cargo run --release -p hadal-models --example fuzz_gguf -- FILE.gguf [SECONDS [SEED]]`
//!
//! A panic is a finding: the input is written to `fuzz_gguf.failed` in the folder for temporary
//! files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_device::Pages;
use hadal_models::gguf;
use hadal_weights::{Gguf, Renamed, TensorSource};

/// Numbers at the edges of what counts, sizes and types may hold.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    31,
    33,
    255,
    256,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| match arguments.get(at) {
        Some(text) => text.parse().unwrap_or(default),
        None => default,
    };
    let Some(file) = arguments.first().and_then(|path| std::fs::read(path).ok()) else {
        eprintln!("usage: fuzz_gguf FILE.gguf [SECONDS [SEED]]");
        return ExitCode::from(2);
    };
    let end = Instant::now() + Duration::from_secs(number(1, 60));
    let mut random = Random(number(2, 1) | 1);
    // Most of a file is weights, in which nothing can be wrong.
    let header = file.len().min(16 << 10);
    let (mut runs, mut accepted) = (0u64, 0u64);
    while Instant::now() < end {
        let input = mutate(&file, header, &mut random);
        let used = catch_unwind(AssertUnwindSafe(|| use_file(&input)));
        let Ok(good) = used else {
            let path = std::env::temp_dir().join("fuzz_gguf.failed");
            let saved = std::fs::write(&path, input).is_ok();
            eprintln!("a panic after {runs} runs; input saved to {path:?}: {saved}");
            return ExitCode::FAILURE;
        };
        runs += 1;
        accepted += u64::from(good);
    }
    println!("{runs} runs, {accepted} accepted, no panic");
    ExitCode::SUCCESS
}

/// Whether the file was accepted.
fn use_file(bytes: &[u8]) -> bool {
    let pages: Pages = Arc::new(bytes.to_vec());
    let Ok(file) = Gguf::from_pages(vec![("fuzz.gguf".into(), pages)]) else {
        return false;
    };
    let config = gguf::config(file.metadata(), &file);
    let named = Renamed::new(&file, &|name, info| gguf::published(name, info, true));
    for name in file.names() {
        let bytes = file.bytes(name).map(<[u8]>::len);
        assert_eq!(bytes.ok(), file.get(name).map(|info| info.bytes as usize));
    }
    config.is_ok() && named.is_ok()
}

fn mutate(file: &[u8], header: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(header.saturating_sub(8).max(1));
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let count = [1, 2, 4, 8][random.below(4)];
                bytes[at..at + count].copy_from_slice(&edge[..count]);
            }
            3 => {
                let from = random.below(header.saturating_sub(8).max(1));
                bytes.copy_within(from..from + 8, at);
            }
            _ => bytes.truncate(at.max(9) + header * random.below(2)),
        }
        if bytes.len() < header {
            break;
        }
    }
    bytes
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, below: usize) -> usize {
        (self.next() % below as u64) as usize
    }
}
