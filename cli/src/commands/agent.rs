//! `fleetune agent`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use fleetune_agent::{CardSettings, GpuChoice, Settings, ShareSettings};
use fleetune_shared::{AgentName, ByteSize};

use super::device::DeviceArg;
use super::owner::OwnerArgs;
use crate::Failure;
use crate::context::{Context, block_on, block_on_one_thread};
use crate::fleet::{asked_to_stop, data_folder, listen_to_log};
use crate::output::AgentList;

/// Lends this machine's card to a fleet until it is stopped: its GPU, or a declared card that the CPU stands for.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Agent {
    #[command(subcommand)]
    other: Option<Other>,
    /// The coordinator; --coordinator where absent
    #[arg(long, value_name = "ADDRESS")]
    join: Option<String>,
    #[command(flatten)]
    card: CardArgs,
    /// Hand cached models and data to other agents, listening here, such as 0.0.0.0:7071; whoever can reach it can fetch
    /// what it knows the hash of
    #[arg(long, value_name = "ADDRESS")]
    share: Option<SocketAddr>,
    /// What other agents are to dial, where that is not the address it listens on
    #[arg(long, value_name = "HOST:PORT", requires = "share", value_parser = host_and_port)]
    share_as: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Have an agent's jobs write checkpoints and leave at once, and give it none until it is resumed
    Pause {
        /// The agent's name
        name: AgentName,
    },
    /// Give a paused agent jobs again
    Resume {
        /// The agent's name
        name: AgentName,
    },
    /// Let an agent finish what it has and give it nothing new
    Drain {
        /// The agent's name
        name: AgentName,
        /// Give it new jobs again
        #[arg(long)]
        undo: bool,
    },
}

/// Which card is lent, and as whom.
#[derive(Debug, Args)]
pub(crate) struct CardArgs {
    /// A name, unique in the fleet; this machine's where absent
    #[arg(long)]
    name: Option<AgentName>,
    /// What computes
    #[arg(long, default_value = "auto")]
    device: DeviceArg,
    /// The size of a declared card, such as 10GiB; its jobs are held to it
    #[arg(long, value_name = "SIZE")]
    vram: Option<ByteSize>,
    /// The name of a declared card, such as "RTX 3080"; a known one brings its size
    #[arg(long, value_name = "NAME")]
    card: Option<String>,
    /// Which GPU, counted as nvidia-smi does; 0:1 is the MIG instance 1 of GPU 0, and the UUID of either will do
    #[arg(long, default_value_t, value_name = "N|N:M|UUID")]
    gpu: GpuChoice,
    /// Most jobs the card takes at once; one on a GPU where absent, as many as fit on a declared card
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    max_jobs_per_card: Option<u32>,
    /// A word that jobs can ask for in their recipe's `labels`; may be given several times
    #[arg(long = "label", value_name = "WORD", value_parser = label)]
    labels: Vec<String>,
    /// The most that models and data kept for later jobs may take, such as 100GiB; half of what the disk has to spare
    /// where absent
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<ByteSize>,
    /// Where the agent keeps models, data and running jobs
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// What is started as `PROGRAM trainer ORDER` for every attempt; this program where absent
    #[arg(long, value_name = "PROGRAM", hide = true)]
    trainer: Option<PathBuf>,
    #[command(flatten)]
    owner: OwnerArgs,
}

impl CardArgs {
    /// An agent's settings, with this program as the trainer unless told otherwise.
    pub(crate) fn settings(&self, join: &str) -> Result<Settings, Failure> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => own_name(),
        };
        let data_dir = match &self.data_dir {
            Some(folder) => folder.clone(),
            None => data_folder(&format!("agent-{name}"))?,
        };
        let vram = match (self.vram, &self.card) {
            (None, Some(card)) if self.device == DeviceArg::Cpu => {
                Some(super::estimate::known_card(card)?.vram_bytes_total)
            }
            (vram, _) => vram,
        };
        let mut settings = Settings::new(name, join.to_owned(), data_dir)
            .map_err(|error| Failure::new("io", format!("this program's own path: {error}")))?;
        settings.cache_bytes_max = self.cache_size;
        settings.program = self.trainer.clone().unwrap_or(settings.program);
        settings.card = CardSettings {
            device: self.device.into(),
            vram,
            name: self.card.clone(),
            gpu: self.gpu.clone(),
            max_jobs: self.max_jobs_per_card,
            labels: self.labels.iter().cloned().collect(),
        };
        settings.owner = self.owner.policy();
        Ok(settings)
    }
}

/// A label as recipes can name it.
fn label(text: &str) -> Result<String, String> {
    let trimmed = text.trim();
    let fits = (1..=63).contains(&trimmed.chars().count());
    if fits && !trimmed.chars().any(char::is_control) {
        Ok(trimmed.to_owned())
    } else {
        Err("expected 1 to 63 printable characters".into())
    }
}

/// An address for others to dial.
fn host_and_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("expected HOST:PORT, such as desk-3:7071")?;
    let named = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    match port.parse::<u16>() {
        Ok(1..) if named && text.len() <= 200 => Ok(text.to_owned()),
        _ => Err("expected HOST:PORT, such as desk-3:7071".into()),
    }
}

/// This machine's name, as an agent may have it.
fn own_name() -> AgentName {
    let host = hostname::get().unwrap_or_default().to_string_lossy().into_owned();
    let fits = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let name: String = host.chars().filter(fits).take(63).collect();
    let fallback = || AgentName::try_from("agent".to_owned());
    AgentName::try_from(name).or_else(|_| fallback()).unwrap_or_else(|_| unreachable!())
}

impl Agent {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.other {
            Some(other) => block_on(async {
                let client = context.client()?;
                let agent = match other {
                    Other::Drain { name, undo } => client.drain(&name, !undo).await?,
                    Other::Pause { name } => client.pause(&name, true).await?,
                    Other::Resume { name } => client.pause(&name, false).await?,
                };
                context.output.show(&AgentList::new(&[agent]))
            }),
            None => {
                listen_to_log("info");
                let join = self.join.as_deref().unwrap_or(&context.coordinator);
                let mut settings = self.card.settings(join)?;
                settings.share =
                    self.share.map(|listen| ShareSettings { listen, dialled: self.share_as });
                block_on_one_thread(async {
                    Box::pin(fleetune_agent::run(settings, asked_to_stop())).await.map_err(failed)
                })
            }
        }
    }
}

/// An agent's own error, as it is shown.
pub(super) fn failed(error: fleetune_agent::AgentError) -> Failure {
    Failure::new("agent", error.to_string())
}
