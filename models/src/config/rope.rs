//! Rotary positions: plain and YaRN frequencies, and the softmax scale that goes with them.
//!
//! Decides how `rope_scaling` (or the newer `rope_parameters`) is read and evaluates the
//! formulas in f64. Source: DeepSeek-V3 report, section 4.3. Must not know tensors.

use std::f64::consts::TAU;

use super::keys::{Keys, Result};
use super::{Config, rest};

/// YaRN context extension, as in `rope_scaling`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How many times the trained context is extended.
    pub factor: f64,
    /// Context the base model was trained with, in tokens.
    pub original_max_position_embeddings: u32,
    /// Turns within the original context from which a pair is left unscaled.
    pub beta_fast: f64,
    /// Turns within the original context up to which a pair is fully interpolated.
    pub beta_slow: f64,
    /// Numerator of the cosine and sine multiplier; 0 where the key is missing.
    pub mscale: f64,
    /// Its denominator, squared also part of the softmax scale; 0 where the key is missing.
    pub mscale_all_dim: f64,
}

impl Yarn {
    /// `g(m) = 0.1 m ln(factor) + 1`, and 1 if nothing is extended.
    fn gain(&self, m: f64) -> f64 {
        if self.factor <= 1.0 {
            1.0
        } else {
            0.1 * m * self.factor.ln() + 1.0
        }
    }
}

impl Config {
    /// Rotary frequencies in radians a position, one for each of the
    /// `qk_rope_head_dim / 2` pairs.
    pub fn inv_freq(&self) -> Vec<f64> {
        let width = f64::from(self.qk_rope_head_dim);
        let pairs = self.qk_rope_head_dim / 2;
        let plain = |j: u32| self.rope_theta.powf(-2.0 * f64::from(j) / width);
        let Some(yarn) = &self.yarn else {
            return (0..pairs).map(plain).collect();
        };
        // The pair that makes `turns` turns within the original context.
        let pair_of = |turns: f64| {
            let length = f64::from(yarn.original_max_position_embeddings);
            width * (length / (turns * TAU)).ln() / (2.0 * self.rope_theta.ln())
        };
        let low = pair_of(yarn.beta_fast).floor().max(0.0);
        let mut high = pair_of(yarn.beta_slow).ceil().min(width - 1.0);
        if low == high {
            high += 0.001;
        }
        let blend = |j: u32| {
            let ramp = ((f64::from(j) - low) / (high - low)).clamp(0.0, 1.0);
            plain(j) * (1.0 - ramp) + plain(j) / yarn.factor * ramp
        };
        (0..pairs).map(blend).collect()
    }

    /// What every cosine and sine is multiplied by; 1 for all released files.
    pub fn rope_multiplier(&self) -> f64 {
        match &self.yarn {
            None => 1.0,
            Some(yarn) if yarn.mscale != 0.0 && yarn.mscale_all_dim != 0.0 => {
                yarn.gain(yarn.mscale) / yarn.gain(yarn.mscale_all_dim)
            }
            Some(yarn) => yarn.gain(1.0),
        }
    }

    /// What attention scores are multiplied by before the softmax.
    pub fn softmax_scale(&self) -> f64 {
        let width = f64::from(self.qk_nope_head_dim + self.qk_rope_head_dim);
        // A missing `mscale_all_dim` is 0, whose gain is 1: the scale stays plain.
        let gain = self
            .yarn
            .as_ref()
            .map_or(1.0, |yarn| yarn.gain(yarn.mscale_all_dim));
        width.powf(-0.5) * gain * gain
    }
}

/// `rope_theta` and YaRN from wherever this file keeps them; unknown keys go to `unknown`.
pub(super) fn read(keys: &mut Keys<'_>, unknown: &mut Vec<String>) -> Result<(f64, Option<Yarn>)> {
    let theta = keys.real("rope_theta", 1.000001..=1e12)?;
    // Newer transformers write `rope_parameters`; both may be there and then agree.
    let newer = keys.object("rope_parameters")?;
    let older = keys.object("rope_scaling")?;
    let (prefix, map) = match (newer, older) {
        (Some(map), _) => ("rope_parameters.", map),
        (None, Some(map)) => ("rope_scaling.", map),
        (None, None) => return Ok((theta.unwrap_or(10000.0), None)),
    };
    let mut inner = Keys::new(prefix, map);
    let theta = inner
        .real("rope_theta", 1.000001..=1e12)?
        .or(theta)
        .unwrap_or(10000.0);
    whole_width(&mut inner)?;
    let (old_name, new_name) = (inner.text("type")?, inner.text("rope_type")?);
    let kind_key = if new_name.is_some() {
        "rope_type"
    } else {
        "type"
    };
    let yarn = match new_name.or(old_name) {
        Some("default") => None,
        Some("yarn") => Some(read_yarn(&mut inner)?),
        None if !map.contains_key("factor") => None,
        _ => {
            let why = "the rope types `default` and `yarn` are supported";
            return Err(inner.refuse(kind_key, why));
        }
    };
    unknown.extend(rest::check_within(&inner, rest::HARMLESS_IN_ROPE)?);
    Ok((theta, yarn))
}

/// Refuses rotation of a part of `qk_rope_head_dim`, wherever it is asked for.
pub(super) fn whole_width(keys: &mut Keys<'_>) -> Result<()> {
    match keys.real("partial_rotary_factor", f64::MIN..=f64::MAX)? {
        None | Some(1.0) => Ok(()),
        Some(_) => {
            let why = "only 1 is supported: all of qk_rope_head_dim is rotated";
            Err(keys.refuse("partial_rotary_factor", why))
        }
    }
}

fn read_yarn(keys: &mut Keys<'_>) -> Result<Yarn> {
    if keys.value("attention_factor").is_some() {
        let why = "a fixed attention factor is not supported; mscale and mscale_all_dim are";
        return Err(keys.refuse("attention_factor", why));
    }
    if keys.flag("truncate")? == Some(false) {
        let why = "only true is supported: the ramp of YaRN starts and ends at whole pairs";
        return Err(keys.refuse("truncate", why));
    }
    let length = "original_max_position_embeddings";
    let factor = keys.real("factor", 1.0..=1e6)?;
    let beta_fast = keys.real("beta_fast", 1e-6..=1e6)?.unwrap_or(32.0);
    let beta_slow = keys.real("beta_slow", 1e-6..=1e6)?.unwrap_or(1.0);
    if beta_slow > beta_fast {
        return Err(keys.refuse(
            "beta_slow",
            format!("it must not exceed beta_fast, {beta_fast}"),
        ));
    }
    Ok(Yarn {
        factor: factor.ok_or_else(|| keys.refuse("factor", "YaRN needs a factor"))?,
        original_max_position_embeddings: keys.need(length, 1..=super::MAX_POSITIONS)?,
        beta_fast,
        beta_slow,
        mscale: keys.real("mscale", 0.0..=100.0)?.unwrap_or(0.0),
        mscale_all_dim: keys.real("mscale_all_dim", 0.0..=100.0)?.unwrap_or(0.0),
    })
}
