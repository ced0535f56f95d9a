//! What learns: adapters, gradients, states, and what a step holds for a moment.

use super::{F32, HALF, Precision, TorchRun};
use crate::model_shape::{Linear, Slot, slots_of};
use crate::recipe::{Lora, Method, OptimName, Targets};

/// DeepSpeed's `reduce_bucket_size` in numbers, of which `overlap_comm` holds two.
const BUCKET: u128 = 200_000_000;

impl TorchRun<'_> {
    /// The adapted layers of one block.
    pub(super) fn adapted(&self) -> Vec<Linear> {
        let targets = match &self.recipe.method {
            Method::Lora(lora) => Some(&lora.target_modules),
            Method::Ia3(ia3) => ia3.target_modules.as_ref(),
            Method::Full | Method::Freeze(_) => return Vec::new(),
        };
        let of = |slots: Vec<Slot>| slots.into_iter().map(|slot| self.shape.linear(slot)).collect();
        match targets {
            Some(Targets::Names(names)) => {
                let slots = names.iter().flat_map(|name| {
                    let last = name.rsplit('.').next().unwrap_or(name);
                    slots_of(last, &self.shape.model_type)
                });
                let mut slots: Vec<Slot> = slots.collect();
                slots.dedup();
                of(slots)
            }
            // PEFT's default of IA³.
            None => of(vec![Slot::Key, Slot::Value, Slot::Down]),
            // A regular expression means names that only a model has.
            Some(Targets::AllLinear | Targets::Regex(_)) => of(self.shape.all_linear()),
        }
    }

    /// Whether IA³ scales the input of a layer rather than its output.
    pub(super) fn scales_input(&self, slot: Slot) -> bool {
        match &self.recipe.method {
            Method::Ia3(ia3) => match &ia3.feedforward_modules {
                Some(Targets::Names(names)) => {
                    names.iter().any(|name| slots_of(name, &self.shape.model_type).contains(&slot))
                }
                _ => slot == Slot::Down,
            },
            _ => false,
        }
    }

    pub(super) fn lora(&self) -> Option<&Lora> {
        match &self.recipe.method {
            Method::Lora(lora) => Some(lora),
            _ => None,
        }
    }

    /// Numbers of the adapter itself.
    fn adapter_numbers(&self) -> u128 {
        let blocks = match self.lora().and_then(|lora| lora.layers_to_transform.as_ref()) {
            Some(named) => named.len() as u128,
            None => u128::from(self.shape.num_hidden_layers),
        };
        let of = |linear: Linear| {
            let (out, inp) = (u128::from(linear.out), u128::from(linear.inp));
            let one = match self.lora() {
                Some(lora) => {
                    let magnitudes = if lora.use_dora { out } else { 0 };
                    lora.r as u128 * (out + inp) + magnitudes
                }
                None if self.scales_input(linear.slot) => inp,
                None => out,
            };
            u128::from(linear.count) * one
        };
        blocks * self.adapted().into_iter().map(of).sum::<u128>()
    }

    /// Numbers of the tables that PEFT copies to train them whole (`modules_to_save`). The copies stay what the base is.
    fn copied(&self) -> u128 {
        let names = match &self.recipe.method {
            Method::Lora(lora) => &lora.modules_to_save,
            Method::Ia3(ia3) => &ia3.modules_to_save,
            Method::Full | Method::Freeze(_) => return 0,
        };
        let table = ["embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"];
        let known = names.iter().filter(|name| table.contains(&name.as_str())).count();
        known.min(2) as u128 * u128::from(self.shape.table())
    }

    /// Numbers of the base that learn in place.
    fn in_place(&self) -> u128 {
        match &self.recipe.method {
            Method::Full => u128::from(self.shape.parameters()),
            Method::Freeze(freeze) if freeze.patterns.is_empty() => {
                let blocks = u128::from(self.shape.num_hidden_layers);
                let learning = u128::from(freeze.layers.unsigned_abs()).min(blocks);
                learning * u128::from(self.shape.block_linears())
            }
            Method::Freeze(_) => u128::from(self.shape.parameters()),
            Method::Lora(_) | Method::Ia3(_) => 0,
        }
    }

    /// Bytes of one number that learns, as the model holds it.
    pub(super) fn learning(&self) -> u128 {
        match self.precision {
            Precision::Mixed => F32,
            Precision::Half | Precision::Partitioned => HALF,
        }
    }

    /// Bytes of the adapter and of copied tables.
    pub(super) fn adapter(&self) -> u128 {
        self.learning() * self.adapter_numbers() + HALF * self.copied()
    }

    /// Bytes of all gradients, each in its number's own dtype.
    pub(super) fn gradients(&self) -> u128 {
        let own = self.adapter_numbers() + self.in_place();
        self.learning() * own + HALF * self.copied()
    }

    /// Bytes of the head's gradient, which is there first.
    pub(super) fn head_gradient(&self) -> u128 {
        let head = match &self.recipe.method {
            Method::Full => self.learning() * u128::from(self.shape.table()),
            _ => HALF * self.copied().min(u128::from(self.shape.table())),
        };
        head.min(self.gradients())
    }

    /// Bytes of the optimizer's states. torch's follow their number's dtype, bitsandbytes' are f32, or a byte each and an
    /// f32 for 256 of them. Paged states live in host memory. DeepSpeed's f32 copy of what learns is counted here.
    pub(super) fn optimizer(&self) -> u128 {
        let (own, copied) = (self.adapter_numbers() + self.in_place(), self.copied());
        let all = own + copied;
        let master = if self.precision == Precision::Partitioned { F32 * all } else { 0 };
        let moment = match self.precision {
            Precision::Mixed => F32 * own + HALF * copied,
            Precision::Half => HALF * all,
            Precision::Partitioned => F32 * all,
        };
        let byte = all + F32 * all / 256;
        let factored = self.factored().min(F32 * all);
        master
            + match self.recipe.optim.name {
                OptimName::AdamwTorch => 2 * moment,
                OptimName::AdamwAnyprecision => u128::from(self.recipe.optim.moment_bytes()) * all,
                OptimName::Adamw8bit => 2 * byte,
                OptimName::Lion32bit => F32 * all,
                OptimName::Lion8bit => byte,
                OptimName::PagedAdamw32bit | OptimName::PagedAdamw8bit => 0,
                OptimName::Sgd if self.recipe.optim.sgd_momentum > 0.0 => moment,
                OptimName::Sgd => 0,
                OptimName::Adafactor => factored,
            }
    }

    /// Bytes of Adafactor's rows and columns.
    fn factored(&self) -> u128 {
        let rank = self.lora().map_or(0, |lora| 2 * lora.r as u128);
        let sides = |linear: &Linear| {
            u128::from(linear.count) * (u128::from(linear.out + linear.inp) + rank)
        };
        let block: u128 = self.shape.linears().iter().map(sides).sum();
        let ends = 2 * u128::from(self.shape.vocab_size + self.shape.hidden_size);
        F32 * (u128::from(self.shape.num_hidden_layers) * block + ends)
    }

    /// Bytes that a step holds beside states and gradients. torch's AdamW goes over all tensors at once (`foreach`) and
    /// makes one tensor of roots for each; DeepSpeed widens the gradients first.
    pub(super) fn in_step(&self) -> u128 {
        let all = self.adapter_numbers() + self.in_place() + self.copied();
        let roots = match (self.recipe.optim.name, self.precision) {
            (OptimName::AdamwTorch, Precision::Mixed) => {
                F32 * (all - self.copied()) + HALF * self.copied()
            }
            (OptimName::AdamwTorch, Precision::Half) => HALF * all,
            (OptimName::AdamwTorch, Precision::Partitioned) => F32 * all,
            _ => 0,
        };
        let widened = if self.precision == Precision::Partitioned { F32 * all } else { 0 };
        roots + widened
    }

    /// Bytes of DeepSpeed's buckets.
    pub(super) fn buckets(&self) -> u128 {
        if self.precision == Precision::Partitioned { 2 * HALF * BUCKET } else { 0 }
    }
}
