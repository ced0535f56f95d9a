//! TRL's numbers (`tests/fixtures/make_preference.py`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use fleetune_engine::objective::{Grades, Judged, Sequence, cpo, dpo, kto, orpo};
use fleetune_shared::recipe::{CpoLoss, DpoLoss, FDivergence, KtoLoss};
use serde::Deserialize;
use serde_json::Value;

use crate::{close, cpo_settings, dpo_settings, kto_settings, sequence};

const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Entry {
    family: String,
    name: String,
    args: Value,
    loss: f64,
    grad_key: String,
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
    #[serde(default)]
    chosen_rewards: Vec<f64>,
    log_odds: Option<f64>,
}

struct Fixture {
    tensors: std::collections::HashMap<String, Tensor>,
}

impl Fixture {
    /// Per-token numbers of a table, row by row, where a completion is; the fixture's rows are all chosen answers,
    /// then all rejected ones.
    fn completions(&self, name: &str) -> Vec<Vec<f64>> {
        let table = self.tensors[name].to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        let mask = self.tensors["completion_mask"].to_vec2::<i64>().unwrap();
        let kept = |row: Vec<f64>, mask: &Vec<i64>| {
            row.into_iter().zip(&mask[1..]).filter(|(_, m)| **m == 1).map(|(x, _)| x).collect()
        };
        table.into_iter().zip(&mask).map(|(row, mask)| kept(row, mask)).collect()
    }

    fn per_row(&self, name: &str) -> Vec<f64> {
        self.tensors[name].to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()
    }
}

fn fixture() -> (Vec<Entry>, Fixture) {
    let folder: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", "losses"].iter().collect();
    let text = std::fs::read_to_string(folder.join("preference.json")).unwrap();
    let tensors =
        candle_core::safetensors::load(folder.join("preference.safetensors"), &Device::Cpu);
    (serde_json::from_str(&text).unwrap(), Fixture { tensors: tensors.unwrap() })
}

/// Chosen, rejected, chosen, rejected, ….
fn interleaved<T: Clone>(halves: &[T]) -> Vec<T> {
    let (chosen, rejected) = halves.split_at(halves.len() / 2);
    chosen.iter().zip(rejected).flat_map(|(c, r)| [c.clone(), r.clone()]).collect()
}

/// The mean over `rows`, and its gradient, against the entry's.
fn assert_same(entry: &Entry, grades: &Grades, rows: usize, gradient: &[Vec<f64>]) {
    let name = &entry.name;
    let loss = grades.loss / rows as f64;
    assert!(
        close(loss, entry.loss, TOLERANCE * entry.loss.max(1.0)),
        "{name}: {loss} {}",
        entry.loss
    );
    let expected: Vec<f64> = gradient.concat();
    let largest = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    assert_eq!(grades.gradient.len(), expected.len(), "{name}");
    for (found, expected) in grades.gradient.iter().zip(&expected) {
        let found = found / rows as f64;
        assert!((found - expected).abs() <= TOLERANCE * largest, "{name}: {found} {expected}");
    }
    let means = grades.tally.means();
    for (key, expected) in &entry.metrics {
        assert!(close(means[key], *expected, TOLERANCE), "{name}: {key} {} {expected}", means[key]);
    }
}

fn sums(rows: &[Vec<f64>]) -> Vec<f64> {
    rows.iter().map(|row| row.iter().sum()).collect()
}

#[test]
fn dpo_and_its_cousins() {
    let (entries, fixture) = fixture();
    let policy = interleaved(&fixture.completions("policy_logps"));
    let reference = interleaved(&fixture.completions("ref_logps"));
    // What the stand-in for a model gave wherever it was asked.
    let collisions: Vec<Vec<f64>> = policy.iter().map(|row| vec![-0.5; row.len()]).collect();
    let mut seen = 0;
    for entry in entries.iter().filter(|entry| entry.family == "dpo") {
        let mut settings = dpo_settings();
        let names: Vec<String> = serde_json::from_value(entry.args["loss_types"].clone()).unwrap();
        let weight = |i: usize| entry.args["weights"][i].as_f64().unwrap_or(1.0);
        let of = |name: &str| DpoLoss::ALL.iter().find(|(n, _)| *n == name).unwrap().1;
        settings.losses = names.iter().enumerate().map(|(i, n)| (of(n), weight(i))).collect();
        let number = |key: &str| entry.args[key].as_f64();
        settings.beta = number("beta").unwrap_or(0.1);
        settings.label_smoothing = number("ls").unwrap_or(0.0);
        settings.ld_alpha = number("ld");
        settings.use_weighting = entry.args["wpo"] == true;
        if let Some(name) = entry.args["fdiv"].as_str() {
            settings.f_divergence = serde_json::from_value::<FDivergence>(name.into()).unwrap();
        }
        let tail = settings.ld_alpha.unwrap_or(1.0);
        let shared: Vec<usize> =
            policy.chunks(2).flat_map(|p| [p[0].len().min(p[1].len()); 2]).collect();
        let sequences: Vec<Sequence<'_>> = (0..policy.len())
            .map(|i| {
                let logp = sequence(&reference[i], &[], 0.0).logp(shared[i], tail);
                sequence(&policy[i], &collisions[i], logp)
            })
            .collect();
        let gradient = interleaved(&fixture.completions(&entry.grad_key));
        assert_same(entry, &dpo(&settings, &sequences), policy.len() / 2, &gradient);
        seen += 1;
    }
    assert_eq!(seen, 24);
}

