//! Adapters: those the fleet keeps, and one of them in full.

use fleetune_shared::peft::{Lint, Reader};
use fleetune_shared::recipe::{PeftType, TargetModules};
use fleetune_shared::view::JobView;
use fleetune_shared::{AdapterConfig, ArtifactKind, ByteSize, Lineage};
use serde_json::{Value, json};

use super::{Colour, Show, Style, Table, iso, jobs, plain_line, shortened};

/// What the fleet keeps: results of jobs that succeeded.
pub(crate) struct AdapterList<'a>(pub(crate) &'a [JobView]);

fn kind(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Checkpoint => "checkpoint",
        ArtifactKind::Adapter => "adapter",
        ArtifactKind::Model => "model",
    }
}

impl Show for AdapterList<'_> {
    fn table(&self, style: Style) -> String {
        let columns =
            ["job", "name", "kind", "?>steps", ">loss", ">size", "?base", "?data", "?ended"];
        let mut table = Table::new(style, &columns);
        for job in self.0 {
            let Some(artifact) = &job.artifact else { continue };
            let short = |hashes: Option<&Vec<_>>| {
                hashes
                    .and_then(|h: &Vec<fleetune_shared::BlobHash>| h.first())
                    .map_or_else(|| "–".into(), fleetune_shared::BlobHash::short)
            };
            table.row([
                job.id.to_string().into(),
                shortened(&plain_line(&job.name), 28).into(),
                kind(artifact.kind).into(),
                artifact.step.to_string().into(),
                jobs::number(jobs::loss(job), 4).into(),
                artifact.bytes().to_string().into(),
                short(job.lineage.as_ref().map(|l| &l.base)).into(),
                short(job.lineage.as_ref().map(|l| &l.data)).into(),
                job.ended_ms.map_or_else(String::new, iso).into(),
            ]);
        }
        table.text("no adapters yet; a job that succeeds leaves one")
    }

    fn json(&self) -> Value {
        let one = |job: &JobView| {
            json!({
                "job": job.id,
                "name": job.name,
                "artifact": job.artifact,
                "bytes": job.artifact.as_ref().map(|a| a.bytes()),
                "loss": jobs::loss(job),
                "lineage": job.lineage,
                "ended": job.ended_ms.map(iso),
            })
        };
        self.0.iter().map(one).collect()
    }

    fn quiet(&self) -> String {
        self.0.iter().map(|job| job.id.to_string()).collect::<Vec<_>>().join("\n")
    }
}

fn kind_of(config: &AdapterConfig) -> String {
    let AdapterConfig { r, lora_alpha, .. } = config;
    if config.peft_type == PeftType::Ia3 {
        return "IA³".into();
    }
    let divisor = if config.use_rslora { (*r as f64).sqrt() } else { *r as f64 };
    let kind = match (config.use_dora, config.use_rslora) {
        (true, _) => "DoRA",
        (false, true) => "rsLoRA",
        (false, false) => "LoRA",
    };
    format!("{kind}, rank {r}, alpha {lora_alpha}, scaling {:.3}", lora_alpha / divisor)
}

/// One adapter in full.
pub(crate) struct AdapterCard {
    pub(crate) title: String,
    pub(crate) config: AdapterConfig,
    pub(crate) bytes: ByteSize,
    pub(crate) lineage: Option<Lineage>,
    /// What other programs will say to it.
    pub(crate) lints: Vec<Lint>,
}

impl Show for AdapterCard {
    fn table(&self, style: Style) -> String {
        let config = &self.config;
        let modules = match &config.target_modules {
            TargetModules::Names(names) => names.join(", "),
            TargetModules::Word(word) => word.clone(),
        };
        let mut lines = vec![style.paint(Colour::Strong, &plain_line(&self.title))];
        let mut line = |name: &str, text: String| {
            lines.push(format!("  {} {text}", style.paint(Colour::Quiet, &format!("{name:<12}"))));
        };
        line("kind", kind_of(config));
        line("modules", plain_line(&modules));
        line("base", plain_line(config.base_model_name_or_path.as_deref().unwrap_or("not named")));
        line("size", self.bytes.to_string());
        if let Some(lineage) = &self.lineage {
            let list = |hashes: &[fleetune_shared::BlobHash]| {
                hashes.iter().map(fleetune_shared::BlobHash::short).collect::<Vec<_>>().join(" ")
            };
            line("made by", format!("job {}", lineage.job));
            line("recipe", lineage.recipe.short());
            line("base files", list(&lineage.base));
            line("data files", list(&lineage.data));
            let parents: Vec<String> = lineage.parents.iter().map(ToString::to_string).collect();
            if !parents.is_empty() {
                line("parents", format!("job {}", parents.join(", job ")));
            }
        }
        for reader in Reader::ALL {
            let said: Vec<&Lint> = self.lints.iter().filter(|lint| lint.reader == reader).collect();
            if said.is_empty() {
                line(reader.name(), "takes it as it is".into());
            }
            for lint in said {
                line(reader.name(), plain_line(&lint.message));
            }
        }
        lines.join("\n")
    }

    fn json(&self) -> Value {
        json!({
            "config": self.config.to_json(),
            "bytes": self.bytes,
            "lineage": self.lineage,
            "lints": self.lints,
        })
    }

    fn quiet(&self) -> String {
        self.title.clone()
    }
}
