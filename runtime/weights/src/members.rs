//! Which layers lie on which member of a device that is made of several.
//!
//! Decides by bytes alone: layers stay in order, and each member has as much of the model as it
//! has of the memory. Must not know models beyond the names of their layers.

use std::collections::BTreeMap;

use hadal_device::DeviceInfo;

use crate::Bound;
use crate::source::layer_of;

/// What comes before all layers; everything else without a layer comes behind them.
const FIRST: &str = "model.embed_tokens";

/// The layers of each member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The layer behind the last one of each member but the last.
    ends: Vec<u32>,
}

impl Members {
    /// For the weights of `bound` on the device of `info`.
    pub(crate) fn of(bound: &Bound, info: &DeviceInfo) -> Members {
        let mut layers: BTreeMap<u32, u64> = BTreeMap::new();
        let (mut before, mut behind) = (0, 0);
        for weight in &bound.weights {
            let tensors = weight.data.iter().chain(&weight.scales);
            let bytes: u64 = tensors.map(|from| from.bytes).sum();
            match layer_of(&weight.name) {
                Some(layer) => *layers.entry(layer).or_default() += bytes,
                None if weight.name.starts_with(FIRST) => before += bytes,
                None => behind += bytes,
            }
        }
        let memories = info.memories();
        let known: Option<Vec<u64>> = memories.iter().copied().collect();
        let shares = match known {
            Some(known) if known.iter().all(|bytes| *bytes > 0) => known,
            _ => vec![1; memories.len()],
        };
        Members {
            ends: ends(&layers, (before, behind), &shares),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.ends.len() as u16 + 1
    }

    /// The member that has a weight, or a part of the model, of this name.
    pub fn of_name(&self, name: &str) -> u16 {
        match layer_of(name) {
            Some(layer) => self.of_layer(layer),
            None if name.starts_with(FIRST) => 0,
            None => self.ends.len() as u16,
        }
    }

    /// The member that has a layer.
    pub fn of_layer(&self, layer: u32) -> u16 {
        self.ends.iter().filter(|end| **end <= layer).count() as u16
    }
}

/// Cuts layers of so many bytes, with what comes before and behind them, at the shares of members:
/// a layer goes where its middle lies.
fn ends(layers: &BTreeMap<u32, u64>, (before, behind): (u64, u64), shares: &[u64]) -> Vec<u32> {
    let own: u64 = layers.values().sum();
    let total = u128::from(before) + u128::from(own) + u128::from(behind);
    let all: u128 = shares.iter().map(|share| u128::from(*share)).sum();
    let mut until = 0;
    let (_, cuts) = shares.split_last().unwrap_or((&0, &[]));
    let cut = |share: &u64| {
        until += u128::from(*share);
        let mut done = u128::from(before);
        let beyond = layers.iter().find(|(_, bytes)| {
            let middle = done + u128::from(**bytes) / 2;
            done += u128::from(**bytes);
            middle * all > total * until
        });
        beyond.map_or(u32::MAX, |(layer, _)| *layer)
    };
    cuts.iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_as_much_of_a_model_as_of_the_memory() {
        let layers: BTreeMap<u32, u64> = (0..8).map(|layer| (layer, 10)).collect();
        assert!(ends(&layers, (0, 0), &[1]).is_empty());
        assert_eq!(ends(&layers, (0, 0), &[1, 1]), [4]);
        assert_eq!(ends(&layers, (0, 0), &[1, 3]), [2]);
        assert_eq!(ends(&layers, (20, 0), &[1, 1]), [3]);
        // The last one has what comes behind all layers.
        assert_eq!(ends(&layers, (0, 40), &[1, 1, 1]), [4, u32::MAX]);
        let members = Members {
            ends: vec![4, u32::MAX],
        };
        let places = ["model.layers.3.x", "model.layers.4.x", "model.norm.weight"];
        assert_eq!(places.map(|name| members.of_name(name)), [0, 1, 2]);
        assert_eq!(members.of_name("model.embed_tokens.weight"), 0);
    }
}
