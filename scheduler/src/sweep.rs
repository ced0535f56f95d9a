//! A sweep turns one recipe into many: every combination of values, or a seeded random draw.

use std::collections::BTreeMap;

use fleetune_shared::Recipe;
use fleetune_shared::recipe::{
    RecipeError, RecipeFile, SweepDistribution, SweepFile, SweepMethod, SweepValues,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use thiserror::Error;

/// More trials than this are refused.
pub const TRIALS_MAX: usize = 1_000;

/// One recipe of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// What to train.
    pub recipe: Recipe,
    /// What the sweep set.
    pub keys: BTreeMap<String, String>,
}

/// Why a sweep was refused.
#[derive(Debug, Error, PartialEq)]
pub enum SweepError {
    /// The recipe has none.
    #[error(
        "recipe: `sweep` is missing, expected `sweep: {{parameters: {{learning_rate: [1e-4, 2e-4]}}}}`"
    )]
    Missing,
    /// A key takes nothing, or a range stands in a grid.
    #[error("recipe: sweep key `{key}` {found}, expected {expected}")]
    Values {
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// Too many.
    #[error(
        "recipe: the sweep has {0} trials, expected at most {TRIALS_MAX}; take fewer values, or `method: random` with `trials`"
    )]
    TooMany(u128),
    /// A trial is no sound recipe.
    #[error("recipe: sweep trial {trial} ({keys}): {source}")]
    Trial {
        /// Counted from 1.
        trial: usize,
        /// What the sweep set.
        keys: String,
        /// Why.
        source: RecipeError,
    },
}

/// Expands a recipe's sweep, in a fixed order: the last key by name turns fastest.
///
/// # Errors
/// [`SweepError`]; the first bad trial is named with its values.
pub fn expand(file: &RecipeFile) -> Result<Vec<Trial>, SweepError> {
    let sweep = file.sweep.as_ref().ok_or(SweepError::Missing)?;
    if sweep.parameters.is_empty() {
        return Err(SweepError::Missing);
    }
    for (key, values) in &sweep.parameters {
        check(key, values, sweep.method)?;
    }
    let points = match sweep.method {
        SweepMethod::Grid => grid(sweep)?,
        SweepMethod::Random => random(sweep)?,
    };
    points.into_iter().enumerate().map(|(i, point)| trial(file, i + 1, &point)).collect()
}

type Point = BTreeMap<String, Value>;

fn check(key: &str, values: &SweepValues, method: SweepMethod) -> Result<(), SweepError> {
    let bad =
        |found: String, expected| Err(SweepError::Values { key: key.into(), found, expected });
    match values {
        SweepValues::Choice(choices) if choices.is_empty() => {
            bad("is an empty list".into(), "at least one value")
        }
        SweepValues::Range(_) if method == SweepMethod::Grid => {
            bad("is a range".into(), "a list of values, or `method: random`")
        }
        SweepValues::Range(range) => {
            let sound = range.min < range.max && range.min.is_finite() && range.max.is_finite();
            let log = range.distribution == SweepDistribution::LogUniform;
            if !sound || (log && range.min <= 0.0) {
                bad(
                    format!("goes from {} to {}", range.min, range.max),
                    "min below max, above 0 for log_uniform",
                )
            } else {
                Ok(())
            }
        }
        SweepValues::Choice(_) => Ok(()),
    }
}

fn grid(sweep: &SweepFile) -> Result<Vec<Point>, SweepError> {
    let choices = |values: &SweepValues| match values {
        SweepValues::Choice(choices) => choices.clone(),
        SweepValues::Range(_) => Vec::new(),
    };
    let count = sweep.parameters.values().map(|v| choices(v).len() as u128).product();
    if count > TRIALS_MAX as u128 {
        return Err(SweepError::TooMany(count));
    }
    let mut points = vec![Point::new()];
    for (key, values) in &sweep.parameters {
        let with = |point: &Point, value: Value| {
            let mut point = point.clone();
            point.insert(key.clone(), value);
            point
        };
        points = points
            .iter()
            .flat_map(|point| choices(values).into_iter().map(|value| with(point, value)))
            .collect();
    }
    Ok(points)
}

fn random(sweep: &SweepFile) -> Result<Vec<Point>, SweepError> {
    let trials = sweep.trials.unwrap_or(10);
    if trials == 0 || trials > TRIALS_MAX as u64 {
        return Err(SweepError::TooMany(u128::from(trials)));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(sweep.seed.unwrap_or(42));
    let mut draw = |values: &SweepValues| match values {
        SweepValues::Choice(choices) => choices[rng.random_range(0..choices.len())].clone(),
        SweepValues::Range(range) => match range.distribution {
            SweepDistribution::Uniform => rng.random_range(range.min..range.max).into(),
            SweepDistribution::LogUniform => {
                rng.random_range(range.min.ln()..range.max.ln()).exp().into()
            }
        },
    };
    let point = |draw: &mut dyn FnMut(&SweepValues) -> Value| {
        sweep.parameters.iter().map(|(key, values)| (key.clone(), draw(values))).collect()
    };
    Ok((0..trials).map(|_| point(&mut draw)).collect())
}

fn trial(file: &RecipeFile, number: usize, point: &Point) -> Result<Trial, SweepError> {
    let keys: BTreeMap<String, String> =
        point.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
    let recipe = set(file, number, point).map_err(|source| SweepError::Trial {
        trial: number,
        keys: keys.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "),
        source,
    })?;
    Ok(Trial { recipe, keys })
}

fn set(file: &RecipeFile, number: usize, point: &Point) -> Result<Recipe, RecipeError> {
    let base = RecipeFile { sweep: None, ..file.clone() };
    let mut value = serde_json::to_value(base).map_err(|e| RecipeError::Type(e.to_string()))?;
    if let Value::Object(map) = &mut value {
        map.extend(point.iter().map(|(k, v)| (k.clone(), v.clone())));
        let name = file.name.as_deref().unwrap_or("sweep");
        map.insert("name".into(), format!("{name}-{number}").into());
    }
    RecipeFile::from_value(value)?.try_into()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
