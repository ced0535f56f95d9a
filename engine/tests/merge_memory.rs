//! What merging whole models holds. A process of its own, since the meter sees all of it.

use fleetune_engine::memory;
use fleetune_engine::merge::{ModelMergeOrder, merge_models};
use fleetune_engine::model::Model;
use fleetune_engine::train::Observer;
use fleetune_shared::{ModelMerge, TrainerEvent};
use serde_json::json;

#[global_allocator]
static METER: memory::Meter = memory::Meter;

struct Deaf;

impl Observer for Deaf {
    fn event(&mut self, _: TrainerEvent) {}
}

/// Five models of 26 MB each, of which the largest tensor is 8 MB.
#[test]
fn models_are_merged_in_four_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = r#"{"model_type":"llama","hidden_size":256,"intermediate_size":512,"num_hidden_layers":3,
        "num_attention_heads":4,"vocab_size":8192,"max_position_embeddings":64,"rms_norm_eps":1e-5}"#;
    for index in 0..5 {
        let path = folder.join(format!("model-{index}"));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("config.json"), config).unwrap();
        let model = Model::random(&path, index).unwrap();
        fleetune_engine::model::save(&path, &model, &path).unwrap();
    }
    let largest = 8192 * 256 * 4;
    for method in ["linear", "slerp", "task_arithmetic", "ties", "dare_ties"] {
        let path = |index: usize| folder.join(format!("model-{index}")).display().to_string();
        let parameters = match method {
            "slerp" => json!({"t": 0.5}),
            "linear" | "task_arithmetic" => json!({"weight": 0.5}),
            _ => json!({"weight": 0.5, "density": 0.5, "normalize": true}),
        };
        let count = if method == "slerp" { 1 } else { 4 };
        let models: Vec<_> = (1..=count).map(|i| json!({"model": path(i)})).collect();
        let mut merge = json!({"merge_method": method, "models": models, "parameters": parameters});
        if method != "linear" {
            merge["base_model"] = path(0).into();
        }
        let merge = ModelMerge::read(&merge.to_string()).unwrap();
        let out = folder.join(format!("merged-{method}"));
        let before = memory::current().0;
        let order = ModelMergeOrder { merge, seed: 1, out, compare: false };
        let summary = merge_models(&order, &mut Deaf).unwrap();
        let held = summary.memory_bytes_peak.0 - before;
        eprintln!("{method}: {:.2} of the largest tensor", held as f64 / largest as f64);
        assert!(held > largest, "the meter is not at work: {held}");
        assert!(held < 4 * largest + (3 << 20), "{method}: {held}");
    }
}
