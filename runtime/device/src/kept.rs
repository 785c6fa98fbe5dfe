//! What an executable made for its last tables, so that they cost nothing again.
//!
//! Decides what goes when there are too many; must not know what was made.

use crate::BufferId;

/// Tables that an executable remembers at least: more sequences than a device steps in turn.
pub const KEPT_TABLES: usize = 64;

/// The last [`KEPT_TABLES`] tables with what was made for each, the newest one last.
#[derive(Debug)]
pub struct Kept<B>(Vec<(Vec<BufferId>, B)>);

impl<B> Default for Kept<B> {
    fn default() -> Kept<B> {
        Kept(Vec::new())
    }
}

impl<B> Kept<B> {
    /// What was made for `table`, which is the newest from now on.
    pub fn find(&mut self, table: &[BufferId]) -> Option<&mut B> {
        let place = self.0.iter().position(|(known, _)| known == table)?;
        self.0[place..].rotate_left(1);
        self.0.last_mut().map(|(_, made)| made)
    }

    /// Keeps what was made for `table`. Tables that do not live any more, since buffers of
    /// theirs are gone, go first; else the one that was not used for the longest time.
    pub fn keep(&mut self, table: &[BufferId], made: B, lives: impl Fn(&[BufferId]) -> bool) {
        self.0.retain(|(known, _)| known != table && lives(known));
        if self.0.len() >= KEPT_TABLES {
            self.0.remove(0);
        }
        self.0.push((table.to_vec(), made));
    }

    /// What was made for the table used last.
    pub fn newest(&self) -> Option<&B> {
        self.0.last().map(|(_, made)| made)
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT_TABLES, Kept};
    use crate::BufferId;

    #[test]
    fn a_table_in_use_stays_and_the_idle_and_the_dead_go() {
        let mut kept = Kept::default();
        let keep = |kept: &mut Kept<u64>, n: u64, dead: u64| {
            kept.keep(&[BufferId(n)], n, |table| table[0].0 != dead);
        };
        let last = KEPT_TABLES as u64 - 1;
        (0..=last).for_each(|n| keep(&mut kept, n, u64::MAX));
        assert_eq!(kept.find(&[BufferId(0)]), Some(&mut 0));
        keep(&mut kept, 100, u64::MAX);
        assert_eq!(kept.newest(), Some(&100));
        // The one used longest ago is gone; the first was used since.
        assert_eq!(kept.find(&[BufferId(1)]), None);
        assert_eq!(kept.find(&[BufferId(0)]), Some(&mut 0));
        keep(&mut kept, 101, 5);
        assert_eq!(kept.find(&[BufferId(5)]), None);
        assert_eq!(kept.find(&[BufferId(2)]), Some(&mut 2));
    }
}
