//! From a start to an order: inputs and checkpoint fetched, paths filled in.

use std::path::{Path, PathBuf};

use fleetune_proto::client::{Peer, Supply};
use fleetune_shared::{
    Artifact, ArtifactFile, ArtifactKind, BlobHash, ByteSize, DataFiles, Device, InputRole,
    JobSpec, MergeOnto, MergeOrder, Source, TrainOrder, Work,
};

use super::Desk;
use super::workspace::Workspace;
use crate::cache::{Cache, CacheError};
use crate::order::{Order, OrderedWork};

/// What the coordinator asks for.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) spec: JobSpec,
    pub(crate) checkpoint: Option<Artifact>,
    pub(crate) vram_bytes_limit: ByteSize,
    /// What its own estimate may come to, if that is not the limit.
    pub(crate) vram_bytes_budget: Option<ByteSize>,
    /// Other agents that have some of the inputs.
    pub(crate) sources: Vec<Source>,
}

/// Smaller files are fetched without a word.
const TOLD_BYTES_MIN: u64 = 1 << 20;

impl Start {
    /// What the job leaves behind.
    pub(super) fn result_kind(&self) -> ArtifactKind {
        match &self.spec.work {
            Work::Train { recipe } if recipe.method.makes_adapter() => ArtifactKind::Adapter,
            Work::Train { .. } | Work::Merge(_) => ArtifactKind::Model,
        }
    }

    /// Who has a blob beside the coordinator.
    fn supply(&self, blob: BlobHash) -> Supply {
        let having = self.sources.iter().filter(|source| source.blobs.contains(&blob));
        let peer = |source: &Source| Peer {
            name: source.agent.to_string(),
            address: source.address.clone(),
        };
        Supply::of(having.map(peer).collect())
    }
}

/// Fetches what the job reads and writes its order; returns the order's path.
pub(super) async fn fetch(
    start: &Start,
    workspace: &Workspace,
    cache: &Cache,
    desk: &Desk,
    device: Device,
) -> Result<PathBuf, String> {
    let io = |error: std::io::Error| format!("{}: {error}", workspace.root().display());
    workspace.create().map_err(io)?;
    for input in &start.spec.inputs {
        let folder = workspace.path(folder_of(input.role));
        let supply = start.supply(input.file.blob);
        place(&input.file, &folder, cache, desk, Keep::Yes(supply)).await?;
    }
    for file in start.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files) {
        place(file, &workspace.path("checkpoint"), cache, desk, Keep::No).await?;
    }
    let inputs = start.spec.inputs.len();
    let bytes: u64 = start.spec.inputs.iter().map(|input| input.file.bytes.0).sum();
    if bytes >= TOLD_BYTES_MIN {
        desk.log(format!("{inputs} input files in place, {}", ByteSize(bytes))).await;
    }

    let order = Order {
        agent_pid: std::process::id(),
        memory_bytes_limit: start.vram_bytes_limit,
        work: work(start, workspace, cache, device),
    };
    let path = workspace.path("order.json");
    let text = serde_json::to_vec_pretty(&order).map_err(|error| format!("order: {error}"))?;
    std::fs::write(&path, text).map_err(io)?;
    Ok(path)
}

/// Whether later jobs find it in the cache; others can have only what is kept.
enum Keep {
    Yes(Supply),
    No,
}

async fn place(
    file: &ArtifactFile,
    folder: &Path,
    cache: &Cache,
    desk: &Desk,
    keep: Keep,
) -> Result<(), String> {
    let (kept, mut supply) = match keep {
        Keep::Yes(supply) => (true, supply),
        Keep::No => (false, Supply::default()),
    };
    let placed = loop {
        let placed = if kept {
            cache.place(file, folder, &mut supply).await
        } else {
            cache.pass(file, folder, &mut supply).await
        };
        match placed {
            Err(CacheError::Client { source, .. }) if desk.again_after(&source).await => {}
            placed => break placed.map_err(|error| error.to_string()),
        }
    };
    for failure in &supply.failures {
        desk.log(format!("{}: {failure}", file.name)).await;
    }
    if file.bytes.0 >= TOLD_BYTES_MIN && !supply.is_empty() {
        desk.log(format!("{}: {supply}", file.name)).await;
    }
    placed
}

fn folder_of(role: InputRole) -> &'static str {
    match role {
        InputRole::Model => "model",
        InputRole::Data => "data",
        InputRole::Adapter => "adapter",
    }
}

fn work(start: &Start, workspace: &Workspace, cache: &Cache, device: Device) -> OrderedWork {
    let names = |role| {
        let inputs = start.spec.inputs.iter().filter(move |input| input.role == role);
        inputs.map(|input| input.file.name.as_str())
    };
    let mut model = workspace.path(folder_of(InputRole::Model));
    let mut files = names(InputRole::Model);
    // A GGUF file is a whole model.
    if let (Some(name), None) = (files.next(), files.next())
        && name.ends_with(".gguf")
    {
        model.push(name);
    }
    let adapter = workspace.path(folder_of(InputRole::Adapter));
    let mut data = DataFiles { cache: Some(cache.tokens()), ..DataFiles::default() };
    for name in names(InputRole::Data) {
        data.place(name, workspace.path(folder_of(InputRole::Data)).join(name));
    }
    match &start.spec.work {
        Work::Train { recipe } => OrderedWork::Train(Box::new(TrainOrder {
            recipe: (**recipe).clone(),
            model,
            data,
            init_adapter: names(InputRole::Adapter).next().map(|_| adapter),
            out: workspace.out(),
            resume_from: start.checkpoint.as_ref().map(|_| workspace.path("checkpoint")),
            device,
            memory_bytes_limit: Some(start.vram_bytes_limit),
            memory_bytes_budget: start.vram_bytes_budget,
        })),
        Work::Merge(_) => OrderedWork::Merge(MergeOrder {
            model,
            adapter,
            out: workspace.out(),
            onto: MergeOnto::AsStored,
            // The job that trained it read the same base.
            other_base: false,
        }),
    }
}
