//! A real model: SmolLM2-135M-Instruct from its GGUF file (`scripts/fetch-smollm2`).

use std::collections::BTreeMap;

use fleetune_engine::model::Model;
use serde::Deserialize;

use crate::fixture;
use crate::places::smollm2;

#[derive(Deserialize)]
struct Reference {
    ids: Vec<u32>,
    /// Of every 768th vocabulary entry.
    logits: Vec<Vec<f64>>,
    log_sum_exp: Vec<f64>,
    best: Vec<usize>,
}

#[test]
fn smollm2_gives_the_logits_of_transformers() {
    let Some(path) = smollm2() else { return };
    let model = Model::load(&path).unwrap();
    let text = std::fs::read_to_string(fixture("logits/smollm2.json")).unwrap();
    let prompts: BTreeMap<String, Reference> = serde_json::from_str(&text).unwrap();
    let mut worst = 0.0_f64;
    for (prompt, expected) in prompts {
        let logits = model.logits(&expected.ids).unwrap().to_vec2::<f32>().unwrap();
        for (t, row) in logits.iter().enumerate() {
            for (i, x) in expected.logits[t].iter().enumerate() {
                worst = worst.max((f64::from(row[i * 768]) - x).abs());
            }
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
            worst = worst.max((f64::from(max) + sum.ln() - expected.log_sum_exp[t]).abs());
            assert_eq!(row.iter().position(|x| *x == max), Some(expected.best[t]), "{prompt} {t}");
        }
    }
    eprintln!("largest difference of a logit: {worst:e}");
    assert!(worst < 1e-4, "logits are off by {worst:e}");
}
