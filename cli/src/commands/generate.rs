//! `fleetune generate`.

use std::path::PathBuf;

use clap::Args;
use fleetune_engine::data::{Conversation, Message, Role};
use fleetune_engine::generate::{Answerer, Settings};
use serde_json::json;

use crate::Failure;
use crate::context::Context;
use crate::output::{Mode, plain};

/// Lets a model answer a prompt, with or without an adapter. Greedy unless a temperature is given.
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// A model folder or a GGUF file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// An adapter's folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What the model is told before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The most tokens to answer with
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// 0 always takes the likeliest token; higher is freer
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Draw only from the likeliest tokens that together have this probability
    #[arg(long)]
    top_p: Option<f64>,
    /// Draw only from so many of the likeliest tokens
    #[arg(long)]
    top_k: Option<usize>,
    /// Seed of the draws
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The prompt
    #[arg(required = true)]
    prompt: Vec<String>,
}

impl Generate {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let output = &context.output;
        let settings = self.settings()?;
        let answerer = Answerer::load(&self.model, self.adapter.as_deref())?;
        if let Some(warning) = answerer.warning() {
            output.note(&format!("warning: {}", plain(warning)));
        }
        let prompt = self.prompt.join(" ");
        let conversation = match &self.system {
            Some(system) => Conversation::new(vec![
                Message::new(Role::System, system.as_str()),
                Message::new(Role::User, prompt.as_str()),
            ])
            .map_err(|error| Failure::new("input", error))?,
            None => Conversation::question(&prompt),
        };
        // A closed pipe ends the printing, not the model; the answer is short.
        let mut printed = Ok(());
        let streams = output.mode != Mode::Json;
        let answer = answerer.answer(&conversation, &settings, |piece| {
            if streams && printed.is_ok() {
                printed = output.raw(&plain(piece));
            }
        })?;
        printed?;
        if streams {
            return output.raw("\n");
        }
        output.line(
            &json!({
                "prompt": prompt,
                "answer": answer.text,
                "tokens": answer.ids.len(),
                "ended": format!("{:?}", answer.end).to_lowercase(),
            })
            .to_string(),
        )
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let refuse = |key: &str, found: f64, expected: &str| {
            Err(Failure::usage(&format!("--{key} is {found}, expected {expected}")))
        };
        if !(0.0..=100.0).contains(&self.temperature) {
            return refuse("temperature", self.temperature, "0 to 100");
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return refuse("top-p", p, "above 0, at most 1");
        }
        if self.top_k == Some(0) {
            return refuse("top-k", 0.0, "at least 1");
        }
        Ok(Settings {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed,
            ..Settings::default()
        })
    }
}

/// The likeliest answer to a question.
pub(super) fn greedy(
    answerer: &Answerer,
    prompt: &str,
    max_new_tokens: usize,
) -> Result<String, Failure> {
    let settings = Settings { max_new_tokens, ..Settings::default() };
    Ok(answerer.answer(&Conversation::question(prompt), &settings, |_| {})?.text)
}
