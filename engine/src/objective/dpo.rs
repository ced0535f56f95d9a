//! Direct preference optimization (arXiv 2305.18290) and the losses that share its data and its reference.
//!
//! With `c` and `r` the scores of the chosen and the rejected answer, which are the log-ratios `ln π/π_ref` unless
//! another f-divergence transforms them (arXiv 2309.16240), and `z = β(c − r)`:
//!
//! | loss | per pair | from |
//! |---|---|---|
//! | `sigmoid` | `−(1 − ε)·ln σ(z) − ε·ln σ(−z)` | 2305.18290; ε: conservative DPO |
//! | `hinge` | `max(0, 1 − z)` | SLiC, 2309.06657 |
//! | `ipo` | `(c/n_c − r/n_r − 1/2β)²`, per token | 2310.12036 |
//! | `robust` | `(−(1 − ε)·ln σ(z) + ε·ln σ(−z)) / (1 − 2ε)` | 2403.00409 |
//! | `exo_pair` | `KL((σ(z), σ(−z)) ‖ (1 − ε, ε))` | 2402.00856 |
//! | `nca_pair` | `−ln σ(βc) − ½ ln σ(−βc) − ½ ln σ(−βr)` | 2402.05369 |
//! | `bco_pair` | `−ln σ(βc) − ln σ(−βr)`, no moving baseline, as TRL 1.16 | 2404.04656 |
//! | `sppo_hard` | `(c − 1/2β)² + (r + 1/2β)²` | 2405.00675 |
//! | `aot`, `aot_unpaired` | `sigmoid` between order statistics of the batch | 2406.05882 |
//! | `apo_zero` | `1 − σ(βc) + σ(βr)` of the log-ratios | 2408.06266 |
//! | `apo_down` | `σ(βc) + 1 − σ(z)` of the log-ratios | 2408.06266 |
//! | `discopop` | `−ln σ(z)·(1 − m) + e^−z·m`, `m = σ(z/τ)` | 2406.08414 |
//! | `sft` | likelihood per token of the chosen answers | 2404.19733 |
//! | `sigmoid_norm` | `sigmoid` of scores per token | |

use fleetune_shared::recipe::{Dpo, DpoLoss, FDivergence};

use super::logistic::{log_sigmoid, sigmoid, smoothed_comparison};
use super::sequence::{Grades, Sequence};

/// Two numbers of a pair: the chosen answer's and the rejected one's.
#[derive(Clone, Copy, Debug, Default)]
struct Both {
    chosen: f64,
    rejected: f64,
}

impl Both {
    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { chosen: f(self.chosen), rejected: f(self.rejected) }
    }

    fn gap(self) -> f64 {
        self.chosen - self.rejected
    }
}

/// What the losses look at.
struct Compared<'a> {
    settings: &'a Dpo,
    /// `ln π/π_ref` of whole answers.
    ratios: Vec<Both>,
    /// Reference log-probabilities.
    references: Vec<Both>,
    /// Tokens of the answers.
    lengths: Vec<Both>,
}

