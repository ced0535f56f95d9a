//! Which files a data set consists of: a file, a folder, a pattern, or a list of a repository's files of which some
//! belong to the split that is wanted.

use std::path::{Path, PathBuf};

use crate::{EngineError, Result};

/// What a data file's name ends in, but for `.gz` and `.zst` behind it.
const ENDINGS: [&str; 6] = ["jsonl", "json", "ndjson", "csv", "tsv", "parquet"];
/// JSON that lies beside data and is none.
const OTHER_JSON: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"];
/// Words for each split, the usual one first.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Whether a file of this name holds rows.
#[must_use]
pub fn holds_rows(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let stem = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    let ending = stem.rsplit_once('.').map_or("", |(_, ending)| ending);
    ENDINGS.contains(&ending) && !OTHER_JSON.contains(&stem) && !name.starts_with('.')
}

/// Of a repository's files those of a split, the way Hugging Face's `datasets` tells them: by words in their paths.
/// Where no path says anything about splits, all of them are `train`.
#[must_use]
pub fn of_split(names: &[String], config: Option<&str>, split: &str) -> Vec<String> {
    let words = |name: &str| -> Vec<String> {
        let words = name.split(|c: char| !c.is_alphanumeric());
        words.map(str::to_ascii_lowercase).collect()
    };
    let of_config = |name: &&String| {
        config.is_none_or(|config| {
            name.split('/')
                .any(|part| part == config || words(part).contains(&config.to_ascii_lowercase()))
        })
    };
    let rows: Vec<&String> =
        names.iter().filter(|name| holds_rows(name)).filter(of_config).collect();
    let named = |split: &str| -> Vec<String> {
        let known =
            SPLITS.iter().find(|(name, synonyms)| *name == split || synonyms.contains(&split));
        let own = [split.to_ascii_lowercase()];
        let is_one = |word: &String| match known {
            Some((_, synonyms)) => synonyms.contains(&word.as_str()),
            None => own.contains(word),
        };
        let found = rows.iter().filter(|name| words(name).iter().any(is_one));
        found.map(|name| (*name).clone()).collect()
    };
    let mut found = named(split);
    let says_nothing = SPLITS.iter().all(|(split, _)| named(split).is_empty());
    if found.is_empty() && split == "train" && says_nothing {
        found = rows.into_iter().cloned().collect();
    }
    found.sort();
    found
}

/// The files behind a path: itself, what a folder holds of the split, or what a pattern with `*`, `?` or `[…]` finds;
/// always in the order of their names.
///
/// # Errors
/// Nothing there, or nothing there that holds rows.
pub fn files_of(path: &Path, config: Option<&str>, split: &str) -> Result<Vec<PathBuf>> {
    let refuse = |why: String| -> Result<Vec<PathBuf>> {
        Err(EngineError::input(format!("{}: {why}", path.display())))
    };
    if path.is_dir() {
        let mut names = Vec::new();
        walk(path, "", 0, &mut names).map_err(|e| EngineError::io(path, e))?;
        let found = of_split(&names, config, split);
        if found.is_empty() {
            let held = if names.iter().any(|name| holds_rows(name)) {
                format!(
                    "none of its files belongs to the split `{split}`; name one as `dataset_split`"
                )
            } else {
                format!(
                    "a folder without a file of rows; expected names ending in .{}",
                    ENDINGS.join(", .")
                )
            };
            return refuse(held);
        }
        return Ok(found.into_iter().map(|name| path.join(name)).collect());
    }
    let text = path.to_string_lossy();
    if path.exists() || !text.contains(['*', '?', '[']) {
        return Ok(vec![path.to_owned()]);
    }
    let found = match glob::glob(&text) {
        Ok(found) => found,
        Err(e) => return refuse(format!("no pattern: {e}")),
    };
    let mut files: Vec<PathBuf> =
        found.filter_map(|file| file.ok()).filter(|f| f.is_file()).collect();
    files.sort();
    if files.is_empty() { refuse("the pattern finds no file".into()) } else { Ok(files) }
}

/// Files below a folder, by their path inside it. Links that lead to folders are not followed.
fn walk(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if entry.file_type()?.is_dir() {
            if depth < DEPTH_MAX {
                walk(&entry.path(), &name, depth + 1, names)?;
            }
        } else if names.len() < FILES_MAX {
            names.push(name);
        }
    }
    Ok(())
}

/// No data set lies deeper, or in more files.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], config: Option<&str>, split: &str) -> Vec<String> {
        of_split(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), config, split)
    }

    #[test]
    fn splits_are_told_by_words_in_paths() {
        let hub = [
            "README.md",
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/test-00000-of-00001.parquet",
            "dataset_infos.json",
        ];
        assert_eq!(
            chosen(&hub, None, "train"),
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
        );
        assert_eq!(chosen(&hub, None, "test"), ["data/test-00000-of-00001.parquet"]);
        assert!(chosen(&hub, None, "validation").is_empty());
        let plain = ["b.jsonl.gz", "a.json", "notes.txt", ".hidden.json"];
        assert_eq!(chosen(&plain, None, "train"), ["a.json", "b.jsonl.gz"]);
        assert!(chosen(&plain, None, "test").is_empty());
        let configs = ["main/train.csv", "socratic/train.csv", "main/dev.csv"];
        assert_eq!(chosen(&configs, Some("main"), "train"), ["main/train.csv"]);
        assert_eq!(chosen(&configs, None, "validation"), ["main/dev.csv"]);
        // A word, not a part of one.
        assert_eq!(chosen(&["constraints.json", "latest.json"], None, "train").len(), 2);
    }

    #[test]
    fn a_path_can_be_a_file_a_folder_or_a_pattern() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in [
            "set/train.jsonl",
            "set/test.jsonl",
            "set/deep/train.csv",
            "set/README.md",
            "empty/notes.txt",
        ] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let files = |name: &str| -> Result<Vec<String>> {
            let strip = |path: PathBuf| path.strip_prefix(root).unwrap().display().to_string();
            Ok(files_of(&root.join(name), None, "train")?.into_iter().map(strip).collect())
        };
        assert_eq!(files("set").unwrap(), ["set/deep/train.csv", "set/train.jsonl"]);
        assert_eq!(files("set/*.jsonl").unwrap(), ["set/test.jsonl", "set/train.jsonl"]);
        assert_eq!(files("set/**/*.csv").unwrap(), ["set/deep/train.csv"]);
        assert_eq!(files("set/test.jsonl").unwrap(), ["set/test.jsonl"]);
        // What is not there is the reader's to complain about.
        assert_eq!(files("none.jsonl").unwrap(), ["none.jsonl"]);
        for (name, expected) in [
            ("empty", "a folder without a file of rows; expected names ending in .jsonl"),
            ("set/x*", "the pattern finds no file"),
            ("set/***", "no pattern"),
        ] {
            let error = files(name).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = files_of(&root.join("set"), None, "validation").unwrap_err().to_string();
        assert!(error.contains("belongs to the split `validation`"), "{error}");
    }
}
