//! Tickets of the group: each stands for the newest ticket of every member.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hadal_device::{Device, Error, Result, Ticket};

/// Finished submits whose tickets are remembered, for the time they took.
const REMEMBERED: usize = 64;

/// A submit.
struct Entry {
    ticket: u64,
    /// The newest ticket of each member then.
    newest: Vec<Ticket>,
    /// Those of the submit itself.
    own: Vec<(usize, Ticket)>,
}

#[derive(Default)]
struct Log {
    last: u64,
    newest: Vec<Ticket>,
    entries: VecDeque<Entry>,
}

/// What was submitted.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<Log>);

impl Tickets {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `submit`, which notes tickets of members, and names them together. Submits of several
    /// threads come one after the other.
    pub fn submit(
        &self,
        members: &[Arc<dyn Device>],
        submit: impl FnOnce(&mut Vec<(usize, Ticket)>) -> Result<()>,
    ) -> Result<Ticket> {
        let mut log = self.log();
        let mut own = Vec::new();
        let submitted = submit(&mut own);
        log.newest.resize(members.len(), Ticket::default());
        for (member, ticket) in &own {
            log.newest[*member] = *ticket;
        }
        log.last += 1;
        let entry = Entry {
            ticket: log.last,
            newest: log.newest.clone(),
            own,
        };
        log.entries.push_back(entry);
        while log.entries.len() > REMEMBERED && is_done(&log.entries[0], members) {
            log.entries.pop_front();
        }
        // What was submitted before an error is waited for, too.
        submitted.map(|()| Ticket(log.last))
    }

    /// The members' tickets that `ticket` waits for; those that are forgotten are done.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that was never given.
    pub fn newest(&self, ticket: Ticket) -> Result<Vec<Ticket>> {
        let log = self.log();
        if ticket.0 > log.last {
            return Err(Error::Invalid(format!(
                "ticket {} was never given",
                ticket.0
            )));
        }
        let found = log.entries.iter().rev().find(|it| it.ticket <= ticket.0);
        Ok(found.map_or(Vec::new(), |entry| entry.newest.clone()))
    }

    /// The last one of which everything is done.
    pub fn completed(&self, members: &[Arc<dyn Device>]) -> Ticket {
        let log = self.log();
        let unfinished = log.entries.iter().find(|entry| !is_done(entry, members));
        Ticket(unfinished.map_or(log.last, |entry| entry.ticket - 1))
    }

    /// What a submit took on the member that took longest.
    pub fn time(&self, ticket: Ticket, members: &[Arc<dyn Device>]) -> Option<Duration> {
        let log = self.log();
        let entry = log.entries.iter().find(|entry| entry.ticket == ticket.0)?;
        let times = entry
            .own
            .iter()
            .map(|(member, own)| members[*member].gpu_time(*own));
        times.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

fn is_done(entry: &Entry, members: &[Arc<dyn Device>]) -> bool {
    let waited = entry.newest.iter().zip(members);
    waited
        .into_iter()
        .all(|(ticket, member)| member.completed() >= *ticket)
}
