//! Keys about how a run goes.

use super::super::words::{EvalStrategy, FinetuningTask, OptimName, ScheduleArgs, ScheduleName};
use super::super::{
    AdamW, Batching, BestModel, Checkpointing, Clip, Duration, EarlyStopping, Evaluation, HeldOut,
    Method, MomentDtype, Optim, RecipeError, RecipeFile, Schedule, Warmup,
};
use super::method::absent;
use super::range::{SMALLEST, count, number, refuse};

pub(super) fn batching(file: &RecipeFile) -> Result<Batching, RecipeError> {
    let rows = file.per_device_train_batch_size;
    let steps = file.gradient_accumulation_steps;
    Ok(Batching {
        micro_batch: count("per_device_train_batch_size", rows, 8, 1, 65_536)?,
        accumulation: count("gradient_accumulation_steps", steps, 1, 1, 65_536)?,
    })
}

pub(super) fn duration(file: &RecipeFile) -> Result<Duration, RecipeError> {
    match file.max_steps {
        None | Some(-1) => Ok(Duration::Epochs(number(
            "num_train_epochs",
            file.num_train_epochs,
            3.0,
            SMALLEST,
            1e6,
        )?)),
        Some(steps) if (1..=1 << 40).contains(&steps) => Ok(Duration::Steps(steps as u64)),
        Some(steps) => refuse("max_steps", steps, "a positive number, or -1 to count epochs"),
    }
}

/// TRL's defaults for whole models; adapters learn at ten times that, as its guide recommends.
fn rate(file: &RecipeFile, method: &Method) -> f64 {
    let whole = match file.task.unwrap_or_default() {
        FinetuningTask::Sft => 2e-5,
        FinetuningTask::Reward => 1e-5,
        _ => 1e-6,
    };
    if method.makes_adapter() { 10.0 * whole } else { whole }
}

pub(super) fn schedule(file: &RecipeFile, method: &Method) -> Result<Schedule, RecipeError> {
    let default = rate(file, method);
    let name = file.lr_scheduler_type.unwrap_or_default();
    let args = file.lr_scheduler_kwargs.unwrap_or_default();
    check_args(name, &args)?;
    Ok(Schedule {
        name,
        learning_rate: number("learning_rate", file.learning_rate, default, SMALLEST, 10.0)?,
        warmup: match file.warmup_steps {
            Some(steps) => Warmup::Steps(count("warmup_steps", Some(steps), 0, 0, 1 << 40)? as u64),
            None => Warmup::Ratio(number("warmup_ratio", file.warmup_ratio, 0.0, 0.0, 1.0)?),
        },
        args,
    })
}

