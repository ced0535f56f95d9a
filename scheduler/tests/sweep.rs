//! One recipe, many trials.

use fleetune_scheduler::sweep::{SweepError, expand};
use fleetune_shared::recipe::RecipeFile;

fn file(sweep: &str) -> RecipeFile {
    let text = format!("name: s\nmodel_name_or_path: m\ndataset_name: d\nsweep: {sweep}");
    RecipeFile::read(&text).expect("a sound recipe")
}

#[test]
fn a_grid_is_every_combination_in_a_fixed_order() {
    let trials =
        expand(&file("{parameters: {r: [8, 16], learning_rate: [1e-4, 2e-4, 3e-4]}}")).unwrap();
    assert_eq!(trials.len(), 6);
    let keys: Vec<_> =
        trials.iter().map(|t| (t.keys["learning_rate"].as_str(), t.keys["r"].as_str())).collect();
    assert_eq!(keys[..3], [("0.0001", "8"), ("0.0001", "16"), ("0.0002", "8")]);
    assert_eq!(trials[5].recipe.name, "s-6");
    assert!(trials[0].recipe.file().sweep.is_none(), "a trial is a plain recipe");
}

#[test]
fn a_random_draw_is_the_same_for_the_same_seed() {
    let sweep = |seed| {
        expand(&file(&format!(
            "{{method: random, trials: 20, seed: {seed}, parameters: {{r: [4, 8], \
             learning_rate: {{min: 1e-5, max: 1e-2, distribution: log_uniform}}}}}}"
        )))
        .unwrap()
    };
    assert_eq!(sweep(1), sweep(1));
    assert_ne!(sweep(1), sweep(2));
    let small = sweep(1).iter().filter(|t| t.recipe.schedule.learning_rate < 3e-4).count();
    assert!(
        (5..=15).contains(&small),
        "log-uniform: about half below the geometric mean, got {small} of 20"
    );
}

#[test]
fn bad_sweeps_are_refused_by_name() {
    let message = |sweep: &str| expand(&file(sweep)).unwrap_err().to_string();
    assert!(message("{parameters: {r: []}}").contains("`r` is an empty list"));
    assert!(message("{parameters: {r: {min: 1, max: 2}}}").contains("`r` is a range"));
    assert!(message("{parameters: {rank: [1]}}").contains("unknown key `rank`"));
    assert!(message("{parameters: {r: [8, 0]}}").contains("trial 2 (r=0): recipe: `r` is 0"));
    assert!(message("{method: random, parameters: {r: {min: 2, max: 1}}}").contains("from 2 to 1"));
    let many: Vec<_> = (0..400).map(|n| n.to_string()).collect();
    let many = many.join(",");
    let big = format!("{{parameters: {{seed: [{many}], max_steps: [{many}]}}}}");
    assert!(matches!(expand(&file(&big)), Err(SweepError::TooMany(160_000))));
}
