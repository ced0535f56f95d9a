//! The loop over optimizer steps.

use std::time::Instant;

use fleetune_shared::recipe::{Method, Objective};
use fleetune_shared::{
    AdapterConfig, BestEvaluation, Estimate, PeakSource, Recipe, StepMetrics, TrainOrder,
    TrainSummary, TrainerEvent, piece_tokens,
};

use super::Observer;
use super::evaluate::{EVAL_LOSS, Evaluator, name_of};
use super::largest::Largest;
use super::learner::{Learned, Learner};
use super::metrics::MetricsLog;
use super::resume::{checkpoint_of, restore_weights};
use super::setup::Setup;
use super::{best, result};
use crate::checkpoint::{self, State};
use crate::data::{Feed, Loader, MicroBatch, Step};
use crate::memory::{self, Bound, Steady};
use crate::model::{Model, Noise, Trainable};
use crate::objective::Tally;
use crate::ops;
use crate::optim::{Optimizer, Schedule, clip_factor};
use crate::{EngineError, Result};

const OPTIMIZER: &str = "optimizer.safetensors";
const REFERENCE: &str = "reference.safetensors";
const REFERENCE_HELD_OUT: &str = "reference_held_out.safetensors";

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
    let ops = ops::open(order.device, 0, order.recipe.quantization.activations())?;
    let _bound = Bound::set(order.memory_bytes_limit, ops.counter());
    let _steady = Steady::begin();
    let resume = checkpoint_of(order, observer)?;
    let Setup { recipe, dataset, held_out, template, mut model, adapter, model_hash, data_hash } =
        Setup::of(order, observer)?;
    model.carry(ops.clone())?;
    let estimate = Estimate::of_plan(model.spec(), &recipe, order.device, &model.memory_plan);
    let piece = piece_tokens(&recipe, order.device);
    let mut loader =
        Loader::new(&dataset, recipe.batching, recipe.data.sampling, recipe.seed).in_pieces(piece);
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
    let mut optimizer =
        Optimizer::new(ops, recipe.optim, peak, recipe.seed, &order.out, model.trainables_mut())?;
    if let Some(folder) = &resume {
        optimizer.restore(&folder.join(OPTIMIZER), state.step)?;
        if let Some(mark) = state.standing.best.filter(|_| recipe.evaluation.best.load_at_end) {
            if mark.step == state.step {
                best::keep(&order.out, &model)?;
            } else {
                best::take_from(folder, &order.out)?;
            }
        }
    }
    let evaluator = held_out
        .as_ref()
        .map(|rows| Evaluator::new(&recipe.evaluation, &recipe.objective, rows, piece));
    let evaluator = evaluator.transpose()?;
    // What an interrupted run did after this checkpoint is done again.
    checkpoint::forget_after(&order.out, state.step)?;
    let log = MetricsLog::open(&order.out, state.step)?;
    let learner = Learner::new(&recipe.objective, &dataset);
    // A resumed run has proven what it can hold already.
    let trial = if state.step == 0 { loader.trial_step()? } else { None };
    let mut run = Run {
        order,
        recipe: &recipe,
        model,
        adapter,
        feed: Feed::begin(loader),
        learner,
        evaluator,
        optimizer,
        state,
        log,
        largest: Largest::default(),
    };
    if run.state.step == 0 {
        run.dry(trial, observer)?;
    }
    if run.stores_reference() {
        let Run { model, learner, evaluator, .. } = &mut run;
        let held_out = evaluator.as_mut().map(|evaluator| &mut evaluator.learner);
        for (learner, file) in [(Some(learner), REFERENCE), (held_out, REFERENCE_HELD_OUT)] {
            let Some(learner) = learner else { continue };
            match &resume {
                Some(folder) => learner.recall_reference(&folder.join(file))?,
                None => learner.ask_reference(model, recipe.batching.micro_batch, observer)?,
            }
        }
    }

    run.evaluate_first(observer)?;

    let schedule = Schedule::new(&recipe.schedule, steps_total);
    let (first, tokens_before) = (run.state.step, run.state.totals.tokens);
    let (mut seconds, mut seconds_to_first_step) = (0.0, 0.0);
    observer.event(TrainerEvent::Started { step: first, steps_total });
    while run.state.step < steps_total && !run.state.standing.gives_up(&recipe.evaluation) {
        let step_begun = Instant::now();
        let Some(mut metrics) = run.step(&schedule, observer)? else {
            return run.stop(observer);
        };
        let step_seconds = step_begun.elapsed().as_secs_f64();
        seconds += step_seconds;
        metrics.tokens_per_second /= step_seconds;
        if run.state.step == first + 1 {
            seconds_to_first_step = begun.elapsed().as_secs_f64();
        }
        let kept = run.evaluate(&mut metrics, steps_total)?;
        run.log.append(&metrics)?;
        observer.event(TrainerEvent::Step(metrics));
        let step = run.state.step;
        if recipe.checkpointing.save_steps.is_some_and(|every| kept || step.is_multiple_of(every)) {
            run.save(observer)?;
        }
        if step < steps_total && observer.stop_requested() {
            return run.stop(observer);
        }
    }
    run.end(steps_total, observer)?;

    let Run { model, adapter, state, feed, largest, .. } = run;
    let totals = state.totals;
    let summary = TrainSummary {
        steps: state.step,
        loss_first: totals.loss_first,
        loss_last: totals.loss_last,
        trainable_parameters: model.trainables().map(|t| t.value.elem_count() as u64).sum(),
        tokens: totals.tokens,
        supervised_tokens: totals.supervised_tokens,
        rows: dataset.stats.rows,
        rows_dropped: dataset.stats.dropped,
        rows_truncated: dataset.stats.truncated,
        seconds,
        tokens_per_second: (totals.tokens - tokens_before) as f64 / f64::max(seconds, 1e-9),
        seconds_to_first_step,
        seconds_waited_for_data: feed.waited().as_secs_f64(),
        estimate: Some(estimate),
        memory_bytes_peak: memory::peak(),
        peak_source: PeakSource::Trainer,
        as_run: largest.as_run(model.spec(), &recipe, order.device, &model.memory_plan),
        eval_loss_last: state.standing.eval_loss_last,
        best: state.standing.best.map(|mark| BestEvaluation {
            step: mark.step,
            metric: name_of(&recipe.evaluation.best.metric),
            value: mark.value,
        }),
        merge_logit_difference: None,
    };
    let summary = result::publish(&order.out, |folder| {
        result::save_final(folder, &model, adapter.as_ref(), &order.model)?;
        result::save_template(folder, template.as_deref())?;
        Ok(summary)
    })?;
    best::forget(&order.out)?;
    observer.event(TrainerEvent::Finished { summary: summary.clone() });
    Ok(summary)
}

