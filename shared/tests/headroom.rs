//! Which job fits which card: the table of `docs/estimate.md`, as this engine would train on CUDA.

use fleetune_shared::Headroom::{Comfortable, No, Tight};
use fleetune_shared::recipe::RecipeFile;
use fleetune_shared::{
    Bounded, ByteSize, Card, Change, Device, Fit, Headroom, ModelShape, ModelSpec, Recipe, Sizer,
    TorchSetting, changes_to_fit, known_config, longest_length, most_rows,
};
use serde_json::{Map, Value};

fn card(name: &str, gib: u64) -> Card {
    Card {
        name: name.into(),
        vram_bytes_total: ByteSize(gib << 30),
        compute_capability: None,
        device: Device::Cuda,
    }
}

fn recipe(model: &str, keys: &str) -> Recipe {
    let mut all = Map::new();
    let base = ["model_name_or_path", "dataset_name"];
    all.extend(base.map(|key| (key.to_owned(), Value::from(model))));
    for pair in keys.split_whitespace() {
        let (key, value) = pair.split_once('=').unwrap();
        all.insert(key.into(), serde_json::from_str(value).unwrap_or_else(|_| value.into()));
    }
    RecipeFile::from_value(Value::Object(all)).unwrap().try_into().unwrap()
}

fn ours(model: &str) -> Sizer {
    let model = ModelSpec::from_hf_config(&known_config(model).unwrap()).unwrap();
    Sizer::Fleetune { model: Box::new(model), device: Device::Cuda }
}

fn torch(model: &str) -> Sizer {
    let shape = ModelShape::from_hf_config(&known_config(model).unwrap()).unwrap();
    Sizer::Torch { shape: Box::new(shape), setting: TorchSetting::default() }
}

fn prepared(sizer: &Sizer, model: &str, keys: &str) -> (Recipe, Bounded) {
    let recipe = sizer.prepare(recipe(model, keys)).unwrap();
    let need = sizer.size(&recipe);
    (recipe, need)
}

const FULL: &str = "use_peft=false dtype=bfloat16";
const QLORA: &str = "load_in_4bit=true bnb_4bit_use_double_quant=true dtype=bfloat16 r=16";

