//! The driver's own account of a GPU, through NVIDIA's management library, loaded at run time.
//!
//! The only place that knows `nvml-wrapper`.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use fleetune_shared::ByteSize;
use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

use super::ProbeError;

/// What is loaded unless told otherwise.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// One GPU, as its driver knows it.
#[derive(Debug)]
pub(super) struct Gpu {
    nvml: Nvml,
    /// Survives another card's fall off the bus, which an index does not.
    uuid: String,
}

/// What a GPU is: fixed as long as it is there.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) vram_bytes_total: ByteSize,
    pub(super) compute_capability: (u32, u32),
}

/// Memory in use on a GPU at one moment.
pub(super) struct Usage {
    /// Everything that is not free, the driver's own share included.
    pub(super) held: ByteSize,
    /// What of it our trainers hold; `None` where the driver does not tell for one of them.
    pub(super) ours: Option<ByteSize>,
}

impl Gpu {
    /// Loads the library and finds the GPU with this index.
    pub(super) fn open(library: Option<&OsStr>, index: u32) -> Result<Self, ProbeError> {
        let library = library.unwrap_or_else(|| OsStr::new(LIBRARY));
        let nvml = Nvml::builder().lib_path(library).init().map_err(|error| {
            let why = match error {
                // The loader's own words begin with the library's name.
                NvmlError::LibloadingError(error) => error.to_string(),
                error => format!("{}: {error}", library.to_string_lossy()),
            };
            ProbeError::NoDriver { why }
        })?;
        let count = nvml.device_count()?;
        if index >= count {
            return Err(ProbeError::NoSuchGpu { index, count });
        }
        let uuid = nvml.device_by_index(index)?.uuid()?;
        Ok(Self { nvml, uuid })
    }

    pub(super) fn uuid(&self) -> &str {
        &self.uuid
    }

    pub(super) fn identity(&self) -> Result<Identity, NvmlError> {
        let device = self.nvml.device_by_uuid(self.uuid.as_str())?;
        let capability = device.cuda_compute_capability()?;
        Ok(Identity {
            name: device.name()?,
            vram_bytes_total: ByteSize(device.memory_info()?.total),
            compute_capability: (capability.major.unsigned_abs(), capability.minor.unsigned_abs()),
        })
    }

    /// Memory in use now, told apart by whether one of `trainers` holds it.
    pub(super) fn usage(&self, trainers: &BTreeSet<u32>) -> Result<Usage, NvmlError> {
        let device = self.nvml.device_by_uuid(self.uuid.as_str())?;
        let memory = device.memory_info()?;
        let held = ByteSize(memory.total.saturating_sub(memory.free));
        if trainers.is_empty() {
            return Ok(Usage { held, ours: Some(ByteSize(0)) });
        }
        let processes = device.running_compute_processes()?;
        let used = |pid: u32| {
            processes.iter().find(|process| process.pid == pid).and_then(|process| {
                match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(bytes),
                    UsedGpuMemory::Unavailable => None,
                }
            })
        };
        let ours = trainers.iter().map(|pid| used(*pid)).sum::<Option<u64>>().map(ByteSize);
        Ok(Usage { held, ours })
    }
}
