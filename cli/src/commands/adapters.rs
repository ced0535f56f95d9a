//! `fleetune adapters`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fleetune_proto::Client;
use fleetune_shared::peft::{Lint, Reader};
use fleetune_shared::{AdapterConfig, ArtifactKind, ByteSize};
use serde_json::{Value, json};

use super::combine::Combine;
use crate::Failure;
use crate::context::Context;
use crate::fleet::{Selector, pull, result_of};
use crate::output::{AdapterCard, AdapterList, Show, Style, plain_line};

/// Lists what the fleet keeps, fetches it, shows what is in it.
#[derive(Debug, Args)]
pub(crate) struct Adapters {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the results of jobs that succeeded
    List,
    /// Fetch a job's adapter or merged model; every file is verified by its hash
    Pull {
        /// A job: 7, last
        #[arg(value_name = "JOB")]
        job: Selector,
        /// The folder to put it into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Show an adapter's rank, modules, size and origin, and what PEFT, vLLM and llama.cpp will say to it
    Show {
        /// A job (7, last), or a folder with adapter_config.json
        #[arg(value_name = "JOB|DIR")]
        what: String,
    },
    /// Combine adapters of one base into one
    Combine(Combine),
}

const CONFIG: &str = "adapter_config.json";

impl Adapters {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.what.unwrap_or(What::List) {
            What::List => {
                let mut jobs = context.client()?.overview().await?.jobs;
                jobs.retain(|job| job.artifact.is_some());
                context.output.show(&AdapterList(&jobs))
            }
            What::Pull { job, out } => {
                let client = context.client()?;
                let id = job.resolve_one(&client).await?;
                let (job, artifact) = result_of(&client, id).await?;
                pull(&client, &artifact, &out, &context.output).await?;
                context.output.show(&Pulled {
                    title: format!("job {id} {}", plain_line(&job.name)),
                    out,
                    files: artifact.files.len(),
                    bytes: artifact.bytes(),
                })
            }
            What::Combine(combine) => combine.run(context),
            What::Show { what } => {
                let folder = Path::new(&what);
                let card = match what.parse::<Selector>() {
                    Ok(selector) if !folder.is_dir() => {
                        from_fleet(&context.client()?, selector).await?
                    }
                    _ => from_disk(folder)?,
                };
                context.output.show(&card)
            }
        }
    }
}

fn parse(place: &str, text: &str) -> Result<AdapterConfig, Failure> {
    AdapterConfig::read(text).map_err(|why| Failure::new("input", format!("{place}: {why}")))
}

fn from_disk(folder: &Path) -> Result<AdapterCard, Failure> {
    let path = folder.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::io(&path, &error)
            .hint("name a job such as 7, or a folder with adapter_config.json")
    })?;
    let weights = folder.join("adapter_model.safetensors");
    let bytes = std::fs::metadata(&weights).map_err(|error| Failure::io(&weights, &error))?.len();
    let config = parse(&path.display().to_string(), &text)?;
    let mut lints = config.lints();
    // What the tensors lack or have too much, PEFT stumbles over as we do.
    if let Err(error) = fleetune_engine::adapter::load(folder) {
        lints.insert(0, Lint { reader: Reader::Peft, message: error.to_string() });
    }
    Ok(AdapterCard {
        title: folder.display().to_string(),
        config,
        bytes: ByteSize(bytes),
        lineage: None,
        lints,
    })
}

async fn from_fleet(client: &Client, selector: Selector) -> Result<AdapterCard, Failure> {
    let id = selector.resolve_one(client).await?;
    let (job, artifact) = result_of(client, id).await?;
    if artifact.kind != ArtifactKind::Adapter {
        let message = format!("job {id} made a whole model, not an adapter");
        return Err(Failure::new("refused", message)
            .hint(format!("`fleetune adapters pull {id} --out DIR` fetches it")));
    }
    let Some(file) = artifact.files.iter().find(|file| file.name.as_str() == CONFIG) else {
        return Err(Failure::new("input", format!("job {id}: its adapter has no {CONFIG}")));
    };
    let folder = tempfile::tempdir().map_err(|error| Failure::io(Path::new("/tmp"), &error))?;
    let path = folder.path().join(CONFIG);
    client.download(file.blob, file.bytes, &path, |_, _| {}).await?;
    let text = std::fs::read_to_string(&path).map_err(|error| Failure::io(&path, &error))?;
    let config = parse(&format!("job {id}"), &text)?;
    Ok(AdapterCard {
        title: format!("job {id} {}", plain_line(&job.name)),
        lints: config.lints(),
        config,
        bytes: artifact.bytes(),
        lineage: job.lineage,
    })
}

/// What was fetched.
struct Pulled {
    title: String,
    out: PathBuf,
    files: usize,
    bytes: ByteSize,
}

impl Show for Pulled {
    fn table(&self, _style: Style) -> String {
        let (files, bytes, out) = (self.files, self.bytes, self.out.display());
        format!("{}: {files} files, {bytes}, verified, in {out}", self.title)
    }

    fn json(&self) -> Value {
        json!({"path": self.out, "files": self.files, "bytes": self.bytes})
    }

    fn quiet(&self) -> String {
        self.out.display().to_string()
    }
}