#[test]
fn kto_of_single_answers() {
    let (entries, fixture) = fixture();
    let policy = fixture.completions("policy_logps");
    let reference = sums(&fixture.completions("ref_logps"));
    let labels = fixture.tensors["kto.label"].to_vec1::<u8>().unwrap();
    let answers: Vec<Judged<'_>> = (0..policy.len())
        .map(|i| Judged {
            sequence: sequence(&policy[i], &[], reference[i]),
            desirable: labels[i] == 1,
        })
        .collect();
    let mut seen = 0;
    for entry in entries.iter().filter(|entry| entry.family == "kto") {
        let mut settings = kto_settings();
        let number = |key: &str| entry.args[key].as_f64();
        settings.beta = number("beta").unwrap_or(0.1);
        settings.desirable_weight = number("dw").unwrap_or(1.0);
        settings.undesirable_weight = number("uw").unwrap_or(1.0);
        if entry.args["loss"] == "apo_zero_unpaired" {
            settings.loss = KtoLoss::ApoZeroUnpaired;
        }
        let mismatched: Vec<f64> = match entry.args["kl"].as_str() {
            None => vec![],
            Some(which) => {
                let policy = sums(&fixture.completions(&format!("kto.kl_policy_logps.{which}")));
                let reference = sums(&fixture.completions("kto.kl_ref_logps"));
                policy.iter().zip(&reference).map(|(p, r)| p - r).collect()
            }
        };
        let gradient = fixture.completions(&entry.grad_key);
        assert_same(entry, &kto(&settings, &answers, &mismatched), policy.len(), &gradient);
        seen += 1;
    }
    assert_eq!(seen, 5);
}

/// As one token each, of which the mean and the sum are the same.
fn whole(logps: &[f64]) -> Vec<Vec<f64>> {
    interleaved(logps).into_iter().map(|logp| vec![logp]).collect()
}

#[test]
fn cpo_and_simpo() {
    let (entries, fixture) = fixture();
    let mut seen = 0;
    for entry in entries.iter().filter(|entry| entry.family == "cpo") {
        let number = |key: &str| entry.args[key].as_f64().unwrap();
        if number("alpha") != 0.0 {
            continue;
        }
        let loss = CpoLoss::ALL.iter().find(|(name, _)| *name == entry.name).unwrap().1;
        let mut settings = cpo_settings(loss);
        settings.beta = number("beta");
        settings.simpo_gamma = number("simpo_gamma");
        settings.label_smoothing = number("label_smoothing");
        let averaged = entry.args["averaged_logps"] == true;
        let logps = fixture.per_row(if averaged { "policy_avg" } else { "policy_seq" });
        let logps = whole(&logps);
        let sequences: Vec<_> = logps.iter().map(|logp| sequence(logp, &[], 0.0)).collect();
        let grades = cpo(&settings, &sequences);
        assert_same(entry, &grades, 6, &whole(&fixture.per_row(&entry.grad_key)));
        let reward = entry.chosen_rewards.iter().sum::<f64>() / 6.0;
        assert!(close(grades.tally.means()["rewards/chosen"], reward, TOLERANCE));
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[test]
fn orpo_odds() {
    let (entries, fixture) = fixture();
    let logps = whole(&fixture.per_row("policy_avg"));
    let sequences: Vec<_> = logps.iter().map(|logp| sequence(logp, &[], 0.0)).collect();
    for entry in entries.iter().filter(|entry| entry.family == "orpo") {
        let mut grades = orpo(entry.args["beta"].as_f64().unwrap(), &sequences);
        // The fixture has the odds alone.
        grades.loss -= 6.0 * grades.tally.means()["nll_loss"];
        grades.gradient.iter_mut().step_by(2).for_each(|slope| *slope += 1.0);
        assert_same(entry, &grades, 6, &whole(&fixture.per_row(&entry.grad_key)));
        let odds = grades.tally.means()["log_odds_chosen"];
        assert!(close(odds, entry.log_odds.unwrap(), TOLERANCE));
    }
}
