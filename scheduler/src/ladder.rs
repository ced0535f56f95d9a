//! What is tried next when a job ran out of memory.
//!
//! ```text
//!   as asked ─▶ half the micro-batch, twice the accumulation ─▶ … ─▶ one row
//!            ─▶ more checkpointing ─▶ … ─▶ blocks keep their inputs only
//!            ─▶ a bigger card, promised more than was tried ─▶ … ─▶ refused, with the numbers
//! ```
//!
//! What by the estimates saves less than was lacking is passed over. Nothing here makes another run of it: the same rows
//! in the same order make up each optimizer step, and the job goes on from its last checkpoint.

use std::collections::BTreeMap;

use fleetune_shared::recipe::{CheckpointingLevel, Objective};
use fleetune_shared::view::{RungKind, RungView};
use fleetune_shared::{
    AgentName, BatchChange, ByteSize, Card, Device, Estimate, JobSpec, ModelSpec, Recipe, Work,
};
use serde::{Deserialize, Serialize};

/// A bigger card is asked for this part more than was tried: an eighth.
const RAISE: u64 = 8;

/// How a job is tried, by what it took to get there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rung", rename_all = "snake_case")]
pub enum Rung {
    /// As its recipe says.
    #[default]
    AsAsked,
    /// In smaller micro-batches, more of them to a step.
    SmallerMicroBatch(Adapted),
    /// With blocks that keep less.
    MoreCheckpointing(Adapted),
    /// With more memory than was tried.
    BiggerCard(Adapted),
}

/// A job that ran out of memory, as it is tried now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adapted {
    /// What its orders change of the recipe; nothing for merges.
    pub change: Option<BatchChange>,
    /// What it needs with that, by what computes.
    pub estimates: BTreeMap<Device, Estimate>,
    /// What it is promised, whatever the estimates say: as much as was not enough before it was changed, or more than
    /// that.
    pub vram_bytes_least: ByteSize,
    /// What computed when that was not enough.
    pub tried_on: Device,
}

impl Adapted {
    /// What it is promised on a card that computes with `device`: as much more there as the estimates say.
    #[must_use]
    pub fn vram_bytes_needed(&self, device: Device) -> Option<ByteSize> {
        let estimate = |device| self.estimates.get(device).map(|estimate| estimate.total().0);
        let more = estimate(&device)?.saturating_sub(estimate(&self.tried_on)?);
        Some(ByteSize(self.vram_bytes_least.0.saturating_add(more)))
    }
}

impl Rung {
    /// What is different, where anything is.
    #[must_use]
    pub fn adapted(&self) -> Option<&Adapted> {
        match self {
            Self::AsAsked => None,
            Self::SmallerMicroBatch(adapted)
            | Self::MoreCheckpointing(adapted)
            | Self::BiggerCard(adapted) => Some(adapted),
        }
    }

    /// As front ends show it.
    #[must_use]
    pub fn view(&self) -> Option<RungView> {
        let kind = match self {
            Self::AsAsked => return None,
            Self::SmallerMicroBatch(_) => RungKind::SmallerMicroBatch,
            Self::MoreCheckpointing(_) => RungKind::MoreCheckpointing,
            Self::BiggerCard(_) => RungKind::BiggerCard,
        };
        let Adapted { change, vram_bytes_least, .. } = self.adapted()?;
        Some(RungView { kind, change: *change, vram_bytes_least: *vram_bytes_least })
    }
}

/// What was not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What computed.
    pub device: Device,
    /// What was promised.
    pub promised: ByteSize,
    /// What the run was estimated at, or at most where it keeps what it has room for; not corrected.
    pub estimated: ByteSize,
    /// What it held when it was stopped, where that is known. It may have needed more.
    pub peak: Option<ByteSize>,
}

/// The card that could give a job most, of those that are what it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Largest<'a> {
    /// Whose.
    pub agent: &'a AgentName,
    /// Which.
    pub card: &'a Card,
}

/// What comes after a job ran out of memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// It is tried like this.
    Try(Rung),
    /// Nothing is left to try; with the numbers.
    Refuse(String),
}

/// The next rung for a job that stood on `rung` and ran out of memory.
#[must_use]
pub fn next(spec: &JobSpec, rung: &Rung, tried: Tried, largest: Option<Largest<'_>>) -> Next {
    let smaller = match &spec.work {
        Work::Train { recipe } => Smaller { model: &spec.model, recipe }.than(rung, tried),
        Work::Merge(_) => None,
    };
    smaller.map_or_else(|| bigger(spec, rung, tried, largest), Next::Try)
}

/// Finds smaller shapes of a run.
struct Smaller<'a> {
    model: &'a ModelSpec,
    recipe: &'a Recipe,
}

