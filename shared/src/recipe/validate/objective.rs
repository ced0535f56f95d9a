//! Keys about what is optimised.

use super::super::words::{FinetuningTask as Task, OneOrMany};
use super::super::{
    Cpo, CpoLoss, Dpo, DpoLoss, Kto, KtoLoss, Objective, RecipeError, RecipeFile, RewardModelling,
    SupervisedFineTuning,
};
use super::range::{SMALLEST, number, refuse};

/// Keys that only some tasks have.
fn only_some(file: &RecipeFile) -> [(&'static str, bool, &'static [Task]); 20] {
    use Task::{Cpo, Dpo, Kto, Orpo, Reward, Sft, Simpo};
    [
        ("assistant_only_loss", file.assistant_only_loss.is_some(), &[Sft]),
        ("completion_only_loss", file.completion_only_loss.is_some(), &[Sft]),
        ("loss_type", file.loss_type.is_some(), &[Dpo, Kto, Cpo]),
        ("loss_weights", file.loss_weights.is_some(), &[Dpo]),
        ("beta", file.beta.is_some(), &[Dpo, Kto, Orpo, Cpo, Simpo]),
        ("label_smoothing", file.label_smoothing.is_some(), &[Dpo, Cpo, Simpo]),
        ("f_divergence_type", file.f_divergence_type.is_some(), &[Dpo]),
        ("f_alpha_divergence_coef", file.f_alpha_divergence_coef.is_some(), &[Dpo]),
        ("ld_alpha", file.ld_alpha.is_some(), &[Dpo]),
        ("use_weighting", file.use_weighting.is_some(), &[Dpo]),
        ("discopop_tau", file.discopop_tau.is_some(), &[Dpo]),
        ("rpo_alpha", file.rpo_alpha.is_some(), &[Dpo]),
        ("precompute_ref_log_probs", file.precompute_ref_log_probs.is_some(), &[Dpo, Kto]),
        ("desirable_weight", file.desirable_weight.is_some(), &[Kto]),
        ("undesirable_weight", file.undesirable_weight.is_some(), &[Kto]),
        ("cpo_alpha", file.cpo_alpha.is_some(), &[Cpo, Simpo]),
        ("simpo_gamma", file.simpo_gamma.is_some(), &[Cpo, Simpo]),
        ("center_rewards_coefficient", file.center_rewards_coefficient.is_some(), &[Reward]),
        ("disable_dropout", file.disable_dropout.is_some(), &[Dpo, Kto, Orpo, Cpo, Simpo, Reward]),
        ("label_smoothing_factor", file.label_smoothing_factor.is_some(), &[Sft]),
    ]
}

pub(super) fn objective(file: &RecipeFile) -> Result<Objective, RecipeError> {
    let task = file.task.unwrap_or_default();
    let word = serde_json::to_value(task).unwrap_or_default();
    let word = word.as_str().unwrap_or_default();
    if let Some((key, ..)) =
        only_some(file).into_iter().find(|(_, set, tasks)| *set && !tasks.contains(&task))
    {
        return refuse(key, "set", format!("absent where `task` is {word}"));
    }
    let beta = |default| number("beta", file.beta, default, SMALLEST, 1e3);
    let disable_dropout = file.disable_dropout.unwrap_or(true);
    Ok(match task {
        Task::Sft => Objective::Sft(SupervisedFineTuning {
            label_smoothing: number(
                "label_smoothing_factor",
                file.label_smoothing_factor,
                0.0,
                0.0,
                0.999,
            )?,
        }),
        Task::Dpo => Objective::Dpo(dpo(file, beta(0.1)?, disable_dropout)?),
        Task::Kto => Objective::Kto(Kto {
            loss: one_loss(file, &KtoLoss::ALL)?,
            beta: beta(0.1)?,
            desirable_weight: number("desirable_weight", file.desirable_weight, 1.0, 0.0, 1e3)?,
            undesirable_weight: number(
                "undesirable_weight",
                file.undesirable_weight,
                1.0,
                0.0,
                1e3,
            )?,
            precompute_reference: file.precompute_ref_log_probs.unwrap_or(false),
            disable_dropout,
        }),
        Task::Orpo => Objective::Orpo { beta: beta(0.1)?, disable_dropout },
        Task::Cpo | Task::Simpo => {
            let loss = match task {
                Task::Simpo => CpoLoss::Simpo,
                _ => one_loss(file, &CpoLoss::ALL)?,
            };
            let simpo = task == Task::Simpo;
            Objective::Cpo(Cpo {
                loss,
                beta: beta(if simpo { 2.0 } else { 0.1 })?,
                label_smoothing: number("label_smoothing", file.label_smoothing, 0.0, 0.0, 0.499)?,
                alpha: number("cpo_alpha", file.cpo_alpha, f64::from(!simpo), 0.0, 1e3)?,
                simpo_gamma: number("simpo_gamma", file.simpo_gamma, 0.5, 0.0, 1e3)?,
                disable_dropout,
            })
        }
        Task::Reward => Objective::Reward(RewardModelling {
            center_rewards_coefficient: file
                .center_rewards_coefficient
                .map(|c| number("center_rewards_coefficient", Some(c), 0.0, 0.0, 1e3))
                .transpose()?,
            disable_dropout,
        }),
    })
}

