//! `fleetune selftest`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use fleetune_engine::ops;
use fleetune_engine::selftest::{self, Report, Size};
use fleetune_shared::Device;
use fleetune_shared::recipe::Dtype;

use super::device::DeviceArg;
use crate::Failure;
use crate::context::Context;
use crate::output::Tested;

/// Holds every operation of this machine's arithmetic against its plain reference, on fixed numbers of the size of a
/// SmolLM2-135M block, and times it. Exit status 1 if one differs.
#[derive(Debug, Args)]
pub(crate) struct Selftest {
    /// What computes
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
    /// What activations are made of
    #[arg(long, default_value = "float32")]
    dtype: Activations,
    /// Which GPU, counted as nvidia-smi does
    #[arg(long, default_value_t = 0)]
    gpu: usize,
    /// Milliseconds to time each operation for
    #[arg(long, value_name = "MS", default_value_t = 200)]
    time: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Activations {
    /// f32
    Float32,
    /// bf16, as when weights are
    Bfloat16,
}

impl Selftest {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let activations = match self.dtype {
            Activations::Float32 => Dtype::Float32,
            Activations::Bfloat16 => Dtype::Bfloat16,
        };
        let open = |device| ops::open(device, self.gpu, activations).map(|opened| (device, opened));
        let (device, backend) = match self.device {
            DeviceArg::Cpu => open(Device::Cpu)?,
            DeviceArg::Cuda => open(Device::Cuda)?,
            DeviceArg::Auto => open(Device::Cuda).or_else(|_| open(Device::Cpu))?,
        };
        let each = Duration::from_millis(self.time);
        let reports = selftest::run(&*backend, &Size::smollm2(), each)?;
        context.output.show(&Tested { device, reports: &reports })?;
        match reports.iter().all(Report::passed) {
            true => Ok(()),
            false => Err(Failure::Status(ExitCode::FAILURE)),
        }
    }
}
