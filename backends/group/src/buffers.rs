//! Which buffers of the members a buffer of the group is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hadal_device::{BufferId, Error, Result};

/// A buffer of the group.
#[derive(Clone, Debug)]
pub(crate) enum Buffer {
    /// On one member.
    On(usize, BufferId),
    /// On each.
    Each {
        ids: Vec<BufferId>,
        /// The member whose content was written last by a program.
        newest: usize,
    },
}

impl Buffer {
    /// Its parts: members and their names of it.
    pub fn parts(&self) -> Vec<(usize, BufferId)> {
        match self {
            Buffer::On(member, id) => vec![(*member, *id)],
            Buffer::Each { ids, .. } => ids.iter().copied().enumerate().collect(),
        }
    }

    /// Its part on `member`.
    pub fn on(&self, member: usize) -> Option<BufferId> {
        match self {
            Buffer::On(own, id) => (*own == member).then_some(*id),
            Buffer::Each { ids, .. } => ids.get(member).copied(),
        }
    }

    /// The part to be read.
    pub fn newest(&self) -> Option<(usize, BufferId)> {
        match self {
            Buffer::On(member, id) => Some((*member, *id)),
            Buffer::Each { ids, newest } => Some((*newest, *ids.get(*newest)?)),
        }
    }
}

/// All buffers of the group.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<(u64, HashMap<BufferId, Buffer>)>);

impl Buffers {
    fn held(&self) -> MutexGuard<'_, (u64, HashMap<BufferId, Buffer>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for `buffer`, of which none was given before.
    pub fn add(&self, buffer: Buffer) -> BufferId {
        let mut held = self.held();
        held.0 += 1;
        let id = BufferId(held.0);
        held.1.insert(id, buffer);
        id
    }

    pub fn remove(&self, id: BufferId) -> Option<Buffer> {
        self.held().1.remove(&id)
    }

    pub fn get(&self, id: BufferId) -> Result<Buffer> {
        let unknown = || Error::Invalid(format!("there is no buffer {}", id.0));
        self.held().1.get(&id).cloned().ok_or_else(unknown)
    }

    /// Programs on `member` wrote `ids`.
    pub fn written(&self, ids: impl Iterator<Item = BufferId>, member: usize) {
        let mut held = self.held();
        for id in ids {
            if let Some(Buffer::Each { newest, .. }) = held.1.get_mut(&id) {
                *newest = member;
            }
        }
    }
}
