//! A recipe held against its model: what it will need, and which files it reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fleetune_engine::model;
use fleetune_shared::recipe::RecipeFile;
use fleetune_shared::{
    ByteSize, DataFiles, Device, Estimate, InputRole, JobSpec, ModelSpec, Recipe, Sizer,
    TrainOrder, Work,
};

use super::{InputFile, RecipeOnDisk, data};
use crate::Failure;
use crate::fleet::own_user;

/// One run, ready to start here or to be submitted.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) recipe: Recipe,
    pub(crate) model: PathBuf,
    pub(crate) data: DataFiles,
    pub(crate) init_adapter: Option<PathBuf>,
    pub(crate) spec: ModelSpec,
    template: Option<PathBuf>,
}

impl Planned {
    /// Looks at the model and the data; nothing large is read.
    pub(crate) fn new(disk: &RecipeOnDisk, recipe: Recipe) -> Result<Self, Failure> {
        let model = disk.resolve(&recipe.model);
        let spec = model::spec_of(&model).map_err(|error| {
            Failure::from(error).hint("`model_name_or_path` is relative to the recipe's folder")
        })?;
        let recipe = recipe.fit_model(&spec)?;
        let data = data::files(disk, &recipe.data)?;
        let init_adapter = recipe.init_adapter.as_ref().map(|path| disk.resolve(path));
        let template = recipe.data.chat_template_path.as_ref().map(|path| disk.resolve(path));
        Ok(Self { recipe, model, data, init_adapter, spec, template })
    }

    /// What the run needs on a card that computes with `device`.
    pub(crate) fn estimate(&self, device: Device) -> Estimate {
        Estimate::of_training(&self.spec, &self.recipe, device)
    }

    /// Who says so, also of other recipes.
    pub(crate) fn sizer(&self, device: Device) -> Sizer {
        Sizer::Fleetune { model: Box::new(self.spec.clone()), device }
    }

    /// What it can make use of there: more than it needs under `gradient_checkpointing: auto`.
    pub(crate) fn useful(&self, device: Device) -> ByteSize {
        self.sizer(device).useful(&self.recipe)
    }

    /// The run as the engine takes it, on this machine.
    pub(crate) fn order(&self, out: PathBuf, device: Device) -> Result<TrainOrder, Failure> {
        let mut recipe = self.recipe.clone();
        if let Some(template) = &self.template {
            let chat_template_path = Some(template.to_string_lossy().into_owned());
            let file = RecipeFile { chat_template_path, ..recipe.file().clone() };
            recipe = Recipe::try_from(file)?.fit_model(&self.spec)?;
        }
        Ok(TrainOrder {
            recipe,
            model: self.model.clone(),
            data: self.data.clone(),
            init_adapter: self.init_adapter.clone(),
            out,
            resume_from: None,
            device,
            memory_bytes_limit: None,
            memory_bytes_budget: None,
        })
    }

    /// Every file the run reads, in the order the run reads them.
    pub(crate) fn inputs(&self) -> Result<Vec<InputFile>, Failure> {
        let mut inputs = Vec::new();
        for path in model::files_of(&self.model)? {
            // The recipe's own template takes the place of the model's.
            if self.template.is_none() || !path.ends_with(TEMPLATE) {
                inputs.push(InputFile::new(InputRole::Model, path, None)?);
            }
        }
        if let Some(template) = &self.template {
            if self.model.is_file() {
                return Err(Failure::new(
                    "input",
                    format!(
                        "`chat_template_path` cannot travel with {}, which is one GGUF file",
                        self.model.display()
                    ),
                )
                .hint("train it here with `fleetune train`, or submit a model folder"));
            }
            inputs.push(InputFile::new(InputRole::Model, template.clone(), Some(TEMPLATE.into()))?);
        }
        let sets = self.data.sets.iter().enumerate().map(|(set, files)| (Some(set), files));
        let several = self.data.iter().count() > 1;
        for (set, files) in sets.chain([(None, &self.data.held_out)]) {
            for (i, path) in files.iter().enumerate() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let name = several.then(|| DataFiles::name_of(set, i, &name));
                inputs.push(InputFile::new(InputRole::Data, path.clone(), name)?);
            }
        }
        if let Some(folder) = &self.init_adapter {
            for name in ["adapter_config.json", "adapter_model.safetensors"] {
                inputs.push(InputFile::new(InputRole::Adapter, folder.join(name), None)?);
            }
        }
        Ok(inputs)
    }

    /// The job to submit, once its inputs are uploaded.
    pub(crate) fn job(&self, inputs: Vec<fleetune_shared::Input>) -> Result<JobSpec, Failure> {
        let mut recipe = self.recipe.clone();
        if self.template.is_some() {
            // It travels as the model's own, see `inputs`.
            let file = RecipeFile { chat_template_path: None, ..recipe.file().clone() };
            recipe = Recipe::try_from(file)?.fit_model(&self.spec)?;
        }
        let (name, priority) = (recipe.name.clone(), recipe.priority);
        let work = Work::Train { recipe: Box::new(recipe) };
        Ok(JobSpec {
            name,
            priority,
            user: own_user(),
            sweep: None,
            sweep_keys: BTreeMap::new(),
            estimates: JobSpec::estimates_of(&work, &self.spec),
            work,
            inputs,
            model: self.spec.clone(),
        })
    }
}

