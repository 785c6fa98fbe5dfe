//! How fast the memory of a device is: the bound of decoding.
//!
//! Every device can copy a buffer. On the host reading alone is the larger figure, since what
//! is written is read first: there every thread sums a buffer of its own, which was written past
//! the caches just before. Where that cannot be, all buffers together are larger than what caches
//! usually keep for one program.
//! The best of several passes counts, since everything else that runs only makes it slower; short
//! passes, since one that lasts longer than a turn on a busy processor is never the only one.
//! [`Store`] keeps what was measured for a day.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread::Builder;
use std::time::{Duration, Instant};

use hadal_device::{Access, Device, DeviceKind, Error, Step};
use hadal_host::fill_past_caches;

use crate::stage::{Buffers, bind, program};

mod store;

pub use store::{Measured, Store};

/// What the memory gave.
#[derive(Clone, Copy, Debug)]
pub struct Bandwidth {
    /// Best of all passes: bytes read and written, all threads together.
    pub bytes_per_second: f64,
    /// Threads of the host that read; `None`: a device copied.
    pub threads: Option<usize>,
}

impl Bandwidth {
    /// `31.8 GB/s read by 2 threads`.
    pub fn text(&self) -> String {
        let rate = self.bytes_per_second / 1e9;
        match self.threads {
            Some(threads) => format!("{rate:.1} GB/s read by {threads} threads"),
            None => format!("{rate:.1} GB/s copying"),
        }
    }
}

/// How much is read how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Bytes: of a buffer that is copied, or of all that threads read.
    pub bytes: u64,
    /// Passes at most, of which the best counts.
    pub passes: usize,
    /// No pass begins after so long.
    pub time: Duration,
}

impl Effort {
    /// For reports.
    pub const THOROUGH: Effort = Effort {
        bytes: 512 << 20,
        passes: 6,
        time: Duration::MAX,
    };
    /// For a forecast. A processor that wakes up reads slower for a while: four passes gave 18.7
    /// GB/s on a machine where forty give 22.
    const SHORT: Effort = Effort {
        bytes: 192 << 20,
        passes: 40,
        time: Duration::from_millis(150),
    };
    /// The same in the memory of the host, of which a plan may take 200 MB.
    const HOST: Effort = Effort {
        bytes: if cfg!(target_arch = "x86_64") {
            32 << 20
        } else {
            96 << 20
        },
        ..Effort::SHORT
    };
    /// Two buffers of the host's memory.
    const SHARED: Effort = Effort {
        bytes: 48 << 20,
        ..Effort::SHORT
    };
    /// The same for a software adapter, which is slow.
    const SOFTWARE: Effort = Effort {
        bytes: 32 << 20,
        passes: 4,
        ..Effort::SHORT
    };

    /// A short one for devices of this kind.
    pub fn short(kind: DeviceKind) -> Effort {
        match kind {
            DeviceKind::Software => Effort::SOFTWARE,
            DeviceKind::Cpu => Effort::HOST,
            DeviceKind::IntegratedGpu => Effort::SHARED,
            DeviceKind::DiscreteGpu | DeviceKind::VirtualGpu => Effort::SHORT,
        }
    }
}

/// Measures the memory of `device`; the host's with `threads` threads, or one a core.
///
/// # Errors
/// Those of the device.
pub fn of_device(
    device: &dyn Device,
    threads: Option<usize>,
    effort: Effort,
) -> hadal_device::Result<Bandwidth> {
    match device.info().kind {
        DeviceKind::Cpu => Ok(measure(threads, effort)),
        _ => Ok(Bandwidth {
            bytes_per_second: copying(device, effort)?,
            threads: None,
        }),
    }
}

/// Bytes a second, read and written, of a program that copies as much as there is memory for.
///
/// # Errors
/// Those of the device.
pub fn copying(device: &dyn Device, effort: Effort) -> hadal_device::Result<f64> {
    let mut bytes = effort
        .bytes
        .min(device.info().limits.max_buffer_bytes / 16 * 16);
    loop {
        match copying_bytes(device, bytes, effort) {
            Err(Error::OutOfMemory { .. }) if bytes > 1 << 20 => bytes /= 2,
            result => return result,
        }
    }
}

