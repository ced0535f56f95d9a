//! Data sets of the Hugging Face hub, fetched once and kept in the user's cache folder.
//!
//! ```text
//!   GET /api/datasets/ORG/NAME/revision/main   what there is: commit, files, splits as the card declares them
//!   GET /datasets/ORG/NAME/resolve/COMMIT/FILE one file
//! ```
//!
//! The endpoint is `HF_ENDPOINT` or the hub itself; `HF_TOKEN` opens what is not public, and is sent to the endpoint
//! only, never to where a download is redirected.

mod card;
mod fetch;

use std::path::PathBuf;
use std::time::Duration;

use crate::Failure;
use card::Repository;

const ENDPOINT: &str = "https://huggingface.co";
/// A listing larger than this is none.
const LISTING_BYTES_MAX: u64 = 64 << 20;

/// Where fleetune keeps what can be made or fetched again, if the user has a place for such things.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let set = |key| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".cache"));
    set("XDG_CACHE_HOME").or_else(home).map(|base| base.join("fleetune"))
}

/// Whether a name can be that of a data set on the hub: `ORG/NAME`.
pub(crate) fn is_id(name: &str) -> bool {
    let plain = |part: &str| {
        (1..=96).contains(&part.len())
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name))
        && !fleetune_engine::data::holds_rows(name)
}

/// A hub, and where its files are kept here.
#[derive(Debug)]
pub(crate) struct Hub {
    endpoint: String,
    token: Option<String>,
    agent: ureq::Agent,
    folder: PathBuf,
}

impl Hub {
    /// The hub that the environment names.
    pub(crate) fn from_environment() -> Result<Self, Failure> {
        let set = |key| std::env::var(key).ok().filter(|value| !value.trim().is_empty());
        let folder = cache_folder().ok_or_else(|| {
            Failure::new("io", "neither XDG_CACHE_HOME nor HOME is set").hint("set XDG_CACHE_HOME")
        })?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Self::new(&endpoint, set("HF_TOKEN"), folder.join("hub")))
    }

    pub(crate) fn new(endpoint: &str, token: Option<String>, folder: PathBuf) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .user_agent(concat!("fleetune/", env!("CARGO_PKG_VERSION")))
            .build();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { endpoint, token, agent: config.into(), folder }
    }

    /// The files of a data set's split, in the order of their names.
    pub(crate) fn data_set(
        &self,
        id: &str,
        config: Option<&str>,
        split: &str,
    ) -> Result<Vec<PathBuf>, Failure> {
        let repository = self.repository(id)?;
        let names = repository.files_of(config, split).map_err(|why| {
            Failure::new("hub", format!("{id}: {why}"))
                .hint("name them as `dataset_config` and `dataset_split`")
        })?;
        names.iter().map(|name| self.file(id, &repository.sha, name)).collect()
    }

    fn repository(&self, id: &str) -> Result<Repository, Failure> {
        let url = format!("{}/api/datasets/{id}/revision/main", self.endpoint);
        let mut response = self.get(&url, id, 0)?;
        let text = response.body_mut().with_config().limit(LISTING_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| unreachable_hub(&url, &error))?;
        Repository::read(&text).map_err(|why| {
            Failure::new("hub", format!("{url}: {why}"))
                .hint("is HF_ENDPOINT the address of a hub?")
        })
    }

    /// Asks for `url`, from byte `from` on.
    fn get(
        &self,
        url: &str,
        id: &str,
        from: u64,
    ) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.trim()));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| unreachable_hub(url, &error))?;
        let status = response.status().as_u16();
        let failure = match status {
            200 | 206 => return Ok(response),
            401 | 403 if self.token.is_none() => {
                return Err(Failure::new("hub", format!("{id}: the hub answers {status}"))
                    .hint("there is no such data set, or it is not public: set HF_TOKEN"));
            }
            401 | 403 => format!("{id}: the hub answers {status}; HF_TOKEN does not open it"),
            404 => format!("{id}: neither a path here nor a data set on {}", self.endpoint),
            _ => format!("{url}: the hub answers {status}"),
        };
        let hint =
            "`dataset_name` is relative to the recipe's folder, or a hub id such as org/name";
        Err(Failure::new("hub", failure).hint(hint))
    }
}

fn unreachable_hub(url: &str, error: &ureq::Error) -> Failure {
    Failure::new("hub", format!("{url}: {error}"))
        .hint("is there a network? a folder with the files does without one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_two_plain_parts_and_is_no_file() {
        for id in ["tatsu-lab/alpaca", "HuggingFaceH4/ultrachat_200k", "a/b.c"] {
            assert!(is_id(id), "{id}");
        }
        for path in [
            "alpaca",
            "a/b/c",
            "data/rows.jsonl",
            "../rows",
            "./rows",
            "a/",
            "data/x.csv.gz",
            "a b/c",
        ] {
            assert!(!is_id(path), "{path}");
        }
    }
}
