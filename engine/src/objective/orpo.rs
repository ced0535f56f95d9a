//! Odds-ratio preference optimization (arXiv 2403.07691): the likelihood of the chosen answer, prompt and all, and
//! the odds of the chosen answer against those of the rejected one.

use super::logistic::{log_sigmoid, sigmoid};
use super::sequence::{Grades, Sequence};

/// Closest to 1 that a mean probability may come before its odds are taken to stand still.
const CERTAIN: f64 = 1e-12;

/// Grades pairs: `sequences` holds each chosen answer, whose prompt carries labels, and after it its rejected one.
///
/// Per pair `−β·ln σ(odds)` with `odds = ln p_c/(1 − p_c) − ln p_r/(1 − p_r)` and `ln p` the mean log-probability of a
/// token; beside it the negative log-likelihood per token of all chosen rows.
#[must_use]
pub fn orpo(beta: f64, sequences: &[Sequence<'_>]) -> Grades {
    let (pairs, _) = sequences.as_chunks::<2>();
    let doubt = |mean_logp: f64| (-mean_logp.exp_m1()).max(CERTAIN);
    let mut grades = Grades::default();
    for [chosen, rejected] in pairs {
        let (c, r) = (chosen.mean_logp(), rejected.mean_logp());
        let odds = c - r - (doubt(c).ln() - doubt(r).ln());
        grades.loss -= beta * log_sigmoid(odds);
        let slope = -beta * sigmoid(-odds);
        // d(odds)/dc = 1 + p/(1 − p) = 1/(1 − p).
        grades.pull(chosen, slope / doubt(c) / chosen.length(), usize::MAX, 1.0);
        grades.pull(rejected, -slope / doubt(r) / rejected.length(), usize::MAX, 1.0);
        grades.add_pair(beta, c, r);
        grades.tally.add("log_odds_ratio", [log_sigmoid(odds)]);
        grades.tally.add("log_odds_chosen", [odds]);
    }
    let nll = grades.add_chosen_nll(sequences, pairs.len() as f64);
    grades.tally.add("nll_loss", [nll]);
    grades
}
