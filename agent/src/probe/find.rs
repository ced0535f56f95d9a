//! Finds the GPU that an owner chose, or the MIG instance of one, and says what there is where it is not.

use fleetune_shared::ByteSize;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::ProbeError;
use crate::gpu_choice::GpuChoice;

/// What is lent, by names that survive another card's fall off the bus, which an index does not.
pub(super) struct Found {
    /// Of what is lent.
    pub(super) uuid: String,
    /// Of the GPU it is a part of; of a whole one the same.
    pub(super) whole_uuid: String,
}

pub(super) fn find(nvml: &Nvml, choice: &GpuChoice) -> Result<Found, ProbeError> {
    match choice {
        GpuChoice::Index(index) => whole(&by_index(nvml, *index)?, *index),
        GpuChoice::Instance { gpu, instance } => part(&by_index(nvml, *gpu)?, *gpu, *instance),
        GpuChoice::Uuid(uuid) => match nvml.device_by_uuid(uuid.as_str()) {
            Ok(device) if device.mig_is_mig_device_handle().unwrap_or(false) => {
                let whole_uuid = device.mig_parent_device()?.uuid()?;
                Ok(Found { uuid: device.uuid()?, whole_uuid })
            }
            Ok(device) => whole(&device, device.index()?),
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => {
                let (uuid, there) = (uuid.clone(), everything(nvml)?);
                Err(ProbeError::NoSuchUuid { uuid, there })
            }
            Err(error) => Err(error.into()),
        },
    }
}

fn by_index(nvml: &Nvml, index: u32) -> Result<Device<'_>, ProbeError> {
    let count = nvml.device_count()?;
    if index >= count {
        return Err(ProbeError::NoSuchGpu { index, count });
    }
    Ok(nvml.device_by_index(index)?)
}

fn whole(device: &Device<'_>, index: u32) -> Result<Found, ProbeError> {
    match instances(device)? {
        None => {
            let uuid = device.uuid()?;
            Ok(Found { whole_uuid: uuid.clone(), uuid })
        }
        Some(parts) if parts.is_empty() => Err(ProbeError::NotYetDivided { index }),
        Some(parts) => Err(ProbeError::Divided { index, parts: described(index, &parts)? }),
    }
}

fn part(device: &Device<'_>, index: u32, instance: u32) -> Result<Found, ProbeError> {
    let Some(parts) = instances(device)? else {
        return Err(ProbeError::Undivided { index, instance });
    };
    match parts.iter().find(|(number, _)| *number == instance) {
        Some((_, part)) => Ok(Found { uuid: part.uuid()?, whole_uuid: device.uuid()? }),
        None if parts.is_empty() => Err(ProbeError::NotYetDivided { index }),
        None => {
            let parts = described(index, &parts)?;
            Err(ProbeError::NoSuchInstance { index, instance, parts })
        }
    }
}

/// The MIG instances of a GPU with their numbers; `None` where it is not divided.
fn instances<'nvml>(
    device: &Device<'nvml>,
) -> Result<Option<Vec<(u32, Device<'nvml>)>>, NvmlError> {
    // Cards that cannot be divided answer with an error.
    if device.mig_mode().map_or(true, |mode| mode.current == 0) {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for number in 0..device.mig_device_count()? {
        match device.mig_device_by_index(number) {
            Ok(part) => parts.push((number, part)),
            // Numbers may be vacant.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(parts))
}

/// Instances as `--gpu` takes them, with what each of them is.
fn described(index: u32, parts: &[(u32, Device<'_>)]) -> Result<String, NvmlError> {
    let describe = |(number, part): &(u32, Device<'_>)| {
        let size = ByteSize(part.memory_info()?.total);
        Ok(format!("{index}:{number} ({}, {size})", part.name()?))
    };
    Ok(parts.iter().map(describe).collect::<Result<Vec<_>, NvmlError>>()?.join(", "))
}

/// All that can be lent here, as `--gpu` takes it; what does not answer is left out.
fn everything(nvml: &Nvml) -> Result<String, NvmlError> {
    let mut there = Vec::new();
    for index in 0..nvml.device_count()? {
        let Ok(device) = nvml.device_by_index(index) else { continue };
        let mut add = |number: String, device: &Device<'_>| {
            there.extend(device.uuid().map(|uuid| format!("{number} ({uuid})")));
        };
        match instances(&device) {
            Ok(Some(parts)) => {
                parts.iter().for_each(|(number, part)| add(format!("{index}:{number}"), part));
            }
            _ => add(index.to_string(), &device),
        }
    }
    Ok(there.join(", "))
}
