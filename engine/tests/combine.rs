//! Adapters combined: against PEFT's `add_weighted_adapter` (`tests/fixtures/make_merges.py`).

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use fleetune_engine::adapter::{self, Adapter, Layer};
use fleetune_engine::merge::{
    Combination, CombineMethod, CombineOrder, MajoritySign, combine_adapters,
};

fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", path].iter().collect()
}

fn family(name: &str) -> Vec<PathBuf> {
    ["a", "b", "c"].iter().map(|it| fixture(&format!("merge/{name}_{it}.adapter"))).collect()
}

fn load(paths: &[PathBuf]) -> Vec<Adapter> {
    paths.iter().map(|path| adapter::load(path).unwrap()).collect()
}

fn by(method: &str) -> Combination {
    let method = CombineMethod::named(method).unwrap();
    Combination {
        method,
        weights: vec![0.5, 0.3, 0.7],
        density: method.takes_density().then_some(0.5),
        majority_sign: MajoritySign::Total,
        svd_rank: None,
        seed: 1,
    }
}

/// `scaling · B·A` of one module.
fn delta(adapter: &Adapter, module: &str) -> Tensor {
    let Some(Layer::Lora(layer)) = adapter.layer(module) else { panic!("no {module}") };
    (layer.b.matmul(&layer.a).unwrap() * layer.scaling).unwrap()
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn every_method_gives_what_peft_gives() {
    let expected: HashMap<String, Tensor> =
        candle_core::safetensors::load(fixture("merge/combined.safetensors"), &Device::Cpu)
            .unwrap();
    assert_eq!(expected.len(), 24);
    for (key, expected) in &expected {
        // family.method[.density[.sign]|.rank]/module
        let (name, module) = key.split_once('/').unwrap();
        let mut parts = name.split('.');
        let adapters = load(&family(parts.next().unwrap()));
        let mut how = by(parts.next().unwrap());
        let rest: Vec<&str> = parts.collect();
        if rest.contains(&"frequency") {
            how.majority_sign = MajoritySign::Frequency;
        }
        if rest == ["3"] {
            how.svd_rank = Some(3);
        }
        let combined = how.of(&adapters).unwrap();
        let found = apart(&delta(&combined.adapter, module), expected);
        assert!(found < 1e-5, "{key}: {found}");
        let r = match (how.method.name(), name.starts_with("same")) {
            ("cat", true) => 24,
            ("cat", false) => 18,
            _ => how.svd_rank.unwrap_or(8),
        };
        assert_eq!(combined.adapter.config().r, r, "{key}");
        let exact = combined.relative_change < 1e-6;
        assert_eq!(exact, how.method.name() == "cat", "{key}: {}", combined.relative_change);
    }
}

/// Random in PEFT: what is dropped is dropped whole, what stays is larger, and the seed decides.
#[test]
fn dare_drops_and_rescales_by_its_seed() {
    let paths = family("same");
    let adapters = load(&paths);
    let module = "model.layers.0.self_attn.q_proj";
    for method in ["dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"] {
        let run = |seed| {
            let how = Combination { seed, ..by(method) };
            delta(&how.of(&adapters).unwrap().adapter, module)
        };
        assert_eq!(apart(&run(1), &run(1)), 0.0, "{method}");
        assert!(apart(&run(1), &run(2)) > 0.0, "{method}");
    }
    // With everything kept, nothing is left to chance.
    let all = Combination { density: Some(1.0), ..by("dare_linear") };
    let (all, linear) = (all.of(&adapters).unwrap(), by("linear").of(&adapters).unwrap());
    assert_eq!(apart(&delta(&all.adapter, module), &delta(&linear.adapter, module)), 0.0);
}

#[test]
fn a_combination_is_an_adapter_on_disk() {
    let out = tempfile::tempdir().unwrap();
    let order = CombineOrder {
        adapters: family("mixed"),
        combination: by("cat"),
        other_base: false,
        out: out.path().into(),
    };
    let summary = combine_adapters(&order).unwrap();
    assert_eq!((summary.r, summary.modules), (18, 14));
    let (written, made) =
        (adapter::load(out.path()).unwrap(), by("cat").of(&load(&family("mixed"))).unwrap());
    for (module, _) in made.adapter.layers() {
        assert_eq!(apart(&delta(&written, module), &delta(&made.adapter, module)), 0.0);
    }
    assert!(out.path().join("origin.json").exists());
}

#[test]
fn what_cannot_be_combined_says_why() {
    let refused =
        |how: Combination, paths: Vec<PathBuf>| how.of(&load(&paths)).unwrap_err().to_string();
    for (how, paths, part) in [
        (by("linear"), family("mixed"), "use cat or one of the svd methods"),
        (by("linear"), family("same")[..2].to_vec(), "3 weights for 2 adapters"),
        (by("linear"), family("same")[..1].to_vec(), "1 given, expected at least 2"),
        (Combination { density: None, ..by("ties") }, family("same"), "needs a density"),
        (Combination { density: Some(0.5), ..by("svd") }, family("same"), "takes no density"),
        (Combination { density: Some(0.0), ..by("ties") }, family("same"), "density is 0"),
        (Combination { svd_rank: Some(4), ..by("cat") }, family("same"), "takes no svd rank"),
        (Combination { svd_rank: Some(0), ..by("svd") }, family("same"), "svd rank is 0"),
        (
            Combination { weights: vec![1.0, f64::NAN, 1.0], ..by("svd") },
            family("same"),
            "a weight is NaN",
        ),
        (
            by("svd"),
            [family("same"), vec![fixture("adapters/dora")]].concat()[1..].to_vec(),
            "number 3 is DoRA",
        ),
        (
            by("svd"),
            [family("same"), vec![fixture("adapters/ia3")]].concat()[1..].to_vec(),
            "number 3 is IA³",
        ),
    ] {
        let message = refused(how, paths);
        assert!(message.contains(part), "{part}: {message}");
    }
}
