//! Estimates of PyTorch runtimes against published measurements (`published/measurements.csv`, made by
//! `scripts/vram-calibration`). Shapes come from the table of known models; nothing here is fitted to a row.

use std::collections::HashMap;

use fleetune_shared::recipe::RecipeFile;
use fleetune_shared::{
    Attention, CardClass, Meter, ModelShape, Precision, Recipe, Runtime, Sizer, TorchSetting,
    known_config,
};
use serde_json::{Value, json};

/// One run that somebody measured, by column.
struct Run(HashMap<&'static str, &'static str>);

fn runs() -> Vec<Run> {
    let mut lines = include_str!("published/measurements.csv").lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let run = |line: &'static str| {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), names.len(), "{line}");
        Run(names.iter().copied().zip(fields).collect())
    };
    lines.map(run).collect()
}

impl Run {
    fn word<T: serde::de::DeserializeOwned>(&self, column: &str) -> T {
        serde_json::from_value(json!(self.0[column])).unwrap()
    }

    fn number(&self, column: &str) -> f64 {
        self.0[column].parse().unwrap()
    }

    fn recipe(&self) -> Recipe {
        let list = |column: &str| -> Vec<&str> {
            self.0[column].split('+').filter(|word| !word.is_empty()).collect()
        };
        let mut keys = json!({
            "model_name_or_path": self.0["model"],
            "dataset_name": "rows.jsonl",
            "max_length": self.number("length") as u64,
            "per_device_train_batch_size": self.number("rows") as u64,
            "gradient_accumulation_steps": self.number("accumulation") as u64,
            "gradient_checkpointing": self.0["checkpointing"] == "true",
        });
        let mut set = |key: &str, value: Value| keys[key] = value;
        let method = self.0["method"];
        if method == "full" {
            set("use_peft", json!(false));
        } else {
            set("target_modules", json!(list("targets")));
            if !self.0["copied"].is_empty() {
                set("modules_to_save", json!(list("copied")));
            }
        }
        match method {
            "lora" | "dora" => {
                set("r", json!(self.number("rank") as u64));
                set("lora_dropout", json!(self.number("dropout")));
                set("use_dora", json!(method == "dora"));
            }
            "ia3" => set("peft_type", json!("IA3")),
            "full" => {}
            other => panic!("{other}"),
        }
        match self.0["quantization"] {
            "none" | "gptq-int4" => {}
            kind => {
                set("load_in_4bit", json!(true));
                set("bnb_4bit_use_double_quant", json!(kind == "nf4-dq"));
            }
        }
        RecipeFile::from_value(keys).unwrap().try_into().unwrap()
    }

    /// `told` says whose conventions the run followed; else all that the recipe says is known.
    fn sizer(&self, told: bool) -> Sizer {
        let plain = TorchSetting::default();
        Sizer::Torch {
            shape: Box::new(
                ModelShape::from_hf_config(&known_config(self.0["model"]).unwrap()).unwrap(),
            ),
            setting: TorchSetting {
                runtime: if told { self.word::<Runtime>("runtime") } else { plain.runtime },
                precision: told.then(|| self.word::<Precision>("precision")),
                attention: self.word::<Attention>("attention"),
                meter: self.word::<Meter>("meter"),
                gptq: self.0["quantization"] == "gptq-int4",
                family: CardClass::of(self.0["card"]),
            },
        }
    }
}

const GIB: f64 = (1u64 << 30) as f64;

/// Median and 90th percentile of how far estimates are off, and how many measurements lie within what is trusted.
fn held_against(told: bool) -> (f64, f64, f64) {
    let mut errors = Vec::new();
    let mut inside = 0;
    eprintln!(
        "| model | run | tokens | measured GiB | estimate | trusted | off |\n|---|---|---|---|---|---|---|"
    );
    for run in runs() {
        let sizer = run.sizer(told);
        let need = sizer.size(&sizer.prepare(run.recipe()).unwrap());
        let (measured, estimate) = (run.number("gib"), need.total().0 as f64 / GIB);
        let (low, high) = (need.low.0 as f64 / GIB, need.high.0 as f64 / GIB);
        let off = estimate / measured - 1.0;
        inside += usize::from((low..=high).contains(&measured));
        errors.push(off.abs());
        eprintln!(
            "| {} | {}{}, {}, {} | {} × {} | {measured:.2} | {estimate:.2} | {low:.1}–{high:.1} | {:+.1} % |",
            run.0["model"],
            run.0["method"],
            if run.0["copied"].is_empty() { "" } else { " + tables" },
            run.0["quantization"],
            run.0["runtime"],
            run.0["rows"],
            run.0["length"],
            100.0 * off
        );
        if std::env::var("FLEETUNE_PARTS").is_ok() {
            eprintln!(
                "    {:?}",
                need.estimate.parts().map(|(name, bytes)| format!("{name} {bytes}"))
            );
        }
    }
    errors.sort_by(f64::total_cmp);
    let rank = |part: f64| errors[(part * errors.len() as f64).ceil() as usize - 1];
    let (median, ninetieth) = (rank(0.5), rank(0.9));
    let covered = inside as f64 / errors.len() as f64;
    eprintln!(
        "{} runs: median {:.1} %, 90th percentile {:.1} %, largest {:.1} %; {:.0} % within what is trusted",
        errors.len(),
        100.0 * median,
        100.0 * ninetieth,
        100.0 * rank(1.0),
        100.0 * covered
    );
    assert!(errors.len() >= 58);
    (median, ninetieth, covered)
}

#[test]
fn published_measurements_are_met() {
    let (median, ninetieth, covered) = held_against(true);
    assert!(median <= 0.08, "{median}");
    assert!(ninetieth <= 0.20, "{ninetieth}");
    assert!(covered >= 0.9, "{covered}");
}

/// All of them as transformers' conventions have it, DeepSpeed's and LitGPT's runs too.
#[test]
fn plain_conventions_meet_them_as_well() {
    let (median, ninetieth, _) = held_against(false);
    assert!(median <= 0.08, "{median}");
    assert!(ninetieth <= 0.20, "{ninetieth}");
}
