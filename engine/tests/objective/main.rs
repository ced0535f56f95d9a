//! Losses on log-probabilities: against TRL's values and gradients, and against finite differences.

mod peers;
mod slopes;

use fleetune_engine::objective::Sequence;
use fleetune_shared::recipe::{Cpo, CpoLoss, Dpo, DpoLoss, FDivergence, Kto, KtoLoss};

/// DPO as TRL does it unless told otherwise.
fn dpo_settings() -> Dpo {
    Dpo {
        losses: vec![(DpoLoss::Sigmoid, 1.0)],
        beta: 0.1,
        label_smoothing: 0.0,
        f_divergence: FDivergence::ReverseKl,
        f_alpha: 0.5,
        ld_alpha: None,
        use_weighting: false,
        discopop_tau: 0.05,
        rpo_alpha: None,
        precompute_reference: false,
        disable_dropout: true,
    }
}

fn kto_settings() -> Kto {
    Kto {
        loss: KtoLoss::Kto,
        beta: 0.1,
        desirable_weight: 1.0,
        undesirable_weight: 1.0,
        precompute_reference: false,
        disable_dropout: true,
    }
}

fn cpo_settings(loss: CpoLoss) -> Cpo {
    Cpo {
        loss,
        beta: 0.1,
        label_smoothing: 0.0,
        alpha: 0.0,
        simpo_gamma: 0.5,
        disable_dropout: true,
    }
}

/// A completion without a prompt that is learned.
fn sequence<'a>(logps: &'a [f64], collisions: &'a [f64], reference: f64) -> Sequence<'a> {
    Sequence { logps, prompt: 0, collisions, reference }
}

fn close(found: f64, expected: f64, tolerance: f64) -> bool {
    (found - expected).abs() <= tolerance * expected.abs().max(1.0)
}
