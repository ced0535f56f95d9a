//! The loop over optimizer steps.

use std::path::{Path, PathBuf};
use std::time::Instant;

use fleetune_shared::recipe::Clip;
use fleetune_shared::{
    AdapterConfig, Estimate, StepMetrics, TrainOrder, TrainSummary, TrainerEvent,
};

use super::Observer;
use super::metrics::MetricsLog;
use super::result;
use super::setup::Setup;
use crate::checkpoint::{self, State};
use crate::data::Loader;
use crate::memory::{self, Bound};
use crate::model::{Model, Shards};
use crate::optim::{Optimizer, Schedule, clip_factor, grad_norm};
use crate::{EngineError, Result};

const OPTIMIZER: &str = "optimizer.safetensors";

/// Carries out a training order. Everything but [`TrainerEvent::Failed`] is told to the observer; a failure is the
/// returned error, and then nothing but checkpoints and metrics stands in the output folder.
///
/// `resume_from` is a checkpoint, or a folder with checkpoints, of which the newest whole one is taken. Where it is
/// the output folder itself and holds none, the run begins at its beginning.
///
/// # Errors
/// Any [`EngineError`]; [`EngineError::Stopped`] after the observer asked for an end.
pub fn train(order: &TrainOrder, observer: &mut dyn Observer) -> Result<TrainSummary> {
    let begun = Instant::now();
    std::fs::create_dir_all(&order.out).map_err(|e| EngineError::io(&order.out, e))?;
    let _bound = Bound::set(order.memory_bytes_limit);
    let resume = checkpoint_of(order, observer)?;
    let Setup { recipe, dataset, mut model, adapter, model_hash, data_hash } =
        Setup::of(order, observer)?;
    let estimate = Estimate::of_training(model.spec(), &recipe, order.device);
    let mut loader = Loader::new(&dataset, recipe.batching, recipe.data.sampling, recipe.seed);
    let steps_total = loader.steps_total(recipe.duration);
    let mut state = State::new(recipe.file(), steps_total, model_hash, data_hash);

    if let Some(folder) = &resume {
        let earlier = State::read(folder)?;
        state.continues(&earlier, folder)?;
        state = earlier;
        loader.seek(state.cursor)?;
        restore_weights(&mut model, &folder.join(result::weights_file(adapter.as_ref())))?;
    }
    let peak = recipe.schedule.learning_rate;
    let mut optimizer = Optimizer::new(recipe.optim, peak, &order.out, model.trainables_mut())?;
    if let Some(folder) = &resume {
        optimizer.restore(&folder.join(OPTIMIZER), state.step)?;
    }
    // What an interrupted run did after this checkpoint is done again.
    checkpoint::forget_after(&order.out, state.step)?;
    let log = MetricsLog::open(&order.out, state.step)?;
    let mut run = Run { order, clip: recipe.clip, model, adapter, loader, optimizer, state, log };
    run.dry(observer)?;

    let schedule = Schedule::new(&recipe.schedule, steps_total);
    let (first, tokens_before) = (run.state.step, run.state.totals.tokens);
    let (mut seconds, mut seconds_to_first_step) = (0.0, 0.0);
    observer.event(TrainerEvent::Started { step: first, steps_total });
    while run.state.step < steps_total {
        let step_begun = Instant::now();
        let Some(mut metrics) = run.step(&schedule, observer)? else {
            return run.stop(recipe.checkpointing.save_total_limit, observer);
        };
        let step_seconds = step_begun.elapsed().as_secs_f64();
        seconds += step_seconds;
        metrics.tokens_per_second /= step_seconds;
        if run.state.step == first + 1 {
            seconds_to_first_step = begun.elapsed().as_secs_f64();
        }
        run.log.append(&metrics)?;
        observer.event(TrainerEvent::Step(metrics));
        let step = run.state.step;
        if recipe.checkpointing.save_steps.is_some_and(|every| step.is_multiple_of(every)) {
            run.save(recipe.checkpointing.save_total_limit, observer)?;
        }
        if step < steps_total && observer.stop_requested() {
            return run.stop(recipe.checkpointing.save_total_limit, observer);
        }
    }

    let Run { mut model, adapter, state, .. } = run;
    let totals = state.totals;
    let summary = TrainSummary {
        steps: state.step,
        loss_first: totals.loss_first,
        loss_last: totals.loss_last,
        trainable_parameters: model.trainables_mut().map(|t| t.value.elem_count() as u64).sum(),
        tokens: totals.tokens,
        supervised_tokens: totals.supervised_tokens,
        rows: dataset.stats.rows,
        rows_dropped: dataset.stats.dropped,
        rows_truncated: dataset.stats.truncated,
        seconds,
        tokens_per_second: (totals.tokens - tokens_before) as f64 / f64::max(seconds, 1e-9),
        seconds_to_first_step,
        estimate: Some(estimate),
        memory_bytes_peak: memory::peak(),
        merge_logit_difference: None,
    };
    let summary = result::publish(&order.out, |folder| {
        result::save(folder, &model, adapter.as_ref(), &order.model)?;
        Ok(summary)
    })?;
    observer.event(TrainerEvent::Finished { summary: summary.clone() });
    Ok(summary)
}

