//! What a job asks of a card beside memory. Written in the recipe, checked by placement, named by explanations.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Offer;

/// What a card and its agent must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirements {
    /// The least `(major, minor)`; a card that does not tell has none.
    pub min_compute_capability: Option<(u32, u32)>,
    /// Part of the card's name, in either case.
    pub card: Option<String>,
    /// Labels that the agent must carry, all of them.
    pub labels: BTreeSet<String>,
    /// Never on a card that holds another job with this word.
    pub anti_affinity: Option<String>,
}

impl Requirements {
    /// What an offer lacks for good, in words; what jobs on the card change is not looked at.
    #[must_use]
    pub fn unmet(&self, offer: &Offer) -> Option<String> {
        if let Some((major, minor)) = self.min_compute_capability {
            match offer.card.compute_capability {
                Some(found) if found >= (major, minor) => {}
                Some((a, b)) => {
                    return Some(format!(
                        "has compute capability {a}.{b}, the job asks for {major}.{minor} or more"
                    ));
                }
                None => {
                    return Some(format!(
                        "tells no compute capability, the job asks for {major}.{minor} or more"
                    ));
                }
            }
        }
        if let Some(word) = &self.card {
            let name = offer.card.name.to_lowercase();
            if !name.contains(&word.to_lowercase()) {
                return Some(format!("is a {}, the job asks for `{word}`", offer.card.name));
            }
        }
        let missing: Vec<_> = self.labels.difference(&offer.labels).cloned().collect();
        (!missing.is_empty()).then(|| format!("lacks the label {}", missing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ByteSize, Card, Device};

    fn offer() -> Offer {
        Offer {
            labels: ["office".to_owned(), "nvme".to_owned()].into(),
            ..Offer::of(Card {
                name: "NVIDIA RTX 4000 Ada".into(),
                vram_bytes_total: ByteSize(20 << 30),
                compute_capability: Some((8, 9)),
                device: Device::Cuda,
            })
        }
    }

    #[test]
    fn what_a_card_lacks_is_said_in_words() {
        let ask = Requirements::default();
        assert_eq!(ask.unmet(&offer()), None);
        let newer = Requirements { min_compute_capability: Some((9, 0)), ..ask.clone() };
        assert!(newer.unmet(&offer()).unwrap().contains("has compute capability 8.9"));
        let same = Requirements { min_compute_capability: Some((8, 9)), ..ask.clone() };
        assert_eq!(same.unmet(&offer()), None);
        let other = Requirements { card: Some("rtx 3080".into()), ..ask.clone() };
        assert!(other.unmet(&offer()).unwrap().contains("the job asks for `rtx 3080`"));
        let named = Requirements { card: Some("rtx 4000".into()), ..ask.clone() };
        assert_eq!(named.unmet(&offer()), None);
        let labels = ["nvme".to_owned(), "night".to_owned()].into();
        let night = Requirements { labels, ..ask };
        assert_eq!(night.unmet(&offer()).unwrap(), "lacks the label night");
    }

    #[test]
    fn a_card_that_tells_no_capability_has_none() {
        let mut silent = offer();
        silent.card.compute_capability = None;
        let ask = Requirements { min_compute_capability: Some((7, 0)), ..Default::default() };
        assert!(ask.unmet(&silent).unwrap().contains("tells no compute capability"));
    }
}