/// A run under way. `state` is that after the last whole step, whatever the rest has begun since.
struct Run<'a> {
    order: &'a TrainOrder,
    recipe: &'a Recipe,
    model: Model,
    adapter: Option<AdapterConfig>,
    feed: Feed,
    learner: Learner<'a>,
    evaluator: Option<Evaluator<'a>>,
    optimizer: Optimizer,
    state: State,
    log: MetricsLog,
    /// Of the micro-batches learned from in this process.
    largest: Largest,
}

impl Run<'_> {
    /// Tries the longest micro-batch the data can produce, and forgets it: a run that is too big for its memory says
    /// so now rather than hours later. Where the first step has one as large, as with packed rows, that step is the
    /// trial.
    fn dry(&mut self, longest: Option<MicroBatch>, observer: &mut dyn Observer) -> Result<()> {
        let Some(longest) = longest else { return self.dry_evaluation() };
        let in_backward = self.recipe.optim.in_backward;
        let mut forget = |trainable: &mut Trainable| {
            if in_backward {
                trainable.clear();
            }
            Ok(())
        };
        self.largest.hear(&longest, 1);
        self.learner.learn(&mut self.model, &longest, 1.0, &mut forget)?;
        memory::check()?;
        self.model.clear_gradients();
        self.dry_evaluation()?;
        let (rows, tokens) = (longest.cu_seqlens.len() - 1, longest.tokens_computed());
        let mut message =
            format!("dry run of the longest micro-batch: {rows} rows, {tokens} tokens");
        if memory::peak().0 > 0 {
            message += &format!(", {} at its peak", memory::peak());
        }
        observer.event(TrainerEvent::Log { message });
        Ok(())
    }

    /// As [`Self::dry`], of the held-out rows.
    fn dry_evaluation(&mut self) -> Result<()> {
        let Some(evaluator) = &self.evaluator else { return Ok(()) };
        evaluator.learner.assess(&mut self.model, &evaluator.longest()?)?;
        memory::check()
    }

    /// Asks the held-out rows before anything was learned, where the recipe wants that.
    fn evaluate_first(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if let Some(evaluator) = &mut self.evaluator
            && self.recipe.evaluation.on_start
            && self.state.step == 0
        {
            let found = evaluator.ask(&mut self.model)?;
            let said: Vec<_> =
                found.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            let message = format!("before the first step: {}", said.join(", "));
            observer.event(TrainerEvent::Log { message });
        }
        Ok(())
    }

    /// Whether the model before its first step is something else than the base without its adapter will be later.
    fn stores_reference(&self) -> bool {
        let asked = match &self.recipe.objective {
            Objective::Dpo(dpo) => dpo.precompute_reference,
            Objective::Kto(kto) => kto.precompute_reference,
            _ => false,
        };
        let fresh = match &self.recipe.method {
            Method::Lora(lora) => lora.begins_as_nothing() && self.order.init_adapter.is_none(),
            Method::Ia3(_) => self.order.init_adapter.is_none(),
            Method::Full | Method::Freeze(_) => false,
        };
        asked || !fresh
    }

    /// One optimizer step; `None` when the observer asked for an end in the middle of it. `tokens_per_second` is
    /// still the number of tokens.
    ///
    /// The loss is summed over all micro-batches and divided once, by the step's supervised tokens or its answers:
    /// k micro-batches of b rows are one of k·b, and their pieces are micro-batches.
    fn step(
        &mut self,
        schedule: &Schedule,
        observer: &mut dyn Observer,
    ) -> Result<Option<StepMetrics>> {
        let step = self.state.step + 1;
        let Step { batches, cursor, epochs_done } = self.feed.next_step()?;
        let supervised: usize = batches.iter().map(|batch| batch.supervised()).sum();
        if supervised == 0 {
            return Err(EngineError::input(format!(
                "step {step}: none of its rows has a supervised token, so there is nothing to learn"
            )));
        }
        let units: usize = batches.iter().map(|batch| self.learner.units(batch)).sum();
        let scale = 1.0 / units as f64;
        let (mut sum, mut tally) = (0.0, Tally::default());
        let learning_rate = schedule.rate(step - 1);
        let in_backward = self.recipe.optim.in_backward;
        if in_backward {
            self.optimizer.begin(learning_rate, 1.0);
        }
        // Of the gradients that were used and freed already.
        let mut squares = 0.0;
        for (index, batch) in batches.iter().enumerate() {
            if index > 0 && observer.stop_requested() {
                self.model.clear_gradients();
                return Ok(None);
            }
            let (seed, micro_batch) = (self.recipe.seed, index as u64);
            self.largest.hear(batch, batches.len());
            self.model.noise = Some(Noise { seed, step, micro_batch });
            let (model, optimizer) = (&mut self.model, &mut self.optimizer);
            let mut step_now = |trainable: &mut Trainable| {
                if !in_backward {
                    return Ok(());
                }
                let norm = optimizer.grad_norm(trainable.grad.as_ref())?;
                if !norm.is_finite() {
                    return Err(EngineError::Diverged { step, what: "grad_norm", value: norm });
                }
                squares += norm * norm;
                optimizer.update(trainable)
            };
            let Learned { loss, tally: more } =
                self.learner.learn(model, batch, scale, &mut step_now)?;
            sum += loss;
            tally.merge(more);
        }
        let loss = sum * scale;
        let diverged = |what, value| Err(EngineError::Diverged { step, what, value });
        if !loss.is_finite() {
            return diverged("loss", loss);
        }
        let norm = if in_backward {
            squares.sqrt()
        } else {
            self.optimizer.grad_norm(self.model.trainables().filter_map(|t| t.grad.as_ref()))?
        };
        if !norm.is_finite() {
            return diverged("grad_norm", norm);
        }
        if !in_backward {
            let factor = clip_factor(self.recipe.clip, norm);
            self.optimizer.step(self.model.trainables_mut(), learning_rate, factor)?;
        }
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
        self.state.cursor = cursor;
        Ok(Some(StepMetrics {
            step,
            loss,
            grad_norm: norm,
            learning_rate,
            supervised_tokens: supervised as u64,
            tokens_per_second: tokens as f64,
            epoch: epochs_done,
            more: tally.means(),
        }))
    }

    /// Asks the held-out rows when they are due, and adds what they say to the step's `metrics`. True when the model
    /// is the best so far and is to be kept.
    fn evaluate(&mut self, metrics: &mut StepMetrics, steps_total: u64) -> Result<bool> {
        let Some(evaluator) = &mut self.evaluator else { return Ok(false) };
        let (settings, step) = (&self.recipe.evaluation, self.state.step);
        if !evaluator.due(step, self.state.cursor.position == 0, step == steps_total) {
            return Ok(false);
        }
        let found = evaluator.ask(&mut self.model)?;
        if let Some(value) = found.values().find(|value| !value.is_finite()) {
            return Err(EngineError::Diverged { step, what: EVAL_LOSS, value: *value });
        }
        let standing = &mut self.state.standing;
        standing.eval_loss_last = found.get(EVAL_LOSS).copied();
        let value = found.get(&name_of(&settings.best.metric)).copied();
        let better = value.is_some_and(|value| standing.hear(settings, step, value));
        metrics.more.extend(found);
        let keep = better && settings.best.load_at_end;
        if keep {
            best::keep(&self.order.out, &self.model)?;
        }
        Ok(keep)
    }

    /// After the last step: takes the best model back where that is asked for.
    fn end(&mut self, steps_total: u64, observer: &mut dyn Observer) -> Result<()> {
        let State { step, standing, .. } = self.state;
        let mut log = |message| observer.event(TrainerEvent::Log { message });
        let settings = &self.recipe.evaluation;
        let Some(mark) = standing.best else { return Ok(()) };
        let name = name_of(&settings.best.metric);
        if step < steps_total {
            log(format!(
                "ended early after step {step} of {steps_total}: {} evaluations without a better {name} than {:.4} after \
                 step {}",
                standing.without_better, mark.value, mark.step
            ));
        }
        if settings.best.load_at_end && mark.step != step {
            best::restore(&self.order.out, &mut self.model)?;
            log(format!(
                "the result is the model after step {}, {name} {:.4}",
                mark.step, mark.value
            ));
        }
        Ok(())
    }

    /// Writes a checkpoint, then drops the oldest beyond the limit, but never the best one where that is wanted.
    fn save(&self, observer: &mut dyn Observer) -> Result<()> {
        let best = self.state.standing.best.filter(|_| self.recipe.evaluation.best.load_at_end);
        let best = best.map(|mark| mark.step);
        let folder = checkpoint::write(&self.order.out, &self.state, |folder| {
            result::save(folder, &self.model, self.adapter.as_ref(), &self.order.model)?;
            if best.is_some_and(|best| best != self.state.step) {
                best::copy_into(folder, &self.order.out)?;
            }
            self.learner.save_reference(&folder.join(REFERENCE))?;
            if let Some(evaluator) = &self.evaluator {
                evaluator.learner.save_reference(&folder.join(REFERENCE_HELD_OUT))?;
            }
            self.optimizer.save(&folder.join(OPTIMIZER))
        })?;
        observer.event(TrainerEvent::Checkpoint { step: self.state.step, folder });
        checkpoint::prune(&self.order.out, self.recipe.checkpointing.save_total_limit, best)
    }

    /// Ends early, with a checkpoint of the last whole step.
    fn stop(self, observer: &mut dyn Observer) -> Result<TrainSummary> {
        let step = self.state.step;
        if step > 0 && !self.order.out.join(checkpoint::name_of(step)).exists() {
            self.save(observer)?;
        }
        Err(EngineError::Stopped { step })
    }
}
