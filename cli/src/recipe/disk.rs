//! The recipe's text and the folder that its paths are relative to.

use std::path::{Path, PathBuf};

use fleetune_shared::Recipe;
use fleetune_shared::recipe::RecipeFile;

use crate::Failure;

/// A recipe that was read, and where it was read from.
#[derive(Debug)]
pub(crate) struct RecipeOnDisk {
    folder: PathBuf,
    pub(crate) file: RecipeFile,
}

impl RecipeOnDisk {
    /// Reads a recipe; one without a name gets its file's.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => {
                Failure::new("recipe", format!("{}: is not UTF-8 text", path.display()))
            }
            _ => Failure::io(path, &error),
        })?;
        let mut file = RecipeFile::read(&text).map_err(|error| located(path, error.into()))?;
        if file.name.is_none() {
            file.name = path.file_stem().map(|stem| {
                stem.to_string_lossy().chars().filter(|c| !c.is_control()).take(100).collect()
            });
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { folder, file })
    }

    /// A recipe that was made here; its paths are relative to the current folder.
    pub(crate) fn here(file: RecipeFile) -> Self {
        Self { folder: PathBuf::new(), file }
    }

    /// The whole recipe, without its sweep.
    pub(crate) fn recipe(&self) -> Result<Recipe, Failure> {
        Ok(Recipe::try_from(RecipeFile { sweep: None, ..self.file.clone() })?)
    }

    /// A path of the recipe, as the operating system finds it.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

/// Puts the file's own name in front.
fn located(path: &Path, failure: Failure) -> Failure {
    match failure {
        Failure::Error(mut report) => {
            let rest = report.message.strip_prefix("recipe").unwrap_or(&report.message);
            report.message = format!("{}{rest}", path.display());
            Failure::Error(report)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    const MINIMAL: &str = "model_name_or_path: base\ndataset_name: rows.jsonl\n";

    #[test]
    fn paths_are_relative_to_the_recipe_and_its_name_is_the_files() {
        let (folder, path) = written("tone.yaml", MINIMAL);
        let recipe = RecipeOnDisk::read(&path).unwrap();
        assert_eq!(recipe.recipe().unwrap().name, "tone");
        assert_eq!(recipe.resolve("base"), folder.path().join("base"));
        assert_eq!(recipe.resolve("/models/base"), Path::new("/models/base"));
    }

    #[test]
    fn a_mistake_is_told_with_the_files_name() {
        let (_folder, path) = written("tone.yaml", &format!("{MINIMAL}max_stepz: 3"));
        let Failure::Error(report) = RecipeOnDisk::read(&path).unwrap_err() else { panic!() };
        let expected =
            format!("{}: unknown key `max_stepz`, did you mean `max_steps`?", path.display());
        assert_eq!(report.message, expected);
    }
}