fn dpo(file: &RecipeFile, beta: f64, disable_dropout: bool) -> Result<Dpo, RecipeError> {
    let names = file.loss_type.as_ref().map_or(vec!["sigmoid".into()], OneOrMany::to_vec);
    let losses: Vec<DpoLoss> =
        names.iter().map(|name| loss(name, &DpoLoss::ALL)).collect::<Result<_, _>>()?;
    if losses.is_empty() {
        return refuse("loss_type", "an empty list", "at least one loss");
    }
    let weights = file.loss_weights.clone().unwrap_or(vec![1.0; losses.len()]);
    if weights.len() != losses.len() {
        let expected = format!("{}, one for each of `loss_type`", losses.len());
        return refuse("loss_weights", format!("{} numbers", weights.len()), expected);
    }
    for weight in &weights {
        number("loss_weights", Some(*weight), 1.0, 0.0, 1e3)?;
    }
    let optional = |key, value: Option<f64>, high| {
        value.map(|v| number(key, Some(v), 0.0, 0.0, high)).transpose()
    };
    Ok(Dpo {
        losses: losses.into_iter().zip(weights).collect(),
        beta,
        label_smoothing: number("label_smoothing", file.label_smoothing, 0.0, 0.0, 0.499)?,
        f_divergence: file.f_divergence_type.unwrap_or_default(),
        f_alpha: number(
            "f_alpha_divergence_coef",
            file.f_alpha_divergence_coef,
            0.5,
            SMALLEST,
            1e3,
        )?,
        ld_alpha: optional("ld_alpha", file.ld_alpha, 1.0)?,
        use_weighting: file.use_weighting.unwrap_or(false),
        discopop_tau: number("discopop_tau", file.discopop_tau, 0.05, SMALLEST, 1e3)?,
        rpo_alpha: optional("rpo_alpha", file.rpo_alpha, 1e3)?,
        precompute_reference: file.precompute_ref_log_probs.unwrap_or(false),
        disable_dropout,
    })
}

/// The one loss the recipe names, or the first of `all`.
fn one_loss<T: Copy>(file: &RecipeFile, all: &[(&str, T)]) -> Result<T, RecipeError> {
    match &file.loss_type {
        None => Ok(all[0].1),
        Some(OneOrMany::One(name)) => loss(name, all),
        Some(OneOrMany::Many(names)) => {
            refuse("loss_type", format!("a list of {}", names.len()), "one loss for this task")
        }
    }
}

fn loss<T: Copy>(name: &str, all: &[(&str, T)]) -> Result<T, RecipeError> {
    match all.iter().find(|(known, _)| *known == name) {
        Some((_, loss)) => Ok(*loss),
        None => {
            let known: Vec<_> = all.iter().map(|(known, _)| *known).collect();
            refuse("loss_type", name, format!("one of {}", known.join(", ")))
        }
    }
}