/// Grades pairs: `sequences` holds each chosen answer and, after it, its rejected one.
///
/// Several losses are added with their weights; `rpo_alpha` adds the chosen answers' likelihood (arXiv 2404.19733).
#[must_use]
pub fn dpo(settings: &Dpo, sequences: &[Sequence<'_>]) -> Grades {
    let (pairs, _) = sequences.as_chunks::<2>();
    let tail = settings.ld_alpha.unwrap_or(1.0);
    let shared = |[chosen, rejected]: &[Sequence<'_>; 2]| {
        chosen.completion().len().min(rejected.completion().len())
    };
    let policies: Vec<Both> = pairs
        .iter()
        .map(|pair| {
            let logp = |s: &Sequence<'_>| s.logp(shared(pair), tail);
            Both { chosen: logp(&pair[0]), rejected: logp(&pair[1]) }
        })
        .collect();
    let each = |f: fn(&Sequence<'_>) -> f64| -> Vec<Both> {
        pairs.iter().map(|[c, r]| Both { chosen: f(c), rejected: f(r) }).collect()
    };
    let references = each(|s| s.reference);
    let ratio = |(policy, reference): (&Both, &Both)| Both {
        chosen: policy.chosen - reference.chosen,
        rejected: policy.rejected - reference.rejected,
    };
    let compared = Compared {
        settings,
        ratios: policies.iter().zip(&references).map(ratio).collect(),
        references,
        lengths: each(|s| s.length()),
    };
    let weights: Vec<f64> = if settings.use_weighting {
        each(|s| s.alignment().exp()).iter().map(|w| w.chosen * w.rejected).collect()
    } else {
        vec![1.0; pairs.len()]
    };

    let mut grades = Grades::default();
    let mut slopes = vec![Both::default(); pairs.len()];
    let mut likelihood = settings.rpo_alpha.unwrap_or(0.0) * pairs.len() as f64;
    for (loss, share) in &settings.losses {
        if *loss == DpoLoss::Sft {
            likelihood += share * weights.iter().sum::<f64>();
            continue;
        }
        let losses = match loss {
            DpoLoss::Aot => compared.sorted(true),
            DpoLoss::AotUnpaired => compared.sorted(false),
            _ => (0..pairs.len()).map(|pair| compared.pair(*loss, pair)).collect(),
        };
        for ((value, slope), (sum, weight)) in losses.iter().zip(slopes.iter_mut().zip(&weights)) {
            let factor = share * weight;
            grades.loss += factor * value;
            sum.chosen += factor * slope.chosen;
            sum.rejected += factor * slope.rejected;
        }
    }
    for (pair, slope) in pairs.iter().zip(&slopes) {
        grades.pull(&pair[0], slope.chosen, shared(pair), tail);
        grades.pull(&pair[1], slope.rejected, shared(pair), tail);
    }
    if likelihood != 0.0 {
        let nll = grades.add_chosen_nll(sequences, likelihood);
        grades.tally.add("nll_loss", [nll]);
    }

    let rewards: Vec<Both> =
        compared.ratios.iter().map(|ratio| ratio.map(|r| settings.beta * r)).collect();
    let tally = &mut grades.tally;
    tally.add("rewards/chosen", rewards.iter().map(|r| r.chosen));
    tally.add("rewards/rejected", rewards.iter().map(|r| r.rejected));
    let right = |r: &Both| f64::from(u8::from(r.chosen > r.rejected));
    tally.add("rewards/accuracies", rewards.iter().map(right));
    tally.add("rewards/margins", rewards.iter().map(|r| r.gap()));
    tally.add("logps/chosen", policies.iter().map(|p| p.chosen));
    tally.add("logps/rejected", policies.iter().map(|p| p.rejected));
    grades
}

impl Compared<'_> {
    /// Loss of one pair, and its derivatives for the two log-probabilities.
    fn pair(&self, loss: DpoLoss, pair: usize) -> (f64, Both) {
        let (beta, epsilon) = (self.settings.beta, self.settings.label_smoothing);
        let (ratio, length) = (self.ratios[pair], self.lengths[pair]);
        let score = ratio.map(|x| self.score(x).0);
        let per_score = ratio.map(|x| self.score(x).1);
        let z = beta * score.gap();
        // A loss of z alone.
        let of_z = |(value, dz): (f64, f64)| {
            let slope = Both {
                chosen: beta * dz * per_score.chosen,
                rejected: -beta * dz * per_score.rejected,
            };
            (value, slope)
        };
        // A loss of the difference of scores per token.
        let per_token = |loss: &dyn Fn(f64) -> (f64, f64)| {
            let (value, slope) =
                loss(score.chosen / length.chosen - score.rejected / length.rejected);
            let slope = Both {
                chosen: slope * per_score.chosen / length.chosen,
                rejected: -slope * per_score.rejected / length.rejected,
            };
            (value, slope)
        };
        // Derivatives for the scores, to those for the log-probabilities.
        let of_scores = |value: f64, chosen: f64, rejected: f64| {
            let slope =
                Both { chosen: chosen * per_score.chosen, rejected: rejected * per_score.rejected };
            (value, slope)
        };
        match loss {
            DpoLoss::Sigmoid => of_z(smoothed_comparison(z, epsilon)),
            DpoLoss::Hinge => of_z(((1.0 - z).max(0.0), if z < 1.0 { -1.0 } else { 0.0 })),
            DpoLoss::Ipo => per_token(&|gap| {
                let off = gap - 0.5 / beta;
                (off * off, 2.0 * off)
            }),
            DpoLoss::SigmoidNorm => {
                per_token(&|gap| (-log_sigmoid(beta * gap), -beta * sigmoid(-beta * gap)))
            }
            DpoLoss::Robust => {
                let right = (1.0 - epsilon, epsilon);
                let value = -right.0 * log_sigmoid(z) + right.1 * log_sigmoid(-z);
                let slope = -right.0 * sigmoid(-z) - right.1 * sigmoid(z);
                of_z((value / (1.0 - 2.0 * epsilon), slope / (1.0 - 2.0 * epsilon)))
            }
            DpoLoss::ExoPair => {
                let (win, lose) = (sigmoid(z), sigmoid(-z));
                let gain = log_sigmoid(z) - (-epsilon).ln_1p();
                let pain = log_sigmoid(-z) - epsilon.ln();
                of_z((win * gain + lose * pain, win * lose * (gain - pain)))
            }
            DpoLoss::NcaPair => {
                let reward = score.map(|s| beta * s);
                let value = -log_sigmoid(reward.chosen)
                    - 0.5 * log_sigmoid(-reward.chosen)
                    - 0.5 * log_sigmoid(-reward.rejected);
                let chosen = 0.5 * sigmoid(reward.chosen) - sigmoid(-reward.chosen);
                of_scores(value, beta * chosen, 0.5 * beta * sigmoid(reward.rejected))
            }
            DpoLoss::BcoPair => {
                let reward = score.map(|s| beta * s);
                let value = -log_sigmoid(reward.chosen) - log_sigmoid(-reward.rejected);
                of_scores(value, -beta * sigmoid(-reward.chosen), beta * sigmoid(reward.rejected))
            }
            DpoLoss::SppoHard => {
                let (win, lose) = (score.chosen - 0.5 / beta, score.rejected + 0.5 / beta);
                of_scores(win * win + lose * lose, 2.0 * win, 2.0 * lose)
            }
            DpoLoss::ApoZero => {
                let reward = ratio.map(|r| beta * r);
                let value = sigmoid(-reward.chosen) + sigmoid(reward.rejected);
                let slope = reward.map(|r| beta * sigmoid(r) * sigmoid(-r));
                (value, Both { chosen: -slope.chosen, rejected: slope.rejected })
            }
            DpoLoss::ApoDown => {
                let (chosen, gap) = (beta * ratio.chosen, beta * ratio.gap());
                let steep = |x: f64| beta * sigmoid(x) * sigmoid(-x);
                let slope = Both { chosen: steep(chosen) - steep(gap), rejected: steep(gap) };
                (sigmoid(chosen) + sigmoid(-gap), slope)
            }
            DpoLoss::Discopop => {
                let tau = self.settings.discopop_tau;
                let mixed = sigmoid(z / tau);
                let (logistic, exponential) = (-log_sigmoid(z), (-z).exp());
                let turn = mixed * sigmoid(-z / tau) / tau;
                let slope = -sigmoid(-z) * (1.0 - mixed) - exponential * mixed
                    + turn * (exponential - logistic);
                of_z((logistic * (1.0 - mixed) + exponential * mixed, slope))
            }
            DpoLoss::Sft | DpoLoss::Aot | DpoLoss::AotUnpaired => {
                unreachable!("of a whole batch, and asked there")
            }
        }
    }

    /// The score of a log-ratio and its derivative: `f′(e^x)` up to a constant.
    fn score(&self, ratio: f64) -> (f64, f64) {
        match self.settings.f_divergence {
            FDivergence::ReverseKl => (ratio, 1.0),
            FDivergence::ForwardKl => (-(-ratio).exp(), (-ratio).exp()),
            FDivergence::JsDivergence => (log_sigmoid(ratio), sigmoid(-ratio)),
            FDivergence::AlphaDivergence => {
                let power = self.settings.f_alpha - 1.0;
                if power.abs() < 1e-6 {
                    return (ratio, 1.0);
                }
                let raised = (power * ratio).exp();
                (raised / power, raised)
            }
        }
    }

    /// Alignment via optimal transport: the k-th smallest against the k-th smallest, of `ln π(chosen)/π(rejected)`
    /// under policy and reference when `paired`, else of the chosen and the rejected log-ratios.
    fn sorted(&self, paired: bool) -> Vec<(f64, Both)> {
        let order = |values: Vec<f64>| {
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
            order.into_iter().map(|at| (at, values[at])).collect::<Vec<_>>()
        };
        let (low, high): (Vec<f64>, Vec<f64>) = if paired {
            let policy = |(ratio, reference): (&Both, &Both)| ratio.gap() + reference.gap();
            let policies = self.ratios.iter().zip(&self.references).map(policy);
            (self.references.iter().map(|r| r.gap()).collect(), policies.collect())
        } else {
            let chosen = self.ratios.iter().map(|r| r.chosen);
            (self.ratios.iter().map(|r| r.rejected).collect(), chosen.collect())
        };
        let beta = self.settings.beta;
        let mut graded = vec![(0.0, Both::default()); self.ratios.len()];
        for ((raised, high), (lowered, low)) in order(high).into_iter().zip(order(low)) {
            let (value, slope) =
                smoothed_comparison(beta * (high - low), self.settings.label_smoothing);
            graded[raised].0 += value;
            graded[raised].1.chosen += beta * slope;
            let other = if paired { raised } else { lowered };
            graded[other].1.rejected -= beta * slope;
        }
        graded
    }
}
