//! What the hub says about a data set: its commit, its files, and which of them its card gives to which split.

use fleetune_engine::data::{holds_rows, of_split};
use serde_json::Value;

/// A data set at one commit.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) sha: String,
    files: Vec<String>,
    /// `configs` of the card, as written.
    configs: Vec<Value>,
}

impl Repository {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("no JSON: {e}"))?;
        let sha = value["sha"].as_str().unwrap_or_default();
        if sha.len() != 40 || !sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err("the answer names no commit".into());
        }
        let siblings = value["siblings"].as_array().ok_or("the answer lists no files")?;
        let names = siblings.iter().filter_map(|file| file["rfilename"].as_str());
        // A name becomes a path here; one that could lead elsewhere is not fetched.
        let files = names.filter(|name| is_plain(name)).map(str::to_owned).collect();
        let configs = value["cardData"]["configs"].as_array().cloned().unwrap_or_default();
        Ok(Self { sha: sha.to_owned(), files, configs })
    }

    /// The files of a split: as the card says, or else as their names do.
    pub(super) fn files_of(
        &self,
        config: Option<&str>,
        split: &str,
    ) -> Result<Vec<String>, String> {
        let names: Vec<&str> =
            self.configs.iter().filter_map(|c| c["config_name"].as_str()).collect();
        let declared = self.configs.iter().filter(|c| c["data_files"] != Value::Null);
        let chosen = match config {
            Some(config) => self.configs.iter().find(|c| c["config_name"] == config),
            None => declared
                .clone()
                .find(|c| c["default"] == true || c["config_name"] == "default")
                .or_else(|| declared.clone().next().filter(|_| declared.clone().count() == 1)),
        };
        let found = match chosen {
            Some(chosen) if chosen["data_files"] != Value::Null => {
                self.matching(&patterns(&chosen["data_files"], split))
            }
            None if config.is_none() && names.len() > 1 => {
                return Err(format!("it has several configurations: {}", names.join(", ")));
            }
            _ => of_split(&self.files, config, split),
        };
        if found.is_empty() {
            let config = config.map(|config| format!(" of `{config}`")).unwrap_or_default();
            return Err(format!("no JSON, CSV or Parquet file for the split `{split}`{config}"));
        }
        Ok(found)
    }

    fn matching(&self, patterns: &[String]) -> Vec<String> {
        let patterns: Vec<_> = patterns.iter().filter_map(|p| glob::Pattern::new(p).ok()).collect();
        let matches = |name: &&String| {
            holds_rows(name) && patterns.iter().any(|pattern| pattern.matches(name))
        };
        let mut found: Vec<String> = self.files.iter().filter(matches).cloned().collect();
        found.sort();
        found
    }
}

/// `data_files` is one pattern or a list of them, all of them training data, or a list of splits and their patterns.
fn patterns(data_files: &Value, split: &str) -> Vec<String> {
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let Some(items) = data_files.as_array() else {
        return if split == "train" { texts(data_files) } else { Vec::new() };
    };
    let mut found = Vec::new();
    for item in items {
        if item["split"] == split {
            found.extend(texts(&item["path"]));
        } else if item.is_string() && split == "train" {
            found.extend(texts(item));
        }
    }
    found
}

fn is_plain(name: &str) -> bool {
    name.len() <= 1024
        && !name.chars().any(|c| c.is_control() || c == '\\')
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn repository(card: Value) -> Repository {
        let files = [
            "README.md",
            "a/train.jsonl",
            "a/held.jsonl",
            "b/train.jsonl",
            "../../evil.jsonl",
            "/etc/x.json",
        ];
        let siblings: Vec<Value> = files.iter().map(|name| json!({"rfilename": name})).collect();
        let text = json!({"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": siblings, "cardData": card});
        Repository::read(&text.to_string()).unwrap()
    }

    #[test]
    fn the_card_says_which_files_are_whose() {
        let card = json!({"configs": [
            {"config_name": "a", "data_files": [
                {"split": "train", "path": "a/train*"}, {"split": "test", "path": ["a/held.jsonl"]},
            ]},
            {"config_name": "b", "data_files": "b/*"},
        ]});
        let repository = repository(card);
        let files = |config, split| repository.files_of(config, split);
        assert_eq!(files(Some("a"), "train").unwrap(), ["a/train.jsonl"]);
        assert_eq!(files(Some("a"), "test").unwrap(), ["a/held.jsonl"]);
        assert_eq!(files(Some("b"), "train").unwrap(), ["b/train.jsonl"]);
        assert!(files(Some("b"), "test").unwrap_err().contains("for the split `test` of `b`"));
        assert_eq!(files(None, "train").unwrap_err(), "it has several configurations: a, b");
    }

    #[test]
    fn without_a_card_names_say_it_and_none_leads_elsewhere() {
        let repository = repository(Value::Null);
        assert_eq!(repository.files_of(None, "train").unwrap(), ["a/train.jsonl", "b/train.jsonl"]);
        assert_eq!(repository.files_of(Some("b"), "train").unwrap(), ["b/train.jsonl"]);
        assert!(Repository::read("<html>").unwrap_err().starts_with("no JSON"));
        assert_eq!(Repository::read("{}").unwrap_err(), "the answer names no commit");
    }
}
