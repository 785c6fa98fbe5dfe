//! What would fit where a model does not.
//!
//! Decides which changes are worth naming: each alone, the smallest of its kind.

use hadal_quantize::{Choice, RECIPES, Recipe};

use super::{Memory, Nearest, Planner, Tier, fit};

/// The context that a smaller file is to have room for: a conversation.
const SHORT_CONTEXT: u32 = 2048;

impl Planner<'_> {
    /// What would fit in the place of `context` tokens, where `longest` is the longest context
    /// that does.
    pub(super) fn nearest(&self, context: u32, scratch: u64, longest: u32) -> Vec<Nearest> {
        let mut nearest = Vec::new();
        if longest > 0 {
            nearest.push(Nearest::Context { tokens: longest });
        }
        let tiers = self.tiers(context, self.options.batch, scratch);
        let available = tiers.iter().map(|tier| tier.available_bytes);
        let available = available.sum::<Option<u64>>().filter(|_| !fit(&tiers));
        let Some(available) = available else {
            return nearest;
        };
        let fewer = (1..self.options.batch).rev();
        let fits = |batch: &u32| fit(&self.tiers(context, *batch, scratch));
        if let Some(sequences) = fewer.into_iter().find(fits) {
            nearest.push(Nearest::Batch { sequences });
        }
        let weights = tiers
            .iter()
            .map(|tier| tier.weight_bytes().saturating_sub(tier.held_bytes));
        let weights: u64 = weights.sum();
        // Where nobody asked for a context, a short one will do.
        let shortest = match self.options.context {
            Some(context) => context,
            None => self.options.least_context.max(SHORT_CONTEXT).min(context),
        };
        let short = self.tiers(shortest, self.options.batch, scratch);
        let others = short.iter().map(Tier::needed_bytes).sum::<u64>() - weights;
        nearest.extend(self.recipe(weights, others, available));
        nearest.push(Nearest::Budget {
            memory: self.memory,
            bytes: self.budget(&tiers),
        });
        nearest
    }

    /// The budget that `tiers` fit in: of each member's own memory, or of what they share.
    fn budget(&self, tiers: &[Tier]) -> u64 {
        let most = tiers.iter().map(Tier::needed_bytes).max().unwrap_or(0);
        match self.memory {
            Memory::Device => most,
            Memory::Host => most * tiers.len() as u64,
        }
    }

    /// The recipe of `hadal quantize` whose file is the largest that fits in the place of `weights`
    /// bytes, beside `others`; the one whose file is the smallest, where none fits.
    fn recipe(&self, weights: u64, others: u64, available: u64) -> Option<Nearest> {
        let fits = |size: u64| others + size <= available;
        let made_by = |recipe: Recipe| Choice {
            recipe,
            experts: None,
            attention: None,
            tensors: Vec::new(),
        };
        let any = RECIPES.first().copied()?;
        // A model that GGUF has no words for cannot be made smaller so.
        let mut plan = hadal_quantize::Plan::of(&self.model.config, &made_by(any)).ok()?;
        let mut best: Option<(Recipe, u64)> = None;
        for recipe in RECIPES {
            plan = plan.with(&made_by(recipe));
            let size = plan.bytes();
            let is_better = |best: u64| match fits(best) {
                true => fits(size) && size > best,
                false => size < best,
            };
            if size < weights && best.is_none_or(|(_, best)| is_better(best)) {
                best = Some((recipe, size));
            }
        }
        let (recipe, weight_bytes) = best?;
        let members = self.available.len().max(1) as u64;
        let bits = 8.0 * weight_bytes as f64 / plan.values().max(1) as f64;
        // Two decimals are what people compare.
        let (format, bits) = (recipe.name.to_string(), (bits * 100.0).round() / 100.0);
        Some(match fits(weight_bytes) {
            true => Nearest::Quantisation {
                format,
                bits,
                weight_bytes,
            },
            false => Nearest::SmallestQuantisation {
                format,
                bits,
                weight_bytes,
                // Of each member's own memory, or of what they share.
                needed_bytes: match self.memory {
                    Memory::Device => (others + weight_bytes).div_ceil(members),
                    Memory::Host => others + weight_bytes,
                },
            },
        })
    }
}
