//! What an estimate leaves of a card.

use serde::{Deserialize, Serialize};

use super::Bounded;
use crate::Card;

/// How well a job fits a card that is otherwise empty. What a card of a fleet answers is [`Verdict`](crate::view::Verdict).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Headroom {
    /// The most it is thought to need fits, and 5 % of the card stay free.
    Comfortable,
    /// The likeliest fits what placement lends, and that is all that can be said.
    Tight,
    /// It does not fit.
    No,
}

/// A card's part that stays free beside the most a comfortable job is thought to need.
const FREE: u64 = 20;

impl Headroom {
    /// Of a job on a card. [`Headroom::No`] exactly where placement would not have it: [`Card::usable`] decides.
    #[must_use]
    pub fn of(need: &Bounded, card: &Card) -> Self {
        let total = card.vram_bytes_total.0;
        if need.total() > card.usable() {
            Self::No
        } else if need.high.0 <= total - total / FREE {
            Self::Comfortable
        } else {
            Self::Tight
        }
    }

    /// In words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Comfortable => "comfortable",
            Self::Tight => "tight",
            Self::No => "no",
        }
    }
}
