//! What a run keeps of each block from the forward to the backward pass, so that it stays within a budget.
//!
//! ```text
//!   top     ▓▓▓▓▓▓  everything          a backward pass begins here and frees as it goes down,
//!           ▒▒▒▒▒▒  all but gate, up    so what is made again below finds the room of what was kept above
//!   bottom  ░░░░░░  the input only
//! ```
//!
//! Gate and up are the widest of what a block keeps and cost one product to make again; everything else costs the whole
//! block. So they are let go first, of as many blocks as it takes, and only then the rest. No plan changes a bit of the
//! result in f32.

use std::fmt::{self, Display};

use crate::recipe::CheckpointingLevel;
use crate::{ByteSize, Device, Estimate, ModelSpec, Recipe};

/// What one block keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Everything that costs a product.
    Everything,
    /// All but gate and up.
    AllButGates,
    /// What it was given (arXiv 1604.06174).
    Input,
}

/// What the blocks keep, counted from the top: the rest keeps its input. The default keeps everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// So many blocks keep everything.
    pub everything: usize,
    /// So many below them keep all but gate and up.
    pub all_but_gates: usize,
}

impl Default for MemoryPlan {
    fn default() -> Self {
        Self { everything: usize::MAX, all_but_gates: 0 }
    }
}

impl MemoryPlan {
    /// The same for every block. `auto` stands for the least there is, which is what it asks for at least.
    #[must_use]
    pub fn uniform(level: CheckpointingLevel) -> Self {
        match level {
            CheckpointingLevel::None => Self::default(),
            CheckpointingLevel::Selective => Self { everything: 0, all_but_gates: usize::MAX },
            CheckpointingLevel::Block | CheckpointingLevel::Auto => {
                Self { everything: 0, all_but_gates: 0 }
            }
        }
    }

    /// What `recipe` asks for; where that is `auto`, the plan that keeps most among those whose estimate stays within
    /// `budget`, or the least where none does. Without a budget everything is kept.
    #[must_use]
    pub fn within(
        model: &ModelSpec,
        recipe: &Recipe,
        device: Device,
        budget: Option<ByteSize>,
    ) -> Self {
        let level = recipe.gradient_checkpointing;
        if level != CheckpointingLevel::Auto {
            return Self::uniform(level);
        }
        let Some(budget) = budget else { return Self::default() };
        let blocks = model.num_hidden_layers;
        let gates = (1..=blocks)
            .rev()
            .map(|everything| Self { everything, all_but_gates: blocks - everything });
        let rest = (1..=blocks).rev().map(|all_but_gates| Self { everything: 0, all_but_gates });
        let fits = |plan: &Self| Estimate::of_plan(model, recipe, device, plan).total() <= budget;
        let least = Self::uniform(CheckpointingLevel::Block);
        gates.chain(rest).find(fits).unwrap_or(least)
    }

    /// What block `index` of `blocks` keeps.
    #[must_use]
    pub fn of_block(&self, index: usize, blocks: usize) -> Keeps {
        let from_top = blocks - 1 - index;
        if from_top < self.everything {
            Keeps::Everything
        } else if from_top - self.everything < self.all_but_gates {
            Keeps::AllButGates
        } else {
            Keeps::Input
        }
    }

    /// The plan in words, for a model of `blocks` blocks.
    #[must_use]
    pub fn words(&self, blocks: usize) -> impl Display {
        Words { everything: self.everything.min(blocks), plan: *self, blocks }
    }
}

struct Words {
    plan: MemoryPlan,
    everything: usize,
    blocks: usize,
}

impl Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, everything, blocks } = *self;
        let all_but_gates = plan.all_but_gates.min(blocks - everything);
        let input = blocks - everything - all_but_gates;
        let levels = [("none", everything), ("selective", all_but_gates), ("block", input)];
        let mut used = levels.into_iter().filter(|(_, count)| *count > 0);
        match (used.next(), used.next()) {
            (Some((upper, count)), Some((lower, _))) => {
                write!(f, "{upper} for the upper {count} of {blocks} blocks, {lower} for the rest")
            }
            (only, _) => f.write_str(only.map_or("none", |(name, _)| name)),
        }
    }
}

/// Labelled positions whose logits exist at the same time. In bf16 the head is laid out anew for every chunk, so chunks
/// are larger. A matter of the recipe and never of the budget: sums over positions are cut where chunks are, and a run
/// that goes on elsewhere has to cut them alike.
#[must_use]
pub const fn head_rows(bf16: bool) -> usize {
    if bf16 { 256 } else { 128 }
}

/// Tokens of a piece: as many as give products enough rows to be worth laying out a weight for them.
const PIECE_TOKENS: usize = 1024;

