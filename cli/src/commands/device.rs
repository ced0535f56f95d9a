//! What computes, as flags say it.

use clap::ValueEnum;
use fleetune_agent::DeviceChoice;
use fleetune_engine::ops;
use fleetune_shared::Device;
use fleetune_shared::recipe::Dtype;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceArg {
    /// The GPU if there is one and this build can use it
    Auto,
    /// The CPU
    Cpu,
    /// The GPU
    Cuda,
}

impl From<DeviceArg> for DeviceChoice {
    fn from(device: DeviceArg) -> Self {
        match device {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Cpu => Self::Cpu,
            DeviceArg::Cuda => Self::Cuda,
        }
    }
}

impl DeviceArg {
    /// What a run of this process computes on.
    pub(crate) fn here(self) -> Device {
        match self {
            Self::Cpu => Device::Cpu,
            Self::Cuda => Device::Cuda,
            Self::Auto => {
                let card = ops::open(Device::Cuda, 0, Dtype::Float32);
                if card.is_ok() { Device::Cuda } else { Device::Cpu }
            }
        }
    }
}