fn check_args(name: ScheduleName, args: &ScheduleArgs) -> Result<(), RecipeError> {
    use ScheduleName as Name;
    let cosines = [Name::Cosine, Name::CosineWithRestarts, Name::CosineWithMinLr];
    let cosines = [cosines.as_slice(), &[Name::WarmupStableDecay]].concat();
    let stable: &[Name] = &[Name::WarmupStableDecay];
    let keys: [(&str, bool, &[Name]); 11] = [
        ("num_cycles", args.num_cycles.is_some(), &cosines),
        ("power", args.power.is_some(), &[Name::Polynomial]),
        ("lr_end", args.lr_end.is_some(), &[Name::Polynomial]),
        ("min_lr", args.min_lr.is_some(), &[Name::CosineWithMinLr]),
        ("min_lr_rate", args.min_lr_rate.is_some(), &[Name::CosineWithMinLr]),
        ("timescale", args.timescale.is_some(), &[Name::InverseSqrt]),
        ("num_decay_steps", args.num_decay_steps.is_some(), stable),
        ("num_stable_steps", args.num_stable_steps.is_some(), stable),
        ("warmup_type", args.warmup_type.is_some(), stable),
        ("decay_type", args.decay_type.is_some(), stable),
        ("min_lr_ratio", args.min_lr_ratio.is_some(), stable),
    ];
    if let Some((key, ..)) = keys.iter().find(|(_, set, names)| *set && !names.contains(&name)) {
        let key = format!("lr_scheduler_kwargs.{key}");
        return refuse(&key, "set", "absent for this `lr_scheduler_type`");
    }
    let numbers = [
        ("lr_scheduler_kwargs.num_cycles", args.num_cycles, 0.0, 1e6),
        ("lr_scheduler_kwargs.power", args.power, 0.0, 1e3),
        ("lr_scheduler_kwargs.lr_end", args.lr_end, 0.0, 10.0),
        ("lr_scheduler_kwargs.min_lr", args.min_lr, 0.0, 10.0),
        ("lr_scheduler_kwargs.min_lr_rate", args.min_lr_rate, 0.0, 1.0),
        ("lr_scheduler_kwargs.timescale", args.timescale, 1.0, 1e12),
        ("lr_scheduler_kwargs.min_lr_ratio", args.min_lr_ratio, 0.0, 1.0),
    ];
    for (key, value, low, high) in numbers {
        number(key, value, low, low, high)?;
    }
    match name {
        Name::WarmupStableDecay if args.num_decay_steps.is_none() => Err(RecipeError::Missing {
            key: "lr_scheduler_kwargs.num_decay_steps",
            expected: "the steps of the decay",
        }),
        Name::CosineWithMinLr if args.min_lr.is_some() == args.min_lr_rate.is_some() => {
            refuse("lr_scheduler_kwargs", "without a minimum", "one of `min_lr` and `min_lr_rate`")
        }
        _ => Ok(()),
    }
}

pub(super) fn optim(file: &RecipeFile, method: &Method) -> Result<Optim, RecipeError> {
    let in_backward = file.optimizer_in_backward.unwrap_or(false);
    if in_backward {
        let several = file.gradient_accumulation_steps.is_some_and(|n| n > 1);
        absent(
            &[("gradient_accumulation_steps", several)],
            "where `optimizer_in_backward` is true: a step begins before the next micro-batch",
        )?;
        if file.max_grad_norm != Some(0.0) {
            let found = file.max_grad_norm.map_or("1 by default".into(), |n| n.to_string());
            return refuse(
                "max_grad_norm",
                found,
                "0 where `optimizer_in_backward` is true: the norm of all gradients is never known",
            );
        }
    }
    let name = file.optim.unwrap_or_default();
    let ratio = |key, value: Option<f64>, high| {
        value.map(|v| number(key, Some(v), 1.0, SMALLEST, high)).transpose()
    };
    debug_assert!(!in_backward || !method.makes_adapter());
    Ok(Optim {
        name,
        moments: moments(file.optim_args.as_deref(), name)?,
        adam: AdamW {
            beta1: number("adam_beta1", file.adam_beta1, 0.9, 0.0, 0.999_999)?,
            beta2: number("adam_beta2", file.adam_beta2, 0.999, 0.0, 0.999_999_9)?,
            epsilon: number("adam_epsilon", file.adam_epsilon, 1e-8, 1e-30, 1.0)?,
            weight_decay: number("weight_decay", file.weight_decay, 0.0, 0.0, 10.0)?,
        },
        sgd_momentum: number("sgd_momentum", file.sgd_momentum, 0.0, 0.0, 0.999_999)?,
        loraplus_lr_ratio: ratio("loraplus_lr_ratio", file.loraplus_lr_ratio, 1e6)?,
        embedding_lr: ratio("embedding_lr", file.embedding_lr, 10.0)?,
        in_backward,
    })
}

