//! The optimizer of a run: which rule, what it remembers of each tensor, and each tensor's own rate.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use fleetune_shared::recipe::{MomentDtype, Optim, OptimName};
use half::bf16;
use indexmap::IndexMap;
use safetensors::tensor::Dtype;

use super::adafactor::Adafactor;
use super::adamw::AdamW;
use super::codes::CodeMap;
use super::elementwise::update;
use super::group::rate_factor;
use super::lion::Lion;
use super::moment::Form;
use super::moments::{Moments, Pages};
use super::norm::grad_norm;
use super::rounding::Rounding;
use super::sgd::Sgd;
use super::state_file::StateFile;
use super::step::Step;
use super::values::Values;
use crate::Result;
use crate::model::Trainable;
use crate::ops::{Backend, slices};
use crate::tensor_file::{TensorEntry, TensorFile};

/// Tensors with fewer numbers keep 32-bit moments, as in bitsandbytes: a norm's weight is worth its precision.
const NARROW_MIN: usize = 4096;

/// The optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    ops: Arc<dyn Backend>,
    settings: Optim,
    /// Of the run, for rounding.
    seed: u64,
    /// Steps done, or begun.
    steps: u64,
    /// Of the step begun last, before each tensor's own factor.
    learning_rate: f64,
    grad_factor: f64,
    /// By the trainable's name.
    tensors: IndexMap<String, Tensor>,
}

/// What is kept for one tensor.
#[derive(Debug)]
struct Tensor {
    rate_factor: f64,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Moments(Moments),
    Adafactor(Adafactor),
}

/// The moments of an optimizer: what each is called, and how it is kept of a large tensor.
fn layout(settings: &Optim) -> Vec<(&'static str, Form)> {
    let narrow = |dtype| match dtype {
        MomentDtype::Float32 => Form::Full,
        MomentDtype::Bfloat16 => Form::Bf16,
    };
    let mean = Form::Blockwise(CodeMap::signed());
    let square = Form::Blockwise(CodeMap::unsigned());
    match settings.name {
        OptimName::AdamwTorch | OptimName::PagedAdamw32bit => {
            vec![("exp_avg", Form::Full), ("exp_avg_sq", Form::Full)]
        }
        OptimName::AdamwAnyprecision => {
            let [momentum, variance] = settings.moments.map(narrow);
            vec![("exp_avg", momentum), ("exp_avg_sq", variance)]
        }
        OptimName::Adamw8bit | OptimName::PagedAdamw8bit => {
            vec![("exp_avg", mean), ("exp_avg_sq", square)]
        }
        OptimName::Lion32bit => vec![("exp_avg", Form::Full)],
        OptimName::Lion8bit => vec![("exp_avg", mean)],
        OptimName::Sgd if settings.sgd_momentum > 0.0 => vec![("momentum_buffer", Form::Full)],
        OptimName::Sgd | OptimName::Adafactor => Vec::new(),
    }
}

