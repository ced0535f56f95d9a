//! Every recipe in the pages on methods runs: on a tiny model in place of the one it names, for two steps.

use std::fs;
use std::path::Path;

use fleetune_tests::{Sandbox, fixture};

/// The page's recipe: its block of YAML that names a model.
fn recipe(page: &str) -> Option<&str> {
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.into_iter().find(|block| block.contains("model_name_or_path"))
}

/// The recipe on a tiny model, with absolute paths.
fn shortened(recipe: &str, root: &Path) -> String {
    let lines = recipe.lines().map(|line| {
        if line.starts_with("model_name_or_path:") {
            return format!("model_name_or_path: {}", fixture("models/tiny-llama").display());
        }
        match line.strip_prefix("dataset_name: ") {
            Some(path) => format!("dataset_name: {}", root.join(path).display()),
            None => line.to_owned(),
        }
    });
    let kept = lines.filter(|line| !line.starts_with("num_train_epochs"));
    kept.chain(["max_steps: 2".into(), "over_length: truncate".into()])
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn every_recipe_of_a_page_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_fleetune-under-test"));
    let mut failed = Vec::new();
    let mut ran = 0;
    for entry in fs::read_dir(root.join("docs/methods")).expect("pages") {
        let path = entry.expect("a page").path();
        let page = fs::read_to_string(&path).expect("text");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let Some(recipe) = recipe(&page) else { continue };
        let file = sandbox.folder().join(format!("{name}.yaml"));
        fs::write(&file, shortened(recipe, &root)).expect("a recipe");
        let out = sandbox.folder().join(&name);
        let output =
            sandbox.cli(&["train", &file.to_string_lossy(), "--out", &out.to_string_lossy()]);
        ran += 1;
        if !output.status.success() || !out.join("report.json").is_file() {
            failed.push(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(ran >= 10, "{ran} pages have a recipe");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_key_tables_name_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/recipes.md")).expect("text");
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_fleetune-under-test"));
    let schema = sandbox.cli(&["schema"]).stdout;
    let schema: serde_json::Value = serde_json::from_slice(&schema).expect("a schema");
    let keys = schema["properties"].as_object().expect("properties").keys();
    let missing: Vec<_> = keys.filter(|key| !page.contains(&format!("| `{key}` |"))).collect();
    assert!(missing.is_empty(), "run scripts/document-recipe: {missing:?}");
}
