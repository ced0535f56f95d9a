//! Cards, offers, and what cards are doing.

use fleetune_shared::{ByteSize, Card, Device, Offer, Source, Telemetry, Throttle};

use super::artifact::hashes;
use super::overview::agent_name;
use super::{ConvertError, enumeration, optional, required, text};
use crate::v1;

super::convert_enum!(Device, Device, Cpu, Cuda);
super::convert_enum!(Throttle, Throttle, Power, Heat, PowerBrake, Clocks);

impl From<Card> for v1::Card {
    fn from(card: Card) -> Self {
        Self {
            name: card.name,
            vram_bytes_total: card.vram_bytes_total.0,
            compute_major: card.compute_capability.map(|c| c.0),
            compute_minor: card.compute_capability.map(|c| c.1),
            device: v1::Device::from(card.device).into(),
        }
    }
}

impl TryFrom<v1::Card> for Card {
    type Error = ConvertError;
    fn try_from(card: v1::Card) -> Result<Self, ConvertError> {
        Ok(Self {
            name: text("name", card.name)?,
            vram_bytes_total: ByteSize(card.vram_bytes_total),
            compute_capability: card.compute_major.zip(card.compute_minor),
            device: enumeration::<v1::Device, _>("device", card.device)?,
        })
    }
}

impl From<Offer> for v1::Offer {
    fn from(offer: Offer) -> Self {
        Self {
            card: Some(offer.card.into()),
            vram_bytes_foreign: offer.vram_bytes_foreign.0,
            max_jobs_per_card: offer.max_jobs_per_card,
            labels: offer.labels.into_iter().collect(),
            blobs_cached: offer.blobs_cached.into_iter().map(|blob| blob.0.to_vec()).collect(),
            availability: Some(offer.availability.into()),
            share: offer.share,
        }
    }
}

impl TryFrom<v1::Offer> for Offer {
    type Error = ConvertError;
    fn try_from(offer: v1::Offer) -> Result<Self, ConvertError> {
        Ok(Self {
            card: required("card", offer.card)?,
            vram_bytes_foreign: ByteSize(offer.vram_bytes_foreign),
            max_jobs_per_card: offer.max_jobs_per_card,
            labels: offer
                .labels
                .into_iter()
                .map(|label| text("labels", label))
                .collect::<Result<_, _>>()?,
            blobs_cached: hashes("blobs_cached", &offer.blobs_cached)?.into_iter().collect(),
            share: offer.share.map(|address| text("share", address)).transpose()?,
            availability: optional("availability", offer.availability)?.unwrap_or_default(),
        })
    }
}

impl From<Source> for v1::Source {
    fn from(source: Source) -> Self {
        let Source { agent, address, blobs } = source;
        let blobs = blobs.iter().map(|blob| blob.0.to_vec()).collect();
        Self { agent: agent.to_string(), address, blobs }
    }
}

impl TryFrom<v1::Source> for Source {
    type Error = ConvertError;
    fn try_from(source: v1::Source) -> Result<Self, ConvertError> {
        let v1::Source { agent, address, blobs } = source;
        Ok(Self {
            agent: agent_name("agent", agent)?,
            address: text("address", address)?,
            blobs: hashes("blobs", &blobs)?.into_iter().collect(),
        })
    }
}

impl From<Telemetry> for v1::Telemetry {
    fn from(telemetry: Telemetry) -> Self {
        let Telemetry { utilization_percent, celsius, milliwatts, throttled } = telemetry;
        let throttled = throttled.into_iter().map(|why| v1::Throttle::from(why).into()).collect();
        Self { utilization_percent, celsius, milliwatts, throttled }
    }
}

impl TryFrom<v1::Telemetry> for Telemetry {
    type Error = ConvertError;
    fn try_from(telemetry: v1::Telemetry) -> Result<Self, ConvertError> {
        let v1::Telemetry { utilization_percent, celsius, milliwatts, throttled } = telemetry;
        // Reasons that only a newer agent knows are left out.
        let known = |number| enumeration::<v1::Throttle, _>("throttled", number).ok();
        let throttled = throttled.into_iter().filter_map(known).collect();
        Ok(Self { utilization_percent, celsius, milliwatts, throttled })
    }
}
