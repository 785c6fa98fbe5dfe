//! How far ahead of its loads a product asks for weights.

/// Rows are read a few at a time, side by side. What comes after the end of one is therefore
/// not the next row, which is being read already, but the next few.
///
/// Measured with rows of 7616 bytes, two at a time: half of the time went into waiting for the
/// beginning of every second row, and none for the first ones.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    row: usize,
    left: usize,
    near: usize,
    far: usize,
}

impl Ahead {
    /// For `rows` rows at a time that lie `row` bytes apart: `bytes` bytes ahead in each.
    #[inline]
    pub fn new(rows: usize, row: usize, bytes: usize) -> Ahead {
        let row = row.max(1);
        let left = bytes % row;
        let near = bytes / row * rows * row + left;
        Ahead {
            row,
            left,
            near,
            far: near + (rows - 1) * row,
        }
    }

    /// What to ask for when byte `at` of a row is read: so many bytes after that.
    #[inline(always)]
    pub fn at(self, at: usize) -> usize {
        if at + self.left < self.row {
            self.near
        } else {
            self.far
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ahead;

    /// Every byte of later rows is asked for once, whatever the lengths.
    #[test]
    fn rows_after_these_are_asked_for_once() {
        for (rows, row, bytes) in [(1, 100, 30), (2, 100, 30), (4, 100, 250), (4, 100, 100)] {
            let ahead = Ahead::new(rows, row, bytes);
            let groups = 10;
            let mut asked = vec![0; (groups + 4) * rows * row];
            for first in (0..groups * rows).step_by(rows) {
                for (r, at) in (0..rows).flat_map(|r| (0..row).map(move |at| (r, at))) {
                    let byte = (first + r) * row + at;
                    asked[byte + ahead.at(at)] += 1;
                }
            }
            let from = (bytes / row + 1) * rows * row;
            let to = groups * rows * row;
            assert!(
                asked[from..to].iter().all(|n| *n == 1),
                "{rows} {row} {bytes}"
            );
        }
    }
}
