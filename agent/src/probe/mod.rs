//! What card this agent lends: a GPU or a MIG instance of one, asked from the driver, or declared by its owner.
//!
//! ```text
//!   --vram given ──────────────▶ Declared      placement honours the size, the trainer is held to it
//!   a driver answers ──────────▶ Nvml          size and foreign use from the driver
//!   neither ───────────────────▶ one clear line
//! ```
//!
//! `crate::owner` looks again and again, and decides whether the card takes jobs.

mod find;
mod nvml;
mod sight;
mod xid;

use std::collections::BTreeSet;
use std::ffi::OsStr;

use fleetune_shared::{ByteSize, Card, Device, Offer};
use nvml_wrapper::error::NvmlError;
use thiserror::Error;
use tracing::{info, warn};

use crate::settings::{CardSettings, DeviceChoice};
use nvml::Gpu;
use sight::plain;
pub use sight::{Sight, Stranger};

/// Names the management library, for machines that keep it elsewhere.
pub const LIBRARY: &str = "FLEETUNE_NVML";

/// Why there is no card to lend.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// No driver, and nothing declared.
    #[error(
        "no NVIDIA driver here: {why}; install the driver, name its library in {LIBRARY}, \
         or declare a card: --device cpu --vram 10GiB --card \"RTX 3080\""
    )]
    NoDriver {
        /// What was looked for, and what the loader or the library said.
        why: String,
    },
    /// The driver has fewer GPUs.
    #[error("gpu {index}: the driver knows {count}, counted from 0; choose one with --gpu")]
    NoSuchGpu {
        /// Asked for.
        index: u32,
        /// There are.
        count: u32,
    },
    /// The driver has nothing of that name.
    #[error("--gpu {uuid}: the driver knows none of that name; it knows {there}")]
    NoSuchUuid {
        /// Asked for.
        uuid: String,
        /// There are.
        there: String,
    },
    /// The whole of a divided GPU.
    #[error(
        "gpu {index} is divided into MIG instances, and each of them takes an agent of its own; choose one with --gpu: \
         {parts}"
    )]
    Divided {
        /// Asked for.
        index: u32,
        /// It has.
        parts: String,
    },
    /// A GPU that can be divided and is not.
    #[error(
        "gpu {index} is in MIG mode and has no instances: make some (`nvidia-smi mig -i {index} -cgi PROFILES -C`), or \
         end that mode (`nvidia-smi -i {index} -mig 0`)"
    )]
    NotYetDivided {
        /// Asked for.
        index: u32,
    },
    /// A part of a whole GPU.
    #[error(
        "--gpu {index}:{instance}: gpu {index} is not divided into MIG instances; --gpu {index} lends it whole"
    )]
    Undivided {
        /// Asked for.
        index: u32,
        /// Of it.
        instance: u32,
    },
    /// The GPU has other instances.
    #[error(
        "--gpu {index}:{instance}: gpu {index} has no such MIG instance; choose one with --gpu: {parts}"
    )]
    NoSuchInstance {
        /// Asked for.
        index: u32,
        /// Of it.
        instance: u32,
        /// It has.
        parts: String,
    },
    /// Built for the CPU only.
    #[error(
        "--device cuda: this binary computes on the CPU only; build it with `cargo build --release --features cuda` \
         (docs/cuda.md), or use --device cpu"
    )]
    NoCuda,
    /// A size for a GPU that has its own.
    #[error(
        "--vram {0}: the driver knows the size of a GPU; leave --vram out, or use --device cpu"
    )]
    VramOfCuda(ByteSize),
    /// The driver's answer.
    #[error("the NVIDIA driver does not answer: {0}")]
    Nvml(#[from] NvmlError),
}

/// One look at the card.
#[derive(Clone, Debug)]
pub struct Look {
    /// The card and what others hold on it; open, for who comes first is not decided here. One that does not answer
    /// has nothing left to lend.
    pub offer: Offer,
    /// What there was to see, or what the driver said instead.
    pub sight: Result<Sight, String>,
}

