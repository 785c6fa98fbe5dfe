//! How fast a device works, and so how much may be given to it at once: no dispatch and no
//! submit longer than a budget, so that a desktop stays responsive and no driver takes the
//! device for hung (Windows resets one after two seconds).
//!
//! Decides rates and limits from times that others measured; must not know a device.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hadal_graph::WorkLimit;

use crate::model::Kind;
use crate::programs::ProgramKey;

/// Units a second where nothing was measured: less than what GPUs of the last ten years do,
/// so that the first steps are short on the slowest of them.
const ASSUMED: f64 = 2e10;

/// Share of the known rates that is trusted for a size that never ran.
const CAUTION: f64 = 0.5;

/// Runs of a size that count. The fastest of them does: whatever else happens on a machine
/// only makes a run slower.
const KEPT: usize = 4;

/// Tokens of the first piece of a prompt, from which the rate becomes known.
const FIRST_CHUNK: u32 = 16;

/// Positions below which a longer cache is no reason to cut anew.
const MIN_POSITIONS: u32 = 4096;

/// How much finer or coarser another cut must be to be worth preparing a program again.
const FINER: f64 = 1.5;
const COARSER: f64 = 4.0;

/// What steps took on one device.
pub(crate) struct Pace {
    budget: Option<Duration>,
    runs: HashMap<(Kind, u32), VecDeque<f64>>,
    /// Most tokens of a step, where cutting dispatches is not enough.
    chunk: u32,
}

impl Pace {
    /// For steps of at most `chunk` tokens; `budget`: the longest dispatch and submit, `None`
    /// for as long as they like.
    pub fn new(budget: Option<Duration>, chunk: u32) -> Pace {
        Pace {
            budget,
            runs: HashMap::new(),
            chunk,
        }
    }

    /// Another budget; what was measured stays.
    pub fn set_budget(&mut self, budget: Option<Duration>) {
        self.budget = budget;
    }

    /// True if anything is limited.
    pub fn is_limited(&self) -> bool {
        self.budget.is_some()
    }

    /// A program of this size did `units` in `time`.
    pub fn observe(&mut self, key: &ProgramKey, units: u64, time: Duration) {
        let seconds = time.as_secs_f64();
        if seconds > 0.0 && units > 0 {
            let runs = self.runs.entry((key.kind, key.bucket)).or_default();
            runs.push_back(units as f64 / seconds);
            if runs.len() > KEPT {
                runs.pop_front();
            }
        }
    }

    /// Units a second for a size.
    fn rate(&self, key: &ProgramKey) -> f64 {
        let fastest = |runs: &VecDeque<f64>| runs.iter().copied().fold(0.0, f64::max);
        match self.runs.get(&(key.kind, key.bucket)) {
            Some(runs) => fastest(runs),
            None if self.runs.is_empty() => ASSUMED,
            None => CAUTION * self.runs.values().map(fastest).fold(f64::MAX, f64::min),
        }
    }

    /// The most that a dispatch and a submit may do with `positions` in the cache.
    pub fn limit(&self, key: &ProgramKey, positions: u32) -> Option<WorkLimit> {
        let units = self.rate(key) * self.budget?.as_secs_f64();
        Some(WorkLimit {
            units: (units as u64).max(1),
            positions: positions.next_power_of_two().max(MIN_POSITIONS),
        })
    }

    /// Whether a program that was cut to `had`, and whose longest dispatch or submit has
    /// `longest` units now, should be cut to `wanted` instead.
    pub fn is_worth_cutting(
        &self,
        key: &ProgramKey,
        had: WorkLimit,
        wanted: WorkLimit,
        longest: u64,
    ) -> bool {
        let runs = self.runs.get(&(key.kind, key.bucket));
        let runs = runs.map_or(0, VecDeque::len);
        let (had_units, units) = (had.units as f64, wanted.units as f64);
        let too_long = longest as f64 > FINER * units;
        // The first run of a program warms up the device and the driver.
        let finer = runs >= 2 && had_units > FINER * units;
        let deeper = wanted.positions > had.positions;
        // What is shorter than its limit was not cut because of it.
        let was_cut = longest as f64 > had_units / 4.0;
        let coarser = runs >= KEPT && was_cut && units > COARSER * had_units;
        too_long && (finer || deeper) || coarser
    }

