//! What would fit where a model does not.
//!
//! Decides which changes are worth naming: each alone, the smallest of its kind.

use super::{Nearest, PartKind, Planner};

/// Formats of GGUF files and the bits a weight takes in them, with its scales: the sizes of
/// their blocks in ggml-common.h. Largest first.
const FORMATS: [(&str, f64); 9] = [
    ("Q8_0", 8.5),
    ("Q6_K", 6.5625),
    ("Q5_K", 5.5),
    ("Q4_K", 4.5),
    ("IQ4_XS", 4.25),
    ("Q3_K", 3.4375),
    ("Q2_K", 2.625),
    ("IQ2_XXS", 2.0625),
    ("IQ1_S", 1.5625),
];

impl Planner<'_> {
    /// What would fit in the place of `context` tokens, where `longest` is the longest context
    /// that does.
    pub(super) fn nearest(&self, context: u32, scratch: u64, longest: u32) -> Vec<Nearest> {
        let mut nearest = Vec::new();
        if longest > 0 {
            nearest.push(Nearest::Context { tokens: longest });
        }
        let tier = self.tier(context, self.options.batch, scratch);
        let Some(available) = tier.available_bytes.filter(|_| !tier.fits()) else {
            return nearest;
        };
        let fewer = (1..self.options.batch).rev();
        let fits = |batch: &u32| self.tier(context, *batch, scratch).fits();
        if let Some(sequences) = fewer.into_iter().find(fits) {
            nearest.push(Nearest::Batch { sequences });
        }
        let weights = tier.weight_bytes().saturating_sub(tier.held_bytes);
        let others = tier.needed_bytes() - weights;
        let smaller = FORMATS.iter().filter_map(|(format, bits)| {
            let bytes = self.quantised(*bits);
            (bytes < weights && bytes + others <= available).then(|| Nearest::Quantisation {
                format: (*format).to_string(),
                bits: *bits,
                weight_bytes: bytes,
            })
        });
        nearest.extend(smaller.take(1));
        nearest.push(Nearest::Budget {
            memory: self.memory,
            bytes: tier.needed_bytes(),
        });
        nearest
    }

    /// Bytes of all weights with matrices of `bits` bits a weight. Routers and vectors stay
    /// as they are, as such files have them.
    fn quantised(&self, bits: f64) -> u64 {
        let bytes = self.weights.each.iter().map(|weight| {
            match weight.is_matrix && weight.kind != PartKind::Router {
                true => (weight.elements as f64 * bits / 8.0) as u64,
                false => weight.bytes,
            }
        });
        bytes.sum()
    }
}