impl Optimizer {
    /// With nothing remembered of `trainables`, which live where tensors of `ops` do. `learning_rate` is the schedule's
    /// peak, which `embedding_lr` is compared with; `seed` is the run's; paged states live in a nameless file in
    /// `folder`, or in memory where values live on a card.
    ///
    /// # Errors
    /// [`crate::EngineError::Io`] when that file cannot be made, or a device that failed.
    pub fn new<'a>(
        ops: Arc<dyn Backend>,
        settings: Optim,
        learning_rate: f64,
        seed: u64,
        folder: &Path,
        trainables: impl IntoIterator<Item = &'a mut Trainable>,
    ) -> Result<Self> {
        let layout = layout(&settings);
        let paged = matches!(settings.name, OptimName::PagedAdamw32bit | OptimName::PagedAdamw8bit);
        let place = ops.place();
        let mut pages = (paged && place.is_cpu()).then(|| Pages::create(folder)).transpose()?;
        let there = ops.steps_adamw() && settings.lives_on_cards();
        let mut tensors = IndexMap::new();
        for trainable in trainables {
            let count = trainable.value.elem_count();
            let form = |form| if count < NARROW_MIN { Form::Full } else { form };
            let memory = if settings.name == OptimName::Adafactor {
                Memory::Adafactor(Adafactor::zeros(trainable.value.dims()))
            } else {
                let forms = layout.iter().map(|moment| form(moment.1)).collect();
                Memory::Moments(if there {
                    Moments::on_card(count, forms, &place)?
                } else {
                    Moments::zeros(count, forms, pages.as_mut())?
                })
            };
            let rate_factor = rate_factor(&settings, learning_rate, trainable);
            tensors.insert(trainable.name.clone(), Tensor { rate_factor, memory });
        }
        Ok(Self { ops, settings, seed, steps: 0, learning_rate, grad_factor: 1.0, tensors })
    }

    /// L2 norm over all elements of all `grads`, f32, summed in f64 in a fixed order.
    ///
    /// # Errors
    /// A device that failed.
    pub fn grad_norm<'a>(
        &self,
        grads: impl IntoIterator<Item = &'a candle_core::Tensor>,
    ) -> Result<f64> {
        grad_norm(&*self.ops, grads)
    }

    /// Begins a step: every [`Self::update`] up to the next belongs to it. Gradients are multiplied by `grad_factor`
    /// first.
    pub fn begin(&mut self, learning_rate: f64, grad_factor: f64) {
        self.steps += 1;
        self.learning_rate = learning_rate;
        self.grad_factor = grad_factor;
    }

    /// Moves one trainable in place and takes its gradient away; one without a gradient stays as it is. Weight decay
    /// goes to tensors marked for it. What is held in bf16 is rounded by chance.
    ///
    /// # Errors
    /// A device or a disk that failed.
    ///
    /// # Panics
    /// For a trainable that [`Self::new`] was not shown.
    pub fn update(&mut self, trainable: &mut Trainable) -> Result<()> {
        let Some(grad) = trainable.grad.take() else { return Ok(()) };
        let Tensor { rate_factor, memory } =
            self.tensors.get_mut(&trainable.name).expect("a trainable the optimizer was made for");
        let step = Step {
            number: self.steps,
            learning_rate: self.learning_rate * *rate_factor,
            weight_decay: if trainable.decay { self.settings.adam.weight_decay } else { 0.0 },
            grad_factor: self.grad_factor,
        };
        let rounding = Rounding::new(self.seed, step.number, &trainable.name);
        if let Memory::Moments(moments) = memory
            && let Some(arrays) = moments.arrays_on_card()
        {
            let adam = self.settings.adam;
            return self.ops.adamw(adam, &step, rounding, &trainable.value, &grad, arrays);
        }
        let grads = slices::view(&grad)?;
        let mut result = Ok(());
        let mut apply = |values: Values<'_>| {
            result = apply(&self.settings, &step, memory, values, &grads, rounding);
        };
        if trainable.value.dtype() == DType::BF16 {
            slices::edit_as(&trainable.value, |values: &mut [bf16]| {
                apply(Values::Bf16(values, rounding));
            })?;
        } else {
            slices::edit(&trainable.value, |values| apply(Values::F32(values)))?;
        }
        result
    }

    /// A whole step: [`Self::begin`], then [`Self::update`] for each of `trainables`.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn step<'a>(
        &mut self,
        trainables: impl IntoIterator<Item = &'a mut Trainable>,
        learning_rate: f64,
        grad_factor: f64,
    ) -> Result<()> {
        self.begin(learning_rate, grad_factor);
        trainables.into_iter().try_for_each(|trainable| self.update(trainable))
    }

    /// Writes the state, flat arrays by the names of PyTorch's optimizers: `NAME.exp_avg` and the like in f32 or bf16,
    /// or codes in u8 with `NAME.exp_avg.absmax`.
    ///
    /// # Errors
    /// [`crate::EngineError::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let layout = layout(&self.settings);
        let mut entries = Vec::new();
        let mut entry = |name: String, dtype, count| {
            entries.push(TensorEntry { name, dtype, shape: vec![count] });
        };
        for (name, tensor) in &self.tensors {
            match &tensor.memory {
                Memory::Adafactor(adafactor) => {
                    for (key, values) in adafactor.arrays() {
                        entry(format!("{name}.{key}"), Dtype::F32, values.len());
                    }
                }
                Memory::Moments(moments) => {
                    for (moment, (key, _)) in layout.iter().enumerate() {
                        for (suffix, dtype, count) in moments.arrays(moment) {
                            entry(format!("{name}.{key}{suffix}"), dtype, count);
                        }
                    }
                }
            }
        }
        let mut file = TensorFile::create(path, &entries)?;
        for tensor in self.tensors.values() {
            match &tensor.memory {
                Memory::Adafactor(adafactor) => {
                    for (_, values) in adafactor.arrays() {
                        file.write_f32(values)?;
                    }
                }
                Memory::Moments(moments) => {
                    for moment in 0..layout.len() {
                        for array in 0..moments.arrays(moment).len() {
                            moments.write(moment, array, &mut file)?;
                        }
                    }
                }
            }
        }
        file.finish()
    }

    /// Reads what [`Self::save`] wrote after `steps` steps, for the same trainables and settings.
    ///
    /// # Errors
    /// [`crate::EngineError::Io`], or [`crate::EngineError::Input`] naming the array that is missing or another.
    pub fn restore(&mut self, path: &Path, steps: u64) -> Result<()> {
        let layout = layout(&self.settings);
        let file = StateFile::open(path)?;
        for (name, tensor) in &mut self.tensors {
            match &mut tensor.memory {
                Memory::Adafactor(adafactor) => {
                    for (key, values) in adafactor.arrays_mut() {
                        let array =
                            file.array(&format!("{name}.{key}"), Dtype::F32, values.len())?;
                        *values = array.floats(values.len())?;
                    }
                }
                Memory::Moments(moments) => {
                    let array = |moment: usize, key: &str| {
                        let arrays = moments.arrays(moment).into_iter();
                        let named = arrays.map(|(suffix, dtype, count)| {
                            file.array(&format!("{name}.{key}{suffix}"), dtype, count)
                        });
                        named.collect::<Result<Vec<_>>>()
                    };
                    let stored: Vec<_> = layout
                        .iter()
                        .enumerate()
                        .map(|(moment, (key, _))| array(moment, key))
                        .collect::<Result<_>>()?;
                    moments.read(&stored)?;
                }
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// One step of one tensor.
fn apply(
    settings: &Optim,
    step: &Step,
    memory: &mut Memory,
    mut values: Values<'_>,
    grads: &[f32],
    rounding: Rounding,
) -> Result<()> {
    let Optim { name, adam, sgd_momentum, .. } = *settings;
    let moments = match memory {
        Memory::Adafactor(adafactor) => {
            values.change_all(|values| adafactor.update(step, values, grads));
            return Ok(());
        }
        Memory::Moments(moments) => moments,
    };
    moments.visit(|range, moments| {
        let rounding = rounding.past(range.start);
        let (values, grads) = (values.part(range.clone()), &grads[range]);
        match name {
            OptimName::Lion32bit | OptimName::Lion8bit => {
                update(Lion::new(adam, step), values, grads, moments, rounding);
            }
            OptimName::Sgd if moments.is_empty() => {
                update::<0>(Sgd::new(sgd_momentum, step), values, grads, moments, rounding);
            }
            OptimName::Sgd => {
                update::<1>(Sgd::new(sgd_momentum, step), values, grads, moments, rounding);
            }
            _ => update(AdamW::new(adam, step), values, grads, moments, rounding),
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests;
