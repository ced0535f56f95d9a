//! What else a card would hold: longer rows, more of them, and what would make a job fit that does not. Pure: a change
//! is made to the recipe's text and sized again.

use serde::{Deserialize, Serialize};

use super::Sizer;
use crate::recipe::{CheckpointingChoice, CheckpointingLevel, OptimName, Quantization, RecipeFile};
use crate::{ByteSize, Recipe};

/// A change to a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Keep only each block's input.
    GradientCheckpointing,
    /// Fewer rows at a time, with as much more accumulation: the same steps.
    MicroBatch {
        /// Rows at a time.
        rows: u64,
        /// How many times a step.
        accumulation: u64,
    },
    /// Another optimizer.
    Optimizer(OptimName),
    /// Each gradient moves its weights as soon as it is there; nothing is clipped by all of them.
    OptimizerInBackward,
    /// The base in four bits.
    FourBit,
    /// Shorter rows.
    Length(u64),
}

impl Change {
    /// As it is written in a recipe.
    #[must_use]
    pub fn keys(self) -> String {
        match self {
            Self::GradientCheckpointing => "gradient_checkpointing: true".into(),
            Self::MicroBatch { rows, accumulation } => format!(
                "per_device_train_batch_size: {rows}, gradient_accumulation_steps: {accumulation}"
            ),
            Self::Optimizer(name) => {
                let name = serde_json::to_value(name).unwrap_or_default();
                format!("optim: {}", name.as_str().unwrap_or_default())
            }
            Self::OptimizerInBackward => "optimizer_in_backward: true, max_grad_norm: 0".into(),
            Self::FourBit => "load_in_4bit: true".into(),
            Self::Length(tokens) => format!("max_length: {tokens}"),
        }
    }

    fn on(self, mut file: RecipeFile) -> RecipeFile {
        match self {
            Self::GradientCheckpointing => {
                file.gradient_checkpointing = Some(CheckpointingChoice::Switch(true));
            }
            Self::MicroBatch { rows, accumulation } => {
                file.per_device_train_batch_size = Some(rows);
                file.gradient_accumulation_steps = Some(accumulation);
            }
            Self::Optimizer(name) => {
                file.optim = Some(name);
                file.optim_args = None;
            }
            Self::OptimizerInBackward => {
                file.optimizer_in_backward = Some(true);
                file.max_grad_norm = Some(0.0);
            }
            Self::FourBit => {
                file.load_in_4bit = Some(true);
                file.load_in_8bit = None;
            }
            Self::Length(tokens) => file.max_length = Some(tokens),
        }
        file
    }
}

/// The recipe with changes made, prepared; `None` where it is then no recipe.
#[must_use]
pub fn changed(sizer: &Sizer, recipe: &Recipe, changes: &[Change]) -> Option<Recipe> {
    prepared(sizer, changes.iter().fold(recipe.file().clone(), |file, change| change.on(file)))
}

fn prepared(sizer: &Sizer, file: RecipeFile) -> Option<Recipe> {
    let recipe = Recipe::try_from(RecipeFile { sweep: None, ..file }).ok()?;
    sizer.prepare(recipe).ok()
}

/// Bytes of the recipe as it is written, `None` where it is none.
fn need(sizer: &Sizer, file: RecipeFile) -> Option<ByteSize> {
    Some(sizer.size(&prepared(sizer, file)?).total())
}