/// Where the card's numbers come from.
#[derive(Debug)]
pub struct Probe {
    card: Card,
    max_jobs: Option<u32>,
    labels: BTreeSet<String>,
    gpu: Option<Gpu>,
    /// Use by others when no trainer of ours ran: the answer where the driver cannot tell whose memory is whose.
    quiet: ByteSize,
    /// So that a lost card is said once, not with every heartbeat.
    lost: bool,
}

impl Probe {
    /// Finds the card that `settings` describe.
    ///
    /// # Errors
    /// Nothing declared and no driver, or a choice this build or machine cannot serve.
    pub fn open(settings: &CardSettings) -> Result<Self, ProbeError> {
        let library = std::env::var_os(LIBRARY);
        Self::open_with(settings, library.as_deref())
    }

    /// As [`Probe::open`], with the management library at a path of the caller's.
    ///
    /// # Errors
    /// As [`Probe::open`].
    pub fn open_with(settings: &CardSettings, library: Option<&OsStr>) -> Result<Self, ProbeError> {
        let trains_on_cuda = fleetune_engine::train::trains_on(Device::Cuda);
        let device = match settings.device {
            DeviceChoice::Cuda if !trains_on_cuda => return Err(ProbeError::NoCuda),
            DeviceChoice::Cuda => Device::Cuda,
            DeviceChoice::Auto if trains_on_cuda && settings.vram.is_none() => Device::Cuda,
            DeviceChoice::Auto | DeviceChoice::Cpu => Device::Cpu,
        };
        match (device, settings.vram) {
            (Device::Cuda, Some(vram)) => Err(ProbeError::VramOfCuda(vram)),
            (Device::Cpu, Some(vram)) => Ok(Self::declared(settings, vram)),
            (_, None) => Self::driven(settings, device, library),
        }
    }

    fn declared(settings: &CardSettings, vram: ByteSize) -> Self {
        let name = settings.name.clone().unwrap_or_else(|| "declared".into());
        info!("card {name}, {vram}, as declared; computing on the CPU");
        let card =
            Card { name, vram_bytes_total: vram, compute_capability: None, device: Device::Cpu };
        Self::of(settings, card, None)
    }

    fn driven(
        settings: &CardSettings,
        device: Device,
        library: Option<&OsStr>,
    ) -> Result<Self, ProbeError> {
        let gpu = Gpu::open(library, &settings.gpu)?;
        let identity = gpu.identity()?;
        let name = settings.name.clone().unwrap_or(identity.name);
        let total = identity.vram_bytes_total;
        match device {
            Device::Cuda => info!("card {name}, {total}"),
            Device::Cpu => info!("card {name}, {total}, from the driver; computing on the CPU"),
        }
        let card = Card {
            name,
            vram_bytes_total: total,
            compute_capability: Some(identity.compute_capability),
            device,
        };
        Ok(Self::of(settings, card, Some(gpu)))
    }

    fn of(settings: &CardSettings, card: Card, gpu: Option<Gpu>) -> Self {
        let CardSettings { max_jobs, labels, .. } = settings.clone();
        Self { card, max_jobs, labels, gpu, quiet: ByteSize(0), lost: false }
    }

    /// What computes.
    pub fn device(&self) -> Device {
        self.card.device
    }

    /// The driver's name for the GPU or the part of it, if a trainer is to compute on it.
    pub fn gpu_uuid(&self) -> Option<&str> {
        let gpu = self.gpu.as_ref().filter(|_| self.card.device == Device::Cuda)?;
        Some(gpu.uuid())
    }

    /// Looks at the card; `trainers` are the processes that are ours.
    pub fn look(&mut self, trainers: &BTreeSet<u32>) -> Look {
        let sight = self.sight(trainers);
        if let (Err(error), false) = (&sight, self.lost) {
            warn!("card {} does not answer: {error}; nothing is lent", self.card.name);
        }
        if self.lost && sight.is_ok() {
            info!("card {} answers again", self.card.name);
        }
        self.lost = sight.is_err();
        let foreign = match &sight {
            Ok(sight) => sight.vram_bytes_foreign.unwrap_or(self.quiet),
            Err(_) => self.card.vram_bytes_total,
        };
        let offer = Offer {
            vram_bytes_foreign: foreign,
            max_jobs_per_card: self.max_jobs,
            labels: self.labels.clone(),
            ..Offer::of(self.card.clone())
        };
        Look { offer, sight }
    }

