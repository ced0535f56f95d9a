//! From the CPU, where models are put together, to where they learn.

use std::sync::Arc;

use super::Model;
use super::block::Block;
use super::linear::Linear;
use crate::Result;
use crate::ops::Backend;

impl Model {
    /// Has `ops` compute from here on, and moves all it computes with to where its tensors live.
    ///
    /// # Errors
    /// A device that failed, or that has no room.
    pub fn carry(&mut self, ops: Arc<dyn Backend>) -> Result<()> {
        self.parameters_mut().try_for_each(|parameter| parameter.carry(&*ops))?;
        self.trainables_mut().try_for_each(|trainable| trainable.carry(&*ops))?;
        let linears = self.blocks.iter_mut().flat_map(Block::linears_mut).chain(&mut self.head);
        linears.filter_map(Linear::lora_mut).try_for_each(|lora| lora.carry(&*ops))?;
        self.ops = ops;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_core::{Device, Tensor};
    use fleetune_shared::AdapterConfig;
    use fleetune_shared::recipe::{
        FourBit, FourBitType, LoraInit, PeftType, Quantization, TargetModules,
    };

    use super::*;
    use crate::adapter::Adapter;
    use crate::data::{IGNORED, MicroBatch, Row};
    use crate::model::{Noise, Policy};
    use crate::ops::cuda::tests::host;

    fn model(name: &str, how: Quantization) -> Model {
        let folder: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "../tests/fixtures/models", name].iter().collect();
        Model::load_as(&folder, how).unwrap()
    }

    /// Two examples, the longer over more than one tile of queries.
    fn batch() -> MicroBatch {
        let row = |tokens: u32| {
            let input_ids: Vec<u32> = (0..tokens).map(|i| 1 + (i * i * 7 + 3 * i) % 60).collect();
            let label = |(i, id): (usize, &u32)| if i % 5 < 2 { IGNORED } else { i64::from(*id) };
            Row { labels: input_ids.iter().enumerate().map(label).collect(), input_ids }
        };
        MicroBatch::of(&[&row(9), &row(40)])
    }

    fn lora() -> AdapterConfig {
        AdapterConfig {
            r: 3,
            lora_alpha: 5.0,
            target_modules: TargetModules::Word("all-linear".into()),
            ..AdapterConfig::default()
        }
    }

    /// Attached, and everything of it has left its beginning.
    fn attach(model: &mut Model, config: AdapterConfig) {
        model.attach(Adapter::fresh(model.spec(), config, 7).unwrap()).unwrap();
        for (i, trainable) in model.trainables_mut().enumerate() {
            let count = trainable.value.elem_count();
            let wave: Vec<f32> = (0..count).map(|j| ((i + j * j) as f32).sin() * 0.1).collect();
            let wave = Tensor::from_vec(wave, trainable.value.shape(), &Device::Cpu).unwrap();
            trainable.value = (&trainable.value + wave).unwrap();
        }
    }

    /// Loss and gradients by name, dropout included where the adapter has some.
    fn pass(model: &mut Model) -> (f64, Vec<(String, Vec<f32>)>) {
        model.noise = Some(Noise { seed: 1, step: 2, micro_batch: 0 });
        let loss = model.forward_backward(&batch(), 0.25).unwrap();
        let numbers = |grad: &Tensor| grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let each = model.trainables().map(|t| (t.name.clone(), numbers(t.grad.as_ref().unwrap())));
        (loss, each.collect())
    }

    /// Norm of the difference over the norm of `expected`.
    fn apart(found: &[f32], expected: &[f32]) -> f64 {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
        (difference / expected.iter().map(|e| square(*e)).sum::<f64>()).sqrt()
    }

    /// Holds a pass on a card against one on the CPU; `off` is what a gradient may be off by.
    fn same(name: &str, how: Quantization, off: f64, learn: &dyn Fn(&mut Model)) {
        let Some(card) = host() else { return };
        let [mut here, mut there] = [(); 2].map(|()| {
            let mut model = model(name, how);
            learn(&mut model);
            model
        });
        there.carry(Arc::new(card)).unwrap();
        let ((expected, gradients), (found, on_card)) = (pass(&mut here), pass(&mut there));
        assert!((found / expected - 1.0).abs() < off, "{name}: {found}, {expected} on the CPU");
        assert!(!gradients.is_empty() && gradients.len() == on_card.len());
        for ((key, expected), (_, found)) in gradients.iter().zip(&on_card) {
            let apart = apart(found, expected);
            assert!(apart < off, "{name}: the gradient of {key} is off by {apart:e}");
        }
        let base = |model: &mut Model| model.token_logps(&batch(), Policy::Base, true).unwrap();
        let (expected, found) = (base(&mut here), base(&mut there));
        for (expected, found) in expected.logps.iter().zip(&found.logps) {
            assert!((expected - found).abs() < off * 10.0, "{name}: {found}, {expected}");
        }
    }

    const EXACT: f64 = 2e-5;

    #[test]
    fn adapters_learn_on_a_card_as_on_the_cpu() {
        let f32 = Quantization::Float32;
        let dora = AdapterConfig { use_dora: true, lora_dropout: 0.25, ..lora() };
        let pissa = AdapterConfig { init_lora_weights: LoraInit::Pissa { niter: None }, ..lora() };
        let ia3 = AdapterConfig { peft_type: PeftType::Ia3, ..lora() };
        let whole = AdapterConfig { modules_to_save: Some(vec!["embed_tokens".into()]), ..lora() };
        for (name, config) in [
            ("tiny-llama", lora()),
            ("tiny-gemma2", lora()),
            ("tiny-phi3", lora()),
            ("tiny-qwen3", dora),
            ("tiny-llama-tied", pissa),
            ("tiny-mistral", ia3),
            ("tiny-llama-tied", whole),
        ] {
            same(name, f32, EXACT, &|model| attach(model, config.clone()));
        }
    }

    #[test]
    fn whole_models_learn_on_a_card_as_on_the_cpu() {
        for name in ["tiny-llama", "tiny-gemma3", "tiny-qwen2"] {
            same(name, Quantization::Float32, EXACT, &Model::train_full);
        }
        // There activations are bf16, on a card only weights are.
        let bf16 = |model: &mut Model| model.train_full_bf16().unwrap();
        same("tiny-llama", Quantization::Bfloat16, 3e-2, &bf16);
    }

    #[test]
    fn packed_weights_are_unpacked_on_a_card_as_on_the_cpu() {
        for double in [false, true] {
            let four = FourBit { kind: FourBitType::Nf4, double, bfloat16: false };
            let how = Quantization::FourBit(four);
            same("tiny-llama", how, EXACT, &|model| attach(model, lora()));
        }
        same("tiny-llama", Quantization::EightBit, EXACT, &|model| attach(model, lora()));
    }
}
