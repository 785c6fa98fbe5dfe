//! What a dispatch has to do, estimated from its problem alone: for cutting long work by
//! measured cost, and as the floor that its time is compared with.

use hadal_device::{OpKind, Problem};

/// An amount that may grow with the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Whatever the cache holds.
    pub fixed: u64,
    /// For each position in the cache.
    pub position: u64,
}

impl Amount {
    /// With `positions` positions in the cache.
    pub fn at(self, positions: u32) -> u64 {
        let grown = self.position.saturating_mul(positions.into());
        self.fixed.saturating_add(grown)
    }

    fn and(self, other: Amount) -> Amount {
        Amount {
            fixed: self.fixed.saturating_add(other.fixed),
            position: self.position.saturating_add(other.position),
        }
    }
}

/// Work of a dispatch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply-adds.
    pub macs: Amount,
    /// Bytes of weights and cache, each read once.
    pub bytes: Amount,
}

impl Work {
    /// Units with `positions` positions in the cache. A unit is a multiply-add or a byte: both
    /// take a device about as long within an order of magnitude, and what it really manages
    /// is measured.
    pub fn at(self, positions: u32) -> u64 {
        let macs = self.macs.at(positions);
        macs.saturating_add(self.bytes.at(positions))
    }

    /// Both one after the other.
    pub fn and(self, other: Work) -> Work {
        Work {
            macs: self.macs.and(other.macs),
            bytes: self.bytes.and(other.bytes),
        }
    }
}

/// Most work that lowering puts into one dispatch where it can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkLimit {
    /// Units.
    pub units: u64,
    /// With so many positions in the cache.
    pub positions: u32,
}

/// The work of `problem` with all of its rows, as if experts were chosen evenly.
pub(super) fn work(problem: &Problem) -> Work {
    let p = &problem.params;
    let [rows, n, k, heads] = [p.rows, p.n, p.k, p.heads.max(1)].map(u64::from);
    let latent = u64::from(p.latent);
    // Multiply-adds, and numbers of the weight.
    let [macs, numbers] = match problem.op {
        OpKind::Linear | OpKind::NormLinear => {
            [rows, 1].map(|each| each * u64::from(p.row_count) * k)
        }
        OpKind::GateUp => [rows, 1].map(|each| 2 * each * u64::from(p.row_count) * k),
        OpKind::HeadLinear => [rows, 1].map(|each| each * heads * n * k),
        OpKind::UnpackHeads => [rows * u64::from(p.head_rows) * k; 2],
        OpKind::AttendLatent | OpKind::AttendPart => [0, 0],
        OpKind::AttendMerge => [rows * heads * n * latent, 0],
        OpKind::AttendExpanded => {
            [rows, 1].map(|each| each * heads * u64::from(p.nope + p.value) * latent)
        }
        OpKind::GroupedLinear => grouped(problem).map(|each| each * n * k),
        OpKind::GroupedGateUp => grouped(problem).map(|each| 2 * each * n * k),
        OpKind::ExpertLinear => [grouped(problem)[0] * n * k; 2],
        OpKind::ExpertGateUp => [2 * grouped(problem)[0] * n * k; 2],
        _ => [rows * heads * n.max(k), 0],
    };
    // A score and its share of the sum, for each head; a cache row is read at least once.
    let [attended, cached] = match problem.op {
        OpKind::AttendLatent | OpKind::AttendPart | OpKind::AttendExpanded => [
            rows * heads * (2 * latent + u64::from(p.rope)),
            4 * (latent + u64::from(p.rope)),
        ],
        _ => [0, 0],
    };
    Work {
        macs: Amount {
            fixed: macs,
            position: attended,
        },
        bytes: Amount {
            fixed: problem.weight.row_bytes(numbers),
            position: cached,
        },
    }
}

/// Rows that the experts of this part have, and these experts. Sorted by expert: as many rows
/// as are this part's share, and all of its weights.
fn grouped(problem: &Problem) -> [u64; 2] {
    let p = &problem.params;
    let (experts, held) = (u64::from(p.experts.max(1)), u64::from(p.expert_count));
    [(u64::from(p.rows) * held).div_ceil(experts), held]
}

#[cfg(test)]
mod tests {
    use hadal_device::{DType, Params};

    use super::*;

    fn of(op: OpKind, params: Params) -> Work {
        let weight = DType::F8E4M3;
        work(&Problem { op, weight, params })
    }

    #[test]
    fn products_count_rows_and_weights_once() {
        let linear = Params {
            rows: 3,
            row_count: 10,
            k: 7,
            ..Params::default()
        };
        assert_eq!(of(OpKind::Linear, linear).at(1000), 3 * 70 + 70);
        assert_eq!(of(OpKind::GateUp, linear).at(0), 2 * (3 * 70 + 70));
        let experts = Params {
            rows: 8,
            n: 10,
            k: 7,
            experts: 16,
            expert_count: 4,
            ..Params::default()
        };
        // A quarter of the rows; grouped ones read all weights they hold.
        assert_eq!(of(OpKind::ExpertLinear, experts).at(0), 2 * 70 + 2 * 70);
        assert_eq!(of(OpKind::GroupedLinear, experts).at(0), 2 * 70 + 4 * 70);
    }

    #[test]
    fn attention_grows_with_the_cache_and_nothing_is_free() {
        let attention = Params {
            rows: 2,
            heads: 3,
            latent: 5,
            rope: 1,
            ..Params::default()
        };
        for op in [OpKind::AttendLatent, OpKind::AttendPart] {
            assert_eq!(of(op, attention).at(0), 0);
            assert_eq!(of(op, attention).at(10), 10 * (2 * 3 * 11 + 4 * 6));
        }
        let values = Params {
            rows: 2,
            n: 5,
            ..Params::default()
        };
        for op in [OpKind::Norm, OpKind::SwiGlu, OpKind::Add, OpKind::Argmax] {
            assert_eq!(of(op, values).at(10), 10);
        }
    }
}