impl Smaller<'_> {
    fn than(&self, rung: &Rung, tried: Tried) -> Option<Rung> {
        let now = current(self.recipe, rung);
        // At least by so much it was too large.
        let lacking = tried.peak.map_or(0, |peak| peak.0.saturating_sub(tried.promised.0)).max(1);
        self.changes(now).find_map(|change| {
            let changed = change.of(self.recipe).ok()?;
            let needs = |device| Estimate::of_training(self.model, &changed, device);
            let saved = tried.estimated.0.saturating_sub(needs(tried.device).total().0);
            let adapted = Adapted {
                change: Some(change),
                estimates: [Device::Cpu, Device::Cuda].map(|d| (d, needs(d))).into(),
                vram_bytes_least: tried.promised,
                tried_on: tried.device,
            };
            let rung = if change.checkpointing == pinned(now).checkpointing
                && change.micro_batch < now.micro_batch
            {
                Rung::SmallerMicroBatch(adapted)
            } else {
                Rung::MoreCheckpointing(adapted)
            };
            (saved >= lacking).then_some(rung)
        })
    }

    /// Ever smaller ones: first in rows, then in what blocks keep.
    fn changes(&self, now: BatchChange) -> impl Iterator<Item = BatchChange> {
        // The rows of a micro-batch of KTO exchange their answers: fewer of them would be other data.
        let divisible = !matches!(self.recipe.objective, Objective::Kto(_));
        let halves: Vec<_> = std::iter::successors(pinned(now).halved(), |change| change.halved())
            .take_while(|change| divisible && change.of(self.recipe).is_ok())
            .collect();
        let fewest = halves.last().copied().unwrap_or(now);
        let levels = more_than(now.checkpointing).iter();
        let kept = levels.map(move |level| BatchChange { checkpointing: *level, ..fewest });
        halves.into_iter().chain(kept)
    }
}

/// Levels at which blocks keep less.
fn more_than(level: CheckpointingLevel) -> &'static [CheckpointingLevel] {
    match level {
        CheckpointingLevel::None => &[CheckpointingLevel::Selective, CheckpointingLevel::Block],
        CheckpointingLevel::Selective | CheckpointingLevel::Auto => &[CheckpointingLevel::Block],
        CheckpointingLevel::Block => &[],
    }
}

/// What the job's orders ask for on this rung.
fn current(recipe: &Recipe, rung: &Rung) -> BatchChange {
    let changed = rung.adapted().and_then(|adapted| adapted.change);
    changed.unwrap_or_else(|| BatchChange::none(recipe))
}

/// Whoever ran out of memory with as much as there was room for keeps as little as can be from then on.
fn pinned(now: BatchChange) -> BatchChange {
    match now.checkpointing {
        CheckpointingLevel::Auto => BatchChange { checkpointing: CheckpointingLevel::Block, ..now },
        _ => now,
    }
}

/// More memory than was tried, where some card has it.
fn bigger(spec: &JobSpec, rung: &Rung, tried: Tried, largest: Option<Largest<'_>>) -> Next {
    let took = tried.peak.unwrap_or(tried.promised).max(tried.promised);
    let raised = ByteSize(took.0.saturating_add(took.0 / RAISE));
    let (change, estimates) = match &spec.work {
        Work::Train { recipe } => {
            let change = pinned(current(recipe, rung));
            let changed = change.of(recipe).unwrap_or_else(|_| (**recipe).clone());
            let work = Work::Train { recipe: Box::new(changed) };
            (Some(change), JobSpec::estimates_of(&work, &spec.model))
        }
        Work::Merge(_) => (None, spec.estimates.clone()),
    };
    if largest.is_some_and(|largest| raised <= largest.card.usable()) {
        let (vram_bytes_least, tried_on) = (raised, tried.device);
        let adapted = Adapted { change, estimates, vram_bytes_least, tried_on };
        return Next::Try(Rung::BiggerCard(adapted));
    }
    let how = change.map_or_else(String::new, |change| format!(" with {change}"));
    let cards = match largest {
        Some(Largest { agent, card }) => format!(
            "the largest card that suits it, {} on `{agent}`, can give {}: {} too little",
            card.name,
            card.usable(),
            ByteSize(raised.0.saturating_sub(card.usable().0))
        ),
        None => "no card suits it".into(),
    };
    Next::Refuse(format!(
        "out of memory, and nothing is left to try: `{}`{how} took {took} of {} promised; it would be tried with {raised} \
         next, and {cards}; lower max_length, choose a smaller model, or join a larger card and submit it again",
        spec.name, tried.promised
    ))
}
