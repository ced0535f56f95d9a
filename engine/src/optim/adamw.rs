//! AdamW, arXiv 1711.05101, step for step as `torch.optim.AdamW` (`_single_tensor_adam`).

use std::path::Path;

use fleetune_shared::recipe;
use rayon::prelude::*;
use safetensors::tensor::Dtype;

use crate::model::{Shards, Trainable};
use crate::ops::slices;
use crate::tensor_file::{TensorEntry, TensorFile};
use crate::{EngineError, Result};

/// Elements updated in one go by one thread.
const CHUNK: usize = 1 << 14;

/// The optimizer and its state: two f32 moments for every trained number.
pub struct AdamW {
    settings: recipe::AdamW,
    /// Steps done, for the bias correction.
    steps: u64,
    /// One for each trainable, in their order.
    moments: Vec<Moments>,
}

struct Moments {
    name: String,
    exp_avg: Vec<f32>,
    exp_avg_sq: Vec<f32>,
}

/// The step's numbers, in f32 where torch multiplies in f32.
#[derive(Clone, Copy)]
struct Step {
    /// What gradients are multiplied by first (clipping).
    grad_factor: f32,
    /// `1 − lr · weight_decay`; 1 where nothing decays.
    decay: f32,
    /// `1 − beta1`.
    lerp: f32,
    beta2: f32,
    /// `1 − beta2`.
    square: f32,
    /// `√(1 − beta2ᵗ)`.
    correction: f32,
    epsilon: f32,
    /// `lr / (1 − beta1ᵗ)`.
    size: f32,
}

impl AdamW {
    /// With zero moments for `trainables`.
    #[must_use]
    pub fn new<'a>(
        settings: recipe::AdamW,
        trainables: impl IntoIterator<Item = &'a mut Trainable>,
    ) -> Self {
        let moments = trainables.into_iter().map(|trainable| {
            let count = trainable.value.elem_count();
            Moments {
                name: trainable.name.clone(),
                exp_avg: vec![0.0; count],
                exp_avg_sq: vec![0.0; count],
            }
        });
        Self { settings, steps: 0, moments: moments.collect() }
    }

    /// Moves every trainable, in place, and takes its gradient away. `trainables` are those of [`Self::new`], in
    /// the same order; one without a gradient stays as it is. Weight decay goes to tensors marked for it.
    ///
    /// # Errors
    /// A device that failed.
    pub fn step<'a>(
        &mut self,
        trainables: impl IntoIterator<Item = &'a mut Trainable>,
        learning_rate: f64,
        grad_factor: f64,
    ) -> Result<()> {
        self.steps += 1;
        let recipe::AdamW { beta1, beta2, epsilon, weight_decay } = self.settings;
        let t = self.steps as f64;
        let step = Step {
            grad_factor: grad_factor as f32,
            decay: 1.0,
            lerp: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            square: (1.0 - beta2) as f32,
            correction: (1.0 - beta2.powf(t)).sqrt() as f32,
            epsilon: epsilon as f32,
            size: (learning_rate / (1.0 - beta1.powf(t))) as f32,
        };
        let mut all = self.moments.iter_mut();
        for trainable in trainables {
            let moments = all.next().filter(|moments| moments.name == trainable.name);
            let moments = moments.expect("the trainables the optimizer was made for");
            let Some(grad) = trainable.grad.take() else { continue };
            let decay = if trainable.decay { 1.0 - learning_rate * weight_decay } else { 1.0 };
            let step = Step { decay: decay as f32, ..step };
            let grads = slices::view(&grad)?;
            slices::edit(&trainable.value, |values| step.apply(values, &grads, moments))?;
        }
        assert!(all.next().is_none(), "all trainables the optimizer was made for");
        Ok(())
    }

    /// Writes the state: `NAME.exp_avg` and `NAME.exp_avg_sq` (f32, flat).
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let parts = || {
            self.moments.iter().flat_map(|Moments { name, exp_avg, exp_avg_sq }| {
                [(name, "exp_avg", exp_avg), (name, "exp_avg_sq", exp_avg_sq)]
            })
        };
        let entries: Vec<_> = parts()
            .map(|(name, key, values)| TensorEntry {
                name: format!("{name}.{key}"),
                dtype: Dtype::F32,
                shape: vec![values.len()],
            })
            .collect();
        let mut file = TensorFile::create(path, &entries)?;
        for (_, _, values) in parts() {
            file.write_f32(values)?;
        }
        file.finish()
    }

    /// Reads what [`Self::save`] wrote after `steps` steps, for the same trainables.
    ///
    /// # Errors
    /// [`EngineError::Io`], or [`EngineError::Input`] naming the tensor that is missing or has another size.
    pub fn restore(&mut self, path: &Path, steps: u64) -> Result<()> {
        let file = Shards::of_file(path)?;
        for Moments { name, exp_avg, exp_avg_sq } in &mut self.moments {
            for (key, values) in [("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)] {
                let key = format!("{name}.{key}");
                let found = file.read(&key)?;
                let numbers = slices::view(&found)?;
                if numbers.len() != values.len() {
                    let (path, found, expected) = (path.display(), numbers.len(), values.len());
                    return Err(EngineError::input(format!(
                        "{path}: tensor `{key}` has {found} numbers, expected {expected}"
                    )));
                }
                values.copy_from_slice(&numbers);
            }
        }
        self.steps = steps;
        Ok(())
    }
}

