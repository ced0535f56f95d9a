//! The driver's own account of a GPU, through NVIDIA's management library, loaded at run time.
//!
//! A MIG instance answers for its memory and processes, the GPU it is a part of for what both share: heat, power,
//! errors. With [`super::find`] and [`super::xid`] the only place that knows `nvml-wrapper`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use fleetune_shared::{ByteSize, Telemetry, Throttle};
use nix::unistd::{Pid, getpgid};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use tracing::info;

use super::ProbeError;
use super::find::{Found, find};
use super::sight::{Sight, Stranger, plain};
use super::xid::Xids;
use crate::gpu_choice::GpuChoice;

/// What is loaded unless told otherwise.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Room for the path of a program.
const NAME_BYTES_MAX: usize = 1024;

/// One GPU, or a MIG instance of one, as its driver knows it.
#[derive(Debug)]
pub(super) struct Gpu {
    nvml: Arc<Nvml>,
    /// Of what is lent.
    uuid: String,
    /// Of the GPU it is a part of; of a whole one the same.
    whole_uuid: String,
    xids: Xids,
    /// Until when, by the driver's clock, processes' use of the GPU has been asked for.
    sampled_us: u64,
    /// Whether it was said that the driver tells nothing of processes.
    silent: bool,
}

/// What a GPU is: fixed as long as it is there.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) vram_bytes_total: ByteSize,
    pub(super) compute_capability: (u32, u32),
}

/// Memory in use on a GPU at one moment, and what else there is to see.
pub(super) struct Usage {
    /// Everything that is not free, the driver's own share included.
    pub(super) held: ByteSize,
    /// What of it our trainers hold; `None` where the driver does not tell for one of them.
    pub(super) ours: Option<ByteSize>,
    /// All but the memory that is not ours.
    pub(super) sight: Sight,
}

impl Gpu {
    /// Loads the library and finds what was chosen.
    pub(super) fn open(library: Option<&OsStr>, choice: &GpuChoice) -> Result<Self, ProbeError> {
        let library = library.unwrap_or_else(|| OsStr::new(LIBRARY));
        let nvml = Nvml::builder().lib_path(library).init().map_err(|error| {
            let why = match error {
                // The loader's own words begin with the library's name.
                NvmlError::LibloadingError(error) => error.to_string(),
                error => format!("{}: {error}", library.to_string_lossy()),
            };
            ProbeError::NoDriver { why }
        })?;
        let Found { uuid, whole_uuid } = find(&nvml, choice)?;
        let nvml = Arc::new(nvml);
        let xids = Xids::listen(&nvml, &whole_uuid);
        Ok(Self { nvml, uuid, whole_uuid, xids, sampled_us: 0, silent: false })
    }

    pub(super) fn uuid(&self) -> &str {
        &self.uuid
    }

    pub(super) fn identity(&self) -> Result<Identity, NvmlError> {
        let device = self.nvml.device_by_uuid(self.uuid.as_str())?;
        let whole = self.nvml.device_by_uuid(self.whole_uuid.as_str())?;
        let capability = whole.cuda_compute_capability()?;
        Ok(Identity {
            name: device.name()?,
            vram_bytes_total: ByteSize(device.memory_info()?.total),
            compute_capability: (capability.major.unsigned_abs(), capability.minor.unsigned_abs()),
        })
    }

    /// What is in use now, told apart by whether one of `trainers` holds it, with what each of `all` trainers holds. An
    /// error is a card that does not answer; what a driver merely cannot tell is left out.
    pub(super) fn usage(
        &mut self,
        trainers: &BTreeSet<u32>,
        all: &BTreeSet<u32>,
    ) -> Result<Usage, NvmlError> {
        let nvml = Arc::clone(&self.nvml);
        let device = nvml.device_by_uuid(self.uuid.as_str())?;
        let whole = nvml.device_by_uuid(self.whole_uuid.as_str())?;
        let memory = device.memory_info()?;
        let held = ByteSize(memory.total.saturating_sub(memory.free));
        let processes = self.told(processes(&device))?;
        let bytes = |pid: &u32| processes.as_ref()?.get(pid)?.map(|bytes| bytes.0);
        let ours = trainers.iter().map(bytes).sum::<Option<u64>>().map(ByteSize);
        let strange = |pid: u32| is_strange(pid, trainers);
        let strangers = processes.iter().flatten().filter(|(pid, _)| strange(**pid));
        let strangers = strangers.map(|(pid, vram_bytes)| Stranger {
            pid: *pid,
            name: self.name(*pid),
            vram_bytes: *vram_bytes,
        });
        let strangers: Vec<Stranger> = strangers.collect();
        let sight = Sight {
            vram_bytes_foreign: None,
            trainers: held_by(all, processes.iter().flatten()),
            tells_strangers: processes.is_some()
                && strangers.iter().all(|stranger| stranger.vram_bytes.is_some()),
            strangers,
            load_percent: self.load(&device, trainers),
            telemetry: Some(telemetry(&device, &whole)),
            celsius_slowdown: whole.temperature_threshold(TemperatureThreshold::Slowdown).ok(),
            xid: self.xids.last(),
        };
        Ok(Usage { held, ours, sight })
    }

