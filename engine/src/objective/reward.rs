//! Reward modelling after Bradley and Terry: a score for a whole answer, higher for the chosen one.

use fleetune_shared::recipe::RewardModelling;

use super::logistic::smoothed_comparison;
use super::sequence::Grades;

/// Grades scores, each chosen answer's followed by its rejected one's; the gradient is for the scores.
///
/// Per pair `−ln σ(c − r)`, and `center_rewards_coefficient · (c + r)²`, which pulls scores to zero mean
/// (arXiv 2312.09244).
#[must_use]
pub fn reward(settings: &RewardModelling, scores: &[f64]) -> Grades {
    let (pairs, _) = scores.as_chunks::<2>();
    let mut grades = Grades::default();
    let center = settings.center_rewards_coefficient.unwrap_or(0.0);
    for [chosen, rejected] in pairs {
        let (value, slope) = smoothed_comparison(chosen - rejected, 0.0);
        let sum = chosen + rejected;
        grades.loss += value + center * sum * sum;
        let pull = 2.0 * center * sum;
        grades.gradient.extend([slope + pull, pull - slope]);
        grades.tally.add("accuracy", [f64::from(u8::from(chosen > rejected))]);
        grades.tally.add("margin", [chosen - rejected]);
    }
    grades.tally.add("mean_reward", scores.iter().copied());
    grades.tally.add("min_reward", scores.iter().copied().reduce(f64::min));
    grades.tally.add("max_reward", scores.iter().copied().reduce(f64::max));
    grades
}
