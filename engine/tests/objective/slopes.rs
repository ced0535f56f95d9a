//! Every gradient against central differences, away from kinks.

use fleetune_engine::objective::{Grades, Judged, Sequence, cpo, dpo, kto, orpo, reward};
use fleetune_shared::recipe::{CpoLoss, DpoLoss, FDivergence, KtoLoss, RewardModelling};

use crate::{cpo_settings, dpo_settings, kto_settings};

/// Three pairs of answers of different lengths.
fn logps() -> Vec<Vec<f64>> {
    let lengths = [4, 2, 1, 3, 2, 2];
    let value = |i: usize, j: usize| -0.4 - 0.3 * ((5 * i + 3 * j) % 7) as f64;
    lengths.iter().enumerate().map(|(i, n)| (0..*n).map(|j| value(i, j)).collect()).collect()
}

/// Compares the gradient of `grade` with what the loss does when a token's log-probability moves.
fn assert_slopes(name: &str, grade: impl Fn(&[Vec<f64>]) -> Grades) {
    const STEP: f64 = 1e-6;
    let at = logps();
    let gradient = grade(&at).gradient;
    assert_eq!(gradient.len(), at.iter().map(Vec::len).sum::<usize>());
    let mut slopes = gradient.iter();
    for i in 0..at.len() {
        for j in 0..at[i].len() {
            let moved = |by: f64| {
                let mut at = at.clone();
                at[i][j] += by;
                grade(&at).loss
            };
            let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let slope = *slopes.next().unwrap();
            let error = (slope - difference).abs() / difference.abs().max(1.0);
            assert!(error < 1e-6, "{name}, sequence {i}, token {j}: {slope} {difference}");
        }
    }
}

fn sequences<'a>(logps: &'a [Vec<f64>], prompt: usize) -> Vec<Sequence<'a>> {
    let one = |(i, logps): (usize, &'a Vec<f64>)| Sequence {
        logps,
        prompt: if i % 2 == 0 { prompt.min(logps.len() - 1) } else { 0 },
        collisions: &[],
        reference: -1.7 - 0.3 * i as f64,
    };
    logps.iter().enumerate().map(one).collect()
}

#[test]
fn dpo_and_its_cousins() {
    for (name, loss) in DpoLoss::ALL {
        for (divergence, ld_alpha) in [
            (FDivergence::ReverseKl, None),
            (FDivergence::ReverseKl, Some(0.3)),
            (FDivergence::ForwardKl, None),
            (FDivergence::JsDivergence, None),
            (FDivergence::AlphaDivergence, None),
        ] {
            let mut settings = dpo_settings();
            settings.beta = 0.3;
            settings.discopop_tau = 0.5;
            settings.losses = vec![(loss, 0.7), (DpoLoss::Sigmoid, 0.2)];
            settings.f_divergence = divergence;
            settings.ld_alpha = ld_alpha;
            settings.label_smoothing = 0.1;
            settings.rpo_alpha = Some(0.4);
            assert_slopes(&format!("{name} {divergence:?}"), |logps| {
                dpo(&settings, &sequences(logps, 0))
            });
        }
    }
}

#[test]
fn kto_of_single_answers() {
    for (name, loss) in KtoLoss::ALL {
        let mut settings = kto_settings();
        settings.loss = loss;
        settings.beta = 0.4;
        settings.undesirable_weight = 1.3;
        assert_slopes(name, |logps| {
            let judged = |(i, sequence)| Judged { sequence, desirable: i % 3 != 1 };
            let answers: Vec<_> = sequences(logps, 0).into_iter().enumerate().map(judged).collect();
            kto(&settings, &answers, &[0.8, -0.2, 0.3])
        });
    }
}

#[test]
fn cpo_simpo_and_orpo() {
    for (name, loss) in CpoLoss::ALL {
        let mut settings = cpo_settings(loss);
        settings.beta = 0.7;
        settings.alpha = 0.5;
        settings.label_smoothing = 0.05;
        assert_slopes(name, |logps| cpo(&settings, &sequences(logps, 0)));
    }
    assert_slopes("orpo", |logps| orpo(0.3, &sequences(logps, 0)));
    assert_slopes("orpo with its prompts", |logps| orpo(0.3, &sequences(logps, 2)));
}

#[test]
fn a_reward_model() {
    let settings =
        RewardModelling { center_rewards_coefficient: Some(0.05), disable_dropout: true };
    let scores = [0.4, -0.2, 1.3, 1.9];
    let gradient = reward(&settings, &scores).gradient;
    for i in 0..scores.len() {
        let moved = |by: f64| {
            let mut scores = scores;
            scores[i] += by;
            reward(&settings, &scores).loss
        };
        let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
        assert!((gradient[i] - difference).abs() < 1e-8, "{i}: {} {difference}", gradient[i]);
    }
    let means = reward(&settings, &scores).tally.means();
    assert_eq!((means["accuracy"], means["min_reward"], means["max_reward"]), (0.5, -0.2, 1.9));
}
