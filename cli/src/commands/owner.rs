//! Who comes first on a lent card: options of `fleetune agent` and `fleetune up`.

use std::time::Duration;

use clap::Args;
use fleetune_agent::OwnerPolicy;
use fleetune_agent::owner::{Hours, Signs};
use jiff::SignedDuration;

/// Who comes first on a lent card.
#[derive(Debug, Args)]
#[command(next_help_heading = "The owner comes first")]
pub(crate) struct OwnerArgs {
    /// When the card is lent, by this machine's clock: "Mon-Fri 19:00-08:00, Sat-Sun"; always where absent
    #[arg(long, value_name = "HOURS")]
    available: Option<Hours>,
    /// What gives the card's owner away: other programs' memory on it, others' load, keyboard and mouse (input); or off
    #[arg(long, value_name = "SIGNS", default_value_t = Signs::default())]
    owner_first: Signs,
    /// The card opens again once its owner was away for so long, such as 10m
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time)]
    idle_after: Duration,
    /// How long jobs may take to write a checkpoint and leave when the owner returns, such as 20s
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = time)]
    yield_within: Duration,
    /// The card closes above so many °C; where its driver slows it down if absent
    #[arg(long, value_name = "CELSIUS")]
    max_temperature: Option<u32>,
}

impl OwnerArgs {
    pub(crate) fn policy(&self) -> OwnerPolicy {
        OwnerPolicy {
            hours: self.available.clone(),
            signs: self.owner_first,
            idle_after: self.idle_after,
            yield_within: self.yield_within,
            celsius_max: self.max_temperature,
        }
    }
}

/// `20s`, `10m`, `1h 30m`.
fn time(text: &str) -> Result<Duration, String> {
    let time: Option<SignedDuration> = text.parse().ok();
    time.and_then(|time| Duration::try_from(time).ok())
        .ok_or_else(|| "expected a time such as 20s, 10m or 1h 30m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(time("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(time("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        for text in ["20", "-1s", "soon"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
