//! A recipe held against a card: what it leaves, what else would fit, and what would make it fit.

use serde::{Deserialize, Serialize};

use super::{Bounded, Change, Headroom, Sizer, changes_to_fit, longest_length, most_rows};
use crate::{Card, Recipe};

/// What a card makes of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The card, with nothing else on it.
    pub card: Card,
    /// Whether the recipe fits as it is.
    pub headroom: Headroom,
    /// Longest rows that fit, in tokens, all else as it is.
    pub length: Option<u64>,
    /// Most rows at a time that fit, all else as it is.
    pub rows: Option<u64>,
    /// Where it does not fit: the cheapest changes after which it does, if there are any.
    pub changes: Option<Vec<Change>>,
}

impl Fit {
    /// Of a prepared recipe and its size.
    #[must_use]
    pub fn of(sizer: &Sizer, recipe: &Recipe, need: &Bounded, card: Card) -> Self {
        let headroom = Headroom::of(need, &card);
        let room = card.usable();
        Self {
            headroom,
            length: longest_length(sizer, recipe, room),
            rows: most_rows(sizer, recipe, room),
            changes: match headroom {
                Headroom::No => {
                    changes_to_fit(sizer, recipe, room, &|recipe| sizer.size(recipe).total())
                }
                Headroom::Comfortable | Headroom::Tight => None,
            },
            card,
        }
    }
}