/// The dtypes of both moments, from `optim_args`.
fn moments(args: Option<&str>, name: OptimName) -> Result<[MomentDtype; 2], RecipeError> {
    const KEY: &str = "optim_args";
    let mut moments = [MomentDtype::default(); 2];
    let args = args.unwrap_or_default().split(',').map(str::trim).filter(|arg| !arg.is_empty());
    for arg in args {
        if name != OptimName::AdamwAnyprecision {
            return refuse(KEY, arg, "absent for this `optim`; `adamw_anyprecision` takes some");
        }
        let (key, value) = arg.split_once('=').map_or((arg, ""), |(k, v)| (k.trim(), v.trim()));
        let dtype = match value {
            "float32" => Some(MomentDtype::Float32),
            "bfloat16" => Some(MomentDtype::Bfloat16),
            _ => None,
        };
        match (key, dtype) {
            ("momentum_dtype", Some(dtype)) => moments[0] = dtype,
            ("variance_dtype", Some(dtype)) => moments[1] = dtype,
            ("momentum_dtype" | "variance_dtype", None) => {
                return refuse(KEY, arg, "`float32` or `bfloat16` there");
            }
            ("use_kahan_summation", _) if value.eq_ignore_ascii_case("false") => {}
            ("use_kahan_summation", _) => {
                let expected = "`use_kahan_summation=False`: what is kept in bf16 is rounded by \
                                chance, so that small steps add up without a second buffer";
                return refuse(KEY, arg, expected);
            }
            _ => return refuse(KEY, arg, "`momentum_dtype=…`, `variance_dtype=…`"),
        }
    }
    Ok(moments)
}

pub(super) fn clip(file: &RecipeFile) -> Result<Clip, RecipeError> {
    let norm = number("max_grad_norm", file.max_grad_norm, 1.0, 0.0, 1e9)?;
    Ok(Clip(Some(norm).filter(|norm| *norm > 0.0)))
}

pub(super) fn checkpointing(file: &RecipeFile) -> Result<Checkpointing, RecipeError> {
    let steps = count("save_steps", file.save_steps, 500, 0, 1 << 40)? as u64;
    Ok(Checkpointing {
        save_steps: Some(steps).filter(|steps| *steps > 0),
        save_total_limit: count("save_total_limit", file.save_total_limit, 2, 1, 10_000)?,
    })
}

pub(super) fn evaluation(file: &RecipeFile, held_out: &HeldOut) -> Result<Evaluation, RecipeError> {
    let nothing = *held_out == HeldOut::None;
    let keys = [
        ("eval_strategy", file.eval_strategy.is_some_and(|s| s != EvalStrategy::No)),
        ("eval_on_start", file.eval_on_start == Some(true)),
        ("load_best_model_at_end", file.load_best_model_at_end == Some(true)),
        ("early_stopping_patience", file.early_stopping_patience.is_some()),
    ];
    if nothing {
        absent(&keys, "without `eval_dataset` or `test_split_size`")?;
    }
    let metric = file.metric_for_best_model.clone().unwrap_or("eval_loss".into());
    let default = if nothing { EvalStrategy::No } else { EvalStrategy::Epoch };
    let patience = file.early_stopping_patience;
    let threshold = file.early_stopping_threshold;
    if patience.is_none() {
        let key = [("early_stopping_threshold", threshold.is_some())];
        absent(&key, "without `early_stopping_patience`")?;
    }
    Ok(Evaluation {
        strategy: file.eval_strategy.unwrap_or(default),
        steps: count("eval_steps", file.eval_steps, 500, 1, 1 << 40)? as u64,
        on_start: file.eval_on_start.unwrap_or(false),
        micro_batch: count(
            "per_device_eval_batch_size",
            file.per_device_eval_batch_size,
            8,
            1,
            65_536,
        )?,
        best: BestModel {
            load_at_end: file.load_best_model_at_end.unwrap_or(false),
            greater_is_better: file.greater_is_better.unwrap_or(!metric.ends_with("loss")),
            metric,
        },
        early_stopping: patience
            .map(|n| -> Result<_, RecipeError> {
                Ok(EarlyStopping {
                    patience: count("early_stopping_patience", Some(n), 1, 1, 1 << 40)? as u64,
                    threshold: number("early_stopping_threshold", threshold, 0.0, 0.0, 1e9)?,
                })
            })
            .transpose()?,
    })
}
