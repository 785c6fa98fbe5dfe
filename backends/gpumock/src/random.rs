//! Numbers that decide orders: the same for the same seed.

/// A generator (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        match items.len() {
            0 => None,
            n => items.get((self.next() % n as u64) as usize).copied(),
        }
    }

    /// Takes one of the items out.
    pub fn take<T>(&mut self, items: &mut Vec<T>) -> Option<T> {
        match items.len() {
            0 => None,
            n => Some(items.swap_remove((self.next() % n as u64) as usize)),
        }
    }
}