impl Step {
    /// One pass over four slices of the same length. Every number is computed alone, so the result does not depend
    /// on how the slices are shared among threads.
    fn apply(self, values: &mut [f32], grads: &[f32], moments: &mut Moments) {
        let Moments { exp_avg, exp_avg_sq, .. } = moments;
        assert!(values.len() == grads.len() && values.len() == exp_avg.len());
        values
            .par_chunks_mut(CHUNK)
            .zip(grads.par_chunks(CHUNK))
            .zip(exp_avg.par_chunks_mut(CHUNK).zip(exp_avg_sq.par_chunks_mut(CHUNK)))
            .for_each(|((values, grads), (exp_avg, exp_avg_sq))| {
                let numbers = values.iter_mut().zip(grads).zip(exp_avg.iter_mut().zip(exp_avg_sq));
                for ((value, grad), (m, v)) in numbers {
                    let grad = grad * self.grad_factor;
                    *m += (grad - *m) * self.lerp;
                    *v = *v * self.beta2 + grad * grad * self.square;
                    let denominator = v.sqrt() / self.correction + self.epsilon;
                    *value = *value * self.decay - self.size * (*m / denominator);
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    const FIXTURE: &[u8] = include_bytes!("../../../tests/fixtures/adamw.safetensors");
    const SETTINGS: recipe::AdamW =
        recipe::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

    fn fixture(name: &str) -> Tensor {
        let tensors = candle_core::safetensors::load_buffer(FIXTURE, &Device::Cpu).unwrap();
        tensors[name].clone()
    }

    fn trainables() -> Vec<Trainable> {
        ["odd", "small"]
            .map(|name| Trainable {
                name: name.into(),
                value: fixture(&format!("p0.{name}")),
                grad: None,
                decay: true,
            })
            .into()
    }

    fn steps(optimizer: &mut AdamW, trainables: &mut [Trainable], range: std::ops::Range<usize>) {
        for step in range {
            for trainable in &mut *trainables {
                trainable.grad = Some(fixture(&format!("grad.{step}.{}", trainable.name)));
            }
            optimizer.step(&mut *trainables, 0.01, 1.0).unwrap();
        }
    }

    fn assert_near(found: &Tensor, expected: &Tensor, what: &str) {
        let difference = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap();
        let largest = difference.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(largest < 1e-6, "{what}: {largest}");
    }

    #[test]
    fn five_steps_are_those_of_torch() {
        let mut trainables = trainables();
        let mut optimizer = AdamW::new(SETTINGS, &mut trainables);
        steps(&mut optimizer, &mut trainables, 0..1);
        for one in &trainables {
            assert_near(
                &one.value,
                &fixture(&format!("torch.AdamW.step1.{}", one.name)),
                &one.name,
            );
        }
        steps(&mut optimizer, &mut trainables, 1..5);
        for (one, moments) in trainables.iter().zip(&optimizer.moments) {
            assert_near(
                &one.value,
                &fixture(&format!("torch.AdamW.step5.{}", one.name)),
                &one.name,
            );
            for (key, values) in
                [("exp_avg", &moments.exp_avg), ("exp_avg_sq", &moments.exp_avg_sq)]
            {
                let key = format!("torch.AdamW.state5.{}.{key}", one.name);
                let found = Tensor::new(values.as_slice(), &Device::Cpu).unwrap();
                assert_near(&found, &fixture(&key).flatten_all().unwrap(), &key);
            }
        }
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        let mut straight = trainables();
        let mut optimizer = AdamW::new(SETTINGS, &mut straight);
        steps(&mut optimizer, &mut straight, 0..3);
        optimizer.save(&path).unwrap();

        let mut resumed = trainables();
        for (copy, one) in resumed.iter_mut().zip(&straight) {
            copy.value = one.value.copy().unwrap();
        }
        let mut restored = AdamW::new(SETTINGS, &mut resumed);
        restored.restore(&path, 3).unwrap();
        steps(&mut optimizer, &mut straight, 3..5);
        steps(&mut restored, &mut resumed, 3..5);
        for (a, b) in straight.iter().zip(&resumed) {
            let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(&a.value), bits(&b.value));
        }
    }

    #[test]
    fn only_marked_tensors_decay() {
        let mut trainables = trainables();
        trainables[1].decay = false;
        let before = trainables[1].value.copy().unwrap();
        for one in &mut trainables {
            one.grad = Some(one.value.zeros_like().unwrap());
        }
        AdamW::new(SETTINGS, &mut trainables).step(&mut trainables, 0.1, 1.0).unwrap();
        let shrunk = (fixture("p0.odd") * 0.999).unwrap();
        assert_near(&trainables[0].value, &shrunk, "decayed");
        assert_near(&trainables[1].value, &before, "kept");
    }
}