    /// Tokens that the next step of a prompt may have.
    pub fn chunk(&self) -> u32 {
        match self.is_limited() && self.runs.is_empty() {
            true => self.chunk.min(FIRST_CHUNK),
            false => self.chunk,
        }
    }

    /// A program was cut to `limit` as far as it goes, and `longest` is its longest dispatch.
    pub fn prepared(&mut self, key: &ProgramKey, limit: WorkLimit, longest: u64) {
        if longest > 2 * limit.units {
            self.chunk = self.chunk.min((key.bucket / 2).max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use hadal_graph::Form;
    use hadal_models::Outputs;

    use super::*;

    fn key(bucket: u32) -> ProgramKey {
        ProgramKey {
            kind: Kind::Main,
            outputs: Outputs::Hidden,
            bucket,
            logit_rows: 1,
            form: Form::Absorbed,
            sequences: 1,
        }
    }

    fn pace() -> Pace {
        Pace::new(Some(Duration::from_millis(100)), 256)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_prompt_begins_with_a_short_step_and_goes_on_with_what_was_measured() {
        let mut pace = pace();
        assert_eq!(pace.chunk(), FIRST_CHUNK);
        let limit = |pace: &Pace| pace.limit(&key(256), 0).expect("limited").units;
        assert_eq!(limit(&pace), 2_000_000_000);
        pace.observe(&key(16), 4_000_000, SECOND);
        assert_eq!(pace.chunk(), 256);
        assert_eq!(
            limit(&pace),
            200_000,
            "half of the rate, for a tenth of a second"
        );
    }

    #[test]
    fn one_slow_run_among_fast_ones_changes_nothing() {
        let mut pace = pace();
        pace.observe(&key(1), 1_000_000, SECOND);
        let units = |pace: &Pace| pace.limit(&key(1), 0).expect("limited").units;
        let before = units(&pace);
        pace.observe(&key(1), 1_000_000, 30 * SECOND);
        assert_eq!(units(&pace), before);
        for _ in 0..KEPT {
            pace.observe(&key(1), 1_000_000, 30 * SECOND);
        }
        assert!(units(&pace) < before);
    }

    #[test]
    fn a_program_is_cut_anew_only_where_it_is_too_long_or_much_too_short() {
        let mut pace = pace();
        let limit = |units| WorkLimit {
            units,
            positions: MIN_POSITIONS,
        };
        let again = |pace: &Pace, had, wanted, longest| {
            pace.is_worth_cutting(&key(1), limit(had), limit(wanted), longest)
        };
        pace.observe(&key(1), 1, SECOND);
        assert!(!again(&pace, 1000, 100, 900), "the first run warms up");
        pace.observe(&key(1), 1, SECOND);
        assert!(again(&pace, 1000, 100, 900));
        assert!(!again(&pace, 1000, 100, 120), "hardly too long");
        assert!(!again(&pace, 110, 100, 900), "as short as it goes");
        assert!(!again(&pace, 100, 1000, 90), "known too little");
        pace.observe(&key(1), 1, SECOND);
        pace.observe(&key(1), 1, SECOND);
        assert!(again(&pace, 100, 1000, 90));
        assert!(!again(&pace, 100, 1000, 10), "never was cut");
        let deeper = WorkLimit {
            positions: 2 * MIN_POSITIONS,
            ..limit(100)
        };
        assert!(pace.is_worth_cutting(&key(1), limit(100), deeper, 200));
    }

    #[test]
    fn steps_become_shorter_where_a_dispatch_cannot_be_cut_enough() {
        let mut pace = pace();
        pace.observe(&key(16), 1, SECOND);
        let limit = WorkLimit {
            units: 10,
            positions: MIN_POSITIONS,
        };
        pace.prepared(&key(64), limit, 20);
        assert_eq!(pace.chunk(), 256);
        pace.prepared(&key(64), limit, 21);
        assert_eq!(pace.chunk(), 32);
    }

    #[test]
    fn without_a_budget_nothing_is_limited() {
        let pace = Pace::new(None, 256);
        assert_eq!(pace.limit(&key(1), 0), None);
        assert_eq!(pace.chunk(), 256);
    }
}