/// Tokens that are learned from at the same time, where one sequence alone has no more: micro-batches pass in pieces,
/// whose gradients add up, and blocks keep what one piece needs. `None` where they pass whole: on a GPU, which wants
/// all the rows it can have; where rows of a micro-batch are compared with each other; where a gradient is used up as
/// soon as it is there. As [`head_rows`] a matter of the recipe, for sums are cut where pieces are.
#[must_use]
pub fn piece_tokens(recipe: &Recipe, device: Device) -> Option<usize> {
    let whole = recipe.objective.couples_rows() || recipe.optim.in_backward;
    (device == Device::Cpu && !whole).then_some(PIECE_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(keys: &str) -> (ModelSpec, Recipe) {
        let config = r#"{"model_type":"llama","hidden_size":576,"intermediate_size":1536,"num_hidden_layers":30,
            "num_attention_heads":9,"num_key_value_heads":3,"vocab_size":49152,"max_position_embeddings":2048,
            "rms_norm_eps":1e-5,"tie_word_embeddings":true}"#;
        let text = format!("model_name_or_path: m\ndataset_name: d\nmax_length: 512\n{keys}");
        (ModelSpec::from_hf_config(config).unwrap(), Recipe::read(&text).unwrap())
    }

    fn total(model: &ModelSpec, recipe: &Recipe, plan: &MemoryPlan) -> ByteSize {
        Estimate::of_plan(model, recipe, Device::Cpu, plan).total()
    }

    #[test]
    fn a_budget_is_used_up_block_by_block() {
        for keys in
            ["", "layers_to_transform: [20, 21, 22, 23, 24, 25, 26, 27, 28, 29]", "dtype: bfloat16"]
        {
            let (model, recipe) = sized(keys);
            let within =
                |bytes| MemoryPlan::within(&model, &recipe, Device::Cpu, Some(ByteSize(bytes)));
            let least = total(&model, &recipe, &within(0)).0;
            let most = total(&model, &recipe, &MemoryPlan::default()).0;
            assert!(least < most, "{keys}");
            let mut before = least;
            for step in 0..=40 {
                let budget = least + (most - least) * step / 40;
                let held = total(&model, &recipe, &within(budget)).0;
                assert!(held <= budget && held >= before, "{keys}: {held} of {budget}");
                // What is left over is less than one block's widest part.
                assert!(budget - held < (most - least) / 10, "{keys}: {held} of {budget}");
                before = held;
            }
            assert_eq!(total(&model, &recipe, &within(most)).0, most);
        }
    }

    #[test]
    fn gates_go_before_anything_else() {
        let (model, recipe) = sized("");
        let selective = MemoryPlan::uniform(CheckpointingLevel::Selective);
        let between = |a: MemoryPlan, b: MemoryPlan| {
            let (a, b) = (total(&model, &recipe, &a), total(&model, &recipe, &b));
            let budget = ByteSize((a.0 + b.0) / 2);
            MemoryPlan::within(&model, &recipe, Device::Cpu, Some(budget))
        };
        let upper = between(MemoryPlan::default(), selective);
        assert!(upper.everything > 0 && upper.everything + upper.all_but_gates == 30, "{upper:?}");
        let lower = between(selective, MemoryPlan::uniform(CheckpointingLevel::Block));
        assert!(lower.everything == 0 && (1..30).contains(&lower.all_but_gates), "{lower:?}");
    }

    #[test]
    fn only_auto_looks_at_the_budget() {
        let (model, auto) = sized("");
        assert_eq!(auto.gradient_checkpointing, CheckpointingLevel::Auto);
        let plan = |recipe, budget| MemoryPlan::within(&model, recipe, Device::Cpu, budget);
        assert_eq!(plan(&auto, None), MemoryPlan::default());
        let (_, kept) = sized("gradient_checkpointing: false");
        assert_eq!(plan(&kept, Some(ByteSize(1))), MemoryPlan::default());
        let (_, block) = sized("gradient_checkpointing: true");
        assert_eq!(plan(&block, None), MemoryPlan::uniform(CheckpointingLevel::Block));
    }

    #[test]
    fn a_plan_is_counted_from_the_top() {
        let plan = MemoryPlan { everything: 1, all_but_gates: 2 };
        let kept: Vec<_> = (0..5).map(|index| plan.of_block(index, 5)).collect();
        use Keeps::{AllButGates, Everything, Input};
        assert_eq!(kept, [Input, Input, AllButGates, AllButGates, Everything]);
        let words = |plan: MemoryPlan| plan.words(5).to_string();
        assert_eq!(words(MemoryPlan::default()), "none");
        assert_eq!(words(MemoryPlan::uniform(CheckpointingLevel::Selective)), "selective");
        assert_eq!(words(MemoryPlan::uniform(CheckpointingLevel::Block)), "block");
        let mixed = MemoryPlan { everything: 2, all_but_gates: 3 };
        assert_eq!(words(mixed), "none for the upper 2 of 5 blocks, selective for the rest");
    }
}