    /// Of what a driver may refuse to tell, what it told; refusals are said once.
    fn told<T>(&mut self, answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
        match answer {
            Ok(told) => Ok(Some(told)),
            Err(
                error @ (NvmlError::NoPermission
                | NvmlError::NotSupported
                | NvmlError::FailedToLoadSymbol(_)),
            ) => {
                if !self.silent {
                    info!("the driver does not tell whose memory is whose: {error}");
                }
                self.silent = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A process's name: the kernel's, or the driver's where the process is in another number space.
    fn name(&self, pid: u32) -> Option<String> {
        let kernels = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        let drivers = || {
            let path = self.nvml.sys_process_name(pid, NAME_BYTES_MAX).ok()?;
            Some(Path::new(&path).file_name()?.to_string_lossy().into_owned())
        };
        plain(&kernels.or_else(drivers)?)
    }

    /// Part of its time that the GPU computes for others; of MIG instances drivers do not tell.
    fn load(&mut self, device: &Device<'_>, trainers: &BTreeSet<u32>) -> Option<u32> {
        if trainers.is_empty() {
            return device.utilization_rates().ok().map(|rates| rates.gpu);
        }
        let samples = match device.process_utilization_stats(self.sampled_us) {
            Ok(samples) => samples,
            // Nobody has used it since.
            Err(NvmlError::NotFound) => return Some(0),
            Err(_) => return None,
        };
        self.sampled_us = samples.iter().map(|s| s.timestamp).max().unwrap_or(self.sampled_us);
        let strangers = samples.iter().filter(|sample| is_strange(sample.pid, trainers));
        // One process may have been sampled several times.
        let mut newest: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
        for sample in strangers {
            let known = newest.entry(sample.pid).or_default();
            *known = (*known).max((sample.timestamp, sample.sm_util));
        }
        Some(newest.values().map(|(_, percent)| percent).sum::<u32>().min(100))
    }
}

/// What the GPU is doing: of what is lent its load, of the whole the rest.
fn telemetry(device: &Device<'_>, whole: &Device<'_>) -> Telemetry {
    let reasons = whole.current_throttle_reasons().unwrap_or(ThrottleReasons::NONE);
    let heat = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    let clocks = ThrottleReasons::APPLICATIONS_CLOCKS_SETTING;
    let throttles = [
        (ThrottleReasons::SW_POWER_CAP, Throttle::Power),
        (heat, Throttle::Heat),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, Throttle::PowerBrake),
        (clocks, Throttle::Clocks),
    ];
    let throttled = throttles.into_iter().filter(|(bits, _)| reasons.intersects(*bits));
    Telemetry {
        utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
        celsius: whole.temperature(TemperatureSensor::Gpu).ok(),
        milliwatts: whole.power_usage().ok(),
        throttled: throttled.map(|(_, why)| why).collect(),
    }
}

/// Everybody on the card, computing or drawing, and what each holds where the driver tells.
fn processes(device: &Device<'_>) -> Result<BTreeMap<u32, Option<ByteSize>>, NvmlError> {
    let mut held = BTreeMap::new();
    let computing = device.running_compute_processes()?;
    let drawing = match device.running_graphics_processes() {
        // Nothing can be drawn on most MIG instances.
        Err(NvmlError::NotSupported) => Vec::new(),
        drawing => drawing?,
    };
    for process in computing.into_iter().chain(drawing) {
        let bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(ByteSize(bytes)),
            UsedGpuMemory::Unavailable => None,
        };
        // One that does both is in both lists, with the same memory.
        let known: &mut Option<ByteSize> = held.entry(process.pid).or_default();
        *known = (*known).max(bytes);
    }
    Ok(held)
}

/// What each trainer holds, with what it started itself: those are in its process group.
fn held_by<'a>(
    trainers: &BTreeSet<u32>,
    processes: impl Iterator<Item = (&'a u32, &'a Option<ByteSize>)>,
) -> BTreeMap<u32, ByteSize> {
    let mut held = BTreeMap::new();
    for (pid, bytes) in processes {
        let leads = || trainers.contains(pid).then_some(*pid);
        let led = || group_of(*pid).filter(|group| trainers.contains(group));
        if let (Some(bytes), Some(trainer)) = (bytes, leads().or_else(led)) {
            held.entry(trainer).or_insert(ByteSize(0)).0 += bytes.0;
        }
    }
    held
}

/// The process group of a process, if it is there.
fn group_of(pid: u32) -> Option<u32> {
    let group = getpgid(Some(Pid::from_raw(i32::try_from(pid).ok()?))).ok()?;
    u32::try_from(group.as_raw()).ok()
}

/// Whether a process is somebody else's. While trainers of ours are on the card, one whose number nobody has here may
/// be one of them in another number space, a container's.
fn is_strange(pid: u32, trainers: &BTreeSet<u32>) -> bool {
    let exists = || Path::new(&format!("/proc/{pid}")).exists();
    !trainers.contains(&pid) && (trainers.is_empty() || exists())
}
