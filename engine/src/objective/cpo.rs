//! Contrastive preference optimization (arXiv 2401.08417) and SimPO (arXiv 2405.14734): pairs without a reference.
//!
//! With `c` and `r` the answers' log-probabilities, per token for `ipo` and `simpo`, and `z = β(c − r)`: `sigmoid` is
//! `−(1 − ε)·ln σ(z) − ε·ln σ(−z)`, `simpo` the same of `z − γ`, `hinge` `max(0, 1 − z)`, `ipo` `(c − r − 1/2β)²`. The
//! chosen answers' likelihood per token is added with the weight `cpo_alpha`.

use fleetune_shared::recipe::{Cpo, CpoLoss};

use super::logistic::smoothed_comparison;
use super::sequence::{Grades, Sequence};

/// Grades pairs: `sequences` holds each chosen answer and, after it, its rejected one.
#[must_use]
pub fn cpo(settings: &Cpo, sequences: &[Sequence<'_>]) -> Grades {
    let beta = settings.beta;
    let (pairs, _) = sequences.as_chunks::<2>();
    let per_token = matches!(settings.loss, CpoLoss::Ipo | CpoLoss::Simpo);
    let logp = |s: &Sequence<'_>| if per_token { s.mean_logp() } else { s.logp(usize::MAX, 1.0) };
    let mut grades = Grades::default();
    for [chosen, rejected] in pairs {
        let (c, r) = (logp(chosen), logp(rejected));
        let z = beta * (c - r);
        let (value, dz) = match settings.loss {
            CpoLoss::Sigmoid => smoothed_comparison(z, settings.label_smoothing),
            CpoLoss::Simpo => {
                smoothed_comparison(z - settings.simpo_gamma, settings.label_smoothing)
            }
            CpoLoss::Hinge => ((1.0 - z).max(0.0), if z < 1.0 { -1.0 } else { 0.0 }),
            CpoLoss::Ipo => {
                let off = c - r - 0.5 / beta;
                (off * off, 2.0 * off / beta)
            }
        };
        grades.loss += value;
        for (sequence, slope) in [(chosen, beta * dz), (rejected, -beta * dz)] {
            let slope = if per_token { slope / sequence.length() } else { slope };
            grades.pull(sequence, slope, usize::MAX, 1.0);
        }
        grades.add_pair(beta, c, r);
    }
    if settings.alpha != 0.0 {
        let nll = grades.add_chosen_nll(sequences, settings.alpha * pairs.len() as f64);
        grades.tally.add("nll_loss", [nll]);
    }
    grades
}
