//! What a run optimises.

use super::super::words::FDivergence;

/// What a run optimises.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// The likelihood of labelled tokens.
    Sft(SupervisedFineTuning),
    /// Pairs of answers against a reference.
    Dpo(Dpo),
    /// Single answers, wanted or unwanted, against a reference.
    Kto(Kto),
    /// The odds of pairs, beside the likelihood of the chosen one.
    Orpo {
        /// Weight of the odds ratio (λ of arXiv 2403.07691).
        beta: f64,
        /// Whether dropout stays off.
        disable_dropout: bool,
    },
    /// Pairs without a reference; SimPO among them.
    Cpo(Cpo),
    /// A score for whole answers.
    Reward(RewardModelling),
}

impl Objective {
    /// Whether dropout stays off, whatever the adapter's settings are.
    #[must_use]
    pub fn disables_dropout(&self) -> bool {
        match self {
            Self::Sft(_) => false,
            Self::Dpo(dpo) => dpo.disable_dropout,
            Self::Kto(kto) => kto.disable_dropout,
            Self::Orpo { disable_dropout, .. } => *disable_dropout,
            Self::Cpo(cpo) => cpo.disable_dropout,
            Self::Reward(reward) => reward.disable_dropout,
        }
    }

    /// Whether what a row teaches depends on the others of its micro-batch.
    #[must_use]
    pub fn couples_rows(&self) -> bool {
        let of_all = |(loss, _): &(DpoLoss, f64)| {
            matches!(loss, DpoLoss::Sft | DpoLoss::Aot | DpoLoss::AotUnpaired)
        };
        match self {
            Self::Sft(_) | Self::Reward(_) => false,
            Self::Dpo(dpo) => dpo.rpo_alpha.is_some() || dpo.losses.iter().any(of_all),
            Self::Cpo(cpo) => cpo.alpha != 0.0,
            Self::Kto(_) | Self::Orpo { .. } => true,
        }
    }

    /// Rows of tokens that one line of the data becomes and that are learned from at once.
    #[must_use]
    pub fn answers(&self) -> usize {
        match self {
            Self::Sft(_) | Self::Kto(_) => 1,
            Self::Dpo(_) | Self::Orpo { .. } | Self::Cpo(_) | Self::Reward(_) => 2,
        }
    }
}

/// Supervised fine-tuning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SupervisedFineTuning {
    /// Share of each label spread over the vocabulary.
    pub label_smoothing: f64,
}

/// DPO and its cousins, as TRL's `DPOConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dpo {
    /// Losses and their weights; at least one.
    pub losses: Vec<(DpoLoss, f64)>,
    /// How strongly the policy is held to the reference.
    pub beta: f64,
    /// How often labels are thought to be wrong.
    pub label_smoothing: f64,
    /// How the two are compared.
    pub f_divergence: FDivergence,
    /// The α of [`FDivergence::AlphaDivergence`].
    pub f_alpha: f64,
    /// Weight of what makes one answer longer than the other.
    pub ld_alpha: Option<f64>,
    /// Whether pairs are weighed by the policy's confidence.
    pub use_weighting: bool,
    /// Temperature of [`DpoLoss::Discopop`].
    pub discopop_tau: f64,
    /// Weight of the chosen answer's likelihood.
    pub rpo_alpha: Option<f64>,
    /// Whether the reference is asked once, before training.
    pub precompute_reference: bool,
    /// Whether dropout stays off.
    pub disable_dropout: bool,
}

/// What is made of the difference between two answers' log-ratios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "TRL's names; the objective gives each its formula")]
pub enum DpoLoss {
    Sigmoid,
    Hinge,
    Ipo,
    Robust,
    ExoPair,
    NcaPair,
    BcoPair,
    SppoHard,
    Aot,
    AotUnpaired,
    ApoZero,
    ApoDown,
    Discopop,
    Sft,
    SigmoidNorm,
}

impl DpoLoss {
    /// All of them by TRL's names.
    pub const ALL: [(&str, Self); 15] = [
        ("sigmoid", Self::Sigmoid),
        ("hinge", Self::Hinge),
        ("ipo", Self::Ipo),
        ("robust", Self::Robust),
        ("exo_pair", Self::ExoPair),
        ("nca_pair", Self::NcaPair),
        ("bco_pair", Self::BcoPair),
        ("sppo_hard", Self::SppoHard),
        ("aot", Self::Aot),
        ("aot_unpaired", Self::AotUnpaired),
        ("apo_zero", Self::ApoZero),
        ("apo_down", Self::ApoDown),
        ("discopop", Self::Discopop),
        ("sft", Self::Sft),
        ("sigmoid_norm", Self::SigmoidNorm),
    ];
}

/// KTO, as TRL's `KTOConfig`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kto {
    /// The loss.
    pub loss: KtoLoss,
    /// How strongly the policy is held to the reference.
    pub beta: f64,
    /// Weight of wanted answers.
    pub desirable_weight: f64,
    /// Weight of unwanted answers.
    pub undesirable_weight: f64,
    /// Whether the reference is asked once, before training.
    pub precompute_reference: bool,
    /// Whether dropout stays off.
    pub disable_dropout: bool,
}

/// What is made of one answer's log-ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KtoLoss {
    /// arXiv 2402.01306.
    Kto,
    /// Without the divergence's estimate, arXiv 2408.06266.
    ApoZeroUnpaired,
}

impl KtoLoss {
    /// All of them by TRL's names.
    pub const ALL: [(&str, Self); 2] =
        [("kto", Self::Kto), ("apo_zero_unpaired", Self::ApoZeroUnpaired)];
}

/// CPO and SimPO, as TRL's `CPOConfig`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpo {
    /// The loss.
    pub loss: CpoLoss,
    /// Scale of the log-probabilities' difference.
    pub beta: f64,
    /// How often labels are thought to be wrong.
    pub label_smoothing: f64,
    /// Weight of the chosen answer's likelihood.
    pub alpha: f64,
    /// SimPO's target margin.
    pub simpo_gamma: f64,
    /// Whether dropout stays off.
    pub disable_dropout: bool,
}

/// What is made of the difference between two answers' log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "TRL's names; the objective gives each its formula")]
pub enum CpoLoss {
    Sigmoid,
    Hinge,
    Ipo,
    Simpo,
}

impl CpoLoss {
    /// All of them by TRL's names.
    pub const ALL: [(&str, Self); 4] = [
        ("sigmoid", Self::Sigmoid),
        ("hinge", Self::Hinge),
        ("ipo", Self::Ipo),
        ("simpo", Self::Simpo),
    ];
}

/// Reward modelling, as TRL's `RewardConfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RewardModelling {
    /// Pulls the mean of rewards to zero.
    pub center_rewards_coefficient: Option<f64>,
    /// Whether dropout stays off.
    pub disable_dropout: bool,
}
