//! How an agent is set up; the command line fills this in.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fleetune_shared::{AgentName, ByteSize};

use crate::gpu_choice::GpuChoice;
use crate::owner::OwnerPolicy;

/// What computes, as the owner chose it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The GPU if this build and machine can, the CPU otherwise.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU.
    Cuda,
}

/// Which card is lent.
#[derive(Clone, Debug, Default)]
pub struct CardSettings {
    /// What computes.
    pub device: DeviceChoice,
    /// The size of a declared card.
    pub vram: Option<ByteSize>,
    /// Its name, or another name for a real one.
    pub name: Option<String>,
    /// Which of the machine's GPUs, or which part of one.
    pub gpu: GpuChoice,
    /// Most jobs it takes at once; one on a GPU and any number on a declared card where absent.
    pub max_jobs: Option<u32>,
    /// Words for jobs to ask for.
    pub labels: BTreeSet<String>,
}

/// How other agents may fetch what this one keeps.
#[derive(Clone, Debug)]
pub struct ShareSettings {
    /// Where it listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// What others are to dial, as `HOST:PORT`, where that is not what it listens on.
    pub dialled: Option<String>,
}

/// An agent's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Unique in the fleet.
    pub name: AgentName,
    /// A coordinator, such as `http://10.0.0.1:7070`.
    pub join: String,
    /// Everything the agent keeps; one agent per folder.
    pub data_dir: PathBuf,
    /// The card.
    pub card: CardSettings,
    /// The most that models and data kept for later jobs may take; half of what the disk has to spare where absent.
    pub cache_bytes_max: Option<ByteSize>,
    /// Whether and where those are handed to other agents.
    pub share: Option<ShareSettings>,
    /// Who comes first on it.
    pub owner: OwnerPolicy,
    /// Started as `program trainer ORDER` for every attempt.
    pub program: PathBuf,
    /// A trainer that says nothing for so long hangs.
    pub silence_max: Duration,
    /// How long a trainer may take to write a checkpoint when it is asked to stop.
    pub stop_grace: Duration,
}

impl Settings {
    /// The usual values, with this very program as the trainer.
    ///
    /// # Errors
    /// The running program's path cannot be told.
    pub fn new(name: AgentName, join: String, data_dir: PathBuf) -> std::io::Result<Self> {
        Ok(Self {
            name,
            join,
            data_dir,
            card: CardSettings::default(),
            cache_bytes_max: None,
            share: None,
            owner: OwnerPolicy::default(),
            program: std::env::current_exe()?,
            silence_max: Duration::from_secs(15 * 60),
            stop_grace: Duration::from_secs(60),
        })
    }
}
