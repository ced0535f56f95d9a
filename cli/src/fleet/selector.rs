//! Which jobs: `7`, `3-5`, `last`.

use std::str::FromStr;

use fleetune_proto::Client;
use fleetune_shared::JobId;

use crate::Failure;

/// How a user names jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    /// The job submitted last.
    Last,
    /// From one to another, both included.
    Range(u64, u64),
}

impl FromStr for Selector {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "last" {
            return Ok(Self::Last);
        }
        let bad = || {
            format!(
                "`{text}` names no job, expected a number such as 7, a range such as 3-5, or last"
            )
        };
        let number = |digits: &str| match digits.parse::<u64>() {
            Ok(n) if n > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ => Err(bad()),
        };
        let (from, to) = match text.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(text)?, number(text)?),
        };
        if from > to {
            return Err(format!("`{text}` is empty, did you mean {to}-{from}?"));
        }
        if to - from >= 10_000 {
            return Err(format!("`{text}` has more than 10000 jobs"));
        }
        Ok(Self::Range(from, to))
    }
}

impl Selector {
    /// The jobs, by number. A single number need not exist; of a range, those that do.
    pub(crate) async fn resolve(self, client: &Client) -> Result<Vec<JobId>, Failure> {
        match self {
            Self::Range(from, to) if from == to => Ok(vec![JobId(from)]),
            Self::Range(from, to) => {
                let jobs = client.overview().await?.jobs;
                let found: Vec<JobId> =
                    jobs.iter().map(|j| j.id).filter(|id| (from..=to).contains(&id.0)).collect();
                if found.is_empty() {
                    let message = format!("no job from {from} to {to}");
                    return Err(
                        Failure::new("not_found", message).hint("`fleetune jobs --all` lists them")
                    );
                }
                Ok(found)
            }
            Self::Last => {
                let jobs = client.overview().await?.jobs;
                jobs.iter().map(|j| j.id).max().map(|id| vec![id]).ok_or_else(|| {
                    Failure::new("not_found", "there is no last job, nothing was submitted yet")
                        .hint("`fleetune submit RECIPE` sends one")
                })
            }
        }
    }

    /// One job.
    pub(crate) async fn resolve_one(self, client: &Client) -> Result<JobId, Failure> {
        let jobs = self.resolve(client).await?;
        match jobs.as_slice() {
            [one] => Ok(*one),
            several => {
                let message = format!("{} jobs were named, expected one", several.len());
                Err(Failure::usage(&message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_by_number_range_or_as_the_last() {
        assert_eq!("7".parse(), Ok(Selector::Range(7, 7)));
        assert_eq!("3-5".parse(), Ok(Selector::Range(3, 5)));
        assert_eq!("last".parse(), Ok(Selector::Last));
    }

    #[test]
    fn anything_else_is_refused_with_what_would_do() {
        for bad in ["", "x", "-3", "3-", "0", "+7", "1-2-3", "99999999999999999999", "1-99999"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
        assert_eq!("5-3".parse::<Selector>().unwrap_err(), "`5-3` is empty, did you mean 3-5?");
    }
}