/// The largest of `1..=most` that `fits`, which holds up to some number and for none above.
fn largest(most: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    if most == 0 || !fits(1) {
        return None;
    }
    let (mut low, mut high) = (1, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    Some(low)
}

/// What a search for a length ends at where the model names no limit.
const LENGTH_MAX: u64 = 1 << 20;
/// What a search for rows ends at: what a recipe may hold.
const ROWS_MAX: u64 = 65_536;
/// Lengths are offered in steps of this many tokens.
const LENGTH_STEP: u64 = 64;

/// The longest rows, in tokens, of a prepared recipe that fit `room`: a multiple of 64, or the model's limit.
#[must_use]
pub fn longest_length(sizer: &Sizer, recipe: &Recipe, room: ByteSize) -> Option<u64> {
    let most = sizer.length_max().unwrap_or(LENGTH_MAX).min(LENGTH_MAX);
    let fits = |length| {
        let file = Change::Length(length).on(recipe.file().clone());
        need(sizer, file).is_some_and(|need| need <= room)
    };
    if fits(most) {
        return Some(most);
    }
    largest(most / LENGTH_STEP, |steps| fits(steps * LENGTH_STEP)).map(|steps| steps * LENGTH_STEP)
}

/// The most rows of a prepared recipe at a time that fit `room`.
#[must_use]
pub fn most_rows(sizer: &Sizer, recipe: &Recipe, room: ByteSize) -> Option<u64> {
    largest(ROWS_MAX, |rows| {
        let mut file = recipe.file().clone();
        file.per_device_train_batch_size = Some(rows);
        file.gradient_accumulation_steps = None;
        need(sizer, file).is_some_and(|need| need <= room)
    })
}

/// The cheapest change that makes a prepared recipe fit `room`, or, where no single one does, the cheapest changes one
/// upon the other; `None` where all of them together do not. Cheapest first: what costs time (checkpointing, fewer rows at
/// a time), then what costs a little precision (states of eight bits, paged states, no clipping, a base of four bits), then
/// what changes the data (shorter rows). `need` says what a prepared recipe takes: the sizer's estimate, or what was made
/// of it.
#[must_use]
pub fn changes_to_fit(
    sizer: &Sizer,
    recipe: &Recipe,
    room: ByteSize,
    need: &dyn Fn(&Recipe) -> ByteSize,
) -> Option<Vec<Change>> {
    let search = Search { sizer, need, room, length: recipe.data.max_length as u64 };
    let file = recipe.file();
    let ladder = ladder(sizer, recipe);
    for change in &ladder {
        let change = search.mildest(*change, file);
        if let Some(change) = change.filter(|change| search.fits(change.on(file.clone()))) {
            return Some(vec![change]);
        }
    }
    // One upon the other; of two of a kind only the last.
    let mut made: Vec<Change> = Vec::new();
    let (mut changed, mut before) = (file.clone(), search.need(file.clone()));
    for change in ladder {
        let Some(change) = search.mildest(change, &changed) else { continue };
        let file_after = change.on(changed.clone());
        let after = search.need(file_after.clone());
        // What does not help is not asked for.
        if after < before {
            made.retain(|earlier| kind(*earlier) != kind(change));
            made.push(change);
            (changed, before) = (file_after, after);
        }
        if before <= room {
            return Some(search.only_needed(made, file));
        }
    }
    None
}

/// What changes are held against.
struct Search<'a> {
    sizer: &'a Sizer,
    need: &'a dyn Fn(&Recipe) -> ByteSize,
    room: ByteSize,
    /// Of the recipe's rows, in tokens.
    length: u64,
}

impl Search<'_> {
    /// More than there is where the file is no recipe.
    fn need(&self, file: RecipeFile) -> ByteSize {
        prepared(self.sizer, file).map_or(ByteSize(u64::MAX), |recipe| (self.need)(&recipe))
    }

    fn fits(&self, file: RecipeFile) -> bool {
        self.need(file) <= self.room
    }

    /// The longest rows that fit, if any do; another change as it is, whether it fits or not.
    fn mildest(&self, change: Change, file: &RecipeFile) -> Option<Change> {
        let Change::Length(_) = change else { return Some(change) };
        let length = |steps| Change::Length(steps * LENGTH_STEP);
        let fits = |steps| self.fits(length(steps).on(file.clone()));
        largest(self.length / LENGTH_STEP, fits).map(length)
    }

    /// Leaves out what the others do without, the dearest first.
    fn only_needed(&self, mut made: Vec<Change>, file: &RecipeFile) -> Vec<Change> {
        for at in (0..made.len()).rev() {
            let others = made.iter().enumerate().filter(|(other, _)| *other != at);
            if self.fits(others.fold(file.clone(), |file, (_, change)| change.on(file))) {
                made.remove(at);
            }
        }
        made
    }
}

fn kind(change: Change) -> std::mem::Discriminant<Change> {
    std::mem::discriminant(&change)
}

/// Changes that mean something to a recipe, cheapest first.
fn ladder(sizer: &Sizer, recipe: &Recipe) -> Vec<Change> {
    let mut ladder = Vec::new();
    let level = recipe.gradient_checkpointing;
    // `auto` is sized at the least it can do with already.
    if !matches!(level, CheckpointingLevel::Block | CheckpointingLevel::Auto) {
        ladder.push(Change::GradientCheckpointing);
    }
    let batching = recipe.batching;
    let step = (batching.micro_batch * batching.accumulation) as u64;
    let mut rows = batching.micro_batch as u64 / 2;
    while rows >= 1 {
        ladder.push(Change::MicroBatch { rows, accumulation: step / rows });
        rows /= 2;
    }
    match recipe.optim.name {
        OptimName::AdamwTorch | OptimName::AdamwAnyprecision | OptimName::PagedAdamw32bit => {
            ladder.push(Change::Optimizer(OptimName::Adamw8bit));
            ladder.push(Change::Optimizer(OptimName::PagedAdamw8bit));
        }
        OptimName::Adamw8bit => ladder.push(Change::Optimizer(OptimName::PagedAdamw8bit)),
        OptimName::Lion32bit => ladder.push(Change::Optimizer(OptimName::Lion8bit)),
        _ => {}
    }
    let packed = match sizer {
        Sizer::Fleetune { model, .. } => model.stored.is_some(),
        Sizer::Torch { setting, .. } => setting.gptq,
    };
    let adapter = recipe.method.makes_adapter();
    if !adapter && matches!(sizer, Sizer::Fleetune { .. }) && !recipe.optim.in_backward {
        ladder.push(Change::OptimizerInBackward);
    }
    if adapter && !packed && !matches!(recipe.quantization, Quantization::FourBit(_)) {
        ladder.push(Change::FourBit);
    }
    if recipe.data.max_length as u64 > LENGTH_STEP {
        ladder.push(Change::Length(LENGTH_STEP));
    }
    ladder
}
