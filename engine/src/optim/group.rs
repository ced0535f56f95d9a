//! Which tensors learn at a rate of their own.

use fleetune_shared::recipe::Optim;

use crate::model::Trainable;

/// Rate of an embedding's low-rank pair under LoRA+, unless `embedding_lr` says otherwise: PEFT's
/// `loraplus_lr_embedding`.
const LORAPLUS_EMBEDDING_RATE: f64 = 1e-6;

/// What the schedule's rate is multiplied by for `trainable`; `peak` is the schedule's highest.
///
/// `embedding_lr` is for input and output embeddings. Under LoRA+ (arXiv 2402.12354), B and one-dimensional tensors
/// learn `loraplus_lr_ratio` times as fast as the rest, as in PEFT's `create_loraplus_optimizer`.
pub(super) fn rate_factor(settings: &Optim, peak: f64, trainable: &Trainable) -> f64 {
    let parts = || trainable.name.split('.');
    let embedding = parts().any(|part| part == "embed_tokens" || part == "lm_head");
    if let Some(rate) = settings.embedding_lr.filter(|_| embedding) {
        return rate / peak;
    }
    let Some(ratio) = settings.loraplus_lr_ratio else { return 1.0 };
    if parts().any(|part| part.starts_with("lora_embedding_")) {
        LORAPLUS_EMBEDDING_RATE / peak
    } else if parts().any(|part| part == "lora_B") || trainable.value.rank() == 1 {
        ratio
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use fleetune_shared::Recipe;

    use super::*;

    fn factor(extra: &str, name: &str, dims: &[usize]) -> f64 {
        let text = format!("model_name_or_path: m\ndataset_name: d\nlearning_rate: 1e-3\n{extra}");
        let recipe = Recipe::read(&text).unwrap();
        let value = Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        rate_factor(&recipe.optim, recipe.schedule.learning_rate, &Trainable::new(name, value))
    }

    #[test]
    fn lora_plus_lets_b_learn_faster() {
        let layer = "base_model.model.model.layers.0.self_attn.q_proj";
        let plus = |name: &str, dims: &[usize]| factor("loraplus_lr_ratio: 16", name, dims);
        assert_eq!(plus(&format!("{layer}.lora_A.weight"), &[8, 64]), 1.0);
        assert_eq!(plus(&format!("{layer}.lora_B.weight"), &[64, 8]), 16.0);
        assert_eq!(plus(&format!("{layer}.lora_magnitude_vector"), &[64]), 16.0);
        assert_eq!(plus("base_model.model.model.embed_tokens.lora_embedding_A", &[8, 512]), 1e-3);
        assert_eq!(factor("", &format!("{layer}.lora_B.weight"), &[64, 8]), 1.0);
    }

    #[test]
    fn embeddings_have_a_rate_of_their_own() {
        let own = |name: &str| factor("use_peft: false\nembedding_lr: 1e-4", name, &[512, 64]);
        assert_eq!(own("model.embed_tokens.weight"), 0.1);
        assert_eq!(own("lm_head.weight"), 0.1);
        assert_eq!(own("model.layers.0.mlp.up_proj.weight"), 1.0);
    }
}