const TEMPLATE: &str = "chat_template.jinja";

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,"num_hidden_layers":2,
        "num_attention_heads":4,"vocab_size":512,"max_position_embeddings":512,"rms_norm_eps":1e-5}"#;

    /// A folder with a recipe, a model without weights worth reading, and rows in two places.
    fn laid_out(recipe: &str) -> (tempfile::TempDir, RecipeOnDisk) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("recipes/r.yaml", recipe);
        write("base/config.json", CONFIG);
        write("base/model.safetensors", "");
        write("base/chat_template.jinja", "own");
        write("a/rows.jsonl", "{}");
        write("b/rows.jsonl", "{}");
        write("mine.jinja", "mine");
        let disk = RecipeOnDisk::read(&folder.path().join("recipes/r.yaml")).unwrap();
        (folder, disk)
    }

    fn planned(recipe: &str) -> (tempfile::TempDir, Planned) {
        let (folder, disk) = laid_out(recipe);
        let recipe = disk.recipe().unwrap();
        let planned = Planned::new(&disk, recipe).unwrap();
        (folder, planned)
    }

    #[test]
    fn what_a_run_reads_is_found_beside_its_recipe_under_names_of_their_own() {
        let (_folder, planned) = planned(
            "model_name_or_path: ../base\ndataset_name: [../a/rows.jsonl, ../b/rows.jsonl]",
        );
        let inputs = planned.inputs().unwrap();
        let names: Vec<_> = inputs.iter().map(|i| (i.role, i.name.as_str().to_owned())).collect();
        let model = |n: &str| (InputRole::Model, n.to_owned());
        let data = |n: &str| (InputRole::Data, n.to_owned());
        assert_eq!(
            names,
            [
                model("config.json"),
                model("model.safetensors"),
                model("chat_template.jinja"),
                data("0/0/rows.jsonl"),
                data("1/0/rows.jsonl")
            ]
        );
    }

    #[test]
    fn a_template_of_ones_own_travels_in_place_of_the_models() {
        let (folder, planned) = planned(
            "model_name_or_path: ../base\ndataset_name: ../a/rows.jsonl\nchat_template_path: ../mine.jinja",
        );
        let inputs = planned.inputs().unwrap();
        let templates: Vec<_> =
            inputs.iter().filter(|i| i.name.as_str() == "chat_template.jinja").collect();
        assert_eq!(templates.len(), 1);
        assert!(templates[0].path.ends_with("mine.jinja"));
        let Work::Train { recipe } = planned.job(Vec::new()).unwrap().work else { panic!() };
        assert_eq!(recipe.data.chat_template_path, None);
        let order = planned.order(folder.path().join("out"), Device::Cpu).unwrap();
        assert!(order.recipe.data.chat_template_path.unwrap().ends_with("mine.jinja"));
    }

    #[test]
    fn a_missing_data_file_is_named_with_what_it_is_relative_to() {
        let (_folder, disk) = laid_out("model_name_or_path: ../base\ndataset_name: rows.jsonl");
        let recipe = disk.recipe().unwrap();
        let Failure::Error(report) = Planned::new(&disk, recipe).unwrap_err() else { panic!() };
        assert!(report.message.contains("rows.jsonl"), "{}", report.message);
        assert!(report.hint.unwrap().contains("relative to the recipe"));
    }
}
