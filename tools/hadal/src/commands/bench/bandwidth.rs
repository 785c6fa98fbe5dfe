//! How fast this machine reads memory: the bound of decoding on the host.
//!
//! Every thread sums a buffer of its own that no cache holds; the best of several passes
//! counts, since everything else that runs only makes it slower.

use std::hint::black_box;
use std::sync::{Barrier, OnceLock};
use std::thread::Builder;
use std::time::Instant;

/// What the memory gave.
#[derive(Clone, Copy, Debug)]
pub struct Bandwidth {
    /// Best of all passes, all threads together.
    pub bytes_per_second: f64,
    /// Threads that read.
    pub threads: usize,
}

/// Memory of all threads together: several times the largest caches.
const TOTAL_BYTES: usize = 512 << 20;
const PASSES: usize = 6;
/// Independent sums, so that the processor waits for memory and not for its adders.
const LANES: usize = 32;

/// Measures with `threads` threads, or one a core.
pub fn measure(threads: Option<usize>) -> Bandwidth {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = threads.unwrap_or_else(cores).max(1);
    let words = (TOTAL_BYTES / 8 / threads).next_multiple_of(LANES);
    // Made when it is known how many there are: the system may refuse some of the threads.
    let barrier: OnceLock<Barrier> = OnceLock::new();
    let (seconds, threads) = std::thread::scope(|scope| {
        let work = || Builder::new().spawn_scoped(scope, || passes(words, barrier.wait()));
        let workers: Vec<_> = (1..threads).map_while(|_| work().ok()).collect();
        let threads = workers.len() + 1;
        let mut times = vec![passes(words, barrier.get_or_init(|| Barrier::new(threads)))];
        let workers = workers.into_iter();
        times.extend(workers.map(|worker| worker.join().unwrap_or([f64::MAX; PASSES])));
        // A pass is over when its slowest thread is.
        let slowest = |pass: usize| times.iter().map(|t| t[pass]).fold(0.0, f64::max);
        let best = (0..PASSES).map(slowest).fold(f64::MAX, f64::min);
        (best, threads)
    });
    Bandwidth {
        bytes_per_second: (8 * words * threads) as f64 / seconds,
        threads,
    }
}

fn passes(words: usize, barrier: &Barrier) -> [f64; PASSES] {
    // Not zero: untouched zero pages are all the same page.
    let memory = vec![1u64; words];
    let mut seconds = [0.0; PASSES];
    for time in &mut seconds {
        barrier.wait();
        let started = Instant::now();
        black_box(sum(black_box(&memory)));
        *time = started.elapsed().as_secs_f64();
    }
    seconds
}

fn sum(memory: &[u64]) -> u64 {
    let mut lanes = [0u64; LANES];
    for chunk in memory.chunks_exact(LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*value);
        }
    }
    lanes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        assert_eq!(sum(&vec![3; 4 * LANES]), 12 * LANES as u64);
    }
}
