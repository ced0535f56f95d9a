//! What an owner asks for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use fleetune_shared::ByteSize;
use thiserror::Error;

use super::Hours;

/// When a card is lent, who comes first, and how fast it is given back.
#[derive(Clone, Debug)]
pub struct OwnerPolicy {
    /// When the card is lent; always where absent.
    pub hours: Option<Hours>,
    /// What gives the owner away.
    pub signs: Signs,
    /// The card opens again once there was no sign of its owner for so long.
    pub idle_after: Duration,
    /// How long jobs may take to write a checkpoint and leave.
    pub yield_within: Duration,
    /// The card closes above so many °C; where the driver throttles it if absent.
    pub celsius_max: Option<u32>,
}

impl Default for OwnerPolicy {
    fn default() -> Self {
        Self {
            hours: None,
            signs: Signs::default(),
            idle_after: Duration::from_secs(600),
            yield_within: Duration::from_secs(20),
            celsius_max: None,
        }
    }
}

/// What gives an owner away: `programs:512MiB,load:25%,input`, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// Other programs that hold more than this on the card.
    pub programs: Option<ByteSize>,
    /// The card computing for others for more than so many percent of the time.
    pub load: Option<u32>,
    /// Keyboards, mice and terminals of this machine.
    pub input: bool,
}

impl Signs {
    const PROGRAMS: ByteSize = ByteSize(512 << 20);
    const LOAD: u32 = 25;
    /// Nothing gives the owner away.
    pub const OFF: Self = Self { programs: None, load: None, input: false };
}

impl Default for Signs {
    fn default() -> Self {
        Self { programs: Some(Self::PROGRAMS), load: Some(Self::LOAD), input: false }
    }
}

/// A sign nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no sign of an owner; expected off, or some of programs:512MiB,load:25%,input")]
pub struct SignsError(String);

impl FromStr for Signs {
    type Err = SignsError;
    fn from_str(text: &str) -> Result<Self, SignsError> {
        if text.trim() == "off" {
            return Ok(Self::OFF);
        }
        let mut signs = Self::OFF;
        for part in text.split(',').map(str::trim) {
            let wrong = || SignsError(part.to_owned());
            let (sign, value) = match part.split_once(':') {
                Some((sign, value)) => (sign, Some(value)),
                None => (part, None),
            };
            match (sign, value) {
                ("programs", None) => signs.programs = Some(Self::PROGRAMS),
                ("programs", Some(size)) => {
                    signs.programs = Some(size.parse().map_err(|_| wrong())?);
                }
                ("load", None) => signs.load = Some(Self::LOAD),
                ("load", Some(percent)) => {
                    let number = percent.trim_end_matches('%').parse().map_err(|_| wrong())?;
                    signs.load = Some(number).filter(|percent| *percent < 100);
                    signs.load.ok_or_else(wrong)?;
                }
                ("input", None) => signs.input = true,
                _ => return Err(wrong()),
            }
        }
        Ok(signs)
    }
}

impl fmt::Display for Signs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let programs = self.programs.map(|ByteSize(bytes)| format!("programs:{}MiB", bytes >> 20));
        let load = self.load.map(|percent| format!("load:{percent}%"));
        let input = self.input.then(|| "input".to_owned());
        let signs: Vec<String> = [programs, load, input].into_iter().flatten().collect();
        f.write_str(if signs.is_empty() { "off" } else { "" })?;
        f.write_str(&signs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_read_as_they_are_written() {
        for text in ["off", "programs:512MiB,load:25%", "programs:2048MiB", "load:5%,input"] {
            assert_eq!(text.parse::<Signs>().unwrap().to_string(), text);
        }
        assert_eq!("programs,load".parse::<Signs>().unwrap(), Signs::default());
        assert_eq!(
            "programs:2GiB, load:5".parse::<Signs>().unwrap().to_string(),
            "programs:2048MiB,load:5%"
        );
        for text in ["", "off,input", "load:100%", "load:x", "programs:many", "input:2", "cat"] {
            assert!(text.parse::<Signs>().is_err(), "{text}");
        }
    }
}
