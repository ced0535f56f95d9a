//! The loop: logits, a choice, the next logits.

use candle_core::{DType, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use crate::{EngineError, Result};

/// How tokens are chosen and when to stop. Names and defaults are those of transformers' `GenerationConfig`, but for
/// `max_new_tokens`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Most tokens that are made.
    pub max_new_tokens: usize,
    /// Logits are divided by this; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Choose among the likeliest tokens that together reach this probability, in (0, 1].
    pub top_p: Option<f64>,
    /// Choose among so many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Seed of the choice.
    pub seed: u64,
    /// Ids that end the text; they are part of the result.
    pub stop_ids: Vec<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.0,
            top_p: None,
            top_k: None,
            seed: 42,
            stop_ids: Vec::new(),
        }
    }
}

impl Settings {
    fn sampling(&self) -> Result<Sampling> {
        let refuse = |key: &str, found: &dyn std::fmt::Display, expected: &str| {
            Err(EngineError::input(format!("`{key}` is {found}, expected {expected}")))
        };
        let temperature = self.temperature;
        if !(0.0..=100.0).contains(&temperature) {
            return refuse("temperature", &temperature, "0 to 100");
        }
        let in_range = |p: &f64| *p > 0.0 && *p <= 1.0;
        if let Some(p) = self.top_p.filter(|p| !in_range(p)) {
            return refuse("top_p", &p, "more than 0, at most 1");
        }
        if self.top_k == Some(0) {
            return refuse("top_k", &0, "1 or more; leave it out to choose among all tokens");
        }
        // Below this candle itself takes the likeliest.
        if temperature < 1e-7 {
            return Ok(Sampling::ArgMax);
        }
        Ok(match (self.top_k, self.top_p) {
            (None, None) => Sampling::All { temperature },
            (Some(k), None) => Sampling::TopK { k, temperature },
            (None, Some(p)) => Sampling::TopP { p, temperature },
            (Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        })
    }
}

/// Whatever says how a text goes on.
pub trait NextLogits {
    /// Takes `tokens` as what follows everything taken before, and gives the logits of the next token, `[vocab]`.
    ///
    /// # Errors
    /// Tokens it does not know, or a device that failed.
    fn next_logits(&mut self, tokens: &[u32]) -> Result<Tensor>;
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With one of the stop ids.
    Stop,
    /// After `max_new_tokens`.
    Length,
}

/// Tokens that were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens, a stop id included.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub end: End,
}

/// Continues `prompt`, telling `each` every token as it is made.
///
/// # Errors
/// Settings out of range, an empty prompt, logits that are not finite, or what the model says.
pub fn generate(
    model: &mut impl NextLogits,
    prompt: &[u32],
    settings: &Settings,
    mut each: impl FnMut(u32) -> Result<()>,
) -> Result<Generation> {
    let mut processor = LogitsProcessor::from_sampling(settings.seed, settings.sampling()?);
    if prompt.is_empty() {
        return Err(EngineError::input("the prompt is empty, expected at least one token"));
    }
    let mut ids = Vec::new();
    while ids.len() < settings.max_new_tokens {
        let taken = ids.last().map_or(prompt, std::slice::from_ref);
        let logits = model.next_logits(taken)?.to_dtype(DType::F32)?;
        // One NaN makes every choice meaningless, and infinities break the softmax.
        if !logits.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(EngineError::input(format!(
                "the model's logits are not finite after {} tokens; its weights or adapter are damaged",
                prompt.len() + ids.len()
            )));
        }
        let id = processor.sample(&logits)?;
        ids.push(id);
        each(id)?;
        if settings.stop_ids.contains(&id) {
            return Ok(Generation { ids, end: End::Stop });
        }
    }
    Ok(Generation { ids, end: End::Length })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Five tokens; after `n` the likeliest is `n + 1`, the others follow at equal distance.
    struct Counting {
        calls: Vec<Vec<u32>>,
        poison: f32,
    }

    impl NextLogits for Counting {
        fn next_logits(&mut self, tokens: &[u32]) -> Result<Tensor> {
            self.calls.push(tokens.to_vec());
            let last = tokens[tokens.len() - 1];
            let logit = |id: u32| if id == (last + 1) % 5 { 2.0 } else { 0.0 };
            let mut logits: Vec<f32> = (0..5).map(logit).collect();
            logits[0] += self.poison;
            Ok(Tensor::new(logits, &Device::Cpu)?)
        }
    }

    fn counting() -> Counting {
        Counting { calls: Vec::new(), poison: 0.0 }
    }

    fn run(settings: &Settings) -> Result<Generation> {
        generate(&mut counting(), &[0, 1], settings, |_| Ok(()))
    }

    #[test]
    fn greedy_counts_on_and_reads_each_token_once() {
        let mut model = counting();
        let mut told = Vec::new();
        let settings = Settings { max_new_tokens: 3, ..Settings::default() };
        let made = generate(&mut model, &[0, 1], &settings, |id| {
            told.push(id);
            Ok(())
        });
        assert_eq!(made.unwrap(), Generation { ids: vec![2, 3, 4], end: End::Length });
        assert_eq!(told, [2, 3, 4]);
        assert_eq!(model.calls, [vec![0, 1], vec![2], vec![3]]);
    }

    #[test]
    fn a_stop_id_ends_the_text() {
        let settings = Settings { stop_ids: vec![9, 3], ..Settings::default() };
        assert_eq!(run(&settings).unwrap(), Generation { ids: vec![2, 3], end: End::Stop });
    }

    #[test]
    fn sampling_is_repeatable_and_seeded() {
        let drawn = |seed, top_k, top_p| {
            let settings = Settings {
                max_new_tokens: 40,
                temperature: 1.0,
                seed,
                top_k,
                top_p,
                ..Settings::default()
            };
            run(&settings).unwrap().ids
        };
        assert_eq!(drawn(1, None, None), drawn(1, None, None));
        assert_ne!(drawn(1, None, None), drawn(2, None, None));
        let counted: Vec<u32> = (0..40).map(|i| (i + 2) % 5).collect();
        assert_ne!(drawn(1, None, None), counted);
        assert_eq!(drawn(1, Some(1), None), counted);
        // The likeliest token has e² / (e² + 4) = 0.65.
        assert_eq!(drawn(1, None, Some(0.6)), counted);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let message = |settings: Settings| run(&settings).unwrap_err().to_string();
        let base = Settings::default;
        assert!(message(Settings { temperature: -1.0, ..base() }).contains("`temperature` is -1"));
        assert!(message(Settings { temperature: f64::NAN, ..base() }).contains("is NaN"));
        assert!(message(Settings { top_p: Some(0.0), ..base() }).contains("`top_p` is 0"));
        assert!(message(Settings { top_k: Some(0), ..base() }).contains("`top_k` is 0"));
        let mut damaged = Counting { poison: f32::NAN, ..counting() };
        let error = generate(&mut damaged, &[1], &base(), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("not finite after 1 tokens"), "{error}");
        assert!(generate(&mut counting(), &[], &base(), |_| Ok(())).is_err());
    }
}
