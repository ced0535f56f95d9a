//! Kahneman–Tversky optimization (arXiv 2402.01306): single answers, wanted or unwanted, against a reference.
//!
//! With `x = ln π/π_ref` of an answer, the loss is `w·(1 − σ(β(x − kl)))` of a wanted answer and `w·(1 − σ(β(kl − x)))`
//! of an unwanted one, where `kl` is how far the policy has moved on the batch: the mean log-ratio of answers given to
//! other prompts, at least 0, of which no gradient is taken. `apo_zero_unpaired` (arXiv 2408.06266) has `kl = 0`.

use fleetune_shared::recipe::{Kto, KtoLoss};

use super::logistic::sigmoid;
use super::sequence::{Grades, Sequence};

/// An answer and what was thought of it.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The answer.
    pub sequence: Sequence<'a>,
    /// Whether it was wanted.
    pub desirable: bool,
}

/// Grades answers; `mismatched` holds `ln π/π_ref` of answers under prompts that are not theirs.
#[must_use]
pub fn kto(settings: &Kto, answers: &[Judged<'_>], mismatched: &[f64]) -> Grades {
    let beta = settings.beta;
    let kl = match settings.loss {
        KtoLoss::Kto if !mismatched.is_empty() => {
            (mismatched.iter().sum::<f64>() / mismatched.len() as f64).max(0.0)
        }
        KtoLoss::Kto | KtoLoss::ApoZeroUnpaired => 0.0,
    };
    let mut grades = Grades::default();
    for Judged { sequence, desirable } in answers {
        let logp = sequence.logp(usize::MAX, 1.0);
        let ratio = logp - sequence.reference;
        let (sign, weight) = if *desirable {
            (1.0, settings.desirable_weight)
        } else {
            (-1.0, settings.undesirable_weight)
        };
        let z = sign * beta * (ratio - kl);
        grades.loss += weight * sigmoid(-z);
        grades.pull(sequence, -weight * sign * beta * sigmoid(z) * sigmoid(-z), usize::MAX, 1.0);
        let (reward, logps) = if *desirable {
            ("rewards/chosen", "logps/chosen")
        } else {
            ("rewards/rejected", "logps/rejected")
        };
        grades.tally.add(reward, [beta * ratio]);
        grades.tally.add(logps, [logp]);
    }
    grades.tally.add("kl", [kl]);
    grades
}
