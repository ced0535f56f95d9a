//! A sequence under the policy, and what a loss says about its tokens.

use super::Tally;

/// Log-probabilities in nats of one sequence's labelled tokens.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Of all labelled tokens: those of the prompt first, where they carry labels, then the completion.
    pub logps: &'a [f64],
    /// How many of them belong to the prompt.
    pub prompt: usize,
    /// `ln Σ_v p(v)²` at each labelled token, where the loss asks for it; else empty.
    pub collisions: &'a [f64],
    /// The reference model's [`Self::logp`] of this sequence; 0 for losses without one.
    pub reference: f64,
}

impl<'a> Sequence<'a> {
    /// Of the completion's tokens.
    #[must_use]
    pub fn completion(&self) -> &'a [f64] {
        &self.logps[self.prompt..]
    }

    /// Tokens of the completion, at least 1 as a divisor.
    #[must_use]
    pub fn length(&self) -> f64 {
        self.completion().len().max(1) as f64
    }

    /// Log-probability of the completion, in which tokens from `shared` on count `tail` as much (`ld_alpha` of
    /// LD-DPO, arXiv 2409.06411).
    #[must_use]
    pub fn logp(&self, shared: usize, tail: f64) -> f64 {
        let completion = self.completion();
        let (head, rest) = completion.split_at(shared.min(completion.len()));
        head.iter().sum::<f64>() + tail * rest.iter().sum::<f64>()
    }

    /// Mean log-probability of a token of the completion.
    #[must_use]
    pub fn mean_logp(&self) -> f64 {
        self.completion().iter().sum::<f64>() / self.length()
    }

    /// Mean over the completion of `ln p(token) − ln Σ_v p(v)²`: how on-policy it is (WPO, arXiv 2406.11827).
    #[must_use]
    pub fn alignment(&self) -> f64 {
        let collisions = self.collisions.get(self.prompt..).unwrap_or_default();
        let collision: f64 = collisions.iter().sum();
        (self.completion().iter().sum::<f64>() - collision) / self.length()
    }
}

/// A micro-batch's loss and where it pulls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grades {
    /// Summed over rows.
    pub loss: f64,
    /// d(loss)/d(log-probability) of every labelled token, sequence after sequence.
    pub gradient: Vec<f64>,
    /// What TRL logs.
    pub tally: Tally,
}

impl Grades {
    /// Appends a sequence's gradient: `slope` for each token of its completion, `slope · tail` from `shared` on.
    pub(super) fn pull(&mut self, sequence: &Sequence<'_>, slope: f64, shared: usize, tail: f64) {
        self.gradient.extend(std::iter::repeat_n(0.0, sequence.prompt));
        let tokens = 0..sequence.completion().len();
        self.gradient.extend(tokens.map(|at| if at < shared { slope } else { slope * tail }));
    }

    /// Logs a pair whose rewards are `β` times its log-probabilities.
    pub(super) fn add_pair(&mut self, beta: f64, chosen: f64, rejected: f64) {
        self.tally.add("rewards/chosen", [beta * chosen]);
        self.tally.add("rewards/rejected", [beta * rejected]);
        self.tally.add("rewards/accuracies", [f64::from(u8::from(chosen > rejected))]);
        self.tally.add("rewards/margins", [beta * (chosen - rejected)]);
        self.tally.add("logps/chosen", [chosen]);
        self.tally.add("logps/rejected", [rejected]);
    }

    /// Adds `weight` times the negative log-likelihood per token of `sequences`, and gives that likelihood. Even ones
    /// are the chosen; only they count, with their prompts where those carry labels.
    pub(super) fn add_chosen_nll(&mut self, sequences: &[Sequence<'_>], weight: f64) -> f64 {
        let chosen = || sequences.iter().step_by(2);
        let tokens: usize = chosen().map(|s| s.logps.len()).sum();
        let tokens = tokens.max(1) as f64;
        let nll = -chosen().flat_map(|s| s.logps).sum::<f64>() / tokens;
        self.loss += weight * nll;
        let mut at = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            let end = at + sequence.logps.len();
            if index.is_multiple_of(2) {
                self.gradient[at..end].iter_mut().for_each(|g| *g -= weight / tokens);
            }
            at = end;
        }
        nll
    }
}
