//! What can be seen of a choice: how likely a token was, and which experts were asked.
//!
//! Decides what is read back from a step; a decoder that nobody watches reads nothing of it.

use hadal_models::Outputs;

use crate::Result;
use crate::step::Done;

/// What a decoder is to tell of each output token. The default is nothing, at no cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observe {
    /// Log probabilities, with so many of the likeliest tokens beside the chosen one.
    pub logprobs: Option<usize>,
    /// Which experts the routers chose for each token that is fed after the prompt. Their
    /// choices are then outputs of the step, which takes programs of its own and some scratch.
    pub routes: bool,
}

impl Observe {
    pub(crate) fn outputs(self) -> Outputs {
        match self.routes {
            true => Outputs::Routes,
            false => Outputs::Hidden,
        }
    }
}

/// How likely a token was: natural logarithms of the model's own distribution, before
/// temperature, penalties and truncation.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Of the likeliest tokens, likeliest first, of equal ones the lower id first.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Of token `id` and the `count` likeliest, from a row of logits.
    pub(crate) fn of(logits: &[f32], id: u32, count: usize) -> Logprobs {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits
            .iter()
            .map(|logit| f64::from(logit - most).exp())
            .sum();
        let log_sum = f64::from(most) + sum.ln();
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let count = count.min(ids.len());
        let better = |a: &u32, b: &u32| {
            let (x, y) = (logits[*a as usize], logits[*b as usize]);
            y.total_cmp(&x).then(a.cmp(b))
        };
        if count > 0 && count < ids.len() {
            ids.select_nth_unstable_by(count - 1, better);
        }
        ids.truncate(count);
        ids.sort_unstable_by(better);
        Logprobs {
            chosen: logits.get(id as usize).map_or(f32::NAN, |&it| logprob(it)),
            top: ids
                .into_iter()
                .map(|id| (id, logprob(logits[id as usize])))
                .collect(),
        }
    }
}

/// An output token and what was seen of its choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The token.
    pub id: u32,
    /// Its likelihood, if asked for.
    pub logprobs: Option<Logprobs>,
}

/// The experts that a layer asked for a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The layer, dense ones counted.
    pub layer: u32,
    /// Position of the token in the sequence.
    pub position: u32,
    /// The token that was fed.
    pub token: u32,
    /// Routed experts.
    pub experts: Vec<u32>,
    /// The weight of each in the sum, scaled as the model scales it.
    pub weights: Vec<f32>,
}

/// What the routers chose for each row of a step that `fed` these tokens at these positions.
pub(crate) fn routes(done: &Done<'_>, fed: &[(u32, u32)]) -> Result<Vec<Vec<Route>>> {
    const CHOICE: &str = ".router_idx";
    let mut found = vec![Vec::new(); fed.len()];
    for place in done.outputs() {
        let layer = place.name.strip_suffix(CHOICE);
        let number = layer.and_then(|layer| layer.strip_prefix("layer.")?.parse().ok());
        let (Some(layer), Some(number)) = (layer, number) else {
            continue;
        };
        let experts = done.u32(&place.name)?;
        let weights = done.f32(&format!("{layer}.router_weight"))?;
        let width = (place.width as usize).max(1);
        let rows = experts.chunks(width).zip(weights.chunks(width));
        for ((experts, weights), (&(token, position), found)) in
            rows.zip(fed.iter().zip(&mut found))
        {
            found.push(Route {
                layer: number,
                position,
                token,
                experts: experts.to_vec(),
                weights: weights.to_vec(),
            });
        }
    }
    found
        .iter_mut()
        .for_each(|row| row.sort_by_key(|route| route.layer));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_a_softmax() {
        let logits = [1.0f32, 3.0, 2.0, 3.0, f32::NEG_INFINITY];
        let seen = Logprobs::of(&logits, 2, 3);
        let sum: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
        let expected = |z: f64| (z - sum.ln()) as f32;
        assert!((seen.chosen - expected(2.0)).abs() < 1e-6);
        let ids: Vec<u32> = seen.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 3, 2]);
        assert!((seen.top[0].1 - expected(3.0)).abs() < 1e-6);
        assert_eq!(Logprobs::of(&logits, 0, 9).top.len(), 5);
        assert!(Logprobs::of(&logits, 0, 0).top.is_empty());
    }
}