    fn sight(&mut self, trainers: &BTreeSet<u32>) -> Result<Sight, String> {
        let Some(gpu) = &mut self.gpu else { return Ok(Sight::default()) };
        let all = trainers;
        // A trainer on the CPU holds nothing on the card.
        let none = BTreeSet::new();
        let trainers = if self.card.device == Device::Cuda { trainers } else { &none };
        let usage = gpu.usage(trainers, all).map_err(|error| {
            plain(&error.to_string()).unwrap_or_else(|| "an error without words".into())
        })?;
        let foreign = usage.ours.map(|ours| ByteSize(usage.held.0.saturating_sub(ours.0)));
        if trainers.is_empty() {
            self.quiet = foreign.unwrap_or_default();
        }
        Ok(Sight { vram_bytes_foreign: foreign, ..usage.sight })
    }
}

#[cfg(test)]
mod tests {
    use fleetune_stub_nvml::{Answers, CardAnswer, ProcessAnswer, Stub};

    use super::*;

    #[test]
    fn a_trainer_is_no_stranger() {
        let card = |used, processes| {
            let uuid = "GPU-0".to_owned();
            let card = CardAnswer { uuid, total: 1000, used, processes, ..CardAnswer::default() };
            Answers { cards: vec![card], ..Answers::default() }
        };
        let process = |pid, used| ProcessAnswer { pid, used, ..ProcessAnswer::default() };
        let folder = tempfile::tempdir().unwrap();
        let stub = Stub::install(folder.path(), &card(100, vec![process(1, Some(100))])).unwrap();
        let library = fleetune_stub_nvml::library().unwrap();
        let settings = CardSettings::default();
        let mut probe = Probe::driven(&settings, Device::Cuda, Some(library.as_os_str())).unwrap();
        let mut foreign = |trainers: &[u32]| {
            probe.look(&trainers.iter().copied().collect()).offer.vram_bytes_foreign.0
        };
        assert_eq!(foreign(&[]), 100);

        let both = |ours| vec![process(1, Some(100)), process(2, ours)];
        stub.answer(&card(700, both(Some(600)))).unwrap();
        assert_eq!(foreign(&[2]), 100);

        // Another process number space (a container), or a driver that does not tell: what was there before.
        assert_eq!(foreign(&[3]), 100);
        stub.answer(&card(800, both(None))).unwrap();
        assert_eq!(foreign(&[2]), 100);

        // Ours has gone and left nothing behind; somebody else grew.
        stub.answer(&card(300, vec![process(1, Some(300))])).unwrap();
        assert_eq!(foreign(&[]), 300);

        // While ours runs, load is told by process, and a number that nobody has here may be ours in a container.
        let (here, nowhere) = (std::process::id(), 4_190_000);
        let busy = |pid, utilization| ProcessAnswer { utilization, ..process(pid, Some(100)) };
        stub.answer(&card(300, vec![busy(7, 60), busy(here, 30), busy(nowhere, 9)])).unwrap();
        let sight = probe.look(&[7].into()).sight.unwrap();
        let pids: Vec<u32> = sight.strangers.iter().map(|stranger| stranger.pid).collect();
        assert_eq!((pids, sight.load_percent), (vec![here], Some(30)));
        let sight = probe.look(&BTreeSet::new()).sight.unwrap();
        assert_eq!((sight.strangers.len(), sight.load_percent), (3, Some(0)));
        assert_eq!(probe.gpu_uuid(), Some("GPU-0"));

        // On a MIG instance that is all the trainer may see.
        let divided = Answers { cards: vec![CardAnswer::a100_divided()], ..Answers::default() };
        stub.answer(&divided).unwrap();
        let settings = CardSettings { gpu: "0:1".parse().unwrap(), ..settings };
        let probe = Probe::driven(&settings, Device::Cuda, Some(library.as_os_str())).unwrap();
        assert_eq!(probe.gpu_uuid(), Some("MIG-1"));
    }
}
