//! How an engine makes room for others while it runs: pauses, low priority, a memory budget.
//!
//! Decides what is given up; the steps that it is given up between are `engine.rs`'s.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hadal_device::{DeviceKind, Features};

use crate::home::Home;
use crate::ledger::MemoryUse;
use crate::{Engine, EngineOptions, Result, SHARED_BUDGET};

/// The longest dispatch and submit on the device of `home`.
pub(crate) fn dispatch_budget(
    home: &Home,
    options: &EngineOptions,
    low_priority: bool,
) -> Option<Duration> {
    let info = home.device.info();
    let shared = info.features.has(Features::SHARED);
    match (info.kind, options.dispatch_budget) {
        (DeviceKind::Cpu, _) => None,
        (_, budget) if low_priority || shared => {
            Some(budget.map_or(SHARED_BUDGET, |budget| budget.min(SHARED_BUDGET)))
        }
        (_, budget) => budget,
    }
}

impl Engine {
    /// Lets running requests finish their step and then sleep, whoever started them, until
    /// [`Engine::resume`]; those that begin meanwhile sleep too. Returns at once. A sleeping
    /// request takes no processor time and can be cancelled.
    pub fn pause(&self) {
        self.gate.close();
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.gate.open();
    }

    /// True from [`Engine::pause`] to [`Engine::resume`].
    pub fn is_paused(&self) -> bool {
        self.gate.is_closed()
    }

    /// Leaves room for others, or no longer: the host works with half of its threads; on
    /// other devices submits are cut to [`SHARED_BUDGET`], and after each the device rests
    /// as long as it worked. Holds from the next step on.
    pub fn set_low_priority(&self, low: bool) {
        let mut state = self.state();
        self.low_priority.store(low, Ordering::Relaxed);
        let home = self.home();
        home.device.set_courteous(low);
        state
            .pace
            .set_budget(dispatch_budget(&home, self.options(), low));
    }

    /// Whether room is left for others.
    pub fn is_low_priority(&self) -> bool {
        self.low_priority.load(Ordering::Relaxed)
    }

    /// What it holds.
    pub fn memory(&self) -> MemoryUse {
        self.ledger.read()
    }

    /// Changes how many bytes of its memory it may hold; `None`: as many as there are. Where
    /// it holds more, sessions that exist go on, new ones are refused
    /// ([`crate::EngineError::OverBudget`]), and what can be made again is given back
    /// ([`Engine::trim`]). The answer says by how much it is over.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_budget(&self, bytes: Option<u64>) -> Result<MemoryUse> {
        let memory = self.ledger.set_budget(bytes);
        if memory.over_bytes() > 0 {
            self.trim()?;
        }
        Ok(memory)
    }

    /// Gives back what the next step makes again: scratch and prepared programs. Waits for
    /// the step that runs.
    ///
    /// # Errors
    /// Those of the device.
    pub fn trim(&self) -> Result<()> {
        let mut state = self.state();
        let home = self.home();
        state.settle(&home)?;
        for (_, prepared) in state.programs.drain() {
            prepared.free(&home);
        }
        if let Some((scratch, _)) = state.scratch.take() {
            home.free(scratch);
        }
        Ok(())
    }
}