/// What, of which model, with which keys, on 10 GB, on 20 GB.
type Row = (&'static str, &'static str, &'static str, Headroom, Headroom);

fn table() -> Vec<(String, &'static str, String, Headroom, Headroom)> {
    let rows: [Row; 9] = [
        (
            "1B full, paged 8-bit AdamW",
            "llama-3.2-1b",
            "FULL optim=paged_adamw_8bit per_device_train_batch_size=4 gradient_accumulation_steps=4 max_length=1024",
            Tight,
            Comfortable,
        ),
        (
            "3B full, paged 8-bit AdamW, checkpointing",
            "qwen2.5-3b",
            "FULL optim=paged_adamw_8bit gradient_checkpointing=true per_device_train_batch_size=1 max_length=512",
            No,
            Tight,
        ),
        (
            "7B full, paged 8-bit AdamW",
            "llama-2-7b",
            "FULL optim=paged_adamw_8bit gradient_checkpointing=true per_device_train_batch_size=1 max_length=512",
            No,
            No,
        ),
        (
            "1B QLoRA",
            "llama-3.2-1b",
            "QLORA per_device_train_batch_size=4 max_length=1024",
            Comfortable,
            Comfortable,
        ),
        (
            "3B QLoRA",
            "llama-3.2-3b",
            "QLORA per_device_train_batch_size=4 max_length=1024",
            Comfortable,
            Comfortable,
        ),
        (
            "7B QLoRA",
            "llama-2-7b",
            "QLORA per_device_train_batch_size=5 max_length=1024",
            Tight,
            Comfortable,
        ),
        (
            "13B QLoRA",
            "llama-2-13b",
            "QLORA per_device_train_batch_size=4 max_length=2048",
            No,
            Tight,
        ),
        (
            "7B LoRA on bf16",
            "llama-2-7b",
            "r=16 dtype=bfloat16 gradient_checkpointing=false per_device_train_batch_size=2 max_length=1024",
            No,
            No,
        ),
        (
            "DPO on 7B QLoRA",
            "llama-2-7b",
            "QLORA task=dpo per_device_train_batch_size=5 max_length=512",
            Tight,
            Comfortable,
        ),
    ];
    let spelled = |keys: &str| keys.replace("FULL", FULL).replace("QLORA", QLORA);
    rows.into_iter()
        .map(|(what, model, keys, ten, twenty)| {
            (what.to_owned(), model, spelled(keys), ten, twenty)
        })
        .collect()
}

#[test]
fn the_table_comes_out() {
    let cards = [card("RTX 3080", 10), card("RTX 4000 Ada", 20)];
    let mut wrong = Vec::new();
    for (what, model, keys, ten, twenty) in table() {
        let (_, need) = prepared(&ours(model), model, &keys);
        let found = cards.each_ref().map(|card| Headroom::of(&need, card));
        let words = found.map(Headroom::word);
        eprintln!(
            "| {what} | {} | {} to {} | {} | {} |",
            need.total(),
            need.low,
            need.high,
            words[0],
            words[1]
        );
        eprintln!("    {:?}", need.estimate.parts().map(|(name, bytes)| format!("{name} {bytes}")));
        if found != [ten, twenty] {
            wrong.push(what);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn plain_full_tuning_takes_sixteen_bytes_a_parameter() {
    for (model, gigabytes) in
        [("llama-3.2-1b", 16.0), ("llama-3.2-3b", 48.0), ("llama-2-7b", 112.0)]
    {
        let keys = "use_peft=false gradient_checkpointing=false per_device_train_batch_size=1";
        let shape = ModelShape::from_hf_config(&known_config(model).unwrap()).unwrap();
        // What stays: in f32 here, and under autocast there.
        for sizer in [ours(model), torch(model)] {
            let (_, need) = prepared(&sizer, model, &format!("{keys} max_length=64"));
            let parts = need.estimate;
            let held = parts.weights.0 + parts.gradients.0 + parts.optimizer.0;
            let per_parameter = held as f64 / shape.parameters() as f64;
            assert!((15.5..16.1).contains(&per_parameter), "{model}: {per_parameter}");
            // A "1B" has 1.24 billion, a "7B" 6.74.
            let rule = held as f64 / (gigabytes * 1e9);
            assert!((0.95..1.25).contains(&rule), "{model}: {rule} of {gigabytes} GB");
        }
    }
}

#[test]
fn a_longer_row_or_one_more_does_not_fit() {
    for sizer in [ours("llama-3.2-3b"), torch("llama-3.2-3b")] {
        let (recipe_, _) =
            prepared(&sizer, "llama-3.2-3b", &format!("{QLORA} per_device_train_batch_size=1"));
        let room = card("RTX 3080", 10).usable();
        let length = longest_length(&sizer, &recipe_, room).unwrap();
        let rows = most_rows(&sizer, &recipe_, room).unwrap();
        let need =
            |keys: &str| prepared(&sizer, "llama-3.2-3b", &format!("{QLORA} {keys}")).1.total();
        let one = "per_device_train_batch_size=1";
        assert!(need(&format!("{one} max_length={length}")) <= room);
        assert!(need(&format!("{one} max_length={}", length + 64)) > room);
        assert!(need(&format!("per_device_train_batch_size={rows}")) <= room);
        assert!(need(&format!("per_device_train_batch_size={}", rows + 1)) > room);
        assert!(longest_length(&sizer, &recipe_, ByteSize(1 << 30)).is_none());
    }
}

#[test]
fn the_cheapest_change_that_helps_is_found() {
    let changes = |sizer: &Sizer, model, keys: &str, gib| {
        let recipe = sizer.prepare(recipe(model, keys)).unwrap();
        let room = card("a card", gib).usable();
        let found = changes_to_fit(sizer, &recipe, room, &|recipe| sizer.size(recipe).total());
        let fit = Fit::of(sizer, &recipe, &sizer.size(&recipe), card("a card", gib));
        assert_eq!((fit.headroom, &fit.changes), (No, &found));
        found.map(|changes| changes.into_iter().map(Change::keys).collect::<Vec<_>>())
    };
    let three = ours("llama-3.2-3b");
    let keys = |rows: u64, more: &str| {
        format!(
            "dtype=bfloat16 gradient_checkpointing=false per_device_train_batch_size={rows} max_length=1024 {more}"
        )
    };
    let found = changes(&three, "llama-3.2-3b", &keys(8, ""), 16);
    assert_eq!(found, Some(vec!["gradient_checkpointing: true".to_owned()]));
    let found = changes(&three, "llama-3.2-3b", &keys(8, "gradient_checkpointing=true"), 10);
    assert_eq!(found.unwrap(), ["per_device_train_batch_size: 4, gradient_accumulation_steps: 2"]);
    let full = "use_peft=false dtype=bfloat16 per_device_train_batch_size=1 max_length=256";
    let found = changes(&three, "llama-3.2-3b", full, 24);
    assert_eq!(found.unwrap(), ["optim: paged_adamw_8bit"]);
    let found = changes(&three, "llama-3.2-3b", full, 16);
    let both = ["optim: paged_adamw_8bit", "optimizer_in_backward: true, max_grad_norm: 0"];
    assert_eq!(found.unwrap(), both);
    let seven = ours("llama-2-7b");
    let found = changes(&seven, "llama-2-7b", "dtype=bfloat16 per_device_train_batch_size=1", 10);
    assert_eq!(found.unwrap(), ["load_in_4bit: true"]);
    assert_eq!(changes(&seven, "llama-2-7b", full, 10), None);
    // One upon the other, under transformers.
    let seven = torch("llama-2-7b");
    let keys =
        "dtype=bfloat16 gradient_checkpointing=false per_device_train_batch_size=8 max_length=2048";
    let found = changes(&seven, "llama-2-7b", keys, 12).unwrap();
    assert!(found.len() > 1 && found[0] == "gradient_checkpointing: true", "{found:?}");
    // What the others do without is not asked for: states of an adapter are small.
    assert!(!found.iter().any(|change| change.starts_with("optim")), "{found:?}");
}

#[test]
fn monstrous_runs_are_refused_and_monstrous_sizes_saturate() {
    let sizer = torch("llama-2-70b");
    let monstrous = recipe("llama-2-70b", "per_device_train_batch_size=65536 max_length=65536");
    let refused = sizer.prepare(monstrous).unwrap_err().to_string();
    assert!(refused.contains("tokens at a time"), "{refused}");
    let refused = sizer.prepare(recipe("m", "target_modules=[\"q_prj\"]")).unwrap_err().to_string();
    assert!(refused.contains("`target_modules` is `q_prj`"), "{refused}");
    let mut need = sizer.size(&sizer.prepare(recipe("m", "max_length=64")).unwrap());
    need.estimate.logits = ByteSize(u64::MAX);
    assert_eq!(need.total(), ByteSize(u64::MAX));
}