fn copying_bytes(device: &dyn Device, bytes: u64, effort: Effort) -> hadal_device::Result<f64> {
    let mut buffers = Buffers::new(device);
    buffers.add("copied from", bytes)?;
    buffers.add("copied to", bytes)?;
    let copy = Step::Copy {
        from: bind(0, bytes, Access::Read),
        to: bind(1, bytes, Access::Write),
    };
    // Memory that nothing was written to may be one page of zeros again and again.
    let fill = Step::Fill {
        to: bind(0, bytes, Access::Write),
        byte: 0x55,
    };
    let filled = device.prepare(&program(2, fill))?.submit(buffers.ids())?;
    device.wait(filled)?;
    let mut copy = device.prepare(&program(2, copy))?;
    let started = Instant::now();
    let mut best = buffers.seconds(copy.as_mut())?;
    for _ in 1..effort.passes {
        if started.elapsed() > effort.time {
            break;
        }
        best = best.min(buffers.seconds(copy.as_mut())?);
    }
    Ok(2.0 * bytes as f64 / best)
}

/// Words that each thread reads at least: a pass must last longer than threads take to begin.
const LEAST_WORDS: usize = 1 << 17;

/// Independent sums, so that the processor waits for memory and not for its adders.
const LANES: usize = 32;

/// Reads with `threads` threads, or one a core.
fn measure(threads: Option<usize>, effort: Effort) -> Bandwidth {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = threads.unwrap_or_else(cores).max(1);
    let words = (effort.bytes as usize / 8 / threads).max(LEAST_WORDS);
    let words = words.next_multiple_of(LANES);
    // Made when it is known how many there are: the system may refuse some of the threads.
    let barrier: OnceLock<Barrier> = OnceLock::new();
    let until = AtomicUsize::new(effort.passes);
    let (best, threads) = std::thread::scope(|scope| {
        let work = || {
            let read = || passes(words, barrier.wait(), &until, Duration::MAX);
            Builder::new().spawn_scoped(scope, read)
        };
        let workers: Vec<_> = (1..threads).map_while(|_| work().ok()).collect();
        let threads = workers.len() + 1;
        let barrier = barrier.get_or_init(|| Barrier::new(threads));
        let mut times = vec![passes(words, barrier, &until, effort.time)];
        times.extend(workers.into_iter().filter_map(|worker| worker.join().ok()));
        // From the first thread that begins to the last that ends: one that has the memory to
        // itself, while the others wait for the processor, reads faster than its share.
        let took = |pass: usize| {
            let begun = times.iter().map(|times| times[pass].0).min();
            let ended = times.iter().map(|times| times[pass].1).max();
            begun.zip(ended).map(|(begun, ended)| ended - begun)
        };
        let best = (0..times[0].len()).filter_map(took).min();
        (best.unwrap_or(Duration::MAX), threads)
    });
    Bandwidth {
        bytes_per_second: (8 * words * threads) as f64 / best.as_secs_f64(),
        threads: Some(threads),
    }
}

/// When each pass began and ended. The thread that has a limit of `time` lowers `until` for all of them;
/// it does so before the barrier at which they look, so that all take as many.
fn passes(
    words: usize,
    barrier: &Barrier,
    until: &AtomicUsize,
    time: Duration,
) -> Vec<(Instant, Instant)> {
    let mut memory = vec![0; words];
    let first = Instant::now();
    let mut times = Vec::new();
    loop {
        fill_past_caches(&mut memory, times.len() as u64);
        barrier.wait();
        if times.len() >= until.load(Ordering::Relaxed) {
            return times;
        }
        let begun = Instant::now();
        black_box(sum(black_box(&memory)));
        times.push((begun, Instant::now()));
        if first.elapsed() > time {
            until.fetch_min(times.len(), Ordering::Relaxed);
        }
    }
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

    #[test]
    fn a_measurement_ends_when_its_time_is_over_and_has_one_pass_at_least() {
        let effort = |passes, time| Effort {
            bytes: 1 << 20,
            passes,
            time,
        };
        let endless = effort(usize::MAX, Duration::ZERO);
        let found = measure(Some(2), endless);
        assert!(found.bytes_per_second.is_finite() && found.bytes_per_second > 0.0);
        assert_eq!(found.threads, Some(2));
        let counted = measure(Some(3), effort(2, Duration::MAX));
        assert!(counted.bytes_per_second > 0.0);
    }

    #[test]
    fn a_short_measurement_leaves_a_plan_most_of_its_memory() {
        for kind in [
            DeviceKind::Cpu,
            DeviceKind::IntegratedGpu,
            DeviceKind::Software,
        ] {
            let buffers = if kind == DeviceKind::Cpu { 1 } else { 2 };
            assert!(
                buffers * Effort::short(kind).bytes <= 110_000_000,
                "{kind:?}"
            );
        }
    }
}
