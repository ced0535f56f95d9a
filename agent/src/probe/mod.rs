//! What card this agent lends: asked from the driver, or declared by its owner.
//!
//! ```text
//!   --vram given ──────────────▶ Declared      placement honours the size, the trainer is held to it
//!   a driver answers ──────────▶ Nvml          size and foreign use from the driver
//!   neither ───────────────────▶ one clear line
//! ```
//!
//! The session (`crate::session`) asks for a fresh [`Offer`] with every heartbeat.

mod nvml;

use std::collections::BTreeSet;
use std::ffi::OsStr;

use fleetune_shared::{ByteSize, Card, Device, Offer};
use nvml_wrapper::error::NvmlError;
use thiserror::Error;
use tracing::{info, warn};

use crate::settings::{CardSettings, DeviceChoice};
use nvml::Gpu;

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
    /// Built for the CPU only.
    #[error(
        "--device cuda: trainers of this version compute on the CPU only, however it was built (docs/cuda.md); \
         use --device cpu"
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
        let gpu = Gpu::open(library, settings.gpu)?;
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

    /// The driver's name for the GPU, if a trainer is to compute on it.
    pub fn gpu_uuid(&self) -> Option<&str> {
        let gpu = self.gpu.as_ref().filter(|_| self.card.device == Device::Cuda)?;
        Some(gpu.uuid())
    }

    /// The card and what others hold on it now; `trainers` are the processes that are ours. A card that does not
    /// answer is offered with nothing open on it.
    pub fn offer(&mut self, trainers: &BTreeSet<u32>) -> Offer {
        let foreign = match &self.gpu {
            None => ByteSize(0),
            Some(gpu) => {
                // A trainer on the CPU holds nothing on the card.
                let none = BTreeSet::new();
                let trainers = if self.card.device == Device::Cuda { trainers } else { &none };
                match gpu.usage(trainers) {
                    Ok(usage) => {
                        if self.lost {
                            info!("card {} answers again", self.card.name);
                        }
                        self.lost = false;
                        let foreign = match usage.ours {
                            Some(ours) => ByteSize(usage.held.0.saturating_sub(ours.0)),
                            None => self.quiet,
                        };
                        if trainers.is_empty() {
                            self.quiet = foreign;
                        }
                        foreign
                    }
                    Err(error) => {
                        if !self.lost {
                            warn!(
                                "card {} does not answer: {error}; nothing is lent",
                                self.card.name
                            );
                        }
                        self.lost = true;
                        self.card.vram_bytes_total
                    }
                }
            }
        };
        Offer {
            vram_bytes_foreign: foreign,
            max_jobs_per_card: self.max_jobs,
            labels: self.labels.clone(),
            ..Offer::of(self.card.clone())
        }
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
        let process = |pid, used| ProcessAnswer { pid, used };
        let folder = tempfile::tempdir().unwrap();
        let stub = Stub::install(folder.path(), &card(100, vec![process(1, Some(100))])).unwrap();
        let library = fleetune_stub_nvml::library().unwrap();
        let settings = CardSettings::default();
        let mut probe = Probe::driven(&settings, Device::Cuda, Some(library.as_os_str())).unwrap();
        let mut foreign = |trainers: &[u32]| {
            probe.offer(&trainers.iter().copied().collect()).vram_bytes_foreign.0
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
    }
}
