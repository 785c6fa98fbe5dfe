//! Who holds how much of an engine's memory, against a budget that may change while it runs.
//!
//! Decides whether one more session may have memory. What others hold stays theirs: a budget
//! that shrinks refuses what is new and says by how much it is exceeded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::plan::{Memory, PartKind, Plan};
use crate::{EngineError, Result};

/// What an engine holds, and what it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Whose memory.
    pub memory: Memory,
    /// Bytes that may be used; `None`: as many as there are.
    pub budget_bytes: Option<u64>,
    /// Bytes of weights, tables and the temporaries of the largest step, whether they are
    /// allocated already or not; files that are read where they lie do not count.
    pub fixed_bytes: u64,
    /// Bytes of the sessions' caches.
    pub session_bytes: u64,
    /// Sessions.
    pub sessions: u32,
}

impl MemoryUse {
    /// All bytes.
    pub fn used_bytes(&self) -> u64 {
        self.fixed_bytes + self.session_bytes
    }

    /// Bytes beyond the budget.
    pub fn over_bytes(&self) -> u64 {
        let budget = self.budget_bytes.unwrap_or(u64::MAX);
        self.used_bytes().saturating_sub(budget)
    }
}

/// The books of an engine.
pub(crate) struct Ledger(Mutex<MemoryUse>);

impl Ledger {
    /// For the memory that `plan` is of, of all members of a device together; `budget`: what its
    /// owner allows; `seat_bytes`: those of the planned sessions.
    pub fn new(plan: &Plan, budget: Option<u64>, seat_bytes: u64) -> Arc<Ledger> {
        let tier = plan.tiers.first();
        let (needed, cache) = (plan.needed_bytes(), plan.part(PartKind::Cache));
        // The plan has the sessions, too, whose rows stand among the others.
        let rows = seat_bytes.saturating_sub(cache);
        Arc::new(Ledger(Mutex::new(MemoryUse {
            memory: tier.map_or(Memory::Host, |tier| tier.memory),
            budget_bytes: budget,
            fixed_bytes: needed.saturating_sub(cache + rows),
            session_bytes: 0,
            sessions: 0,
        })))
    }

    fn books(&self) -> MutexGuard<'_, MemoryUse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_budget(&self, budget: Option<u64>) -> MemoryUse {
        let mut books = self.books();
        books.budget_bytes = budget;
        *books
    }

    pub fn read(&self) -> MemoryUse {
        *self.books()
    }

    /// Room for `sessions` more sessions of `bytes` bytes together, until the answer is dropped.
    ///
    /// # Errors
    /// [`EngineError::OverBudget`]; nothing changed then.
    pub fn reserve(self: &Arc<Ledger>, bytes: u64, sessions: u32) -> Result<Reserved> {
        let mut books = self.books();
        let mut with = *books;
        with.session_bytes += bytes;
        with.sessions += sessions;
        if with.over_bytes() > 0 {
            return Err(EngineError::OverBudget {
                wanted_bytes: bytes,
                over_bytes: with.over_bytes(),
                used: *books,
            });
        }
        *books = with;
        Ok(Reserved {
            ledger: self.clone(),
            bytes,
            sessions,
        })
    }
}

/// The part of the memory that some sessions have.
pub(crate) struct Reserved {
    ledger: Arc<Ledger>,
    bytes: u64,
    sessions: u32,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut books = self.ledger.books();
        books.session_bytes -= self.bytes;
        books.sessions -= self.sessions;
    }
}