/// The checkpoint to go on from, whole, if there is one.
fn checkpoint_of(order: &TrainOrder, observer: &mut dyn Observer) -> Result<Option<PathBuf>> {
    let Some(folder) = &order.resume_from else {
        return match checkpoint::latest(&order.out, &mut |_| ())? {
            None => Ok(None),
            Some(earlier) => Err(EngineError::input(format!(
                "{} holds an earlier run's {}; resume it, or choose another output folder",
                order.out.display(),
                earlier.file_name().unwrap_or_default().display()
            ))),
        };
    };
    if checkpoint::is_one(folder) {
        checkpoint::verify(folder)?;
        return Ok(Some(folder.clone()));
    }
    let mut pass_over = |torn: &EngineError| {
        observer.event(TrainerEvent::Log { message: format!("passed over: {torn}") });
    };
    match checkpoint::latest(folder, &mut pass_over)? {
        None if *folder != order.out => Err(EngineError::input(format!(
            "resume_from {}: no whole checkpoint there, expected a checkpoint folder or one that holds some",
            folder.display()
        ))),
        found => Ok(found),
    }
}

fn restore_weights(model: &mut Model, path: &Path) -> Result<()> {
    let file = Shards::of_file(path)?;
    for trainable in model.trainables_mut() {
        let value = file.read(&trainable.name)?;
        if value.dims() != trainable.value.dims() {
            let (found, expected) = (value.dims(), trainable.value.dims());
            return Err(EngineError::input(format!(
                "{}: tensor `{}` is {found:?}, expected {expected:?}",
                path.display(),
                trainable.name
            )));
        }
        trainable.value = value;
    }
    Ok(())
}

/// A run under way. `state` is that after the last whole step, whatever the rest has begun since.
struct Run<'a> {
    order: &'a TrainOrder,
    clip: Clip,
    model: Model,
    adapter: Option<AdapterConfig>,
    loader: Loader<'a>,
    optimizer: Optimizer,
    state: State,
    log: MetricsLog,
}

impl Run<'_> {
    /// Tries the longest micro-batch the data can produce, and forgets it: a run that is too big for its memory says
    /// so now rather than hours later. A resumed run has proven it already.
    fn dry(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if self.state.step > 0 {
            return Ok(());
        }
        let longest = self.loader.longest_step()?;
        self.model.forward_backward(&longest, 1.0)?;
        memory::check()?;
        self.model.clear_gradients();
        let (rows, tokens) = (longest.cu_seqlens.len() - 1, longest.tokens());
        let mut message =
            format!("dry run of the longest micro-batch: {rows} rows, {tokens} tokens");
        if memory::peak().0 > 0 {
            message += &format!(", {} at its peak", memory::peak());
        }
        observer.event(TrainerEvent::Log { message });
        Ok(())
    }

    /// One optimizer step; `None` when the observer asked for an end in the middle of it. `tokens_per_second` is
    /// still the number of tokens.
    ///
    /// The loss is summed over all micro-batches and divided once, by the step's supervised tokens: k micro-batches
    /// of b rows are one of k·b.
    fn step(
        &mut self,
        schedule: &Schedule,
        observer: &mut dyn Observer,
    ) -> Result<Option<StepMetrics>> {
        let step = self.state.step + 1;
        let batches = self.loader.next_step()?;
        let supervised: usize = batches.iter().map(|batch| batch.supervised()).sum();
        if supervised == 0 {
            return Err(EngineError::input(format!(
                "step {step}: none of its rows has a supervised token, so there is nothing to learn"
            )));
        }
        let scale = 1.0 / supervised as f64;
        let mut sum = 0.0;
        for (index, batch) in batches.iter().enumerate() {
            if index > 0 && observer.stop_requested() {
                self.model.clear_gradients();
                return Ok(None);
            }
            sum += self.model.forward_backward(batch, scale)?;
        }
        let loss = sum * scale;
        let diverged = |what, value| Err(EngineError::Diverged { step, what, value });
        if !loss.is_finite() {
            return diverged("loss", loss);
        }
        let norm = grad_norm(self.model.trainables_mut().filter_map(|t| t.grad.as_ref()))?;
        if !norm.is_finite() {
            return diverged("grad_norm", norm);
        }
        let learning_rate = schedule.rate(step - 1);
        let factor = clip_factor(self.clip, norm);
        self.optimizer.step(self.model.trainables_mut(), learning_rate, factor)?;
        memory::check()?;

        let tokens: usize = batches.iter().map(|batch| batch.tokens()).sum();
        let State { totals, .. } = &mut self.state;
        if step == 1 {
            totals.loss_first = loss;
        }
        totals.loss_last = loss;
        totals.tokens += tokens as u64;
        totals.supervised_tokens += supervised as u64;
        self.state.step = step;
        self.state.cursor = self.loader.cursor();
        Ok(Some(StepMetrics {
            step,
            loss,
            grad_norm: norm,
            learning_rate,
            supervised_tokens: supervised as u64,
            tokens_per_second: tokens as f64,
            epoch: self.loader.epochs_done(),
        }))
    }

    /// Writes a checkpoint, then drops the oldest beyond `keep`.
    fn save(&self, keep: usize, observer: &mut dyn Observer) -> Result<()> {
        let folder = checkpoint::write(&self.order.out, &self.state, |folder| {
            result::save(folder, &self.model, self.adapter.as_ref(), &self.order.model)?;
            self.optimizer.save(&folder.join(OPTIMIZER))
        })?;
        observer.event(TrainerEvent::Checkpoint { step: self.state.step, folder });
        checkpoint::prune(&self.order.out, keep)
    }

    /// Ends early, with a checkpoint of the last whole step.
    fn stop(self, keep: usize, observer: &mut dyn Observer) -> Result<TrainSummary> {
        let step = self.state.step;
        if step > 0 && !self.order.out.join(checkpoint::name_of(step)).exists() {
            self.save(keep, observer)?;
        }
        Err(EngineError::Stopped { step })
    }
}
