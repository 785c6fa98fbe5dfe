//! Sampling options of the command line, on top of what the model recommends.

use clap::Args;
use hadal_engine::SamplingOptions;
use hadal_tokens::GenerationConfig;

use crate::failure::{Failure, Result};

/// How tokens are chosen. Without any option: as generation_config.json recommends.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// 0 always takes the most probable token; 1 is the model's own distribution.
    #[arg(short, long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep only the K most probable tokens; 0 keeps all.
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Keep the most probable tokens that together reach P.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Drop tokens less probable than P times the most probable one.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Above 1: avoid tokens that were there before.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logit of every token that was there before.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted once for each time a token was there before.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Add VALUE to the logit of token ID; -inf forbids it. May be repeated.
    #[arg(long, value_name = "ID=VALUE", value_parser = logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text [default: another one each time].
    #[arg(short, long, value_name = "N")]
    pub seed: Option<u64>,
}

fn logit_bias(text: &str) -> std::result::Result<(u32, f32), String> {
    let (id, value) = text.split_once('=').ok_or("write ID=VALUE, as 42=-inf")?;
    let id = id
        .trim()
        .parse()
        .map_err(|_| format!("{id:?} is no token id"))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("{value:?} is no number"))?;
    Ok((id, value))
}

impl SamplingArgs {
    /// The options, each in its range, for a model with `vocab` tokens.
    ///
    /// # Errors
    /// One is out of its range, or --logit-bias names a token that does not exist.
    pub fn checked(
        &self,
        recommended: Option<&GenerationConfig>,
        vocab: u32,
    ) -> Result<SamplingOptions> {
        let options = self.options(recommended);
        options.validate()?;
        // Ascending, so the last is the worst.
        if let Some((id, _)) = options
            .logit_bias
            .last_key_value()
            .filter(|(id, _)| **id >= vocab)
        {
            let why = format!("token id {id} of --logit-bias is not in the vocabulary of {vocab}");
            return Err(Failure::usage(why).help("`hadal tokenize TEXT` lists the ids of a text"));
        }
        Ok(options)
    }

    /// The options, and the seed drawn if none was given.
    fn options(&self, recommended: Option<&GenerationConfig>) -> SamplingOptions {
        let nothing = GenerationConfig::default();
        let model = recommended.unwrap_or(&nothing).sampling();
        SamplingOptions {
            temperature: self.temperature.unwrap_or(model.temperature),
            top_k: self.top_k.unwrap_or(model.top_k),
            top_p: self.top_p.unwrap_or(model.top_p),
            min_p: self.min_p.unwrap_or(model.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(model.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(model.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(model.frequency_penalty),
            logit_bias: self.logit_bias.iter().copied().collect(),
            seed: self.seed.unwrap_or_else(any_seed),
        }
    }
}

/// Differs from run to run; small, so that it is easily typed again.
fn any_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::from(now.subsec_nanos()) ^ now.as_secs()) % 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn parse(args: &[&str]) -> SamplingArgs {
        let all = std::iter::once(&"x").chain(args);
        Only::try_parse_from(all).unwrap().sampling
    }

    #[test]
    fn what_is_typed_wins_over_what_the_model_recommends() {
        let model = GenerationConfig {
            temperature: Some(0.8),
            top_p: Some(0.9),
            ..GenerationConfig::default()
        };
        let options = parse(&["--temperature", "0.1", "--seed", "7"]).options(Some(&model));
        assert_eq!(
            (options.temperature, options.top_p, options.seed),
            (0.1, 0.9, 7)
        );
        let silent = parse(&[]).options(None);
        assert_eq!((silent.temperature, silent.top_p), (0.6, 0.95));
        let greedy = GenerationConfig {
            do_sample: Some(false),
            ..model
        };
        assert_eq!(parse(&[]).options(Some(&greedy)).temperature, 0.0);
    }

    #[test]
    fn a_logit_bias_is_an_id_and_a_number() {
        assert_eq!(logit_bias("42=-inf"), Ok((42, f32::NEG_INFINITY)));
        assert!(logit_bias("42").is_err());
        assert!(logit_bias("x=1").is_err());
    }
}
