//! Combining adapters from folder to folder.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;

use super::combine::Combination;
use super::origin::{Origin, Parent};
use crate::adapter::{self, Adapter};
use crate::memory;
use crate::train::publish;
use crate::{EngineError, Result};
use fleetune_shared::ByteSize;

/// One combination of adapters.
#[derive(Clone, Debug)]
pub struct CombineOrder {
    /// PEFT folders, in the order of the weights.
    pub adapters: Vec<PathBuf>,
    /// How.
    pub combination: Combination,
    /// Whether they may have been trained on different bases.
    pub other_base: bool,
    /// Where the combined adapter goes.
    pub out: PathBuf,
}

/// What a combination did.
#[derive(Clone, Debug, Serialize)]
pub struct CombineSummary {
    /// Modules of the result.
    pub modules: usize,
    /// Its rank.
    pub r: usize,
    /// See [`super::Combined::relative_change`].
    pub relative_change: f64,
    /// How long it took.
    pub seconds: f64,
    /// The most that was held.
    pub memory_bytes_peak: ByteSize,
}

/// Combines adapters and writes the result as PEFT would.
///
/// # Errors
/// [`EngineError::Input`] as [`adapter::load`] and [`Combination::of`], and where two adapters tell of different bases.
pub fn combine_adapters(order: &CombineOrder) -> Result<CombineSummary> {
    let begun = Instant::now();
    memory::reset_peak();
    let adapters = order.adapters.iter().map(|path| adapter::load(path));
    let adapters = adapters.collect::<Result<Vec<_>>>()?;
    let base = adapters.iter().find_map(Adapter::base);
    let other = |adapter: &Adapter| adapter.base().zip(base).is_some_and(|(a, b)| !a.is(b));
    let stranger = adapters.iter().position(other);
    if let Some(at) = stranger.filter(|_| !order.other_base) {
        return Err(EngineError::input(format!(
            "{}: was trained on another base than the adapters before it; combine adapters of one base, or allow \
             others (--allow-other-base)",
            order.adapters[at].display()
        )));
    }
    let base = base.filter(|_| stranger.is_none()).cloned();
    std::fs::create_dir_all(&order.out).map_err(|e| EngineError::io(&order.out, e))?;
    publish(&order.out, |folder| {
        let combined = order.combination.of(&adapters)?;
        let adapter = combined.adapter.with_base(base);
        adapter::write(folder, &adapter)?;
        origin_of(order)?.save(folder)?;
        Ok(CombineSummary {
            modules: adapter.layers().count(),
            r: adapter.config().r,
            relative_change: combined.relative_change,
            seconds: begun.elapsed().as_secs_f64(),
            memory_bytes_peak: memory::peak(),
        })
    })
}

fn origin_of(order: &CombineOrder) -> Result<Origin> {
    let it = &order.combination;
    let parents = order.adapters.iter().map(|path| Parent::adapter(path));
    Ok(Origin {
        method: it.method.name().into(),
        parameters: json!({
            "weights": it.weights,
            "density": it.density,
            "majority_sign_method": it.majority_sign.name(),
            "svd_rank": it.svd_rank,
            "seed": it.method.draws().then_some(it.seed),
        }),
        parents: parents.collect::<Result<_>>()?,
    })
}
